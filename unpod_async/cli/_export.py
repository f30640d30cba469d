"""Carries out `unpod-async export`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread
from msgspec.structs import replace

from unpod_async._secrets import safe_text
from unpod_async.errors import ConfigurationError
from unpod_async.export._engine import Export, Options, Plan
from unpod_async.export._jobs import Wanted
from unpod_async.export._sink import sink_for
from unpod_async.export._state import Kind, Receipt

from ._outcome import Outcome
from ._progress import Progress
from ._run import beside, finish, run, settle_in

if TYPE_CHECKING:
    from unpod_async._client import SpaceHandle, UnpodClient

    from ._options import ExportOptions, TaskFilters
    from ._processes import Shares
    from .export import Target

Want = Callable[[list["SpaceHandle"]], dict[str, Any]]
POLL = 0.2  # seconds between two looks at the progress


def export_tasks(
    target: Target, via: str, runs: list[str] | None, filters: TaskFilters, options: ExportOptions
) -> int:
    """Export tasks; gives the exit code."""
    by_runs = via == "runs" or target.processes > 1 or (runs is not None and len(runs) > 1)

    def want(spaces: list[SpaceHandle]) -> dict[str, Any]:
        if by_runs and filters.given():
            raise ConfigurationError("the server has no filters for the tasks of a run")
        if runs is not None and len(spaces) > 1:
            raise ConfigurationError("--run takes one --space")
        only = runs[0] if runs and not by_runs else None
        size = options.rows_a_page
        listings = [filters.tasks(space, only, size) for space in spaces]
        return {"listings": listings, "runs": runs, "by_runs": by_runs}

    return _export("tasks", target, options, 16 if by_runs else 4, want)


def export_runs(target: Target, options: ExportOptions) -> int:
    """Export runs; gives the exit code."""

    def want(spaces: list[SpaceHandle]) -> dict[str, Any]:
        return {"listings": [space.runs(page_size=options.rows_a_page) for space in spaces]}

    return _export("runs", target, options, 4, want)


def _export(kind: Kind, target: Target, options: ExportOptions, lanes: int, want: Want) -> int:
    outcome = Outcome(f"export {kind}")
    lanes = options.lanes(lanes)

    async def work() -> None:
        async with await to_thread.run_sync(options.client, lanes) as client:
            wanted = _wanted(kind, target, options, lanes, client, want)
            export = await to_thread.run_sync(_made, wanted, target)
            if target.dry_run:
                await _tell_plan(export, wanted, outcome)
            elif target.processes > 1:
                shares = await to_thread.run_sync(_shares, export, wanted, target, options, client)
                await _run(shares, options, outcome)
            else:
                await _run(export, options, outcome)

    run(outcome, work)
    return finish(outcome, quiet=options.quiet, as_json=options.json, json_to_stdout=True)


def _wanted(
    kind: Kind,
    target: Target,
    options: ExportOptions,
    lanes: int,
    client: UnpodClient,
    want: Want,
) -> Wanted:
    since, spaces = target.since, options.spaces_of(client)
    return Wanted(
        kind=kind,
        spaces=spaces,
        status=target.status or (),
        since=datetime.fromtimestamp(since, UTC) if isinstance(since, float) else since,
        columns=target.columns,
        limit=options.limit,
        lanes=lanes,
        page_size=options.rows_a_page,
        **want(spaces),
    )


def _made(wanted: Wanted, target: Target) -> Export:
    job = wanted.job()
    sink = sink_for(target.to, job.kind, job.columns)
    settle_in()
    if target.csv_raw:
        if not hasattr(sink, "raw"):
            raise ConfigurationError("--csv-raw is for CSV")
        sink.raw = True
    options = Options(
        force=target.force, fresh=target.fresh, full=target.full, settle=target.settle
    )
    return Export(sink, job, wanted.sources(), options)


def _shares(
    export: Export, wanted: Wanted, target: Target, options: ExportOptions, client: UnpodClient
) -> Shares:
    from ._processes import Shares
    from ._worker import Task

    if wanted.limit is not None or wanted.kind != "tasks" or not wanted.by_runs:
        raise ConfigurationError("--processes reads tasks by --via runs, all of them: no --limit")
    task = Task(
        token=options.token(),
        base_url=client.base_url,
        org_handle=client.org_handle,
        auth_scheme=options.auth_scheme,
        spaces=[space.token for space in wanted.spaces],
        runs=None if wanted.runs is None else list(wanted.runs),
        share=(1, 1),
        target="",
        raw=target.csv_raw,
        status=list(wanted.status),
        since=wanted.since,
        columns=None if wanted.columns is None else list(wanted.columns),
        page_size=wanted.page_size,
        lanes=max(1, wanted.lanes // target.processes),
        settle=target.settle,
        fresh=target.fresh,
    )
    return Shares(export, task, target.processes)


async def _tell_plan(export: Export, wanted: Wanted, outcome: Outcome) -> None:
    """What would be done, with one small request for each list."""
    plan = await export.plan()
    rows = [await listing.count() for listing in wanted.listings]
    counted = sum(row for row in rows if row is not None)
    outcome.cut_short = "limit"
    outcome.more |= {"plan": _plan_of(plan), "target": export.sink.target, "counted": counted}
    outcome.prose = (
        f"would {_plan_of(plan)} {safe_text(export.sink.target)}; "
        f"the platform counts {counted:,} {export.job.kind}"
    )


def _plan_of(plan: Plan) -> str:
    if plan.replaces:
        return "replace"
    if plan.state is None:
        return "write"
    return {"full": "read all again and update", "resumed": "go on with"}.get(plan.mode, "refresh")


async def _run(export: Export | Shares, options: ExportOptions, outcome: Outcome) -> None:
    outcome.path = export.sink.target

    async def show() -> None:
        if options.shows_progress:
            await _show(export, options.limit)

    async def work() -> None:
        _sum_up(outcome, export, await export.run())

    try:
        await beside(show, work)
    finally:
        outcome.rows = sum(export.written)
        outcome.report = outcome.report or export.report


async def _show(export: Export | Shares, limit: int | None) -> None:
    def total() -> int | None:
        counted = export.report.expected.count_last
        return counted if limit is None or counted is None else min(counted, limit)

    with Progress(total, shown=True) as bar:
        while True:
            bar.update(export.taken)
            await anyio.sleep(POLL)


def _sum_up(outcome: Outcome, export: Export | Shares, receipt: Receipt) -> None:
    outcome.path = getattr(export.sink, "path_written", None) or export.sink.target
    outcome.report = replace(export.report, verified=receipt.verified, reason=receipt.reason)
    outcome.missing, outcome.failures = export.missing, export.failures
    outcome.cut_short = "limit" if export.is_cut_short else None
    changes = {name: getattr(receipt, name) for name in ("inserted", "updated", "unchanged")}
    if receipt.covers:  # there were rows before
        told = ", ".join(f"{rows:,} {name}" for name, rows in changes.items())
        outcome.detail = f" ({receipt.mode}: {told})"
    outcome.more |= {
        "target": export.sink.target,
        "mode": receipt.mode,
        **changes,
        "covers": receipt.covers,
        "notes": receipt.notes,
    }
