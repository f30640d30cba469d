r"""CSV files: UTF-8 without a byte-order mark, lines end with `\n`, texts in quotes, nulls not.

Times are ISO 8601 in UTC; the transcript and the free-form parts are JSON text. A spreadsheet
takes a cell that begins with `= + - @` or a control character for a formula, so that text of
a caller could do harm there: such a text gets an apostrophe in front, which also goes for
telephone numbers ("+91…"). `raw` leaves texts as they are. Numbers always are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, BinaryIO

from unpod_async._missing import needs
from unpod_async.export._batch import Batch
from unpod_async.export._schema import as_text
from unpod_async.export._state import Kind
from unpod_async.export._store import STEP, Output

from ._columnar import Columnar, Prepared
from ._parts import FileSink
from ._shelf import Version, copy

with needs("arrow", "pyarrow"):
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv as pa_csv

__all__ = ["make"]

# A text that is such a one behind apostrophes gets one more, so that they can be taken off.
_DANGEROUS = r"""^'*(?:[\t\r\n]|"+[\t\r\n"]*[=+\-@＝＋－＠]|[=+\-@＝＋－＠])"""
_GUARDED = re.compile(_DANGEROUS.replace("'*", "'+"))
_FIELD = re.compile(rb'(?:"([^"]*(?:""[^"]*)*)"|([^",]*))(?:,|\Z)')


class Csv(Columnar):
    """A `Format`: written by Arrow, read as records of bytes, of which few cells are looked at."""

    nested = "json"
    raw = False

    @property
    def name(self) -> str:  # type: ignore[override]
        return "raw csv" if self.raw else "csv"

    def prepare(self, batch: Batch) -> Prepared:
        made = super().prepare(batch)
        rows = made.tables[self._kind].select(self._compared)
        return Prepared({n: self._as_text(t) for n, t in made.tables.items()}, _plain(rows))

    def _as_text(self, table: pa.Table) -> pa.Table:
        table = _plain(table)
        if self.raw:
            return table
        guarded = [
            pc.replace_substring_regex(column, f"({_DANGEROUS})", r"'\1")
            if pa.types.is_string(column.type)
            else column
            for column in table.columns
        ]
        return pa.Table.from_arrays(guarded, names=table.schema.names)

    def put(self, to: Output, table: str, rows: Prepared, keep: list[int] | None) -> int:
        kept = rows.table(table, keep)
        pa_csv.write_csv(kept, to)
        return len(kept)

    def _header(self, table: str) -> bytes:
        names = self._schemas[table].names
        return b",".join(b'"%s"' % name.encode() for name in names)

    def _rows(self, source: BinaryIO, table: str) -> Iterator[list[bytes]]:
        """The records without their ends and without the header."""
        header: bytes | None = None
        for records in _records(source):
            if header is None:
                header, *records = records
                if header != self._header(table):
                    raise ValueError("its columns are others")
            yield records

    def _cells(self, source: BinaryIO, names: list[str]) -> Iterator[tuple[list[str | None], ...]]:
        """Some columns of the rows, in steps."""
        places = [self._schemas[self._kind].get_field_index(name) for name in names]
        for records in self._rows(source, self._kind):
            rows = [_FIELD.findall(record) for record in records]
            yield tuple([self._text(row[place]) for row in rows] for place in places)

    def _text(self, cell: tuple[bytes, bytes]) -> str | None:
        quoted, plain = cell
        text = (quoted.replace(b'""', b'"') or plain).decode()
        return text[1:] if not self.raw and _GUARDED.match(text) else text or None

    def _id_of(self, record: bytes) -> str:
        found = _FIELD.match(record)
        return (found and self._text((found[1] or b"", found[2] or b""))) or ""

    def ids(self, source: BinaryIO) -> Iterator[list[str]]:
        for records in self._rows(source, self._kind):
            yield list(map(self._id_of, records))

    def versions(self, source: BinaryIO, ids: set[str]) -> Iterator[tuple[str, Version]]:
        places = [self._schemas[self._kind].get_field_index(n) for n in self._compared[1:3]]
        for records in self._rows(source, self._kind):
            for record in records:
                if (row_id := self._id_of(record)) in ids:
                    row = _FIELD.findall(record)
                    time, digest = (self._text(row[place]) for place in places)
                    yield row_id, Version(time, (int(digest or 0),))

    def unsettled(self, source: BinaryIO, after: datetime) -> Iterator[tuple[str, str | None]]:
        since = after.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")
        for ids, runs, times in self._cells(source, [self._id, "run_id", "settles_from"]):
            for row_id, run, time in zip(ids, runs, times, strict=True):
                if row_id is not None and time is not None and time > since:
                    yield row_id, run

    def without(self, to: Output, table: str, source: BinaryIO, ids: set[str]) -> int:
        to.write(self._header(table) + b"\n")
        rows = 0
        for records in self._rows(source, table):
            kept = [record for record in records if self._id_of(record) not in ids]
            to.write(b"".join(record + b"\n" for record in kept))
            rows += len(kept)
        return rows

    def join(self, to: Output, table: str, sources: Iterator[BinaryIO]) -> None:
        header = self._header(table) + b"\n"
        to.write(header)
        for source in sources:
            if source.read(len(header)) != header:
                raise ValueError("its columns are others")
            copy(source, to)

    def count(self, source: BinaryIO, _: str, /) -> int:
        """Whatever its columns are: the proof does not know which were asked for."""
        return sum(map(len, _records(source))) - 1


def _plain(table: pa.Table) -> pa.Table:
    """With times and JSON as texts."""
    made = [_cast(column) for column in table.columns]
    return pa.Table.from_arrays(made, names=table.schema.names)


def _cast(column: Any) -> Any:
    if pa.types.is_timestamp(column.type):
        return pc.replace_substring(column.cast(pa.string()), " ", "T")
    return as_text(column)


def _records(source: BinaryIO) -> Iterator[list[bytes]]:
    """The records of a file, about a megabyte at a time: a line break counts where the quotes
    before it are even in number."""
    held: list[bytes] = []
    is_open = False
    rest = b""
    while step := source.read(STEP):
        *lines, rest = (rest + step).split(b"\n")
        records = []
        for line in lines:
            held.append(line)
            is_open ^= line.count(b'"') % 2 == 1
            if not is_open:
                records.append(b"\n".join(held))
                held = []
        if records:
            yield records
    if rest or held:
        raise ValueError("its last record has no end")


class CsvSink(FileSink):
    """`raw = True` before `open`: texts stay as they are."""

    _form: Csv

    @property
    def raw(self) -> bool:
        return self._form.raw

    @raw.setter
    def raw(self, value: bool) -> None:
        self._form.raw = value


def make(target: str, kind: Kind, columns: tuple[str, ...] | None = None) -> CsvSink:
    return CsvSink(target, kind, Csv(kind, columns), (".csv",))
