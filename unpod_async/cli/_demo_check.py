"""Holds what was exported against what the simulated platform knows of its tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from unpod_async import Report
from unpod_async.simulator import World

Ids = Callable[[], Iterable[tuple[str, str | None]]]
"""(id, status) of all rows that an export wrote, read anew."""


@dataclass
class Tally:
    """One way of reading: what came of it, beside what lived throughout."""

    way: str
    rows: int
    distinct: int
    lived_throughout: int
    lost: int
    invented: int
    requests: int
    seconds: float
    report: Report | None

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


def check(
    way: str,
    ids: Ids,
    world: World,
    mark: int,
    *,
    report: Report | None,
    seconds: float,
    requests: int,
) -> Tally:
    """Read again what was written, and compare it with the platform's own log since `mark`."""
    lived = world.lived_throughout(mark)
    seen: Counter[str] = Counter()
    invented = 0
    for row_id, status in ids():
        seen[row_id] += 1
        invented += not _was_held(world, row_id, status)
    return Tally(
        way=way,
        rows=seen.total(),
        distinct=len(seen),
        lived_throughout=len(lived),
        lost=len(lived - seen.keys()),
        invented=invented,
        requests=requests,
        seconds=seconds,
        report=report,
    )


def _was_held(world: World, row_id: str, status: str | None) -> bool:
    """Whether the platform ever had this row. (Here rows come and go, and none changes.)"""
    try:
        return bool(world.row(row_id).get("status") == status)
    except KeyError:
        return False


def from_database(path: Path) -> list[tuple[str, str | None]]:
    import duckdb

    with duckdb.connect(str(path), read_only=True) as database:
        return database.execute("SELECT task_id, status FROM tasks").fetchall()


def from_lines(path: Path) -> Iterable[tuple[str, str | None]]:
    with path.open("rb") as file:
        for line in file:
            row = msgspec.json.decode(line)
            yield row["task_id"], row.get("status")
