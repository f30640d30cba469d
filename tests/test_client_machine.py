"""The whole client as a state machine, over real sockets: rows come, go and change, the server
fails in every way, readers are cancelled, killed and taken up again by other clients.

Many more examples, by hand, and longer ones:
`UNPOD_MACHINE_EXAMPLES=5000 UNPOD_MACHINE_STEPS=50 pytest tests/test_client_machine.py`
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from typing import Any, TypeVar
from unittest.mock import patch

import anyio
import pytest
from hypothesis import HealthCheck, Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from walk_model import ModelList, read_on

from unpod_async import (
    ConfigurationError,
    IncompleteWalk,
    RetryPolicy,
    SpaceHandle,
    Task,
    UnpodClient,
    UnpodError,
    _checkpoint,
    _client,
    _walk,
)
from unpod_async._transport import Transport
from unpod_async._walk import ChainWalk
from unpod_async.simulator import Churn, Simulator

BY_HAND = "UNPOD_MACHINE_EXAMPLES" in os.environ
EXAMPLES = int(os.environ.get("UNPOD_MACHINE_EXAMPLES", "60"))
STEPS = int(os.environ.get("UNPOD_MACHINE_STEPS", "25"))

T = TypeVar("T")

Fault = tuple[str, dict[str, Any]]

EMPTY: list[Fault] = [("empty", {}), ("empty", {"count": 7})]  # errors swallowed: `200 []`
FAILURES: list[Fault] = [
    ("status", {"status": 503}),
    ("status", {"status": 500}),
    ("status", {"status": 403}),
    ("throttle", {"retry_after": 0}),
    ("throttle", {"retry_after": 3}),
    ("throttle", {"retry_after": 600}),
    ("upstream", {}),
    ("html", {}),
    ("bytes", {}),
    ("truncate", {}),
    ("cut", {}),
    ("cut", {"chunked": True}),
    ("reset", {}),
    ("drop", {}),
    ("raw", {}),
]
ODDITIES: list[Fault] = [
    ("delay", {"seconds": 0.001}),
    ("stale", {"ticks": 4}),
    ("poison", {}),
]
KINDS = ["plain", "walk", "walk", "fan-out", "fan-out, collecting"]
SIZES = st.integers(10, 16) | st.integers(10, 50)
PLACES = st.integers(0, 40) | st.integers(0, 99)
PICKS = st.integers(0, 5)


class Clock:
    """Time that passes only by being slept away."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


