"""What of a list is wanted: by the task's own `status` and `created`, and by known rows. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from unpod_async._call import BROKEN, moment

__all__ = ["OLD_ENOUGH", "Selection"]

OLD_ENOUGH = 500  # older rows in a row behind which no newer one is looked for


class _Task(Struct, gc=False):
    task_id: Any = None
    run_id: Any = None
    status: Any = None
    created: Any = None


class _Run(Struct, gc=False):
    run_id: Any = None
    status: Any = None
    created: Any = None


_READ: dict[str, msgspec.json.Decoder[Any]] = {
    "tasks": msgspec.json.Decoder(_Task),
    "runs": msgspec.json.Decoder(_Run),
}
_ID = {"tasks": "task_id", "runs": "run_id"}


def _read(kind: str, line: bytes) -> Any:
    try:
        return _READ[kind].decode(line)
    except BROKEN:  # half a surrogate pair somewhere: slower, but it reads that too
        try:
            row = json.loads(line)
        except BROKEN:  # an integer of more digits than Python reads: nothing is known of it
            row = {}
    made = _Task if kind == "tasks" else _Run
    return made(**{name: row.get(name) for name in made.__struct_fields__})


class Selection:
    """Which rows of a list are taken. It is shown all of them, in list order.

    `status`: the task's own, one of these. `since`: created then or later; a row without a
    readable time is taken. `until`: the ids of known rows, behind the first of which
    nothing is new. `among`: the ids of the only rows that are wanted; `met` is filled with
    those that came.
    """

    def __init__(
        self,
        kind: str,
        *,
        status: Collection[str] = (),
        since: datetime | None = None,
        until: Collection[str] = (),
        among: Collection[str] | None = None,
        met: set[str] | None = None,
    ) -> None:
        self._kind = kind
        self._status = frozenset(status)
        self._since = since
        self._until = frozenset(until)
        self._among = among if among is None else frozenset(among)
        self._met = set() if met is None else met
        self._older = 0
        self.through = False
        """Whether no more can come: known rows were met, or enough that are too old."""

    @property
    def is_all(self) -> bool:
        return not (self._status or self._since or self._until or self._among is not None)

    def takes(self, line: bytes) -> bool:
        row = _read(self._kind, line)
        name = getattr(row, _ID[self._kind])
        key = str(name) if isinstance(name, str | int) else ""
        if key in self._until:
            self.through = True
            return False
        if self._among is not None:
            if key not in self._among:
                return False
            self._met.add(key)
        return self._is_recent(row) and self._is_wanted(row.status)

    def _is_wanted(self, status: Any) -> bool:
        return not self._status or (isinstance(status, str) and status in self._status)

    def _is_recent(self, row: Any) -> bool:
        if self._since is None:
            return True
        created = moment(row.created)
        if created is None or created >= self._since:
            self._older = 0
            return True
        self._older += 1
        self.through = self._older >= OLD_ENOUGH
        return False
