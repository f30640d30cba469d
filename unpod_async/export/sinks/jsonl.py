"""JSON Lines files: the rows as the server sent them, plain or compressed (gzip, zstd)."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, BinaryIO, NamedTuple, cast

from unpod_async._missing import needs
from unpod_async._pages import RowKind
from unpod_async.export._batch import IDENTITY, KINDS, Batch, settles_from
from unpod_async.export._state import Kind
from unpod_async.export._store import STEP, Output

from ._parts import FileSink
from ._shelf import Version, copy

__all__ = ["make"]

LEVEL = 3
"""Of gzip: 1 to 3 are equally fast (170 MB/s of tasks on one core, more than any server sends) and
3 is the smallest; 4 takes a third more time, 6 twice as much."""


class _Rows(NamedTuple):
    items: list[Any]
    lines: list[bytes]


class Lines:
    """The `Format` of lines; `packing` is what their bytes go through."""

    def __init__(self, kind: Kind, packing: str) -> None:
        self.name = f"jsonl{packing}"
        self._packing = packing
        self._id = IDENTITY[kind]
        self._whole = KINDS[kind]
        self._ids = self._whole.only(frozenset())
        self._times = self._whole.only(frozenset({"modified_at"}))

    def columns(self, _: str) -> list[tuple[str, str]]:
        return []

    def prepare(self, batch: Batch) -> _Rows:
        return _Rows(batch.items, batch.lines)

    def version(self, rows: _Rows, at: int) -> Version:
        return Version(rows.items[at].modified_at, rows.lines[at])

    def put(self, to: Output, _: str, rows: _Rows, keep: list[int] | None) -> int:
        lines = rows.lines if keep is None else [rows.lines[at] for at in keep]
        return self._write(to, [lines])

    def _write(self, to: Output, steps: Iterable[list[bytes]]) -> int:
        rows = 0
        with self._packed(to) as write:
            for lines in steps:
                if lines:
                    write(b"\n".join(lines) + b"\n")
                    rows += len(lines)
        return rows

    @contextmanager
    def _packed(self, to: Output) -> Iterator[Callable[[bytes], object]]:
        if self._packing == ".gz":
            # No time and no name in it: the same rows are the same bytes.
            packer = zlib.compressobj(LEVEL, wbits=31)
            yield lambda data: to.write(packer.compress(data))
            to.write(packer.flush())
        elif self._packing == ".zst":
            with needs("arrow", "pyarrow"):
                import pyarrow as pa
            with pa.CompressedOutputStream(to, "zstd") as stream:
                yield stream.write
        else:
            yield to.write

    @contextmanager
    def _unpacked(self, source: BinaryIO) -> Iterator[BinaryIO]:
        if self._packing == ".gz":
            with gzip.open(source) as file:
                yield cast(BinaryIO, file)
        elif self._packing == ".zst":
            with needs("arrow", "pyarrow"):
                import pyarrow as pa
            with pa.CompressedInputStream(source, "zstd") as stream:
                yield stream
        else:
            yield source

    def _lines(self, source: BinaryIO) -> Iterator[list[bytes]]:
        """All lines without their ends, about a megabyte at a time."""
        with self._unpacked(source) as file:
            held: list[bytes] = []
            while step := file.read(STEP):
                if b"\n" not in step:
                    held.append(step)
                    continue
                *lines, rest = b"".join([*held, step]).split(b"\n")
                held = [rest]
                yield lines
            if any(held):
                raise ValueError("its last line has no end")

    def _decoded(
        self, source: BinaryIO, kind: RowKind[Any]
    ) -> Iterator[tuple[list[Any], list[bytes]]]:
        """The rows and their lines."""
        for lines in self._lines(source):
            items = kind.decode(b'{"data":[' + b",".join(lines) + b"]}").items
            if len(items) != len(lines):
                raise ValueError("a line of it is no row")
            yield items, lines

    def ids(self, source: BinaryIO) -> Iterator[list[str]]:
        for items, _ in self._decoded(source, self._ids):
            yield [getattr(item, self._id) for item in items]

    def versions(self, source: BinaryIO, ids: set[str]) -> Iterator[tuple[str, Version]]:
        for items, lines in self._decoded(source, self._times):
            for item, line in zip(items, lines, strict=True):
                if (row_id := getattr(item, self._id)) in ids:
                    yield row_id, Version(item.modified_at, line)

    def unsettled(self, source: BinaryIO, after: datetime) -> Iterator[tuple[str, str | None]]:
        for items, _ in self._decoded(source, self._whole):
            for item in items:
                if (since := settles_from(item)) is not None and since > after:
                    yield getattr(item, self._id), item.run_id

    def without(self, to: Output, _: str, source: BinaryIO, ids: set[str]) -> int:
        return self._write(
            to,
            (
                [
                    line
                    for item, line in zip(*rows, strict=True)
                    if getattr(item, self._id) not in ids
                ]
                for rows in self._decoded(source, self._ids)
            ),
        )

    def join(self, to: Output, _: str, sources: Iterator[BinaryIO]) -> None:
        """As they are: gzip and zstd streams behind each other are one."""
        for source in sources:
            copy(source, to)
        if not to.bytes:
            self._write(to, [])

    def count(self, source: BinaryIO, _: str) -> int:
        return sum(map(len, self._lines(source)))


def make(target: str, kind: Kind, _: tuple[str, ...] | None = None) -> FileSink:
    """Columns are for other formats: a row is written as it came."""
    name = target.partition("?")[0].rstrip("/") if "://" in target else target.rstrip("/")
    packing = next((end for end in (".gz", ".zst") if name.endswith(end)), "")
    return FileSink(target, kind, Lines(kind, packing), (f".jsonl{packing}",))
