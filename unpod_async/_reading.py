"""The rows of one walk over a list: one page at a time, or several at once.

Everything here carries out what `_walk` decides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any, Generic, NamedTuple, Self, TypeVar

import anyio
import anyio.lowlevel

from ._fanout import Block, FanOut, Outcome
from ._pager import Home, Keys, Pager
from ._report import Report
from ._retry import is_unreadable
from ._walk import ChainWalk
from ._windows import Answer, CountedWalk, Window
from .errors import ConfigurationError, IncompleteWalk, ResponseTooLarge, UnpodError

__all__ = ["Begun", "Reading", "Rows", "Walk", "all_of", "now"]

T = TypeVar("T")


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


class Reading(Generic[T]):
    """One walk in progress: the planner, the rows ready to be handed on, the receipt."""

    def __init__(
        self,
        listing: Pager[T],
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
        self, listing: Pager[T], *, limit: int | None = None, begun: Begun[T] | None = None
    ) -> None:
        self._reading: Reading[T] = Reading(listing, listing.planner(limit=limit), begun)
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

    def __init__(self, reading: Reading[T], lanes: int) -> None:
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

    def at_hand(self) -> Iterator[T]:
        """The rows for which nothing need be asked, each given out when it is its turn."""
        while self._ready:
            yield self._ready.popleft()

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
