"""A changing list in memory, and a driver that reads it by the chain walk: the proof's
testing ground, thousands of walks a second and no server."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from unpod_async._report import Report
from unpod_async._walk import ChainWalk
from unpod_async._windows import Answer, ServerMemory, Window


@dataclass
class Churn:
    """Average changes a request, and what else goes wrong."""

    inserts: float = 0.0
    deletes: float = 0.0
    depth: int = 0  # inserts land up to so many rows deep
    bulk: float = 0.0  # chance a request of deleting 5 % of the list in one span
    swallowed: float = 0.0  # chance that an error comes out as `200 []`, count 0
    stale: float = 0.0  # chance of an answer from an older state
    second_query: bool = False  # the count describes a later state than the page
    short: float = 0.0  # chance that an answer holds fewer rows than there are
    moves: float = 0.0  # rows that move to the head: order is no longer by birth
    ties: int = 0  # in blocks of so many rows the order is another one for each query


@dataclass
class ModelList:
    """The server's list: newest first, with everything that ever lived in it."""

    size: int
    rng: random.Random
    churn: Churn = field(default_factory=Churn)
    cap: int | None = None
    count: Callable[[int], int | None] = lambda n: n
    bad: set[str] = field(default_factory=set)
    paging: str = "honest"  # "ignored", "fixed" or "repeats" where it is not

    def __post_init__(self) -> None:
        self.rows = [f"T{n:06d}" for n in range(self.size, 0, -1)]
        self.born = self.size
        self.stable = set(self.rows) - self.bad
        self.ever = set(self.rows)
        self.requests = 0
        self.history = [list(self.rows)] if self.churn.stale else []

    def _times(self, average: float) -> int:
        whole = int(average)
        return whole + (self.rng.random() < average - whole)

    def change(self) -> None:
        churn, rng = self.churn, self.rng
        for _ in range(self._times(churn.inserts)):
            self.born += 1
            self.ever.add(row := f"T{self.born:06d}")
            self.rows.insert(rng.randint(0, min(churn.depth, len(self.rows))), row)
        for _ in range(self._times(churn.deletes)):
            if self.rows:
                self.stable.discard(self.rows.pop(rng.randrange(len(self.rows))))
        if churn.bulk and rng.random() < churn.bulk and self.rows:
            start = rng.randrange(len(self.rows))
            gone = self.rows[start : start + max(1, len(self.rows) // 20)]
            del self.rows[start : start + len(gone)]
            self.stable.difference_update(gone)
        for _ in range(self._times(churn.moves) if churn.moves and self.rows else 0):
            self.rows.insert(0, self.rows.pop(rng.randrange(len(self.rows))))
        if churn.stale:
            self.history = [*self.history[-19:], list(self.rows)]

    def _shuffle_ties(self, window: Window) -> None:
        """Of the blocks that this query may show; the others nobody sees."""
        block = self.churn.ties
        first = max(0, window.start // block - 1) * block
        for start in range(first, min(len(self.rows), window.end + block), block):
            part = self.rows[start : start + block]
            self.rng.shuffle(part)
            self.rows[start : start + block] = part

    def _taken_for(self, window: Window) -> Window:
        """What the server makes of the question."""
        if self.paging == "ignored":
            return Window(1, window.size)
        if self.paging == "fixed":
            return Window(window.page, 30)
        if self.paging == "repeats":  # a page past the end is the last page once more
            last = max(1, -(-len(self.rows) // window.size))
            return Window(min(window.page, last), window.size)
        return window

    def answer(self, window: Window) -> Answer[str] | None:
        """None if the server cannot answer: a bad row is on the page."""
        self.requests += 1
        if self.churn.ties:
            self._shuffle_ties(window)
        window = self._taken_for(window)
        self.change()
        if self.rng.random() < self.churn.swallowed:
            return Answer([], [], 0, 0)
        rows = self.rows
        if self.rng.random() < self.churn.stale:
            rows = self.rng.choice(self.history)
        size = min(window.size, self.cap or window.size)
        start = (window.page - 1) * size
        ids = rows[start : start + size]
        if self.churn.short and ids and self.rng.random() < self.churn.short:
            del ids[self.rng.randint(1, len(ids)) :]
        if not self.bad.isdisjoint(ids):
            return None
        if self.churn.second_query:
            self.change()
            rows = self.rows
        return Answer(ids, list(ids), len(ids), self.count(len(rows)))


class Outage(Exception):
    """The walk takes the failures for an outage of the server."""


@dataclass
class Outcome:
    rows: list[str]
    lost: set[str]
    repeated: int
    invented: set[str]
    report: Report
    requests: int


def read_on(
    planner: ChainWalk[str],
    server: ModelList,
    *,
    lanes: int = 1,
    most: int | None = None,
    max_requests: int = 100_000,
) -> list[str]:
    """Drive a walk until it has given `most` rows, or is done; with several lanes the answers
    are taken and come back in random order, as over a network."""
    asked: list[Window] = []
    taken: list[tuple[Window, Answer[str] | None]] = []
    rows: list[str] = []
    while not planner.done and (most is None or len(rows) < most):
        asked += planner.next(lanes - len(asked) - len(taken))
        if asked and (not taken or server.rng.random() < 0.7):
            window = asked.pop(server.rng.randrange(len(asked)))
            taken.append((window, server.answer(window)))
        else:
            window, answer = taken.pop(server.rng.randrange(len(taken)))
            rows += planner.feed(window, answer) if answer else planner.fail(window)
            if planner.outage:
                raise Outage
            asked = [window for window in asked if planner.wants(window)]
            taken = [pair for pair in taken if planner.wants(pair[0])]
        assert server.requests < max_requests, "the walk does not end"
    return rows


def outcome_of(rows: list[str], planner: ChainWalk[str], server: ModelList) -> Outcome:
    unique = set(rows)
    return Outcome(
        rows=rows,
        lost=server.stable - unique,
        repeated=len(rows) - len(unique),
        invented=unique - server.ever,
        report=planner.report,
        requests=server.requests,
    )


def walk(
    server: ModelList,
    *,
    size: int,
    lanes: int = 1,
    memory: ServerMemory | None = None,
    max_requests: int = 100_000,
) -> Outcome:
    """Read the whole list."""
    planner: ChainWalk[str] = ChainWalk(size=size, lanes=lanes, memory=memory)
    rows = read_on(planner, server, lanes=lanes, max_requests=max_requests)
    return outcome_of(rows, planner, server)
