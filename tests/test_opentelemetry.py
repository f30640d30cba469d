"""Spans and metrics, as OpenTelemetry's own SDK gets them, over real sockets."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any, NoReturn

import anyio
import pytest
from aiohttp import TraceRequestStartParams
from multidict import CIMultiDict
from opentelemetry import trace
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from yarl import URL

from unpod_async import (
    ConfigurationError,
    IncompleteWalk,
    NotFound,
    PermissionDenied,
    Report,
    RetryPolicy,
    ServerError,
    SpaceHandle,
    UnpodClient,
    UnpodError,
)
from unpod_async.integrations import opentelemetry as integration
from unpod_async.integrations.opentelemetry import OpenTelemetry, request_hook, url_filter
from unpod_async.simulator import Simulator

pytestmark = pytest.mark.anyio

CANARY = "S3CR3T-CANARY"
PHONE = "15550001234"
TASKS = "spaces/{space}/tasks/"
RUNS = "spaces/{space}/runs/"
RUN_TASKS = "spaces/{space}/runs/{run}/tasks/"
PAGE = f"unpod GET {TASKS}"
IMPATIENT = RetryPolicy(base=0, throttle_base=0)


class Seen:
    """What the SDK was told."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self._metrics = InMemoryMetricReader()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.meters = MeterProvider([self._metrics], shutdown_on_exit=False)
        self.telemetry = OpenTelemetry(tracer_provider=self.tracers, meter_provider=self.meters)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._spans.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def tree(self) -> Counter[tuple[str | None, str]]:
        """How many spans of which name are under a span of which name."""
        names = {span.context.span_id: span.name for span in self.spans if span.context}
        return Counter(
            (names.get(span.parent.span_id) if span.parent else None, span.name)
            for span in self.spans
        )

    def points(self) -> dict[str, list[Any]]:
        data = self._metrics.get_metrics_data()
        metrics = [
            metric
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        return {metric.name: list(metric.data.data_points) for metric in metrics}

    def sums(self, name: str, label: str) -> dict[Any, float]:
        """A counter's totals by one of its labels."""
        totals: Counter[Any] = Counter()
        for point in self.points().get(name, []):
            totals[point.attributes.get(label)] += point.value
        return dict(totals)

    def spans_as_text(self) -> str:
        return "\n".join(span.to_json() for span in self.spans)

    def metrics_as_text(self) -> str:
        data = self._metrics.get_metrics_data()
        return data.to_json() if data else ""

    def close(self) -> None:
        self.tracers.shutdown()
        self.meters.shutdown()


@pytest.fixture
def seen() -> Iterator[Seen]:
    seen = Seen()
    yield seen
    seen.close()


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(seed=7, runs=5, tasks=300, token=CANARY) as simulator:
        yield simulator


def client_of(sim: Simulator, telemetry: Any) -> UnpodClient:
    return UnpodClient(
        token=sim.token,
        base_url=sim.base_url,
        org_handle=sim.org_handle,
        retry=IMPATIENT,
        telemetry=telemetry,
    )


@pytest.fixture
async def client(sim: Simulator, seen: Seen) -> AsyncIterator[UnpodClient]:
    async with client_of(sim, seen.telemetry) as opened:
        yield opened


@pytest.fixture
def space(client: UnpodClient, sim: Simulator) -> SpaceHandle:
    return client.space(sim.space_token)


@pytest.fixture
def http_spans(seen: Seen) -> Iterator[None]:
    """The aiohttp instrumentation, as an application would set it up."""
    instrumentor = AioHttpClientInstrumentor()
    instrumentor.instrument(
        tracer_provider=seen.tracers,
        meter_provider=seen.meters,
        url_filter=url_filter,
        request_hook=request_hook,
    )
    yield
    instrumentor.uninstrument()


def told(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


# -- spans ------------------------------------------------------------------------------


async def test_a_walk_is_a_span_over_its_pages(seen: Seen, space: SpaceHandle) -> None:
    async with space.tasks(page_size=50).walk(prefetch=3) as walk:
        async for _ in walk:
            pass
    assert set(seen.tree()) == {(None, f"unpod walk {TASKS}"), (f"unpod walk {TASKS}", PAGE)}
    attributes = told(seen.one(f"unpod walk {TASKS}"))
    assert attributes["unpod.operation"] == "walk"
    assert attributes["unpod.rows"] == 300
    assert attributes["unpod.windows"] == walk.report.windows == len(seen.named(PAGE))
    assert attributes["unpod.duplicates"] == walk.report.duplicates
    assert (attributes["unpod.verified"], attributes["unpod.verdict"]) == (True, "verified")
    assert attributes["unpod.outcome"] == "ok"


async def test_a_page_tells_its_request(seen: Seen, space: SpaceHandle) -> None:
    await space.tasks(page_size=50).collect(limit=20)
    attributes = told(seen.named(PAGE)[0])
    assert attributes == {
        "http.request.method": "GET",
        "url.template": TASKS,
        "unpod.page": 1,
        "unpod.page_size": 20,
        "unpod.attempts": 1,
        "http.response.status_code": 200,
        "unpod.outcome": "ok",
    }


async def test_a_fan_out_is_a_span_over_the_pages_of_all_its_lists(
    seen: Seen, space: SpaceHandle
) -> None:
    async with space.run_tasks(concurrency=3) as stream:
        async for _ in stream:
            pass
    name = f"unpod run_tasks {RUNS}"
    pages = {(name, f"unpod GET {route}") for route in (RUNS, RUN_TASKS)}
    assert set(seen.tree()) == {(None, name), *pages}
    assert told(seen.one(name))["unpod.rows"] == 300
    assert told(seen.one(name))["unpod.verdict"] == "verified"


async def test_collect_and_count_are_spans(seen: Seen, space: SpaceHandle) -> None:
    await space.runs().collect()
    await space.runs().count()
    collect, count, page = (f"unpod {what} {RUNS}" for what in ("collect", "count", "GET"))
    assert set(seen.tree()) == {(None, collect), (None, count), (collect, page), (count, page)}
    assert told(seen.one(collect))["unpod.rows"] == 5
    assert "unpod.rows" not in told(seen.one(count))


async def test_plain_iteration_has_the_spans_of_its_pages(seen: Seen, space: SpaceHandle) -> None:
    async for _ in space.tasks(page_size=100):
        assert not trace.get_current_span().is_recording()
    await space.get()
    assert set(seen.tree()) == {(None, PAGE), (None, "unpod GET spaces/{space}/")}


async def test_the_caller_s_own_context_is_left_as_it_is(seen: Seen, space: SpaceHandle) -> None:
    tracer = seen.tracers.get_tracer("application")
    with tracer.start_as_current_span("job") as job:
        async with space.tasks(page_size=50).walk() as walk:
            async for _ in walk:
                with tracer.start_as_current_span("save"):
                    break
        await space.tasks().count()
        assert trace.get_current_span() is job
    tree = seen.tree()
    assert tree["job", "save"] == tree["job", f"unpod walk {TASKS}"] == 1
    assert tree["job", f"unpod count {TASKS}"] == 1
    assert told(seen.one(f"unpod walk {TASKS}"))["unpod.verdict"] == "unfinished"


# -- trouble ----------------------------------------------------------------------------


async def test_retries_are_events_of_their_page(
    seen: Seen, sim: Simulator, space: SpaceHandle
) -> None:
    sim.fault("status", status=503)
    sim.fault("drop")
    await space.tasks(page_size=300).count()
    page = seen.one(PAGE)
    first, second = (dict(event.attributes or {}) for event in page.events)
    assert {event.name for event in page.events} == {"unpod.retry"}
    assert (first["unpod.attempt"], first["http.response.status_code"]) == (1, 503)
    assert (second["unpod.attempt"], second["error.type"]) == (2, "ConnectionFailed")
    assert {type(event["unpod.wait"]) for event in (first, second)} <= {int, float}
    assert told(page)["unpod.attempts"] == 3
    assert page.status.status_code is StatusCode.UNSET


async def test_a_refusal_is_an_error_without_the_server_s_words(
    seen: Seen, sim: Simulator, space: SpaceHandle
) -> None:
    sim.fault("status", status=403, body={"message": "HERE-IS-A-PERSON"}, times=None)
    with pytest.raises(PermissionDenied, match="HERE-IS-A-PERSON"):
        await space.tasks().collect()
    for span in seen.one(PAGE), seen.one(f"unpod collect {TASKS}"):
        assert (span.status.status_code, span.status.description) == (
            StatusCode.ERROR,
            "PermissionDenied",
        )
        assert told(span)["error.type"] == "PermissionDenied"
        assert told(span)["http.response.status_code"] == 403
        assert not span.events
    assert "HERE-IS-A-PERSON" not in seen.spans_as_text() + seen.metrics_as_text()


async def test_a_list_that_is_not_complete_says_so(
    seen: Seen, sim: Simulator, space: SpaceHandle
) -> None:
    sim.world.poison(sim.world.task_ids()[20])
    with pytest.raises(IncompleteWalk):
        async with space.tasks(page_size=100).walk() as walk:
            async for _ in walk:
                pass
    attributes = told(seen.one(f"unpod walk {TASKS}"))
    assert (attributes["unpod.verdict"], attributes["unpod.unreadable"]) == ("missing", 1)
    assert attributes["error.type"] == "IncompleteWalk"


async def test_an_error_of_the_caller_s_ends_the_span_by_its_name(
    seen: Seen, space: SpaceHandle
) -> None:
    with pytest.raises(ValueError, match="HERE-IS-A-PERSON"):
        async with space.tasks().walk() as walk:
            async for _ in walk:
                raise ValueError("HERE-IS-A-PERSON")
    span = seen.one(f"unpod walk {TASKS}")
    assert (span.status.description, told(span)["error.type"]) == ("ValueError", "ValueError")
    assert "HERE-IS-A-PERSON" not in seen.spans_as_text()


@pytest.mark.parametrize("kind", ["walk", "collect"])
async def test_cancelled_is_not_an_error(
    seen: Seen, sim: Simulator, space: SpaceHandle, kind: str
) -> None:
    async def walk() -> None:
        async with space.tasks().walk() as rows:
            await anext(rows)

    with anyio.CancelScope() as scope:
        sim.fault("hang", match=lambda _: scope.cancel() or True)
        await (walk() if kind == "walk" else space.tasks().collect())
    assert scope.cancelled_caught
    assert {(span.status.status_code, told(span)["unpod.outcome"]) for span in seen.spans} == {
        (StatusCode.UNSET, "cancelled")
    }
    assert set(seen.tree()) == {
        (None, f"unpod {kind} {TASKS}"),
        (f"unpod {kind} {TASKS}", PAGE),
    }
    assert not trace.get_current_span().is_recording()


# -- metrics ----------------------------------------------------------------------------


async def test_metrics_agree_with_the_client_s_totals(
    seen: Seen, sim: Simulator, client: UnpodClient, space: SpaceHandle
) -> None:
    sim.fault("status", status=503, times=2, after=2)
    await space.tasks(page_size=50).collect()
    await space.runs().collect()
    sim.fault("status", status=404)
    with pytest.raises(NotFound):
        await space.tasks().count()
    points = seen.points()
    statuses = Counter(seen.sums("unpod.client.attempts", "http.response.status_code"))
    assert statuses.total() == client.stats.requests == len(sim.requests)
    assert (statuses[503], statuses[404]) == (2, 1)
    rows = seen.sums("unpod.client.rows", "url.template")
    assert set(rows) == {TASKS, RUNS}
    assert sum(rows.values()) == client.stats.rows
    assert seen.sums("unpod.client.received", "") == {None: client.stats.bytes}
    assert seen.sums("unpod.client.queued", "")[None] == pytest.approx(client.stats.queued)
    assert sum(point.count for point in points["unpod.client.retry.wait"]) == 2
    operations = {
        (*(point.attributes[f"unpod.{key}"] for key in ("operation", "outcome")), point.count)
        for point in points["unpod.client.operation.duration"]
    }
    assert operations == {("collect", "ok", 1), ("count", "error", 1)}
    assert sum(point.count for point in points["unpod.client.request.duration"]) == len(
        [span for span in seen.spans if span.name.startswith("unpod GET")]
    )
    named = set(re.findall(r"`(unpod\.client\.[a-z.]+)`", OpenTelemetry.__doc__ or ""))
    assert set(points) == named


# -- what must not be told ----------------------------------------------------------------


@pytest.mark.usefixtures("http_spans")
async def test_no_secret_no_person_and_no_id_is_told(
    seen: Seen, sim: Simulator, space: SpaceHandle
) -> None:
    sim.fault("status", status=401, body={"message": f"{CANARY} {PHONE}"}, after=12)
    sim.fault("upstream", message=f"Invalid search {PHONE}", after=10)
    sim.fault("raw", after=3, times=3)  # aiohttp's exception for this holds the whole URL
    sim.fault("drop", after=7)
    tasks = space.tasks(page_size=50, search=PHONE, user_id=PHONE)
    for _ in range(8):
        try:
            async with tasks.walk() as walk:
                async for _ in walk:
                    pass
            await tasks.collect()
            async with space.run_tasks(sim.world.run_ids(), concurrency=2) as stream:
                async for _ in stream:
                    pass
        except UnpodError:
            pass
    spans, metrics = seen.spans_as_text(), seen.metrics_as_text()
    assert len(sim.requests) > 20
    assert any(PHONE in request.path or PHONE in str(request) for request in sim.requests)
    for secret in (CANARY, PHONE, sim.space_token, *sim.world.run_ids()):
        assert secret not in spans
        assert secret not in metrics


@pytest.mark.usefixtures("http_spans")
async def test_http_spans_are_children_of_their_page(
    seen: Seen, sim: Simulator, space: SpaceHandle
) -> None:
    sim.fault("status", status=503)
    await space.tasks(search=PHONE).count()
    assert seen.tree() == {
        (None, f"unpod count {TASKS}"): 1,
        (f"unpod count {TASKS}", PAGE): 1,
        (PAGE, "GET"): 2,
    }
    urls = {
        value for span in seen.named("GET") for key, value in told(span).items() if "url" in key
    }
    assert urls == {f"{sim.base_url}/{TASKS}"}


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://h/api/spaces/S/runs/R/tasks/?page=1", "https://h/api/spaces/{space}/runs/{run}/tasks/"),
        ("https://h:8/spaces/S/?x=y", "https://h:8/spaces/{space}/"),
        ("https://h/v2/spaces/?x=y", "https://h/v2/spaces/"),
        ("https://u:p@h/v2/organizations/?x=y", "https://h/v2/organizations/"),
        ("https://h/other/?x=y", "https://h/other/?x=y"),
    ],
)  # fmt: skip
def test_url_filter_touches_our_own_addresses_alone(url: str, told: str) -> None:
    assert url_filter(URL(url)) == told


