"""`unpod-async demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number


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
    from ._demo import demonstrate

    directory = None if to is None else Path(to)
    return demonstrate(runs=runs, tasks=tasks, to=directory, as_json=json)
