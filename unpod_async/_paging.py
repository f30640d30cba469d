"""Lists: the lazy list, its pages, the rows of one walk, and the walk that reads in parallel.

Everything here carries out what `_walk` decides.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Generic, Literal, NamedTuple, Self, TypeVar

import anyio
import anyio.lowlevel
from msgspec.structs import replace

from ._checkpoint import VERSION, Checkpoint, WalkState, read_checkpoint
from ._fanout import Block, FanOut, Outcome
from ._pages import EnvelopeError, Page, RowKind
from ._protocol import Request, check_whole, excerpt
from ._report import Report
from ._retry import is_unreadable
from ._secrets import safe_text
from ._stats import NOBODY, Fetch, Operation, Stats, Telemetry
from ._walk import ChainWalk
from ._windows import Answer, CountedWalk, ServerMemory, Window, at_once
from .errors import (
    ConfigurationError,
    DecodeError,
    IncompleteWalk,
    ProtocolError,
    ResponseTooLarge,
    UnpodError,
)

__all__ = ["Begun", "Listing", "Rows", "Source", "Walk", "all_of", "now"]

T = TypeVar("T")

FetchWindow = Callable[[Window], Awaitable[bytes]]
Keys = list[Any] | None
OnInvalid = Literal["report", "raise"]


class Source(NamedTuple):
    """What all lists of one client share."""

    fetch: Fetch
    memory: ServerMemory
    stats: Stats
    base_url: str
    org_handle: str | None
    telemetry: Telemetry | None

    def operation(self, name: str, path: str, report: Report | None) -> Operation:
        return NOBODY if self.telemetry is None else self.telemetry.operation(name, path, report)


class ListOptions(NamedTuple):
    """Where a list is and how it is read."""

    path: str
    query: str = ""
    page_size: int = 200
    deadline: float | None = None
    on_invalid: OnInvalid = "report"
    run_id: str | None = None  # all rows must belong to it
    fields: Iterable[str] | None = None  # public names, all others stay None
    paged: bool = True  # whether the vendor documents paging for this list


class Listing(Generic[T]):
    """A list on the server, read when iterated; making it sends nothing.

    `async for` gives every row once, newest first, none missing that was there all the
    while; rows that were born while it was read come last, if at all. It reads one page
    at a time and leaves nothing behind when it is left early. Raises `IncompleteWalk`
    after the last readable row when something is known to be missing, and any other
    `UnpodError` when a page cannot be had.
    """

    def __init__(
        self, source: Source, kind: RowKind[Any], options: ListOptions, *, raw: bool = False
    ) -> None:
        check_whole("page_size", options.page_size)
        if options.on_invalid not in ("report", "raise"):
            raise ConfigurationError('on_invalid takes "report" or "raise"')
        self._source = source
        self._named = None if options.fields is None else _names(options.fields)
        self._kind = kind if self._named is None else _only(kind, self._named)
        self._options = options
        self._raw = raw

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}>"

    @property
    def path(self) -> str:
        """Below the base URL."""
        return self._options.path

    @property
    def page_size(self) -> int:
        return self._options.page_size

    @property
    def kind(self) -> str:
        """What its rows are: tasks, runs, spaces or organizations."""
        return self._kind.name

    @property
    def fields(self) -> tuple[str, ...] | None:
        """The names of all that is decoded; None if that is everything."""
        return self._named

    @property
    def query(self) -> str:
        """The filters, as the query has them."""
        return self._options.query

    @property
    def source(self) -> Source:
        """What it shares with the other lists of its client."""
        return self._source

    def __aiter__(self) -> Rows[T]:
        return Rows(self)

    def raw(self) -> Listing[bytes]:
        """The same list with each row as the server sent it: JSON bytes on one line, number
        text and repeated keys kept, never through a Struct. The fastest way to export. Raises
        `ConfigurationError` for a list with `fields`."""
        if self._named is not None:
            raise ConfigurationError("raw() gives whole rows as sent, it takes no fields")
        return Listing(self._source, self._kind, self._options, raw=True)

    def of_run(self, path: str, run_id: str) -> Listing[T]:
        """The list at another path, of one run alone, with the same options."""
        _, query, size, deadline, on_invalid, _, _, paged = self._options
        # The kind is narrowed to the fields already.
        options = ListOptions(path, query, size, deadline, on_invalid, run_id, None, paged)
        return Listing(self._source, self._kind, options, raw=self._raw)

    def pages(self, *, first: int = 1) -> Pages[T]:
        """The server's own pages as they are: no repetition removed, no promise made.

        Ends behind a short page that reaches its own count, at an empty page, or at one that
        repeats the page before it.
        """
        return Pages(self, check_whole("first", first))

    async def collect(self, *, limit: int | None = None) -> list[T]:
        """All rows, or the first `limit`. An `IncompleteWalk` carries the rows as `.items`."""
        if limit is not None:
            check_whole("limit", limit, least=0)
        if limit == 0:
            return []
        reader = Rows(self, limit=limit)
        with self.operation("collect", reader.report):
            return await all_of(reader)

    async def count(self) -> int | None:
        """The server's own count, by one small request; None where it gives none."""
        with self.operation("count"):
            return (await self.page(Window(1, 1))).count

    def walk(self, *, prefetch: int = 4, resume: dict[str, Any] | None = None) -> Walk[T]:
        """The same rows in the same order, read in parallel: at most `prefetch` pages under
        way. An async context manager; iterate it inside. Its `report` is the receipt.

        `resume` is what `checkpoint()` of another walk over the same list gave, or an error's
        `checkpoint`: the walk goes on behind that row, without loss or repetition, also when
        rows came and went in between. Raises `ConfigurationError` for a checkpoint of another
        job or version.
        """
        lanes = check_whole("prefetch", prefetch, most=1000)
        if resume is None:
            return Walk(_Reading(self, self.planner(lanes=lanes)), lanes)
        checkpoint = read_checkpoint(resume)
        checkpoint.check_job(self.job(checkpoint.walk))
        return Walk(_Reading(self, self.planner(lanes=lanes, resume=checkpoint.walk)), lanes)

    # -- for the readers here ---------------------------------------------------------

    def operation(self, name: str, report: Report | None = None) -> Operation:
        return self._source.operation(name, self.path, report)

    def planner(
        self, *, lanes: int = 1, limit: int | None = None, resume: WalkState | None = None
    ) -> ChainWalk[T] | CountedWalk[T]:
        size = self._options.page_size
        if not self._options.paged:
            return CountedWalk(size=size)
        size = size if limit is None else min(size, limit)
        return ChainWalk(size=size, lanes=lanes, memory=self._source.memory, resume=resume)

    def job(self, state: WalkState) -> Checkpoint:
        """A walk's state with the name of the job that it belongs to."""
        return Checkpoint(
            version=VERSION,
            base_url=self._source.base_url,
            org_handle=self._source.org_handle,
            path=self._options.path,
            query=self._options.query,
            walk=state,
        )

    def at_once(self, window: Window, answer: Answer[T]) -> Report | None:
        """The receipt, if this answer is the whole list for sure."""
        return at_once(window, answer, self._source.memory) if self._options.paged else None

    async def answer(
        self, window: Window, home: Home, fetch: FetchWindow, keys: Keys = None
    ) -> Answer[T]:
        """What the server says to a window, foreign rows left out. Raises `ResponseTooLarge`."""
        page = await self.page(window, fetch, keys)
        if page.invalid and self._options.on_invalid == "raise":
            first = page.invalid[0]
            raise DecodeError(
                f"row {window.start + first.offset}: {first.reason}", path=self._path(window)
            )
        items, ids = page.items, page.ids
        invalid = [replace(row, offset=window.start + row.offset) for row in page.invalid]
        if strangers := home.strangers(page, self._kind):
            items = [item for index, item in enumerate(items) if index not in strangers]
            ids = [row_id for index, row_id in enumerate(ids) if index not in strangers]
        return Answer(ids, items, page.length, page.count, invalid, len(strangers))

    def home(self) -> Home:
        return Home(self._options.run_id)

    async def page(
        self, window: Window, fetch: FetchWindow | None = None, keys: Keys = None
    ) -> Page[T]:
        """Fetch and decode; a body that is no envelope is asked for once more. No frame that
        raises holds the body: tracebacks may show it, and it is people's data."""
        page = self._decode(await (fetch or self.fetch)(window), window, keys)
        if isinstance(page, ProtocolError) and not window.once:
            page = self._decode(await self.fetch(window), window)
        if isinstance(page, ProtocolError):
            raise page
        return page

    def _read(self, body: bytes, keys: Keys) -> Page[Any]:
        return self._kind.decode_raw(body, keys) if self._raw else self._kind.decode(body)

    def look(self, body: bytes) -> Keys:
        """The first half of decoding an answer; None if it has no two."""
        return self._kind.keys(body) if self._raw else None

    def _decode(self, body: bytes, window: Window, keys: Keys = None) -> Page[T] | ProtocolError:
        try:
            page = self._read(body, keys)
        except EnvelopeError as error:
            return ProtocolError(
                str(error), status=200, method="GET", path=self._path(window), body=excerpt(body)
            )
        page.number = window.page
        self._source.stats.rows += len(page.items)
        if self._source.telemetry is not None:
            self._source.telemetry.rows(self.path, len(page.items))
        return page

    def fetch(self, window: Window) -> Awaitable[bytes]:
        return self._source.fetch(
            self._request(window), deadline=self._options.deadline, once=window.once
        )

    def _request(self, window: Window) -> Request:
        paging = f"page={window.page}&page_size={window.size}"
        query = f"{paging}&{self._options.query}" if self._options.query else paging
        return Request(self._options.path, query)

    def _path(self, window: Window) -> str:
        return self._request(window).target


