"""The rows of the table: what is compared with what, and what is aimed at."""

from __future__ import annotations

from typing import NamedTuple

from .harness import Ratio, Round, ratio


class Goal(NamedTuple):
    """A row. `arm` over `base`, or a key of what was measured in another way; at most `target`,
    or with `at_least` that and more. Without a target it is there to be read."""

    title: str
    workload: str
    arm: str
    base: str = ""
    target: float | None = None
    stretch: float | None = None
    at_least: bool = False
    less: str | None = None


B = "(b) raw + full decode"
BARE = "aiohttp + our rows"
PYDANTIC = "httpx + pydantic"

GOALS = (
    Goal("W1 rows untouched / (b)", "W1", "ours", B, 0.75, 0.65),
    Goal("W1 every task.call and transcript / (b)", "W1", "ours, task.call", B, 1.40, 1.20),
    Goal("W1 .pages() / bare loop", "W1", "ours, .pages()", f"{BARE}, in turn", 1.05, 1.02),
    Goal("W1 plain iteration / bare loop", "W1", "ours, async for", f"{BARE}, in turn"),
    Goal("W1 walk() / bare lanes", "W1", "ours", BARE),
    Goal("W2 / (b)", "W2", "ours", B, 1.60, 1.30),
    Goal("W2 / bare lanes", "W2", "ours", BARE),
    Goal("W3 / (b)", "W3", "ours", B, 4.0, 3.3),
    Goal("W3 / bare get + read + decode", "W3", "ours", BARE, 1.15, 1.05),
    Goal("httpx + pydantic / ours, W1", "W1", PYDANTIC, "ours", 6, 9, at_least=True),
    Goal("httpx + pydantic / ours, W2", "W2", PYDANTIC, "ours", 11, 15, at_least=True),
    Goal("httpx + pydantic / ours, W3", "W3", PYDANTIC, "ours", 15, 20, at_least=True),
    Goal("requests + dicts / ours, W1", "W1", "requests + dicts", "ours", 3.5, at_least=True),
    Goal("dlt / ours, W1", "W1", "dlt", "ours", 4, at_least=True),
    Goal("W4 / raw + same inflate + decode", "W4", "ours", "raw + inflate + full decode", 1.15),
    Goal("W4 / raw + same inflate + our rows", "W4", "ours", "raw + inflate + our rows"),
    Goal("W5 fan-out, 16 in flight, ideal/wall", "W5", "fan-out 16", "", 0.93, 0.96, at_least=True),
    Goal("W5 fan-out, 64 in flight, ideal/wall", "W5", "fan-out 64", "", 0.92, 0.96, at_least=True),
    Goal("W5 bare aiohttp, 16 in flight, ideal/wall", "W5", "bare 16"),
    Goal("W5 bare aiohttp, 64 in flight, ideal/wall", "W5", "bare 64"),
    Goal("W5 W1, 4 in flight / bytes only", "W5", "walk 4", "", 0.94, 0.97, at_least=True),
    Goal("W5 the same per request", "W5", "walk 4 per request"),
    Goal("requests of the proof, sequential", "proof", "sequential", "", 1.10, 1.06),
    Goal("requests of the proof, parallel", "proof", "parallel", "", 1.20, 1.12),
    Goal("peak memory, long against short list, MB", "memory", "more", "", 20),
    Goal(
        "JSON Lines export / full decode in memory",
        "W1",
        "ours, JSON Lines",
        "(c) full decode",
        0.60,
        0.45,
    ),
    Goal(
        "… without the reading of the bytes",
        "W1",
        "ours, JSON Lines",
        "(c) full decode",
        less="aiohttp, bytes only",
    ),
    Goal("noise: an identical second arm, W1", "W1", "(b) once more", B),
    Goal("noise: an identical second arm, W2", "W2", "(b) once more", B),
    Goal("noise: an identical second arm, W3", "W3", "(b) once more", B),
)


class Line(NamedTuple):
    """A row as measured; `value` is None where something was missing."""

    goal: Goal
    value: Ratio | None
    rounds: int

    @property
    def verdict(self) -> str:
        goal = self.goal
        if self.value is None:
            return "not measured"
        if goal.target is None:
            return ""
        if self._reaches(goal.stretch):
            return "met, stretch too"
        return "met" if self._reaches(goal.target) else "NOT met"

    def _reaches(self, aim: float | None) -> bool:
        if aim is None or self.value is None:
            return False
        reached = self.value.median
        return reached >= aim if self.goal.at_least else reached <= aim


def lines(
    measured: dict[str, list[Round]], others: dict[str, dict[str, list[float]]]
) -> list[Line]:
    """All rows, from the rounds of the workloads and from what was measured in other ways."""
    found: list[Line] = []
    for goal in GOALS:
        rounds = measured.get(goal.workload, [])
        values = others.get(goal.workload, {}).get(goal.arm)
        if values:
            ordered = sorted(values)
            middle = ordered[len(ordered) // 2]
            found.append(Line(goal, Ratio(middle, ordered[0], ordered[-1]), len(values)))
        elif rounds and {goal.arm, goal.base} <= rounds[0].keys():
            value = ratio(rounds, goal.arm, goal.base, less=goal.less)
            found.append(Line(goal, value, len(rounds)))
        else:
            found.append(Line(goal, None, 0))
    return found
