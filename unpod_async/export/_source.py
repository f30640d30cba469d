"""Reads a job's rows in an order that can be taken up again, and says where it stands."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol
from zlib import crc32

import msgspec

from unpod_async._paging import Listing, RunTasks, Walk
from unpod_async._report import Expected, Report
from unpod_async.errors import IncompleteWalk, UnpodError
from unpod_async.models import Run

from ._select import Selection

if TYPE_CHECKING:
    from unpod_async._client import SpaceHandle

__all__ = ["Place", "Reader", "Runs", "Select", "Source", "Walks", "plain", "total"]

ROWS = 10_000  # in one write: with fewer a row costs a database much more
BYTES = 64 << 20
SECONDS = 30.0  # after which what there is is written

Place = dict[str, Any]
Select = Callable[[str], Selection]


class Reader:
    """Gathers rows into batches, and hands each on with the place behind its last row."""

    def __init__(
        self,
        put: Callable[[list[bytes], Place], Awaitable[None]],
        *,
        limit: int | None = None,
        rows: int = ROWS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._put = put
        self._left = limit
        self._most = rows
        self._clock = clock
        self._lines: list[bytes] = []
        self._size = 0
        self._began = clock()
        self.taken = 0

    @property
    def is_full(self) -> bool:
        """Whether as many rows came as were asked for."""
        return self._left == 0

    @property
    def is_due(self) -> bool:
        """Whether what was gathered should be handed on."""
        if len(self._lines) >= self._most or self._size >= BYTES or self._left == 0:
            return True
        return len(self._lines) % 64 == 1 and self._clock() - self._began > SECONDS

    @property
    def is_heavy(self) -> bool:
        """Whether it must be, even where there is no good place for it."""
        return len(self._lines) >= 2 * self._most or self._size >= BYTES or self._left == 0

    def add(self, line: bytes) -> None:
        self._lines.append(line)
        self._size += len(line)
        self.taken += 1
        if self._left is not None:
            self._left -= 1

    async def hand_on(self, place: Place) -> None:
        """Hand on what was gathered, if anything was. If that is cancelled it stays here."""
        if self._lines:
            await self._put(self._lines, place)
        self._lines, self._size, self._began = [], 0, self._clock()


class Source(Protocol):
    """The rows of a job, each once."""

    error: str | None
    """Why something is known to be missing."""
    failures: list[tuple[Run, UnpodError]]
    """Runs that could not be read."""

    @property
    def report(self) -> Report:
        """The receipt of all that was read so far, in earlier goes too."""
        ...

    @property
    def heads(self) -> dict[str, list[str]]:
        """Of each list that was read, by its path, the ids of its first rows."""
        ...

    async def read(self, reader: Reader, select: Select) -> None:
        """Give the reader every row that `select(path)` takes of each list. Whatever ends it,
        an error or a cancellation, `place()` is right then."""
        ...

    def place(self) -> Place:
        """Where it stands behind the last row given: JSON, from which another one goes on."""
        ...


class Walks:
    """Some lists, one behind the other, each by a walk. One that is not complete is told in
    `error`, and the next list is read all the same."""

    def __init__(
        self, listings: Sequence[Listing[Any]], *, lanes: int, place: Place | None = None
    ) -> None:
        self._listings = [listing.raw() for listing in listings]
        self._lanes = lanes
        place = place or {"list": 0, "walk": None, "report": None, "heads": {}, "error": None}
        self._at: int = place["list"]
        self._resume: Place | None = place["walk"]
        self._through = report_of(place["report"])  # of the lists that are through
        self.heads: dict[str, list[str]] = place["heads"]
        self.error: str | None = place["error"]
        self.failures: list[tuple[Run, UnpodError]] = []
        self._walk: Walk[bytes] | None = None

    @property
    def report(self) -> Report:
        return self._through if self._walk is None else total(self._through, self._walk.report)

    async def read(self, reader: Reader, select: Select) -> None:
        while self._at < len(self._listings):
            listing = self._listings[self._at]
            selection = select(listing.path)
            async with listing.walk(prefetch=self._lanes, resume=self._resume) as self._walk:
                try:
                    await self._pour(self._walk, reader, selection)
                except IncompleteWalk as error:
                    self.error = self.error or error.message
            if reader.is_full:
                return
            self._leave(listing.path, self._walk, left_early=selection.through)

    async def _pour(self, walk: AsyncIterator[bytes], reader: Reader, selection: Selection) -> None:
        takes = None if selection.is_all else selection.takes
        async for line in walk:
            if takes is None or takes(line):
                reader.add(line)
                if reader.is_due:
                    await reader.hand_on(self.place())
            if selection.through or reader.is_full:
                return

    def _leave(self, path: str, walk: Walk[bytes], *, left_early: bool) -> None:
        """The list is through. What was read of one that was left early is proved as far as it
        goes, unless the walk has a doubt by then."""
        state = walk.checkpoint()["walk"]
        report = msgspec.structs.replace(walk.report)
        if left_early and not state["doubt"] and not report.missing:
            report.verified, report.reason = True, None
        self.heads[path] = state["head"]
        self._through, self._walk = total(self._through, report), None
        self._at, self._resume = self._at + 1, None

    def place(self) -> Place:
        return {
            "list": self._at,
            "walk": self._resume if self._walk is None else self._walk.checkpoint(),
            "report": plain(self._through),
            "heads": self.heads,
            "error": self.error,
        }


class Runs:
    """The tasks of many runs of some spaces, several runs read at once, handed on in the
    order of the runs: all runs of each space, or the `given` ones; of those with a `share`
    (k, n) only the k-th of n parts.

    A run that cannot be read is told in `failures`; when the job is taken up again, those
    are read last.
    """

    def __init__(
        self,
        spaces: Sequence[SpaceHandle],
        given: Sequence[str] | None = None,
        *,
        lanes: int,
        page_size: int = 500,
        share: tuple[int, int] | None = None,
        place: Place | None = None,
    ) -> None:
        place = place or {"space": 0, "behind": None, "report": None, "failed": [], "error": None}
        self._spaces = spaces
        self._given = given if given is None else [one for one in given if is_of(share, one)]
        self._share = share
        self._lanes = lanes
        self._page_size = page_size
        self._at: int = place["space"]
        self._behind: Any = place["behind"]  # the run handed on last: a checkpoint, or how many
        self._through = report_of(place["report"])  # of the streams that are through
        self._failed: list[tuple[int, str]] = [(at, run_id) for at, run_id in place["failed"]]
        self.error: str | None = place["error"]
        self.heads: dict[str, list[str]] = {}
        self.failures: list[tuple[Run, UnpodError]] = []
        self._stream: RunTasks[bytes] | None = None

    @property
    def report(self) -> Report:
        """What failed is not in it, but in `failures`: another go may yet read that."""
        if self._stream is None:
            return self._through
        doubt, sent = self._stream.doubt, self._stream.report
        under_way = msgspec.structs.replace(
            sent, missing=False, verified=doubt is None, reason=doubt
        )
        return total(self._through, under_way)

    async def read(self, reader: Reader, select: Select) -> None:
        failed, self._failed = self._failed, []
        for at in range(self._at, len(self._spaces)):
            self._at = at
            if self._given is None:
                await self._all_runs(reader, select)
            else:
                ids = self._given[self._behind or 0 :]
                await self._tasks_of(list(ids), reader, select, self._count_on)
            if reader.is_full:
                return
            self._behind = None
        self._at = len(self._spaces)
        for at, run_id in failed:
            self._at = at
            await self._tasks_of([run_id], reader, select, lambda _: None)
        self._at = len(self._spaces)

    def _count_on(self, _: Run) -> None:
        self._behind = (self._behind or 0) + 1

    async def _all_runs(self, reader: Reader, select: Select) -> None:
        listing = self._spaces[self._at].runs(page_size=500)
        async with listing.walk(prefetch=2, resume=self._behind) as walk:
            runs = _Placed(walk, self._share)

            def behind(run: Run) -> None:
                self._behind = runs.places.pop(run.run_id)

            try:
                await self._tasks_of(runs, reader, select, behind)
            except IncompleteWalk as error:
                self.error = self.error or error.message
        if not reader.is_full:
            listed = msgspec.structs.replace(walk.report, seen=0, expected=Expected())
            self._through = total(self._through, listed)

    async def _tasks_of(
        self,
        runs: AsyncIterator[Run] | list[str],
        reader: Reader,
        select: Select,
        behind: Callable[[Run], None],
    ) -> None:
        space = self._spaces[self._at]
        selection = select(f"spaces/{space.token}/runs/")
        stream = space.run_tasks_raw(
            runs, concurrency=self._lanes, page_size=self._page_size, ordered=True
        )
        try:
            async with stream as self._stream:
                async for run, lines in stream:
                    await self._pour(lines, reader, selection)
                    if reader.is_full:
                        return
                    behind(run)
                    if reader.is_due:
                        self._note(stream)
                        await reader.hand_on(self.place())
        finally:
            self._note(stream)
            self._through, self._stream = self.report, None

    async def _pour(self, lines: list[bytes], reader: Reader, selection: Selection) -> None:
        for line in lines:
            if selection.takes(line):
                reader.add(line)
                if reader.is_heavy:  # behind the run before, so this one is read again if need be
                    await reader.hand_on(self.place())
            if reader.is_full:
                return

    def _note(self, stream: RunTasks[bytes]) -> None:
        """Keep what failed, each once."""
        self._failed += [(self._at, run.run_id) for run, _ in stream.failures]
        self.failures += stream.failures
        stream.failures.clear()

    def place(self) -> Place:
        return {
            "space": self._at,
            "behind": self._behind,
            "report": plain(self.report),
            "failed": [list(one) for one in self._failed],
            "error": self.error,
        }


class _Placed:
    """The runs of a walk that are of a share, with the place behind each until it is asked for."""

    def __init__(self, walk: Walk[Run], share: tuple[int, int] | None) -> None:
        self._walk = walk
        self._share = share
        self.places: dict[str, Place] = {}

    def __aiter__(self) -> _Placed:
        return self

    async def __anext__(self) -> Run:
        while True:
            run = await anext(self._walk)
            if is_of(self._share, run.run_id):
                self.places[run.run_id] = self._walk.checkpoint()
                return run


def is_of(share: tuple[int, int] | None, run_id: str) -> bool:
    """Whether a run is of a share: the same whenever and wherever it is asked."""
    return share is None or crc32(run_id.encode()) % share[1] == share[0] - 1


def total(first: Report, second: Report) -> Report:
    """Two receipts as one."""
    made = msgspec.structs.replace(
        first,
        expected=msgspec.structs.replace(first.expected),
        drift=list(first.drift),
        invalid=list(first.invalid),
        unreadable=list(first.unreadable),
    )
    made.add(second)
    whole = first.complete or not first.windows
    made.verified = whole and second.complete and (first.verified or second.verified)
    if whole:
        made.reason = second.reason if not second.complete else None
    made.started, made.ended = first.started or second.started, second.ended
    return made


def plain(report: Report) -> dict[str, Any]:
    """A receipt as JSON has it. Of a row without an identity only the place is told: it is
    somebody's call all the same."""
    invalid = [
        row if isinstance(row, dict) else {"offset": row.offset, "reason": row.reason}
        for row in report.invalid
    ]
    made: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(report, invalid=invalid))
    return made


def report_of(sent: Place | None) -> Report:
    return Report() if sent is None else msgspec.convert(sent, Report)
