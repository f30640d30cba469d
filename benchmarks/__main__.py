"""`python -m benchmarks` measures everything, for some minutes; `--quick` in under three."""

from __future__ import annotations

import argparse
import sys
import time
from typing import NamedTuple

from . import counting, goals, latency, memory, picture, report
from .harness import Arm, Round, measure, microseconds
from .nginx import fronted
from .server import serving
from .workloads import Workload, missing, workloads

OTHERS = ("W5", "proof", "memory")


class Effort(NamedTuple):
    rounds: dict[str, int]
    latency_times: int
    latency_runs: int
    lists: tuple[str, str]  # the short and the long one whose memory is compared


QUICK = Effort({"W1": 12, "W2": 14, "W3": 10, "W4": 10}, 1, 768, ("QUIET", "TWICE"))
FULL = Effort({"W1": 24, "W2": 30, "W3": 30, "W4": 24}, 3, 2048, ("BULK", "BIG"))


def main() -> int:
    options = _options()
    effort = QUICK if options.quick else FULL
    names = options.only or [*effort.rounds, *OTHERS]
    with serving() as behind, fronted(behind) as (port, server):
        made = workloads(port) | {"W4": workloads(behind)["W4"]}
        measured = {
            name: _rounds(name, made[name], effort) for name in effort.rounds if name in names
        }
        others = _others(behind, names, effort)
    table = [line for line in goals.lines(measured, others) if line.goal.workload in names]
    about = report.circumstances(quick=options.quick, server=server, absent=missing())
    costs = {
        f"{name}, {made[name].title}": report.costs(made[name], rounds)
        for name, rounds in measured.items()
    }
    text = report.markdown(about, table, costs)
    print(text)
    if not options.only:
        _write("quick" if options.quick else "bench", about, table, measured, text)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="in under three minutes")
    parser.add_argument(
        "--only", nargs="+", choices=(*FULL.rounds, *OTHERS), help="a part, and write no files"
    )
    return parser.parse_args()


def _rounds(name: str, workload: Workload, effort: Effort) -> list[Round]:
    began = time.monotonic()
    arms: dict[str, Arm] = {arm: make() for arm, make in workload.arms.items()}
    rounds = measure(arms, rounds=effort.rounds[name], often=workload.often)
    _say(f"{name}: {workload.title}", began)
    return rounds


def _others(port: int, names: list[str], effort: Effort) -> dict[str, dict[str, list[float]]]:
    """What is not a ratio of CPU time."""
    found: dict[str, dict[str, list[float]]] = {}
    for name in OTHERS:
        if name in names:
            began = time.monotonic()
            found[name] = _other(name, port, effort)
            _say(name, began)
    return found


def _other(name: str, port: int, effort: Effort) -> dict[str, list[float]]:
    if name == "W5":
        return latency.measure(
            port,
            lambda: counting.requests(port),
            times=effort.latency_times,
            runs_at_16=effort.latency_runs,
        )
    if name == "proof":
        return counting.measure(port)
    (few, least), (many, most) = (memory.measure(port, token) for token in effort.lists)
    _say(f"peak memory: {least:.0f} MB for {few:,} rows, {most:.0f} MB for {many:,}")
    return {"more": [most - least]}


def _write(
    name: str,
    about: dict[str, object],
    table: list[goals.Line],
    measured: dict[str, list[Round]],
    text: str,
) -> None:
    report.write(name, about, table, measured, text)
    titles = {"W1": "Bulk reading", "W2": "Small pages, 20 a page", "W3": "Fan-out over runs"}
    panels = [
        picture.Panel(title, {arm: microseconds(measured[key], arm) for arm in measured[key][0]})
        for key, title in titles.items()
    ]
    note = (
        f"CPU time of the client a task, less is better. Python {about['python']}, {about['date']}."
    )
    (report.RESULTS / f"{name}.svg").write_text(picture.draw(panels, note))


def _say(text: str, began: float | None = None) -> None:
    """Progress."""
    took = "" if began is None else f", {time.monotonic() - began:.0f} s"
    print(f"{text}{took}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
