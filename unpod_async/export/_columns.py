"""Rows as columns: the record batches of the tables. Pure.

No dict and no object is made for a row but what the models make: columns are lists, and the
turns of all transcripts are three flat lists and the offsets between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from hashlib import sha256
from itertools import accumulate, chain, pairwise
from operator import attrgetter
from struct import unpack
from types import NoneType
from typing import Any

import msgspec
from msgspec import Raw, Struct, UnsetType

from unpod_async._call import moment, role
from unpod_async._missing import needs
from unpod_async._pages import _Odd
from unpod_async.models import _OBJECT, Call, Turn, _as_text, _as_whole

from ._batch import (
    _PACKED,
    IDENTITY,
    TURNS,
    evaluation_of,
    json_text,
    row_hash,
    settles_from,
    task_settles,
)
from ._schema import TIME, Column, Nested, chosen, schema_of, turn_fields

with needs("arrow", "pyarrow"):
    import pyarrow as pa
    import pyarrow.compute as pc

__all__ = ["STEP", "joined", "tables_of"]


STEP = 500
"""Rows at once: the objects on the way to arrays weigh more than the rows, and one call into C
keeps all threads from running, the event loop's too."""


def joined(made: list[dict[str, pa.RecordBatch]]) -> dict[str, pa.Table]:
    """The tables of some rows behind those of others, not copied."""
    return {name: pa.Table.from_batches([some[name] for some in made]) for name in made[0]}


def tables_of(
    kind: str, items: list[Any], nested: Nested, columns: tuple[str, ...] | None = None
) -> dict[str, pa.RecordBatch]:
    """What `Batch.tables` gives of no more than `STEP` rows, each with another id."""
    those = chosen(kind, columns)
    schema = schema_of(kind, nested, columns)
    if kind != "tasks":
        return {kind: _batch(schema, _values(kind, items, [], those), those)}
    calls = [task.call for task in items]
    turns = _Turns([call.transcript for call in calls])
    values = _values(kind, items, calls, those)
    del calls  # they hold an object for each turn
    arrays: dict[str, pa.Array] = {}
    if "transcript" in schema.names:
        if nested == "native":
            arrays["transcript"] = turns.native()
        else:
            values["transcript"] = turns.as_json()
    if "turns_hash" in schema.names:
        values["turns_hash"] = turns.hashes()
    said = turns.table(list(map(attrgetter(IDENTITY[kind]), items)))
    del turns
    return {kind: _batch(schema, values, those, arrays), TURNS: said}


def _values(
    kind: str, items: list[Any], calls: list[Call], columns: Iterable[Column]
) -> dict[str, list[Any]]:
    """The columns as lists, but for the transcript and the hash."""
    values: dict[str, list[Any]] = {}
    for column in columns:
        if column.source == "slot":
            values[column.name] = _slot_values(items, column)
        elif column.source == "call" and column.name != "transcript":
            values[column.name] = list(map(attrgetter(column.read), calls))
    return values | _computed(kind, items, calls)


def _batch(
    schema: pa.Schema,
    values: dict[str, list[Any]],
    columns: Iterable[Column],
    arrays: dict[str, pa.Array] | None = None,
) -> pa.RecordBatch:
    """Of these values, which are used up: a list goes when its array is there. `arrays` are
    columns that are arrays already."""
    arrays = dict(arrays or {})
    times = [field.name for field in schema if field.type == TIME]
    arrays |= {name: _times(values[name]) for name in times}
    arrays["row_hash"] = _row_hashes(values, arrays, columns)
    for field in schema:
        if field.name not in arrays:
            arrays[field.name] = _array(values.pop(field.name), field.type)
    return pa.RecordBatch.from_arrays([arrays[name] for name in schema.names], schema=schema)


def _computed(kind: str, items: list[Any], calls: list[Call]) -> dict[str, list[Any]]:
    """The columns that no single slot gives."""
    values: dict[str, list[Any]] = {"extra": _extras(items)}
    if kind == "tasks":
        values["post_call_data"] = evaluations = list(map(evaluation_of, items))
        values["settles_from"] = list(map(task_settles, items, evaluations, calls))
    else:
        values["settles_from"] = list(map(settles_from, items))
    return values


class _Said(Struct, gc=False):
    """A turn as JSON text has it."""

    role: str
    text: str
    at: datetime | None


class _Turns:
    """The turns of some transcripts, one behind the other."""

    def __init__(self, transcripts: list[tuple[Turn, ...]]) -> None:
        self._offsets = list(accumulate(map(len, transcripts), initial=0))
        self._turns = turns = list(chain.from_iterable(transcripts))
        # Past the properties where the usual is there: a call each costs more than all else.
        self._role = _each_once(role, map(attrgetter("_role"), turns))
        self._text = [
            text if type(text) is str and text else turn.text
            for text, turn in zip(map(attrgetter("_text"), turns), turns, strict=True)
        ]

    @cached_property
    def _at(self) -> list[datetime | None]:
        return [turn.at for turn in self._turns]

    @cached_property
    def _arrays(self) -> list[pa.Array]:
        has_two = any(map(attrgetter("_time"), self._turns))
        at = self._at if has_two else list(map(attrgetter("_at"), self._turns))
        return [_made(self._role, pa.string()), _made(self._text, pa.string()), _times(at)]

    @cached_property
    def _starts(self) -> pa.Array:
        return pa.array(self._offsets, pa.int32())

    def native(self) -> pa.Array:
        """A list of structs for each transcript."""
        structs = pa.StructArray.from_arrays(self._arrays, fields=list(turn_fields()))
        type_ = pa.list_(pa.struct(turn_fields()))
        return pa.ListArray.from_arrays(self._starts, structs, type=type_)

    def hashes(self) -> list[int]:
        """64 bits for each transcript."""
        said = list(zip(self._role, self._text, self._at, strict=True))
        return [
            row_hash(map(str, chain.from_iterable(said[first:last])))
            for first, last in pairwise(self._offsets)
        ]

    def as_json(self) -> list[str | None]:
        """JSON text for each transcript, None for an empty one."""
        said = list(map(_Said, self._role, self._text, self._at))
        return [
            _SAID.encode(said[first:last]).decode() if first < last else None
            for first, last in pairwise(self._offsets)
        ]

    def table(self, ids: list[str]) -> pa.RecordBatch:
        """A row for each turn."""
        count = len(self._text)
        task = pc.list_parent_indices(pa.ListArray.from_arrays(self._starts, pa.nulls(count)))
        first = self._starts.take(task).cast(pa.int64())
        arrays = [
            pc.take(_made(ids, pa.string()), task, memory_pool=_POOL),
            pc.subtract(_made(range(count), pa.int64()), first, memory_pool=_POOL),
            *self._arrays,
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=schema_of(TURNS, "json"))


