"""What the demo prints."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from ._demo_check import Calls, Tally, read_calls
from ._terminal import write_stdout

if TYPE_CHECKING:
    from unpod_async.simulator import Simulator, World

    from ._outcome import Outcome

NEXT = "export tasks --space SPACE --token-file TOKEN_FILE --to tasks.jsonl.gz"
MINUTES = (0, 1, 2, 5, 10, 20)


def show(
    simulator: Simulator,
    tallies: list[Tally],
    outcome: Outcome,
    *,
    seconds: float,
    kept: Path | None,
) -> None:
    """The whole page, at most 80 columns wide, without colours unless on a terminal."""
    console = Console(width=80, highlight=False)
    with console.capture() as page:
        console.print(_introduction(simulator.world))
        console.print(_table(tallies))
        _draw(console, read_calls(tallies[0].path))
        console.print(_conclusion(tallies, outcome, seconds))
        if kept is not None:
            console.print(f"The files are in {kept}.", markup=False, soft_wrap=True)
        line = f"{sys.argv[0]} {NEXT}"  # as it was called: it need not be on the PATH
        console.print(f"\nThe same with a real space:\n{line}", markup=False, soft_wrap=True)
    write_stdout(page.get().encode(sys.stdout.encoding, "backslashreplace"))


def _introduction(world: World) -> str:
    inserted = sum(event.kind == "insert" for event in world.log)
    deleted = sum(event.kind == "delete" for event in world.log)
    return (
        f"A simulated platform of {len(world) + deleted - inserted:,} tasks in "
        f"{len(world.run_ids())} runs. While they were read,\n"
        f"{inserted:,} tasks were inserted and {deleted:,} deleted. Each way wrote a file, "
        "which was\nthen read again and compared with the platform's own log.\n"
    )


def _table(tallies: list[Tally]) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("\nway", no_wrap=True)
    heads = ("\nrows", "dis-\ntinct", "lived\nthrough", "\nlost", "re-\npeated", "re-\nquests")
    for head in (*heads, "sec-\nonds", "\nrows/s", "veri-\nfied"):
        table.add_column(head, justify="right")
    for tally in tallies:
        numbers = (tally.rows, tally.distinct, tally.lived_throughout)
        verified = {True: "yes", False: "no", None: "-"}[tally.verified]
        table.add_row(
            tally.way,
            *(f"{number:,}" for number in (*numbers, tally.lost, tally.repeated, tally.requests)),
            f"{tally.seconds:.2f}",
            f"{tally.rows / tally.seconds:,.0f}",
            verified,
            style="green" if tally.exact else "red",
        )
    return table


def _draw(console: Console, calls: Calls) -> None:
    bar = "█" if console.encoding.startswith("utf") else "#"
    statuses = dict(calls.statuses.most_common(8))
    _chart(console, "Tasks by status", statuses, bar)
    minutes = [seconds / 60 for seconds in calls.durations]
    counts = {
        f"{low:>2} to {high:>2} min": sum(low <= length < high for length in minutes)
        for low, high in pairwise(MINUTES)
    }
    counts[f"{MINUTES[-1]} min or more"] = sum(length >= MINUTES[-1] for length in minutes)
    _chart(console, "Calls by duration", counts, bar)


def _chart(console: Console, title: str, counts: dict[str, int], bar: str) -> None:
    console.print(f"\n{title}")
    most = max(counts.values(), default=0)
    for name, count in counts.items():
        length = round(48 * count / most) if most else 0
        length = max(length, 1) if count else 0
        console.print(f"  {name:<18}{count:>8,} ", end="")
        console.print(bar * length, style="cyan")


def _conclusion(tallies: list[Tally], outcome: Outcome, seconds: float) -> str:
    exports, naive = tallies[:2], tallies[2]
    rate = outcome.rows / outcome.seconds
    lines = [
        f"\n{outcome.rows:,} rows in two exports, {rate:,.0f} rows/s "
        f"({seconds:.1f} s in all, with the checks)."
    ]
    if all(tally.exact for tally in exports):
        lines.append(
            "Both exports hold every task that lived throughout, each once, and nothing else\n"
            "but tasks that came or went meanwhile."
        )
    for tally in exports:
        if not tally.exact:
            lines.append(
                f"The {tally.way} is NOT exact: {tally.lost:,} tasks lost, "
                f"{tally.repeated:,} repeated, {tally.invented:,} invented."
            )
    lines.append(
        f"The page loop lost {naive.lost:,} and repeated {naive.repeated:,}, "
        "and has no way to tell."
        if not naive.exact
        else "The page loop was lucky this time, and has no way to tell."
    )
    return "\n".join(lines)