def _names(fields: Iterable[str]) -> tuple[str, ...]:
    names = () if isinstance(fields, str) else tuple(fields)
    if not names or not all(isinstance(name, str) for name in names):
        raise ConfigurationError("fields takes the names of one or more fields of a row")
    return names


def _only(kind: RowKind[Any], names: tuple[str, ...]) -> RowKind[Any]:
    try:
        return kind.only(frozenset(names))
    except ValueError as unknown:
        said = safe_text(unknown, limit=60)
        raise ConfigurationError(f"fields: a row of {kind.name} has no {said}") from None


class Pages(Generic[T]):
    """The iterator over the server's pages, one request each."""

    def __init__(self, listing: Listing[T], first: int) -> None:
        self._listing = listing
        self._number = first
        self._before: list[str] | None = None
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Page[T]:
        if self._ended:
            raise StopAsyncIteration
        size = self._listing.page_size
        page = await self._listing.page(Window(self._number, size))
        reached = (self._number - 1) * size + page.length
        short = page.length < size and (page.count is None or reached >= page.count)
        repeated = bool(page.ids) and page.ids == self._before
        self._ended = short or page.length == 0 or repeated
        if repeated:
            raise StopAsyncIteration
        self._number, self._before = self._number + 1, page.ids
        return page


class Home:
    """The one space, and the one run where there is one, that all rows of a walk name."""

    def __init__(self, run_id: str | None) -> None:
        self._run_id = run_id
        self._space_id: str | None = None

    def strangers(self, page: Page[Any], kind: RowKind[Any]) -> frozenset[int]:
        """Positions of rows that belong elsewhere. The sets of a page make the usual case free."""
        if self._space_id is None and len(page.space_ids) == 1:
            (self._space_id,) = page.space_ids
        elif self._space_id is None and page.space_ids:
            # The most frequent one: a single stranger at the top must not disown the rest.
            named = Counter(kind.home(row)[0] for row in page.items).most_common()
            self._space_id = next((space for space, _ in named if space), None)
        foreign_space = not page.space_ids <= {self._space_id}
        foreign_run = self._run_id is not None and not page.run_ids <= {self._run_id}
        if not (foreign_space or foreign_run):
            return frozenset()
        return frozenset(
            index for index, row in enumerate(page.items) if not self._is_ours(*kind.home(row))
        )

    def _is_ours(self, space_id: str | None, run_id: str | None) -> bool:
        return (not space_id or space_id == self._space_id) and (
            self._run_id is None or not run_id or run_id == self._run_id
        )


