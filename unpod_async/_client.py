"""The composition root: options, life and handles. It builds requests and does no I/O."""

from __future__ import annotations

import os
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypeVar

from msgspec import Struct

from ._pager import ListOptions, OnInvalid, Source
from ._pages import ORGANIZATIONS, RUNS, SPACES, TASKS, EnvelopeError
from ._paging import Listing
from ._protocol import (
    DEFAULT_BASE_URL,
    Request,
    check_base_url,
    check_segment,
    check_token,
    check_visible,
    excerpt,
    task_query,
)
from ._reading import Rows
from ._report import Report
from ._retry import Limits, RetryPolicy, check_seconds, is_upstream
from ._run_tasks import OnError, RunTasks
from ._secrets import Secret
from ._stats import Event, Fetch, Observer, Operation, Telemetry
from ._transport import Credentials, Transport
from ._windows import ServerMemory
from .errors import (
    AuthenticationError,
    BusinessError,
    ConfigurationError,
    NotFound,
    PermissionDenied,
    ProtocolError,
)
from .models import Organization, Run, Space, Task

if TYPE_CHECKING:
    from aiohttp import BaseConnector

__all__ = ["Check", "RunHandle", "SpaceHandle", "UnpodClient"]

T = TypeVar("T")
Option = TypeVar("Option")
TokenOption = str | Secret | Callable[[], str | Awaitable[str]]


class Check(Struct, frozen=True, kw_only=True):
    """What `client.check()` found. `token` and `space`: True if it works, False if it was
    refused, None if that was not tried. `message` is the server's own word on a refusal."""

    token: bool | None = None
    space: bool | None = None
    message: str | None = None

    @property
    def ok(self) -> bool:
        return self.token is True and self.space is not False