@pytest.mark.parametrize(("path", "events"), [("spaces/S/tasks/", 0), ("other/", 1)])
def test_request_hook_keeps_exceptions_out_of_our_own_spans_alone(
    seen: Seen, path: str, events: int
) -> None:
    span = seen.tracers.get_tracer("http").start_span("GET")
    request_hook(span, TraceRequestStartParams("GET", URL(f"https://h/{path}"), CIMultiDict()))
    span.record_exception(ValueError("HERE-IS-A-PERSON"))
    span.end()
    assert len(seen.one("GET").events) == events


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("spaces/", "spaces/"),
        ("organizations/", "organizations/"),
        ("spaces/tasks/tasks/", "spaces/{space}/tasks/"),
        ("spaces/S/runs/runs/tasks/", RUN_TASKS),
        ("spaces/S/unheard-of/", "spaces/{space}/{other}/"),
    ],
)
def test_a_template_holds_no_id(path: str, template: str) -> None:
    assert integration.template(path) == template


@pytest.mark.parametrize(
    ("report", "verdict"),
    [
        (Report(verified=True, ended="now"), "verified"),
        (Report(empty_confirmed=2, windows=2, ended="now"), "empty_confirmed"),
        (Report(missing=True, verified=True), "missing"),
        (Report(ended="now"), "unproved"),
        (Report(), "unfinished"),
    ],
)
def test_verdicts(report: Report, verdict: str) -> None:
    assert integration.receipt(report)["unpod.verdict"] == verdict


