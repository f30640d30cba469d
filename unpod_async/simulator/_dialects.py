"""What stands in a task's `output`: one small builder for each form that was seen on the wire.

A builder gets a seeded generator and the conversation, and returns the keys in which its task
differs from the plain one (`status`, `output`, and whole keys for the odd forms). Text such as
`«hour»` is a blank that `_rows` fills in for each row; see `_rows.BLANKS`.
"""

from collections.abc import Callable
from random import Random
from typing import Any

Talk = list[tuple[str, str]]
"""Turns of (speaker, words); the speaker is `assistant` or `user`."""

Task = dict[str, Any]

NAMES = (
    "Asha Example",
    "Nila Example",
    "Dev Example",
    "Om Example",
    "José Example",
    "Meera Example",
    "आशा Example",
    "Łukasz Example",
    "李雷 Example",
    "Ravi Example",
)
LINES = (
    "Hello, is this a good time?",
    "Yes, please go ahead.",
    "Great, I will share the details by e-mail.",
    "Could you call me next week? 🙂",
    "I am not interested, thank you.",
    "नमस्ते, मैं सुन रहा हूँ।",
    "Line one\nline two",
    "\u2028odd separators\u2029",
    "The budget is about 45000 for the year, and we decide in March.",
    "Sorry, could you say that again? The line is not good here.",
)
VERDICTS = ("Interested", "Not Connected", "Abandoned", "Call Back", "Dropped")
LABELS = ("Urgent", "Hot lead", "Callback", "Interested")


def hexes(rng: Random, digits: int) -> str:
    return f"{rng.getrandbits(digits * 4):0{digits}x}"


def money(rng: Random) -> Any:
    return rng.choice((round(rng.random(), 4), rng.random(), 0, f"{rng.random():.2f}"))


def length(rng: Random) -> Any:
    seconds = rng.randrange(5, 1300)
    return rng.choice((seconds, seconds + 0.646, str(seconds)))


def _summary(rng: Random) -> Any:
    if rng.random() < 0.2:
        return "The user asked to be called later."
    return {
        "status": rng.choice(VERDICTS),
        "summary": "The agent introduced the offer. The user replied briefly.",
        "name": rng.choice(("N/A", "Ravi")),
        "contact": "N/A",
        "callback_datetime": rng.choice(("N/A", "«hour space»:59")),
        "hours_from_now": rng.choice(("N/A", "24")),
    }


def _follow_up(rng: Random) -> Any:
    due = {"required": "True", "time": "«hour space»:58:00"}
    return rng.choice(
        (
            {"required": False, "time": None, "reason": "not needed", "status": None},
            {**due, "reason": "user asked", "status": "call_scheduled"},
            {"required": "follow_up disabled"},
        )
    )


def _quality(rng: Random) -> dict[str, Any]:
    no_latency = dict.fromkeys(("avg", "min", "max", "p95"))
    return {
        "call_evaluation": {
            "session_id": hexes(rng, 24),
            "evaluation_results": [],
            "quality_metrics": {"overall_quality_score": round(rng.random(), 3)},
            "audio_file_path": None,
        },
        "profile_summary": rng.choice((None, "Prefers evening calls.")),
        "realtime_agent_evaluation": {
            "session_id": hexes(rng, 24),
            "agent_id": "unknown-agent",
            "llm_latency": {"count": 0, **no_latency, "unit": "seconds"},
            "status": "skipped",
            "reason": "No eval_records found in call data",
        },
    }


def _post_call(rng: Random) -> dict[str, Any]:
    labels = {"labels": rng.sample(LABELS, rng.randrange(1, 3))}
    text = rng.choice(('{"name": "\\u674e\\u96f7", "age": 41}', '{"name": "Ravi", "age": 41}'))
    return {
        "classification": rng.choice(({}, labels, '{"labels": ["Callback"]}')),
        "summary": _summary(rng),
        "success_evaluator": rng.choice((7, "8", "80%", "Good", "FCR", None)),
        "follow_up": _follow_up(rng),
        **_quality(rng),
        "structured_data": rng.choice((text, {}, None, {"name": "Łukasz", "budget": "45000"})),
    }


