"""Carries out `unpod-async demo`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from anyio import to_thread

from unpod_async import UnpodClient
from unpod_async.errors import ConfigurationError
from unpod_async.export._files import open_lines
from unpod_async.simulator import Churn, Simulator

from ._copy import Copier, Write, copy_list, copy_runs
from ._demo_check import Tally, check
from ._demo_show import show
from ._options import DEFAULTS
from ._outcome import Outcome
from ._progress import Progress
from ._run import finish, run

if TYPE_CHECKING:
    from unpod_async import Listing, Task
    from unpod_async._client import SpaceHandle

Read = Callable[["SpaceHandle", Write, Outcome], Awaitable[None]]

LATENCY = 0.02  # seconds, of each answer
INSERTS, DELETES = 2, 5  # with each request for a page


def demonstrate(*, runs: int, tasks: int, to: Path | None, as_json: bool) -> int:
    """The whole demo; gives the exit code."""
    outcome, tallies = Outcome("demo"), list[Tally]()
    churn = Churn(inserts=INSERTS, deletes=DELETES)
    simulator = Simulator(seed=1, runs=runs, tasks=tasks, churn=churn, latency=LATENCY)
    with directory_for(to) as directory, simulator:
        run(outcome, lambda: compare(simulator, Path(directory), tallies, outcome))
        seconds = outcome.seconds
        judge(outcome, tallies)
        if not as_json and outcome.exit_code in (0, 3, 5):
            show(simulator, tallies, outcome, seconds=seconds, kept=to)
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
    """Export all tasks in each way, and hold the files against what the platform knows."""
    ways: dict[str, tuple[str, Read]] = {
        "walk": ("unpod-demo-walk.jsonl.gz", _walk),
        "fan-out": ("unpod-demo-runs.jsonl", _fan_out),
        "page loop": ("unpod-demo-pages.jsonl", _page_loop),
    }
    async with UnpodClient(
        token=simulator.token, base_url=simulator.base_url, org_handle=simulator.org_handle
    ) as client:
        space = client.space(simulator.space_token)
        await space.tasks(page_size=1).count()  # so that no way pays for the first connection
        for way, (name, read) in ways.items():
            tallies.append(await export(way, directory / name, simulator, space, read))
    outcome.report = next((t.report for t in tallies[:2] if not t.verified), tallies[0].report)


async def export(
    way: str, path: Path, simulator: Simulator, space: SpaceHandle, read: Read
) -> Tally:
    """Export by one way, then count what is in the file."""
    outcome = Outcome(way)
    world = simulator.world
    mark, requests, began = world.mark(), len(simulator.requests), time.perf_counter()
    async with open_lines(path, force=True) as file:
        await read(space, file.write, outcome)
        save = file.set_aside if outcome.lacks_something else file.commit
        outcome.path = await to_thread.run_sync(save)
    outcome.seconds = time.perf_counter() - began
    requests = len(simulator.requests) - requests
    return await to_thread.run_sync(check, outcome, world, mark, requests, abandon_on_cancel=True)


async def _walk(space: SpaceHandle, write: Write, outcome: Outcome) -> None:
    await copy_list(space.tasks(page_size=500), write, outcome, DEFAULTS, progress=False)


async def _fan_out(space: SpaceHandle, write: Write, outcome: Outcome) -> None:
    await copy_runs(space, write, outcome, DEFAULTS, progress=False)


async def _page_loop(space: SpaceHandle, write: Write, outcome: Outcome) -> None:
    """What one would write without this library: page after page, until one is short."""
    async with aclosing(_pages(space.tasks(page_size=500))) as rows:
        bar = Progress(lambda: None, shown=False)
        await Copier(write, outcome, None, bar).copy(rows)


async def _pages(listing: Listing[Task]) -> AsyncGenerator[bytes, None]:
    async for page in listing.raw().pages():
        for row in page.items:
            yield row


def judge(outcome: Outcome, tallies: list[Tally]) -> None:
    """Sum up the two exports; exit code 3 if one of them lacks a task or has one twice."""
    exports = tallies[:2]
    outcome.rows = sum(tally.rows for tally in exports)
    outcome.seconds = sum(tally.seconds for tally in exports)
    if not all(tally.exact for tally in exports):
        outcome.missing = "an export lacks tasks, or has some twice"
    outcome.more["ways"] = [tally.summary() for tally in tallies]
