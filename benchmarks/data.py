"""The data set: seeded rows shaped as the platform sends them, the same bytes every time.

100,000 tasks of 3 KB on average with a long tail, 10 % of them in the camelCase dialect with the
transcript as one text, 10 % with Hindi text. Neighbours in the list belong to one run. Nothing of
the library is used here, the simulator's rows neither: theirs are meant to be odd, these usual.
"""

from __future__ import annotations

import json
from array import array
from bisect import bisect
from functools import cache
from itertools import accumulate, pairwise
from math import exp, log
from random import Random
from typing import Any

SEED = 4
TASKS = 100_000
RUNS = 10_000
"""The runs of the fan-out: the first 10,000, which hold about 30,000 tasks."""

POOL = 2000  # conversations; any 2,000 rows in a row hold each of them once
STEP = 1237  # … in an order that mixes long and short ones
ID_DIGITS = 24

# Bytes of conversation by share of the rows; between two points they grow exponentially.
SIZES = ((0.0, 200), (0.5, 700), (0.9, 2350), (0.99, 9600), (0.999, 22000), (1.0, 65000))
RUN_SIZES = {1: 30, 2: 22, 3: 16, 4: 11, 5: 8, 6: 5, 7: 3, 8: 3, 12: 2}

LATIN = ("a e i o u ai ou", "b c d f g h j k l m n p r s t v w st tr sh th")
DEVANAGARI = ("ा ि ी ु ू े ो", "क ख ग च ज ट ड त द न प ब म य र ल व स ह")
WORDS = 4000  # of each script: enough that the text compresses about as well as talk does
NAMES = ("Asha Example", "Dev Example", "Meera Example", "Om Example", "Ravi Example")


class Rows:
    """Rows in one buffer, joined by commas, so that any window of them is one slice of it."""

    def __init__(self, rows: list[bytes]) -> None:
        self.starts = array("q", [0, *accumulate(len(row) + 1 for row in rows)])
        self.blob = b",".join(rows) + b","

    def __len__(self) -> int:
        return len(self.starts) - 1

    def window(self, first: int, last: int) -> memoryview:
        """Rows `first` to `last`, exclusive, without the comma behind them."""
        return memoryview(self.blob)[self.starts[first] : self.starts[last] - 1]


class Runs:
    """Which tasks belong to which run: those of run `i` are rows `starts[i]` to `starts[i + 1]`."""

    def __init__(self, tasks: int) -> None:
        rng = Random(f"{SEED}:runs")
        sizes = rng.choices(list(RUN_SIZES), list(RUN_SIZES.values()), k=tasks)
        self.starts = array("q", [0, *accumulate(sizes)])

    def of(self, task: int) -> int:
        return bisect(self.starts, task) - 1


def run_id(number: int) -> str:
    return f"R{number:06d}b110d1b2f0c6"


def run_rows(count: int) -> Rows:
    starts = Runs(count).starts
    return Rows([_encode(_run(number, starts)) for number in range(count)])


def task_rows(count: int) -> Rows:
    """The first `count` tasks."""
    templates = [_template(number) for number in range(POOL)]
    starts = Runs(count).starts
    rows: list[bytes] = []
    run = 0
    for number in range(count):
        run += number >= starts[run + 1]
        blanks = {
            b"id": b"%0*x" % (ID_DIGITS, number),
            b"n": b"%012x" % number,
            b"run": run_id(run).encode(),
            b"phone": b"+1555%07d" % (number % 10_000_000),
        }
        rows.append(templates[number * STEP % POOL] % blanks)
    return Rows(rows)


def _encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _run(number: int, starts: array[int]) -> dict[str, Any]:
    return {
        "space_id": "1",
        "user": "1",
        "thread_id": None,
        "run_id": run_id(number),
        "collection_ref": "collection_data_8KZAMRAHSXXXXXXMAYNASMJC",
        "run_mode": "prefect",
        "status": "completed",
        "batch_count": starts[number + 1] - starts[number],
        "created": "2026-01-16T13:30:03",
        "modified": "2026-01-16T13:30:03",
    }


def _template(number: int) -> bytes:
    """A row with blanks for what differs between rows of the same conversation."""
    rng = Random(f"{SEED}:{number}")
    script = DEVANAGARI if number % 10 == 3 else LATIN
    size = _size(number / (POOL - 1))
    if number % 10 == 7:
        output = _vapi(rng, _talk(rng, size, script, beside=12))
    else:
        timed = bool(number % 2)
        output = _unpod(rng, _talk(rng, size, script, beside=86 if timed else 38), timed=timed)
    text = _encode(_task(rng, output)).decode().replace("%", "%%")
    for blank in ("id", "n", "run", "phone"):
        text = text.replace(f"<{blank}>", f"%({blank})b")
    return text.encode()


def _size(share: float) -> float:
    for (low, least), (high, most) in pairwise(SIZES):
        if share <= high:
            return exp(log(least) + (share - low) / (high - low) * log(most / least))
    raise ValueError(share)


def _talk(
    rng: Random, size: float, script: tuple[str, str], *, beside: int
) -> list[tuple[str, str]]:
    """Turns of (speaker, words): `size` bytes in all, each turn its words and `beside` more."""
    talk: list[tuple[str, str]] = []
    while size > 60:
        words = _words(rng, script)
        talk.append((("assistant", "user")[len(talk) % 2], words))
        size -= beside + len(words.encode())
    return talk


