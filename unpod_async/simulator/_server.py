"""The platform on a socket."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from random import Random
from threading import Thread
from types import EllipsisType, TracebackType
from typing import Any

import anyio
from aiohttp import web

from ._faults import Armed, Exchange
from ._ids import Row
from ._lists import Churn, Count
from ._messages import Reply, Request
from ._platform import PREFIX, Platform
from .world import World


class Simulator(Platform):
    """A Unpod platform at `base_url`, with `async with` in this loop or `with` in a thread.

    It starts with `runs` runs and `tasks` tasks made from `seed`, or with the exact `rows` (and
    the runs they name) and `run_rows`, newest first, dicts or bytes. `dialects` (names or weights
    of `_dialects.DIALECTS`) and `mean_turns` shape the generated ones.

    Each answer takes `latency` + `per_row_latency` * rows seconds, `slots` requests are worked on
    at a time, and idle connections close after `keep_alive` seconds. `churn`, `count` and
    `max_page_size` say how lists behave while they are read.

    `world` is the state and may be changed at any time; `requests` and `peak_in_flight` tell what
    clients did. OSError at the start if the port is taken.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        runs: int = 50,
        tasks: int = 1000,
        port: int = 0,
        host: str = "127.0.0.1",
        latency: float = 0.0,
        per_row_latency: float = 0.0,
        slots: int = 8,
        keep_alive: float = 5.0,
        max_page_size: int | None = None,
        rows: Sequence[Row] | None = None,
        run_rows: Sequence[Row] | None = None,
        churn: Churn | None = None,
        count: Count = "second-query",
        require_org: bool = True,
        token_scheme_lists: bool = True,
        token: str = "simulated-api-token",
        dialects: Iterable[str] | Mapping[str, float] | None = None,
        mean_turns: float = 6,
    ) -> None:
        world = World(
            seed=seed,
            runs=runs,
            tasks=tasks,
            rows=rows,
            run_rows=run_rows,
            dialects=dialects,
            mean_turns=mean_turns,
        )
        super().__init__(world, churn, count, max_page_size)
        self.require_org = require_org
        self.token_scheme_lists = token_scheme_lists
        self.token = token
        self.host = host
        self.port = port
        self.latency = latency
        self.per_row_latency = per_row_latency
        self.requests: list[Request] = []
        self.peak_in_flight = 0
        self.answer: Callable[[Request], Reply | None] | None = None
        self._seed, self._slot_count, self._keep_alive = seed, slots, keep_alive
        self._in_flight = 0
        self._random = Random(f"{seed}:server")
        self._armed: list[Armed] = []
        self._thread: Thread | None = None

    @property
    def base_url(self) -> str:
        """What a client's base URL must be; without a trailing slash."""
        return f"http://{self.host}:{self.port}{PREFIX.rstrip('/')}"

    def fault(
        self,
        kind: str,
        *,
        times: int | EllipsisType | None = ...,
        rate: float | None = None,
        match: Callable[[Request], bool] | str | None = None,
        after: int = 0,
        **options: Any,
    ) -> None:
        """Makes requests go wrong; see `_faults.FAULTS` for the kinds and their options.

        It hits requests that `match` (a test of the request or a part of its path; default: all)
        but the first `after` of them, each with probability `rate`, and so many `times` (default
        once, or for ever if there is a rate; None: for ever). Faults nest in the order in which
        they were armed; one that answers itself leaves the later ones for later requests.
        ValueError for an unknown kind, TypeError for an unknown option.
        """
        if times is ...:
            times = 1 if rate is None else None
        random = Random(f"{self._seed}:fault:{len(self._armed)}")
        self._armed.append(Armed(kind, times, rate, match, after, options, random))
        self._remember_if_needed()

    def clear_faults(self) -> None:
        """From now on all goes well again; `answer` stays."""
        self._armed.clear()
        self._remember_if_needed()

    def _remember_if_needed(self) -> None:
        self.remember(any(armed.kind == "stale" and armed.times != 0 for armed in self._armed))

    # Answering

    async def _handle(self, http: web.BaseRequest) -> web.StreamResponse:
        request = _noticed(http)
        self.requests.append(request)
        self._in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self._in_flight)
        try:
            async with self._slots:
                exchange = Exchange(request, http, self._pause, self._random)
                reply = await self._through(exchange, tuple(self._armed))
                self._remember_if_needed()
        finally:
            self._in_flight -= 1
        if reply is None:
            if http.transport is not None:
                http.transport.close()
            return web.Response()
        request.status = reply.status
        return web.Response(status=reply.status, body=reply.payload(), headers=reply.all_headers())

    async def _through(self, exchange: Exchange, armed: tuple[Armed, ...]) -> Reply | None:
        """The answer as the faults that fire leave it; a later one is asked only if reached."""
        for place, fault in enumerate(armed, 1):
            if fault.fires(exchange.request):
                return await fault.run(exchange, partial(self._through, exchange, armed[place:]))
        reply = self.answer(exchange.request) if self.answer else None
        if reply is not None:
            return reply
        if self.latency:
            await self._pause(self.latency)
        reply = self.respond(exchange.request, exchange.view)
        if self.per_row_latency and reply.rows:
            await self._pause(self.per_row_latency * reply.rows)
        return reply

    async def _pause(self, seconds: float | None) -> bool:
        """Waits (None: for ever), but not beyond the end; True if the end has come."""
        try:
            async with asyncio.timeout(seconds):
                return await self._closing.wait()
        except TimeoutError:
            return False

    # Starting and stopping

    async def start(self) -> None:
        """Binds the port and serves in the running loop until `stop`."""
        self._closing = asyncio.Event()
        self._slots = asyncio.Semaphore(self._slot_count)
        server = web.Server(
            self._handle,
            handler_cancellation=True,
            keepalive_timeout=self._keep_alive,
            access_log=None,
        )
        self._socket = socket.create_server((self.host, self.port))
        self.port = self._socket.getsockname()[1]
        self._runner = web.ServerRunner(server, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket).start()

    async def stop(self) -> None:
        """Ends every request and connection, whatever the clients do, even if cancelled."""
        self._closing.set()
        # asyncio forgets to close a connection that it accepted but does not serve yet when its
        # server closes. So accept no more, and give the last one the turns it needs.
        with suppress(NotImplementedError):  # on Windows
            asyncio.get_running_loop().remove_reader(self._socket)
        with anyio.CancelScope(shield=True):
            for _ in range(3):
                await asyncio.sleep(0)
            await self._runner.cleanup()

    async def serve_forever(self) -> None:
        """Serves until it is cancelled."""
        async with self:
            await self._closing.wait()

    async def __aenter__(self) -> "Simulator":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def __enter__(self) -> "Simulator":
        started: Future[asyncio.AbstractEventLoop] = Future()
        run = self._run_in_thread(started)
        self._thread = Thread(target=lambda: asyncio.run(run), name="unpod-simulator", daemon=True)
        self._thread.start()
        self._loop = started.result()
        return self

    def __exit__(
        self,
        _: type[BaseException] | None,
        __: BaseException | None,
        ___: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        if self._thread is not None:
            self._thread.join()

    async def _run_in_thread(self, started: "Future[asyncio.AbstractEventLoop]") -> None:
        try:
            await self.start()
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(asyncio.get_running_loop())
        await self._closing.wait()
        await self.stop()


def _noticed(http: web.BaseRequest) -> Request:
    headers = {name.title(): value for name, value in http.headers.items()}
    query = dict(http.query.items())
    return Request(http.method, http.path, http.query_string, query, headers, at=time.monotonic())
