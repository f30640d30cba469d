"""Does an export of any length stay small? `python benchmarks/million.py [ROWS]`, a million tasks
by default; `--to parquet duckdb` says where to.

A simulator in a process of its own serves the tasks, another process exports them, and this one
looks at its memory from outside. It prints the peak, how much was added after the first fifth of
the rows, the worst time that the exporter's event loop stood still, and whether all rows are there.
Exit status 1 if they are not, or if a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

ROWS = 1_000_000
ROWS_A_RUN = 100
TARGETS = {"parquet": "out.parquet/", "duckdb": "out.duckdb"}
LANES, SIZE = 4, 500

PEAK = 700.0  # MB, the target
GROWTH = 0.05  # of the peak of the first fifth; less than that is the noise of an allocator
STALL = 0.1  # seconds, the target
LOOK = 0.01  # seconds between two looks at the loop
TELL = 0.25  # seconds between two lines that tell how far it is


class Sample(NamedTuple):
    rows: int
    resident: float
    """MB"""


class Outcome(NamedTuple):
    kind: str
    rows: int
    samples: list[Sample]
    peak: float
    told: dict[str, Any]
    """What the exporter says of itself."""
    counted: int
    distinct: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("rows", nargs="?", type=int, default=ROWS)
    parser.add_argument("--to", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    options = parser.parse_args()
    is_good = True
    with simulating(options.rows) as address:
        for kind in options.to:
            with TemporaryDirectory() as folder:
                outcome = _export(kind, options.rows, address, f"{folder}/{TARGETS[kind]}")
            lines, good = _told(outcome)
            print("\n".join(lines), flush=True)
            is_good = is_good and good
    return 0 if is_good else 1


# -- the simulator


@contextmanager
def simulating(rows: int) -> Iterator[list[str]]:
    """A simulator in its own process; gives the address, token and space."""
    with _child("serve", str(rows)) as process:
        began = time.monotonic()
        address = json.loads(process.stdout.readline())
        _say(f"{rows:,} tasks after {time.monotonic() - began:.0f} s")
        try:
            yield address
        finally:
            process.stdin.close()


def serve(rows: int) -> None:
    from unpod_async.simulator import Simulator

    with Simulator(tasks=rows, runs=max(1, rows // ROWS_A_RUN)) as simulator:
        print(json.dumps([simulator.base_url, simulator.token, simulator.space_token]), flush=True)
        sys.stdin.read()


# -- the exporter


def _export(kind: str, rows: int, address: list[str], target: str) -> Outcome:
    """Start it, and look at it each time that it tells how far it is."""
    samples: list[Sample] = []
    told: dict[str, Any] = {}
    shown = 0
    with _child("export", *address, target) as process:
        for line in process.stdout:
            told = json.loads(line)
            now = _memory(process.pid)
            samples.append(Sample(told["rows"], now["VmRSS"]))
            peak = now["VmHWM"]
            if told["rows"] >= shown + rows / 10:
                shown = told["rows"]
                _say(f"{kind}: {shown:,} rows, {now['VmRSS']:.0f} MB, peak {peak:.0f} MB")
            if "seconds" in told:
                process.stdin.close()
    if process.returncode:
        raise SystemExit(f"the export to {kind} failed")
    return Outcome(kind, rows, samples, peak, told, *_counted(kind, target))


async def export(base_url: str, token: str, space: str, target: str) -> None:
    """Tells how far it is on standard output, a line each time, and at the end what came of it."""
    from unpod_async import UnpodClient
    from unpod_async.cli._run import settle_in
    from unpod_async.export._engine import Export, Options
    from unpod_async.export._jobs import wanted_of
    from unpod_async.export._sink import sink_for

    began = time.perf_counter()
    async with UnpodClient(token=token, base_url=base_url) as client:
        wanted = wanted_of(client.space(space).tasks(page_size=SIZE), lanes=LANES)
        job = wanted.job()
        running = Export(sink_for(target, job.kind), job, wanted.sources(), Options())
        settle_in()  # as the command does
        stalls: list[tuple[float, float]] = []
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(_watch(running, stalls))
            receipt = await running.run()
            watch.cancel()
    stalls.sort()
    _tell(
        rows=running.taken,
        seconds=time.perf_counter() - began,
        inserted=receipt.inserted,
        verified=receipt.verified,
        reason=receipt.reason,
        stall=stalls[-1][0],
        stalled_at=stalls[-1][1] - began,
        usual_stall=stalls[int(len(stalls) * 0.99)][0],
    )
    sys.stdin.read()


async def _watch(running: Any, stalls: list[tuple[float, float]]) -> None:
    """How much later than asked for the loop came back, each time, and when that was."""
    told = 0.0
    while True:
        began = time.perf_counter()
        await asyncio.sleep(LOOK)
        now = time.perf_counter()
        stalls.append((now - began - LOOK, began))
        if now - told > TELL:
            told = now
            _tell(rows=running.taken)


def _tell(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def _memory(pid: int) -> dict[str, float]:
    """MB by the kernel's names."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    parts = (line.split() for line in lines if line.startswith(("VmRSS", "VmHWM")))
    return {name.rstrip(":"): int(size) / 1024 for name, size, _ in parts}


