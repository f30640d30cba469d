"""The receipt of a walk."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

__all__ = ["Drift", "Expected", "Report"]

MAX_DRIFT = 1000  # entries kept


class Expected(Struct):
    """The server's own `count` over the walk; all None when it gave none."""

    count_first: int | None = None
    count_last: int | None = None
    min: int | None = None
    max: int | None = None

    def note(self, count: int) -> None:
        if self.count_first is None:
            self.count_first = self.min = self.max = count
        self.count_last = count
        if self.min is None or count < self.min:
            self.min = count
        if self.max is None or count > self.max:
            self.max = count

    def add(self, other: Expected) -> None:
        """Take another list's counts into this total."""
        if other.count_first is not None:
            self.count_first = (self.count_first or 0) + other.count_first
            self.count_last = (self.count_last or 0) + (other.count_last or 0)
            self.min = (self.min or 0) + (other.min or 0)
            self.max = (self.max or 0) + (other.max or 0)


class Drift(Struct):
    """One place where the list moved under the walk: gap, empty, short, clamp, order or
    head; `repaired` says whether the walk closed it."""

    kind: str
    at_offset: int
    repaired: bool = False


class Report(Struct):
    """The receipt of a walk; JSON by `msgspec.json.encode`.

    `seen` rows were handed on. `duplicates` is how many came again, most of them because the
    windows overlap on purpose; `conflicts`, how many of those had changed. `drift` says where
    the list moved; `windows` were asked for, `extra_requests` of them beyond a plain reading.
    `verified`: every row that lived throughout the walk was handed on, each once, and
    this is proved. `empty_confirmed` is the weaker verdict of an empty list: how often
    it was asked and answered empty. `reason` says why a walk is not verified.
    `missing`: something is known to be missing or unreadable.
    """

    expected: Expected = field(default_factory=Expected)
    seen: int = 0
    duplicates: int = 0
    conflicts: int = 0
    invalid: list[Any] = field(default_factory=list)
    foreign: int = 0
    drift: list[Drift] = field(default_factory=list)
    windows: int = 0
    extra_requests: int = 0
    unreadable: list[int] = field(default_factory=list)
    empty_confirmed: int = 0
    started: str | None = None
    ended: str | None = None
    verified: bool = False
    missing: bool = False
    reason: str | None = "not finished"

    @property
    def complete(self) -> bool:
        """Verified, or an empty list that stayed empty: all that was asked came empty."""
        empty = 0 < self.empty_confirmed == self.windows
        return self.verified or (empty and not self.missing)

    def add(self, other: Report) -> None:
        """Take another list's receipt into this total; `verified` is left to the caller."""
        self.seen += other.seen
        self.duplicates += other.duplicates
        self.conflicts += other.conflicts
        self.foreign += other.foreign
        self.windows += other.windows
        self.extra_requests += other.extra_requests
        self.empty_confirmed += other.empty_confirmed
        self.expected.add(other.expected)
        self.invalid += other.invalid
        self.unreadable += other.unreadable
        self.drift += other.drift[: max(0, MAX_DRIFT - len(self.drift))]
        self.missing |= other.missing
