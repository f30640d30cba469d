"""A bounded concurrent map: an async context manager over a stream of outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

__all__ = ["FanOut", "Outcome"]

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
        self._pulled = 0
        self._given = 0
        self._early: dict[int, Outcome[A, B]] = {}
        self._source_error: Exception | None = None
        self._exhausted = False

    async def __aenter__(self) -> Self:
        self._pulling = anyio.Lock()
        self._room = anyio.Semaphore(2 * self._lanes)
        self._group: TaskGroup = anyio.create_task_group()
        send, self._receive = anyio.create_memory_object_stream[tuple[int, Outcome[A, B]]](
            2 * self._lanes
        )
        await self._group.__aenter__()
        with send:
            for _ in range(self._lanes):
                self._group.start_soon(self._lane, send.clone())
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
            self._receive.close()
            if (aclose := getattr(self._items, "aclose", None)) is not None:
                await aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome[A, B]:
        receive: MemoryObjectReceiveStream[tuple[int, Outcome[A, B]]] = self._receive
        while self._given not in self._early:
            try:
                index, outcome = await receive.receive()
            except anyio.EndOfStream:
                if self._source_error is not None:
                    raise self._source_error from None
                raise StopAsyncIteration from None
            self._early[index if self._ordered else self._given] = outcome
        outcome = self._early.pop(self._given)
        self._given += 1
        self._room.release()
        return outcome

    async def _lane(self, send: MemoryObjectSendStream[tuple[int, Outcome[A, B]]]) -> None:
        with send:
            while True:
                await self._room.acquire()
                async with self._pulling:
                    if self._exhausted:
                        return
                    try:
                        item = await anext(self._items)
                    except StopAsyncIteration:
                        self._exhausted = True
                        return
                    except Exception as error:
                        self._exhausted = True
                        self._source_error = error
                        return
                    index = self._pulled
                    self._pulled += 1
                send.send_nowait((index, await self._outcome(item)))

    async def _outcome(self, item: A) -> Outcome[A, B]:
        try:
            return Outcome(item, await self._call(item), None)
        except Exception as error:
            return Outcome(item, None, error)
