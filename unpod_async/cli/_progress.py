"""Progress on a terminal: rows, rate and the time left."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from ._outcome import Outcome


class Progress:
    """A line on stderr that follows `outcome.rows`, redrawn some times a second by a thread
    of its own. `total` gives the server's count, once it is known. Not `shown`, it is nothing.
    """

    def __init__(
        self,
        outcome: Outcome,
        total: Callable[[], int | None],
        limit: int | None,
        *,
        shown: bool,
    ) -> None:
        self._outcome = outcome
        self._total = total
        self._limit = limit
        self._shown = shown
