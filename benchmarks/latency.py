"""W5: how much of the waiting is done together when every answer is 50 ms late.

Wall time against the ideal, in which every place under the limit waits for an answer all the
while: requests / places x 50 ms. What the proof asks for beyond the rows counts as lost time.
"""

from __future__ import annotations

import asyncio
from math import ceil
from time import perf_counter
from typing import Any

from . import data, ours
from .workloads import pages, runs

DELAY = 0.05


async def fan_out(port: int, ids: list[str], lanes: int) -> float:
    """Seconds for the tasks of so many runs."""
    async with ours.client(port, lanes) as opened:
        space = opened.space("SLOW")
        # As after listing the runs: the client has seen that answers can be long.
        await anext(aiter(space.tasks(page_size=200)))
        began = perf_counter()
        async with space.run_tasks(ids, concurrency=lanes) as stream:
            async for _ in stream:
                pass
            ours.check(stream.report)
        return perf_counter() - began


async def walk(port: int, lanes: int) -> float:
    """Seconds for all rows, 500 a page."""
    async with ours.client(port, lanes) as opened:
        began = perf_counter()
        listing = opened.space("SLOW").tasks(page_size=500)
        async with listing.walk(prefetch=lanes) as stream:
            async for _ in stream:
                pass
            ours.check(stream.report)
        return perf_counter() - began


async def bare(port: int, targets: list[str], lanes: int) -> float:
    """Seconds for the bytes of some targets by aiohttp alone."""
    import aiohttp

    left = iter(targets)
    connector = aiohttp.TCPConnector(limit=lanes)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def lane() -> None:
            for target in left:
                async with session.get(f"http://127.0.0.1:{port}{target}") as answer:
                    await answer.read()

        began = perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(lanes):
                group.create_task(lane())
        return perf_counter() - began


def measure(port: int, requests: Any, *, times: int, runs_at_16: int) -> dict[str, list[float]]:
    """What was reached each time; `requests` tells what the server was asked since."""
    found: dict[str, list[float]] = {}

    def note(key: str, value: float) -> None:
        found.setdefault(key, []).append(value)

    for _ in range(times):
        for lanes, count in ((16, runs_at_16), (64, 2 * runs_at_16)):
            ideal = ceil(count / lanes) * DELAY
            ids = [data.run_id(number) for number in range(count)]
            targets = [target.replace("BULK", "SLOW") for target in runs()[:count]]
            note(f"fan-out {lanes}", ideal / asyncio.run(fan_out(port, ids, lanes)))
            note(f"bare {lanes}", ideal / asyncio.run(bare(port, targets, lanes)))
        targets = pages("SLOW", data.TASKS, 500)
        least = asyncio.run(bare(port, targets, 4))
        requests()
        wall = asyncio.run(walk(port, 4))
        note("walk 4", least / wall)
        note("walk 4 per request", least / wall * requests()["SLOW"] / len(targets))
    return found
