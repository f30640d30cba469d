"""Carries out `unpod-async demo`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from anyio import to_thread

from unpod_async import Report, UnpodClient
from unpod_async._missing import needs
from unpod_async.errors import ConfigurationError
from unpod_async.export._engine import Export, Options
from unpod_async.export._jobs import Wanted
from unpod_async.export._sink import sink_for
from unpod_async.simulator import Churn, Simulator

from ._demo_check import Ids, Tally, check, from_database, from_lines
from ._demo_show import DATABASE, show
from ._outcome import Outcome
from ._run import finish, run

if TYPE_CHECKING:
    from unpod_async._client import SpaceHandle

Read = Callable[["SpaceHandle", Path], Awaitable[tuple["Report | None", Ids]]]

LATENCY = 0.02  # seconds, of each answer
INSERTS, DELETES = 2, 5  # with each request for a page
LINES = "unpod-demo-runs.jsonl"


def demonstrate(*, runs: int, tasks: int, to: Path | None, as_json: bool) -> int:
    """The whole demo; gives the exit code."""
    with needs("duckdb", "duckdb"):
        import duckdb  # noqa: F401  (here, so that nothing is begun without it)
    outcome, tallies = Outcome("demo"), list[Tally]()
    churn = Churn(inserts=INSERTS, deletes=DELETES)
    simulator = Simulator(seed=1, runs=runs, tasks=tasks, churn=churn, latency=LATENCY)
    with directory_for(to) as directory, simulator:
        run(outcome, lambda: compare(simulator, Path(directory), tallies, outcome))
        seconds = outcome.seconds
        judge(outcome, tallies)
        if not as_json and outcome.exit_code in (0, 3, 5):
            show(simulator, tallies, outcome, Path(directory), seconds=seconds, kept=to)
    return finish(outcome, quiet=True, as_json=as_json, json_to_stdout=True)


def directory_for(path: Path | None) -> AbstractContextManager[str | Path]:
    """The directory for the files: gone at the end, unless the user names it."""
    if path is None:
        return tempfile.TemporaryDirectory(prefix="unpod-demo-")
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    return nullcontext(path)


async def compare(
    simulator: Simulator, directory: Path, tallies: list[Tally], outcome: Outcome
) -> None:
    """Read all tasks in each way, and hold what came against what the platform knows."""
    ways: dict[str, Read] = {"walk": _walk, "fan-out": _fan_out, "page loop": _page_loop}
    async with UnpodClient(
        token=simulator.token, base_url=simulator.base_url, org_handle=simulator.org_handle
    ) as client:
        space = client.space(simulator.space_token)
        await space.tasks(page_size=1).count()  # so that no way pays for the first connection
        for way, read in ways.items():
            tallies.append(await tally(way, read, space, directory, simulator))
    proved = [tally.report for tally in tallies[:2] if tally.report is not None]
    outcome.report = next((report for report in proved if not report.verified), proved[0])


async def tally(
    way: str, read: Read, space: SpaceHandle, directory: Path, simulator: Simulator
) -> Tally:
    """Read by one way, then count what came."""
    world = simulator.world
    mark, requests, began = world.mark(), len(simulator.requests), time.perf_counter()
    report, ids = await read(space, directory)
    return await to_thread.run_sync(
        lambda: check(
            way,
            ids,
            world,
            mark,
            report=report,
            seconds=time.perf_counter() - began,
            requests=len(simulator.requests) - requests,
        ),
        abandon_on_cancel=True,
    )


async def _walk(space: SpaceHandle, directory: Path) -> tuple[Report | None, Ids]:
    path = directory / DATABASE
    return await _exported(space, path, by_runs=False), lambda: from_database(path)


async def _fan_out(space: SpaceHandle, directory: Path) -> tuple[Report | None, Ids]:
    path = directory / LINES
    return await _exported(space, path, by_runs=True), lambda: from_lines(path)


async def _exported(space: SpaceHandle, path: Path, *, by_runs: bool) -> Report:
    """What `export tasks --to PATH --fresh` does."""
    wanted = Wanted(
        kind="tasks",
        listings=[space.tasks(page_size=500)],
        spaces=[space],
        by_runs=by_runs,
        lanes=16 if by_runs else 4,
    )
    sink = await to_thread.run_sync(sink_for, str(path), "tasks")
    options = Options(force=True, fresh=True)
    receipt = await Export(sink, wanted.job(), wanted.sources(), options).run()
    return msgspec.convert(receipt.report, Report)


async def _page_loop(space: SpaceHandle, _: Path) -> tuple[Report | None, Ids]:
    """What one would write without this library: page after page, until one is short."""
    rows: list[tuple[str, str | None]] = []
    async for page in space.tasks(page_size=500).pages():
        rows += [(task.task_id, task.status) for task in page.items]
    return None, lambda: rows


def judge(outcome: Outcome, tallies: list[Tally]) -> None:
    """Sum up the two exports; exit code 3 if one of them lacks a task or has one twice."""
    exports = tallies[:2]
    outcome.rows = sum(tally.rows for tally in exports)
    outcome.seconds = sum(tally.seconds for tally in exports)
    if not all(tally.exact for tally in exports):
        outcome.missing = "an export lacks tasks, or has some twice"
    outcome.more["ways"] = [tally.summary() for tally in tallies]
