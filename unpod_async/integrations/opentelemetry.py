"""Spans and metrics by OpenTelemetry: `pip install "unpod-async[otel]"`.

```python
client = UnpodClient(telemetry=OpenTelemetry())
```
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

try:
    from opentelemetry import context, metrics, trace
except ImportError as error:
    if (error.name or "").partition(".")[0] != "opentelemetry":
        raise
    # Not always a missing package: others share the namespace, and may be there alone.
    raise ImportError(
        'OpenTelemetry needs: pip install "unpod-async[otel]"', name="opentelemetry"
    ) from error

from unpod_async._stats import Event, Fetch, Observer, Operation, Telemetry
from unpod_async._version import __version__
from unpod_async.errors import UnpodError

if TYPE_CHECKING:
    from yarl import URL

    from unpod_async._protocol import Request
    from unpod_async._report import Report

__all__ = ["OpenTelemetry", "request_hook", "url_filter"]

Attributes = Mapping[str, str | int | float | bool]

METHOD = "http.request.method"
STATUS = "http.response.status_code"
TEMPLATE = "url.template"
ERROR_TYPE = "error.type"
OUTCOME = "unpod.outcome"

# OpenTelemetry's own bounds are for milliseconds.
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)


class OpenTelemetry(Telemetry):
    """Spans and metrics of the clients that are given it; by default it uses the providers
    that the application has set up.

    Spans: `unpod walk`, `unpod run_tasks` (each as long as its block), `unpod collect` and
    `unpod count`, with the receipt's numbers, and in them `unpod GET …` for each page, retries
    included, with an event `unpod.retry` for each. Plain iteration has the spans of its pages
    alone. Spans of your own inside a block are not children of the block's.

    Metrics: `unpod.client.operation.duration`, `unpod.client.request.duration` (a page, retries
    included), `unpod.client.retry.wait` and `unpod.client.queued` in seconds,
    `unpod.client.attempts`, `unpod.client.rows`, and `unpod.client.received` in bytes.

    Routes are told as templates, `spaces/{space}/tasks/`: neither spans nor metrics hold a
    token, an id, a filter or a word of the server's. A cancelled span is no error: its
    `unpod.outcome` says "cancelled". Whatever OpenTelemetry raises is dropped.
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self.tracer = trace.get_tracer("unpod_async", __version__, tracer_provider)
        meter = metrics.get_meter("unpod_async", __version__, meter_provider)
        self.operations = _histogram(meter, "operation.duration", "How long operations took.")
        self.requests = _histogram(
            meter, "request.duration", "How long pages took, retries included."
        )
        self.waits = _histogram(meter, "retry.wait", "Waits before retries.")
        self.queued = _counter(meter, "queued", "s", "Time that requests waited for their turn.")
        self.attempts = _counter(meter, "attempts", "{attempt}", "Attempts, by their outcome.")
        self.decoded = _counter(meter, "rows", "{row}", "Rows decoded.")
        self.received = _counter(meter, "received", "By", "Bodies as they came over the wire.")

    def watch(self, fetch: Fetch, observer: Observer) -> Fetch:
        return _Watched(self, fetch, observer).fetch

    def rows(self, path: str, rows: int) -> None:
        with suppress(Exception):
            self.decoded.add(rows, {TEMPLATE: template(path)})

    def operation(self, name: str, path: str, report: Report | None) -> Operation:
        route = template(path)
        labels = {"unpod.operation": name, TEMPLATE: route}
        return _Receipted(self.tracer, self.operations, f"unpod {name} {route}", labels, report)


def _histogram(meter: metrics.Meter, name: str, description: str) -> metrics.Histogram:
    return meter.create_histogram(
        f"unpod.client.{name}", "s", description, explicit_bucket_boundaries_advisory=SECONDS
    )


def _counter(meter: metrics.Meter, name: str, unit: str, description: str) -> metrics.Counter:
    return meter.create_counter(f"unpod.client.{name}", unit, description)


class _Timed(Operation):
    """A span, and its duration as a metric. `labels` are on both."""

    def __init__(
        self,
        tracer: trace.Tracer,
        durations: metrics.Histogram,
        name: str,
        labels: Attributes,
        details: Attributes | None = None,
    ) -> None:
        self._durations = durations
        self._labels = labels
        self._covering = self.current()
        self._began = time.perf_counter()
        self._span: trace.Span | None = None
        with suppress(Exception):
            self._span = tracer.start_span(name, attributes={**labels, **(details or {})})

    def __enter__(self) -> Self:
        self._covering.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._covering.__exit__(None, None, None)
        self.end(error)

    @contextmanager
    def current(self) -> Iterator[None]:
        """What is begun inside is this span's child."""
        token = None
        if self._span is not None:
            with suppress(Exception):
                token = context.attach(trace.set_span_in_context(self._span))
        try:
            yield
        finally:
            if token is not None:
                context.detach(token)

    def end(self, error: BaseException | None) -> None:
        outcome = _outcome(error)
        with suppress(Exception):
            seconds = time.perf_counter() - self._began
            self._durations.record(seconds, {**self._labels, **outcome})
        if (span := self._span) is None:
            return
        with suppress(Exception):
            span.set_attributes({**self._told(), **outcome})
            if isinstance(error, Exception):
                # Its name alone: the message may hold the server's words, and those a person.
                span.set_status(trace.Status(trace.StatusCode.ERROR, type(error).__name__))
        with suppress(Exception):
            span.end()

    def _told(self) -> Attributes:
        """What is known at the end."""
        raise NotImplementedError


