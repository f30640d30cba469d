"""A bounded concurrent map: an async context manager over a stream of outcomes, and the block
that both streams of rows are.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from ._stats import Operation
from .errors import ConfigurationError

__all__ = ["Block", "FanOut", "Outcome"]

A = TypeVar("A")
B = TypeVar("B")


class Outcome(NamedTuple, Generic[A, B]):
    """What became of one item: `value`, or the `error` that the call raised."""

    item: A
    value: B | None
    error: Exception | None


class FanOut(Generic[A, B]):
    """`call(item)` for every item, by a fixed number of lanes that pull from one iterator:
    `lanes` tasks exist, however many items there are.

    Outcomes come as they are completed, or with `ordered=True` in the items' order. At most
    `2 * lanes` items are under way or waiting to be taken. An error of the iterator itself
    is raised where the outcomes are taken. Leaving the context cancels and awaits all.
    """

    def __init__(
        self,
        call: Callable[[A], Awaitable[B]],
        items: AsyncIterator[A],
        *,
        lanes: int,
        ordered: bool = False,
    ) -> None:
        self._call = call
        self._items = items
        self._lanes = lanes
        self._ordered = ordered
        self._pulled = 0  # items
        self._come = 0  # outcomes
        self._given = 0  # … to the consumer
        self._ready: dict[int, Outcome[A, B]] = {}  # by the place in which they are given
        self._source_error: Exception | None = None
        self._exhausted = False

    async def __aenter__(self) -> Self:
        self._room = anyio.Semaphore(2 * self._lanes)
        self._pulling = False  # a lane waits for the iterator
        self._turns: deque[asyncio.Event] = deque()  # … and these for their turn
        self._group: TaskGroup = anyio.create_task_group()
        self._left = self._lanes
        self._awaited: asyncio.Event | None = None
        await self._group.__aenter__()
        for _ in range(self._lanes):
            self._group.start_soon(self._lane)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        self._group.cancel_scope.cancel()
        try:
            # Lanes raise nothing of their own, so the group has no errors to wrap; only a
            # cancellation from outside is its business.
            if isinstance(error, asyncio.CancelledError):
                return await self._group.__aexit__(kind, error, trace)
            await self._group.__aexit__(None, None, None)
            return None
        finally:
            if (aclose := getattr(self._items, "aclose", None)) is not None:
                await aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome[A, B]:
        while self._given not in self._ready:
            if not self._left:
                if self._source_error is not None:
                    raise self._source_error from None
                raise StopAsyncIteration
            if self._awaited is None:  # else another consumer waits already
                self._awaited = asyncio.Event()
            await self._awaited.wait()
        outcome = self._ready.pop(self._given)
        self._given += 1
        self._room.release()
        return outcome

    async def _lane(self) -> None:
        try:
            while (pulled := await self._pull()) is not None:
                index, item = pulled
                try:
                    outcome = Outcome(item, await self._call(item), None)
                except Exception as error:
                    outcome = Outcome(item, None, error)
                except asyncio.CancelledError as error:
                    outcome = Outcome(item, None, _from_inside(error))
                self._ready[index if self._ordered else self._come] = outcome
                self._come += 1
                self._tell()
                if outcome.error is not None:
                    await anyio.lowlevel.checkpoint()  # it may be the consumer's last item
                del outcome, item, pulled  # an error's traceback may hold this frame
        finally:
            self._left -= 1
            self._tell()

    async def _pull(self) -> tuple[int, A] | None:
        """The next item and its place, once there is room for what becomes of it."""
        try:
            self._room.acquire_nowait()  # a tenth of the cost of the other, if there is room
        except anyio.WouldBlock:
            await self._room.acquire()
        # Not a lock: with that, lanes that once had to queue would queue for ever after, for
        # it is handed on to the next one, which needs a turn of the event loop to take it.
        while self._pulling:
            self._turns.append(turn := asyncio.Event())
            await turn.wait()
        self._pulling = True
        try:
            if self._exhausted:
                return None
            item = await anext(self._items)
        except StopAsyncIteration:
            self._exhausted = True
            return None
        except (Exception, asyncio.CancelledError) as error:
            self._source_error = _from_inside(error)
            self._exhausted = True
            return None
        finally:
            self._pulling = False
            if self._turns:
                self._turns.popleft().set()
        self._pulled += 1
        return self._pulled - 1, item

    def _tell(self) -> None:
        if self._awaited is not None:
            self._awaited.set()
            self._awaited = None


def _from_inside(error: Exception | asyncio.CancelledError) -> Exception:
    """A cancellation that is not of this task is an error of what it waited for: else it would
    end the block without a word. One that is goes on."""
    if not isinstance(error, asyncio.CancelledError):
        return error
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise error
    return ConfigurationError("what was waited for was cancelled, and not by who reads this")


class Block(Generic[A, B]):
    """A stream of parallel readers that is entered once, and iterated inside."""

    def __init__(self, stream: FanOut[A, B], begin: Callable[[], Operation]) -> None:
        self._stream = stream
        self._begin = begin
        self._state = "new"

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise ConfigurationError("this can be entered once; make a new one from the list")
        self._state = "open"
        self._operation = self._begin()
        with self._operation.current():  # for the lanes alone: what the caller does is not ours
            await self._stream.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        self._state = "left"
        try:
            return await self._stream.__aexit__(kind, error, trace)
        finally:
            self._operation.end(error)

    def __aiter__(self) -> Self:
        return self

    def _check_inside(self) -> None:
        if self._state != "open":
            raise ConfigurationError("iterate this inside its own `async with` block")