def _is_passable(window: Window, error: UnpodError) -> bool:
    """Whether a walk may find a way round."""
    return is_unreadable(error) or (isinstance(error, ResponseTooLarge) and window.size > 1)


class Begun(NamedTuple, Generic[T]):
    """What was heard of a list before its walk began: the answer to the first window, which is
    taken out when the walk hears it."""

    home: Home
    heard: list[Answer[T] | UnpodError]

    def take(self) -> Answer[T]:
        """Raises it if it is an error."""
        if isinstance(self.heard[0], UnpodError):
            raise self.heard.pop()  # type: ignore[misc]
        return self.heard.pop()  # type: ignore[return-value]


class _Reading(Generic[T]):
    """One walk in progress: the planner, the rows ready to be handed on, the receipt."""

    def __init__(
        self,
        listing: Listing[T],
        plan: ChainWalk[T] | CountedWalk[T],
        begun: Begun[T] | None = None,
    ) -> None:
        self.listing = listing
        self._timed = begun is None  # else the times are those of the whole that it is part of
        self.plan = plan
        self.ready: deque[T] = deque()
        self._begun = Begun(listing.home(), []) if begun is None else begun
        self._bodies: dict[Window, bytes] = {}  # fetched ahead
        self._keys: dict[Window, Keys] = {}  # of these, what `look` found

    @property
    def report(self) -> Report:
        return self.plan.report

    async def ask(self, window: Window) -> Answer[T] | UnpodError:
        """The answer to a window, or the error that the walk may find a way round: too much
        for one answer, or a row that cannot be read. Raises all others."""
        try:
            if self._begun.heard:
                return self._begun.take()
            keys = self._keys.pop(window, None)
            return await self.listing.answer(window, self._begun.home, self._fetch, keys)
        except UnpodError as error:
            if not _is_passable(window, error):
                raise
            return error

    async def fetch_ahead(self, window: Window) -> None:
        """Have the answer's bytes ready for `ask`; they are decoded when it is their turn."""
        self._bodies[window] = await self._fetch(window)

    def look(self, window: Window) -> bool:
        """Decode the first half of what was fetched ahead, if there are two; whether it did."""
        if window not in self._bodies or window in self._keys:
            return False
        self._keys[window] = keys = self.listing.look(self._bodies[window])
        return keys is not None

    async def _fetch(self, window: Window) -> bytes:
        if window in self._bodies:
            return self._bodies.pop(window)
        if self._timed and self.report.started is None:
            self.report.started = now()
        if window.delay:
            await anyio.sleep(window.delay)
        return await self.listing.fetch(window)

    def take(self, window: Window) -> None:
        """The answer to a window that was fetched ahead is about to be heard."""
        self.plan.take(window)
        if not self.plan.wants(window):
            self._bodies.pop(window, None)

    def checkpoint(self) -> dict[str, Any] | None:
        """Where the walk stands behind the last row given out; None where a list cannot be
        taken up again."""
        if isinstance(self.plan, CountedWalk):
            return None
        return self.listing.job(self.plan.state(len(self.ready))).as_json()

    def hear(self, window: Window, answer: Answer[T] | UnpodError) -> None:
        """Give the planner what came. Raises the error when nothing answers any more."""
        if isinstance(answer, ResponseTooLarge):
            self.plan.shrink(window)
        elif isinstance(answer, UnpodError):
            self.ready.extend(self.plan.fail(window))
            if self.plan.outage:
                raise answer
        else:
            self.ready.extend(self.plan.feed(window, answer))
        if self._timed and self.plan.done:
            self.report.ended = now()

    def check(self) -> None:
        """Called when all rows are handed on: raise if something is known to be missing."""
        if self.report.missing:
            raise IncompleteWalk(
                f"the list is not complete: {self.report.reason}",
                report=self.report,
                method="GET",
                path=self.listing.path,
                checkpoint=self.checkpoint(),
            )


