"""Peak memory of a process that streams a list: `python -m benchmarks.memory PORT SPACE`.

Prints the rows it was handed, and megabytes.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from pathlib import Path

from . import ours


async def stream(port: int, token: str) -> int:
    """Walk over all rows of a space, proved complete, and keep none."""
    rows = 0
    async with (
        ours.client(port, 4) as opened,
        opened.space(token).tasks(page_size=500).walk(prefetch=4) as walk,
    ):
        async for _ in walk:
            rows += 1
        ours.check(walk.report)
    return rows


def peak() -> float:
    """Megabytes. Not `ru_maxrss` where there is better: a child inherits that of its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(port: int, token: str) -> tuple[int, float]:
    """Rows and peak megabytes of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", str(port), token]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    rows, megabytes = told.split()
    return int(rows), float(megabytes)


if __name__ == "__main__":
    print(asyncio.run(stream(int(sys.argv[1]), sys.argv[2])), peak())
