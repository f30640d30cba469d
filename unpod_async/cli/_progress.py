"""Progress on a terminal: rows, rate and the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


class Progress:
    """A line on stderr that follows the rows, redrawn by a thread of its own and gone at the
    end. `total` gives the server's count, once known. If not `shown`, it costs nothing."""

    def __init__(self, total: Callable[[], int | None], *, shown: bool) -> None:
        self._total = total
        self._began = time.monotonic()
        self._bar: Bar | None = _bar() if shown else None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.add_task("", total=None, rate="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, rows: int) -> None:
        if self._bar is not None:
            rate = rows / max(time.monotonic() - self._began, 0.001)
            told = f"{rows:,} rows  {rate:,.0f} rows/s"
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=rows, total=self._total(), description=told)


def _bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TimeRemainingColumn(compact=True),
        console=Console(file=sys.stderr),
        transient=True,
    )
