"""`unpod-async verify`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter


def verify(
    target: Annotated[str, Parameter(help="What `export --to` was given.")],
    /,
    *,
    runs: Annotated[
        bool,
        Parameter(negative="", show_default=False, help="The export of runs, not that of tasks."),
    ] = False,
    json: Annotated[
        bool,
        Parameter(negative="", show_default=False, help="Tell the outcome as one JSON object."),
    ] = False,
) -> int:
    """Hold what an export left against its receipt, without the platform.

    Rows, files and their content are read again; whatever differs is told, with exit code 3."""
    from ._verify import check

    return check(target, "runs" if runs else "tasks", as_json=json)
