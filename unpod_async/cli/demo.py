"""`unpod-async demo`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from unpod_async.errors import ConfigurationError

from ._options import SpaceOptions
from ._outcome import Outcome

if TYPE_CHECKING:
    from unpod_async import Listing, Task
    from unpod_async._client import SpaceHandle
    from unpod_async.simulator import Simulator

    from ._copy import Write
    from ._demo_check import Tally

LATENCY = 0.02
INSERTS, DELETES = 2, 5  # with each request for a page

Read = Callable[["SpaceHandle", "Write", Outcome], Awaitable[None]]


def demo(
    *,
    runs: Annotated[int, Parameter(validator=Number(gte=1), help="Runs at the start.")] = 60,
    tasks: Annotated[int, Parameter(validator=Number(gte=0), help="Tasks at the start.")] = 20_000,
    to: Annotated[
        str | None, Parameter(help="Keep the files in this directory. Without it: none are kept.")
    ] = None,
    json: Annotated[
        bool, Parameter(negative="", show_default=False, help="Print one JSON object instead.")
    ] = False,
) -> int:
    """Export a list while it changes, and prove that nothing was lost; gives the exit code."""
    from unpod_async.simulator import Churn, Simulator

    from . import _demo_show
    from ._run import finish, run

    if to is not None:
        make_directory(Path(to))
    outcome = Outcome("demo")
    churn = Churn(inserts=INSERTS, deletes=DELETES)
    simulator = Simulator(seed=1, runs=runs, tasks=tasks, churn=churn, latency=LATENCY)
    place = tempfile.TemporaryDirectory(prefix="unpod-demo-") if to is None else nullcontext(to)
    tallies: list[Tally] = []
    with place as directory, simulator:
        run(outcome, lambda: compare(simulator, Path(directory), tallies, outcome))
        seconds = outcome.seconds
        judge(outcome, tallies)
        if not json and outcome.exit_code in (0, 3, 5):
            kept = None if to is None else Path(to)
            _demo_show.show(simulator, tallies, outcome, seconds=seconds, kept=kept)
    return finish(outcome, quiet=True, as_json=json, json_to_stdout=True)


def make_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None


async def compare(
    simulator: Simulator, directory: Path, tallies: list[Tally], outcome: Outcome
) -> None:
    """Export all tasks in each way, and hold the files against what the platform knows."""
    from unpod_async import UnpodClient

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
    from anyio import to_thread

    from unpod_async.export import open_lines

    from ._demo_check import check
    from .export import keep

    outcome = Outcome(way)
    world = simulator.world
    mark, requests, began = world.mark(), len(simulator.requests), time.perf_counter()
    async with open_lines(path, force=True) as file:
        await read(space, file.write, outcome)
        await keep(file, outcome)
    outcome.seconds = time.perf_counter() - began
    requests = len(simulator.requests) - requests
    return await to_thread.run_sync(check, outcome, world, mark, requests, abandon_on_cancel=True)


OPTIONS = SpaceOptions()


async def _walk(space: SpaceHandle, write: Write, outcome: Outcome) -> None:
    from ._copy import copy_list

    await copy_list(space.tasks(page_size=500), write, outcome, OPTIONS, progress=False)


async def _fan_out(space: SpaceHandle, write: Write, outcome: Outcome) -> None:
    from ._copy import copy_runs

    await copy_runs(space, write, outcome, OPTIONS, progress=False)


async def _page_loop(space: SpaceHandle, write: Write, outcome: Outcome) -> None:
    """What one would write without this library: page after page, until one is empty."""
    from ._copy import Copier
    from ._progress import Progress

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
