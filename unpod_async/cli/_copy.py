"""Copies rows from a list to where they go, with progress."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

from ..errors import IncompleteWalk, UnpodError
from ._progress import Progress

if TYPE_CHECKING:
    from .._client import SpaceHandle
    from .._paging import Listing, RunTasks
    from ._options import Options
    from ._outcome import Outcome

Write = Callable[[bytes], None]

HELD = 1 << 20  # bytes of rows that may wait to be written


async def copy_list(
    listing: Listing[Any], write: Write, outcome: Outcome, options: Options, *, progress: bool
) -> None:
    """Every row of a list, as the server sent it, pages read in parallel."""
    if options.limit == 0:
        outcome.cut_short = True
        return
    async with listing.raw().walk(prefetch=options.lanes()) as walk:
        report = outcome.report = walk.report
        copier = Copier(write, outcome, options.limit)
        with Progress(outcome, lambda: report.expected.count_last, options.limit, shown=progress):
            await copier.copy(walk)


async def copy_runs(
    space: SpaceHandle, write: Write, outcome: Outcome, options: Options, *, progress: bool
) -> None:
    """Every task of every run, several runs read at once."""
    total = None
    if progress:
        try:
            total = await space.tasks().count()
        except UnpodError:  # the rows will tell
            total = None
    streams = space.run_tasks_raw(concurrency=options.lanes(16), page_size=options.page_size)
    async with streams as stream:
        outcome.report, outcome.failures = stream.report, stream.failures
        copier = Copier(write, outcome, options.limit)
        with Progress(outcome, lambda: total, options.limit, shown=progress):
            await copier.copy(_flat(stream))


async def _flat(stream: RunTasks[bytes]) -> AsyncIterator[bytes]:
    async for _, tasks in stream:
        for task in tasks:
            yield task


class Copier:
    """Takes rows from an iterator and writes them in a worker thread, meanwhile reading on.

    The writer gets its turn whenever no row is ready, so a row waits for nothing but the
    rows of its own page, and in between a thread writes as much at once as has gathered.
    At most `HELD` bytes wait. `outcome.rows` counts what is written.
    """

    def __init__(self, write: Write, outcome: Outcome, limit: int | None) -> None:
        self._write = write
        self._outcome = outcome
        self._limit = limit
        self._lines: list[bytes] = []
        self._size = 0
        self._ended = False
        self._error: OSError | None = None

    async def copy(self, rows: AsyncIterator[bytes]) -> None:
        """All rows, or as many as the limit says. Raises what reading or writing raises, but
        for `IncompleteWalk`, which the report tells of; what was read is written first."""
        failure: Exception | None = None
        self._ready, self._room = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(self._write_all, group.cancel_scope)
            try:
                await self._read_all(rows)
            except IncompleteWalk:
                pass
            except Exception as error:
                failure = error
            self._ended = True
            self._ready.set()
        if self._error or failure:
            raise self._error or failure  # type: ignore[misc]

    async def _read_all(self, rows: AsyncIterator[bytes]) -> None:
        taken = 0
        if self._limit == 0:
            self._outcome.cut_short = True
            return
        async for row in rows:
            self._lines.append(row)
            self._size += len(row)
            self._ready.set()
            taken += 1
            if taken == self._limit:
                self._outcome.cut_short = True
                return
            if self._size >= HELD:
                self._room = anyio.Event()
                await self._room.wait()

    async def _write_all(self, scope: anyio.CancelScope) -> None:
        while True:
            await self._ready.wait()
            lines, self._lines, self._size = self._lines, [], 0
            if not lines and self._ended:
                return
            self._ready = anyio.Event()
            if self._ended:
                self._ready.set()
            self._room.set()
            try:
                await to_thread.run_sync(self._write, b"\n".join([*lines, b""]))
            except OSError as error:
                self._error = error
                scope.cancel()
                return
            self._outcome.rows += len(lines)