def _words(rng: Random, script: tuple[str, str]) -> str:
    return " ".join(rng.choices(_vocabulary(script), k=rng.choice((2, 6, 9, 12, 15))))


@cache
def _vocabulary(script: tuple[str, str]) -> list[str]:
    rng = Random(f"{SEED}:{script[0]}")
    vowels, consonants = (letters.split() for letters in script)
    lengths = rng.choices((1, 2, 3, 4), (4, 5, 3, 1), k=WORDS)
    return [
        "".join(rng.choice(consonants) + rng.choice(vowels) for _ in range(length))
        for length in lengths
    ]


def _hexes(rng: Random, digits: int) -> str:
    return f"{rng.getrandbits(4 * digits):0{digits}x}"


def _task(rng: Random, output: dict[str, Any]) -> dict[str, Any]:
    document = _hexes(rng, 20) + "<n>"
    return {
        "space_id": "1",
        "thread_id": None,
        "user": "1",
        "user_org_id": "1",
        "user_info": {
            "id": "1",
            "email": "owner@example.com",
            "full_name": "Asha Example",
            "user_token": "NNRNAJZ3YO45FQ4H",
        },
        "run_id": "<run>",
        "task_id": "<id>",
        "collection_ref": "collection_data_8KZAMRAHSXXXXXXMAYNASMJC",
        "execution_type": "call",
        "task": {"objective": "Call the lead and confirm the appointment."},
        "input": {
            "name": rng.choice(NAMES),
            "email": "c<n>@example.com",
            "contact_number": "<phone>",
            "alternate_number": "",
            "occupation": "Tester",
            "company_name": "Example Ltd",
            "address": "1 Example Street",
            "about": "",
            "context": "Follow up",
            "labels": [],
            "title": "Lead",
            "document_id": document,
            "created": "2025-10-30T05:44:56",
            "token": "8KZAMRAHSXXXXXXMAYNASMJC",
            "quality": "good",
        },
        "output": output,
        "attachments": [],
        "ref_id": document,
        "assignee": "space-agent-8kzamrah",
        "run_mode": "prefect",
        "status": "completed",
        "created": "2026-01-16T13:30:03",
        "modified": "2026-01-16T13:41:09",
    }


def _unpod(rng: Random, talk: list[tuple[str, str]], *, timed: bool) -> dict[str, Any]:
    return {
        "call_id": _hexes(rng, 20) + "<n>",
        "customer": rng.choice(NAMES),
        "contact_number": "<phone>",
        "call_end_reason": "customer-ended-call",
        "recording_url": f"https://recordings.example.com/{_hexes(rng, 32)}.ogg",
        "transcript": [_turn(at, *turn, timed=timed) for at, turn in enumerate(talk)],
        "start_time": "2026-01-16 13:33:03.101456",
        "end_time": "2026-01-16 13:36:34.970422",
        "assistant_number": "+15550100001",
        "duration": rng.randrange(5, 1300),
        "cost": round(rng.random(), 4),
        "call_type": "outbound",
        "call_status": rng.choice(("connected", "completed")),
        "post_call_data": {
            "summary": {
                "status": rng.choice(("Interested", "Call Back", "Dropped")),
                "summary": _words(rng, LATIN),
                "name": "N/A",
                "callback_datetime": "N/A",
            },
            "success_evaluator": rng.choice((7, "8", "Good")),
            "classification": {"labels": ["Callback"]},
            "follow_up": {"required": False, "time": None, "reason": "not needed"},
            "structured_data": {"budget": "45000"},
        },
    }


def _turn(at: int, role: str, words: str, *, timed: bool) -> dict[str, Any]:
    turn = {"role": role, "content": words}
    if timed:
        turn["timestamp"] = f"2026-01-16T13:33:{at % 60:02d}.120+00:00"
    return turn


def _vapi(rng: Random, talk: list[tuple[str, str]]) -> dict[str, Any]:
    speakers = {"assistant": "Agent", "user": "Customer"}
    url = f"https://storage.example.com/{_hexes(rng, 32)}"
    return {
        "id": _hexes(rng, 20) + "<n>",
        "assistantId": "assistant-51b7",
        "phoneNumberId": "phone-9d08",
        "type": "outboundPhoneCall",
        "startedAt": "2026-01-16T13:33:00.000Z",
        "endedAt": "2026-01-16T13:36:00.000Z",
        "transcript": "\n".join(f"{speakers[role]}: {words}" for role, words in talk),
        "recordingUrl": f"{url}.mp3",
        "stereoRecordingUrl": f"{url}-stereo.mp3",
        "summary": "Customer confirmed the appointment for tomorrow at 2 PM",
        "createdAt": "2026-01-16T13:33:00.000Z",
        "updatedAt": "2026-01-16T13:59:00.000Z",
        "orgId": "org-example",
        "cost": round(rng.random(), 4),
        "customer": {"number": "<phone>", "name": rng.choice(NAMES)},
        "status": "ended",
        "endedReason": "customer-ended-call",
        "analysis": {"summary": "Confirmed.", "successEvaluation": "true"},
        "costs": [{"type": kind, "cost": 0.1} for kind in ("stt", "llm", "tts", "vapi")],
    }
