"""The transport over real sockets: everything that can go wrong on the way, counted by the
server and timed by a clock that does not tick by itself."""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import logging
import socket
import ssl
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from types import EllipsisType
from typing import Any, NoReturn

import aiohttp
import anyio
import pytest

from unpod_async import _transport, errors
from unpod_async._protocol import Request
from unpod_async._retry import Kind, Limits, RetryPolicy
from unpod_async._secrets import Secret
from unpod_async._transport import Credentials, Transport, translate
from unpod_async.errors import ConfigurationError, UnpodError
from unpod_async.simulator import Simulator

pytestmark = pytest.mark.anyio

CANARY = "S3CR3T-CANARY"
FIXED = Limits(adaptive=False)
ONE = Limits(max_concurrency=1)
ONCE = RetryPolicy(attempts=1)


class FakeTime:
    """A clock that only its own sleep moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


class StuckTime(FakeTime):
    """Its sleep never ends."""

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await anyio.sleep_forever()


@asynccontextmanager
async def opened(
    base_url: str,
    *,
    token: Any = None,
    scheme: str = "Token",
    org_handle: str | None = None,
    policy: RetryPolicy | None = None,
    limits: Limits = FIXED,
    at: FakeTime | None = None,
    draw: float = 1.0,
    connector: aiohttp.BaseConnector | None = None,
) -> AsyncIterator[Transport]:
    """A transport that must have no slot taken and no connection in use at the end."""
    times: dict[str, Any] = {} if at is None else {"clock": at.clock, "sleep": at.sleep}
    transport = Transport(
        base_url,
        Credentials(token or Secret(CANARY), scheme, org_handle),
        policy=policy or RetryPolicy(),
        limits=limits,
        connector=connector,
        rng=lambda: draw,
        **times,
    )
    await transport.open()
    session, gate = transport._usable()
    try:
        yield transport
        assert gate.limiter.borrowed_tokens == 0
        assert gate.limiter.statistics().tasks_waiting == 0
        if isinstance(session.connector, aiohttp.TCPConnector):
            assert not session.connector._acquired
    finally:
        await transport.aclose()


@pytest.fixture
def at() -> FakeTime:
    return FakeTime()


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    with anyio.fail_after(20):
        async with Simulator(seed=1, runs=2, tasks=20, token=CANARY) as simulator:
            yield simulator


@pytest.fixture(autouse=True)
def nothing_is_logged_that_is_secret(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """In every test here, of every logger, at every level."""
    caplog.set_level(logging.DEBUG)
    yield
    assert CANARY not in caplog.text


TASKS = Request(f"spaces/{Simulator.space_token}/tasks/", "page=1&page_size=5")


def rows(body: bytes) -> int:
    return len(json.loads(body)["data"])


async def failure(fetching: Awaitable[bytes]) -> UnpodError:
    """The library's error, after a look for the token all over it."""
    with pytest.raises(UnpodError) as caught:
        await fetching
    error = caught.value
    trace = traceback.TracebackException.from_exception(error, capture_locals=True)
    shown = "".join(trace.format()) + repr(error) + repr(vars(error))
    assert CANARY not in shown
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    return error


def history(error: UnpodError) -> list[tuple[int | str, float | None]]:
    return [(attempt.outcome, attempt.wait) for attempt in error.attempts]


async def until(true: Callable[[], object]) -> None:
    with anyio.fail_after(5):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


# -- a server of bare bytes, for what no framework would send --------------------------

GOOD = b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"data":[]}'
Script = bytes | None | EllipsisType


@dataclass
class Wire:
    """What reached the server. Each request is answered by the next script: these bytes, an
    end (None), or nothing until the client goes (...); when all are used, by `GOOD`."""

    scripts: list[Script]
    base_url: str = ""
    connections: int = 0
    requests: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
                script = self.scripts.pop(0) if self.scripts else GOOD
                if isinstance(script, EllipsisType):
                    await reader.read()
                if not isinstance(script, bytes):
                    return
                writer.write(script)
                if script.endswith(b"..."):
                    await reader.read()
                    return
                if not script.startswith(b"HTTP/1.1 2") and not script.startswith(b"HTTP/1.1 3"):
                    return
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def wire(*scripts: Script) -> AsyncIterator[Wire]:
    served = Wire(list(scripts))
    before = asyncio.all_tasks()
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    served.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        with anyio.fail_after(20):
            yield served
    finally:
        server.close()
        await until(lambda: not asyncio.all_tasks() - before)