class Rows(Generic[T]):
    """The iterator of a list: fetches a whole page, then gives its rows. It holds no task
    and no connection between two rows, so it may be dropped at any point."""

    def __init__(
        self, listing: Listing[T], *, limit: int | None = None, begun: Begun[T] | None = None
    ) -> None:
        self._reading: _Reading[T] = _Reading(listing, listing.planner(limit=limit), begun)
        self._ready = self._reading.ready
        self._left = limit
        self._window: Window | None = None  # asked for, not answered yet
        self._busy = False

    @property
    def report(self) -> Report:
        return self._reading.report

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if not self._ready or self._left is not None:
            await self._fill()
        return self._ready.popleft()

    async def _fill(self) -> None:
        """At least one row at hand, and the count of those left to give one less."""
        if self._left == 0:
            raise StopAsyncIteration
        if self._busy:
            raise ConfigurationError("an iterator of a list takes one consumer at a time")
        self._busy = True
        try:
            while not self._ready:
                await self._read_on()
        except UnpodError as error:
            error.checkpoint = self._reading.checkpoint()
            raise
        finally:
            self._busy = False
        if self._left is not None:
            self._left -= 1

    def take_ready(self) -> list[T]:
        """The rows at hand, for which nothing need be asked."""
        ready = self._ready
        most = len(ready) if self._left is None else min(self._left, len(ready))
        rows = [ready.popleft() for _ in range(most)]
        if self._left is not None:
            self._left -= most
        return rows

    def is_through(self) -> bool:
        """Whether the list has been read. Raises if something is known to be missing."""
        reading = self._reading
        if not reading.plan.done or self._ready or self._left == 0:
            return False
        self._left = 0
        reading.check()
        return True

    async def _read_on(self) -> None:
        """Ask for one window more. One that was cut short, by an error or a timeout of the
        caller's, is asked for again by the next call: the list must not seem to end there."""
        reading = self._reading
        if reading.plan.outage:
            raise ConfigurationError("this iterator ended with an error; make a new one")
        if self._window is None:
            windows = reading.plan.next(1)
            if not windows:
                self._left = 0
                reading.check()
                raise StopAsyncIteration
            self._window = windows[0]
        answer = await reading.ask(self._window)
        window, self._window = self._window, None
        reading.hear(window, answer)


