"""The simulated state: what it remembers of its changes, how much it costs, that it repeats."""

import subprocess
import sys
from functools import reduce
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unpod_async.simulator import Churn, World
from unpod_async.simulator._orders import run_sizes

small = st.integers(0, 12)
CHANGES = st.one_of(
    st.tuples(st.just("insert"), small, small),
    st.tuples(st.just("insert_run"), small),
    st.tuples(st.just("delete"), small),
    st.tuples(st.just("delete_random"), small),
    st.tuples(st.just("delete_span"), small, small),
    st.tuples(st.just("delete_random_run")),
    st.tuples(st.just("update_random"), small),
    st.tuples(st.just("move_to_head"), small),
)


def change(world: World, kind: str, *numbers: int) -> Any:
    ids = world.task_ids()
    if kind == "insert":
        return world.insert(numbers[0], depth=numbers[1])
    if kind == "insert_run":
        return world.insert_run(tasks=numbers[0])
    if kind == "delete":
        return world.delete(*ids[numbers[0] : numbers[0] + 1])
    if kind == "move_to_head":
        return world.move_to_head(ids[numbers[0]]) if numbers[0] < len(ids) else None
    return getattr(world, kind)(*numbers)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 99), st.lists(CHANGES, max_size=12), st.data())
def test_bookkeeping_agrees_with_a_naive_model(seed: int, changes: list[Any], data: Any) -> None:
    world = World(seed=seed, runs=3, tasks=20)
    ticks, states, runs = [world.mark()], [world.task_ids()], [world.run_ids()]
    for kind, *numbers in changes:
        change(world, kind, *numbers)
        ticks.append(world.mark())
        states.append(world.task_ids())
        runs.append(world.run_ids())
        assert_order_kept(kind, numbers, states[-2], states[-1])
        assert_runs_agree(world)
    first = data.draw(st.integers(0, len(ticks) - 1))
    last = data.draw(st.integers(first, len(ticks) - 1))
    lived = reduce(set.intersection, (set(ids) for ids in states[first : last + 1]))
    assert world.lived_throughout(ticks[first], ticks[last]) == lived
    lived_runs = reduce(set.intersection, (set(ids) for ids in runs[first : last + 1]))
    assert world.runs_lived_throughout(ticks[first], ticks[last]) == lived_runs
    for run in {world.row(task)["run_id"] for task in lived}:
        mine = {task for task in lived if world.row(task)["run_id"] == run}
        assert world.lived_throughout(ticks[first], ticks[last], run_id=run) == mine
    still = lived_since(states, first)
    assert world.lived_throughout(ticks[first]) == still


def lived_since(states: list[list[str]], first: int) -> set[str]:
    return reduce(set.intersection, (set(ids) for ids in states[first:]))


def assert_order_kept(kind: str, numbers: list[int], old: list[str], new: list[str]) -> None:
    """Rows that stay keep their order; new ones are no deeper than they may be."""
    if kind == "move_to_head":
        old = sorted(old, key=lambda task: task != new[0]) if new else old
    assert [task for task in old if task in new] == [task for task in new if task in old]
    if kind == "insert":
        born = [place for place, task in enumerate(new) if task not in old]
        assert len(born) == numbers[0]
        assert all(place < numbers[0] + numbers[1] for place in born)


def assert_runs_agree(world: World) -> None:
    """A run's list is the space's list with the other runs left out."""
    rows = [world.row(task) for task in world.task_ids()]
    for run in world.run_ids():
        assert world.task_ids(run) == [row["task_id"] for row in rows if row["run_id"] == run]
    assert {row["run_id"] for row in rows} <= set(world.run_ids())


def test_created_descends_whatever_is_inserted() -> None:
    world = World(seed=3, runs=4, tasks=60)
    for _ in range(40):
        world.insert(3, depth=1000)
    created = [world.row(task)["created"] for task in world.task_ids()]
    assert created == sorted(created, reverse=True)


def test_the_same_seed_is_the_same_world() -> None:
    def story(seed: int) -> list[Any]:
        world = World(seed=seed, runs=5, tasks=40)
        churn = Churn(inserts=2, deletes=2, updates=1, depth=9, run_inserts=1, run_deletes=0.3)
        for _ in range(20):
            for happening in churn.changes(world):
                happening()
        return [world.log, *map(world.row, world.task_ids())]

    assert story(1) == story(1)
    assert story(1) != story(2)


