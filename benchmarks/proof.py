"""Thousands of random lists that change while they are read: does a walk ever claim too much?

`python benchmarks/proof.py SEEDS` draws a server for each seed (what changes, how fast, what
lies) and reads three of its lists: one page at a time, in parallel, and in several legs, each
left at a random row and taken up again from JSON. It prints a table by kind of server and by
way of reading. Exit status 1 if a walk did not end, was verified without a row that lived
throughout or with one twice, or gave one that never was; `--seed N` shows that one seed.

Columns: `lost`, `repeated` are rows of verified walks (`repeated`: of every walk over a list that
keeps its order, unless it was left and had forgotten the row). `fooled` are verified walks that
lost or repeated a row of a list that reorders itself, which breaks what the proof rests on: as
far as the walk remembered, rows were only born and died. At most one in a hundred walks may be.
`unproved, …` are walks that said themselves that they prove nothing. `requests`: against the
fewest possible.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from walk_model import Churn, ModelList, Outage, Outcome, outcome_of, read_on, walk

from unpod_async._checkpoint import WalkState
from unpod_async._walk import ChainWalk
from unpod_async._windows import ServerMemory

BATCH = 25
MAX_REQUESTS = 100_000
COUNTS: dict[str, Callable[[int], int | None]] = {
    "honest": lambda rows: rows,
    "none": lambda _: None,
    "always 10": lambda _: 10,
    "10**12": lambda _: 10**12,
    "negative": lambda _: -1,
    "3 more": lambda rows: rows + 3,
    "half": lambda rows: rows // 2,
}
LIES = list(COUNTS)[2:]
CHANGING = ["quiet", "inserts", "deletes", "inserts and deletes", "bulk deletes"]
FAILING = ["swallowed errors", "stale replicas", "capped pages", "short answers"]
PLAIN = [*CHANGING, *FAILING, "no count", "count that lies", "all of these"]
PAGING = {"page ignored": "ignored", "size ignored": "fixed", "end repeats": "repeats"}
BROKEN = ["unreadable rows", "rows that move", "ties", *PAGING]
WAYS = ("sequential", "parallel", "resumed")
MUST_BE_0 = ["lost", "repeated", "invented"]
OTHERS = ["fooled", "unproved, lost", "unproved, again", "empty", "outage"]
COLUMNS = ["walks", "ended", "verified", *MUST_BE_0, *OTHERS]


class Case(NamedTuple):
    """One server, as drawn for a seed."""

    kind: str
    churn: Churn
    size: int
    lanes: int
    cap: int | None
    count: str
    bad: float  # share of rows that cannot be read
    paging: str
    shared: bool  # whether the three walks share what they learn of the server


def draw(seed: int) -> tuple[Case, random.Random]:
    rng = random.Random(seed)
    kind = rng.choice(PLAIN + BROKEN)
    count = {"no count": "none", "count that lies": rng.choice(LIES)}.get(kind, "honest")
    if kind == "all of these":
        count = rng.choice(["honest", "honest", "none", *LIES])
    case = Case(
        kind=kind,
        churn=draw_churn(kind, rng),
        size=rng.choice([10, 50, 100, 200, 500, int(10 * 50 ** rng.random())]),
        lanes=rng.randint(2, 16),
        cap=rng.choice([10, 20, 37, 100, rng.randint(1, 500)]) if "capped" in kind else None,
        count=count,
        bad=rng.choice([0.002, 0.01, 0.05]) if kind == "unreadable rows" else 0.0,
        paging=PAGING.get(kind, "honest"),
        shared=rng.random() < 0.5,
    )
    if kind == "all of these" and rng.random() < 0.4:
        case = case._replace(cap=rng.randint(10, 200))
    return case, rng


def draw_churn(kind: str, rng: random.Random) -> Churn:
    """Every kind but the first few changes in all the plain ways as well, or not at all."""
    every, still = kind == "all of these", kind == "quiet" or rng.random() < 0.2

    def rate(*rates: float, of: bool) -> float:
        return rng.choice(rates) * rng.choice([1, rng.random()]) if of else 0.0

    return Churn(
        inserts=rate(0.1, 0.5, 1, 3, 8, of=not still and kind != "deletes"),
        deletes=rate(0.1, 0.5, 1, 3, 8, of=not still and kind != "inserts"),
        depth=rng.choice([0, 0, 5, 30, 1000]),
        bulk=rate(0.02, 0.05, 0.2, of=kind == "bulk deletes" or (every and rng.random() < 0.4)),
        swallowed=rate(0.01, 0.1, 0.3, of="swallowed" in kind or (every and rng.random() < 0.4)),
        stale=rate(0.05, 0.3, of="stale" in kind or (every and rng.random() < 0.4)),
        # A count of another moment may hide what a short answer left out: no reader can tell.
        second_query=rng.random() < 0.5 and kind != "short answers",
        short=rate(0.01, 0.1, 0.5, of=kind == "short answers"),
        moves=rate(0.02, 0.1, 1, 3, of=kind == "rows that move"),
        ties=rng.choice([2, 5, 20]) if kind == "ties" else 0,
    )


def make_list(case: Case, rng: random.Random) -> ModelList:
    rows = rng.choice([0, 1, 2, case.size - 1, case.size, case.size + 1, 2 * case.size])
    rows = rng.choice([rows, rng.randint(0, 200), rng.randint(0, 2000), rng.randint(0, 2000)])
    bad = {f"T{row:06d}" for row in range(1, rows + 1) if rng.random() < case.bad}
    count = COUNTS[case.count]
    return ModelList(rows, rng, case.churn, case.cap, count, bad, case.paging)


def read(way: str, case: Case, server: ModelList, memory: ServerMemory) -> Outcome:
    lanes = case.lanes if way == "parallel" else 1
    if way == "resumed":
        return read_in_legs(case, server, memory)
    return walk(server, size=case.size, lanes=lanes, memory=memory, max_requests=MAX_REQUESTS)


def read_in_legs(case: Case, server: ModelList, memory: ServerMemory) -> Outcome:
    """Leave the walk at random rows, as a process that is killed, and go on from JSON."""
    rng = server.rng
    lanes = rng.choice([1, case.lanes])
    state: WalkState | None = None
    rows: list[str] = []
    for left in range(rng.randint(1, 4), -1, -1):
        known = memory if case.shared else None
        plan = ChainWalk[str](size=case.size, lanes=lanes, memory=known, resume=state)
        most = rng.choice([0, 1, rng.randint(0, 2000)]) if left else None
        got = read_on(plan, server, lanes=lanes, most=most, max_requests=MAX_REQUESTS)
        rows += got[:most]
        if not left or (plan.done and len(got) <= (most or 0)):
            break
        written = msgspec.json.encode(plan.state(len(got) - len(got[:most])))
        state = msgspec.json.decode(written, type=WalkState)
        for _ in range(rng.choice([0, 1, 20, 200])):
            server.change()
    return outcome_of(rows, plan, server)


def judge(case: Case, way: str, outcome: Outcome) -> Counter[str]:
    """What one walk adds to the table."""
    proved, lost, again = outcome.report.verified, len(outcome.lost), outcome.repeated
    ordered = not (case.churn.moves or case.churn.ties)
    held_to = ordered and (proved or (case.kind in PLAIN and way != "resumed"))
    return Counter(
        {
            "ended": 1,
            "verified": proved,
            "lost": lost if proved and ordered else 0,
            "repeated": again if held_to else 0,
            "invented": len(outcome.invented),
            "fooled": proved and not ordered and bool(lost or again),
            "unproved, lost": not proved and bool(lost),
            "unproved, again": not proved and not held_to and bool(again),
            "empty": outcome.report.empty_confirmed > 0,
            "requests": outcome.requests,
        }
    )


def try_seed(seed: int) -> list[tuple[str, str, Counter[str], str]]:
    """(kind, way, tally, what went wrong) of each of the three walks."""
    case, rng = draw(seed)
    memory = ServerMemory()
    results = []
    for way in rng.sample(WAYS, 3):
        server = make_list(case, random.Random(f"{seed} {way}"))
        wrong, size = "", min(case.size, case.cap or case.size)
        ideal = max(1, -(-len(server.rows) // size))
        try:
            known = memory if case.shared else ServerMemory()
            tally = judge(case, way, read(way, case, server, known))
            tally["ideal"] = ideal
        except Outage:
            tally = Counter(ended=1, outage=1)
        except Exception as error:
            tally, wrong = Counter(), f"{type(error).__name__}: {error}"
        tally["walks"] = 1
        wrong = wrong or ", ".join(f"{tally[name]} {name}" for name in MUST_BE_0 if tally[name])
        results.append((case.kind, way, tally, wrong))
    return results


def width(head: str) -> int:
    return max(9, len(head) + 2)


class Tables:
    """The sums, and every seed that went wrong."""

    def __init__(self) -> None:
        self.by: dict[str, dict[str, Counter[str]]] = {"kind": {}, "way": {}}
        self.wrong: list[str] = []

    def add(self, seed: int, kind: str, way: str, tally: Counter[str], wrong: str) -> None:
        for table, name in (("kind", kind), ("way", way)):
            self.by[table].setdefault(name, Counter()).update(tally)
        if wrong:
            self.wrong.append(f"seed {seed}, {kind}, {way}: {wrong}")
            print(f"\r{self.wrong[-1]:60}", file=sys.stderr)

    def show(self) -> None:
        for title, names in (("kind", PLAIN), ("kind", BROKEN), ("way", WAYS)):
            print(
                f"{title:20}"
                + "".join(f"{head:>{width(head)}}" for head in COLUMNS)
                + f"{'requests':>10}"
            )
            for name in names:
                tally = self.by[title].get(name, Counter())
                cost = tally["requests"] / max(1, tally["ideal"])
                print(
                    f"{name:20}"
                    + "".join(f"{tally[head]:{width(head)},}" for head in COLUMNS)
                    + f"{f'x{cost:.2f}':>10}"
                )
            print()


def try_batch(first: int) -> list[tuple[int, Any]]:
    return [(seed, try_seed(seed)) for seed in range(first, first + BATCH)]


def prove(seeds: int, base: int) -> Tables:
    tables = Tables()
    started = time.monotonic()
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        batches = pool.map(try_batch, range(base, base + seeds, BATCH))
        for number, batch in enumerate(batches, 1):
            for seed, results in batch:
                for result in results:
                    tables.add(seed, *result)
            took = time.monotonic() - started
            done = f"\r{number * BATCH:,} of {seeds:,} seeds, {took:.0f} s, "
            print(f"{done}{len(tables.wrong)} wrong", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return tables


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seeds", nargs="?", type=int, default=10_000)
    parser.add_argument("--base", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="this one only, in detail")
    options = parser.parse_args()
    if options.seed is not None:
        print(draw(options.seed)[0])
        results = try_seed(options.seed)
        for _, way, tally, wrong in results:
            print(f"{way:12} {dict(tally)} {wrong and 'WRONG: ' + wrong}")
        return int(any(wrong for *_, wrong in results))
    tables = prove(options.seeds, options.base)
    tables.show()
    for kind, tally in tables.by["kind"].items():
        if 100 * tally["fooled"] > max(100, tally["walks"]):
            tables.wrong.append(f"{kind}: {tally['fooled']} walks were fooled")
    print("\n".join(tables.wrong) or "nothing lost in a verified walk, nothing repeated, all ended")
    return int(bool(tables.wrong))


if __name__ == "__main__":
    sys.exit(main())
