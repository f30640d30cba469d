"""`unpod-async spaces`."""

from __future__ import annotations

from ._options import DEFAULTS, Options


def spaces(*, options: Options = DEFAULTS) -> int:
    """Print the organization's spaces as JSON Lines; their `token` is what --space takes.
    Needs --org-handle."""
    from ._run import print_list

    return print_list(
        "spaces", options, lambda client: client.spaces(page_size=options.rows_a_page)
    )