@pytest.fixture
def refused() -> Iterator[str]:
    """A base URL with nobody behind it: the port is taken, but nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


# -- what is sent ----------------------------------------------------------------------


async def test_a_good_answer_is_its_body_and_costs_one_request(
    sim: Simulator, at: FakeTime
) -> None:
    async with opened(sim.base_url, at=at) as transport:
        assert rows(await transport.fetch(TASKS)) == 5
    assert len(sim.requests) == 1
    assert at.slept == []


@pytest.mark.parametrize("scheme", ["Token", "Bearer"])
async def test_the_headers_that_are_sent(scheme: str) -> None:
    async with wire() as server:
        options: dict[str, Any] = {"scheme": scheme, "org_handle": "acme"}
        async with opened(server.base_url + "/api", **options) as transport:
            await transport.fetch(TASKS)
            session, _ = transport._usable()
            assert set(session.headers) == {"User-Agent"}
    first, *lines = server.requests[0].strip().split("\r\n")
    assert first == f"GET /api/{TASKS.target} HTTP/1.1"
    sent = dict(line.split(": ", 1) for line in lines)
    assert sent.pop("Host") == server.base_url.removeprefix("http://")
    assert sent.pop("User-Agent").startswith("unpod-async/")
    assert sent == {
        "Authorization": f"{scheme} {CANARY}",
        "Accept": "application/json",
        "Accept-Encoding": "gzip",
        "Org-Handle": "acme",
    }


async def test_path_and_query_go_out_byte_for_byte() -> None:
    query = "search=%2B91%26space_id%3Dx%2F..%2F%25&status=a%2Cb&page=1"
    async with wire() as server, opened(server.base_url) as transport:
        await transport.fetch(Request("spaces/S_-/tasks/", query))
    assert server.requests[0].startswith(f"GET /spaces/S_-/tasks/?{query} HTTP/1.1\r\n")


async def test_cookies_are_neither_kept_nor_sent() -> None:
    cookies = b"".join(b"Set-Cookie: c%d=x; Path=/\r\n" % number for number in range(90))
    answer = GOOD.replace(b"\r\n\r\n", b"\r\n" + cookies + b"\r\n", 1)
    async with wire(answer) as server, opened(server.base_url) as transport:
        for _ in range(2):
            await transport.fetch(TASKS)
        session, _ = transport._usable()
        assert len(session.cookie_jar) == 0
    assert "cookie" not in server.requests[1].lower()


async def test_proxies_and_netrc_of_the_environment_are_ignored(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login eve password evil\ndefault login eve password evil\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:9")
    async with opened(sim.base_url) as transport:
        await transport.fetch(TASKS)
    assert sim.requests[0].headers["Authorization"] == f"Token {CANARY}"


# -- statuses --------------------------------------------------------------------------

ANSWERS = {
    **dict.fromkeys((408, 425), (errors.BadRequest, 4)),
    **dict.fromkeys((500, 502, 503, 504, *range(520, 528), 530), (errors.ServerError, 4)),
    **dict.fromkeys((501, 505, 507, 511, 529), (errors.ServerError, 1)),
    **dict.fromkeys((400, 405, 410, 413, 418, 422), (errors.BadRequest, 1)),
    204: (errors.ProtocolError, 1),
    206: (errors.BusinessError, 1),
    304: (errors.UnexpectedRedirect, 1),
    401: (errors.AuthenticationError, 1),
    403: (errors.PermissionDenied, 1),
    404: (errors.NotFound, 1),
    429: (errors.RateLimited, 4),
}


async def test_every_status_is_tried_as_often_as_it_deserves(sim: Simulator, at: FakeTime) -> None:
    for status, (kind, tries) in ANSWERS.items():
        sim.requests.clear()
        sim.fault("status", status=status, body={"message": "no"}, times=tries)
        async with opened(sim.base_url, at=at, draw=0.0) as transport:
            error = await failure(transport.fetch(TASKS))
        assert type(error) is kind
        assert (error.status, error.method, error.path) == (status, "GET", TASKS.target)
        assert history(error) == [(status, 0.0)] * (tries - 1) + [(status, None)]
        assert len(sim.requests) == tries


async def test_a_platform_that_is_down_is_not_asked_by_all_as_often_as_by_one(
    sim: Simulator, at: FakeTime
) -> None:
    """500 tokens buy 35 retries for 14 each, whoever needs them; later successes save up."""
    async with opened(sim.base_url, at=at, draw=0.0) as transport:
        sim.fault("status", status=502, times=None)
        for _ in range(40):
            await failure(transport.fetch(TASKS))
        assert len(sim.requests) == 40 + 35
        sim.clear_faults()
        for _ in range(4):
            await transport.fetch(TASKS)
        sim.fault("status", status=502)
        await transport.fetch(TASKS)  # 10 tokens were left, 4 were earned: one more retry


async def test_an_error_says_that_the_budget_of_retries_is_spent(
    sim: Simulator, at: FakeTime
) -> None:
    sim.fault("status", status=502, times=None)
    async with opened(sim.base_url, at=at, draw=0.0) as transport:
        said = [str(await failure(transport.fetch(TASKS))) for _ in range(13)]
    assert "budget" not in said[0]
    assert "not tried again: this client's budget of retries is spent" in said[-1]


@pytest.mark.parametrize(
    ("status", "draw", "slept"),
    [
        (500, 1.0, [0.5, 1.0, 2.0]),
        (500, 0.5, [0.25, 0.5, 1.0]),
        (500, 0.0, [0.0, 0.0, 0.0]),
        (503, 1.0, [1.0, 2.0, 4.0]),
        (429, 0.5, [0.5, 1.0, 2.0]),
    ],
)
async def test_it_backs_off_and_then_succeeds(
    sim: Simulator, at: FakeTime, status: int, draw: float, slept: list[float]
) -> None:
    sim.fault("status", status=status, times=3)
    async with opened(sim.base_url, at=at, draw=draw) as transport:
        assert rows(await transport.fetch(TASKS)) == 5
    assert at.slept == slept
    assert [request.status for request in sim.requests] == [status] * 3 + [200]


async def test_an_error_tells_every_attempt_with_time_and_wait(
    sim: Simulator, at: FakeTime
) -> None:
    sim.fault("status", status=500)
    sim.fault("drop")
    sim.fault("throttle", retry_after=2)
    sim.fault("status", status=404)
    async with opened(sim.base_url, at=at) as transport:
        error = await failure(transport.fetch(TASKS))
    assert isinstance(error, errors.NotFound)
    assert error.attempts == (
        (0.0, 500, 0.5),
        (0.5, "ConnectionFailed", 0.0),
        (0.5, 429, pytest.approx(2.2)),
        (pytest.approx(2.7), 404, None),
    )
    assert error.summary.endswith("after 4 attempts")


async def test_trouble_upstream_is_asked_twice_more_and_a_refusal_never(
    sim: Simulator, at: FakeTime
) -> None:
    sim.fault("upstream", times=3)
    async with opened(sim.base_url, at=at) as transport:
        assert isinstance(await failure(transport.fetch(TASKS)), errors.BusinessError)
        assert (len(sim.requests), at.slept) == (3, [0.5, 1.0])
        refused = Request("spaces/NOSUCHSPACE/tasks/", "")
        assert (await failure(transport.fetch(refused))).message == "Invalid Space Token"
    assert len(sim.requests) == 4


async def test_what_may_be_an_unreadable_row_is_asked_once_if_the_caller_says_so(
    sim: Simulator, at: FakeTime
) -> None:
    async with opened(sim.base_url, at=at) as transport:
        for fault, tries in (("upstream", 1), ("status", 2)):
            sim.requests.clear()
            sim.fault(fault)
            with suppress(errors.BusinessError):
                await transport.fetch(TASKS, once=True)
            assert len(sim.requests) == tries


# -- Retry-After -----------------------------------------------------------------------


@pytest.mark.parametrize(("draw", "slept"), [(0.0, 3.0), (1.0, 3.3)])
async def test_retry_after_in_seconds(
    sim: Simulator, at: FakeTime, draw: float, slept: float
) -> None:
    sim.fault("throttle", retry_after=3)
    async with opened(sim.base_url, at=at, draw=draw) as transport:
        await transport.fetch(TASKS)
    assert at.slept == [pytest.approx(slept)]


async def test_retry_after_as_a_date_of_the_servers_own_clock(sim: Simulator, at: FakeTime) -> None:
    sim.fault("throttle", retry_after=30, as_date=True)
    async with opened(sim.base_url, at=at, draw=0.0) as transport:
        await transport.fetch(TASKS)
    assert at.slept == [pytest.approx(30, abs=2)]


@pytest.mark.parametrize(("retry_after", "deadline"), [(61, 300.0), (30, 20.0)])
async def test_too_long_a_wait_is_an_error_at_once(
    sim: Simulator, at: FakeTime, retry_after: float, deadline: float
) -> None:
    sim.fault("throttle", retry_after=retry_after)
    async with opened(sim.base_url, at=at) as transport:
        error = await failure(transport.fetch(TASKS, deadline=deadline))
    assert isinstance(error, errors.RateLimited)
    assert error.retry_after == retry_after
    assert (at.slept, len(sim.requests)) == ([], 1)


async def test_one_429_holds_back_all_lanes(sim: Simulator) -> None:
    """In real time: nobody comes before the wait is over."""
    sim.fault("throttle", retry_after=0.2)
    async with opened(sim.base_url, limits=ONE) as transport, anyio.create_task_group() as lanes:
        for _ in range(6):
            lanes.start_soon(transport.fetch, TASKS)
    first, *others = [request.at for request in sim.requests]
    assert len(others) == 6
    assert min(others) - first >= 0.2


@pytest.mark.parametrize(
    ("remaining", "ahead", "waits"), [(0, 9, True), (1, 9, False), (0, 61, False), (0, -5, False)]
)
async def test_a_good_answer_that_was_the_last_for_a_while_is_heeded(
    at: FakeTime, remaining: int, ahead: int, waits: bool
) -> None:
    """X-RateLimit-*: nobody runs into a 429 that was announced."""
    good = GOOD.replace(
        b"Content-Length",
        b"Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nX-RateLimit-Remaining: %d\r\n"
        b"X-RateLimit-Reset: %d\r\nContent-Length" % (remaining, 1767225600 + ahead),
    )
    async with wire(good) as server, opened(server.base_url, at=at, draw=0.5) as transport:
        await transport.fetch(TASKS)
        assert at.slept == []
        await transport.fetch(TASKS)
    assert at.slept == ([pytest.approx(9 * 1.05)] if waits else [])


async def test_no_lane_sleeps_through_a_pause_that_outlasts_its_deadline(sim: Simulator) -> None:
    at = StuckTime()
    sim.fault("throttle", retry_after=50)
    async with opened(sim.base_url, at=at) as transport, anyio.create_task_group() as lanes:
        lanes.start_soon(transport.fetch, TASKS)
        await until(lambda: at.slept)
        error = await failure(transport.fetch(TASKS, deadline=40))
        assert isinstance(error, errors.DeadlineExceeded)
        assert (len(at.slept), len(sim.requests)) == (1, 1)
        lanes.cancel_scope.cancel()


# -- a platform that is down -----------------------------------------------------------


async def outage(transport: Transport, sim: Simulator, at: FakeTime) -> None:
    """Ten failures over half a minute; the next request is held back."""
    sim.fault("status", status=502, times=None)
    for _ in range(10):
        await failure(transport.fetch(TASKS))
        at.now += 3.4
    sim.requests.clear()
    at.slept.clear()


async def test_a_platform_that_is_down_is_left_alone_and_the_caller_told_at_once(
    sim: Simulator, at: FakeTime
) -> None:
    async with opened(sim.base_url, at=at, policy=ONCE) as transport:
        await outage(transport, sim, at)
        for _ in range(50):
            error = await failure(transport.fetch(TASKS))
        assert (sim.requests, at.slept) == ([], [])
        assert isinstance(error, errors.ServerError)
        assert error.status == 502
        assert error.retry_after == pytest.approx(11.6)
        assert "not sent, for the platform is down" in str(error)
        sim.clear_faults()
        at.now += 12
        assert rows(await transport.fetch(TASKS)) == 5
        assert rows(await transport.fetch(TASKS)) == 5


async def test_one_probe_is_sent_for_fifty_who_wait(sim: Simulator, at: FakeTime) -> None:
    policy = RetryPolicy(attempts=1, outage_wait=14)
    async with opened(sim.base_url, at=at, policy=policy) as transport:
        await outage(transport, sim, at)
        async with anyio.create_task_group() as lanes:
            for _ in range(50):
                lanes.start_soon(failure, transport.fetch(TASKS))
        assert len(sim.requests) == 1


async def test_those_who_wait_for_the_probe_go_on_when_it_succeeds(
    sim: Simulator, at: FakeTime
) -> None:
    policy = RetryPolicy(attempts=1, outage_wait=100)
    async with opened(sim.base_url, at=at, policy=policy) as transport:
        await outage(transport, sim, at)
        sim.clear_faults()
        async with anyio.create_task_group() as lanes:
            for _ in range(50):
                lanes.start_soon(transport.fetch, TASKS)
        assert len(sim.requests) == 50
        assert sum(at.slept) >= 11


async def test_a_probe_that_is_cancelled_leaves_its_place_to_another(
    sim: Simulator, at: FakeTime
) -> None:
    policy = RetryPolicy(attempts=1, outage_wait=100)
    async with opened(sim.base_url, at=at, policy=policy) as transport:
        await outage(transport, sim, at)
        sim.clear_faults()
        sim.fault("hang", times=1)
        probe = anyio.CancelScope()

        async def cancelled() -> None:
            with probe:
                await transport.fetch(TASKS)

        async with anyio.create_task_group() as lanes:
            lanes.start_soon(cancelled)
            await until(lambda: sim.requests)
            lanes.start_soon(transport.fetch, TASKS)
            await asyncio.sleep(0)
            probe.cancel()
        assert len(sim.requests) == 2


async def test_an_outage_is_not_waited_for_past_the_deadline(sim: Simulator, at: FakeTime) -> None:
    policy = RetryPolicy(attempts=1, outage_wait=100)
    async with opened(sim.base_url, at=at, policy=policy) as transport:
        await outage(transport, sim, at)
        error = await failure(transport.fetch(TASKS, deadline=5))
        assert isinstance(error, errors.DeadlineExceeded)
        assert (sim.requests, at.slept) == ([], [])


async def test_refusals_are_no_outage(sim: Simulator, at: FakeTime) -> None:
    """404, 429 and the like come from a platform that is up; so do rows that cannot be read."""
    async with opened(sim.base_url, at=at, policy=ONCE) as transport:
        for status in (404, 429, 500):
            sim.clear_faults()
            sim.fault("status", status=status, times=None)
            for _ in range(20):
                await failure(transport.fetch(TASKS, once=True))
                at.now += 3
        assert len(sim.requests) == 60


# -- the deadline ----------------------------------------------------------------------


async def test_the_deadline_ends_it_before_a_wait_that_does_not_fit(
    sim: Simulator, at: FakeTime
) -> None:
    sim.fault("status", status=503, times=None)
    async with opened(sim.base_url, at=at) as transport:
        error = await failure(transport.fetch(TASKS, deadline=5.0))
    assert isinstance(error, errors.DeadlineExceeded)
    assert at.slept == [1.0, 2.0]
    assert (error.status, len(error.attempts), error.path) == (503, 3, TASKS.target)
    assert "no time is left to try again" in error.message


async def test_an_attempt_is_cut_off_at_the_deadline(sim: Simulator) -> None:
    sim.fault("hang", times=None)
    async with opened(sim.base_url) as transport:
        began = time.monotonic()
        error = await failure(transport.fetch(TASKS, deadline=0.1))
        assert time.monotonic() - began < 2
    assert isinstance(error, errors.DeadlineExceeded)
    assert len(sim.requests) == 1


async def test_waiting_for_a_slot_ends_at_the_deadline(sim: Simulator) -> None:
    sim.fault("hang")
    async with opened(sim.base_url, limits=ONE) as transport, anyio.create_task_group() as lanes:
        lanes.start_soon(transport.fetch, TASKS)
        await until(lambda: sim.requests)
        error = await failure(transport.fetch(TASKS, deadline=0.05))
        assert isinstance(error, errors.DeadlineExceeded)
        assert "no time was left to send" in error.message
        lanes.cancel_scope.cancel()
    assert len(sim.requests) == 1


# -- broken connections ----------------------------------------------------------------


@pytest.mark.parametrize("warm", [False, True], ids=["fresh", "kept-alive"])
@pytest.mark.parametrize("fault", ["drop", "reset"])
async def test_a_lost_connection_costs_exactly_one_more_request(
    sim: Simulator, at: FakeTime, fault: str, warm: bool
) -> None:
    """aiohttp's own hidden retry is off: the server counts."""
    async with opened(sim.base_url, at=at) as transport:
        if warm:
            await transport.fetch(TASKS)
        sim.requests.clear()
        sim.fault(fault, **({"keep": 0} if fault == "reset" else {}))
        assert rows(await transport.fetch(TASKS)) == 5
    assert len(sim.requests) == 2


