"""`unpod-async export tasks` and `unpod-async export runs`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from ._options import (
    NO_FILTERS,
    SEVERAL,
    ExportOptions,
    TaskFilters,
    duration,
    moment,
    names,
    whole,
)

app = App(name="export", version_flags=[])


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Target:
    """Where to, and what is done with what is there."""

    to: Annotated[str, Parameter(help="The file, folder or database; see `export --help`.")]
    columns: Annotated[
        list[str] | None,
        Parameter(
            converter=names,
            negative="",
            help="Only these columns, with commas between; the ids and a few more stay.",
        ),
    ] = None
    status: Annotated[
        list[str] | None,
        Parameter(negative="", help="Only rows of this status of their own; may be repeated."),
    ] = None
    since: Annotated[
        datetime | float | None,
        Parameter(converter=moment, help="Only rows created then or later; stops behind them."),
    ] = None
    force: Annotated[
        bool,
        Parameter(negative="", show_default=False, help="Replace what is there and not ours."),
    ] = False
    fresh: Annotated[
        bool,
        Parameter(negative="", show_default=False, help="Begin anew, and replace what is there."),
    ] = False
    full: Annotated[
        bool,
        Parameter(negative="", show_default=False, help="Read everything again, and update."),
    ] = False
    settle: Annotated[
        float,
        Parameter(
            converter=duration,
            show_default=False,
            help="How long an evaluation is waited for: 90m, 24h, 7d. [default: 24h]",
        ),
    ] = 24 * 3600.0
    dry_run: Annotated[
        bool,
        Parameter(negative="", show_default=False, help="Say what would be done, and do nothing."),
    ] = False
    processes: Annotated[
        int,
        Parameter(
            converter=whole,
            validator=Number(gte=1, lte=64),
            help="Processes that share the runs; files only, read run by run.",
        ),
    ] = 1
    csv_raw: Annotated[
        bool,
        Parameter(negative="", show_default=False, help="CSV cells as they are, formulas too."),
    ] = False


@app.command(name="tasks", sort_key=0)
def export_tasks(
    *,
    target: Target,
    via: Annotated[
        Literal["walk", "runs"],
        Parameter(help="Walk the list of all tasks, or read those of all runs, run by run."),
    ] = "walk",
    run: Annotated[
        list[str] | None,
        Parameter(
            converter=names,
            negative="",
            help="Only the tasks of this run; may be repeated, or several with commas between.",
        ),
    ] = None,
    filters: TaskFilters = NO_FILTERS,
    options: ExportOptions = SEVERAL,
) -> int:
    """Write all tasks of a space into a file, a folder or a database.

    `unpod-async export --help` says where to, and what a second run does."""
    from . import _export

    return _export.export_tasks(target, via, run, filters, options)


@app.command(name="runs", sort_key=1)
def export_runs(*, target: Target, options: ExportOptions = SEVERAL) -> int:
    """Write all runs of a space into a file, a folder or a database.

    `unpod-async export --help` says where to, and what a second run does."""
    from . import _export

    return _export.export_runs(target, options)