class UnpodClient:
    """The Unpod platform's lists, for asyncio.

    `token`: the API token, or a callable (sync or async) that gives it; by default
    `UNPOD_API_TOKEN` or `UNPOD_PLATFORM_TOKEN`. `org_handle`: by default `UNPOD_ORG_HANDLE`.
    `base_url`: by default `UNPOD_BASE_URL`, else the vendor's. `auth_scheme`: `"Token"`, or
    `"Bearer"` where the server wants it. `retry` and `limits` say how hard it tries and how
    much at once. `connector`: an aiohttp connector of your own, which you close yourself.

    What a token callable raises reaches the caller of the request as it is. `on_event` is
    called with an `Event` at every answer, retry and failure; it should be quick. `telemetry`
    takes an `OpenTelemetry` of `unpod_async.integrations.opentelemetry`.

    Open it by `async with`, or by `await open()` and `await aclose()`, from different tasks
    if need be. It starts no background work. Raises `ConfigurationError` for a wrong option,
    before anything is sent.
    """

    def __init__(
        self,
        token: TokenOption | None = None,
        *,
        org_handle: str | None = None,
        base_url: str | None = None,
        auth_scheme: Literal["Token", "Bearer"] = "Token",
        retry: RetryPolicy | None = None,
        limits: Limits | None = None,
        connector: BaseConnector | None = None,
        allow_insecure_http: bool = False,
        on_event: Callable[[Event], None] | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        # From the first line on, so that no traceback shows what may be, or hold, a secret.
        hidden = token if callable(token) or token is None else _hidden(token)
        handle = _hidden(org_handle if org_handle is not None else _env("UNPOD_ORG_HANDLE"))
        address = _hidden(base_url if base_url is not None else _env("UNPOD_BASE_URL"))
        del token, org_handle, base_url
        if auth_scheme not in ("Token", "Bearer"):
            raise ConfigurationError('auth_scheme takes "Token" or "Bearer"')
        if allow_insecure_http:
            warnings.warn("allow_insecure_http may send the token in the clear", stacklevel=2)
        self.base_url = check_base_url(
            DEFAULT_BASE_URL if address.reveal() is None else address.reveal(),
            allow_insecure_http=allow_insecure_http,
        )
        self.org_handle = (
            None if handle.reveal() is None else check_visible("org_handle", handle.reveal())
        )
        credentials = Credentials(_token(hidden), auth_scheme, self.org_handle)
        observer = Observer(on_event)
        self._transport = Transport(
            self.base_url,
            credentials,
            policy=_checked("retry", retry, RetryPolicy),
            limits=_checked("limits", limits, Limits),
            connector=connector,
            observer=observer,
        )
        self.stats = observer.stats
        self._source = Source(
            _watched(self._transport.fetch, observer, telemetry),
            ServerMemory(),
            self.stats,
            self.base_url,
            self.org_handle,
            telemetry,
        )

    def __repr__(self) -> str:
        # Also while it is being made: a traceback may show it before it has an address.
        return f"<UnpodClient {getattr(self, 'base_url', 'unfinished')}>"

    async def __aenter__(self) -> Self:
        await self._transport.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._transport.aclose()

    async def open(self) -> Self:
        """Make the client usable in the running event loop; a second call does nothing."""
        await self._transport.open()
        return self

    async def aclose(self) -> None:
        """End what is under way, with a `ConfigurationError`, and close all connections; a
        second call does nothing. A closed client stays closed."""
        await self._transport.aclose()

    def space(self, token: str) -> SpaceHandle:
        """A handle on one space, by its token (a public identifier); nothing is sent."""
        return SpaceHandle(self._source, check_segment("space token", token))

    def spaces(
        self,
        *,
        page_size: int = 200,
        deadline: float | None = None,
        fields: Iterable[str] | None = None,
    ) -> Listing[Space]:
        """The organization's spaces. Needs `org_handle`. The vendor documents no paging for
        this list: it is read on while its count says that there is more."""
        return Listing(self._source, SPACES, _unpaged("spaces/", page_size, deadline, fields))

    def organizations(
        self,
        *,
        page_size: int = 200,
        deadline: float | None = None,
        fields: Iterable[str] | None = None,
    ) -> Listing[Organization]:
        """The organizations this token belongs to; paging as for `spaces()`."""
        options = _unpaged("organizations/", page_size, deadline, fields)
        return Listing(self._source, ORGANIZATIONS, options)

    async def check(self, space: str | None = None) -> Check:
        """Whether the token works, and the space if one is named: one small request.

        Refusals are told, not raised; trouble on the way (`TransportError`, `ServerError` …)
        is raised. Without a space the organizations are asked for, which some servers grant
        to the `Bearer` scheme alone: then `token` says False for a token that works elsewhere.
        """
        try:
            if space is None:
                await self.organizations(page_size=1).count()
                return Check(token=True)
            await self.space(space).tasks(page_size=1).count()
            return Check(token=True, space=True)
        except AuthenticationError as error:
            return Check(token=False, message=error.message)
        except (BusinessError, PermissionDenied, NotFound) as error:
            if isinstance(error, BusinessError) and is_upstream(error):
                raise
            refused = False if space is not None else None
            return Check(token=True, space=refused, message=error.message)


class SpaceHandle:
    """One space. Its lists are read when iterated; making them sends nothing."""

    def __init__(self, source: Source, token: str) -> None:
        self._source = source
        self.token = token

    def __repr__(self) -> str:
        return f"<SpaceHandle {self.token}>"

    async def get(self) -> Space:
        """The space's own record. Raises `BusinessError` or `NotFound` if there is none."""
        request = Request(f"spaces/{self.token}/")
        body = await self._source.fetch(request)
        try:
            return SPACES.decode_one(body)
        except EnvelopeError as error:
            wrong = ProtocolError(
                str(error), status=200, method="GET", path=request.path, body=excerpt(body)
            )
        del body  # a traceback that shows locals would show what it says of people
        raise wrong

    def run(self, run_id: str) -> RunHandle:
        """A handle on one run; nothing is sent, so it need not exist."""
        return RunHandle(self._source, self.token, check_segment("run id", run_id))

    def runs(
        self,
        *,
        page_size: int = 200,
        deadline: float | None = None,
        on_invalid: OnInvalid = "report",
        fields: Iterable[str] | None = None,
    ) -> Listing[Run]:
        """All runs, newest first. (Vendor: "Get All Runs in a Space".)

        `page_size` is the most to ask for at once; `deadline` the seconds one page may take,
        retries included; rows without a usable id are reported, or raise `DecodeError`.
        `fields` names what is wanted of a row (`("status", "created_at")`): nothing else is
        decoded but its ids, and reads as None.
        """
        options = ListOptions(
            f"spaces/{self.token}/runs/",
            page_size=page_size,
            deadline=_deadline(deadline),
            on_invalid=on_invalid,
            fields=fields,
        )
        return Listing(self._source, RUNS, options)

    def tasks(
        self,
        *,
        summary_status: str | Iterable[str] | None = None,
        search: str | None = None,
        call_type: str | None = None,
        created_from: datetime | float | None = None,
        created_to: datetime | float | None = None,
        user_id: str | None = None,
        thread_id: str | None = None,
        page_size: int = 200,
        deadline: float | None = None,
        on_invalid: OnInvalid = "report",
        fields: Iterable[str] | None = None,
    ) -> Listing[Task]:
        """All tasks of all runs, newest first. (Vendor: "Get Tasks by Space Token".)

        Filters, applied by the server: `summary_status` is the status that the evaluation
        gave the call (not the task's own), one or several; `search` a regular expression over
        names and numbers; `created_from` and `created_to` are inclusive, aware datetimes or
        Unix seconds. Other options as for `runs()`.
        """
        query = task_query(
            summary_status=summary_status,
            search=search,
            call_type=call_type,
            created_from=created_from,
            created_to=created_to,
            user_id=user_id,
            thread_id=thread_id,
        )
        options = ListOptions(
            f"spaces/{self.token}/tasks/",
            query,
            page_size=page_size,
            deadline=_deadline(deadline),
            on_invalid=on_invalid,
            fields=fields,
        )
        return Listing(self._source, TASKS, options)

    def run_tasks(
        self,
        runs: Sequence[str | Run] | None = None,
        *,
        concurrency: int = 16,
        ordered: bool = False,
        on_error: OnError = "raise",
        page_size: int = 200,
        deadline: float | None = None,
        fields: Iterable[str] | None = None,
    ) -> RunTasks[Task]:
        """The tasks of every run, or of the given `runs` (ids or `Run`s), `concurrency` runs
        at once under the client's own limit.

        An async context manager over pairs `(run, tasks)`, as they are completed, or in the
        runs' order with `ordered=True`. The first failure cancels the others and is raised;
        with `on_error="collect"` it goes to `failures` and the others complete.
        """

        options = ListOptions("", page_size=page_size, deadline=_deadline(deadline), fields=fields)
        return RunTasks(
            self._runs_to_read(runs, deadline),
            self._tasks_of(Listing(self._source, TASKS, options)),
            begin=self._reading_runs,
            concurrency=concurrency,
            ordered=ordered,
            on_error=on_error,
        )

    def run_tasks_raw(
        self,
        runs: Sequence[str | Run] | AsyncIterator[Run] | None = None,
        *,
        concurrency: int = 16,
        page_size: int = 200,
        ordered: bool = False,
    ) -> RunTasks[bytes]:
        """As `run_tasks()`, each task as the server sent it (see `Listing.raw()`), failures
        collected: what an export writes. `runs` may be an iterator, whose end is theirs."""
        options = ListOptions("", page_size=page_size)
        listing: Listing[Task] = Listing(self._source, TASKS, options)
        return RunTasks(
            self._runs_to_read(runs, None),
            self._tasks_of(listing.raw()),
            begin=self._reading_runs,
            concurrency=concurrency,
            ordered=ordered,
            on_error="collect",
        )

    def _tasks_of(self, pattern: Listing[T]) -> Callable[[Run], Listing[T]]:
        """From a run to the list of its tasks, with the options of `pattern`."""

        def tasks_of(run: Run) -> Listing[T]:
            run_id = check_segment("run id", run.run_id)
            return pattern.of_run(_path_of(self.token, run_id), run_id)

        return tasks_of

    def _reading_runs(self, report: Report) -> Operation:
        return self._source.operation("run_tasks", f"spaces/{self.token}/runs/", report)

    def _runs_to_read(
        self, runs: Sequence[str | Run] | AsyncIterator[Run] | None, deadline: float | None
    ) -> Rows[Run] | AsyncIterator[Run]:
        if runs is None:
            return Rows(self.runs(deadline=deadline))
        if isinstance(runs, str):
            raise ConfigurationError("runs takes a list of run ids or Runs")
        if isinstance(runs, AsyncIterator):
            return runs
        given = [
            run if isinstance(run, Run) else Run.of(check_segment("run id", run)) for run in runs
        ]
        return Given(list({run.run_id: run for run in given}.values()))  # each once


class RunHandle:
    """One run of a space."""

    def __init__(self, source: Source, space_token: str, run_id: str) -> None:
        self._source = source
        self._space_token = space_token
        self.run_id = run_id

    def __repr__(self) -> str:
        return f"<RunHandle {self.run_id}>"

    def tasks(
        self,
        *,
        page_size: int = 200,
        deadline: float | None = None,
        on_invalid: OnInvalid = "report",
        fields: Iterable[str] | None = None,
    ) -> Listing[Task]:
        """All tasks of this run, newest first; empty if there is no such run, as the server
        says. (Vendor: "Get Detailed Tasks for a Specific Run".) Options as for `runs()`."""
        options = ListOptions(
            _path_of(self._space_token, self.run_id),
            page_size=page_size,
            deadline=_deadline(deadline),
            on_invalid=on_invalid,
            fields=fields,
            run_id=self.run_id,
        )
        return Listing(self._source, TASKS, options)


def _path_of(space_token: str, run_id: str) -> str:
    return f"spaces/{space_token}/runs/{run_id}/tasks/"


class Given:
    """Runs that the caller named, as an async iterator."""

    def __init__(self, runs: list[Run]) -> None:
        self._runs = iter(runs)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Run:
        for run in self._runs:
            return run
        raise StopAsyncIteration


def _env(name: str) -> str | None:
    """An environment variable; an empty one counts as unset."""
    return os.environ.get(name) or None


def _hidden(value: object) -> Secret:
    """Whatever was given, for the checks to look at."""
    return value if isinstance(value, Secret) else Secret(value)  # type: ignore[arg-type]


def _token(
    token: Secret | Callable[[], str | Awaitable[str]] | None,
) -> Secret | Callable[[], str | Awaitable[str]]:
    if isinstance(token, Secret):
        return check_token("token", token)
    if token is not None:
        return token
    for name in ("UNPOD_API_TOKEN", "UNPOD_PLATFORM_TOKEN"):
        if (given := _hidden(_env(name))).reveal() is not None:
            return check_token(name, given)
    raise ConfigurationError("token is missing: pass token=…, or set UNPOD_API_TOKEN")


def _checked(name: str, value: Option | None, kind: type[Option]) -> Option:
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise ConfigurationError(f"{name} takes a {kind.__name__}")
    return value


def _watched(fetch: Fetch, observer: Observer, telemetry: Telemetry | None) -> Fetch:
    if telemetry is None:
        return fetch
    if not isinstance(telemetry, Telemetry):
        raise ConfigurationError("telemetry takes an OpenTelemetry()")
    return telemetry.watch(fetch, observer)


def _unpaged(
    path: str, page_size: int, deadline: float | None, fields: Iterable[str] | None
) -> ListOptions:
    return ListOptions(
        path, page_size=page_size, deadline=_deadline(deadline), fields=fields, paged=False
    )


def _deadline(deadline: float | None) -> float | None:
    if deadline is not None:
        check_seconds("deadline", deadline)
    return deadline
