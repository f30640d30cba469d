"""Carries out `unpod-async export`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from anyio import to_thread

from unpod_async.errors import ConfigurationError
from unpod_async.export import LinesFile, open_lines

from ._copy import Write, copy_list, copy_runs
from ._outcome import Outcome
from ._run import finish, run

if TYPE_CHECKING:
    from unpod_async import Listing
    from unpod_async._client import SpaceHandle

    from ._options import SpaceOptions, TaskFilters
    from .export import Target

Read = Callable[["SpaceHandle", Write, Outcome], Awaitable[None]]


def by_walk(
    command: str,
    target: Target,
    options: SpaceOptions,
    listing_of: Callable[[SpaceHandle], Listing[Any]],
) -> int:
    """Export one list; gives the exit code."""

    async def read(space: SpaceHandle, write: Write, outcome: Outcome) -> None:
        shown = options.shows_progress
        await copy_list(listing_of(space), write, outcome, options, progress=shown)

    return _export(command, target, options, options.lanes(), read)


def by_runs(
    target: Target, only_run: str | None, filters: TaskFilters, options: SpaceOptions
) -> int:
    """Export the tasks of every run; gives the exit code."""

    async def read(space: SpaceHandle, write: Write, outcome: Outcome) -> None:
        if only_run is not None or filters.given():
            raise ConfigurationError("--via runs reads all runs whole: no --run, no filters")
        await copy_runs(space, write, outcome, options, progress=options.shows_progress)

    return _export("export tasks", target, options, options.lanes(16), read)


def _export(command: str, target: Target, options: SpaceOptions, lanes: int, read: Read) -> int:
    outcome = Outcome(command)

    async def work() -> None:
        async with await to_thread.run_sync(options.client, lanes) as client:
            space = options.space_of(client)
            async with open_lines(target.to, force=target.force) as file:
                await read(space, file.write, outcome)
                await keep(file, outcome)

    run(outcome, work)
    return finish(outcome, quiet=options.quiet, as_json=options.json, json_to_stdout=True)


async def keep(file: LinesFile, outcome: Outcome) -> None:
    """Give the file its name, or that of a partial one if rows are known to be missing."""
    save = file.set_aside if outcome.lacks_something else file.commit
    outcome.path = await to_thread.run_sync(save)