@pytest.mark.parametrize("warm", [False, True], ids=["fresh", "kept-alive"])
async def test_n_attempts_are_n_requests_when_every_connection_is_dropped(
    sim: Simulator, at: FakeTime, warm: bool
) -> None:
    async with opened(sim.base_url, at=at) as transport:
        if warm:
            await transport.fetch(TASKS)
        sim.requests.clear()
        sim.fault("drop", times=None)
        error = await failure(transport.fetch(TASKS))
    assert isinstance(error, errors.ConnectionFailed)
    assert len(sim.requests) == len(error.attempts) == 4
    assert at.slept == [0.0, 1.0, 2.0]


async def test_a_reset_of_an_idle_connection_is_a_dead_socket(at: FakeTime) -> None:
    """It costs no wait, whatever aiohttp calls it."""
    reset = aiohttp.ClientOSError(errno.ECONNRESET, "Connection reset by peer")
    assert translate(reset).kind is Kind.DEAD_SOCKET
    assert translate(reset).error.message == "the connection was reset"


@pytest.mark.parametrize(
    ("fault", "options"),
    [
        ("cut", {"keep": 0.5}),
        ("cut", {"keep": 0}),
        ("cut", {"keep": 0.5, "chunked": True}),
        ("cut", {"keep": 1, "chunked": True}),
        ("reset", {"keep": 0.5}),
    ],
)
async def test_a_body_that_ends_early_is_never_an_answer(
    sim: Simulator, at: FakeTime, fault: str, options: dict[str, Any]
) -> None:
    sim.fault(fault, **options)
    async with opened(sim.base_url, at=at) as transport:
        assert rows(await transport.fetch(TASKS)) == 5
        assert len(sim.requests) == 2
        sim.fault(fault, times=None, **options)
        error = await failure(transport.fetch(TASKS))
    assert isinstance(error, errors.ConnectionFailed)
    assert len(sim.requests) == 6


