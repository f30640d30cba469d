"""`unpod-async export tasks` and `unpod-async export runs`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from unpod_async.errors import ConfigurationError

from ._options import DEFAULTS, NO_FILTERS, SpaceOptions, TaskFilters
from ._outcome import Outcome

if TYPE_CHECKING:
    from unpod_async._client import SpaceHandle
    from unpod_async.export import LinesFile

    from ._copy import Write

app = App(name="export", version_flags=[])


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Target:
    """Where to."""

    to: Annotated[str, Parameter(help="The file, .jsonl or .jsonl.gz.")]
    force: Annotated[
        bool, Parameter(negative="", show_default=False, help="Replace an existing file.")
    ] = False


@app.command(name="tasks", sort_key=0)
def export_tasks(
    *,
    target: Target,
    via: Annotated[
        Literal["walk", "runs"],
        Parameter(help="Walk the list of all tasks, or read the lists of all runs."),
    ] = "walk",
    run: Annotated[str | None, Parameter(help="Only the tasks of this run.")] = None,
    filters: TaskFilters = NO_FILTERS,
    options: SpaceOptions = DEFAULTS,
) -> int:
    """Write all tasks of a space into a file."""
    by_runs = via == "runs"

    async def read(space: SpaceHandle, write: Write, outcome: Outcome) -> None:
        if not by_runs:
            listing = filters.tasks(space, run, options.rows_a_page)
            await _copy(listing, write, outcome, options)
        elif run is not None or filters.given():
            raise ConfigurationError("--via runs reads all runs whole: no --run, no filters")
        else:
            shown = options.shows_progress
            from ._copy import copy_runs

            await copy_runs(space, write, outcome, options, progress=shown)

    return export("export tasks", target, options, options.lanes(16 if by_runs else 4), read)


@app.command(name="runs", sort_key=1)
def export_runs(*, target: Target, options: SpaceOptions = DEFAULTS) -> int:
    """Write all runs of a space into a file."""

    async def read(space: SpaceHandle, write: Write, outcome: Outcome) -> None:
        await _copy(space.runs(page_size=options.rows_a_page), write, outcome, options)

    return export("export runs", target, options, options.lanes(), read)


async def _copy(listing: Any, write: Write, outcome: Outcome, options: SpaceOptions) -> None:
    from ._copy import copy_list

    await copy_list(listing, write, outcome, options, progress=options.shows_progress)


def export(
    command: str,
    target: Target,
    options: SpaceOptions,
    lanes: int,
    read: Callable[[SpaceHandle, Write, Outcome], Awaitable[None]],
) -> int:
    """Have rows read into the target; gives the exit code."""
    from ._run import finish, run

    outcome = Outcome(command)

    async def work() -> None:
        from anyio import to_thread

        from unpod_async.export import open_lines

        async with await to_thread.run_sync(options.client, lanes) as client:
            space = options.space_of(client)
            async with open_lines(target.to, force=target.force) as file:
                await read(space, file.write, outcome)
                await keep(file, outcome)

    run(outcome, work)
    return finish(outcome, quiet=options.quiet, as_json=options.json, json_to_stdout=True)


async def keep(file: LinesFile, outcome: Outcome) -> None:
    """Give the file its name, or that of a partial one if rows are known to be missing."""
    from anyio import to_thread

    save = file.set_aside if outcome.lacks_something else file.commit
    outcome.path = await to_thread.run_sync(save)
