"""What Parquet and Arrow files have in common: rows as record batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import cached_property
from typing import Any, BinaryIO, ClassVar

from unpod_async._missing import needs
from unpod_async.export._batch import Batch
from unpod_async.export._schema import IDENTITY, TURNS, Nested, schema_of
from unpod_async.export._state import Kind
from unpod_async.export._store import Output

from ._shelf import Version

with needs("arrow", "pyarrow"):
    import pyarrow as pa
    import pyarrow.compute as pc

__all__ = ["Columnar", "Prepared", "groups"]

ROWS = 10_000  # of a row group: 100 rows would be 25 % larger and half as fast
_LARGEST = 1 << 26  # bytes of a row group: rows of unusual length count for more


class Prepared:
    """The tables of a batch, and what its rows are compared by."""

    def __init__(self, tables: dict[str, pa.Table], rows: pa.Table) -> None:
        self.tables = tables
        self._rows = rows

    @cached_property
    def versions(self) -> list[Version]:
        return _versions(self._rows)

    def table(self, name: str, keep: list[int] | None) -> pa.Table:
        """One table with these rows, or with the turns of these rows."""
        table = self.tables[name]
        if keep is None:
            return table
        rows = next(iter(self.tables.values())).column(0).take(pa.array(keep, pa.int64()))
        return table.filter(pc.is_in(table.column(0), value_set=rows))


def _versions(rows: Any) -> list[Version]:
    """Of a table with the columns id, time of the last change, and what is compared."""
    times, *content = (column.to_pylist() for column in rows.columns[1:])
    return list(map(Version, times, zip(*content, strict=True)))


class Columnar:
    """A `Format` of record batches; `write`, `read` and `count` are the file's own."""

    name: ClassVar[str]
    nested: ClassVar[Nested] = "native"

    def __init__(self, kind: Kind, columns: tuple[str, ...] | None) -> None:
        self._kind: Kind = kind
        self._schemas: dict[str, pa.Schema] = {kind: schema_of(kind, self.nested, columns)}
        if kind == "tasks":
            self._schemas[TURNS] = schema_of(TURNS, self.nested)
        self._id = IDENTITY[kind]
        names = self._schemas[kind].names
        # The hash does not cover a transcript that is no text; the whole output does.
        is_hashed = "transcript" not in names or "output" in names or self.nested == "json"
        talk = [] if is_hashed else ["transcript"]
        self._compared = [self._id, "modified_at", "row_hash", *talk]

    def write(self, to: Output, table: str, batches: Iterable[pa.RecordBatch]) -> int:
        raise NotImplementedError

    def read(self, source: BinaryIO, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        """The whole file in steps; `columns` in the order of the file."""
        raise NotImplementedError

    def count(self, source: BinaryIO, table: str, /) -> int:
        raise NotImplementedError

    def columns(self, table: str) -> list[tuple[str, str]]:
        return [(field.name, str(field.type)) for field in self._schemas[table]]

    def prepare(self, batch: Batch) -> Prepared:
        tables = batch.tables(self.nested)
        batch.forget_rows()
        rows = tables[self._kind].select(self._compared)
        names = self._schemas[self._kind].names
        return Prepared({**tables, self._kind: tables[self._kind].select(names)}, rows)

    def version(self, rows: Prepared, at: int) -> Version:
        return rows.versions[at]

    def put(self, to: Output, table: str, rows: Prepared, keep: list[int] | None) -> int:
        return self.write(to, table, rows.table(table, keep).to_batches())

    def ids(self, source: BinaryIO) -> Iterator[list[str]]:
        for rows in self.read(source, [self._id]):
            yield rows.column(0).to_pylist()

    def versions(self, source: BinaryIO, ids: set[str]) -> Iterator[tuple[str, Version]]:
        wanted = pa.array(list(ids), pa.string())
        for step in self.read(source, self._compared):
            rows = step.select(self._compared)
            rows = rows.filter(pc.is_in(rows.column(0), value_set=wanted))
            if len(rows):
                yield from zip(rows.column(0).to_pylist(), _versions(rows), strict=True)

    def unsettled(self, source: BinaryIO, after: datetime) -> Iterator[tuple[str, str | None]]:
        names = list(dict.fromkeys([self._id, "run_id", "settles_from"]))
        since = pa.scalar(after, pa.timestamp("us", "UTC"))
        for step in self.read(source, names):
            rows = step.filter(pc.greater(step.column("settles_from"), since))
            ids, runs = rows.column(self._id), rows.column("run_id")
            yield from zip(ids.to_pylist(), runs.to_pylist(), strict=True)

    def without(self, to: Output, table: str, source: BinaryIO, ids: set[str]) -> int:
        gone = pa.array(list(ids), pa.string())
        steps = self.read(source, None)
        id_ = IDENTITY[table]
        kept = (b.filter(pc.invert(pc.is_in(b.column(id_), value_set=gone))) for b in steps)
        return self.write(to, table, kept)

    def join(self, to: Output, table: str, sources: Iterator[BinaryIO]) -> None:
        self.write(to, table, (step for source in sources for step in self.read(source, None)))


def groups(batches: Iterable[Any], schema: pa.Schema) -> Iterator[pa.Table]:
    """The same rows in tables of the size of a row group."""
    held: list[Any] = []
    rows = size = 0
    for batch in batches:
        held.append(batch)
        rows, size = rows + len(batch), size + batch.nbytes
        while rows >= ROWS or size >= _LARGEST:
            table = pa.Table.from_batches(held, schema=schema)
            yield table.slice(0, ROWS)
            held = table.slice(ROWS).to_batches()
            rows, size = max(rows - ROWS, 0), sum(b.nbytes for b in held)
    if rows:
        yield pa.Table.from_batches(held, schema=schema)
