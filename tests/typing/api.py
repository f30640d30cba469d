"""The public API as a type checker sees it. Checked by mypy and pyright, never run."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from datetime import datetime
from typing import Any, assert_type

from unpod_async import (
    Call,
    Check,
    Contact,
    IncompleteWalk,
    InvalidRow,
    Limits,
    Listing,
    Organization,
    Page,
    RateLimited,
    Report,
    RetryPolicy,
    Run,
    RunHandle,
    RunTasks,
    Secret,
    Space,
    SpaceHandle,
    Task,
    Turn,
    UnpodClient,
    UnpodError,
    Walk,
)
from unpod_async.integrations.opentelemetry import OpenTelemetry
from unpod_async.simulator import Simulator


async def fetch_token() -> str:
    return "token"


UnpodClient()
UnpodClient("token", org_handle="acme", base_url="https://api.example", auth_scheme="Bearer")
UnpodClient(Secret("token"), retry=RetryPolicy(deadline=60.0), limits=Limits(max_concurrency=32))
UnpodClient(fetch_token)
UnpodClient(lambda: "token")
UnpodClient(telemetry=OpenTelemetry(tracer_provider=None, meter_provider=None))
UnpodClient(telemetry=OpenTelemetry)  # type: ignore[arg-type]
UnpodClient(token="token", auth_scheme="Basic")  # type: ignore[arg-type]
UnpodClient("token", "acme")  # type: ignore[call-arg]


async def client_and_handles() -> None:
    async with UnpodClient() as client:
        assert_type(client, UnpodClient)
        assert_type(await client.check(), Check)
        assert_type(client.space("S"), SpaceHandle)
        assert_type(client.space("S").run("R"), RunHandle)
        assert_type(await client.space("S").get(), Space)
        async for space in client.spaces():
            assert_type(space, Space)
        async for organization in client.organizations():
            assert_type(organization, Organization)
    client = UnpodClient()
    assert_type(await client.open(), UnpodClient)
    await client.aclose()


async def lists(space: SpaceHandle) -> None:
    async for run in space.runs():
        assert_type(run, Run)
    tasks = space.tasks(page_size=200, deadline=10, summary_status=["Busy"], created_from=0)
    assert_type(tasks, Listing[Task])
    async for task in tasks:
        assert_type(task, Task)
    assert_type(space.run("R").tasks(), Listing[Task])
    assert_type(await tasks.collect(limit=1000), list[Task])
    assert_type(await tasks.count(), int | None)
    assert_type(await tasks.raw().collect(), list[bytes])
    async for page in tasks.pages():
        assert_type(page, Page[Task])
        assert_type(page.items, list[Task])
        assert_type(page.number, int)
        assert_type(page.count, int | None)
        assert_type(page.invalid, list[InvalidRow])
    space.tasks(200)  # type: ignore[call-arg, arg-type]
    space.tasks(status="Busy")  # type: ignore[call-arg]


async def in_parallel(space: SpaceHandle, run: Run) -> None:
    async with space.tasks(page_size=500).walk(prefetch=8) as walk:
        assert_type(walk, Walk[Task])
        async for task in walk:
            assert_type(task, Task)
        assert_type(walk.report, Report)
        assert_type(walk.report.verified, bool)
        assert_type(walk.report.reason, str | None)
        assert_type(walk.checkpoint(), dict[str, Any])
    assert_type(space.tasks().walk(resume=walk.checkpoint()), Walk[Task])
    async with space.run_tasks([run, "R"], concurrency=16, on_error="collect") as stream:
        assert_type(stream, RunTasks[Task])
        async for each, tasks in stream:
            assert_type(each, Run)
            assert_type(tasks, list[Task])
        assert_type(stream.failures, list[tuple[Run, UnpodError]])
    space.run_tasks(on_error="ignore")  # type: ignore[arg-type]


def rows(task: Task, run: Run) -> None:
    assert_type(task.task_id, str)
    assert_type(task.status, str | None)
    assert_type(task.created, str | None)
    assert_type(task.created_at, datetime | None)
    assert_type(task.input, dict[str, Any] | None)
    assert_type(task.contact, Contact)
    assert_type(task.objective, str | None)
    assert_type(task.call, Call)
    assert_type(task.call.duration, float | None)
    assert_type(task.call.transcript, tuple[Turn, ...])
    assert_type(task.extra, dict[str, Any])
    assert_type(task.to_json(), bytes)
    assert_type(run.batch_count, int | None)
    task.status = "done"  # type: ignore[assignment]


def errors(error: UnpodError, incomplete: IncompleteWalk, limited: RateLimited) -> None:
    assert_type(error.status, int | None)
    assert_type(error.retry_after, float | None)
    assert_type(error.message, str)
    assert_type(incomplete.checkpoint, dict[str, Any] | None)
    assert_type(limited.retry_after, float | None)


async def simulator() -> None:
    async with Simulator(seed=1, runs=50, tasks=20_000) as there:
        assert_type(there, Simulator)
        UnpodClient(there.token, base_url=there.base_url)
    with Simulator() as there:
        assert_type(there.space_token, str)