class Reading:
    """One logical reading: a plain iteration, a walk or a fan-out, taken up again by walks.

    A task of its own lives in the block and takes rows when told to, as an application's
    would; `error` is what ended that task, if anything did.
    """

    def __init__(self, kind: str, since: int, changes: int, *, calm: bool) -> None:
        self.kind, self.since = kind, since
        self.changes, self.calm = changes, calm  # of the world before it; no faults since
        self.rows: list[Task] = []
        self.checked = 0  # so many of them are known to be in order
        self.runs: dict[str, int] = {}  # of a fan-out: how many tasks each came with
        self.saved: tuple[str, int] | None = None  # a checkpoint as text, and the rows by then
        self.text: str | None = None  # the checkpoint to go on from, once it was left
        self.error: UnpodError | None = None

    async def begin(self, client: UnpodClient, stream: Any) -> None:
        """`stream` is the iterator of a list, or a block not entered yet."""
        self.client, self.stream = client, stream
        self.state, self.over = "open", False
        self.live()

    def live(self) -> None:
        self.orders: asyncio.Queue[int] = asyncio.Queue()
        self.busy = False
        self.task = asyncio.ensure_future(self._live())

    @property
    def is_block(self) -> bool:
        return self.kind != "plain"

    @property
    def alive(self) -> bool:
        return not self.task.done()

    @property
    def at_work(self) -> bool:
        return self.busy and self.alive

    async def _live(self) -> None:
        try:
            async with AsyncExitStack() as block:
                if self.is_block:
                    await block.enter_async_context(self.stream)
                while not self.over and (most := await self.orders.get()):
                    with anyio.CancelScope() as self.scope:
                        await self._take(most)
                    self.busy = False
        except UnpodError as error:
            self.error = error

    async def _take(self, most: int) -> None:
        for _ in range(most):
            try:
                item = await anext(self.stream)
            except StopAsyncIteration:
                self.over = True
                return
            if self.kind == "fan-out":
                run, tasks = item
                assert {task.run_id for task in tasks} <= {run.run_id}
                self.rows += tasks
                self.runs[run.run_id] = len(tasks)
            else:
                self.rows.append(item)

    async def order(self, most: int, *, steps: int = 10**9) -> None:
        """Have rows taken; waits at most so many steps of the loop."""
        if not self.alive:
            self.live()
        self.busy = True
        self.orders.put_nowait(most)
        await self.rest(steps)

    async def rest(self, steps: int = 10**9) -> None:
        for _ in range(steps):
            if not self.at_work:
                return
            await asyncio.sleep(0)

    async def give_up(self) -> None:
        """As by a timeout inside the block."""
        if hasattr(self, "scope"):
            self.scope.cancel()
        await self.rest()

    async def leave(self, *, brutally: bool = False) -> None:
        if brutally:
            self.task.cancel()
        else:
            self.orders.put_nowait(0)
        await asyncio.wait({self.task})
        for _ in range(10):
            await asyncio.sleep(0)

    def checkpoint(self) -> str:
        return json.dumps(self.stream.checkpoint())


