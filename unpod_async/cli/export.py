"""`unpod-async export tasks` and `unpod-async export runs`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import App, Parameter

from ._options import DEFAULTS, NO_FILTERS, SpaceOptions, TaskFilters

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
        Parameter(help="Walk the list of all tasks, or read those of all runs, in any order."),
    ] = "walk",
    run: Annotated[str | None, Parameter(help="Only the tasks of this run.")] = None,
    filters: TaskFilters = NO_FILTERS,
    options: SpaceOptions = DEFAULTS,
) -> int:
    """Write all tasks of a space into a file.

    `unpod-async export --help` says what is left of it if something goes wrong."""
    from . import _export

    if via == "runs":
        return _export.by_runs(target, run, filters, options)
    return _export.by_walk(
        "export tasks",
        target,
        options,
        lambda space: filters.tasks(space, run, options.rows_a_page),
    )


@app.command(name="runs", sort_key=1)
def export_runs(*, target: Target, options: SpaceOptions = DEFAULTS) -> int:
    """Write all runs of a space into a file.

    `unpod-async export --help` says what is left of it if something goes wrong."""
    from . import _export

    return _export.by_walk(
        "export runs", target, options, lambda space: space.runs(page_size=options.rows_a_page)
    )
