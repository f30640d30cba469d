"""`unpod-async runs`."""

from __future__ import annotations

from ._options import DEFAULTS, SpaceOptions


def runs(*, options: SpaceOptions = DEFAULTS) -> int:
    """Print all runs of a space as JSON Lines: newest first, each once, as the server sent it."""
    from ._run import print_list

    return print_list(
        "runs",
        options,
        lambda client: options.space_of(client).runs(page_size=options.rows_a_page),
    )
