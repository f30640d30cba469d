"""Lists as tables in memory: Arrow, polars, pandas."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from unpod_async import ConfigurationError, IncompleteWalk, RetryPolicy, UnpodClient
from unpod_async.export import record_batches, to_arrow, to_pandas, to_polars
from unpod_async.simulator import Simulator

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(seed=5, runs=6, tasks=250) as simulator:
        yield simulator


@pytest.fixture
async def client(sim: Simulator) -> AsyncIterator[UnpodClient]:
    retry = RetryPolicy(attempts=1)
    async with UnpodClient(
        token=sim.token, base_url=sim.base_url, org_handle=sim.org_handle, retry=retry
    ) as made:
        yield made


async def test_any_list_of_ours_becomes_an_arrow_table(sim: Simulator, client: UnpodClient) -> None:
    space = client.space(sim.space_token)
    tasks = await to_arrow(space.tasks(page_size=100))
    assert tasks.column("task_id").to_pylist() == sim.world.task_ids()
    rows = await space.tasks().collect()
    assert tasks.column("call_duration").to_pylist() == [task.call.duration for task in rows]
    turns = [[turn["text"] for turn in said] for said in tasks.column("transcript").to_pylist()]
    assert turns == [[turn.text for turn in task.call.transcript] for task in rows]
    assert await to_arrow(rows) == tasks
    runs = await to_arrow(space.runs())
    assert runs.column("run_id").to_pylist() == sim.world.run_ids()
    run = sim.world.run_ids()[0]
    one = await to_arrow(space.run(run).tasks())
    assert one.column("task_id").to_pylist() == sim.world.task_ids(run)
    spaces = await to_arrow(client.spaces())
    assert spaces.column("token").to_pylist() == [sim.space_token]
    assert (await to_arrow(client.organizations())).num_rows == 1
    async with space.run_tasks() as stream:
        everything = await to_arrow(stream)
    assert sorted(everything.column("task_id").to_pylist()) == sorted(sim.world.task_ids())


async def test_polars_and_pandas(sim: Simulator, client: UnpodClient) -> None:
    tasks = client.space(sim.space_token).tasks()
    arrow = await to_arrow(tasks)
    for frame in (await to_polars(tasks), await to_pandas(tasks)):
        assert list(frame["task_id"]) == sim.world.task_ids()
        sent = [text for text in frame["input"] if isinstance(text, str)]
        assert sent == [text for text in arrow.column("input").to_pylist() if text is not None]
        assert all(isinstance(json.loads(text), dict) for text in sent)
        assert str(frame["created_at"].dtype).startswith(("Datetime", "datetime64[us, UTC"))


async def test_batches_come_as_they_are_read(sim: Simulator, client: UnpodClient) -> None:
    tasks = client.space(sim.space_token).tasks(page_size=50)
    sizes: list[int] = []
    async with aclosing(record_batches(tasks, batch_rows=60)) as batches:
        async for batch in batches:
            sizes.append(batch.num_rows)
            break
    assert len(sim.requests) <= 4
    async with aclosing(record_batches(tasks, nested="json", batch_rows=60)) as batches:
        found = [batch async for batch in batches]
    assert [batch.num_rows for batch in found] == [60, 60, 60, 60, 10]


async def test_fields_narrow_the_table(sim: Simulator, client: UnpodClient) -> None:
    space = client.space(sim.space_token)
    table = await to_arrow(space.tasks(fields=("status", "created_at")))
    assert {"task_id", "status", "created_at"} <= set(table.schema.names)
    assert not {"input", "output", "call_id", "row_hash"} & set(table.schema.names)
    rows = await space.tasks().collect()
    assert table.column("status").to_pylist() == [task.status for task in rows]
    calls = await to_arrow(space.tasks(fields=("call",)))
    assert calls.column("call_summary").to_pylist() == [task.call.summary for task in rows]


async def test_empty_lists(client: UnpodClient, sim: Simulator) -> None:
    sim.world.delete(*sim.world.task_ids())
    table = await to_arrow(client.space(sim.space_token).tasks())
    assert (table.num_rows, "call_id" in table.schema.names) == (0, True)
    assert (await to_arrow([])).num_rows == 0


async def test_what_is_no_list_of_ours_is_refused(client: UnpodClient, sim: Simulator) -> None:
    (space,) = await client.spaces().collect()
    (task, *_) = await client.space(sim.space_token).tasks().collect()
    wrong: Any
    for wrong in (iter(()), "tasks", [task, space], [{"task_id": "T"}]):
        with pytest.raises(ConfigurationError):
            await to_arrow(wrong)


async def test_a_list_that_is_not_complete_gives_no_table() -> None:
    async with Simulator(runs=1, tasks=9) as sim:
        sim.world.poison(sim.world.task_ids()[4])
        async with UnpodClient(
            token=sim.token, base_url=sim.base_url, retry=RetryPolicy(attempts=1)
        ) as client:
            tasks = client.space(sim.space_token).tasks()
            with pytest.raises(IncompleteWalk):
                await to_arrow(tasks)
            found = []
            with pytest.raises(IncompleteWalk):
                async for batch in record_batches(tasks):
                    found += batch.column("task_id").to_pylist()
    assert len(found) == 8


@pytest.mark.parametrize("function", ["to_arrow", "record_batches"])
def test_without_pyarrow_the_extra_is_named(function: str) -> None:
    code = f"""
import asyncio, sys
sys.modules["pyarrow"] = None
from unpod_async.export import record_batches, to_arrow
async def main():
    if {function!r} == "to_arrow":
        await to_arrow([])
    async for _ in record_batches([]):
        pass
try:
    asyncio.run(main())
except Exception as error:
    print(type(error).__name__, error)
"""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert ran.stdout.startswith("ConfigurationError pyarrow is not installed")
    assert 'pip install "unpod-async[arrow]"' in ran.stdout
