"""Arrow IPC files (Feather), compressed with zstd."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO

from unpod_async._missing import needs
from unpod_async.export._state import Kind
from unpod_async.export._store import Output

from ._columnar import Columnar, groups
from ._parts import FileSink

with needs("arrow", "pyarrow"):
    import pyarrow as pa

__all__ = ["make"]


class Arrow(Columnar):
    name = "arrow"

    def write(self, to: Output, table: str, batches: Iterable[pa.RecordBatch]) -> int:
        schema = self._schemas[table]
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        rows = 0
        with pa.ipc.new_file(to, schema, options=options) as writer:
            for group in groups(batches, schema):
                writer.write_table(group.combine_chunks())
                rows += len(group)
        return rows

    def read(self, source: BinaryIO, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        fields = None
        if columns is not None:
            schema = pa.ipc.open_file(source).schema
            fields = [schema.get_field_index(name) for name in columns]
        yield from _batches(source, fields)

    def count(self, source: BinaryIO, _: str, /) -> int:
        return sum(map(len, _batches(source, [0])))


def _batches(source: BinaryIO, fields: list[int] | None) -> Iterator[pa.RecordBatch]:
    options = pa.ipc.IpcReadOptions(included_fields=fields)
    file = pa.ipc.open_file(source, options=options)
    return map(file.get_batch, range(file.num_record_batches))


def make(target: str, kind: Kind, columns: tuple[str, ...] | None = None) -> FileSink:
    return FileSink(target, kind, Arrow(kind, columns), (".arrow",))
