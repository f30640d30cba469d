"""Rows out of numbers: row 7 of seed 1 is the same bytes every time, and costs microseconds.

A pool of templates is written once, slowly and lazily, with the dialects of `_dialects`; a row is
a template with its blanks filled in. So a million rows need no memory, and a server that feeds a
benchmark is not its bottleneck.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from random import Random
from typing import Any, NamedTuple

import msgspec

from ._dialects import DIALECTS, LINES, NAMES, Talk, hexes

POOL = 1024
"""How many different conversations a seed has."""

BLANKS = {
    "«run»": "run",
    "«id»": "id",
    "«n»": "n",
    "«n12»": "n12",
    "«phone»": "phone",
    "«created»": "created",
    "«hour»": "hour",
    "«hour space»": "hour space",
}
"""What a template leaves open; `n` is the row's number, `n12` its 12 hex digits, `hour` is
`2026-01-16T13`."""


class Space(NamedTuple):
    """A space and what its rows say of it."""

    id: str
    token: str
    agent_handle: str
    name: str


OWN = Space("1", "AAAA1111BBBB2222CCCC3333", "space-agent-aaaa1111", "Sales Outreach")
FOREIGN = Space("2", "XXXX7777YYYY8888ZZZZ9999", "space-agent-xxxx7777", "Somebody Else's")


def encode(value: Any) -> bytes:
    """JSON as the recorded server writes it: compact UTF-8, with U+2028 and U+2029 escaped."""
    return escaped(msgspec.json.encode(value))


def escaped(text: bytes) -> bytes:
    return text.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")


@lru_cache(4096)
def _hour(hours: int) -> tuple[bytes, bytes]:
    text = datetime.fromtimestamp(hours * 3600, UTC).strftime("%Y-%m-%dT%H").encode()
    return text, text.replace(b"T", b" ")


def timestamp(seconds: int) -> str:
    """Unix seconds as the server writes them: UTC without a zone."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class Rows:
    """Writes the rows of one space.

    `dialects` names the forms of output to use (default: all), or gives each a weight.
    `mean_turns` is the average number of turns in a conversation; a few are far longer.
    """

    def __init__(
        self,
        seed: int,
        space: Space,
        dialects: Iterable[str] | Mapping[str, float] | None,
        mean_turns: float,
    ) -> None:
        self._seed = seed
        self._space = space
        self._mean_turns = mean_turns
        self._weights = _weights(dialects)
        self._templates: dict[int, bytes] = {}

    def task(self, number: int, task_id: str, run_id: str, created: int) -> bytes:
        """The JSON of task `number`, created at Unix second `created`."""
        variant = (number * 2654435761 + self._seed) % POOL
        template = self._templates.get(variant)
        if template is None:
            template = self._templates[variant] = self._template(variant)
        hour, hour_space = _hour(created // 3600)
        minute, second = divmod(created % 3600, 60)
        return template % {
            b"run": run_id.encode(),
            b"id": task_id.encode(),
            b"n": b"%d" % number,
            b"n12": b"%012x" % number,
            b"phone": b"1555%07d" % (number % 10_000_000),
            b"created": b"%b:%02d:%02d" % (hour, minute, second),
            b"hour": hour,
            b"hour space": hour_space,
        }

    def run(self, number: int, run_id: str, created: int, tasks: int) -> bytes:
        """The JSON of run `number`; `batch_count` is not always its number of tasks."""
        rng = Random(f"{self._seed}:run:{number}")
        at = timestamp(created)
        statuses = ("pending", "scheduled", "in_progress", "failed", "partially_completed")
        row = {
            "space_id": self._space.id,
            "user": "1",
            "thread_id": None,
            "run_id": run_id,
            "collection_ref": f"collection_data_{self._space.token}",
            "run_mode": rng.choice(("prefect", "default", "dev")),
            "status": rng.choice((*["completed"] * 5, *statuses)),
            "batch_count": rng.choice((tasks, tasks, tasks + rng.randrange(300), 1)),
            "created": at,
            "modified": at,
        }
        return encode(row)

    def _template(self, variant: int) -> bytes:
        rng = Random(f"{self._seed}:task:{variant}")
        name = rng.choice(NAMES)
        dialect = rng.choices(list(self._weights), list(self._weights.values()))[0]
        plain = _plain_task(rng, self._space)
        task = plain | DIALECTS[dialect][0](rng, _talk(rng, self._mean_turns))
        text = encode(task).decode().replace("%", "%%").replace("«name»", name)
        text = text.replace("«space token»", self._space.token)
        text = text.replace('"«phone as a number»"', "«phone»").replace('"«phone»', '"+«phone»')
        for blank, key in BLANKS.items():
            text = text.replace(blank, f"%({key})b")
        return text.encode()


def _weights(dialects: Iterable[str] | Mapping[str, float] | None) -> dict[str, float]:
    names = DIALECTS if dialects is None else dialects
    given = names if isinstance(names, Mapping) and dialects is not None else {}
    weights = {name: float(given.get(name, DIALECTS[name][1])) for name in names}
    if not weights:
        raise ValueError("dialects: name at least one")
    return weights


def _talk(rng: Random, mean_turns: float) -> Talk:
    """Mostly a few turns; the tail of a Pareto distribution makes some conversations long."""
    turns = min(400, max(1, round(rng.paretovariate(1.7) * mean_turns * 0.7 / 1.7)))
    return [(("assistant", "user")[turn % 2], rng.choice(LINES)) for turn in range(turns)]


def _plain_task(rng: Random, space: Space) -> dict[str, Any]:
    ref = f"{hexes(rng, 12)}«n12»"
    return {
        "space_id": space.id,
        "thread_id": None,
        "user": "1",
        "user_org_id": "1",
        "user_info": {
            "id": "1",
            "email": "owner@example.com",
            "full_name": "Asha Example",
            "user_token": "NNRNAJZ3YO45FQ4H",
            "location": _location(),
        },
        "run_id": "«run»",
        "task_id": "«id»",
        "collection_ref": f"collection_data_{space.token}",
        "execution_type": "call",
        "task": {"objective": "Call the lead and confirm the appointment."},
        "input": _input(rng, ref),
        "output": {},
        "attachments": [],
        "ref_id": ref,
        "assignee": space.agent_handle,
        "run_mode": "dev",
        "status": "completed",
        "created": "«created»",
        "modified": "«created»",
    }


def _location() -> dict[str, Any]:
    place = {"zip": None, "city": "Example City", "state": None, "country": "IN"}
    network = {"timezone": "Asia/Kolkata", "ip_address": "192.0.2.10"}
    return {**place, **network, "lat": "00", "lng": "00"}


def _input(rng: Random, ref: str) -> dict[str, Any]:
    return {
        "name": "«name»",
        "email": "c«n»@example.com",
        "contact_number": "«phone»",
        "alternate_number": "",
        "occupation": "Tester",
        "company_name": "Example Ltd",
        "address": "1 Example Street",
        "about": "",
        "context": "Follow up",
        "labels": [],
        "title": "Lead",
        "document_id": ref,
        "created": rng.choice(("2025-10-30T05:44:56", {"$date": 1761803096000})),
        "token": "«space token»",
        "quality": "good",
    }


AGENT_KEYS = (
    *("space_id", "thread_id", "user", "user_org_id", "user_info", "created", "modified"),
    *("task_id", "run_id", "collection_ref", "task", "input", "output", "attachments"),
    *("assignee", "status", "execution_type", "ref_id"),
)


def agent_row(row: dict[str, Any], number: int) -> dict[str, Any]:
    """A task as the agent's list shows it: `_id` and the history of tries, no `run_mode`."""
    kept = {key: row[key] for key in (*AGENT_KEYS, *row) if key in row and key != "run_mode"}
    for key in ("created", "modified"):
        if isinstance(kept.get(key), str) and re.search(r":\d\d$", kept[key]):
            kept[key] += ".101000"
    return {
        "_id": f"6b022979b110{number:012x}",
        **kept,
        "failure_count": 0,
        "last_failure_reason": None,
        "provider": None,
        "retry_attempt": 0,
        "last_status_change": kept.get("modified"),
        "scheduled_timestamp": None,
    }
