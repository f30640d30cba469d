"""Lists as users have them: read when they are iterated, by page, whole, or by a walk."""

from __future__ import annotations

from typing import Any, Generic, Self, TypeVar

from ._checkpoint import read_checkpoint
from ._pager import ListOptions, Pager
from ._pages import Page
from ._protocol import check_whole
from ._reading import Reading, Rows, Walk, all_of
from ._windows import Window
from .errors import ConfigurationError

__all__ = ["Listing", "Pages"]

T = TypeVar("T")


class Listing(Pager[T]):
    """A list on the server, read when iterated; making it sends nothing.

    `async for` gives every row once, newest first, none missing that was there all the
    while; rows that were born while it was read come last, if at all. It reads one page
    at a time and leaves nothing behind when it is left early. Raises `IncompleteWalk`
    after the last readable row when something is known to be missing, and any other
    `UnpodError` when a page cannot be had.
    """

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}>"

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
            return Walk(Reading(self, self.planner(lanes=lanes)), lanes)
        checkpoint = read_checkpoint(resume)
        checkpoint.check_job(self.job(checkpoint.walk))
        return Walk(Reading(self, self.planner(lanes=lanes, resume=checkpoint.walk)), lanes)


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
