"""What the demo prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from ._demo_check import Tally
from ._terminal import write_stdout

if TYPE_CHECKING:
    from unpod_async.simulator import Simulator, World

    from ._outcome import Outcome

DATABASE = "unpod-demo.duckdb"
NEXT = "export tasks --space SPACE --token-file TOKEN_FILE --to calls.duckdb"
QUERY = """
SELECT status, count(*) AS calls, round(avg(call_duration)) AS seconds,
       sum(said) AS turns, sum(asked) AS questions
FROM tasks LEFT JOIN (
    SELECT task_id, count(*) AS said, count(*) FILTER (text LIKE '%?%') AS asked
    FROM transcript_turns GROUP BY task_id) USING (task_id)
GROUP BY status ORDER BY calls DESC"""


def show(
    simulator: Simulator,
    tallies: list[Tally],
    outcome: Outcome,
    directory: Path,
    *,
    seconds: float,
    kept: Path | None,
) -> None:
    """The whole page, at most 80 columns wide, without colours unless on a terminal."""
    console = Console(width=80, highlight=False)
    with console.capture() as page:
        console.print(_introduction(simulator.world))
        console.print(_table(tallies))
        console.print(_conclusion(tallies, outcome, seconds))
        console.print(
            f"\nThe walk made a DuckDB database. A query over it:\n{QUERY}\n", markup=False
        )
        console.print(asked(directory))
        if kept is not None:
            console.print(f"\nThe files are in {kept}.", markup=False, soft_wrap=True)
        line = f"{sys.argv[0]} {NEXT}"  # as it was called: it need not be on the PATH
        console.print(f"\nThe same with a real space:\n{line}", markup=False, soft_wrap=True)
    write_stdout(page.get().encode(sys.stdout.encoding, "backslashreplace"))


def _introduction(world: World) -> str:
    inserted = sum(event.kind == "insert" for event in world.log)
    deleted = sum(event.kind == "delete" for event in world.log)
    return (
        f"A simulated platform of {len(world) + deleted - inserted:,} tasks in "
        f"{len(world.run_ids())} runs. While they were read,\n"
        f"{inserted:,} tasks were inserted and {deleted:,} deleted. What each way wrote was "
        "then\nread again and compared with the platform's own log.\n"
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


def asked(directory: Path) -> Table:
    """What the database answers."""
    import duckdb

    with duckdb.connect(str(directory / DATABASE), read_only=True) as database:
        answer = database.execute(QUERY)
        names = [column[0] for column in answer.description or ()]
        rows = answer.fetchall()
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for name in names:
        table.add_column(name, justify="left" if name == "status" else "right")
    for status, *numbers in rows:
        told = ("-" if number is None else f"{int(number):,}" for number in numbers)
        table.add_row(str(status), *told)
    return table


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
