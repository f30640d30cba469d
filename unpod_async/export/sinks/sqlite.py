"""SQLite: `x.sqlite`, `x.sqlite3`, `x.db`, `sqlite:PATH`.

JSON columns are TEXT, and times are text too: `2026-01-31 09:00:00.000000Z`, always as long,
so that they sort and SQLite's own date functions read them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import quote

from unpod_async._missing import needs
from unpod_async.export._schema import TIME, as_text
from unpod_async.export._state import Kind

from ._adbc import AdbcSink
from ._database import quoted
from ._database_file import DatabaseFile, FileDatabase
from ._targets import path_of

with needs("sqlite", "pyarrow", "adbc_driver_sqlite", "adbc_driver_manager"):
    import pyarrow as pa
    from adbc_driver_sqlite import dbapi

__all__ = ["make"]

_AT_ONCE = 2_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def make(target: str, kind: Kind, columns: tuple[str, ...] | None) -> AdbcSink:
    return AdbcSink(SQLite(path_of(target, "sqlite")), kind, columns)


class SQLite(FileDatabase):
    types: ClassVar = {
        pa.string(): "TEXT",
        pa.json_(): "TEXT",
        pa.int64(): "INTEGER",
        pa.float64(): "REAL",
        TIME: "TEXT",
    }
    called: ClassVar = "SQLite"
    others_sql: ClassVar = (
        "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') "
        "AND name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY 1 LIMIT 3"
    )
    names_columns: ClassVar = True

    def __init__(self, path: str) -> None:
        file = DatabaseFile(
            path,
            beside=("-journal", "-wal", "-shm"),
            empty=lambda: b"",
            is_ours=lambda head: head.startswith(b"SQLite format 3\0"),
        )
        super().__init__(file)

    def connect(self, *, read_only: bool = False) -> Any:
        self._file.check_closed()
        return dbapi.connect(self._url("ro" if read_only else "rw"), autocommit=True)

    def _url(self, mode: str) -> str:
        return f"file:{quote(self.target)}?mode={mode}"

    def settle(self, cursor: Any) -> None:
        for setting in ("synchronous = FULL", "cache_size = -65536", "temp_store = MEMORY"):
            cursor.execute(f"PRAGMA {setting}")
        super().settle(cursor)

    def columns_of(self, table: str) -> str:
        return f"SELECT name, type FROM pragma_table_info('{table}')"

    def indexes_of(self, table: str) -> str:
        return f"SELECT name FROM pragma_index_list('{table}')"

    def held(self, rows: pa.Table) -> pa.Table:
        columns = []
        for column in map(as_text, rows.columns):
            is_time = pa.types.is_timestamp(column.type)
            columns.append(column.cast(pa.string()) if is_time else column)
        return pa.Table.from_arrays(columns, names=rows.schema.names)

    def moment(self, moment: pa.Array) -> str:
        return f"'{moment.cast(pa.string())[0].as_py()}'"

    def rows(self, cursor: Any, table: str, fields: pa.Schema) -> Iterator[tuple[Any, ...]]:
        """By the module of Python: the driver guesses a column's type from its first values. To
        close its connection drops the driver's locks, of which there are none by then."""
        del cursor
        times = [at for at, field in enumerate(fields) if pa.types.is_timestamp(field.type)]
        names = ", ".join(map(quoted, fields.names))
        with closing(sqlite3.connect(self._url("ro"), uri=True)) as link:
            for row in link.execute(f"SELECT {names} FROM {table}"):
                yield _timed(row, times) if times else row

    def errors(self) -> tuple[type[Exception], ...]:
        return (*super().errors(), sqlite3.Error)

    def refusal(self, error: Exception) -> str | None:
        text = str(error)
        if "is locked" in text:
            return "another program is writing to it"
        if "is not a database" in text:
            return "it is no SQLite database"
        if "readonly database" in text or "unable to open" in text:
            return "it cannot be written to"
        return None

    def harmless(self, text: str) -> str:
        return super().harmless(text.partition("\nquery")[0])


def _timed(row: tuple[Any, ...], times: list[int]) -> tuple[Any, ...]:
    """The row with its times as microseconds; what is no time stays, and is found different."""
    values = list(row)
    for at in times:
        if isinstance(value := values[at], str):
            try:
                delta = datetime.fromisoformat(value) - _EPOCH
            except (ValueError, TypeError):
                continue
            values[at] = (delta.days * 86400 + delta.seconds) * 1_000_000 + delta.microseconds
    return tuple(values)
