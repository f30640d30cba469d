"""From the msgspec types to Arrow schemas: the tables that an export writes. Pure.

`nested="native"` keeps the transcript as a list of structs, for files; `"json"` as JSON text,
for databases. All other parts of a row are JSON columns, as the server sent them.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

import msgspec

from unpod_async._missing import needs
from unpod_async.models import Call, Organization, Run, Space, Task, Turn, Wire

from ._batch import IDENTITY, TABLES, TURNS

with needs("arrow", "pyarrow"):
    import pyarrow as pa

__all__ = [
    "IDENTITY",
    "KEPT",
    "ROWS",
    "TABLES",
    "TURNS",
    "Column",
    "Nested",
    "as_text",
    "chosen",
    "columns_of",
    "schema_of",
]

Nested = Literal["native", "json"]

TIME = pa.timestamp("us", "UTC")
ROWS: dict[str, Any] = {"tasks": Task, "runs": Run, "spaces": Space, "organizations": Organization}
"""The tables that have a row for each row of a list."""
KEPT = ("run_id", "modified_at", "settles_from", "row_hash")
"""Columns that every table of rows has, whatever was asked for: resuming needs them."""

TURNS_HASH = "turns_hash"
"""A column that is there when `output` is not, to tell changed conversations by."""


class Column(NamedTuple):
    """One column: its name, what it holds in Python's words, and where it comes from: a
    `slot` of the row, a field of its `call`, or one that is `computed`."""

    name: str
    hint: Any
    source: Literal["slot", "call", "computed"]
    read: str


def arrow_type(hint: Any, nested: Nested) -> pa.DataType:
    """The Arrow type of a Python type as the models use them; free-form parts are JSON."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    if NoneType in get_args(hint) and len(kinds) == 1:
        return arrow_type(kinds[0], nested)
    if hint == tuple[Turn, ...] and nested == "native":
        return pa.list_(pa.struct(turn_fields()))
    plain = {str: pa.string(), int: pa.int64(), float: pa.float64(), datetime: TIME}
    return plain[hint] if hint in plain else pa.json_()


@lru_cache
def turn_fields() -> tuple[pa.Field, ...]:
    return tuple(pa.field(name, arrow_type(hint, "native")) for name, hint in _turn_hints())


def _turn_hints() -> list[tuple[str, Any]]:
    return [(name, _returned(getattr(Turn, name).fget)) for name in ("role", "text", "at")]


def _returned(function: Any) -> Any:
    return get_type_hints(function)["return"]


def _wires(row: Any) -> list[Column]:
    """The public fields of a row type over their wire slots, in the order of the class."""
    found = [
        Column(name, _returned(wire._read), "slot", wire.slot)
        for name, wire in vars(row).items()
        if isinstance(wire, Wire) and name != "contact"
    ]
    identity = row._identity()
    return [Column(identity, str, "slot", identity), *found]


@lru_cache
def columns_of(table: str) -> tuple[Column, ...]:
    """The columns of a table of rows."""
    columns = _wires(ROWS[table])
    if table == "tasks":
        columns.append(Column("post_call_data", dict, "computed", "post_call_data"))
        columns += [
            Column(f"call_{f.name}" if f.name != "transcript" else f.name, f.type, "call", f.name)
            for f in msgspec.structs.fields(Call)
        ]
    columns.append(Column("extra", dict, "computed", "extra"))
    columns.append(Column("settles_from", datetime, "computed", "settles_from"))
    columns.append(Column("row_hash", int, "computed", "row_hash"))
    return tuple(columns)


@lru_cache
def chosen(table: str, names: tuple[str, ...] | None) -> tuple[Column, ...]:
    """The columns asked for, and those that are always kept; `row_hash` is the last. Raises
    ValueError with a name that there is not."""
    columns = columns_of(table)
    if names is None:
        return columns
    known = {column.name for column in columns} | {TURNS_HASH}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(unknown[0])
    wanted = {*names, IDENTITY[table], *KEPT}
    kept = [column for column in columns if column.name in wanted]
    if table == "tasks" and "output" not in wanted:  # nothing else speaks for all that was said
        kept.insert(-1, Column(TURNS_HASH, int, "computed", TURNS_HASH))
    return tuple(kept)


@lru_cache
def schema_of(table: str, nested: Nested, names: tuple[str, ...] | None = None) -> pa.Schema:
    """The Arrow schema of a table: `transcript_turns`, or one of `ROWS`, of which only the
    columns in `names` if they are given. Raises ValueError for a name that there is not."""
    if table == TURNS:
        turn = [field.with_nullable(True) for field in turn_fields()]
        return pa.schema(
            [
                pa.field("task_id", pa.string(), nullable=False),
                pa.field("index", pa.int64(), nullable=False),
                *turn,
            ]
        )
    return pa.schema(
        [
            pa.field(
                column.name,
                arrow_type(column.hint, nested),
                nullable=column.name != IDENTITY[table],
            )
            for column in chosen(table, names)
        ]
    )


def as_text(column: Any) -> Any:
    """An Arrow column, JSON as the text that it is."""
    is_json = isinstance(column.type, pa.BaseExtensionType)
    return column.cast(column.type.storage_type) if is_json else column
