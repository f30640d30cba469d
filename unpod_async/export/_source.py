"""Reads a job's rows in an order that can be taken up again, and says where it stands."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, Generic, Protocol, TypeVar
from zlib import crc32

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import replace

from unpod_async._paging import Listing
from unpod_async._reading import Walk
from unpod_async._report import Expected, Report
from unpod_async._run_tasks import RunTasks
from unpod_async.errors import ConfigurationError, IncompleteWalk, UnpodError
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

    failures: list[tuple[Run, UnpodError]]
    """Runs that could not be read."""

    is_distinct: bool
    """Whether it is sure that no id comes twice, in this go."""

    @property
    def error(self) -> str | None:
        """Why something is known to be missing."""
        ...

    @property
    def taken(self) -> int:
        """How many rows were given up to `place()`, in earlier goes too."""
        ...

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


class _Stand(Struct, kw_only=True, forbid_unknown_fields=True):
    """Where a source stands, as both kinds keep it. `report` and `error` are of what is through."""

    report: Report = field(default_factory=Report)
    error: str | None = None
    taken: int = 0


class _InWalks(_Stand):
    """In the walk of the list `at`, which goes on from `walk`."""

    at: Annotated[int, Meta(ge=0)] = 0
    walk: dict[str, Any] | None = None
    heads: dict[str, list[str]] = field(default_factory=dict)


class _InRuns(_Stand):
    """In the space `at`, `behind` a run: the checkpoint of the walk over them, or how many of
    those given. `failed` are runs by their space."""

    at: Annotated[int, Meta(ge=0)] = 0
    behind: dict[str, Any] | Annotated[int, Meta(ge=0)] | None = None
    failed: list[tuple[Annotated[int, Meta(ge=0)], str]] = field(default_factory=list)


S = TypeVar("S", bound=_Stand)


def _read_place(place: Place | None, form: type[S]) -> S:
    """Raises `ConfigurationError` for a place that was not made here."""
    try:
        return msgspec.convert(place or {}, form)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"its checkpoint is damaged ({error})") from None


def _as_place(stand: _Stand, **now: Any) -> Place:
    built: Place = msgspec.to_builtins(replace(stand, report=Report()))
    return built | {"report": plain(stand.report)} | now


class _Standing(Generic[S]):
    """What both kinds of source tell of where they stand."""

    def __init__(self, stand: S) -> None:
        self._stand = stand
        self._before = stand.taken
        self.failures: list[tuple[Run, UnpodError]] = []

    @property
    def error(self) -> str | None:
        return self._stand.error

    @property
    def taken(self) -> int:
        return self._stand.taken


class Walks(_Standing[_InWalks]):
    """Some lists, one behind the other, each by a walk. One that is not complete is told in
    `error`, and the next list is read all the same."""

    def __init__(
        self, listings: Sequence[Listing[Any]], *, lanes: int, place: Place | None = None
    ) -> None:
        self._listings = [listing.raw() for listing in listings]
        self._lanes = lanes
        self.is_distinct = len(listings) == 1  # a walk gives each row once
        super().__init__(_read_place(place, _InWalks))
        self._walk: Walk[bytes] | None = None

    @property
    def heads(self) -> dict[str, list[str]]:
        return self._stand.heads

    @property
    def report(self) -> Report:
        through = self._stand.report
        return through if self._walk is None else total(through, self._walk.report)

    async def read(self, reader: Reader, select: Select) -> None:
        stand = self._stand
        while stand.at < len(self._listings):
            listing = self._listings[stand.at]
            selection = select(listing.path)
            async with listing.walk(prefetch=self._lanes, resume=stand.walk) as self._walk:
                try:
                    await self._pour(self._walk, reader, selection)
                except IncompleteWalk as error:
                    stand.error = stand.error or error.message
                finally:
                    stand.taken = self._before + reader.taken
            if reader.is_full:
                return
            self._leave(listing.path, self._walk, left_early=selection.through)

    async def _pour(self, walk: Walk[bytes], reader: Reader, selection: Selection) -> None:
        takes = None if selection.is_all else selection.takes
        async for first in walk:
            for line in chain((first,), walk.at_hand()):
                if takes is None or takes(line):
                    reader.add(line)
                    if reader.is_due:
                        self._stand.taken = self._before + reader.taken
                        await reader.hand_on(self.place())
                if selection.through or reader.is_full:
                    return

    def _leave(self, path: str, walk: Walk[bytes], *, left_early: bool) -> None:
        """The list is through. What was read of one that was left early is proved as far as it
        goes, unless the walk has a doubt by then."""
        stand, state = self._stand, walk.checkpoint()["walk"]
        report = replace(walk.report)
        if left_early and not state["doubt"] and not report.missing:
            report.verified, report.reason = True, None
        stand.heads[path] = state["head"]
        stand.report, self._walk = total(stand.report, report), None
        stand.at, stand.walk = stand.at + 1, None

    def place(self) -> Place:
        walk = self._stand.walk if self._walk is None else self._walk.checkpoint()
        return _as_place(self._stand, walk=walk)


class Runs(_Standing[_InRuns]):
    """The tasks of many runs of some spaces, several runs read at once, handed on in the
    order of the runs: all runs of each space, or the `given` ones; of those with a `share`
    (k, n) only the k-th of n parts.

    A run that cannot be read is told in `failures`; when the job is taken up again, those
    are read last.
    """

    is_distinct = False  # a server may send a task under two runs

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
        self._spaces = spaces
        self._given = given if given is None else [one for one in given if is_of(share, one)]
        self._share = share
        self._lanes = lanes
        self._page_size = page_size
        super().__init__(_read_place(place, _InRuns))
        of_others = isinstance(self._stand.behind, dict if given is not None else int)
        if of_others or any(at >= len(spaces) for at, _ in self._stand.failed):
            raise ConfigurationError("its checkpoint is damaged (it is of other runs)")
        self.heads: dict[str, list[str]] = {}
        self._stream: RunTasks[bytes] | None = None

    @property
    def report(self) -> Report:
        """What failed is not in it, but in `failures`: another go may yet read that."""
        if self._stream is None:
            return self._stand.report
        doubt, sent = self._stream.doubt, self._stream.report
        under_way = replace(sent, missing=False, verified=doubt is None, reason=doubt)
        return total(self._stand.report, under_way)

    async def read(self, reader: Reader, select: Select) -> None:
        stand = self._stand
        again = list(stand.failed)
        while stand.at < len(self._spaces):
            if self._given is None:
                await self._all_runs(reader, select)
            else:
                ids = self._given[self._count :]
                await self._tasks_of(stand.at, list(ids), reader, select, self._count_on)
            if reader.is_full:
                return
            stand.at, stand.behind = stand.at + 1, None
        for at, run_id in again:

            def read_now(run: Run, at: int = at) -> None:
                stand.failed.remove((at, run.run_id))

            await self._tasks_of(at, [run_id], reader, select, read_now)
            if reader.is_full:
                return

    @property
    def _count(self) -> int:
        return self._stand.behind if isinstance(self._stand.behind, int) else 0

    def _count_on(self, _: Run) -> None:
        self._stand.behind = self._count + 1

    async def _all_runs(self, reader: Reader, select: Select) -> None:
        stand = self._stand
        listing = self._spaces[stand.at].runs(page_size=500)
        resume = stand.behind if isinstance(stand.behind, dict) else None
        async with listing.walk(prefetch=2, resume=resume) as walk:
            runs = _Placed(walk, self._share)

            def behind(run: Run) -> None:
                stand.behind = runs.places.pop(run.run_id)

            try:
                await self._tasks_of(stand.at, runs, reader, select, behind)
            except IncompleteWalk as error:
                stand.error = stand.error or error.message
        if not reader.is_full:
            listed = replace(walk.report, seen=0, expected=Expected())
            stand.report = total(stand.report, listed)

    async def _tasks_of(
        self,
        at: int,
        runs: AsyncIterator[Run] | list[str],
        reader: Reader,
        select: Select,
        behind: Callable[[Run], None],
    ) -> None:
        space = self._spaces[at]
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
                    self._stand.taken = self._before + reader.taken
                    if reader.is_due:
                        self._note(at, stream)
                        await reader.hand_on(self.place())
        finally:
            self._note(at, stream)
            self._stand.report, self._stream = self.report, None

    async def _pour(self, lines: list[bytes], reader: Reader, selection: Selection) -> None:
        for line in lines:
            if selection.takes(line):
                reader.add(line)
                if reader.is_heavy:  # behind the run before, so this one is read again if need be
                    await reader.hand_on(self.place())
            if reader.is_full:
                return

    def _note(self, at: int, stream: RunTasks[bytes]) -> None:
        """Keep what failed, each once."""
        failed = [(at, run.run_id) for run, _ in stream.failures]
        self._stand.failed += [one for one in failed if one not in self._stand.failed]
        self.failures += stream.failures
        stream.failures.clear()

    def place(self) -> Place:
        return _as_place(self._stand, report=plain(self.report))


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
    made = replace(
        first,
        expected=replace(first.expected),
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
    made: dict[str, Any] = msgspec.to_builtins(replace(report, invalid=invalid))
    return made