_SAID = msgspec.json.Encoder()


def _each_once(rule: Callable[[Any], Any], sent: Iterable[Any]) -> list[Any]:
    """What the rule makes of each value, asked once for those that are equal."""
    sent = list(sent)
    if not set(map(type, sent)) <= _PLAIN:  # 1 and True are equal too, a list has no hash
        return list(map(rule, sent))
    made = {value: rule(value) for value in set(sent)}
    return list(map(made.__getitem__, sent))


_PLAIN = {str, NoneType}


def _times(sent: list[Any]) -> pa.Array:
    """Times as they are, and what `moment` makes of all else; of texts written alike at once."""
    kinds = set(map(type, sent))
    if kinds <= _PLAIN:
        has_zone = _ZONE.intersection(next(filter(None, sent), "")[10:])
        with suppress(ValueError):
            texts = _made(sent, pa.string())
            made = texts.cast(TIME) if has_zone else texts.cast(pa.timestamp("us")).cast(TIME)
            first, last = pc.min_max(made.cast(pa.int64())).as_py().values()
            if first is None or (first >= _FIRST and last <= _LAST):
                return made
    return _made([one if type(one) is datetime else moment(one) for one in sent], TIME)


_ZONE = frozenset("Z+-")
_FIRST = pa.scalar("0001-01-02").cast(pa.timestamp("us")).value  # its zone may be of the year 0
_LAST = pa.scalar("9999-12-31 23:59:59.999999").cast(pa.timestamp("us")).value
"""What Python has of the microseconds; Arrow has more."""


def _slot_values(items: list[Any], column: Column) -> list[Any]:
    if column.name == "objective":
        return [item.objective for item in items]
    sent = list(map(attrgetter(column.read), items))
    kinds = set(map(type, sent))
    if kinds <= _ABSENT:
        return [None] * len(sent)
    if column.hint in (str, str | None):
        return sent if kinds == {str} else list(map(_as_text, sent))
    if column.hint == int | None:
        return list(map(_as_whole, sent))
    if column.hint == datetime | None:
        return sent  # `_times` reads them
    if kinds == {Raw}:  # as `json_text`, without a call each
        return [None if (t := str(raw, "utf-8", "replace")) == "null" else t for raw in sent]
    return list(map(json_text, sent))


_ABSENT = {UnsetType, NoneType}


def _extras(items: list[Any]) -> list[str | None]:
    """Of each: keys that we do not know, and known ones whose value no column could take."""
    types: set[Any] = set(map(type, items))
    slots = {slot for one in types for slot in _COUNTS if slot in one.__struct_fields__}
    if any(issubclass(one, _Odd) for one in types) or not all(
        _are_counts(list(map(attrgetter(slot), items))) for slot in slots
    ):
        return list(map(_extra, items))
    return [None] * len(items)


def _are_counts(sent: list[Any]) -> bool:
    kinds = set(map(type, sent))
    return kinds <= _ABSENT or (kinds == {int} and min(sent) >= 0 and max(sent) < 1 << 63)


def _extra(item: Any) -> str | None:
    if not isinstance(item, _Odd):
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


def _row_hashes(
    values: dict[str, list[Any]], arrays: dict[str, pa.Array], columns: Iterable[Column]
) -> pa.Array:
    """The `row_hash` of each row, column by column: a time as the microseconds of its array."""
    hashed = [
        arrays[name].cast(pa.int64()).to_pylist() if name in arrays else values[name]
        for name in (column.name for column in columns)
        if name in values
    ]
    buffer = bytearray()
    digests = bytearray()
    for row in zip(*hashed, strict=True):
        _PACKED.encode_into(row, buffer)
        digests += sha256(buffer).digest()[:8]
    return _made(unpack(f">{len(digests) // 8}q", digests), pa.int64())


def _array(values: list[Any], type_: pa.DataType) -> pa.Array:
    storage = type_.storage_type if isinstance(type_, pa.BaseExtensionType) else type_
    made = _made(values, storage)
    return pa.ExtensionArray.from_storage(type_, made) if storage is not type_ else made


_POOL = pa.system_memory_pool()
"""For what is made here. Arrow's own allocator asks the kernel for pages of 2 MB, and to have them
cleared is a tenth of the work."""


def _made(values: Any, type_: pa.DataType) -> pa.Array:
    return pa.array(values, type_, memory_pool=_POOL)
