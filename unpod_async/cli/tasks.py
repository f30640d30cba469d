"""`unpod-async tasks`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ._options import DEFAULTS, NO_FILTERS, SpaceOptions, TaskFilters

if TYPE_CHECKING:
    from unpod_async import Listing, UnpodClient


def tasks(
    *,
    run: Annotated[str | None, Parameter(help="Only the tasks of this run.")] = None,
    filters: TaskFilters = NO_FILTERS,
    options: SpaceOptions = DEFAULTS,
) -> int:
    """Print all tasks of a space, or of one run, as JSON Lines: newest first, each once, as
    the server sent it."""
    from ._run import print_list

    def listing(client: UnpodClient) -> Listing[Any]:
        return filters.tasks(options.space_of(client), run, options.rows_a_page)

    return print_list("tasks", options, listing)