def _counted(kind: str, target: str) -> tuple[int, int]:
    """Rows, and different ids among them, read by other means than they were written."""
    import duckdb

    if kind == "duckdb":
        link = duckdb.connect(target, read_only=True)
        source = "tasks"
    else:
        link = duckdb.connect()
        parts = [str(path) for path in Path(target).rglob("*.parquet") if "turns" not in str(path)]
        source = f"read_parquet({parts})"
    with link:
        cursor = link.execute(f"SELECT count(*), count(DISTINCT task_id) FROM {source}")
        ((rows, distinct),) = cursor.fetchall()
    return rows, distinct


# -- what came of it


def _told(outcome: Outcome) -> tuple[list[str], bool]:
    """As lines, and whether all targets are met."""
    mark = outcome.rows // 5
    first = [one.resident for one in outcome.samples if one.rows <= mark] or [0.0]
    later = [one.resident for one in outcome.samples if one.rows > mark] or [0.0]
    growth = max(later) - max(first)
    third = [one.resident for one in outcome.samples if mark < one.rows <= 2 * mark] or later
    last = [one.resident for one in outcome.samples if one.rows > 4 * mark] or later
    told = outcome.told
    checks = [
        (f"peak {outcome.peak:.0f} MB (target {PEAK:.0f})", outcome.peak < PEAK),
        (
            f"most behind the first {mark:,} rows {growth:+.0f} MB beside {max(first):.0f} MB"
            f" (target none); middle of the second fifth {median(third):.0f} MB,"
            f" of the last {median(last):.0f} MB",
            growth <= GROWTH * max(first),
        ),
        (
            f"worst stall {told['stall'] * 1e3:.0f} ms (target {STALL * 1e3:.0f})"
            f" after {told['stalled_at']:.1f} s, 99 % under {told['usual_stall'] * 1e3:.1f} ms",
            told["stall"] < STALL,
        ),
        (
            f"{outcome.counted:,} rows, {outcome.distinct:,} different ids",
            outcome.counted == outcome.distinct == outcome.rows,
        ),
        (f"receipt verified: {told['verified']} {told['reason'] or ''}", told["verified"]),
    ]
    rate = outcome.rows / told["seconds"]
    head = f"{outcome.kind}: {outcome.rows:,} tasks in {told['seconds']:.0f} s, {rate:,.0f} rows/s"
    lines = [head, *(f"  {'ok    ' if good else 'MISSED'} {text}" for text, good in checks)]
    return lines, all(good for _, good in checks)


@contextmanager
def _child(*arguments: str) -> Iterator[Any]:
    command = [sys.executable, __file__, *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(int(sys.argv[2]))
    elif sys.argv[1:2] == ["export"]:
        asyncio.run(export(*sys.argv[2:]))
    else:
        sys.exit(main())