def test_an_update_changes_its_row_and_nothing_else() -> None:
    world = World(seed=1, tasks=30)
    task = world.task_ids()[7]
    before = world.row(task)
    order = world.task_ids()
    world.update(task, status="running", output={"a": 1})
    assert world.row(task) == before | {"status": "running", "output": {"a": 1}}
    assert world.task_ids() == order
    assert world.log[-1][1:] == ("update", task)


def test_what_is_not_there_cannot_be_changed() -> None:
    world = World(seed=1, runs=2, tasks=5)
    (gone, *_), other = world.delete_random(), World(seed=2).task_ids()[0]
    for unknown in (
        gone,
        other,
        "",
        "T",
        "T" + "é" * 32,
        world.run_ids()[0],
        world.insert()[0] + "0",
    ):
        for act in (world.delete, world.update, world.move_to_head, world.poison):
            with pytest.raises(KeyError):
                act(unknown)
    with pytest.raises(KeyError):
        world.insert(run_id="Rnone")
    with pytest.raises(KeyError):
        world.delete_run("Rnone")
    assert world.task_ids("Rnone") == []


def test_deleting_several_is_all_or_nothing() -> None:
    world = World(seed=1, runs=2, tasks=5)
    first, second, *_ = world.task_ids()
    with pytest.raises(KeyError):
        world.delete(first, "Tnone")
    assert len(world) == 5
    world.delete(first, second, first)
    assert len(world) == 3


def test_a_world_without_runs_makes_one_for_its_first_task() -> None:
    world = World(runs=0, tasks=0)
    assert world.task_ids() == world.run_ids() == []
    assert world.delete_random() == []
    assert world.delete_random_run() is None
    (task,) = world.insert()
    assert world.row(task)["run_id"] == world.run_ids()[0]
    with pytest.raises(ValueError, match="runs"):
        World(runs=0, tasks=1)
    with pytest.raises(ValueError, match="dialects"):
        World(dialects=[])


def test_some_runs_are_empty_some_fill_pages_exactly_and_some_are_big() -> None:
    world = World(seed=1, runs=50, tasks=20_000)
    sizes = sorted(len(world.task_ids(run)) for run in world.run_ids())
    assert {0, 1, 49, 50, 51, 99, 100, 101, 200} <= set(sizes)
    assert sizes[-1] > 3 * 400


@given(st.integers(0, 9), st.integers(1, 60), st.integers(0, 3000))
def test_tasks_are_shared_out_completely(seed: int, runs: int, tasks: int) -> None:
    from random import Random

    sizes = run_sizes(Random(seed), runs, tasks)
    assert len(sizes) == runs
    assert sum(sizes) == tasks
    assert min(sizes) >= 0


def test_rows_have_the_size_of_real_ones() -> None:
    world = World(seed=5, tasks=1024)
    sizes = sorted(len(world.task_json(number)) for number in range(1024))
    assert 2000 < sum(sizes) / 1024 < 3000
    assert sizes[-1] > 8000


MILLION = """
import resource, time
from unpod_async.simulator import World
from unpod_async.simulator._orders import window
def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
World(tasks=10).row(World(tasks=10).task_ids()[0])
before, start = memory(), time.perf_counter()
world = World(seed=1, runs=1000, tasks=1_000_000)
started = time.perf_counter() - start
pages = [window(world.lists.tasks, skip, 500) for skip in (0, 500_000, 999_500)]
rows = [world.task_json(number) for page in pages for number in page]
paged = time.perf_counter() - start - started
for _ in range(100):
    world.delete_random(), world.insert(depth=20)
changed = time.perf_counter() - start - started - paged
assert len(rows) == 1500 and len(set(rows)) == 1500 and len(world) == 1_000_000
print(memory() - before, started, paged, changed)
"""


def test_a_million_tasks_are_cheap() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", MILLION], capture_output=True, text=True, check=True
    )
    megabytes, started, paged, changed = map(float, ran.stdout.split())
    assert megabytes < 100
    assert started < 2
    assert paged < 1
    assert changed < 1