def unpod_list(rng: Random, talk: Talk) -> Task:
    """The transcript is a list with `user_id` and `timestamp`."""
    cost = money(rng)
    transcript = [
        {
            "role": role,
            "content": words,
            "user_id": None if role == "assistant" else f"PA_{hexes(rng, 12)}",
            "timestamp": f"«hour»:33:{second % 60:02d}.{rng.randrange(1000):03d}+00:00",
        }
        for second, (role, words) in enumerate(talk)
    ]
    output = {
        "call_id": f"{hexes(rng, 6)}«n12»",
        "customer": "«name»",
        "contact_number": "«phone»",
        "call_end_reason": None,
        "recording_url": f"https://recordings.example.com/{hexes(rng, 24)}.ogg",
        "transcript": transcript,
        "start_time": "«hour space»:33:03.101456",
        "end_time": f"«hour space»:{rng.randrange(34, 59)}:34.970422",
        "assistant_number": "",
        "call_summary": None,
        "duration": rng.randrange(5, 1300),
        "cost": cost,
        "post_call_data": _post_call(rng),
        "metadata": {"cost": cost, "type": "outbound", "usage": {}},
        "call_type": "outbound",
        "call_status": rng.choice(("connected", "busy", "voicemail", "completed")),
    }
    return {"status": "completed", "output": output}


def unpod_text(rng: Random, talk: Talk) -> Task:
    """The transcript is one text of `AI: …` and `User: …` lines."""
    cost = money(rng)
    speakers = {"assistant": "AI", "user": "User"}
    output = {
        "call_id": f"{hexes(rng, 8)}-7dbb-1bc2-9cf9-«n12»",
        "customer": "«name»",
        "contact_number": rng.choice(("«phone»", "«phone»", "«phone as a number»")),
        "call_end_reason": "customer-ended-call",
        "recording_url": f"https://storage.example.com/{hexes(rng, 8)}-«n12»-mono.wav",
        "transcript": "".join(f"{speakers[role]}: {words}\n" for role, words in talk),
        "start_time": "«hour space»:33:00",
        "end_time": f"«hour space»:{rng.randrange(34, 59)}:08",
        "assistant_number": "+15550100001",
        "call_summary": "The user confirmed the appointment.",
        "duration": length(rng),
        "cost": cost,
        "post_call_data": _post_call(rng),
        "call_type": "outboundPhoneCall",
        "metadata": {"cost": cost, "type": "outboundPhoneCall", "usage": {}},
    }
    return {"status": "completed", "output": output}


def unpod_roles(rng: Random, talk: Talk) -> Task:
    """The transcript is a list of `role` and `content` only, the times end in Z, no duration."""
    cost = money(rng)
    output = {
        "call_id": f"{hexes(rng, 8)}-5b17-7aab-8128-«n12»",
        "customer": "«name»",
        "contact_number": "«phone»",
        "call_end_reason": "assistant-ended-call",
        "recording_url": None,
        "transcript": [{"role": role, "content": words} for role, words in talk],
        "start_time": "«hour»:33:00.157Z",
        "end_time": f"«hour»:{rng.randrange(34, 59)}:43.795Z",
        "assistant_number": "+15550100002",
        "call_summary": "",
        "cost": cost,
        "call_type": "outbound",
        "call_status": rng.choice(("unknown", "not-connected", "connected")),
        "metadata": {"cost": cost, "type": "outboundPhoneCall"},
        "post_call_data": {
            **_post_call(rng),
            "redial": "call_scheduled_for_redial",
            "is_redial": True,
        },
    }
    return {"status": "completed", "output": output}


def vapi(rng: Random, talk: Talk) -> Task:
    """The other provider's camelCase report."""
    cost = round(rng.random(), 4)
    speakers = {"assistant": "Agent", "user": "Customer"}
    url = f"https://storage.example.com/{hexes(rng, 8)}-«n12»"
    parts = (("stt", 0.1), ("llm", 0.3), ("tts", 0.4), ("vapi", 0.2))
    costs = [{"type": kind, "cost": round(cost * share, 4)} for kind, share in parts]
    output = {
        "id": f"{hexes(rng, 8)}-f52e-40a0-93f6-«n12»",
        "assistantId": f"assistant-{hexes(rng, 8)}",
        "phoneNumberId": f"phone-{hexes(rng, 8)}",
        "type": "outboundPhoneCall",
        "startedAt": "«hour»:33:00.000Z",
        "endedAt": f"«hour»:{rng.randrange(34, 59)}:00.000Z",
        "transcript": "\n".join(f"{speakers[role]}: {words}" for role, words in talk),
        "recordingUrl": f"{url}.mp3",
        "stereoRecordingUrl": f"{url}-stereo.mp3",
        "summary": "Customer confirmed the appointment for tomorrow at 2 PM",
        "createdAt": "«hour»:33:00.000Z",
        "updatedAt": "«hour»:59:00.000Z",
        "orgId": "org-example",
        "cost": cost,
        "customer": {"number": "«phone»", "name": "«name»"},
        "status": "ended",
        "endedReason": "customer-ended-call",
        "messages": [
            {"role": role, "message": words, "time": 1767990780161 + at, "secondsFromStart": at}
            for at, (role, words) in enumerate(talk)
        ],
        "costBreakdown": {**{part["type"]: part["cost"] for part in costs}, "total": cost},
        "analysis": {"summary": "Confirmed.", "successEvaluation": "true"},
        "artifact": {"recordingUrl": f"{url}.mp3"},
        "costs": costs,
    }
    return {"status": "completed", "output": output}