async def test_a_refused_port(refused: str, at: FakeTime) -> None:
    async with opened(refused, at=at) as transport:
        error = await failure(transport.fetch(TASKS))
    assert isinstance(error, errors.ConnectionFailed)
    assert "could not be made" in error.message
    assert at.slept == [0.5, 1.0, 2.0]


class Resolver(aiohttp.abc.AbstractResolver):
    """Fails as the system's resolver does; None: never answers."""

    def __init__(self, code: int | None) -> None:
        self.code = code
        self.asked = 0

    async def resolve(self, *_: Any, **__: Any) -> NoReturn:
        self.asked += 1
        if self.code is None:
            await anyio.sleep_forever()
        raise socket.gaierror(self.code, "told so")

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("code", "tries", "text"),
    [
        (socket.EAI_NONAME, 1, "the host host.invalid is not known: is base_url right?"),
        (socket.EAI_AGAIN, 4, "the host host.invalid cannot be resolved just now"),
    ],
)
async def test_an_unknown_host_is_not_tried_again_but_a_weak_resolver_is(
    at: FakeTime, code: int, tries: int, text: str
) -> None:
    resolver = Resolver(code)
    async with (
        aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False) as connector,
        opened("https://host.invalid", at=at, connector=connector) as transport,
    ):
        error = await failure(transport.fetch(TASKS))
    assert isinstance(error, errors.ConnectionFailed)
    assert (error.message, resolver.asked, len(error.attempts)) == (text, tries, tries)


@pytest.mark.parametrize(
    "greeting",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x28"],
    ids=["plain http", "a TLS alert"],
)
async def test_tls_that_fails_is_not_tried_again(at: FakeTime, greeting: bytes) -> None:
    connections = 0

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(greeting)
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with opened(f"https://127.0.0.1:{port}", at=at) as transport:
            error = await failure(transport.fetch(TASKS))
    assert isinstance(error, errors.ConnectionFailed)
    assert error.message.startswith("no secure connection to 127.0.0.1: ")
    assert (connections, len(error.attempts)) == (1, 1)


# -- timeouts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (RetryPolicy(attempts=2, read_timeout=0.05), "the server sent nothing for too long"),
        (RetryPolicy(attempts=2, attempt_timeout=0.05), "the attempt took too long"),
    ],
)
async def test_a_server_that_never_answers(
    sim: Simulator, at: FakeTime, policy: RetryPolicy, text: str
) -> None:
    sim.fault("hang", times=2)
    async with opened(sim.base_url, at=at, policy=policy) as transport:
        error = await failure(transport.fetch(TASKS))
        assert (type(error), error.message) == (errors.RequestTimeout, text)
        assert len(sim.requests) == 2
        assert rows(await transport.fetch(TASKS)) == 5


async def test_a_body_that_dribbles_is_bounded_by_the_attempt(sim: Simulator) -> None:
    sim.fault("slow", delay=0.03, chunk=1)
    policy = RetryPolicy(attempts=1, attempt_timeout=0.1, read_timeout=5)
    async with opened(sim.base_url, policy=policy) as transport:
        assert isinstance(await failure(transport.fetch(TASKS)), errors.RequestTimeout)


async def test_a_connection_that_is_never_made(at: FakeTime) -> None:
    policy = RetryPolicy(attempts=2, connect_timeout=0.05, attempt_timeout=0.2)
    resolver = Resolver(None)
    async with (
        aiohttp.TCPConnector(resolver=resolver) as connector,
        opened("https://host.invalid", at=at, policy=policy, connector=connector) as transport,
    ):
        assert isinstance(await failure(transport.fetch(TASKS)), errors.RequestTimeout)


async def test_an_idle_connection_outlives_the_read_timeout(sim: Simulator) -> None:
    """A timer that was left running would poison the pool."""
    async with opened(sim.base_url, policy=RetryPolicy(attempts=1, read_timeout=0.05)) as transport:
        await transport.fetch(TASKS)
        await asyncio.sleep(0.12)
        await transport.fetch(TASKS)


# -- bodies ----------------------------------------------------------------------------


