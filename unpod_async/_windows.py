"""What a walk asks and hears: windows and answers, how a window is placed, and the simple
walk for lists whose paging is not documented. Pure."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from msgspec import Struct

from ._report import Expected, Report

__all__ = ["MIN_PROVABLE", "Answer", "CountedWalk", "ServerMemory", "Window", "at_once", "plan"]

T = TypeVar("T")

MIN_PROVABLE = 10  # smaller pages leave no room for overlaps: walk, dedupe, claim nothing


class Window(Struct, frozen=True, eq=False, gc=False):
    """One page to ask for. `delay` (seconds) is advice: wait that long before asking.
    `once`: do not retry, for a failure is expected and says where a bad row is."""

    page: int
    size: int
    delay: float = 0.0
    once: bool = False

    @property
    def start(self) -> int:
        return (self.page - 1) * self.size

    @property
    def end(self) -> int:
        return self.start + self.size


class Answer(Struct, Generic[T]):
    """What came back for a window. `length` counts all elements sent, `ids` and `rows`
    only those with a usable identity."""

    ids: list[str]
    rows: list[T]
    length: int
    count: int | None
    invalid: list[Any] = []
    foreign: int = 0
    news: bool = False  # it showed a row without identity for the first time


class ServerMemory(Struct):
    """What one client has learnt of its server, shared by all its walks."""

    longest: int = 0
    empty_contradicted: bool = False


def plan(frontier: int, size: int, overlap: int) -> Window:
    """The window of at most `size` rows that starts at least `overlap` rows before
    `frontier` and reaches furthest. Only offsets that are a multiple of the window's own
    size exist, so the size gives way: between half and all of `size`."""
    reach = max(frontier - overlap, 0)
    best_size, best_end = size, reach - reach % size + size
    for candidate in range(size - 1, (size - 1) // 2, -1):
        end = reach - reach % candidate + candidate
        if end > best_end:
            best_size, best_end = candidate, end
        if reach % candidate == 0:
            break  # no smaller size starts later, nor reaches further
    return Window(best_end // best_size, best_size)


def at_once(window: Window, answer: Answer[Any], memory: ServerMemory) -> Report | None:
    """The receipt of a list that came whole in its first answer, which is the one that a
    `ChainWalk` gives: most runs are such a list, and need no walk. None where only a walk can
    tell."""
    length, count = answer.length, answer.count
    if count is None or not (0 < length < window.size and count <= length < memory.longest):
        return None
    if window.size < MIN_PROVABLE or len(set(answer.ids)) < length:
        return None  # the second: a row twice, without an identity, or of another list
    expected = Expected(count, count, count, count)
    return Report(expected=expected, seen=length, windows=1, verified=True, reason=None)


class CountedWalk(Generic[T]):
    """The same interface for a list whose paging is not documented (spaces, organizations):
    read on only while the count says that there is more and new rows come."""

    def __init__(self, *, size: int) -> None:
        self.report = Report()
        self.done = False
        self.outage = False
        self._window: Window | None = None
        self._page = 1
        self._size = size
        self._seen: set[str] = set()

    def next(self, free: int) -> list[Window]:
        if self.done or self._window is not None or not free:
            return []
        self.report.windows += 1
        self._window = Window(self._page, self._size)
        return [self._window]

    def wants(self, window: Window) -> bool:
        return window is self._window

    def take(self, window: Window) -> None:
        """Windows of such a list follow from the answers: none is asked for ahead."""

    def feed(self, window: Window, answer: Answer[T]) -> list[T]:
        if not self.wants(window):
            return []
        self._window = None
        self._page += 1
        report = self.report
        report.invalid += answer.invalid
        if answer.count is not None:
            report.expected.note(answer.count)
        fresh: list[T] = []
        for row_id, row in zip(answer.ids, answer.rows, strict=True):
            if row_id in self._seen:
                report.duplicates += 1
            else:
                self._seen.add(row_id)
                fresh.append(row)
        report.seen = len(self._seen)
        if not fresh or report.seen + len(report.invalid) >= (answer.count or 0):
            self._finish(answer.count)
        return fresh

    def shrink(self, window: Window) -> None:
        self._window = None
        self._size = max(1, window.size // 2)
        self._page = window.start // self._size + 1

    def fail(self, window: Window) -> list[T]:
        """Nothing is known of how such a list could be read around a bad row."""
        self.outage = self.wants(window)
        return []

    def _finish(self, count: int | None) -> None:
        report = self.report
        self.done = True
        received = report.seen + len(report.invalid)
        report.missing = bool(report.invalid) or received < (report.expected.min or 0)
        report.reason = None
        if count is None or report.seen != count:
            report.reason = f"the server counts {count} rows and sent {report.seen}"
        elif report.windows > 1:
            report.reason = "the paging of this list is not documented"
        elif not report.seen:
            report.empty_confirmed = 1
            report.reason = "an empty list cannot be proved"
        report.verified = report.reason is None
