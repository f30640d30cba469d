"""Each fault as a client meets it on a socket, and how the server starts, queues and stops."""

import asyncio
import contextlib
import email.utils
import gzip
import http.client
import json
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import anyio
import pytest

from unpod_async.simulator import Churn, Reply, Simulator
from unpod_async.simulator._faults import FAULTS

pytestmark = pytest.mark.anyio
pytest_plugins = "pytester"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    with anyio.fail_after(20):
        async with Simulator(seed=1, runs=4, tasks=60) as simulator:
            yield simulator


class Seen(NamedTuple):
    """All that came over a connection before it ended."""

    status: int
    headers: dict[str, str]
    raw: bytes
    ended: str

    @property
    def body(self) -> Any:
        return json.loads(self.raw)

    @property
    def ids(self) -> list[str]:
        return [row["task_id"] for row in self.body["data"]]


def question(sim: Simulator, query: str = "", path: str = "tasks/", keep: bool = False) -> bytes:
    lines = (
        f"GET /api/v2/platform/spaces/{sim.space_token}/{path}{query} HTTP/1.1",
        "Host: localhost",
        f"Authorization: Token {sim.token}",
        f"Connection: {'keep-alive' if keep else 'close'}",
    )
    return "\r\n".join((*lines, "", "")).encode()


async def ask(sim: Simulator, query: str = "", path: str = "tasks/") -> Seen:
    reader, writer = await asyncio.open_connection(sim.host, sim.port)
    got, ended = b"", "closed"
    try:
        writer.write(question(sim, query, path))
        while chunk := await reader.read(65536):
            got += chunk
    except ConnectionResetError:
        ended = "reset"
    finally:
        await leave(writer)
    head, _, body = got.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name: value for name, _, value in (line.partition(": ") for line in lines)}
    return Seen(int(first.split()[1]) if first else 0, headers, body, ended)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 (nobody sets an event for us)
        await asyncio.sleep(0)


async def leave(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


# Other answers


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 502, 503, 504, 520])
async def test_status(status: int, sim: Simulator) -> None:
    sim.fault("status", status=status, headers={"X-Try": "1"})
    seen = await ask(sim)
    assert (seen.status, seen.headers["X-Try"]) == (status, "1")
    is_html = seen.headers["Content-Type"].startswith("text/html")
    assert is_html == (status >= 500)
    assert is_html or "message" in json.dumps(seen.body)
    assert (await ask(sim)).status == 200


async def test_status_with_a_body(sim: Simulator) -> None:
    sim.fault("status", status=503, body={"busy": True})
    sim.fault("status", status=503, body="plain")
    seen = await ask(sim)
    assert seen.body == {"busy": True}
    assert seen.headers["Content-Type"] == "application/json"
    assert (await ask(sim)).raw == b"plain"


async def test_throttle(sim: Simulator) -> None:
    sim.fault("throttle", retry_after=3)
    sim.fault("throttle", retry_after=0.5, as_date=True)
    sim.fault("throttle", retry_after=None)
    seen = await ask(sim)
    assert (seen.status, seen.headers["Retry-After"]) == (429, "3")
    assert seen.headers["X-RateLimit-Remaining"] == "0"
    assert abs(int(seen.headers["X-RateLimit-Reset"]) - time.time()) < 10
    assert seen.body["error"]["code"] == "rate_limit_exceeded"
    dated = (await ask(sim)).headers["Retry-After"]
    assert email.utils.parsedate_to_datetime(dated).tzinfo is not None
    assert "Retry-After" not in (await ask(sim)).headers


async def test_upstream(sim: Simulator) -> None:
    sim.fault("upstream", errors="<html>502</html>")
    sim.fault("upstream", errors={"detail": "Too Many Requests"})
    seen = await ask(sim, path="runs/")
    assert (seen.status, seen.body["message"]) == (206, "Runs Fetch Failed")
    assert seen.body["errors"] == seen.body["data"]["errors"] == "<html>502</html>"
    assert (await ask(sim)).body["message"] == "Tasks Fetch Failed"