async def test_whatever_a_200_says_is_the_callers_to_judge(sim: Simulator, at: FakeTime) -> None:
    async with opened(sim.base_url, at=at) as transport:
        for fault, start in (
            ("html", b"<!DOCTYPE "),
            ("truncate", b'{"count"'),
            ("bytes", b"\xff"),
        ):
            sim.fault(fault)
            assert (await transport.fetch(TASKS)).startswith(start)
    assert len(sim.requests) == 3


async def test_a_compressed_answer(sim: Simulator) -> None:
    sim.fault("gzip")
    async with opened(sim.base_url) as transport:
        assert await transport.fetch(TASKS) == await transport.fetch(TASKS)


ZIPPED = gzip.compress(b'{"data":[]}')


@pytest.mark.parametrize(
    ("headers", "body", "message"),
    [
        ("Content-Encoding: gzip", ZIPPED[:-9], "ends early"),
        ("Content-Encoding: gzip", b"this is not gzip", "damaged"),
        ("Content-Encoding: gzip", b"", "ends early"),
        ("Content-Encoding: br", b"x", "nobody asked for: br"),
        ("Content-Encoding: gzip, gzip", ZIPPED, "nobody asked for: gzip, gzip"),
        ("Content-Encoding: gzip\r\nContent-Encoding: gzip", ZIPPED, "nobody asked for: gzip"),
    ],
)
async def test_a_body_that_does_not_inflate_is_asked_for_once_more(
    at: FakeTime, headers: str, body: bytes, message: str
) -> None:
    head = f"HTTP/1.1 200 OK\r\n{headers}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with wire(head + body, head + body) as server, opened(server.base_url, at=at) as client:
        error = await failure(client.fetch(TASKS))
        assert await client.fetch(TASKS)
    assert type(error) is errors.ProtocolError
    assert message in error.message
    assert len(error.attempts) == 2


async def test_an_error_in_an_unreadable_encoding_is_still_that_error(at: FakeTime) -> None:
    head = (
        b"HTTP/1.1 429 Wait\r\nContent-Encoding: br\r\nRetry-After: 7\r\nContent-Length: 1\r\n\r\nx"
    )
    async with wire(head) as server, opened(server.base_url, at=at, draw=0.0) as transport:
        assert await transport.fetch(TASKS)
    assert at.slept == [7.0]


@pytest.fixture
def small_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_transport, "MAX_BODY", 500_000)
    monkeypatch.setattr(_transport, "MAX_COMPRESSED", 100_000)


@pytest.mark.usefixtures("small_caps")
async def test_an_endless_body_is_cut_at_the_cap(sim: Simulator, at: FakeTime) -> None:
    sim.fault("endless")
    async with opened(sim.base_url, at=at) as transport:
        error = await failure(transport.fetch(TASKS))
        assert rows(await transport.fetch(TASKS)) == 5
    assert isinstance(error, errors.ResponseTooLarge)
    assert error.path == TASKS.target
    assert (at.slept, len(sim.requests)) == ([], 2)


@pytest.mark.usefixtures("small_caps")
@pytest.mark.parametrize(
    ("head", "cap"),
    [
        (f"Content-Length: {10**13}", 500_000),
        ("Content-Length: 500001", 500_000),
        ("Content-Encoding: identity\r\nContent-Length: 500001", 500_000),
        ("Content-Encoding: gzip\r\nContent-Length: 100001", 100_000),
    ],
)
async def test_a_body_that_announces_too_much_is_not_read(head: str, cap: int) -> None:
    answer = f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n...".encode()
    async with wire(answer) as server, opened(server.base_url) as transport:
        error = await failure(transport.fetch(TASKS))
    assert isinstance(error, errors.ResponseTooLarge)
    assert f"the cap is {cap}" in error.message
    assert len(error.attempts) == 1


async def test_a_large_body_below_the_cap_is_read_whole() -> None:
    body = b" " * 3_000_000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    async with wire(answer) as server, opened(server.base_url) as transport:
        assert await transport.fetch(TASKS) == body


# -- redirects -------------------------------------------------------------------------


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
async def test_redirects_are_never_followed(sim: Simulator, at: FakeTime, status: int) -> None:
    here = f"{sim.base_url}/{TASKS.path}"
    for location in (here, "https://evil.example/", "//evil.example/", "\\\\e", "http://[::1", ""):
        sim.requests.clear()
        sim.fault("redirect", location=location, status=status)
        async with opened(sim.base_url, at=at, org_handle="acme") as transport:
            error = await failure(transport.fetch(TASKS))
        assert isinstance(error, errors.UnexpectedRedirect)
        assert error.message == (
            f"{TASKS.path} redirects to {location}; redirects are not followed"
        )
        assert len(sim.requests) == 1


# -- bytes that are not HTTP -----------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\n"
NOT_HTTP = {
    "garbage": b"garbage\r\n\r\n",
    "zeros": bytes(100),
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "HTTP/9.9": b"HTTP/9.9 200 OK\r\n\r\n",
    "no status": b"HTTP/1.1 \r\n\r\n",
    "a word as status": b"HTTP/1.1 abc OK\r\n\r\n",
    "a long status": b"HTTP/1.1 2000000 OK\r\n\r\n",
    "half a head": OK + b"Content-Le",
    "no colon": OK + b"nonsense\r\n\r\n",
    "a space in a name": OK + b"Bad Name: x\r\n\r\n",
    "an empty name": OK + b": x\r\n\r\n",
    "NUL in a value": OK + b"X: a\0b\r\n\r\n",
    "a negative length": OK + b"Content-Length: -1\r\n\r\n",
    "a word as length": OK + b"Content-Length: abc\r\n\r\n",
    "an overflowing length": OK + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "two lengths": OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bad chunk size": OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n",
    "a negative chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nab\r\n0\r\n\r\n",
    "a huge chunk": OK + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nab",
    "a later bad chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\nzz\r\nab\r\n0\r\n\r\n",
    "no last chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
    "a long header": OK + b"X: " + b"x" * 9000 + b"\r\n\r\n",
    "a long name": OK + b"x" * 9000 + b": x\r\n\r\n",
    "a long reason": b"HTTP/1.1 200 " + b"x" * 9000 + b"\r\n\r\n",
    "10000 headers": OK + b"".join(b"X-%d: x\r\n" % n for n in range(10_000)) + b"\r\n",
    "1000 cookies": OK + b"Set-Cookie: a=b\r\n" * 1000 + b"\r\n",
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
    b"Connection: upgrade\r\n\r\n\x81\x05hello",
}


async def test_bytes_that_are_not_http_are_one_of_our_errors(sim: Simulator, at: FakeTime) -> None:
    async with opened(sim.base_url, at=at) as transport:
        for what, data in NOT_HTTP.items():
            sim.requests.clear()
            sim.fault("raw", data=data, times=None)
            error = await failure(transport.fetch(TASKS))
            assert isinstance(error, (errors.ProtocolError, errors.ConnectionFailed)), what
            assert len(sim.requests) == len(error.attempts) <= 4, what
            sim.clear_faults()
            assert rows(await transport.fetch(TASKS)) == 5, what


