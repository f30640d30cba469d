"""Arms side by side in one process: short slices of CPU time, interleaved and shuffled.

A busy machine makes the same program up to twice as dear from one second to the next, so whole
runs cannot be compared. Here all arms take turns within the same second, and what counts is the
median over the rounds of the ratio of two arms in the same round.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Iterator
from random import Random
from statistics import median, quantiles
from time import process_time
from typing import NamedTuple

SLICE = 0.04
"""Seconds of CPU time that a slice aims at."""

LASTING = 600.0
"""Seconds to keep a connection: an arm stands still while the others have their slices."""


class Arm:
    """Something that hands on rows, a slice at a time, and goes on where it stopped.

    `unit` is how many rows a slice has at least.
    """

    unit = 1
    rows = 0
    goal = 0

    def slice(self, rows: int) -> int:
        """Hand on at least so many rows; how many they were."""
        raise NotImplementedError

    def close(self) -> None: ...


class SyncArm(Arm):
    """An arm of plain calls: `work()` gives the number of rows that each step handed on."""

    def work(self) -> Iterator[int]:
        raise NotImplementedError

    def slice(self, rows: int) -> int:
        if not hasattr(self, "_steps"):
            self._steps = self.work()
        done = 0
        for step in self._steps:
            done += step
            if done >= rows:
                break
        return done

    def close(self) -> None:
        if hasattr(self, "_steps"):
            self._steps.close()  # type: ignore[attr-defined]


class AsyncArm(Arm):
    """An arm in an event loop of its own, which stands still outside its slices.

    `work()` goes on for ever and calls `handed()`; the loop stops as soon as that has enough.
    """

    async def work(self) -> None:
        raise NotImplementedError

    def handed(self, rows: int) -> bool:
        """Count rows; True if the slice is over, so that the caller may let the loop stop."""
        self.rows += rows
        if self.rows < self.goal:
            return False
        self._loop.stop()
        return True

    def slice(self, rows: int) -> int:
        if not hasattr(self, "_loop"):
            self._loop = asyncio.new_event_loop()
            self._task = self._loop.create_task(self.work())
            self._task.add_done_callback(lambda _: self._loop.stop())
        before = self.rows
        self.goal = before + rows
        self._loop.run_forever()
        if self._task.done():
            self._task.result()
            raise RuntimeError("the arm came to an end")
        return self.rows - before

    def close(self) -> None:
        if not hasattr(self, "_loop"):
            return
        self.goal = sys.maxsize
        self._task.cancel()
        while not self._task.done():
            self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


class Ratio(NamedTuple):
    """The median of paired ratios, and the quartiles around it."""

    median: float
    low: float
    high: float


Round = dict[str, float]
"""CPU seconds a row by the name of the arm."""


def measure(
    arms: dict[str, Arm], *, rounds: int, often: frozenset[str] = frozenset(), seed: int = 1
) -> list[Round]:
    """Run all arms for so many rounds; those named in `often` three times a round."""
    rng = Random(seed)
    sizes = {name: _size(arm) for name, arm in arms.items()}
    gc.collect()
    gc.freeze()  # what the arms imported is not to be walked over and over by one of them
    try:
        return [_round(arms, sizes, often, rng) for _ in range(rounds)]
    finally:
        gc.unfreeze()
        for arm in arms.values():
            arm.close()


def _size(arm: Arm) -> int:
    """Warm the arm up; how many rows make a slice of the right length."""
    arm.slice(arm.unit)
    best = 1.0
    for _ in range(3):
        began = process_time()
        rows = arm.slice(arm.unit)
        best = min(best, (process_time() - began) / rows)
    return max(arm.unit, round(SLICE / best))


def _round(
    arms: dict[str, Arm], sizes: dict[str, int], often: frozenset[str], rng: Random
) -> Round:
    turns = [name for name in arms for _ in range(3 if name in often else 1)]
    rng.shuffle(turns)
    spent = dict.fromkeys(arms, 0.0)
    rows = dict.fromkeys(arms, 0)
    for name in turns:
        began = process_time()
        rows[name] += arms[name].slice(sizes[name])
        spent[name] += process_time() - began
    return {name: spent[name] / rows[name] for name in arms}


def ratio(rounds: list[Round], arm: str, base: str, *, less: str | None = None) -> Ratio:
    """`arm` over `base`; `less` is an arm whose cost is taken off `arm` first."""
    found = [(one[arm] - (one[less] if less else 0.0)) / one[base] for one in rounds]
    low, _, high = quantiles(found, n=4)
    return Ratio(median(found), low, high)


def microseconds(rounds: list[Round], arm: str) -> Ratio:
    """CPU microseconds a row."""
    low, middle, high = quantiles([one[arm] * 1e6 for one in rounds], n=4)
    return Ratio(middle, low, high)
