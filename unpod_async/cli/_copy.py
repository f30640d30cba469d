"""Copies rows from a list to where they go, with progress."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

from unpod_async.errors import IncompleteWalk

from ._progress import Progress

if TYPE_CHECKING:
    from unpod_async import Listing

    from ._options import Options
    from ._outcome import Outcome

Write = Callable[[bytes], None]

HELD = 1 << 20  # bytes of rows that may wait to be written


async def copy_list(
    listing: Listing[Any], write: Write, outcome: Outcome, options: Options, *, progress: bool
) -> None:
    """Every row of a list, as the server sent it, pages read in parallel."""
    async with listing.raw().walk(prefetch=options.lanes()) as walk:
        report = outcome.report = walk.report

        def total() -> int | None:
            return _least(report.expected.count_last, options.limit)

        with Progress(total, shown=progress) as bar:
            await Copier(write, outcome, options.limit, bar).copy(walk)


def _least(count: int | None, limit: int | None) -> int | None:
    return count if limit is None or count is None else min(count, limit)


class Copier:
    """Takes rows from an iterator and writes them in a worker thread, meanwhile reading on.

    The writer gets its turn whenever no row is ready, so a row waits for nothing but the
    rows of its own page, and in between a thread writes as much at once as has gathered.
    At most `HELD` bytes wait. `outcome.rows` counts what is written.
    """

    def __init__(
        self, write: Write, outcome: Outcome, limit: int | None, progress: Progress
    ) -> None:
        self._write = write
        self._progress = progress
        self._outcome = outcome
        self._limit = limit
        self._lines: list[bytes] = []
        self._size = 0
        self._ended = False
        self._failure: Exception | None = None

    async def copy(self, rows: AsyncIterator[bytes]) -> None:
        """All rows, or as many as the limit says. Raises what reading or writing raises; an
        `IncompleteWalk` goes into the outcome. What was read is written first."""
        self._ready, self._room = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(self._write_all, group.cancel_scope)
            try:
                await self._read_all(rows)
            except IncompleteWalk as error:
                self._outcome.missing = error.message
            except Exception as error:
                self._failure = error
            self._ended = True
            self._ready.set()
        if self._failure is not None:
            raise self._failure

    async def _read_all(self, rows: AsyncIterator[bytes]) -> None:
        taken = 0
        if self._limit == 0:
            self._outcome.cut_short = "limit"
            return
        async for row in rows:
            self._lines.append(row)
            self._size += len(row)
            self._ready.set()
            taken += 1
            if taken == self._limit:
                self._outcome.cut_short = "limit"
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
                # Abandoned on a signal, for whoever reads the pipe may never read again.
                await to_thread.run_sync(self._put, lines, abandon_on_cancel=True)
            except Exception as error:
                self._failure = error
                scope.cancel()
                return
            self._outcome.rows += len(lines)
            self._progress.update(self._outcome.rows)

    def _put(self, lines: list[bytes]) -> None:
        self._write(b"\n".join([*lines, b""]))
