"""Rows as columns: a batch of them, decoded once, as the record batches of its tables. Pure.

No dict and no object is made for a row but what the models make: columns are lists, and the
turns of all transcripts are three flat lists and the offsets between them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import accumulate, chain, pairwise, repeat
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Raw, Struct

from unpod_async._call import BROKEN, role
from unpod_async._missing import needs
from unpod_async._pages import ORGANIZATIONS, RUNS, SPACES, TASKS, RowKind
from unpod_async.models import _OBJECT, Call, Task, Turn, _as_text, _as_whole

from ._schema import IDENTITY, TURNS, Column, Nested, chosen, schema_of, turn_fields

with needs("arrow", "pyarrow"):
    import pyarrow as pa

__all__ = ["NEVER", "Batch", "row_hash", "table_of"]

KINDS: dict[str, RowKind[Any]] = {kind.name: kind for kind in (TASKS, RUNS, SPACES, ORGANIZATIONS)}
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
    and of equals the one that came later. `columns` narrows the tables, not the rows.
    """

    def __init__(
        self, kind: str, lines: Sequence[bytes], columns: tuple[str, ...] | None = None
    ) -> None:
        self.kind = kind
        self._columns = columns
        self._lines: Sequence[bytes] = lines
        self._decoded: list[Any] | None = None
        self.mended = False
        """Whether the tables have U+FFFD for half a surrogate pair; known once decoded."""

    @classmethod
    def of(cls, kind: str, items: Iterable[Any], columns: tuple[str, ...] | None = None) -> Batch:
        made = cls(kind, (), columns)
        made._decoded = list(items)
        return made

    def __len__(self) -> int:
        return len(self._decoded or self._lines)

    @cached_property
    def _kept(self) -> tuple[list[Any], list[bytes]]:
        """The rows, decoded and as lines, without the repeated ones."""
        decoded = self._decoded
        lines: Sequence[bytes] = self._lines
        if decoded is None:
            page = KINDS[self.kind].decode(b'{"data":[' + b",".join(lines) + b"]}")
            decoded, self.mended = page.items, page.mended
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
        return list(map(attrgetter(IDENTITY[self.kind]), self.items))

    def tables(self, nested: Nested) -> dict[str, pa.RecordBatch]:
        """The record batches of the tables, by name: for tasks `tasks` and `transcript_turns`
        (in the order of tasks and turns), else the one of the rows."""
        if self.kind != "tasks":
            return {self.kind: self._rows([], None, nested)}
        calls = [task.call for task in self.items]
        turns = _Turns([call.transcript for call in calls])
        return {self.kind: self._rows(calls, turns, nested), TURNS: turns.table(self.ids)}

    def _rows(self, calls: list[Call], turns: _Turns | None, nested: Nested) -> pa.RecordBatch:
        columns = chosen(self.kind, self._columns)
        schema = schema_of(self.kind, nested, self._columns)
        values: dict[str, list[Any]] = {}
        for column in columns:
            if column.name == "transcript" and turns is not None:
                values[column.name] = turns.as_json() if nested == "json" else []
            elif column.source == "slot":
                values[column.name] = _slot_values(self.items, column)
            elif column.source == "call":
                values[column.name] = list(map(attrgetter(column.read), calls))
        self._compute(values, calls)
        values["row_hash"] = _row_hashes(values, columns)
        arrays = [
            turns.native()
            if column.name == "transcript" and turns is not None and nested == "native"
            else _array(values[column.name], field.type)
            for column, field in zip(columns, schema, strict=True)
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _compute(self, values: dict[str, list[Any]], calls: list[Call]) -> None:
        """The columns that no single slot gives."""
        values["extra"] = [_extra(item) for item in self.items]
        if self.kind == "tasks":
            evaluations = list(map(_evaluation, self.items))
            values["post_call_data"] = evaluations
            values["settles_from"] = list(map(_task_settles, self.items, calls, evaluations))
        else:
            values["settles_from"] = [_run_settles(item) for item in self.items]


class _Said(Struct, gc=False):
    """A turn as JSON text has it."""

    role: str
    text: str
    at: datetime | None


class _Turns:
    """The turns of some transcripts, one behind the other."""

    def __init__(self, transcripts: list[tuple[Turn, ...]]) -> None:
        self._lengths = list(map(len, transcripts))
        self._offsets = list(accumulate(self._lengths, initial=0))
        turns = list(chain.from_iterable(transcripts))
        # Past the properties where the usual is there: a call each costs more than all else.
        self._role = list(map(role, map(attrgetter("_role"), turns)))
        self._text = [
            text if type(text) is str and text else turn.text
            for text, turn in zip(map(attrgetter("_text"), turns), turns, strict=True)
        ]
        self._at = [
            None if at is None and time is None else turn.at
            for (at, time), turn in zip(map(attrgetter("_at", "_time"), turns), turns, strict=True)
        ]

    def _arrays(self) -> list[pa.Array]:
        values = (self._role, self._text, self._at)
        return [pa.array(v, field.type) for v, field in zip(values, turn_fields(), strict=True)]

    def native(self) -> pa.Array:
        """A list of structs for each transcript."""
        structs = pa.StructArray.from_arrays(self._arrays(), fields=turn_fields())
        type_ = pa.list_(pa.struct(turn_fields()))
        return pa.ListArray.from_arrays(pa.array(self._offsets, pa.int32()), structs, type=type_)

    def as_json(self) -> list[str | None]:
        """JSON text for each transcript, None for an empty one."""
        said = list(map(_Said, self._role, self._text, self._at))
        return [
            _SAID.encode(said[first:last]).decode() if first < last else None
            for first, last in pairwise(self._offsets)
        ]

    def table(self, ids: list[str]) -> pa.RecordBatch:
        """A row for each turn."""
        tasks = chain.from_iterable(map(repeat, ids, self._lengths))
        index = chain.from_iterable(map(range, self._lengths))
        arrays = [
            pa.array(list(tasks), pa.string()),
            pa.array(list(index), pa.int64()),
            *self._arrays(),
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=schema_of(TURNS, "json"))


_SAID = msgspec.json.Encoder()


def table_of(kind: str, batches: Iterable[Batch], nested: Nested = "native") -> pa.Table:
    """The rows of some batches as one Arrow table."""
    schema = schema_of(kind, nested)
    return pa.Table.from_batches((batch.tables(nested)[kind] for batch in batches), schema=schema)


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


# -- values


def _slot_values(items: list[Any], column: Column) -> list[Any]:
    sent = map(attrgetter(column.read), items)
    if column.hint in (str, str | None):
        if column.name == "objective":
            return [item.objective for item in items]
        return [value if type(value) is str else _as_text(value) for value in sent]
    if column.hint == int | None:
        return [_as_whole(value) for value in sent]
    if column.hint == datetime | None:
        return list(map(attrgetter(column.name), items))
    return [_json_text(value) for value in sent]


def _json_text(sent: Any) -> str | None:
    """A part as sent; None if it is absent or null."""
    if not isinstance(sent, Raw):
        return None if sent is None or sent is msgspec.UNSET else msgspec.json.encode(sent).decode()
    text = str(memoryview(sent), "utf-8", "replace")
    return None if text == "null" else text


class _Evaluated(Struct, gc=False):
    post_call_data: Raw = Raw(b"null")


_EVALUATED = msgspec.json.Decoder(_Evaluated)


def _evaluation(task: Task) -> str | None:
    """`output.post_call_data` as sent; None if there is none."""
    if not isinstance(task._output, Raw):
        return None
    try:
        return _json_text(_EVALUATED.decode(task._output).post_call_data)
    except BROKEN:
        return None


def _task_settles(task: Task, call: Call, evaluation: str | None) -> datetime | None:
    """None for a row that changes no more; NEVER for one that has not ended; else the time
    from which on it is waited for its evaluation."""
    if task.status not in TERMINAL:
        return NEVER
    if evaluation not in (None, "{}", '""', "[]"):
        return None
    return call.ended_at or task.modified_at or task.created_at


def _run_settles(run: Any) -> datetime | None:
    return NEVER if getattr(run, "status", None) not in TERMINAL else None


def _extra(item: Any) -> str | None:
    """Keys that we do not know, and known ones whose value no column could take."""
    if not hasattr(item, "_row"):  # not one of the odd rows
        return _oversized(item)
    kept = {
        key: raw
        for key, raw in _OBJECT.decode(item._row).items()
        if bytes(raw) != b"null" and not _is_held(item, key)
    }
    return msgspec.json.encode(kept).decode("utf-8", "replace") if kept else None


def _is_held(item: Any, key: str) -> bool:
    """Whether a public field shows the value of this wire key."""
    names = dict(zip(item.__struct_encode_fields__, item.__struct_fields__, strict=True))
    if (slot := names.get(key)) is None:
        return False
    value = getattr(item, slot)
    if isinstance(value, Raw):
        return True
    is_count = slot in _COUNTS
    return value is not msgspec.UNSET and (not is_count or _as_whole(value) is not None)


_COUNTS = ("_failure_count", "_retry_attempt", "_batch_count")


def _oversized(item: Any) -> str | None:
    """Of a usual row only a count can be what its column does not take: a word, or too large."""
    lost = {}
    for slot in _COUNTS:
        value = getattr(item, slot, None)
        if isinstance(value, str | int) and value != "" and _as_whole(value) is None:
            lost[slot[1:]] = value
    return msgspec.json.encode(lost).decode() if lost else None


def row_hash(values: Iterable[Any]) -> int:
    """64 bits that stand for the values of a row, in the order of its columns, `row_hash` and
    a transcript that is no text left out: texts, numbers, None and aware times."""
    plain = [
        (value - _EPOCH) // _MICROSECOND if type(value) is datetime else value for value in values
    ]
    digest = _blake2b(_PACKED.encode(plain), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


_PACKED = msgspec.msgpack.Encoder()
_blake2b = hashlib.blake2b


def _row_hashes(values: dict[str, list[Any]], columns: Iterable[Column]) -> list[int]:
    hashed = [values[column.name] for column in columns if column.name != "row_hash"]
    return list(map(row_hash, zip(*filter(None, hashed), strict=True)))


# -- arrays


def _array(values: list[Any], type_: pa.DataType) -> pa.Array:
    storage = type_.storage_type if isinstance(type_, pa.BaseExtensionType) else type_
    made = pa.array(values, storage)
    return pa.ExtensionArray.from_storage(type_, made) if storage is not type_ else made
