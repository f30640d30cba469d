"""Walks that are left anywhere and taken up again, as if in another process."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from walk_model import Churn, ModelList, read_on

from unpod_async import BusinessError, ConfigurationError, SpaceHandle, UnpodClient
from unpod_async._checkpoint import Relink, WalkState
from unpod_async._walk import ChainWalk
from unpod_async.simulator import Simulator


def leg(
    model: ModelList, state: WalkState | None, size: int, most: int
) -> tuple[list[str], ChainWalk[str], int]:
    """Read on from `state` until `most` rows are given out; also says how many more were
    read and not given out."""
    plan: ChainWalk[str] = ChainWalk(size=size, resume=state)
    ready: list[str] = []
    while len(ready) < most and not plan.done:
        [window] = plan.next(1)
        answer = model.answer(window)
        ready += plan.feed(window, answer) if answer else plan.fail(window)
    return ready[:most], plan, len(ready[most:])


@pytest.mark.parametrize("size", [20, 50, 200])
def test_a_walk_left_anywhere_goes_on_without_loss_or_repetition(size: int) -> None:
    proved = 0
    for seed in range(150):
        rng = random.Random(f"{size}{seed}")
        model = ModelList(rng.choice([5, 60, 1000]), rng, Churn(inserts=0.3, deletes=0.3))
        rows: list[str] = []
        state: WalkState | None = None
        while True:
            got, plan, left = leg(model, state, size, rng.choice([0, 1, 7, 100, 400, 5000]))
            rows += got
            if plan.done and not left:
                break
            state = msgspec.json.decode(msgspec.json.encode(plan.state(left)), type=WalkState)
            model.churn = Churn(inserts=1, deletes=rng.choice([0, 0.3, 1]))
            for _ in range(rng.choice([0, 0, 5, 100, 600])):
                model.change()
            model.churn = Churn(inserts=0.3, deletes=0.3)
        assert len(rows) == len(set(rows)), seed
        assert model.stable <= set(rows), (seed, plan.report.reason, plan.report.missing)
        proved += plan.report.verified
    assert proved > 110


@pytest.mark.parametrize("moved", ["pushed down", "pulled up", "both"])
def test_the_place_is_found_by_identity_after_thousands_of_changes(moved: str) -> None:
    rng = random.Random(moved)
    model = ModelList(20_000, rng)
    got, plan, left = leg(model, None, 500, 9_000)
    state = plan.state(left)
    if moved != "pulled up":
        model.rows[:0] = [f"N{number}" for number in range(8_000)]
    if moved != "pushed down":
        gone = set(rng.sample(model.rows[:16_000], 7_000))
        model.rows = [row for row in model.rows if row not in gone]
        model.stable -= gone
    before = model.requests
    rest, plan, _ = leg(model, state, 500, 10**6)
    assert model.stable <= {*got, *rest}
    assert len({*got, *rest}) == len(got) + len(rest)
    assert model.requests - before < 110


def test_a_checkpoint_is_small() -> None:
    _, plan, left = leg(ModelList(20_000, random.Random(1)), None, 500, 15_000)
    assert len(msgspec.json.encode(plan.state(left))) < 10_000


def test_a_walk_whose_remembered_rows_all_died_says_so() -> None:
    model = ModelList(5_000, random.Random(1))
    _, plan, left = leg(model, None, 200, 3_000)
    model.rows = [f"N{number}" for number in range(3_000)]
    _, plan, _ = leg(model, plan.state(left), 200, 10**6)
    assert plan.report.missing
    assert "checkpoint" in (plan.report.reason or "")


def test_the_search_for_the_place_ends_where_the_rows_do_whatever_the_count_says() -> None:
    model = ModelList(3_000, random.Random(1), count=lambda _: 10**12)
    _, plan, left = leg(model, None, 100, 1_000)
    model.rows = [f"N{number}" for number in range(3_000)]
    before = model.requests
    _, plan, _ = leg(model, plan.state(left), 100, 10**6)
    assert plan.report.missing
    assert model.requests - before < 100


def test_the_search_for_the_place_does_not_run_after_a_list_that_grows_faster() -> None:
    _, plan, left = leg(ModelList(1_500, random.Random(1)), None, 10, 300)
    relink = Relink(plan.state(left))
    asked = 1
    while relink.missed(1_500 + 20 * asked, 10, relink.window(10, 10).end):
        asked += 1
        assert asked < 1_000, "endless"


def test_a_count_without_bounds_makes_no_walk_without_end() -> None:
    churn = Churn(inserts=8, deletes=8, second_query=True)
    for seed in range(20):
        model = ModelList(1000, random.Random(seed), churn, cap=42, count=lambda _: 10**12)
        _, plan, left = leg(model, None, 200, 30)
        for _ in range(200):
            model.change()
        again: ChainWalk[str] = ChainWalk(size=200, lanes=8, resume=plan.state(left))
        read_on(again, model, lanes=8, max_requests=3_000)
        assert not again.report.verified


def test_a_row_that_moved_up_between_two_legs_is_not_lost() -> None:
    """Even of a list that comes in one answer: it was not seen at one moment."""
    model = ModelList(2, random.Random(1))
    rows, plan, left = leg(model, None, 50, 1)
    model.rows.reverse()
    rest, plan, _ = leg(model, plan.state(left), 50, 10**6)
    assert {*rows, *rest} == model.stable
    assert plan.report.verified


# -- in the client ----------------------------------------------------------------------


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(seed=3, runs=12, tasks=900) as simulator:
        yield simulator


@pytest.fixture
async def client(sim: Simulator) -> AsyncIterator[UnpodClient]:
    async with UnpodClient(token=sim.token, base_url=sim.base_url) as opened:
        yield opened


@pytest.fixture
def space(client: UnpodClient, sim: Simulator) -> SpaceHandle:
    return client.space(sim.space_token)


@pytest.mark.anyio
@pytest.mark.parametrize("taken", [0, 1, 50, 51, 333, 899])
async def test_another_client_goes_on_behind_the_last_row(
    sim: Simulator, space: SpaceHandle, taken: int
) -> None:
    rows: list[str] = []
    async with space.tasks(page_size=50).walk() as walk:
        while len(rows) < taken:
            rows.append((await anext(walk)).task_id)
        checkpoint = json.loads(json.dumps(walk.checkpoint()))
    gone = sim.world.task_ids()[::7]
    sim.world.delete(*gone)
    sim.world.insert(120)
    async with UnpodClient(token=sim.token, base_url=sim.base_url) as other:
        listing = other.space(sim.space_token).tasks(page_size=50)
        async with listing.walk(resume=checkpoint) as walk:
            rest = [task.task_id async for task in walk]
    assert len({*rows, *rest}) == len(rows) + len(rest)
    assert set(sim.world.lived_throughout(0)) <= {*rows, *rest}
    assert walk.report.seen == len(rows) + len(rest)


@pytest.mark.anyio
async def test_a_finished_walk_gives_nothing_more(space: SpaceHandle) -> None:
    async with space.tasks().walk() as walk:
        assert len([task async for task in walk]) == 900
    async with space.tasks().walk(resume=walk.checkpoint()) as again:
        assert [task async for task in again] == []
    assert again.report.seen == 900


@pytest.mark.anyio
async def test_a_failure_in_mid_walk_carries_the_place(sim: Simulator, space: SpaceHandle) -> None:
    sim.fault("status", status=403, after=3, times=None)
    rows: list[str] = []
    with pytest.raises(Exception, match="403") as caught:
        async for task in space.tasks(page_size=100):
            rows.append(task.task_id)
    sim.clear_faults()
    checkpoint: Any = caught.value.checkpoint  # type: ignore[attr-defined]
    async with space.tasks(page_size=100).walk(resume=checkpoint) as walk:
        rows += [task.task_id async for task in walk]
    assert rows == sim.world.task_ids()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"base_url": "https://elsewhere.example"}, "base_url"),
        ({"org_handle": "another"}, "org_handle"),
        ({"path": "spaces/ANOTHER/tasks/"}, "path"),
        ({"query": "status=x"}, "query"),
        ({"version": 2}, "version"),
        ({"more": 1}, "more"),
        ({"walk": {}}, "handed"),
    ],
)
async def test_a_checkpoint_of_another_job_is_refused_by_name(
    space: SpaceHandle, change: dict[str, Any], named: str
) -> None:
    async with space.tasks(page_size=50).walk() as walk:
        await anext(walk)
        checkpoint = walk.checkpoint()
    with pytest.raises(ConfigurationError, match=named):
        space.tasks().walk(resume=checkpoint | change)
    with pytest.raises(ConfigurationError, match="path"):
        space.runs().walk(resume=checkpoint)


@pytest.mark.anyio
@pytest.mark.parametrize("garbage", ["", 5, [], {}, {"version": 1}, "x" * 1000])
async def test_garbage_is_no_checkpoint(space: SpaceHandle, garbage: Any) -> None:
    with pytest.raises(ConfigurationError, match="resume"):
        space.tasks().walk(resume=garbage)


@pytest.mark.anyio
async def test_a_damaged_checkpoint_is_refused(space: SpaceHandle) -> None:
    async with space.tasks(page_size=50).walk() as walk:
        await anext(walk)
        checkpoint = walk.checkpoint()
    for change in ({"handed": 5}, {"frontier": -1}, {"phase": "no"}, {"tail": []}):
        with pytest.raises(ConfigurationError, match="damaged"):
            space.tasks().walk(resume=checkpoint | {"walk": checkpoint["walk"] | change})


@pytest.mark.anyio
async def test_a_list_without_documented_paging_has_no_checkpoint(
    client: UnpodClient, sim: Simulator
) -> None:
    async with client.spaces().walk() as walk:
        with pytest.raises(ConfigurationError):
            walk.checkpoint()
    with pytest.raises(BusinessError) as caught:
        await client.space("NOSUCHSPACE").tasks().collect()
    assert caught.value.checkpoint is not None