class _Receipted(_Timed):
    """An operation, with its report."""

    def __init__(
        self,
        tracer: trace.Tracer,
        durations: metrics.Histogram,
        name: str,
        labels: Attributes,
        report: Report | None,
    ) -> None:
        super().__init__(tracer, durations, name, labels)
        self._report = report

    def _told(self) -> Attributes:
        return {} if self._report is None else receipt(self._report)


class _Page(_Timed):
    """One request with its retries."""

    def __init__(self, telemetry: OpenTelemetry, request: Request) -> None:
        route = template(request.path)
        labels = {METHOD: "GET", TEMPLATE: route}
        super().__init__(
            telemetry.tracer, telemetry.requests, f"unpod GET {route}", labels, _paging(request)
        )
        self._attempts: dict[str, int] = {}

    def heard(self, event: Event) -> None:
        self._attempts = {"unpod.attempts": event.attempt}
        if event.kind == "answer":
            self._attempts[STATUS] = 200
        if event.wait is not None and self._span is not None:
            tried = {"unpod.attempt": event.attempt, "unpod.wait": event.wait}
            self._span.add_event("unpod.retry", {**tried, **_answered(event.outcome)})

    def _told(self) -> Attributes:
        return self._attempts


_PAGE: ContextVar[_Page | None] = ContextVar("unpod_page", default=None)


class _Watched:
    """One client's fetch, each call of it a span."""

    def __init__(self, telemetry: OpenTelemetry, fetch: Fetch, observer: Observer) -> None:
        self._telemetry = telemetry
        self._fetch = fetch
        self._stats = observer.stats
        self._queued = 0.0
        self._bytes = 0
        observer.hooks.append(self.heard)

    async def fetch(self, request: Request, **options: Any) -> bytes:
        page = _Page(self._telemetry, request)
        token = _PAGE.set(page)
        try:
            with page:
                return await self._fetch(request, **options)
        finally:
            _PAGE.reset(token)
            self._count()

    def heard(self, event: Event) -> None:
        """Told by the transport, inside `fetch`; what this raises is dropped there."""
        if (page := _PAGE.get()) is not None:
            page.heard(event)
        labels = {METHOD: "GET", TEMPLATE: template(event.path), **_answered(event.outcome)}
        self._telemetry.attempts.add(1, labels)
        if event.wait is not None:
            self._telemetry.waits.record(event.wait, labels)

    def _count(self) -> None:
        """What came to the client's totals since the last time."""
        queued, size = self._stats.queued - self._queued, self._stats.bytes - self._bytes
        self._queued, self._bytes = self._stats.queued, self._stats.bytes
        with suppress(Exception):
            self._telemetry.queued.add(queued)
            self._telemetry.received.add(size)


def _paging(request: Request) -> Attributes:
    """Page and size, and nothing else of the query: a search may hold a phone number."""
    match = re.match(r"page=(\d+)&page_size=(\d+)", request.query)
    return {"unpod.page": int(match[1]), "unpod.page_size": int(match[2])} if match else {}


def _answered(outcome: int | str) -> Attributes:
    return {STATUS: outcome} if isinstance(outcome, int) else {ERROR_TYPE: outcome}


def _outcome(error: BaseException | None) -> Attributes:
    """ "ok", "error" with its class and status, or "cancelled": not an error of anybody's."""
    if error is None:
        return {OUTCOME: "ok"}
    if not isinstance(error, Exception):
        return {OUTCOME: "cancelled"}
    told: dict[str, str | int] = {OUTCOME: "error", ERROR_TYPE: type(error).__name__}
    if isinstance(error, UnpodError) and error.status is not None:
        told[STATUS] = error.status
    return told


def receipt(report: Report) -> Attributes:
    """The numbers of a report and its verdict; not its reason, which may name a run."""
    return {
        "unpod.rows": report.seen,
        "unpod.windows": report.windows,
        "unpod.duplicates": report.duplicates,
        "unpod.unreadable": len(report.unreadable),
        "unpod.drift": len(report.drift),
        "unpod.verified": report.verified,
        "unpod.missing": report.missing,
        "unpod.verdict": verdict(report),
    }


def verdict(report: Report) -> str:
    """missing, verified, empty_confirmed, unfinished (left early) or unproved."""
    if report.missing:
        return "missing"
    if report.complete:
        return "verified" if report.verified else "empty_confirmed"
    return "unproved" if report.ended else "unfinished"


# -- addresses ---------------------------------------------------------------------------

_WORDS = {"", "organizations", "spaces", "runs", "tasks"}
_IDS = {"spaces": "{space}", "runs": "{run}"}
_PATH = re.compile(r"(?P<base>.*/)(?P<path>organizations/|spaces/(?:[^/]+/(?:.+/)?)?)")


def template(path: str) -> str:
    """The path with its ids replaced: `spaces/{space}/runs/{run}/tasks/`."""
    parts = [""]
    for part in path.split("/"):
        other = part if part in _WORDS else "{other}"
        parts.append(_IDS.get(parts[-1], other) if part else "")
    return "/".join(parts[1:])


def url_filter(url: URL) -> str:
    """The address of a request of this client without its query and with its ids replaced,
    every other address as it is: for the aiohttp instrumentation, `url_filter=`."""
    match = _PATH.fullmatch(url.raw_path)
    if match is None:
        return str(url)
    return f"{url.origin()}{match['base']}{template(match['path'])}"


def request_hook(span: trace.Span, params: Any) -> None:
    """For the aiohttp instrumentation, `request_hook=`: the text of aiohttp's exceptions may
    hold the whole address, so a span of ours keeps their names alone."""
    if _PATH.fullmatch(params.url.raw_path):
        span.record_exception = _not_recorded  # type: ignore[method-assign]


def _not_recorded(*_: object, **__: object) -> None:
    """Instead of an event with the message and the traceback."""