def null_words(rng: Random, talk: Talk) -> Task:
    """A finished call whose blanks were stored as the words NULL and None."""
    task = unpod_text(rng, talk[:2])
    word = rng.choice(("NULL", "None"))
    gone = dict.fromkeys(("start_time", "end_time", "duration", "recording_url"), word)
    task["output"].update(gone, cost="0.45", post_call_data={})
    return task


def in_progress(rng: Random, _: Talk) -> Task:
    """The call is being made: the keys are there, nothing is in them yet."""
    unknown = ("call_end_reason", "recording_url", "transcript", "start_time", "end_time")
    output = {
        "call_id": f"{hexes(rng, 8)}-b3bb-482a-9d08-«n12»",
        "customer": "«name»",
        "contact_number": "«phone»",
        **dict.fromkeys((*unknown, "assistant_number", "call_summary")),
        "duration": 0,
        "cost": 0.0,
        "post_call_data": {},
        "call_type": "outboundPhoneCall",
        "metadata": {"cost": 0.0, "type": "outboundPhoneCall", "usage": {}},
    }
    return {"status": rng.choice(("in_progress", "processing")), "output": output}


def interim(_: Random, __: Talk) -> Task:
    """Completed, not evaluated: `post_call_data` comes later."""
    text = "call completed evaluated data will be available soon"
    return {"status": "completed", "output": {"call_status": "connected", "data": text}}


def error(rng: Random, _: Talk) -> Task:
    """Nothing but an error."""
    retried = {
        "error": "Task exceeded max retries (3)",
        "no_immediate_retry_reason": "customer_error_needs_special_handling",
        "call_end_reason": "customer-did-not-answer",
    }
    output = rng.choice(({"error": "No Contact Number Found"}, retried))
    return {"status": "failed", "output": output}


def empty(rng: Random, _: Talk) -> Task:
    """Not begun."""
    return {"status": rng.choice(("pending", "hold", "completed")), "output": {}}


def scheduled(_: Random, __: Talk) -> Task:
    """Waits for its time."""
    text = "Task scheduled for later execution"
    output = {"message": text, "scheduled_time": "«hour»:59:03.153456+00:00"}
    return {"status": "scheduled", "output": output}


def null(rng: Random, _: Talk) -> Task:
    """A stored row whose objects are all null."""
    gone = dict.fromkeys(("task", "input", "output", "attachments"))
    return {"status": rng.choice(("completed", "failed")), "execution_type": "email", **gone}


def inbound(rng: Random, _: Talk) -> Task:
    """A call that came in: nobody's, and full of empty texts."""
    blank = dict.fromkeys(("customer", "contact_number", "call_end_reason", "recording_url"), "")
    output = {
        "call_id": f"{hexes(rng, 8)}-9425-6a9c-57c4-«n12»",
        **blank,
        **dict.fromkeys(("transcript", "start_time", "end_time", "assistant_number")),
        "call_summary": "",
        "cost": 0,
        "call_type": "inbound",
    }
    return {
        "thread_id": "",
        "user": "",
        "user_org_id": None,
        "user_info": {},
        "collection_ref": "",
        "task": {"objective": "Inbound call"},
        "input": {
            "token": "«space token»",
            "vapi_agent_id": f"{hexes(rng, 8)}-ecc7-c617-b0b2-«n12»",
            "quality": "high",
            "call_type": "inbound",
        },
        "output": output,
        "ref_id": None,
        "status": "completed",
    }


DIALECTS: dict[str, tuple[Callable[[Random, Talk], Task], float]] = {
    "unpod-list": (unpod_list, 30),
    "unpod-text": (unpod_text, 22),
    "unpod-roles": (unpod_roles, 14),
    "vapi": (vapi, 10),
    "null-words": (null_words, 2),
    "in-progress": (in_progress, 5),
    "interim": (interim, 3),
    "error": (error, 5),
    "empty": (empty, 3),
    "scheduled": (scheduled, 2),
    "null": (null, 1),
    "inbound": (inbound, 3),
}
"""Every form by name: its builder, and how often it comes (relative to the others)."""
