"""How many requests the proof of completeness takes over a list that keeps still."""

from __future__ import annotations

import asyncio
import json
from urllib.request import urlopen

from . import ours

ROWS, SIZE = 50_000, 500


def requests(port: int) -> dict[str, int]:
    """What the server was asked since the last time, by space."""
    with urlopen(f"http://127.0.0.1:{port}/requests") as answer:
        counted: dict[str, int] = json.load(answer)
    return counted


async def sequential(port: int) -> None:
    async with ours.client(port, 4) as opened:
        rows = aiter(opened.space("QUIET").tasks(page_size=SIZE))
        assert len([row.task_id async for row in rows]) == ROWS
        ours.check(rows.report)


async def parallel(port: int) -> None:
    async with ours.client(port, 4) as opened:
        listing = opened.space("QUIET").tasks(page_size=SIZE)
        async with listing.walk(prefetch=4) as walk:
            assert len([row.task_id async for row in walk]) == ROWS
            ours.check(walk.report)


def measure(port: int) -> dict[str, list[float]]:
    """Requests for each page that the list has."""
    found: dict[str, list[float]] = {}
    for way in (sequential, parallel):
        requests(port)
        asyncio.run(way(port))
        found[way.__name__] = [requests(port)["QUIET"] / (ROWS / SIZE)]
    return found
