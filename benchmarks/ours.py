"""The library's own arms. All walks prove that they are complete, and are checked to have."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from unpod_async import Limits, Report, SpaceHandle, Task, UnpodClient

from .harness import LASTING, AsyncArm

SINK = os.open(os.devnull, os.O_WRONLY)


def client(port: int, lanes: int, connector: aiohttp.BaseConnector | None = None) -> UnpodClient:
    return UnpodClient(
        token="bench",
        base_url=f"http://127.0.0.1:{port}/api",
        limits=Limits(max_concurrency=lanes, adaptive=False),
        connector=connector,
    )


def check(report: Report) -> None:
    if not report.verified:
        raise RuntimeError(f"a walk over a quiet list was not proved: {report.reason}")


class Ours(AsyncArm):
    """Opens a client and reads a space over and over."""

    def __init__(self, port: int, token: str, *, lanes: int, size: int) -> None:
        self._port, self._token, self._lanes, self._size = port, token, lanes, size
        self.unit = 4 * size

    async def work(self) -> None:
        lasting = aiohttp.TCPConnector(limit=self._lanes, keepalive_timeout=LASTING)
        async with lasting, client(self._port, self._lanes, lasting) as opened:
            while True:
                await self.read(opened.space(self._token))

    async def read(self, space: SpaceHandle) -> None:
        raise NotImplementedError

    async def take(self, rows: AsyncIterator[Any]) -> None:
        """Count the rows in blocks, which costs less than one by one."""
        left = block = self._size
        async for _ in rows:
            left -= 1
            if not left:
                left = block
                if self.handed(block):
                    await asyncio.sleep(0)
        self.handed(block - left)


class OurWalk(Ours):
    """`async for task in walk`, the rows as they come."""

    async def read(self, space: SpaceHandle) -> None:
        async with space.tasks(page_size=self._size).walk(prefetch=self._lanes) as walk:
            await self.take(walk)
            check(walk.report)


class OurCalls(OurWalk):
    """The same, and of every task the call with its transcript."""

    async def take(self, rows: AsyncIterator[Task]) -> None:
        left = block = self._size
        async for task in rows:
            _ = task.call.transcript
            left -= 1
            if not left:
                left = block
                if self.handed(block):
                    await asyncio.sleep(0)
        self.handed(block - left)


class OurIteration(Ours):
    """`async for task in space.tasks()`, one request after the other."""

    async def read(self, space: SpaceHandle) -> None:
        rows = aiter(space.tasks(page_size=self._size))
        await self.take(rows)
        check(rows.report)


class OurPages(Ours):
    """`async for page in space.tasks().pages()`, one request after the other."""

    async def read(self, space: SpaceHandle) -> None:
        async for page in space.tasks(page_size=self._size).pages():
            if self.handed(len(page.items)):
                await asyncio.sleep(0)


class OurLines(Ours):
    """A walk over rows as they were sent, a page's worth of lines at a time into a file."""

    async def read(self, space: SpaceHandle) -> None:
        listing = space.tasks(page_size=self._size).raw()
        lines: list[bytes] = []
        async with listing.walk(prefetch=self._lanes) as walk:
            async for line in walk:
                lines.append(line)
                if len(lines) == self._size:
                    self._write(lines)
                    if self.handed(self._size):
                        await asyncio.sleep(0)
            self.handed(len(lines))
            self._write(lines)
            check(walk.report)

    def _write(self, lines: list[bytes]) -> None:
        lines.append(b"")
        os.write(SINK, b"\n".join(lines))
        lines.clear()


class OurFanOut(Ours):
    """`space.run_tasks()`: the list of runs, and the tasks of each."""

    async def read(self, space: SpaceHandle) -> None:
        async with space.run_tasks(concurrency=self._lanes) as stream:
            async for _, tasks in stream:
                if self.handed(len(tasks)):
                    await asyncio.sleep(0)
            check(stream.report)
