"""The walk as a state machine: anything may happen between any two requests."""

from __future__ import annotations

import random

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from walk_model import Churn, ModelList

from unpod_async._checkpoint import WalkState
from unpod_async._walk import ChainWalk
from unpod_async._windows import Answer, Window


class WalkMachine(RuleBasedStateMachine):
    """A list that changes, a reader that fetches out of order, loses answers, hears nothing
    but emptiness, is cancelled, killed and resumed from a checkpoint written as JSON."""

    @initialize(
        rows=st.integers(0, 300),
        size=st.sampled_from([10, 20, 50, 200]),
        lanes=st.sampled_from([1, 3]),
        seed=st.integers(0, 2**32),
    )
    def begin(self, rows: int, size: int, lanes: int, seed: int) -> None:
        self.model = ModelList(rows, random.Random(seed), Churn())
        self.size, self.lanes = size, lanes
        self.walk: ChainWalk[str] = ChainWalk(size=size, lanes=lanes)
        self.handed: list[str] = []
        self.ready: list[str] = []
        self.asked: list[Window] = []
        self.heard: list[tuple[Window, Answer[str] | None]] = []
        self.cheated = False  # an empty answer for a list that is not empty

    @rule(at=st.floats(0, 0.99), depth=st.booleans())
    def insert(self, at: float, depth: bool) -> None:
        self.model.born += 1
        row = f"T{self.model.born:06d}"
        self.model.ever.add(row)
        self.model.rows.insert(int(at * len(self.model.rows)) if depth else 0, row)

    @rule(at=st.floats(0, 0.99), most=st.sampled_from([1, 1, 1, 30]))
    def delete(self, at: float, most: int) -> None:
        start = int(at * len(self.model.rows))
        self.model.stable.difference_update(self.model.rows[start : start + most])
        del self.model.rows[start : start + most]

    @rule(pick=st.floats(0, 0.99))
    def fetch(self, pick: float) -> None:
        self.asked += self.walk.next(self.lanes - len(self.asked) - len(self.heard))
        if self.asked:
            window = self.asked.pop(int(pick * len(self.asked)))
            self.heard.append((window, self.model.answer(window)))

    @rule(pick=st.floats(0, 0.99))
    @precondition(lambda self: self.heard)
    def hear(self, pick: float) -> None:
        window, answer = self.heard.pop(int(pick * len(self.heard)))
        assert answer is not None
        self.ready += self.walk.feed(window, answer)
        self.drop_the_unwanted()

    @rule(pick=st.floats(0, 0.99))
    @precondition(lambda self: self.heard)
    def swallow(self, pick: float) -> None:
        """The server answers an error as `200 []`."""
        window, answer = self.heard.pop(int(pick * len(self.heard)))
        self.cheated |= bool(answer and answer.length)
        self.ready += self.walk.feed(window, Answer([], [], 0, 0))
        self.drop_the_unwanted()

    @rule(most=st.integers(1, 60))
    def take(self, most: int) -> None:
        self.handed += self.ready[:most]
        del self.ready[:most]

    @rule()
    def kill_and_resume(self) -> None:
        written = msgspec.json.encode(self.walk.state(len(self.ready)))
        state = msgspec.json.decode(written, type=WalkState)
        self.walk = ChainWalk(size=self.size, lanes=self.lanes, resume=state)
        self.ready, self.asked, self.heard = [], [], []

    def drop_the_unwanted(self) -> None:
        self.asked = [window for window in self.asked if self.walk.wants(window)]
        self.heard = [pair for pair in self.heard if self.walk.wants(pair[0])]

    @invariant()
    def nothing_is_repeated_or_invented(self) -> None:
        if not hasattr(self, "walk"):
            return
        rows = self.handed + self.ready
        assert len(rows) == len(set(rows))
        assert set(rows) <= self.model.ever

    def teardown(self) -> None:
        """Left in peace, every walk ends; and if it says verified, nothing is missing."""
        if not hasattr(self, "walk"):
            return
        for _ in range(3000):
            if self.walk.done:
                break
            self.fetch(0.0)
            if self.heard:
                self.hear(0.0)
        assert self.walk.done
        self.nothing_is_repeated_or_invented()
        lost = self.model.stable - set(self.handed + self.ready)
        report = self.walk.report
        assert not (report.verified and lost)
        if lost and not self.cheated:
            assert report.missing or report.reason


TestWalkMachine = WalkMachine.TestCase
TestWalkMachine.settings = settings(
    max_examples=300,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
