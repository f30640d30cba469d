"""Holds an exported file against what the simulated platform knows of its tasks."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from unpod_async import Report
from unpod_async._pages import TASKS
from unpod_async.simulator import World

from ._outcome import Outcome

PAGE = 500  # lines decoded at once


@dataclass
class Calls:
    """What the demo draws: how many tasks of each status, and how long the calls took."""

    statuses: Counter[str] = field(default_factory=Counter)
    durations: list[float] = field(default_factory=list)


@dataclass
class Tally:
    """One way of export: what its file holds, beside what lived throughout."""

    way: str
    rows: int
    distinct: int
    lived_throughout: int
    lost: int
    invented: int
    requests: int
    seconds: float
    report: Report | None
    path: Path

    @property
    def repeated(self) -> int:
        return self.rows - self.distinct

    @property
    def verified(self) -> bool | None:
        """What the way itself said; None if it says nothing."""
        return None if self.report is None else self.report.verified

    @property
    def exact(self) -> bool:
        """Every task that lived throughout, each once, and none that never was."""
        return not (self.lost or self.repeated or self.invented)

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
        names = "way rows distinct lived_throughout lost repeated invented requests seconds"
        return {name: getattr(self, name) for name in (*names.split(), "verified")}


def check(outcome: Outcome, world: World, mark: int, requests: int) -> Tally:
    """Read the file again and compare it with the platform's own log since `mark`."""
    assert isinstance(outcome.path, Path)
    lived = world.lived_throughout(mark)
    seen: Counter[str] = Counter()
    invented = 0
    for line in _lines(outcome.path):
        row = msgspec.json.decode(line)
        seen[row["task_id"]] += 1
        invented += not _was_held(world, row)
    return Tally(
        way=outcome.command,
        rows=seen.total(),
        distinct=len(seen),
        lived_throughout=len(lived),
        lost=len(lived - seen.keys()),
        invented=invented,
        requests=requests,
        seconds=outcome.seconds,
        report=outcome.report,
        path=outcome.path,
    )


def _was_held(world: World, row: dict[str, Any]) -> bool:
    """Whether the platform ever had this row. (Here rows come and go, and none changes.)"""
    try:
        return world.row(row["task_id"]) == row
    except KeyError:
        return False


def read_calls(path: Path) -> Calls:
    """The same file through the models, as a user would read it."""
    calls = Calls()
    lines = _lines(path)
    while page := b",".join(islice(lines, PAGE)):
        for task in TASKS.decode(b'{"data":[' + page + b"]}").items:
            calls.statuses[task.status or "none"] += 1
            if (duration := task.call.duration) is not None:
                calls.durations.append(duration)
    return calls


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from gzip.GzipFile(fileobj=file) if ".gz" in path.suffixes else file