# -- it costs nothing, and harms nothing ----------------------------------------------------


class Broken:
    """A provider and all that it makes: whatever is told raises; with `parts` a span begins,
    and is what raises."""

    def __init__(self, *, parts: bool) -> None:
        self._parts = parts

    def __getattr__(self, name: str) -> Any:
        made = ("get_tracer", "get_meter", "create_histogram", "create_counter")
        if name in made or (self._parts and name == "start_span"):
            return lambda *_, **__: self
        return self._fail

    def _fail(self, *_: object, **__: object) -> NoReturn:
        raise RuntimeError("telemetry is broken")


@pytest.mark.parametrize("parts", [False, True])
async def test_a_telemetry_that_raises_fails_no_request(sim: Simulator, parts: bool) -> None:
    broken: Any = Broken(parts=parts)
    telemetry = OpenTelemetry(tracer_provider=broken, meter_provider=broken)
    sim.fault("status", status=503)
    async with client_of(sim, telemetry) as client:
        space = client.space(sim.space_token)
        assert len(await space.tasks().collect()) == 300
        async with space.run_tasks() as stream:
            assert sum([len(tasks) async for _, tasks in stream]) == 300
        sim.fault("status", status=500, times=None)
        with pytest.raises(ServerError):
            await space.tasks().collect()


