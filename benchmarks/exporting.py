"""One export in a process of its own: `python -m benchmarks.exporting HOW KIND PORT SPACE TARGET`.

HOW is `ours`, or `dlt` for `pipeline`. Prints what it took as JSON; the clock runs from the first
request to the end of the export, and not while modules are imported or rows are counted. Both
have the interpreter's settings of our command.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from . import memory, ours, pipeline

LANES, SIZE = 4, 500


def main(how: str, kind: str, port: str, space: str, target: str) -> None:
    from unpod_async.cli._run import settle_in

    with TemporaryDirectory() as folder:
        if how == "ours":
            import_module(f"unpod_async.export.sinks.{_module(kind)}")
            settle_in()
            took = _timed(lambda: asyncio.run(export(int(port), space, target)))
        else:
            pipeline.load()
            settle_in()
            took = _timed(lambda: pipeline.run(kind, int(port), space, target, folder))
    rows, turns = counted(how, kind, target)
    print(json.dumps({**took, "rows": rows, "turns": turns}), flush=True)
    os._exit(0)  # now and then a thread of Arrow's, which has counted, ends in an abort


def _module(kind: str) -> str:
    return {"jsonl.gz": "jsonl", "parquet file": "parquet"}.get(kind, kind)


def _timed(job: Callable[[], object]) -> dict[str, float]:
    began, spent = time.perf_counter(), _cpu()
    job()
    return {
        "wall": time.perf_counter() - began,
        "cpu": _cpu() - spent,
        "peak": memory.peak(),
    }


def _cpu() -> float:
    """Seconds of this process and of those it has started, all threads."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


async def export(port: int, space: str, target: str) -> Any:
    """The receipt of an export by our engine. Raises if the list was not proved complete."""
    from unpod_async.export import export_to

    async with ours.client(port, LANES) as opened:
        rows = opened.space(space).tasks(page_size=SIZE)
        receipt = await export_to(rows, target, prefetch=LANES)
    if not receipt.verified:
        raise RuntimeError(f"an export of a quiet list was not proved: {receipt.reason}")
    return receipt


def counted(how: str, kind: str, target: str) -> tuple[int, int | None]:
    """The rows and the turns that are there, read by other means than they were written; None
    where a format has no turns that can be counted."""
    if kind in ("duckdb", "sqlite", "postgres"):
        return _in_database(how, kind, target)
    if kind == "delta":
        return _in_delta(how, target)
    if kind in ("parquet", "parquet file", "arrow"):
        return _in_columns(how, kind, target)
    return _in_lines(kind, target), None


def _in_database(how: str, kind: str, target: str) -> tuple[int, int]:
    schema = f"{pipeline.SCHEMA}." if how == "dlt" else ""
    if kind == "duckdb":
        import duckdb as driver

        link = driver.connect(target, read_only=True)
    elif kind == "sqlite":
        import sqlite3

        # dlt keeps a data set in a file beside the one that it was given
        beside = Path(target).with_name(f"{Path(target).stem}__{pipeline.SCHEMA}.sqlite")
        link = sqlite3.connect(beside if how == "dlt" else target)
        schema = ""
    else:
        from adbc_driver_postgresql import dbapi

        link = dbapi.connect(target)
    cursor = link.cursor()
    found = []
    for table in ("tasks", "transcript_turns"):
        cursor.execute(f"SELECT count(*) FROM {schema}{table}")
        found.append(cursor.fetchone()[0])
    cursor.close()
    link.close()
    return found[0], found[1]


def _in_delta(how: str, target: str) -> tuple[int, int]:
    from deltalake import DeltaTable

    root = Path(target.removeprefix("delta:"))
    root = root / pipeline.SCHEMA if how == "dlt" else root
    rows, turns = (
        sum(table.to_pyarrow_table(columns=["task_id"]).num_rows for table in [DeltaTable(path)])
        for path in (root / "tasks", root / "transcript_turns")
    )
    return rows, turns


def _in_columns(how: str, kind: str, target: str) -> tuple[int, int]:
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    if how == "dlt":
        root = Path(target, pipeline.SCHEMA)
        tables = [
            ds.dataset(root / table, format="parquet") for table in ("tasks", "transcript_turns")
        ]
        return tables[0].count_rows(), tables[1].count_rows()
    if Path(target).is_dir():
        parts = sorted(Path(target).rglob("*.parquet"))
        tables = [
            sum(ds.dataset(part).count_rows() for part in parts if ("turns" in str(part)) is turned)
            for turned in (False, True)
        ]
        return tables[0], tables[1]
    said = ds.dataset(target, format="ipc" if kind == "arrow" else "parquet").to_table(
        columns=["transcript"]
    )
    return said.num_rows, pc.sum(pc.list_value_length(said["transcript"])).as_py()


def _in_lines(kind: str, target: str) -> int:
    if kind == "csv":
        import csv

        csv.field_size_limit(sys.maxsize)
        with open(target, newline="") as file:
            return sum(1 for _ in csv.reader(file)) - 1
    opened = gzip.open if kind == "jsonl.gz" else open
    with opened(target, "rb") as lines:
        return sum(1 for _ in lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