class Platform(RuleBasedStateMachine):
    """A list that changes and a server that fails."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.patches = ExitStack()
        self.clock = Clock()
        unhurried = partial(Transport, clock=self.clock, sleep=self.clock.sleep, rng=lambda: 0.5)
        self.patches.enter_context(patch.object(_client, "Transport", unhurried))
        self.clients: list[UnpodClient] = []
        self.readings: list[Reading] = []
        self.states: dict[str, list[tuple[int, str]]] = {}
        self.poisoned = self.faulty = self.cheated = False
        self.stale_since: int | None = None

    def do(self, step: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(step)

    def start(self, remembered: int, **options: Any) -> None:
        for module, name, value in (
            (_walk, "EMPTY_DELAY", 0.0),
            (_walk, "REMEMBERED", remembered),
            (_checkpoint, "REMEMBERED", remembered),
        ):
            self.patches.enter_context(patch.object(module, name, value))
        self.sim = Simulator(**options)
        self.world = self.sim.world
        self.do(self.sim.start())

    @rule(n=st.sampled_from([1, 2, 25]), depth=st.sampled_from([0, 30]), run=st.booleans())
    def insert(self, n: int, depth: int, run: bool) -> None:
        if run:
            self.world.insert_run(tasks=n)
        else:
            self.world.insert(n, depth=depth)

    @rule(at=PLACES, n=st.sampled_from([1, 2, 9, 25]))
    def delete(self, at: int, n: int) -> None:
        if at == 99:
            self.world.delete_random_run()
        else:
            self.world.delete_span(at * len(self.world) // 100, n)

    @rule(at=PLACES)
    def update(self, at: int) -> None:
        if ids := self.world.task_ids():
            task_id = ids[at * len(ids) // 100]
            states = self.states_of(task_id)
            self.world.update(task_id, status=f"state {len(states)}")
            states.append((self.world.mark(), f"state {len(states)}"))

    def states_of(self, task_id: str) -> list[tuple[int, str]]:
        """The task's statuses, each with the tick of its beginning."""
        if task_id not in self.states:
            self.states[task_id] = [(0, self.world.row(task_id)["status"])]
        return self.states[task_id]

    @rule(change=st.sampled_from([0, 0, 0.3, 2]), births=st.booleans(), deaths=st.booleans())
    def weather(self, change: float, births: bool, deaths: bool) -> None:
        """From now on the list changes with each request, too; or all is well again."""
        self.sim.churn = Churn(inserts=births * change, deletes=deaths * change, depth=5)
        if not change:
            self.heal()

    def heal(self) -> None:
        self.sim.churn = None
        self.sim.clear_faults()
        self.clock.now += 60 * self.faulty  # so that nobody holds a grudge
        self.faulty, self.stale_since = False, None

    @rule(
        fault=st.sampled_from(EMPTY) | st.sampled_from(FAILURES) | st.sampled_from(ODDITIES),
        times=st.sampled_from([1, 1, 1, 2, 9, 40]),
        after=st.integers(0, 4),
        rate=st.sampled_from([None, None, 0.3]),
    )
    def fault(self, fault: Fault, times: int, after: int, rate: float | None) -> None:
        kind, options = fault
        if kind == "poison":
            self.poison(times)
            return
        self.sim.fault(kind, times=times, after=after, rate=rate, **options)
        self.faulty = True
        self.cheated |= kind == "empty"
        if kind == "stale" and self.stale_since is None:
            self.stale_since = self.world.mark()
        for reading in self.readings:
            reading.calm = False
            if self.stale_since is not None:
                reading.since = min(reading.since, self.stale_since)

    def poison(self, at: int) -> None:
        if ids := self.world.task_ids():
            self.world.poison(ids[at * len(ids) // 100])
            self.poisoned = True


class ClientMachine(Platform):
    """Between any two steps of any reader anything may happen; a reader may be stopped
    anywhere and taken up again elsewhere. Left in peace at last, every reading ends."""

    @initialize(
        seed=st.integers(0, 999),
        tasks=st.integers(30, 120) | st.integers(0, 120),
        runs=st.integers(1, 4),
        count=st.sampled_from(["second-query"] * 3 + ["atomic", "null"]),
        cap=st.sampled_from([None] * 4 + [12, 25]),
        remembered=st.sampled_from([256, 12]),
        kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
        size=SIZES,
        lanes=st.integers(1, 4),
    )
    def begin(
        self,
        remembered: int,
        kinds: list[str],
        size: int,
        lanes: int,
        cap: int | None,
        **world: Any,
    ) -> None:
        self.start(remembered, max_page_size=cap, **world)
        self.remembered = remembered
        self.provable = cap is None and world["count"] != "null"
        for kind in kinds:
            self.open(kind, size, lanes, own=False)

    # -- the readers ----------------------------------------------------------------------

    def client(self) -> UnpodClient:
        client = UnpodClient(token=self.sim.token, base_url=self.sim.base_url)
        self.do(client.open())
        self.clients.append(client)
        return client

    def space(self, client: UnpodClient) -> SpaceHandle:
        return client.space(self.sim.space_token)

    @rule(
        kind=st.sampled_from(KINDS),
        size=SIZES,
        lanes=st.integers(1, 4),
        own=st.booleans(),
    )
    def open(self, kind: str, size: int, lanes: int, own: bool) -> None:
        if sum(reading.state != "ended" for reading in self.readings) >= 3:
            return
        client = self.client() if own or not self.clients else self.clients[-1]
        since = self.world.mark() if self.stale_since is None else self.stale_since
        reading = Reading(
            kind.removesuffix(", collecting"), since, len(self.world.log), calm=not self.faulty
        )
        self.readings.append(reading)
        self.do(reading.begin(client, self.stream(client, kind, size, lanes)))

    def stream(self, client: UnpodClient, kind: str, size: int, lanes: int) -> Any:
        space = self.space(client)
        if kind == "plain":
            return aiter(space.tasks(page_size=size))
        if kind == "walk":
            return space.tasks(page_size=size).walk(prefetch=lanes)
        on_error: Any = "collect" if kind == "fan-out, collecting" else "raise"
        return space.run_tasks(concurrency=lanes, page_size=size, on_error=on_error)

    def pick(self, number: int, state: str = "open") -> Reading | None:
        found = [reading for reading in self.readings if reading.state == state]
        return found[number % len(found)] if found else None

    @rule(pick=PICKS, most=st.sampled_from([1, 10, 20, 40, 500]), save=st.booleans())
    def fetch(self, pick: int, most: int, save: bool) -> None:
        if reading := self.pick(pick):
            self.do(reading.order(most))
            self.hear(reading)
            if save and reading.kind == "walk" and reading.state == "open":
                reading.saved = reading.checkpoint(), len(reading.rows)

    @rule(most=st.sampled_from([1, 5, 20, 500]))
    def fetch_from_all(self, most: int) -> None:
        """All readers at once, through the clients that they share."""
        reading = [reading for reading in self.readings if reading.state == "open"]
        self.do(self.order_all(reading, most))
        for each in reading:
            self.hear(each)

    async def order_all(self, readings: list[Reading], most: int) -> None:
        for reading in readings:
            await reading.order(most, steps=0)
        for reading in readings:
            await reading.rest()

    @rule(
        pick=PICKS, most=st.sampled_from([1, 500]), steps=st.integers(0, 90), gently=st.booleans()
    )
    def cancel(self, pick: int, most: int, steps: int, gently: bool) -> None:
        """A timeout inside the block, after which the iteration goes on; or the whole task."""
        if reading := self.pick(pick):
            self.do(self.cancel_reading(reading, most, steps, gently))
            self.hear(reading)

    async def cancel_reading(self, reading: Reading, most: int, steps: int, gently: bool) -> None:
        await reading.order(most, steps=steps)
        if gently or not reading.at_work:
            await reading.give_up()
            return
        await reading.leave(brutally=True)
        if reading.kind == "walk":
            reading.state, reading.text = "left", reading.checkpoint()
        elif reading.kind == "fan-out":
            reading.state = "ended"

    @rule(pick=PICKS, how=st.sampled_from(["leave", "leave", "crash", "close"]))
    def kill(self, pick: int, how: str) -> None:
        """The block is left; after a crash only a checkpoint from before is there, and what
        was handed on since counts for nothing."""
        reading = self.pick(pick)
        if reading is not None and how == "close":
            self.close(reading.client)
        elif reading is not None and reading.is_block:
            if reading.kind == "walk":
                reading.text = reading.checkpoint()
            if how == "crash" and reading.saved is not None:
                reading.text, rows = reading.saved
                del reading.rows[rows:]
                reading.checked = min(reading.checked, rows)
            self.do(reading.leave())
            reading.state = "left" if reading.kind == "walk" else "ended"

    def close(self, client: UnpodClient) -> None:
        """The client is closed under its readers: they give what they have, then say so."""
        self.do(client.aclose())
        self.clients.remove(client)
        for reading in self.readings:
            if reading.client is client and reading.state == "open":
                self.do(reading.order(10**6))
                assert reading.over or reading.error is not None
                if reading.kind == "fan-out":
                    reading.calm = False  # it may collect the closing as a failure
                self.hear(reading, closed=True)

    @rule(pick=PICKS, size=SIZES, lanes=st.integers(1, 4))
    def resume(self, pick: int, size: int, lanes: int) -> None:
        """Another process: a new client, and nothing but the text of a checkpoint."""
        reading = self.pick(pick, "left")
        if reading is not None:
            assert reading.text is not None
            reading.kind, client = "walk", self.client()
            reading.calm &= len(reading.rows) <= self.remembered  # else it forgot some
            listing = self.space(client).tasks(page_size=size)
            walk = listing.walk(prefetch=lanes, resume=json.loads(reading.text))
            self.do(reading.begin(client, walk))

    # -- what must hold -----------------------------------------------------------------

    def hear(self, reading: Reading, *, closed: bool = False) -> None:
        """What became of the reading: it goes on, was left, or ended and is judged."""
        error, reading.error = reading.error, None
        if reading.state != "open":
            return
        if reading.over:
            self.judge(reading, reading.stream.report)
        elif isinstance(error, IncompleteWalk):
            self.judge(reading, error.report)
        elif error is not None:
            self.hear_error(reading, error, closed)

    def hear_error(self, reading: Reading, error: UnpodError, closed: bool) -> None:
        assert closed or not reading.calm or self.poisoned, error
        if reading.kind == "fan-out":
            reading.state = "ended"
            return
        assert error.checkpoint is not None
        ended = isinstance(error, ConfigurationError)
        if ended or reading.kind == "walk":
            reading.state, reading.text = "left", json.dumps(error.checkpoint)

    def judge(self, reading: Reading, report: Any) -> None:
        reading.state = "ended"
        handed = [row.task_id for row in reading.rows]
        lost = self.world.lived_throughout(reading.since) - set(handed)
        if reading.kind == "fan-out" and self.cheated:
            lost -= self.confirmed_empty(reading)
        event(f"{reading.kind}: {'verified' if report.verified else 'not verified'}")
        assert not (report.verified and lost), (lost, report)
        assert not (report.complete and lost) or self.cheated, (lost, report)
        assert report.verified == (report.reason is None)
        assert report.reason != "not finished"
        if reading.kind != "fan-out":
            assert report.seen == len(handed), report
            kept = self.world.lived_throughout(reading.since)
            in_order = [row for row in self.world.task_ids() if row in kept]
            assert not report.verified or [row for row in handed if row in kept] == in_order
        quiet = reading.calm and not self.poisoned and reading.changes == len(self.world.log)
        if quiet and self.provable:
            event("quiet")
            assert report.complete, report
            assert reading.kind == "fan-out" or handed == self.world.task_ids()

    def confirmed_empty(self, reading: Reading) -> set[str]:
        """The tasks of runs that the server called empty again and again: no proof is claimed
        for these, and they spoil none. Nor does a list of runs that was called empty."""
        if not reading.runs:
            return set(self.world.task_ids())
        empty = [run_id for run_id, tasks in reading.runs.items() if not tasks]
        return {task_id for run_id in empty for task_id in self.world.task_ids(run_id)}

    @invariant()
    def nothing_is_repeated_or_invented(self) -> None:
        for reading in self.readings:
            assert len({row.task_id for row in reading.rows}) == len(reading.rows)
            for row in reading.rows[reading.checked :]:
                self.check_state(row, reading.since)
            reading.checked = len(reading.rows)

    def check_state(self, row: Task, since: int) -> None:
        """The row is one that was (KeyError if not), in a state that it had while it was read."""
        states = self.states_of(row.task_id)
        ends = [tick for tick, _ in states[1:]]
        had = [
            status
            for (_, status), end in zip(states, [*ends, None], strict=True)
            if end is None or end > since
        ]
        assert row.status in had

    @invariant()
    def who_does_not_read_holds_nothing(self) -> None:
        at_work = {id(r.client) for r in self.readings if r.is_block and r.alive}
        for client in self.clients:
            if id(client) not in at_work:
                transport = client._transport
                assert transport._session is not None
                assert transport._gate.limiter.borrowed_tokens == 0
                assert not transport._session.connector._acquired
        if not at_work:
            ours = {reading.task for reading in self.readings}
            left = [
                task
                for task in asyncio.all_tasks(self.runner.get_loop()) - ours
                if "aiohttp/web" not in repr(task) and "_accept_connection" not in repr(task)
            ]
            assert not left, left

    def teardown(self) -> None:
        """Left in peace, every reading comes to its end; then all is closed."""
        try:
            if sys.exception() is None and hasattr(self, "sim"):
                self.heal()
                for reading in self.readings:
                    self.carry_to_the_end(reading)
                self.nothing_is_repeated_or_invented()
                self.who_does_not_read_holds_nothing()
        finally:
            self.shut()

    def carry_to_the_end(self, reading: Reading) -> None:
        for _ in range(6):
            if reading.state == "left":
                self.resume(self.left().index(reading), 20, 2)
            if reading.state == "ended":
                return
            self.do(reading.order(10**6))
            self.hear(reading)
        assert self.poisoned

    def left(self) -> list[Reading]:
        return [reading for reading in self.readings if reading.state == "left"]

    def shut(self) -> None:
        for reading in self.readings:
            if reading.alive:
                self.do(reading.leave(brutally=True))
        for client in self.clients:
            self.do(client.aclose())
        if hasattr(self, "sim"):
            self.do(self.sim.stop())
        self.runner.close()
        self.patches.close()


@pytest.mark.timeout(0 if BY_HAND else 600)
class TestClientMachine(ClientMachine.TestCase):  # type: ignore[misc]
    def tearDown(self) -> None:
        gc.collect()  # what was left unclosed is told now


TestClientMachine.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    phases=set(Phase) - {Phase.explain},
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


# -- what the machine has found ---------------------------------------------------------


async def left_half_way(sim: Simulator, rows: int) -> tuple[list[str], dict[str, Any]]:
    async with (
        client_of(sim) as client,
        client.space(sim.space_token).tasks(page_size=50).walk() as walk,
    ):
        taken = [(await anext(walk)).task_id for _ in range(rows)]
        return taken, walk.checkpoint()


async def the_rest(sim: Simulator, checkpoint: dict[str, Any]) -> tuple[list[str], IncompleteWalk]:
    rest: list[str] = []
    async with client_of(sim) as client:
        listing = client.space(sim.space_token).tasks(page_size=50)
        with pytest.raises(IncompleteWalk) as caught:
            async with listing.walk(resume=checkpoint) as walk:
                async for task in walk:
                    rest.append(task.task_id)
    return rest, caught.value


def client_of(sim: Simulator) -> UnpodClient:
    retry = RetryPolicy(base=0, throttle_base=0)
    return UnpodClient(token=sim.token, base_url=sim.base_url, retry=retry)


@pytest.mark.anyio
async def test_a_resumed_walk_is_not_slowed_by_a_bad_row_that_it_has_passed() -> None:
    """The top of the list is where it looks first; it used to read all the rest row by row."""
    async with Simulator(seed=1, tasks=600) as sim:
        before = sim.world.task_ids()
        taken, checkpoint = await left_half_way(sim, 300)
        sim.world.poison(before[5])
        sim.requests.clear()
        rest, _ = await the_rest(sim, checkpoint)
        assert taken + rest == before
        assert len(sim.requests) < 80


@pytest.mark.anyio
async def test_a_resumed_walk_that_cannot_find_its_place_repeats_nothing() -> None:
    """Only single rows can be read, and the place is further off than is looked for. What it
    reads may be old rows that no checkpoint names; it used to hand them out again."""
    async with Simulator(seed=1, tasks=1200) as sim:
        taken, checkpoint = await left_half_way(sim, 900)
        sim.world.insert(350)
        sim.fault("upstream", match=lambda request: request.query["page_size"] != "1", times=None)
        rest, error = await the_rest(sim, checkpoint)
        assert not set(rest) & set(taken)
        assert error.report.missing
        assert "checkpoint" in (error.report.reason or "")


def test_a_resumed_walk_that_began_anew_at_the_top_repeats_nothing() -> None:
    """All rows handed on were pushed out of sight at once, so the list was read from the top
    again, and they came by once more. After a resume some of them are forgotten."""
    model = ModelList(600, random.Random(1))
    plan: ChainWalk[str] = ChainWalk(size=50)
    rows = read_on(plan, model, most=270)
    model.rows[:0] = [f"N{number:05d}" for number in range(900)]
    rows += read_on(plan, model, most=1100)
    resumed: ChainWalk[str] = ChainWalk(size=50, resume=plan.state())
    rows += read_on(resumed, model)
    assert len(rows) == len(set(rows))
    assert not resumed.report.verified
