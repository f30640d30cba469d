"""Which rows some parts hold: 20 bytes a row, whatever its id. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator

from unpod_async._seen import _Hashes

__all__ = ["Index"]


class Index:
    """The ids of the rows in some parts, by their hashes. It says where a row may be, never where
    it is not: of what it finds the part itself has to be asked."""

    def __init__(self) -> None:
        self._all = _Hashes()
        self._parts: dict[str, array[int]] = {}

    def __contains__(self, part: str) -> bool:
        return part in self._parts

    def put(self, part: str, ids: list[str]) -> None:
        """These rows are in a part."""
        self._parts.setdefault(part, array("q")).extend(map(hash, ids))
        if ids:
            self._all.add(ids)

    def hits(self, ids: list[str]) -> dict[str, int]:
        """Those that may be there, with their positions."""
        return {ids[at]: at for at in sorted(self._all.find(ids))}

    def places(self, ids: Collection[str]) -> Iterator[tuple[str, set[str]]]:
        """The parts, from the last to the first, with those of the ids that may be in them.
        Ends early if meanwhile all ids are taken out of the collection."""
        hashes = set(map(hash, ids))
        for part, there in reversed(list(self._parts.items())):
            if not ids:
                return
            if found := hashes.intersection(there):
                yield part, {row_id for row_id in ids if hash(row_id) in found}

    def moved(self, part: str, to: str | None) -> None:
        """The rows of a part that stay are in another now, or there are none."""
        hashes = self._parts.pop(part)
        if to is not None:
            self._parts[to] = hashes
