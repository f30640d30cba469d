"""Where a walk stands, small enough to keep after every row, and how another walk finds the
place again: by the identity of rows, for offsets move. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import msgspec
from msgspec import Struct

from ._report import Expected
from ._windows import Window
from .errors import ConfigurationError

__all__ = ["Checkpoint", "Relink", "WalkState", "read_checkpoint"]

VERSION = 1
REMEMBERED = 256  # ids kept of each end
FAILURES = 4  # windows that cannot be read after which a place is looked for row by row
EMPTIES = 4  # empty answers after which a place is looked for among rows, not by the count


class WalkState(Struct, kw_only=True, forbid_unknown_fields=True):
    """A walk after `handed` rows, of which all behind `listed` were born while it read (that
    counts in phase head). `frontier` is the offset behind the last of them as it was;
    `head` and `tail` are the ids of the first and the last rows; `phase` is rows, head
    (reading what was born meanwhile) or done."""

    handed: int
    listed: int
    frontier: int
    longest: int
    head: list[str]
    tail: list[str]
    phase: str
    extensions: int
    windows: int
    duplicates: int
    conflicts: int
    foreign: int
    invalid: int
    unreadable: list[int]
    expected: Expected
    doubt: str | None
    missing: bool
    top: int = 0  # the row that was on top when the walk last began anew; those before stand below


class Checkpoint(Struct, kw_only=True, forbid_unknown_fields=True):
    """A walk's state and the job it belongs to."""

    version: int
    base_url: str
    org_handle: str | None
    path: str
    query: str
    walk: WalkState

    def as_json(self) -> dict[str, Any]:
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built

    def check_job(self, job: Checkpoint) -> None:
        """Raise `ConfigurationError`, naming the difference, unless this is of the same job."""
        for name in ("version", "base_url", "org_handle", "path", "query"):
            mine, its = getattr(job, name), getattr(self, name)
            if mine != its:
                job_is = f"its {name} is {its!r}, not {mine!r}"
                if name == "query":  # it may name a person that was searched for
                    job_is = "its query has other filters"
                raise ConfigurationError(f"resume takes a checkpoint of the same job; {job_is}")


def read_checkpoint(value: object) -> Checkpoint:
    """A checkpoint from its JSON object. Raises `ConfigurationError` for anything else."""
    if isinstance(value, dict) and value.get("version") not in (None, VERSION):
        raise ConfigurationError(
            f"resume takes a checkpoint of version {VERSION}, not {value['version']!r}"
        )
    try:
        checkpoint = msgspec.convert(value, Checkpoint)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ConfigurationError(f"resume takes a checkpoint as it was given: {error}") from None
    state = checkpoint.walk
    sound = state.handed >= 0 and state.frontier >= 0 and state.longest >= 0
    fits = len(state.tail) == min(state.handed, REMEMBERED) and len(state.head) <= state.handed
    if not sound or not fits or state.phase not in ("rows", "head", "done"):
        raise ConfigurationError("resume takes a checkpoint as it was given; this one is damaged")
    return checkpoint


class Relink:
    """The search for a row that a checkpoint names: first at the top, which also tells how
    long the list is now, then where the row was, where the change of the length would have
    moved it, and further and further from both."""

    def __init__(self, state: WalkState) -> None:
        self._frontier = state.frontier
        self._count = state.expected.count_last
        self._asked = 0
        self._tried: set[int] = set()
        self._shift = 0
        self._counted: int | None = None  # the first count that the search was told
        self._empties = 0
        self._failures = 0
        self._reached = 0  # as far as rows were seen

    def window(self, most: int, size: int) -> Window:
        """The next place to look: `most` rows at the top, then pages of `size`."""
        if not self._asked:
            return Window(1, most)
        page = next(page for page in self._pages(size) if page not in self._tried)
        self._tried.add(page)
        return Window(page, size)

    def unread(self) -> bool:
        """The window could not be read. False: too many could not, look row by row."""
        self._asked += 1
        self._failures += 1
        return self._failures < FAILURES

    @property
    def place(self) -> int:
        """Where the place should be, for all that is known."""
        return max(1, self._frontier + self._shift)

    def seen_at(self, frontier: int) -> None:
        """A known row was seen, and tells where the place should be."""
        self._frontier, self._shift, self._count = frontier, 0, None

    def missed(self, counted: int | None, size: int, reached: int) -> bool:
        """No known row was there; the answer ended at offset `reached` (0: it was empty), and
        the server now counts `counted`. False: give up."""
        if not self._asked and counted is not None and self._count is not None:
            self._shift = counted - self._count
        self._asked += 1
        self._empties += not reached
        self._reached = max(self._reached, reached)
        # As it was at first: the search must not run after a list that grows faster.
        self._counted = counted if self._counted is None else self._counted
        rows = max(self._counted or 0, self._count or 0, self._frontier)
        if self._empties >= EMPTIES:
            rows = min(rows, max(self._reached, self._frontier))
        return self._asked <= 2 * (rows // size + 2)

    def _pages(self, size: int) -> Iterator[int]:
        was = max(0, self._frontier - 2) // size + 1
        moved = max(0, self._frontier + self._shift - 2) // size + 1
        yield from (moved, was)
        for step in count(1):
            for page in (moved + step, moved - step, was + step, was - step):
                if page >= 1:
                    yield page
