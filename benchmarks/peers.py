"""What people would write or take instead. A package that is not there is left out, and said so."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle
from typing import Any

from .harness import LASTING, AsyncArm, SyncArm
from .limits import Decode

HEADERS = {"Authorization": "Token bench", "Accept": "application/json"}


class Lanes(AsyncArm):
    """A fixed number of tasks that pull targets from one iterator."""

    def __init__(self, port: int, targets: Iterable[str], decode: Decode, *, lanes: int) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._targets = cycle(targets)
        self._decode, self._lanes = decode, lanes

    async def together(self, lane: Callable[[], Any]) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._lanes):
                group.create_task(lane())


class Aiohttp(Lanes):
    """Bare aiohttp: get, read, decode, next."""

    async def work(self) -> None:
        import aiohttp

        connector = aiohttp.TCPConnector(limit=self._lanes, keepalive_timeout=LASTING)
        async with aiohttp.ClientSession(headers=HEADERS, connector=connector) as session:

            async def lane() -> None:
                for target in self._targets:
                    async with session.get(self._base + target) as answer:
                        body = await answer.read()
                    self.handed(self._decode(body))

            await self.together(lane)


class HttpxPydantic(Lanes):
    """httpx and pydantic models, the way of the vendor's SDK: `.json()`, `model_validate()`."""

    async def work(self) -> None:
        import httpx

        lasting = httpx.Limits(max_connections=self._lanes, keepalive_expiry=LASTING)
        async with httpx.AsyncClient(headers=HEADERS, limits=lasting, timeout=None) as session:

            async def lane() -> None:
                for target in self._targets:
                    answer = await session.get(self._base + target)
                    self.handed(self._decode(answer.json()))

            await self.together(lane)


class Sequential(SyncArm):
    """One request after the other."""

    def __init__(self, port: int, targets: Iterable[str], decode: Decode) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._targets = cycle(targets)
        self._decode = decode


class Requests(Sequential):
    """requests and dicts, the loop of the vendor's documents."""

    def work(self) -> Iterator[int]:
        import requests

        with requests.Session() as session:
            for target in self._targets:
                yield self._decode(session.get(self._base + target, headers=HEADERS).json())


class Niquests(Sequential):
    """niquests, the body given to a decoder."""

    def work(self) -> Iterator[int]:
        import niquests

        with niquests.Session() as session:
            for target in self._targets:
                yield self._decode(session.get(self._base + target, headers=HEADERS).content)


class Dlt(SyncArm):
    """dlt's `RESTClient.paginate`, dicts."""

    def __init__(self, port: int, path: str, *, size: int, pages: int) -> None:
        self._base, self._path = f"http://127.0.0.1:{port}", path
        self._size, self._pages = size, pages

    def work(self) -> Iterator[int]:
        os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
        from dlt.sources.helpers.rest_client import RESTClient
        from dlt.sources.helpers.rest_client.paginators import PageNumberPaginator

        while True:
            paginator = PageNumberPaginator(
                base_page=1, page_param="page", total_path=None, maximum_page=self._pages
            )
            client = RESTClient(base_url=self._base, headers=HEADERS, paginator=paginator)
            params = {"page_size": self._size}
            for page in client.paginate(self._path, params=params, data_selector="data"):
                yield len(page)


def as_dicts(body: Any) -> int:
    """An envelope that is a dict already."""
    return len(body["data"])
