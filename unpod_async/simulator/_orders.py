"""Lists of numbered rows, oldest first, in compact arrays."""

from array import array
from bisect import bisect_left
from random import Random
from typing import NamedTuple, TypeAlias

Numbers: TypeAlias = "array[int]"


class Lists(NamedTuple):
    """All orders at one moment, oldest first: of tasks, of runs, and of each run's tasks."""

    tasks: Numbers
    runs: Numbers
    of_run: dict[int, Numbers]

    def copy(self) -> "Lists":
        parts = {run: numbers[:] for run, numbers in self.of_run.items()}
        return Lists(self.tasks[:], self.runs[:], parts)


def window(order: Numbers, skip: int, limit: int) -> Numbers:
    """Newest first, `limit` rows after the first `skip`; a limit of 0 is no limit."""
    end = max(len(order) - skip, 0)
    start = max(end - limit, 0) if limit else 0
    return order[start:end][::-1]


def position(order: Numbers, number: int) -> int:
    """Lists are nearly sorted, so look where the number would be before looking everywhere."""
    guess = bisect_left(order, number)
    if guess < len(order) and order[guess] == number:
        return guess
    return order.index(number)


def run_sizes(random: Random, runs: int, tasks: int) -> list[int]:
    """So many tasks shared out: nothing, one, whole pages give or take one, and a few huge."""
    if not runs:
        return []
    edges = [0, 1, 50, 49, 51, 100, 99, 101, 200, 500, 1000][: runs // 2]
    while sum(edges) > tasks // 2:
        edges.pop()
    weights = [random.paretovariate(1.2) for _ in range(runs - len(edges))]
    share = (tasks - sum(edges)) / sum(weights)
    sizes = [int(weight * share) for weight in weights] + edges
    random.shuffle(sizes)
    sizes[-1] += tasks - sum(sizes)
    return sizes
