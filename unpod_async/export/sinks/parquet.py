"""Parquet files: zstd, a row group for each 10,000 rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO

from unpod_async._missing import needs
from unpod_async.export._state import Kind
from unpod_async.export._store import Output

from ._columnar import ROWS, Columnar, groups
from ._parts import FileSink

with needs("arrow", "pyarrow"):
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["make"]


class Parquet(Columnar):
    name = "parquet"

    def write(self, to: Output, table: str, batches: Iterable[pa.RecordBatch]) -> int:
        schema = self._schemas[table]
        rows = 0
        with pq.ParquetWriter(to, schema, compression="zstd") as writer:
            for group in groups(batches, schema):
                writer.write_table(group, row_group_size=ROWS)
                rows += len(group)
        return rows

    def read(self, source: BinaryIO, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(source) as file:
            yield from file.iter_batches(ROWS, columns=columns, use_threads=False)

    def count(self, source: BinaryIO, _: str, /) -> int:
        with pq.ParquetFile(source) as file:
            return int(file.metadata.num_rows)


def make(target: str, kind: Kind, columns: tuple[str, ...] | None = None) -> FileSink:
    return FileSink(target, kind, Parquet(kind, columns), (".parquet",))
