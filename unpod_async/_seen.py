"""What a walk remembers of the rows it has handed on. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Generic, TypeVar

__all__ = ["Seen"]

T = TypeVar("T")

RECENT_ROWS = 2048  # rows kept to tell a repetition from a conflict


class Seen(Generic[T]):
    """The identity of every row handed on, by its ordinal (0 is the first), and the last
    rows themselves. After a resume only the rows that a checkpoint names are known."""

    def __init__(self) -> None:
        self.count = 0
        self.bottom: str | None = None
        self.whole = True
        self.solid = 0  # from this ordinal on every row is known
        self._ordinals: dict[str, int] = {}
        self._recent: deque[T] = deque(maxlen=RECENT_ROWS)

    def __bool__(self) -> bool:
        return self.count > 0

    def __contains__(self, row_id: str) -> bool:
        return row_id in self._ordinals

    def ordinal(self, row_id: str) -> int | None:
        return self._ordinals.get(row_id)

    def links(self, row_id: str) -> bool:
        """Whether all rows handed on behind this one are known too."""
        ordinal = self._ordinals.get(row_id)
        return ordinal is not None and ordinal >= self.solid

    def add(self, row_id: str, row: T) -> None:
        self._ordinals[row_id] = self.count
        self._recent.append(row)
        self.count += 1
        self.bottom = row_id

    def differs(self, ordinal: int, row: T) -> bool:
        """Whether the row kept under this ordinal, if it is kept, has other content."""
        index = ordinal - (self.count - len(self._recent))
        return index >= 0 and self._recent[index] != row

    def last(self, most: int, *, skip: int = 0) -> list[str]:
        """At most `most` ids in order, the last `skip` left out."""
        return list(islice(reversed(self._ordinals), skip, skip + most))[::-1]

    def first(self, most: int) -> list[str]:
        return list(islice(self._ordinals, most))

    def recall(self, head: Iterable[str], tail: list[str], count: int) -> None:
        """Know again what a checkpoint names: the first rows, the last, and how many."""
        self._ordinals = {row_id: ordinal for ordinal, row_id in enumerate(head)}
        self._ordinals |= {row_id: count - len(tail) + at for at, row_id in enumerate(tail)}
        self.count = count
        self.bottom = tail[-1]
        self.whole = len(self._ordinals) == count
        self.solid = 0 if self.whole else count - len(tail)
