"""How long one attempt may take: a single timer, where others set one for each wait."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

__all__ = ["Patience"]


class Patience:
    """A block that ends by itself when nothing was heard for `quiet` seconds, or after `whole`
    seconds; `lost` then says which, None otherwise. A cancellation from elsewhere goes on."""

    __slots__ = ("_before", "_ends", "_heard", "_loop", "_quiet", "_task", "_timer", "lost")

    def __init__(self, *, quiet: float, whole: float) -> None:
        self.lost: str | None = None
        self._loop = asyncio.get_running_loop()
        self._quiet = quiet
        self._heard = self._loop.time()
        self._ends = self._heard + whole

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._before = task.cancelling()
        self._timer = self._loop.call_at(self._due(), self._check)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self._timer.cancel()
        if self.lost is None:
            return False
        ours = self._task.uncancel() <= self._before
        return ours and kind is asyncio.CancelledError

    def heard(self) -> None:
        self._heard = self._loop.time()

    def _due(self) -> float:
        return min(self._heard + self._quiet, self._ends)

    def _check(self) -> None:
        now = self._loop.time()
        if now < self._due():
            self._timer = self._loop.call_at(self._due(), self._check)
            return
        self.lost = "quiet" if now < self._ends else "whole"
        self._task.cancel()
