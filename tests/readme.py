"""The README's generated parts: `python tests/readme.py` writes them anew, with `--check` it
only says what differs. A part stands between `<!-- generated: NAME -->` and `<!-- end: NAME -->`.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from rich.console import Console

from unpod_async import UnpodClient, models
from unpod_async.export import export_to
from unpod_async.simulator import Simulator

README = Path(__file__).parent.parent / "README.md"
RESULTS = README.parent / "benchmarks" / "results"
MARKED = re.compile(r"(?s)(<!-- generated: (\S+) -->\n).*?(<!-- end: \2 -->)")
COMMANDS = (
    *("tasks", "runs", "spaces", "export", "export tasks", "export runs"),
    *("verify", "simulate", "demo"),
)


def cli_help() -> str:
    return "\n".join(map(help_of, ("", *COMMANDS)))


def help_of(command: str) -> str:
    script = Path(sysconfig.get_path("scripts")) / "unpod-async"
    plain = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    words = [*command.split(), "--help"]
    shown = subprocess.run([script, *words], env=plain, capture_output=True, text=True, check=True)
    lines = [line.rstrip() for line in shown.stdout.strip().splitlines()]
    return "\n".join(["```text", f"$ unpod-async {' '.join(words)}", *lines, "```", ""])


def exit_codes() -> str:
    from unpod_async.cli import EXIT_CODES

    rows = [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    return "\n".join(["| exit code | meaning |", "|---|---|", *rows, ""])


def benchmarks() -> str:
    """What the last whole run of `nox -s bench` found."""
    found = json.loads((RESULTS / "bench.json").read_text("utf-8"))
    lines = [
        f"Measured on {found['date']}: {found['machine']}, Python {found['python']}.",
        "",
        "| ratio of CPU time, medians (W5: of wall time) | measured | aimed at |",
        "|---|---|---|",
    ]
    for row in found["rows"]:
        if row["value"] is not None and row["target"] is not None:
            sign = "≥" if row["at_least"] else "≤"
            value = f"{row['value']['median']:.3g}"
            lines.append(f"| {row['title']} | {value} | {sign} {row['target']:g} |")
    return "\n".join([*lines, ""])


def exports() -> str:
    """What the last whole run of `nox -s export-bench` found."""
    found = json.loads((RESULTS / "exports.json").read_text("utf-8"))
    lines = [
        f"{found['date']}: {found['machine']}, Python {found['python']}; {found['data']}.",
        "",
        "| destination | rows/s | dlt, rows/s | CPU, us a row | dlt, us a row |",
        "|---|---|---|---|---|",
    ]
    for kind, arms in found["rounds"].items():
        rates = [_middle(arms.get(how), lambda one: one["rows"] / one["wall"]) for how in HOWS]
        cpu = [_middle(arms.get(how), lambda one: one["cpu"] / one["rows"] * 1e6) for how in HOWS]
        lines.append(f"| {kind} | {' | '.join([*rates, *cpu])} |")
    return "\n".join([*lines, ""])


HOWS = ("ours", "dlt")


def _middle(rounds: list[dict[str, float]] | None, of: Callable[[dict[str, float]], float]) -> str:
    return f"{median(map(of, rounds)):,.0f}" if rounds else "-"


def query() -> str:
    """What the demo asks the database that it made, of a platform that stands still."""
    from unpod_async.cli import _demo_show

    with TemporaryDirectory() as folder, Simulator(seed=1, runs=20, tasks=2000) as simulator:
        asyncio.run(_export(simulator, Path(folder) / _demo_show.DATABASE))
        console = Console(width=80, highlight=False)
        with console.capture() as shown:
            console.print(_demo_show.asked(Path(folder)))
    lines = [line.rstrip() for line in shown.get().splitlines()]
    text = [f"```sql{_demo_show.QUERY}", "```", "", "```text", *lines, "```", ""]
    return "\n".join(text)


async def _export(simulator: Simulator, path: Path) -> None:
    async with UnpodClient(token=simulator.token, base_url=simulator.base_url) as client:
        await export_to(client.space(simulator.space_token).tasks(), path)


PARTS: dict[str, Callable[[], str]] = {
    "benchmarks": benchmarks,
    "call-table": lambda: f"{models.call_table().strip()}\n",
    "cli-help": cli_help,
    "exit-codes": exit_codes,
    "exports": exports,
    "query": query,
}


def renewed(text: str) -> str:
    return MARKED.sub(lambda part: f"{part[1]}{PARTS[part[2]]()}{part[3]}", text)


def difference() -> str:
    """What is out of date, as a unified diff; empty if nothing is."""
    old = README.read_text("utf-8")
    lines = (text.splitlines(keepends=True) for text in (old, renewed(old)))
    return "".join(difflib.unified_diff(*lines, "README.md", "README.md, generated"))


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(difference() or 0)
    README.write_text(renewed(README.read_text("utf-8")), "utf-8")
