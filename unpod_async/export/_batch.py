"""Some rows of a list as an export takes them: decoded once, each id once, and from when on a
row changes no more. Pure, and needs nothing but the core.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import sha256
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw, Struct

from unpod_async._call import BROKEN
from unpod_async._pages import ORGANIZATIONS, RUNS, SPACES, TASKS, RowKind
from unpod_async.models import Call, Task

if TYPE_CHECKING:
    import pyarrow as pa

    from ._schema import Nested

__all__ = ["IDENTITY", "NEVER", "TABLES", "TURNS", "Batch", "row_hash", "settles_from"]

KINDS: dict[str, RowKind[Any]] = {kind.name: kind for kind in (TASKS, RUNS, SPACES, ORGANIZATIONS)}
TURNS = "transcript_turns"
TABLES = {"tasks": ("tasks", TURNS), "runs": ("runs",)}
"""What an export of tasks or runs fills."""
IDENTITY = {name: kind.identity for name, kind in KINDS.items()} | {TURNS: "task_id"}
"""The column that tells the rows of a table apart (a turn also has its `index`)."""
TERMINAL = frozenset({"completed", "failed", "cancelled", "canceled", "partially_completed"})
"""Statuses behind which no other comes."""
NEVER = datetime(9999, 1, 1, tzinfo=UTC)
"""`settles_from` of a row that has not ended yet."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Batch:
    """Some rows of one kind, in the order of the list.

    Made from rows as the server sent them (`Batch(kind, lines)`) or from decoded ones
    (`Batch.of(kind, items)`). An id that is there twice counts once: the later `modified` stays,
    and of equals the one that came later. `columns` narrows the tables, not the rows. `distinct`
    says that no other batch with this mark has a row of it: they are what one walk gives to a sink
    between its `open` and its `close`.
    """

    def __init__(
        self,
        kind: str,
        lines: Sequence[bytes],
        columns: tuple[str, ...] | None = None,
        *,
        distinct: bool = False,
    ) -> None:
        self.kind = kind
        self._columns = columns
        self.is_distinct = distinct
        self._lines: Sequence[bytes] = lines
        self._decoded: list[Any] | None = None
        self._count = len(lines)
        self._is_bare = False
        self._ids: list[str] | None = None
        self._tables: dict[str, dict[str, pa.Table]] = {}
        self.mended = False
        """Whether the tables have U+FFFD for half a surrogate pair; known once decoded."""

    @classmethod
    def of(cls, kind: str, items: Iterable[Any], columns: tuple[str, ...] | None = None) -> Batch:
        made = cls(kind, (), columns)
        made._decoded = list(items)
        made._count = len(made._decoded)
        return made

    def __len__(self) -> int:
        """With the repeated ones."""
        return self._count

    def _decode(self, first: int = 0, last: int | None = None) -> list[Any]:
        if self._is_bare:  # no rows would look like an export of none
            raise RuntimeError("the rows of this batch were let go")
        if self._decoded is not None:
            return self._decoded[first:last]
        # Line by line: one call for many would keep all threads from running meanwhile.
        decode = KINDS[self.kind].decode_line
        pairs = [decode(line) for line in self._lines[first:last]]
        self.mended |= any(mended for _, mended in pairs)
        return [item for item, _ in pairs]

    @cached_property
    def _kept(self) -> tuple[list[Any], list[bytes]]:
        """The rows, decoded and as lines, without the repeated ones."""
        decoded, lines = self._decode(), self._lines
        keep = _newest(decoded, IDENTITY[self.kind])
        if len(keep) < len(decoded):
            decoded = [decoded[at] for at in keep]
            lines = [lines[at] for at in keep] if lines else lines
        return decoded, list(lines)

    @property
    def items(self) -> list[Any]:
        """The rows as `Task`s or `Run`s, each once."""
        return self._kept[0]

    @property
    def lines(self) -> list[bytes]:
        """The same as the server sent them, each on one line (without its end)."""
        items, lines = self._kept
        return lines or [item.to_json() for item in items]

    @property
    def ids(self) -> list[str]:
        if self._ids is None:
            self._ids = list(map(attrgetter(IDENTITY[self.kind]), self.items))
        return self._ids

    def tables(self, nested: Nested) -> dict[str, pa.Table]:
        """The rows as Arrow tables, by name: for tasks `tasks` and `transcript_turns` (in the
        order of tasks and turns), else the one of the rows. Needs the extra `arrow`."""
        if nested not in self._tables:
            self._tables[nested] = self._made(nested)
        return self._tables[nested]

    def _made(self, nested: Nested) -> dict[str, pa.Table]:
        """Some rows after the others, so that they need not all be decoded at once: unless an
        id is there twice, which shows at the end."""
        from ._columns import STEP, joined, tables_of

        if self._ids is None:
            identity = attrgetter(IDENTITY[self.kind])
            ids: list[str] = []
            made = []
            for first in range(0, len(self), STEP):
                items = self._decode(first, first + STEP)
                ids += map(identity, items)
                made.append(tables_of(self.kind, items, nested, self._columns))
            if made and len(set(ids)) == len(ids):
                self._ids = ids
                return joined(made)
        items = self.items
        steps = [items[first : first + STEP] for first in range(0, max(1, len(items)), STEP)]
        return joined([tables_of(self.kind, step, nested, self._columns) for step in steps])

    def forget_rows(self) -> None:
        """From now on there are only the tables that were made, and the ids."""
        self._ids = self.ids
        self.__dict__.pop("_kept", None)
        self._lines, self._decoded, self._is_bare = (), None, True


