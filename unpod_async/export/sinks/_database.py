"""What a database is to `_adbc`: how it is reached, what it calls things, what its errors say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from unpod_async._missing import needs
from unpod_async._secrets import safe_text
from unpod_async.errors import ConfigurationError, ExportError, UnpodError
from unpod_async.export._schema import as_text

with needs("arrow", "pyarrow"):
    import pyarrow as pa

__all__ = ["Database", "harmless", "plain", "portions", "quoted"]

PORTION = 32 << 20


def quoted(name: str) -> str:
    return f'"{name}"'


def portions(rows: pa.Table) -> Iterator[pa.Table]:
    """Some rows after the other, together `PORTION` bytes: DuckDB keeps in memory what a
    statement updates, and a few rows can be very long."""
    step = max(1, len(rows) * PORTION // max(rows.nbytes, 1))
    for first in range(0, len(rows), step):
        yield rows.slice(first, step)


def plain(rows: Any) -> Any:
    """A table or a record batch, JSON columns as text, times as microseconds: what `row_hash`
    is made of."""
    columns = []
    for column in map(as_text, rows.columns):
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
        columns.append(column)
    return type(rows).from_arrays(columns, names=rows.schema.names)


class Database:
    """One database. `target` says where, without a password."""

    types: ClassVar[dict[pa.DataType, str]]
    names_columns: ClassVar[bool]
    """Whether the driver appends by the columns' names, not by their order."""
    has_keys: ClassVar[bool] = True
    """Whether the tables of rows have a primary key; else nobody but the export may write to them
    while it runs."""
    target: str

    # -- taking it

    def take(self) -> None:
        """Before the connection. Raises `ConfigurationError` if it cannot be ours alone."""

    def look(self) -> None:
        """Before a connection that only reads."""

    def is_readable(self) -> bool:
        return self.unreadable() is None

    def unreadable(self) -> str | None:
        """In words, that what is there is no such database."""
        return None

    def replace(self, *, cleared: bool) -> None:
        """Put an empty database in the place of what is none. Raises `ConfigurationError`
        unless the user wants that."""

    def connect(self, *, read_only: bool = False) -> Any:
        """A connection of the driver's `dbapi`, every statement its own transaction."""
        raise NotImplementedError

    def settle(self, cursor: Any) -> None:
        """What the session needs before it writes."""

    def before(self, cursor: Any) -> None:
        """Before a transaction begins. After an error the connection is not used again."""

    def expect_update(self, cursor: Any, size: int) -> None:
        """So many bytes of rows are about to be replaced in this transaction."""

    def before_commit(self, cursor: Any) -> None:
        """Last of all in a transaction."""

    def after(self) -> None:
        """A transaction has ended, well or not."""

    def finish(self, cursor: Any) -> None:
        """The export is over."""

    def abandon(self, cursor: Any) -> None:
        """The connection ends, and the export is not over."""

    def release(self, *, keep: bool) -> None:
        """After the connection; what `take` made goes, unless it is to be kept."""

    # -- what is there

    def columns_of(self, table: str) -> str:
        """SQL for the (name, type) of a table's columns in order; none if there is no table."""
        raise NotImplementedError

    def indexes_of(self, table: str) -> str | None:  # noqa: ARG002
        """SQL for the names of a table's indexes; None if rows are found as fast without. One
        is made when the rows are there: if it grows with them it costs more than they do."""
        return None

    def others(self, cursor: Any) -> str | None:  # noqa: ARG002
        """In words, what is there that keeps a new export away."""
        return None

    # -- values

    def held(self, rows: pa.Table) -> pa.Table:
        """Rows as this database can hold them."""
        return rows

    def text(self, sent: str) -> str:
        """A text as this database can hold it."""
        return sent

    def notes(self) -> list[str]:
        return []

    def moment(self, moment: pa.Array) -> str:
        """A time (of an array of one) in SQL."""
        return f"TIMESTAMPTZ '{moment.cast(pa.string())[0].as_py()}'"

    def rows(self, cursor: Any, table: str, fields: pa.Schema) -> Iterator[tuple[Any, ...]]:
        """The rows of a table, JSON as text, times as microseconds, never many at once."""
        cursor.execute(f"SELECT {', '.join(map(quoted, fields.names))} FROM {table}")
        for batch in cursor.fetch_record_batch():
            yield from zip(*(column.to_pylist() for column in plain(batch).columns), strict=True)

    # -- errors

    @contextmanager
    def told(self) -> Iterator[None]:
        """Around all work: the driver's errors become `ExportError` or what `refusal` says."""
        try:
            yield
        except (UnpodError, OSError):
            raise
        except self.errors() as error:
            text = str(error)
            if (refused := self.refusal(error)) is not None:
                raise ConfigurationError(f"{self.target}: {refused}") from None
            raise ExportError(f"{self.target}: {self.harmless(text)}") from None

    def errors(self) -> tuple[type[Exception], ...]:
        with needs("arrow", "adbc_driver_manager"):
            from adbc_driver_manager import Error
        return (Error, pa.ArrowException)

    def refusal(self, error: Exception) -> str | None:  # noqa: ARG002
        """In words, what the user must change to get past this error; None if it failed."""
        return None

    def harmless(self, text: str) -> str:
        return harmless(text)


def harmless(text: str) -> str:
    """The first line of an error without its prefixes, if more than a number is left then, and
    without what it quotes: that may be of a row. Names of our own stay."""
    line = text.strip().partition("\n")[0]
    short = _PREFIX.sub("", line)
    line = short if any(map(str.isalpha, short)) else line
    return safe_text(_QUOTED.sub(_unquoted, line), limit=300)


def _unquoted(match: re.Match[str]) -> str:
    inner = match.group()[1:-1]
    return (
        match.group() if inner.rpartition(".")[2] in _NAMES or inner.startswith("unpod_") else "…"
    )


_PREFIX = re.compile(r"^(?:[A-Z_]+: |\[\w+\] |Failed to [\w ]+: |PGRES_\w+ |ERROR: +|FATAL: +)+")
_QUOTED = re.compile(r"\"[^\"]*\"?|(?<!\w)'[^']*'?|\(.*=.*\)?")
_NAMES = {"tasks", "runs", "transcript_turns", "task_id", "run_id", "row_hash", "state", "receipt"}