async def test_empty_html_redirect_and_bytes(sim: Simulator) -> None:
    sim.fault("empty")
    sim.fault("html", size=5000)
    sim.fault("redirect", location="http://elsewhere.example.com/x")
    sim.fault("bytes", body=b"\xef\xbb\xbf{}", content_type="text/csv")
    empty, html, redirect, raw = [await ask(sim) for _ in range(4)]
    assert (empty.status, empty.body["data"], empty.body["count"]) == (200, [], 0)
    assert (html.status, html.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert len(html.raw) == 5000
    assert (redirect.status, redirect.headers["Location"]) == (
        302,
        "http://elsewhere.example.com/x",
    )
    assert (raw.raw, raw.headers["Content-Type"]) == (b"\xef\xbb\xbf{}", "text/csv")


# The true answer, later or in other clothes


async def test_delay_and_latency(sim: Simulator) -> None:
    sim.fault("delay", seconds=0.05)
    sim.latency, sim.per_row_latency = 0.02, 0.001
    start = time.monotonic()
    assert len((await ask(sim, "?page_size=10")).ids) == 10
    assert time.monotonic() - start >= 0.075


async def test_truncate(sim: Simulator) -> None:
    sim.fault("truncate", keep=0.9)
    seen = await ask(sim)
    assert int(seen.headers["Content-Length"]) == len(seen.raw)
    with pytest.raises(json.JSONDecodeError):
        json.loads(seen.raw)


async def test_gzip(sim: Simulator) -> None:
    sim.fault("gzip")
    seen = await ask(sim)
    assert seen.headers["Content-Encoding"] == "gzip"
    assert seen.headers["Content-Type"] == "application/json"
    assert gzip.decompress(seen.raw) == (await ask(sim)).raw


async def test_stale(sim: Simulator) -> None:
    states = []
    sim.fault("stale", ticks=4, times=1, after=6)
    for _ in range(6):
        states.append((await ask(sim)).ids)
        sim.world.insert()
    seen = await ask(sim, "?page_size=0")
    assert seen.ids in [sim.world.task_ids()[back:] for back in (2, 3)]
    assert seen.body["count"] == len(seen.ids)
    assert (await ask(sim)).ids == sim.world.task_ids()[:50]
    assert sim._snapshots is None


async def test_lying_about_pages(sim: Simulator) -> None:
    first, last = [(await ask(sim, f"?page_size=25&page={page}")).ids for page in (1, 3)]
    sim.fault("repeat-last-page", times=None)
    assert (await ask(sim, "?page_size=25&page=9")).ids == last
    assert (await ask(sim, "?page_size=25&page=1")).ids == first
    assert (await ask(sim, "?page_size=0&page=9")).ids == sim.world.task_ids()
    sim.clear_faults()
    assert (await ask(sim, "?page_size=25&page=9")).ids == []
    sim.fault("ignore-page", times=None)
    assert (await ask(sim, "?page_size=25&page=3")).ids == first


async def test_shuffle(sim: Simulator) -> None:
    sim.fault("shuffle", times=None)
    answers = [await ask(sim, "?page_size=0") for _ in range(3)]
    assert len({tuple(answer.ids) for answer in answers}) == 3
    assert all(sorted(answer.ids) == sorted(sim.world.task_ids()) for answer in answers)
    for answer in answers:
        created = [row["created"] for row in answer.body["data"]]
        assert created == sorted(created, reverse=True)
    assert (await ask(sim, path="runs/")).status == 200


# Broken connections


async def test_drop(sim: Simulator) -> None:
    sim.fault("drop")
    seen = await ask(sim)
    assert (seen.status, seen.raw, seen.ended) == (0, b"", "closed")
    assert sim.requests[-1].status is None


async def test_raw(sim: Simulator) -> None:
    sim.fault("raw", data=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n")
    seen = await ask(sim)
    assert (seen.status, seen.raw) == (200, b"xyz\r\n")


async def test_cut(sim: Simulator) -> None:
    sim.fault("cut", keep=0.25)
    seen = await ask(sim)
    assert len(seen.raw) == int(seen.headers["Content-Length"]) // 4
    sim.fault("cut", chunked=True)
    chunked = await ask(sim)
    size, _, data = chunked.raw.partition(b"\r\n")
    assert chunked.headers["Transfer-Encoding"] == "chunked"
    assert len(data) == int(size, 16) + 2  # and no last chunk


async def test_reset(sim: Simulator) -> None:
    sim.fault("reset")
    seen = await ask(sim)
    assert seen.ended == "reset"
    assert seen.status == 200
    assert len(seen.raw) < int(seen.headers["Content-Length"])


async def test_slow(sim: Simulator) -> None:
    sim.fault("slow", delay=0.001)
    sim.fault("slow", delay=0, chunk=1000, after=1)
    seen = await ask(sim)
    assert seen.raw == (await ask(sim)).raw == (await ask(sim)).raw


async def test_hang_and_endless(sim: Simulator) -> None:
    sim.fault("hang")
    sim.fault("endless")
    with anyio.move_on_after(0.05) as waited:
        await ask(sim)
    assert waited.cancelled_caught
    reader, writer = await asyncio.open_connection(sim.host, sim.port)
    writer.write(question(sim))
    assert len(await reader.readexactly(1_000_000)) == 1_000_000
    await leave(writer)
    assert (await ask(sim)).status == 200


# Which requests are hit


async def test_faults_count_match_and_nest(sim: Simulator) -> None:
    sim.fault("delay", seconds=0, times=None)
    sim.fault("status", times=2, after=1, match="/runs/")
    sim.fault("throttle", match=lambda request: request.page == 2)
    assert (await ask(sim)).status == 200
    answers = [(await ask(sim, path="runs/")).status for _ in range(4)]
    assert answers == [200, 503, 503, 200]
    assert [(await ask(sim, f"?page={page}")).status for page in (1, 2, 2)] == [200, 429, 200]
    assert [request.status for request in sim.requests][-3:] == [200, 429, 200]


async def test_a_rate_is_for_ever_and_seeded(sim: Simulator) -> None:
    sim.fault("status", rate=0.5)
    first = [(await ask(sim, "?page_size=1")).status for _ in range(30)]
    assert 5 < first.count(503) < 25
    async with Simulator(seed=1, runs=4, tasks=60) as other:
        other.fault("status", rate=0.5)
        assert [(await ask(other, "?page_size=1")).status for _ in range(30)] == first


@pytest.mark.parametrize("outer", ["gzip", "truncate", "slow", "cut", "reset", "delay", "stale"])
async def test_a_fault_around_one_that_never_answers(outer: str, sim: Simulator) -> None:
    sim.fault(outer)
    sim.fault("drop")
    assert (await ask(sim)).raw == b""


def test_faults_that_do_not_exist_are_refused() -> None:
    sim = Simulator(tasks=1)
    with pytest.raises(ValueError, match="no fault 'typo'; there are: status"):
        sim.fault("typo")
    for kind in FAULTS:
        with pytest.raises(TypeError):
            sim.fault(kind, nonsense=1)


# Serving


async def test_slots_and_peak() -> None:
    async with Simulator(tasks=5, slots=2) as sim:
        sim.fault("delay", seconds=0.03, times=None)
        start = time.monotonic()
        await asyncio.gather(*(ask(sim) for _ in range(6)))
        assert time.monotonic() - start >= 0.09
        assert sim.peak_in_flight == 6


async def test_idle_connections_are_closed_without_notice() -> None:
    async with Simulator(tasks=5, keep_alive=0.05) as sim:
        reader, writer = await asyncio.open_connection(sim.host, sim.port)
        for _ in range(2):
            writer.write(question(sim, "?page_size=1", keep=True))
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"Connection: close" not in head
            length = head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
        with anyio.fail_after(5):
            assert await reader.read() == b""
        await leave(writer)


async def test_churn_happens_with_each_list_request(sim: Simulator) -> None:
    sim.churn = Churn(inserts=2, deletes=1, updates=1, depth=3, run_inserts=0.5, run_deletes=0.1)
    mark = sim.world.mark()
    for page in range(40):
        assert (await ask(sim, f"?page={page % 3 + 1}&page_size=7")).status == 200
    assert {event.kind for event in sim.world.log if event.tick > mark} >= {
        *("insert", "delete", "update", "insert-run", "delete-run"),
    }
    sim.churn = None
    tick = sim.world.tick
    await ask(sim)
    assert sim.world.tick == tick + 1


@pytest.mark.parametrize("habit", ["silent", "half a request", "hang", "does not read", "endless"])
async def test_it_stops_whatever_its_clients_do(habit: str) -> None:
    before = asyncio.all_tasks()
    with anyio.fail_after(10):
        async with Simulator(seed=1, runs=5, tasks=5_000) as sim:
            if habit in FAULTS:
                sim.fault(habit)
            _, writer = await asyncio.open_connection(sim.host, sim.port)
            asked = question(sim, "?page_size=0")
            writer.write({"silent": b"", "half a request": asked[:50]}.get(habit, asked))
            if habit in ("hang", "does not read", "endless"):
                await until(lambda: bool(sim.requests))
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(sim.host, sim.port)
        await leave(writer)


async def test_serve_forever_until_cancelled() -> None:
    sim = Simulator(tasks=5)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(sim.serve_forever)
            await until(lambda: bool(sim.port))
            assert (await ask(sim)).status == 200
            group.cancel_scope.cancel()


def sync_ask(sim: Simulator) -> int:
    connection = http.client.HTTPConnection(sim.host, sim.port, timeout=5)
    try:
        path = f"/api/v2/platform/spaces/{sim.space_token}/tasks/"
        connection.request("GET", path, None, {"Authorization": f"Token {sim.token}"})
        return connection.getresponse().status
    finally:
        connection.close()


def test_in_a_thread() -> None:
    with Simulator(tasks=5) as sim:
        assert sim.base_url == f"http://127.0.0.1:{sim.port}/api/v2/platform"
        assert sync_ask(sim) == 200
        sim.fault("status")
        sim.answer = lambda request: Reply(204)
        assert [sync_ask(sim), sync_ask(sim)] == [503, 204]
    with pytest.raises(ConnectionRefusedError):
        sync_ask(sim)


@pytest.mark.parametrize("noticed", [True, False])
def test_in_a_thread_with_a_client_that_hangs(noticed: bool) -> None:
    with Simulator(tasks=5) as sim:
        sim.fault("hang")
        client = socket.create_connection((sim.host, sim.port), timeout=5)
        client.sendall(question(sim))
        while noticed and not sim.requests:
            time.sleep(0)
    with client:
        try:
            assert client.recv(1) == b""
        except ConnectionResetError:
            assert not noticed


@pytest.mark.parametrize(
    "enter", [lambda sim: sim.__enter__(), lambda sim: asyncio.run(sim.start())]
)
def test_a_taken_port_is_an_error(enter: Callable[[Simulator], object]) -> None:
    with Simulator(tasks=5) as sim, pytest.raises(OSError, match=r"address|in use"):
        enter(Simulator(tasks=5, port=sim.port))


# Around it


def test_importing_it_costs_nothing(pytester: pytest.Pytester) -> None:
    code = """
        import sys
        import unpod_async.simulator, unpod_async.simulator.pytest_plugin
        assert "aiohttp" not in sys.modules
        assert "Simulator" in dir(unpod_async.simulator)
        from unpod_async.simulator import Simulator
        assert "aiohttp" in sys.modules
        try:
            unpod_async.simulator.nothing
        except AttributeError:
            pass
    """
    ran = pytester.run(sys.executable, pytester.makepyfile(code))
    assert ran.ret == 0, ran.stderr.str()


def test_the_fixture_and_its_marker(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest, urllib.error, urllib.request
        def test_defaults(unpod_simulator):
            assert len(unpod_simulator.world) == 120
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(unpod_simulator.base_url + "/organizations/")
            assert unpod_simulator.requests[0].status == 401
        @pytest.mark.unpod_simulator(tasks=7, latency=0.001)
        def test_marked(unpod_simulator):
            assert len(unpod_simulator.world) == 7
        """
    )
    pytester.runpytest("--strict-markers").assert_outcomes(passed=2)
