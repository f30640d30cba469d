"""The same export by one process and by two: 10,000 runs, read run by run by the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from statistics import median
from tempfile import TemporaryDirectory

from . import report

SPACE = "BULK"
COMMAND = (sys.executable, "-c", "import unpod_async.cli as cli; cli.main()")


def measure(port: int, rounds: int = 3) -> dict[str, list[float]]:
    """Seconds of wall time of each round, start-up included, by the number of processes; and
    the `rows`, of which both have the same."""
    took: dict[str, list[float]] = {"1": [], "2": [], "rows": []}
    for at in range(2 * rounds):
        processes = "12"[at % 2]
        seconds, rows = _export(port, processes)
        took[processes].append(seconds)
        took["rows"].append(rows)
    if len(set(took["rows"])) > 1:
        raise RuntimeError(f"one and two processes have not the same rows: {took['rows']}")
    return took


def _export(port: int, processes: str) -> tuple[float, int]:
    environment = {
        **os.environ,
        "UNPOD_API_TOKEN": "bench",
        "UNPOD_BASE_URL": f"http://127.0.0.1:{port}/api",
        "UNPOD_SPACE_TOKEN": SPACE,
    }
    with TemporaryDirectory() as folder:
        options = ("--to", f"{folder}/out.parquet/", "--via", "runs", "--processes", processes)
        began = time.perf_counter()
        ran = subprocess.run(
            [*COMMAND, "export", "tasks", *options, "--concurrency", "16", "--json"],
            env=environment,
            capture_output=True,
            text=True,
        )
        took = time.perf_counter() - began
    if ran.returncode:
        raise RuntimeError(f"{processes} processes failed:\n{ran.stdout}{ran.stderr}")
    return took, json.loads(ran.stdout)["rows"]


def told(took: dict[str, list[float]]) -> Iterator[str]:
    ratios = [two / one for one, two in zip(took["1"], took["2"], strict=True)]
    rows = int(took["rows"][0])
    cells = [
        (number, f"{median(took[number]):.1f}", f"{rows / median(took[number]):,.0f}")
        for number in ("1", "2")
    ]
    yield f"{rows:,} tasks of 10,000 runs, run by run, into a folder of Parquet by the command:"
    yield ""
    yield from report._grid(("processes", "seconds", "rows/s"), cells)
    yield ""
    spread = f"({min(ratios):.2f} … {max(ratios):.2f})"
    yield f"Two take {median(ratios):.2f} of one's wall time {spread}."
