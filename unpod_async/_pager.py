"""One list on the server: how its pages are asked for, and what an answer says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from msgspec.structs import replace

from ._checkpoint import VERSION, Checkpoint, WalkState
from ._pages import EnvelopeError, Page, RowKind
from ._protocol import Request, check_whole, excerpt
from ._report import Report
from ._secrets import safe_text
from ._stats import NOBODY, Fetch, Operation, Stats, Telemetry
from ._walk import ChainWalk
from ._windows import Answer, CountedWalk, ServerMemory, Window, at_once
from .errors import ConfigurationError, DecodeError, ProtocolError

__all__ = ["Home", "Keys", "ListOptions", "OnInvalid", "Pager", "Source"]

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


class Pager(Generic[T]):
    """How one list is asked for a page, and what its answers hold. It keeps nothing of them."""

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