async def test_no_damage_to_an_answer_escapes_the_tree_or_hangs() -> None:
    """600 answers with a few bytes changed, lost or doubled, each on its own connection."""
    random = Random(7)
    whole = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
        b"Date: Sat, 21 Nov 2026 23:32:09 GMT\r\nRetry-After: 3\r\nTransfer-Encoding: chunked\r\n"
        b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(ZIPPED), ZIPPED)
    )

    def damaged() -> bytes:
        data = bytearray(whole)
        for _ in range(random.randint(1, 4)):
            start = random.randrange(len(data))
            some = random.randbytes(random.randint(0, 3))
            data[start : start + random.randint(0, 6)] = some
        return bytes(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(damaged())
        writer.close()

    policy = RetryPolicy(attempts=1, read_timeout=2)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with opened(f"http://127.0.0.1:{port}", policy=policy) as transport:
            for _ in range(600):
                with suppress(UnpodError):
                    await transport.fetch(TASKS)


INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"


async def test_interim_answers_are_skipped() -> None:
    async with wire(INTERIM * 3 + GOOD) as server, opened(server.base_url) as transport:
        assert await transport.fetch(TASKS) == b'{"data":[]}'
    assert server.connections == 1


async def test_a_flood_of_interim_answers_ends_with_the_attempt() -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        while not writer.is_closing():
            writer.write(INTERIM * 50)
            await asyncio.sleep(0.001)

    policy = RetryPolicy(attempts=1, attempt_timeout=0.1)
    async with await asyncio.start_server(flood, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with opened(f"http://127.0.0.1:{port}", policy=policy) as transport:
            assert isinstance(await failure(transport.fetch(TASKS)), errors.RequestTimeout)
        await until(lambda: len(asyncio.all_tasks()) <= 2)


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_a_stray_body_does_not_reach_the_next_request(at: FakeTime, status: bytes) -> None:
    stray = b"HTTP/1.1 " + status + b'\r\nContent-Length: 15\r\n\r\n{"data":[6666]}'
    async with wire(stray, stray) as server, opened(server.base_url, at=at) as transport:
        assert isinstance(await failure(transport.fetch(TASKS)), errors.ProtocolError)
        while server.scripts:
            await failure(transport.fetch(TASKS))
        for _ in range(3):
            assert await transport.fetch(TASKS) == b'{"data":[]}'


# -- tokens ----------------------------------------------------------------------------


def asked(*tokens: str, calls: list[int], how: str) -> Callable[[], Any]:
    """A token callable that gives one after the other, the last for ever."""

    def give() -> str:
        calls.append(1)
        return tokens[min(len(calls), len(tokens)) - 1]

    async def give_later() -> str:
        await asyncio.sleep(0)
        return give()

    return give if how == "sync" else give_later


how = pytest.mark.parametrize("how", ["sync", "async"])


@how
async def test_a_token_callable_is_asked_once_for_all(sim: Simulator, how: str) -> None:
    calls: list[int] = []
    token = asked(CANARY, calls=calls, how=how)
    async with opened(sim.base_url, token=token) as transport, anyio.create_task_group() as lanes:
        for _ in range(12):
            lanes.start_soon(transport.fetch, TASKS)
    assert (len(calls), len(sim.requests)) == (1, 12)


@how
async def test_after_a_401_the_callable_is_asked_again(
    sim: Simulator, at: FakeTime, how: str
) -> None:
    calls: list[int] = []
    token = asked("expired", CANARY, calls=calls, how=how)
    async with opened(sim.base_url, token=token, at=at) as transport:
        assert rows(await transport.fetch(TASKS)) == 5
        assert rows(await transport.fetch(TASKS)) == 5
    assert (len(calls), len(sim.requests), at.slept) == (2, 3, [])


@how
async def test_a_second_401_is_final(sim: Simulator, at: FakeTime, how: str) -> None:
    calls: list[int] = []
    token = asked("wrong", calls=calls, how=how)
    async with opened(sim.base_url, token=token, at=at) as transport:
        error = await failure(transport.fetch(TASKS))
    assert isinstance(error, errors.AuthenticationError)
    assert history(error) == [(401, 0.0), (401, None)]
    assert (len(calls), len(sim.requests), at.slept) == (2, 2, [])


async def test_one_new_token_serves_all_lanes_whose_old_one_expired(sim: Simulator) -> None:
    calls: list[int] = []
    token = asked("expired", CANARY, calls=calls, how="async")
    sim.latency = 0.01
    async with opened(sim.base_url, token=token) as transport, anyio.create_task_group() as lanes:
        for _ in range(8):
            lanes.start_soon(transport.fetch, TASKS)
    assert len(calls) == 2


async def test_a_401_for_a_fixed_token_is_final_at_once(sim: Simulator) -> None:
    async with opened(sim.base_url, token=Secret("wrong")) as transport:
        assert isinstance(await failure(transport.fetch(TASKS)), errors.AuthenticationError)
    assert len(sim.requests) == 1


class VaultIsSealedError(Exception):
    pass


@how
async def test_what_a_token_callable_raises_is_raised_as_it_is(sim: Simulator, how: str) -> None:
    """It is the caller's own code: neither wrapped nor retried."""

    def fail() -> str:
        raise VaultIsSealedError

    async def fail_later() -> str:
        fail()
        raise AssertionError

    async with opened(sim.base_url, token=fail if how == "sync" else fail_later) as transport:
        for _ in range(10):
            with pytest.raises(VaultIsSealedError):
                await transport.fetch(TASKS)
    assert sim.requests == []


NO_TOKENS: list[Any] = ["", "two words", CANARY + "\n", "\r\nX-Evil: 1", "tok€n", None, 7, b"bytes"]


@how
async def test_what_is_no_token_is_refused_and_not_shown(sim: Simulator, how: str) -> None:
    for number in range(len(NO_TOKENS)):
        calls: list[int] = []
        token = asked(NO_TOKENS[number], calls=calls, how=how)
        async with opened(sim.base_url, token=token) as transport:
            error = await failure(transport.fetch(TASKS))
        assert isinstance(error, ConfigurationError)
        assert error.message.startswith("the callable's token takes 1 to 4096 printable ASCII")
        assert (len(calls), sim.requests) == (1, [])


async def test_a_token_callable_that_hangs_does_not_hang_the_request(sim: Simulator) -> None:
    policy = RetryPolicy(attempt_timeout=0.05)
    async with opened(sim.base_url, token=anyio.sleep_forever, policy=policy) as transport:
        error = await failure(transport.fetch(TASKS))
    assert isinstance(error, errors.RequestTimeout)
    assert error.message == "the token callable took too long"


# -- how many at once ------------------------------------------------------------------


@pytest.mark.parametrize("limits", [Limits(max_concurrency=3, adaptive=False), Limits()])
async def test_never_more_at_once_than_allowed_retries_included(
    sim: Simulator, limits: Limits
) -> None:
    sim.latency = 0.003
    sim.fault("status", status=500, times=10)
    sim.fault("drop", times=10)
    sim.fault("status", status=503, times=5, after=10)
    policy = RetryPolicy(attempts=30, base=0.01, throttle_base=0.01, cap=0.01)
    async with (
        opened(sim.base_url, limits=limits, policy=policy) as transport,
        anyio.create_task_group() as lanes,
    ):
        for _ in range(60):
            lanes.start_soon(transport.fetch, TASKS)
    assert len(sim.requests) == 60 + 25
    assert 3 <= sim.peak_in_flight <= limits.max_concurrency


class Idle(Transport):
    """A transport whose attempts take a few turns of the loop and no socket."""

    at_once = peak = 0

    async def _send(self, request: Request, ends: float) -> bytes:
        self.at_once += 1
        self.peak = max(self.peak, self.at_once)
        try:
            for _ in range(3):
                await asyncio.sleep(0)
        finally:
            self.at_once -= 1
        return b""


async def test_a_thousand_cancellations_lose_no_slot() -> None:
    random = Random(4)
    transport = Idle(
        "http://localhost",
        Credentials(Secret(CANARY), "Token", None),
        policy=RetryPolicy(),
        limits=Limits(max_concurrency=3, adaptive=False),
    )
    await transport.open()
    for _ in range(100):
        tasks = [asyncio.create_task(transport.fetch(TASKS)) for _ in range(10)]
        for task in tasks:
            for _ in range(random.randrange(3)):
                await asyncio.sleep(0)
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} <= {bytes, asyncio.CancelledError}
    limiter = transport._usable()[1].limiter
    assert limiter.statistics().borrowed_tokens == limiter.statistics().tasks_waiting == 0
    assert transport.peak == 3
    transport.peak = 0
    async with anyio.create_task_group() as lanes:
        for _ in range(5):
            lanes.start_soon(transport.fetch, TASKS)
    assert transport.peak == 3
    await transport.aclose()


# -- cancellation ----------------------------------------------------------------------


@dataclass
class Stage:
    """A point in a request where it waits; `reached` says that it does."""

    base_url: str
    reached: Callable[[], object]
    options: dict[str, Any] = field(default_factory=dict)


@asynccontextmanager
async def at_connecting(sim: Simulator) -> AsyncIterator[Stage]:
    resolver = Resolver(None)
    async with aiohttp.TCPConnector(resolver=resolver) as connector:
        stage = Stage("https://host.invalid", lambda: resolver.asked, {"connector": connector})
        yield stage


@asynccontextmanager
async def at_the_head(sim: Simulator) -> AsyncIterator[Stage]:
    sim.fault("hang")
    yield Stage(sim.base_url, lambda: sim.requests)


@asynccontextmanager
async def in_the_body(sim: Simulator) -> AsyncIterator[Stage]:
    async with wire(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n...") as server:
        yield Stage(server.base_url, lambda: server.requests)


@asynccontextmanager
async def in_the_backoff(sim: Simulator) -> AsyncIterator[Stage]:
    at = StuckTime()
    sim.fault("status", status=500)
    yield Stage(sim.base_url, lambda: at.slept, {"at": at})


@asynccontextmanager
async def at_the_token(sim: Simulator) -> AsyncIterator[Stage]:
    asked: list[int] = []

    async def token() -> str:
        asked.append(1)
        if len(asked) == 1:
            await anyio.sleep_forever()
        return CANARY

    yield Stage(sim.base_url, lambda: asked, {"token": token})


STAGES = [at_connecting, at_the_head, in_the_body, in_the_backoff, at_the_token]
every_stage = pytest.mark.parametrize("stage_at", STAGES, ids=lambda stage: stage.__name__)


@every_stage
@pytest.mark.parametrize("native", [True, False], ids=["task.cancel", "scope.cancel"])
async def test_cancellation_is_not_wrapped_and_leaves_nothing(
    sim: Simulator, stage_at: Callable[[Simulator], Any], native: bool
) -> None:
    async with stage_at(sim) as stage, opened(stage.base_url, **stage.options) as transport:
        if native:
            task = asyncio.create_task(transport.fetch(TASKS))
            await until(stage.reached)
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            trace = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
            assert CANARY not in "".join(trace.format())
        else:
            async with anyio.create_task_group() as lanes:
                lanes.start_soon(transport.fetch, TASKS)
                await until(stage.reached)
                lanes.cancel_scope.cancel()
        if stage_at is not at_connecting:
            assert await transport.fetch(TASKS)  # on a connection that is not the cancelled one


@every_stage
async def test_closing_while_a_request_is_under_way_ends_it_at_once(
    sim: Simulator, stage_at: Callable[[Simulator], Any]
) -> None:
    async with stage_at(sim) as stage, opened(stage.base_url, **stage.options) as transport:
        task = asyncio.create_task(transport.fetch(TASKS))
        await until(stage.reached)
        await transport.aclose()
        with anyio.fail_after(2), pytest.raises(ConfigurationError, match="was closed while"):
            await task


async def test_a_request_that_waited_for_its_slot_while_the_client_was_closed(
    sim: Simulator,
) -> None:
    sim.fault("hang")
    async with opened(sim.base_url, limits=ONE) as transport:
        first = asyncio.create_task(transport.fetch(TASKS))
        await until(lambda: sim.requests)
        second = asyncio.create_task(transport.fetch(TASKS))
        await asyncio.sleep(0.01)
        await transport.aclose()
        for task in (first, second):
            with pytest.raises(ConfigurationError, match="this client was closed"):
                await task
    assert len(sim.requests) == 1


async def test_ctrl_c_in_a_backoff_goes_through(sim: Simulator) -> None:
    class Interrupted(FakeTime):
        async def sleep(self, seconds: float) -> None:
            raise KeyboardInterrupt

    sim.fault("status", status=500)
    async with opened(sim.base_url, at=Interrupted()) as transport:
        with pytest.raises(KeyboardInterrupt):
            await transport.fetch(TASKS)
    assert len(sim.requests) == 1


# -- life ------------------------------------------------------------------------------


def plain(base_url: str = "http://localhost:1", **options: Any) -> Transport:
    credentials = Credentials(Secret(CANARY), "Token", None)
    return Transport(base_url, credentials, policy=ONCE, limits=FIXED, **options)


async def test_use_before_opening_and_after_closing() -> None:
    transport = plain()
    with pytest.raises(ConfigurationError, match="is not open"):
        await transport.fetch(TASKS)
    await transport.open()
    await transport.open()
    await transport.aclose()
    await transport.aclose()
    for use in (transport.open(), transport.fetch(TASKS)):
        with pytest.raises(ConfigurationError, match="is closed; make a new one"):
            await use


async def test_closing_what_was_never_opened() -> None:
    transport = plain()
    await transport.aclose()
    with pytest.raises(ConfigurationError, match="is closed"):
        await transport.open()


async def test_opening_in_one_task_and_closing_in_another(sim: Simulator) -> None:
    transport = plain(sim.base_url)
    async with anyio.create_task_group() as lanes:
        lanes.start_soon(transport.open)
    await transport.fetch(TASKS)
    async with anyio.create_task_group() as lanes:
        lanes.start_soon(transport.aclose)


def test_two_event_loops_in_sequence() -> None:
    with Simulator(seed=1, runs=1, tasks=5, token=CANARY) as sim:
        stale = plain(sim.base_url)

        async def use(transport: Transport) -> bytes:
            await transport.open()
            return await transport.fetch(TASKS)

        async def use_and_close() -> bytes:
            transport = plain(sim.base_url)
            body = await use(transport)
            await transport.aclose()
            return body

        for _ in range(2):
            assert rows(asyncio.run(use_and_close())) == 5
        asyncio.run(stale.open())
        for again in (use(stale), stale.fetch(TASKS), stale.open()):
            with pytest.raises(ConfigurationError, match="in another event loop"):
                asyncio.run(again)
        asyncio.run(stale.aclose())


async def test_a_connector_of_the_caller_is_used_and_stays_open(sim: Simulator) -> None:
    async with aiohttp.TCPConnector() as connector:
        for _ in range(2):
            async with opened(sim.base_url, connector=connector) as transport:
                assert rows(await transport.fetch(TASKS)) == 5
            assert not connector.closed
        transport = plain(sim.base_url, connector=connector)
        await transport.open()
    with pytest.raises(ConfigurationError, match="connector that this client was given is closed"):
        await transport.fetch(TASKS)
    await transport.aclose()


def test_a_connector_of_another_loop_is_refused() -> None:
    async def make() -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector()

    async def close() -> None:
        await connector.close()

    connector = asyncio.run(make())
    with pytest.raises(ConfigurationError, match="connector belongs to another event loop"):
        asyncio.run(plain(connector=connector).open())
    asyncio.run(close())


def test_a_transport_is_for_asyncio() -> None:
    coroutine = plain().open()
    with pytest.raises(ConfigurationError, match="under asyncio only"):
        coroutine.send(None)


async def test_idle_connections_are_let_go_before_the_server_drops_them() -> None:
    transport = plain()
    await transport.open()
    session, _ = transport._usable()
    assert isinstance(session.connector, aiohttp.TCPConnector)
    assert 0 < session.connector._keepalive_timeout < 5
    assert session.connector.limit == FIXED.max_concurrency
    assert not session.trust_env
    await transport.aclose()


# -- translations that no socket shows at will -------------------------------------------

KEY = aiohttp.client_reqrep.ConnectionKey("host.invalid", 443, True, True, None, None, None)
INFO = aiohttp.RequestInfo("http://x/", "GET", {"Authorization": CANARY}, "http://x/")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cause", "kind", "deserves"),
    [
        (aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError("expired")),
         errors.ConnectionFailed, Kind.NEVER),
        (aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "handshake")),
         errors.ConnectionFailed, Kind.NEVER),
        (ssl.SSLError(1, "bad record mac"), errors.ConnectionFailed, Kind.NEVER),
        (aiohttp.ServerFingerprintMismatch(b"", b"", "h", 1), errors.ConnectionFailed, Kind.NEVER),
        (aiohttp.ClientConnectorError(KEY, OSError(errno.EMFILE, "Too many open files")),
         errors.ConnectionFailed, Kind.TRANSIENT),
        (aiohttp.ConnectionTimeoutError(), errors.RequestTimeout, Kind.TRANSIENT),
        (aiohttp.SocketTimeoutError(), errors.RequestTimeout, Kind.TRANSIENT),
        (aiohttp.ServerTimeoutError(), errors.RequestTimeout, Kind.TRANSIENT),
        (TimeoutError(), errors.RequestTimeout, Kind.TRANSIENT),
        (OSError(errno.ETIMEDOUT, "x"), errors.RequestTimeout, Kind.TRANSIENT),
        (OSError(errno.EHOSTUNREACH, "No route"), errors.ConnectionFailed, Kind.TRANSIENT),
        (ConnectionResetError(), errors.ConnectionFailed, Kind.DEAD_SOCKET),
        (BrokenPipeError(), errors.ConnectionFailed, Kind.DEAD_SOCKET),
        (aiohttp.ClientOSError(errno.EPIPE, "Broken pipe"),
         errors.ConnectionFailed, Kind.DEAD_SOCKET),
        (aiohttp.ClientConnectionResetError("x"), errors.ConnectionFailed, Kind.DEAD_SOCKET),
        (aiohttp.ServerDisconnectedError(), errors.ConnectionFailed, Kind.DEAD_SOCKET),
        (aiohttp.ClientPayloadError(CANARY), errors.ConnectionFailed, Kind.TRANSIENT),
        (aiohttp.ClientResponseError(INFO, (), status=400, message=CANARY),
         errors.ProtocolError, Kind.ONCE_MORE),
        (aiohttp.ContentTypeError(INFO, ()), errors.ProtocolError, Kind.ONCE_MORE),
        (aiohttp.InvalidURL("http://x"), errors.ProtocolError, Kind.NEVER),
        (UnicodeError("label too long"), errors.ProtocolError, Kind.NEVER),
        (ValueError(CANARY), errors.ProtocolError, Kind.NEVER),
        (aiohttp.ClientError(CANARY), errors.ConnectionFailed, Kind.TRANSIENT),
        (aiohttp.ClientConnectionError("Connector is closed"),
         errors.ConnectionFailed, Kind.TRANSIENT),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)  # fmt: skip