class Walk(Block[Window, None], Generic[T]):
    """A walk that reads several pages at once; rows come in list order all the same.

    Use it as an async context manager and iterate it inside. Whatever ends the block ends
    every request under way. `report` is the receipt, final once the iteration has ended.
    """

    def __init__(self, reading: _Reading[T], lanes: int) -> None:
        super().__init__(
            FanOut(reading.fetch_ahead, self._windows(), lanes=lanes),
            lambda: reading.listing.operation("walk", reading.report),
        )
        self._reading = reading
        self._ready = reading.ready
        self._busy = False
        # Taken and not heard yet, and its answer: a call that was cancelled leaves them here.
        self._outcome: Outcome[Window, None] | None = None
        self._answer: Answer[T] | UnpodError | None = None
        self._error: Exception | None = None  # what ended the walk, for who asks again

    @property
    def report(self) -> Report:
        return self._reading.report

    def checkpoint(self) -> dict[str, Any]:
        """Where the walk stands behind the last row it gave out: small, JSON, and enough for
        `walk(resume=…)` in another process. None of it is secret."""
        checkpoint = self._reading.checkpoint()
        if checkpoint is None:
            raise ConfigurationError("checkpoint: the paging of this list is not documented")
        return checkpoint

    async def __anext__(self) -> T:
        if self._state != "open" or not self._ready:
            await self._read_on()
        return self._ready.popleft()

    def take_ready(self, most: int) -> list[T]:
        """At most so many of the rows at hand, for which nothing need be asked."""
        ready = self._ready
        return [ready.popleft() for _ in range(min(most, len(ready)))]

    async def _read_on(self) -> None:
        self._check_inside()
        if self._error is not None:
            raise self._error
        if self._busy:
            raise ConfigurationError("a walk takes one consumer at a time")
        self._busy = True
        try:
            await self._fill()
        except StopAsyncIteration:
            raise
        except Exception as error:
            self._error = error
            raise
        finally:
            self._busy = False

    async def _fill(self) -> None:
        reading = self._reading
        while not reading.ready:
            if self._outcome is None:
                self._outcome = await self._taken()
                # Its lane is free: the next request goes out before this page is decoded.
                await anyio.lowlevel.checkpoint()
            window, _, error = self._outcome
            if reading.plan.wants(window):
                await self._hear(window, error)
            self._outcome = None
            self._heard.set()

    async def _taken(self) -> Outcome[Window, None]:
        try:
            outcome = await anext(self._stream)
        except StopAsyncIteration:
            self._reading.check()
            raise
        self._reading.take(outcome.item)
        self._heard.set()
        return outcome

    async def _hear(self, window: Window, error: Exception | None) -> None:
        reading = self._reading
        try:
            if error is None:
                await self._ask(window)
                answer, self._answer = self._answer, None
                assert answer is not None
                reading.hear(window, answer)
            elif isinstance(error, UnpodError) and _is_passable(window, error):
                reading.hear(window, error)
            else:
                raise error
        except UnpodError as failure:
            failure.checkpoint = reading.checkpoint()
            raise

    async def _ask(self, window: Window) -> None:
        """Have the answer. A page is long: others have their turns between its parts."""
        if self._answer is None:
            if self._reading.look(window):
                await anyio.lowlevel.checkpoint()
            self._answer = await self._reading.ask(window)
            await anyio.lowlevel.checkpoint()

    async def _windows(self) -> AsyncIterator[Window]:
        """Windows as the planner wants them; waits while it needs answers first."""
        plan = self._reading.plan
        while not plan.done:
            self._heard = anyio.Event()
            for window in plan.next(1):
                yield window
                break
            else:
                await self._heard.wait()


async def all_of(reader: Rows[T]) -> list[T]:
    """All rows; an `IncompleteWalk` carries them. None stays in the frame when an error ends
    it, for a traceback that shows locals would show people's data."""
    rows: list[T] = []
    try:
        while True:
            rows.append(await anext(reader))
            rows += reader.take_ready()
            if reader.is_through():
                return rows
    except StopAsyncIteration:
        return rows
    except BaseException as error:
        if isinstance(error, IncompleteWalk):
            error.items = rows
        del rows
        raise


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