async def test_without_an_sdk_nothing_is_told_and_all_works(sim: Simulator) -> None:
    async with client_of(sim, OpenTelemetry()) as client:
        assert await client.space(sim.space_token).tasks().count() == 300


def test_without_telemetry_the_fetch_is_the_transport_s_own() -> None:
    client = UnpodClient("token")
    assert client._source.fetch == client._transport.fetch
    assert client._source.telemetry is None


def test_without_telemetry_nothing_of_opentelemetry_is_imported() -> None:
    script = """if True:
        import sys
        from unpod_async import *
        UnpodClient("token").space("S").tasks()
        sys.exit(any(name.startswith("opentelemetry") for name in sys.modules))
    """
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("given", [OpenTelemetry, object(), True])
def test_anything_else_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="telemetry takes an OpenTelemetry"):
        UnpodClient("token", telemetry=given)


@pytest.mark.parametrize("missing", ["opentelemetry", "opentelemetry.trace"])
def test_without_the_extra_it_says_what_to_install(missing: str) -> None:
    """Other packages share the name, so that it may be there without the API."""
    script = f"""if True:
        import sys
        sys.modules[{missing!r}] = None
        import unpod_async.integrations.opentelemetry
    """
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    said = ran.stderr.splitlines()[-1]
    assert said == 'ImportError: OpenTelemetry needs: pip install "unpod-async[otel]"'
