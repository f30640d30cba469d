"""What was measured, as a table on the terminal, Markdown and JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from . import data
from .goals import Goal, Line
from .harness import Round, microseconds
from .workloads import LEGEND, Workload

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    *("unpod-async", "aiohttp", "anyio", "backoff", "msgspec", "yarl", "multidict"),
    *("httpx", "pydantic", "requests", "dlt", "niquests", "urllib3", "zlib-ng", "isal"),
)


def circumstances(*, quick: bool, server: str, absent: list[str]) -> dict[str, Any]:
    """Where, when and with what."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "mode": "quick" if quick else "full",
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        "server": server,
        "data": f"{data.TASKS:,} tasks, seed {data.SEED}",
        "left out": absent,
        "versions": dict(_versions()),
    }


def _processor() -> str:
    with open("/proc/cpuinfo") if os.path.exists("/proc/cpuinfo") else open(os.devnull) as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def markdown(about: dict[str, Any], table: list[Line], costs: dict[str, list[Cells]]) -> str:
    """All of it; also what the terminal shows."""
    out = ["# Benchmarks", ""]
    out += [f"- {key}: {_told(value)}" for key, value in about.items()]
    out += ["", "Ratios of CPU time, medians of rounds in which all arms took turns; in brackets"]
    out += ["the quartiles, or the least and the most. Differences under 4 % mean nothing.", ""]
    out += _grid(HEADER, [row(line) for line in table])
    for title, cells in costs.items():
        out += ["", f"## {title}", "", "CPU microseconds a task: median and quartiles.", ""]
        out += _grid(("", "median", "25 %", "75 %", "what it is"), cells)
    return "\n".join([*out, ""])


Cells = tuple[str, ...]
HEADER = ("", "measured", "spread", "target", "stretch", "", "rounds")


def row(line: Line) -> Cells:
    goal, value = line.goal, line.value
    aims = _aim(goal, goal.target), _aim(goal, goal.stretch)
    if value is None:
        return (goal.title, "-", "", *aims, line.verdict, "")
    spread = f"({_figure(value.low)} … {_figure(value.high)})"
    return (goal.title, _figure(value.median), spread, *aims, line.verdict, str(line.rounds))


def costs(workload: Workload, rounds: list[Round]) -> list[Cells]:
    """The absolute cost of each arm, cheapest first."""
    found = sorted((microseconds(rounds, name), name) for name in workload.arms)
    return [(name, *map(_figure, value), LEGEND[name]) for value, name in found]


def write(
    name: str, about: dict[str, Any], table: list[Line], measured: dict[str, list[Round]], text: str
) -> None:
    """`name`.md and `name`.json in the folder of results."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text)
    rows = [
        {
            **line.goal._asdict(),
            "value": line.value and line.value._asdict(),
            "rounds": line.rounds,
            "verdict": line.verdict,
        }
        for line in table
    ]
    arms = {
        key: {arm: microseconds(rounds, arm)._asdict() for arm in rounds[0]}
        for key, rounds in measured.items()
    }
    whole = {**about, "rows": rows, "microseconds a task": arms}
    (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    return ", ".join(value) or "nothing" if isinstance(value, list) else str(value)


def _aim(goal: Goal, aim: float | None) -> str:
    return "" if aim is None else f"{'≥' if goal.at_least else '≤'} {aim:g}"


def _figure(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _grid(header: Cells, rows: list[Cells]) -> Iterator[str]:
    """A Markdown table whose columns line up on the terminal too."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, tuple("-" * width for width in widths), *rows]
    for cells in lines:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        yield f"| {' | '.join(padded)} |"
