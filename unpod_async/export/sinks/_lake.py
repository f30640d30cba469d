"""What the rows and the commits of Delta tables are made of. Pure."""

from __future__ import annotations

from typing import Any

from unpod_async._missing import needs
from unpod_async.export._schema import schema_of
from unpod_async.export._state import Kind, State

with needs("delta", "pyarrow", "deltalake"):
    import pyarrow as pa
    from deltalake import CommitProperties, Transaction

__all__ = [
    "APP",
    "NUMBER",
    "json_of",
    "marked",
    "set_of",
    "stored_schema",
    "taken_at",
]

APP = "unpod_async"
NUMBER = "unpod.number"


def json_of(state: State) -> str:
    return state.as_json().decode()


def marked(number: int, kept: dict[str, str], *, is_write: bool = False) -> CommitProperties:
    """What a commit of ours carries. Of two writes with one number the second fails."""
    return CommitProperties(
        custom_metadata={NUMBER: str(number), **kept},
        app_transactions=[Transaction(APP, number)] if is_write else None,
    )


def stored_schema(name: str, kind: Kind, columns: tuple[str, ...] | None) -> pa.Schema:
    """JSON as text: Delta has no type for it."""
    schema = schema_of(name, "json", columns if name == kind else None)
    return pa.schema(
        [field.with_type(pa.string()) if field.type == pa.json_() else field for field in schema]
    )


def set_of(ids: Any) -> pa.Array:
    return pa.array(ids.to_pylist(), pa.string())


def taken_at(column: Any, places: list[int]) -> Any:
    return column.take(pa.array(places, pa.int64()))
