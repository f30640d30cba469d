"""What a walk remembers of the rows it has handed on. Pure."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable
from itertools import chain, islice
from typing import Generic, TypeVar

__all__ = ["Seen"]

T = TypeVar("T")

MANY_HASHES = 2**20  # for so many there may be room before they come
RECENT_ROWS = 1024  # rows kept to tell a repetition from a conflict


class Seen(Generic[T]):
    """The ordinal of every row handed on (0 is the first), by its id; and the last rows
    themselves. After a resume only the rows that a checkpoint names are known.

    The ids of the first `recent` rows, and of the last ones, at least so many, are kept as they
    are. Of those between only a hash of 64 bits is kept, in 12 bytes a row: they count as
    rows of one place behind the first ones. Two ids of one hash, once in 30 million walks over a
    million rows, look like one row that was sent twice out of order: it costs the proof.
    """

    def __init__(self, recent: int = 4096) -> None:
        self.count = 0
        self.bottom: str | None = None
        self.whole = True
        self.expected = 0  # how many rows there may be in all, if somebody has an idea
        self.solid = 0  # from this ordinal on every row is known
        self._recent = recent
        self._first: dict[str, int] = {}
        self._old: dict[str, int] = {}
        self._new: dict[str, int] = {}
        self._far: _Hashes | None = None  # of all rows, once there are more than the recent ones
        self._rows: deque[T] = deque(maxlen=RECENT_ROWS)

    def __bool__(self) -> bool:
        return self.count > 0

    def __contains__(self, row_id: str) -> bool:
        return self.ordinal(row_id) is not None

    def ordinal(self, row_id: str) -> int | None:
        for rows in (self._new, self._old, self._first):
            if (found := rows.get(row_id)) is not None:
                return found
        return len(self._first) if self._far is not None and row_id in self._far else None

    def ordinals(self, row_ids: list[str]) -> list[int | None]:
        """Of each row, None if it is unknown. Behind the last recent row among them an old one
        may be None too: `add` will tell, and a new row is looked up among those only once."""
        found = list(map(self._new.get, row_ids))
        for rows in (self._old, self._first):
            if not rows.keys().isdisjoint(row_ids):
                found = [
                    rows.get(row_id) if at is None else at
                    for row_id, at in zip(row_ids, found, strict=True)
                ]
        if self._far is not None and None in found:
            recent = [at for at, ordinal in enumerate(found) if ordinal is not None]
            for at in range(recent[-1] if recent else len(found)):
                if found[at] is None and row_ids[at] in self._far:
                    found[at] = len(self._first)
        return found

    def links(self, row_id: str) -> bool:
        """Whether all rows handed on behind this one are known too."""
        ordinal = self.ordinal(row_id)
        return ordinal is not None and ordinal >= self.solid

    def add(self, row_ids: list[str], rows: list[T]) -> tuple[list[T], list[tuple[int, T]]]:
        """Remember rows that are handed on. Gives back those that were not seen before, and
        those that were, with their ordinals."""
        repeated: list[tuple[int, T]] = []
        if len(set(row_ids)) < len(row_ids) or not self._unknown(row_ids):
            row_ids, rows, repeated = self._sort_out(row_ids, rows)
        if self._far is not None and (known := self._far.add(row_ids, self.expected)):
            repeated += [(len(self._first), rows[at]) for at in known]
            row_ids = [row_id for at, row_id in enumerate(row_ids) if at not in known]
            rows = [row for at, row in enumerate(rows) if at not in known]
        self._new.update(zip(row_ids, range(self.count, self.count + len(rows)), strict=True))
        self._rows.extend(rows)
        self.count += len(rows)
        if rows:
            self.bottom = row_ids[-1]
        if len(self._new) >= self._recent:
            self._turn()
        return rows, repeated

    def _unknown(self, row_ids: list[str]) -> bool:
        near = (self._new, self._old, self._first)
        return all(rows.keys().isdisjoint(row_ids) for rows in near)

    def _sort_out(
        self, row_ids: list[str], rows: list[T]
    ) -> tuple[list[str], list[T], list[tuple[int, T]]]:
        """Rows of which some were seen not long ago, or are there twice."""
        fresh: dict[str, int] = {}
        new: list[T] = []
        repeated: list[tuple[int, T]] = []
        for row_id, row, known in zip(row_ids, rows, self.ordinals(row_ids), strict=True):
            if known is None and row_id not in fresh:
                fresh[row_id] = self.count + len(fresh)
                new.append(row)
            else:
                repeated.append((fresh[row_id] if known is None else known, row))
        return list(fresh), new, repeated

    def _turn(self) -> None:
        """The recent rows become old ones."""
        if self._far is None:
            self._far = _Hashes()
            self._far.add(list(self._new), self.expected)
            self._first = self._new
        self._old, self._new = self._new, {}

    def differs(self, ordinal: int, row: T) -> bool:
        """Whether the row kept under this ordinal, if it is kept, has other content."""
        index = ordinal - (self.count - len(self._rows))
        return index >= 0 and self._rows[index] != row

    def last(self, most: int, *, skip: int = 0) -> list[str]:
        """At most `most` ids in order, the last `skip` left out."""
        backwards = chain(reversed(self._new), reversed(self._old))
        return list(islice(backwards, skip, skip + most))[::-1]

    def first(self, most: int) -> list[str]:
        return list(islice(self._first or self._new, most))

    def recall(self, head: Iterable[str], tail: list[str], count: int) -> None:
        """Know again what a checkpoint names: the first rows, the last, and how many."""
        self._new = {row_id: ordinal for ordinal, row_id in enumerate(head)}
        self._new |= {row_id: count - len(tail) + at for at, row_id in enumerate(tail)}
        self.count = count
        self.bottom = tail[-1]
        self.whole = len(self._new) == count
        self.solid = 0 if self.whole else count - len(tail)


class _Hashes:
    """A set of ids by their hashes: arrays with open addressing, at most two thirds of their places
    taken. The next array is as large as the list may yet be long, so that most lists need one,
    and none is ever built anew. (A set of Python's takes five times the memory.)"""

    def __init__(self) -> None:
        self._tables: list[array[int]] = []
        self._count = 0
        self._room = 0  # how many more the last array takes

    def __contains__(self, row_id: str) -> bool:
        return any(_find(table, [hash(row_id)]) for table in self._tables)

    def find(self, row_ids: list[str]) -> set[int]:
        """The positions of those that are there."""
        keys = list(map(hash, row_ids))
        return set[int]().union(*(_find(table, keys) for table in self._tables))

    def add(self, row_ids: list[str], expected: int = 0) -> set[int]:
        """Gives the positions of those that were there already. `expected` is how many there
        may be in all: a guess, trusted up to a point."""
        if self._room < len(row_ids):
            self._extend(len(row_ids), expected)
        keys = list(map(hash, row_ids))
        known: set[int] = set()
        for table in self._tables[:-1]:
            known |= _find(table, keys)
        known |= _put(self._tables[-1], keys, known)
        self._count += len(keys) - len(known)
        self._room -= len(keys)
        return known

    def _extend(self, least: int, expected: int) -> None:
        most = max(MANY_HASHES, 16 * self._count)
        self._room = max(4096, self._count, least, min(expected - self._count, most))
        self._tables.append(array("q", [0]) * (self._room * 3 // 2))


def _find(table: array[int], keys: list[int]) -> set[int]:
    """The positions of the keys that are in the table."""
    size = len(table)
    known: set[int] = set()
    for position, key in enumerate(keys):
        at = key % size
        while found := table[at]:
            if found == key:
                known.add(position)
                break
            at = at + 1 if at + 1 < size else 0
    return known


def _put(table: array[int], keys: list[int], but: set[int]) -> set[int]:
    """The same, and put the others there, but for those that are known to be elsewhere."""
    size = len(table)
    known: set[int] = set()
    for position, key in enumerate(keys):
        at = key % size
        while found := table[at]:
            if found == key:
                known.add(position)
                break
            at = at + 1 if at + 1 < size else 0
        else:
            if position not in but:
                table[at] = key
    return known
