"""Leaving early, in every way, leaves nothing behind."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from typing import Any

import aiohttp
import anyio
import pytest

from unpod_async import (
    ConfigurationError,
    Limits,
    Listing,
    Run,
    SpaceHandle,
    Task,
    UnpodClient,
    UnpodError,
)
from unpod_async._run_tasks import RunTasks
from unpod_async.simulator import Simulator

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(seed=5, runs=6, tasks=300) as simulator:
        yield simulator


@pytest.fixture
async def client(sim: Simulator) -> AsyncIterator[UnpodClient]:
    async with UnpodClient(
        token=sim.token, base_url=sim.base_url, limits=Limits(adaptive=False)
    ) as opened:
        yield opened


@pytest.fixture
def space(client: UnpodClient, sim: Simulator) -> SpaceHandle:
    return client.space(sim.space_token)


async def iterate(space: SpaceHandle) -> None:
    async for _ in space.tasks(page_size=50):
        pass


async def collect(space: SpaceHandle) -> None:
    await space.tasks(page_size=50).collect()


async def pages(space: SpaceHandle) -> None:
    async for _ in space.tasks(page_size=50).pages():
        pass


async def walk(space: SpaceHandle) -> None:
    async with space.tasks(page_size=50).walk(prefetch=4) as rows:
        async for _ in rows:
            pass


async def fan_out(space: SpaceHandle) -> None:
    async with space.run_tasks(concurrency=4) as stream:
        async for _ in stream:
            pass


async def fan_out_in_order(space: SpaceHandle) -> None:
    async with space.run_tasks(concurrency=4, ordered=True) as stream:
        async for _ in stream:
            pass


WAYS = [iterate, collect, pages, walk, fan_out, fan_out_in_order]


async def settle() -> None:
    """Let what was cancelled run to its end."""
    for _ in range(20):
        await asyncio.sleep(0)


def assert_nothing_left(client: UnpodClient, before: set[asyncio.Task[object]]) -> None:
    transport = client._transport
    assert transport._gate is not None
    assert transport._session is not None
    connector = transport._session.connector
    assert connector is not None
    assert transport._gate.limiter.borrowed_tokens == 0
    assert not connector._acquired
    left = [
        task
        for task in asyncio.all_tasks() - before
        if "aiohttp/web" not in repr(task) and "simulator" not in repr(task)
    ]
    assert left == []


@pytest.mark.parametrize("way", WAYS)
async def test_a_cancellation_at_any_loop_step_leaves_nothing(
    client: UnpodClient, space: SpaceHandle, way: Callable[[SpaceHandle], Awaitable[None]]
) -> None:
    await way(space)
    for steps in range(400):
        before = asyncio.all_tasks()
        task = asyncio.ensure_future(way(space))
        for _ in range(steps):
            await asyncio.sleep(0)
        finished = task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) if not finished else anyio.CancelScope():
            await task
        await settle()
        assert_nothing_left(client, before)
        if finished:
            break
    await way(space)


def cancel_after(scope: anyio.CancelScope, steps: int) -> None:
    if steps:
        asyncio.get_running_loop().call_soon(cancel_after, scope, steps - 1)
    else:
        scope.cancel()


async def all_of(reader: AsyncIterator[Task], steps: int) -> list[str]:
    """Every call is cancelled after so many steps of the loop, if it takes that many."""
    rows: list[str] = []
    while True:
        with anyio.CancelScope() as scope:
            cancel_after(scope, steps)
            try:
                rows.append((await anext(reader)).task_id)
            except StopAsyncIteration:
                return rows


async def test_a_walk_loses_nothing_by_calls_that_are_cancelled(space: SpaceHandle) -> None:
    tasks = space.tasks(page_size=20)
    whole = [task.task_id for task in await tasks.collect()]
    for steps in range(1, 30):
        async with tasks.walk(prefetch=3) as rows:
            assert await all_of(rows, steps) == whole
            assert rows.report.verified


@pytest.mark.parametrize("raw", [False, True])
async def test_a_walk_gets_on_however_soon_its_calls_are_cancelled(
    client: UnpodClient, space: SpaceHandle, raw: bool
) -> None:
    """As `asyncio.timeout` does it, which no shield keeps off: nothing is asked for twice, and no
    row is in a frame of a traceback."""
    tasks: Listing[Any] = space.tasks(page_size=20)
    tasks = tasks.raw() if raw else tasks
    async with tasks.walk(prefetch=3) as reader:
        whole = [row async for row in reader]
    requests = client.stats.requests
    for steps in range(1, 8):
        rows: list[Any] = []
        before = client.stats.requests
        async with tasks.walk(prefetch=3) as reader:
            for _ in range(50_000):
                call = asyncio.ensure_future(anext(reader))
                for _ in range(steps):
                    await asyncio.sleep(0)
                call.cancel()
                try:
                    rows.append(await call)
                except asyncio.CancelledError as error:
                    told = traceback.TracebackException.from_exception(error, capture_locals=True)
                    inside = [frame.locals for frame in told.stack[1:]]  # the first is this one
                    assert "task_id" not in str(inside)
                if len(rows) == len(whole):
                    break
            assert rows == whole
        assert client.stats.requests - before <= requests


@pytest.mark.parametrize("way", [walk, fan_out])
@pytest.mark.parametrize("delay", [0.0, 0.001, 0.005])
async def test_a_scope_that_times_out_is_left_without_a_trace(
    client: UnpodClient,
    space: SpaceHandle,
    way: Callable[[SpaceHandle], Awaitable[None]],
    delay: float,
) -> None:
    before = asyncio.all_tasks()
    with anyio.move_on_after(delay):
        await way(space)
    await settle()
    assert_nothing_left(client, before)


async def test_a_break_leaves_nothing(client: UnpodClient, space: SpaceHandle) -> None:
    before = asyncio.all_tasks()
    async for _ in space.tasks(page_size=50):
        break
    async for _ in space.tasks(page_size=50).pages():
        break
    async with space.tasks(page_size=50).walk(prefetch=4) as rows:
        async for _ in rows:
            break
    async with space.run_tasks(concurrency=4) as stream:
        async for _ in stream:
            break
    await settle()
    assert_nothing_left(client, before)


class ConsumerError(Exception):
    pass


async def test_the_consumer_s_own_exception_is_the_one_that_is_seen(
    client: UnpodClient, space: SpaceHandle
) -> None:
    before = asyncio.all_tasks()
    with pytest.raises(ConsumerError):
        async for _ in space.tasks(page_size=50):
            raise ConsumerError
    with pytest.raises(ConsumerError):
        async with space.tasks(page_size=50).walk(prefetch=4) as rows:
            async for _ in rows:
                raise ConsumerError
    with pytest.raises(ConsumerError):
        async with space.run_tasks(concurrency=4) as stream:
            async for _ in stream:
                raise ConsumerError
    await settle()
    assert_nothing_left(client, before)


async def test_a_slow_consumer_holds_the_readers_back(sim: Simulator, space: SpaceHandle) -> None:
    async with space.tasks(page_size=20).walk(prefetch=3) as rows:
        await anext(rows)
        await settle()
        for _ in range(200):
            await asyncio.sleep(0)
        assert len(sim.requests) <= 4
    async with space.run_tasks(concurrency=2) as stream:
        await anext(stream)
        for _ in range(200):
            await asyncio.sleep(0)
    assert len(sim.requests) <= 4 + 1 + 2 * (1 + 4)


async def test_several_workers_may_share_a_fan_out(space: SpaceHandle) -> None:
    seen: list[str] = []

    async def worker(stream: RunTasks[Task]) -> None:
        async for _, tasks in stream:
            seen.extend(task.task_id for task in tasks)
            await asyncio.sleep(0)

    with anyio.fail_after(20):
        async with space.run_tasks(concurrency=4) as stream, anyio.create_task_group() as workers:
            for _ in range(3):
                workers.start_soon(worker, stream)
    assert sorted(seen) == sorted([task.task_id async for task in space.tasks()])
    assert stream.report.verified


async def test_a_second_consumer_of_a_walk_is_refused_and_does_not_hang(
    space: SpaceHandle,
) -> None:
    async with space.tasks(page_size=20).walk(prefetch=2) as rows:
        async with anyio.create_task_group() as consumers:
            consumers.start_soon(anext, rows)
            await asyncio.sleep(0)
            with pytest.raises(ConfigurationError, match="one consumer"):
                await anext(rows)
        rest = [task.task_id async for task in rows]
    assert len(rest) == len(set(rest)) == 299


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_runs_whose_source_was_cancelled_are_no_end_of_the_runs(
    space: SpaceHandle, concurrency: int
) -> None:
    ids = [run.run_id async for run in space.runs()]

    async def runs() -> AsyncIterator[Run]:
        for run_id in ids[:3]:
            yield Run.of(run_id)
        somebody_s = asyncio.get_running_loop().create_future()
        somebody_s.cancel()
        await somebody_s

    came = 0
    with pytest.raises(ConfigurationError, match="cancelled, and not by who reads"):
        async with space.run_tasks(runs(), concurrency=concurrency) as stream:
            async for _ in stream:
                came += 1
    assert came == 3


async def fan_out_all(space: SpaceHandle) -> None:
    ids = [run.run_id async for run in space.runs()]
    async with space.run_tasks(ids, concurrency=8, on_error="collect") as stream:
        came = [run async for run, _ in stream]
    assert len(came) + len(stream.failures) == 30
    raise stream.failures[0][1]


@pytest.mark.parametrize("way", [iterate, pages, walk, fan_out, fan_out_all])
async def test_a_connector_that_is_closed_meanwhile_is_told(
    way: Callable[[SpaceHandle], Awaitable[None]],
) -> None:
    """aiohttp cancels those who wait for one of its connections, as if they had been left."""
    async with Simulator(seed=5, runs=30, tasks=300, latency=0.02) as sim:
        connector = aiohttp.TCPConnector(limit=1)
        answered, answers = anyio.Event(), count(1)
        async with UnpodClient(
            token=sim.token,
            base_url=sim.base_url,
            connector=connector,
            on_event=lambda _: answered.set() if next(answers) == 3 else None,
        ) as client:
            space = client.space(sim.space_token)
            async with anyio.create_task_group() as group:

                async def close() -> None:
                    await answered.wait()
                    await connector.close()

                group.start_soon(close)
                with pytest.raises(UnpodError):
                    await way(space)