def test_one_table_translates_all(cause: Exception, kind: type[UnpodError], deserves: Kind) -> None:
    found = translate(cause)
    assert (type(found.error), found.kind) == (kind, deserves)
    assert CANARY not in str(found.error)
    if isinstance(cause, aiohttp.ClientSSLError):
        assert "host.invalid" in found.error.message


def test_what_is_caught_covers_every_exception_of_aiohttps_client() -> None:
    for name in aiohttp.client_exceptions.__all__:
        kind = getattr(aiohttp.client_exceptions, name)
        ours_to_meet = not name.startswith("WSMessage")  # of websockets
        assert not ours_to_meet or issubclass(kind, (aiohttp.ClientError, OSError, ValueError))


# -- logs ------------------------------------------------------------------------------


async def test_a_log_handler_that_raises_changes_nothing(sim: Simulator, at: FakeTime) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("disk full")

    handler = Broken()
    logger = logging.getLogger("unpod_async")
    logger.addHandler(handler)
    try:
        sim.fault("status", status=500)
        async with opened(sim.base_url, at=at) as transport:
            assert rows(await transport.fetch(TASKS)) == 5
    finally:
        logger.removeHandler(handler)


async def test_a_retry_is_logged_without_query_or_token(
    sim: Simulator, at: FakeTime, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.get_running_loop().set_debug(True)
    sim.fault("status", status=500)
    async with opened(sim.base_url, at=at) as transport:
        await transport.fetch(TASKS)
    ours = [record.getMessage() for record in caplog.records if record.name == "unpod_async"]
    assert ours == [f"{TASKS.path}: retry in 0.50 s (500)"]
