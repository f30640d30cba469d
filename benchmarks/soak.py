"""Minutes of reading from a platform that changes and fails all the while.

`python benchmarks/soak.py MINUTES` reads one space over and over, by plain iteration, by
parallel walks that are now and then left and resumed, and by fan-out, against a simulator
whose list changes with every request and that throttles, fails, cuts and drops answers. It
prints what was lost or repeated (there must be nothing), what was not proved and why, and what
is left open: sockets, tasks, memory. Exit status 1 if anything was lost, repeated or leaked.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from unpod_async import IncompleteWalk, Report, RetryPolicy, SpaceHandle, UnpodClient, UnpodError
from unpod_async.simulator import Churn, Simulator

Way = Callable[[SpaceHandle, random.Random], Awaitable[tuple[list[str], Report]]]
FAULTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("status", {"status": 503, "rate": 0.01}),
    ("status", {"status": 502, "rate": 0.01}),
    ("throttle", {"retry_after": 0, "rate": 0.005}),
    ("upstream", {"rate": 0.005}),
    ("drop", {"rate": 0.01}),
    ("cut", {"rate": 0.005}),
    ("truncate", {"rate": 0.005}),
    ("empty", {"rate": 0.002}),
)


async def iterate(space: SpaceHandle, rng: random.Random) -> tuple[list[str], Report]:
    rows = aiter(space.tasks(page_size=rng.choice([100, 200, 500])))
    return [task.task_id async for task in rows], rows.report


async def walk(space: SpaceHandle, rng: random.Random) -> tuple[list[str], Report]:
    """In two legs, as if the process had been killed between them."""
    listing = space.tasks(page_size=rng.choice([100, 200, 500]))
    rows: list[str] = []
    stop = rng.randrange(4000)
    async with listing.walk(prefetch=rng.choice([2, 4, 8])) as first:
        async for task in first:
            rows.append(task.task_id)
            if len(rows) == stop:
                break
        checkpoint = first.checkpoint()
    async with listing.walk(prefetch=4, resume=checkpoint) as second:
        rows += [task.task_id async for task in second]
    return rows, second.report


async def fan_out(space: SpaceHandle, rng: random.Random) -> tuple[list[str], Report]:
    rows: list[str] = []
    async with space.run_tasks(concurrency=16, ordered=rng.random() < 0.5) as stream:
        async for _, tasks in stream:
            rows += [task.task_id for task in tasks]
    return rows, stream.report


WAYS: tuple[Way, ...] = (iterate, walk, fan_out)


class Tally:
    """What the soak has seen."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()

    def note(self, rows: list[str], report: Report, stable: set[str]) -> None:
        lost, repeated = len(stable - set(rows)), len(rows) - len(set(rows))
        self.counts += Counter(walks=1, rows=len(rows), verified=int(report.verified))
        self.counts += Counter(repeated=repeated)
        self.counts["lost, called verified" if report.verified else "lost, not verified"] += lost
        if report.reason:
            self.reasons[report.reason] += 1


async def soak(minutes: float, seed: int = 1) -> int:
    rng = random.Random(seed)
    tally = Tally()
    ends = time.monotonic() + 60 * minutes
    memory: list[int] = []
    churn = Churn(inserts=0.5, deletes=0.5, updates=1, depth=5)
    with Simulator(seed=seed, runs=40, tasks=4000, churn=churn, slots=64) as sim:
        for kind, options in FAULTS:
            sim.fault(kind, **options)
        policy = RetryPolicy(base=0.01, throttle_base=0.01, attempts=6)
        async with UnpodClient(token=sim.token, base_url=sim.base_url, retry=policy) as client:
            space = client.space(sim.space_token)
            while time.monotonic() < ends:
                await one(rng.choice(WAYS), space, sim, tally, rng)
                sim.requests.clear()
                memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
            sockets = open_sockets()
        tally.counts["requests"] = sim.world.tick
    gc.collect()
    await asyncio.sleep(0)
    tasks = len(asyncio.all_tasks()) - 1
    return show(tally, memory, sockets, open_sockets(), tasks)


async def one(
    way: Way, space: SpaceHandle, sim: Simulator, tally: Tally, rng: random.Random
) -> None:
    since = sim.world.mark()
    try:
        rows, report = await way(space, rng)
    except IncompleteWalk as error:
        tally.counts["incomplete, and said so"] += 1
        tally.reasons[error.message] += 1
    except UnpodError as error:
        tally.counts["gave up"] += 1
        tally.reasons[f"{type(error).__name__}: {error.message}"] += 1
    else:
        tally.note(rows, report, sim.world.lived_throughout(since))


def open_sockets() -> int:
    """Connections of this process to another end (the simulator's ends included)."""
    folder = "/proc/self/fd"
    if not os.path.isdir(folder):
        return -1
    links = (os.path.join(folder, name) for name in os.listdir(folder))
    return sum(os.path.lexists(link) and "socket:" in _target(link) for link in links)


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


def show(tally: Tally, memory: list[int], during: int, after: int, tasks: int) -> int:
    write = sys.stdout.write
    for name, number in tally.counts.items():
        write(f"{name:24} {number:12,}\n")
    for reason, number in tally.reasons.most_common(8):
        write(f"  {number:6,} x {reason}\n")
    tenth = max(1, len(memory) // 10)
    write(f"peak memory after a tenth {memory[tenth - 1]:9,} MB, at the end {memory[-1]:,} MB\n")
    write(f"open sockets {during} while open, {after} after; tasks left {tasks}\n")
    counts = tally.counts
    clean = not (counts["lost, called verified"] or counts["repeated"] or tasks)
    write(
        "nothing lost in a verified walk, nothing repeated, no task left\n" if clean else "FAILED\n"
    )
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(soak(float(sys.argv[1]) if len(sys.argv) > 1 else 15.0)))