def _newest(items: list[Any], identity: str) -> list[int]:
    """The positions of the rows that stay if each id may be there once."""
    places: dict[str, int] = {}
    for at, row_id in enumerate(map(attrgetter(identity), items)):
        before = places.get(row_id)
        if before is None or not _is_older(items[at], items[before]):
            places[row_id] = at
    return sorted(places.values())


def _is_older(row: Any, other: Any) -> bool:
    mine, its = getattr(row, "modified_at", None), getattr(other, "modified_at", None)
    return mine is not None and its is not None and mine < its


# -- when a row settles


def json_text(sent: Any) -> str | None:
    """A part as sent; None if it is absent or null."""
    if not isinstance(sent, Raw):
        return None if sent is None or sent is msgspec.UNSET else msgspec.json.encode(sent).decode()
    text = str(memoryview(sent), "utf-8", "replace")
    return None if text == "null" else text


class _Evaluated(Struct, gc=False):
    post_call_data: Raw = Raw(b"null")


_EVALUATED = msgspec.json.Decoder(_Evaluated)


def evaluation_of(task: Task) -> str | None:
    """`output.post_call_data` as sent; None if there is none."""
    if not isinstance(task._output, Raw):
        return None
    try:
        return json_text(_EVALUATED.decode(task._output).post_call_data)
    except BROKEN:
        return None


def settles_from(item: Any) -> datetime | None:
    """None for a row that changes no more; NEVER for one that has not ended; else the time from
    which on it is waited for its evaluation."""
    if isinstance(item, Task):
        return task_settles(item, evaluation_of(item))
    return NEVER if getattr(item, "status", None) not in TERMINAL else None


def task_settles(task: Task, evaluation: str | None, call: Call | None = None) -> datetime | None:
    if task.status not in TERMINAL:
        return NEVER
    if evaluation not in (None, "{}", '""', "[]"):
        return None
    return (call or task.call).ended_at or task.modified_at or task.created_at


# -- what a row says, in 64 bits


def row_hash(values: Iterable[Any]) -> int:
    """64 bits that stand for the values of a row, in the order of its columns, `row_hash` and
    a transcript that is no text left out: texts, numbers, None and aware times."""
    plain = [
        (value - _EPOCH) // _MICROSECOND if type(value) is datetime else value for value in values
    ]
    return int.from_bytes(sha256(_PACKED.encode(plain)).digest()[:8], "big", signed=True)


_PACKED = msgspec.msgpack.Encoder()
