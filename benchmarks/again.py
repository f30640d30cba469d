"""What a second run costs, DuckDB as the destination: `python -m benchmarks.again PORT SPACE ROWS`.

Prints as JSON: requests and seconds of a refresh over unchanged data, and rows a second of writing
rows that are there already, by what changed in them; of the sink alone, and with the making of the
columns.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from . import counting, data
from .exporting import export

ROWS = 10_000  # in one write

CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda line: line,
    "the status": lambda line: _later(line).replace(b'"status":"completed"', b'"status":"failed"'),
    "a word of each turn": lambda line: _later(line, b"14").replace(
        b'"content":"', b'"content":"well '
    ),
}


def main(port: int, space: str, rows: int) -> None:
    with TemporaryDirectory() as folder:
        target = str(Path(folder, "again.duckdb"))
        asyncio.run(export(port, space, target))
        counting.requests(port)
        began = time.perf_counter()
        receipt = asyncio.run(export(port, space, target))
        found: dict[str, Any] = {
            "seconds": time.perf_counter() - began,
            "requests": counting.requests(port).get(space, 0),
            "mode": receipt.mode,
            "changed": receipt.inserted + receipt.updated,
            "rows": rows,
            "writes": {name: _written(target, rows, change) for name, change in CHANGES.items()},
        }
    print(json.dumps(found))


def measure(port: int, space: str, rows: int) -> dict[str, Any]:
    """The same from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.again", str(port), space, str(rows)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, Any] = json.loads(told)
    return result


def _written(target: str, rows: int, change: Callable[[bytes], bytes]) -> dict[str, float]:
    """Write all rows once more; rows a second of the sink alone, and with its columns."""
    from unpod_async.export._sink import sink_for

    sink = sink_for(target, "tasks")
    sink.open()
    state = sink.checkpoint()
    assert state is not None
    columns = alone = 0.0
    updated = 0
    for lines in _portions(rows, change):
        began = time.perf_counter()
        batch = _Made(lines)
        made = time.perf_counter()
        updated += sink.write(batch, state).updated  # type: ignore[arg-type]
        alone += time.perf_counter() - made
        columns += made - began
    sink.close(None)
    return {"sink": rows / alone, "all": rows / (alone + columns), "updated": updated}


class _Made:
    """A batch whose tables are there before they are asked for."""

    def __init__(self, lines: list[bytes]) -> None:
        from unpod_async.export._batch import Batch

        self._batch = Batch("tasks", lines)
        self._tables = self._batch.tables("json")

    def __len__(self) -> int:
        return len(self._batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def tables(self, _: str) -> Any:
        return self._tables


def _portions(rows: int, change: Callable[[bytes], bytes]) -> Iterator[list[bytes]]:
    made = data.task_rows(rows)
    for first in range(0, rows, ROWS):
        last = min(first + ROWS, rows)
        yield [change(bytes(made.window(at, at + 1))) for at in range(first, last)]


def _later(line: bytes, hour: bytes = b"13") -> bytes:
    """With a later time of the last change: an older row would stay out."""
    day = b'"modified":"2026-01-16T'
    return line.replace(day + b"13:41:09", day + hour + b":42:09")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
