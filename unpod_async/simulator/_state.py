"""What there is: the numbers of tasks and runs, in order, and how to write their rows."""

import threading
from array import array
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import accumulate, pairwise
from random import Random
from typing import NamedTuple

from ._ids import Ids, Row, row_created, row_id, row_json, runs_named_in
from ._orders import Lists, Numbers, run_sizes
from ._rows import OWN, Rows, Space

NEWEST = int(datetime(2026, 1, 16, 13, 30, tzinfo=UTC).timestamp())


class Event(NamedTuple):
    """One change: `kind` is insert, delete, update or move (tasks), insert-run or delete-run."""

    tick: int
    kind: str
    id: str


class State:
    """Runs and tasks of one space as a `World` begins, and as it changes them.

    `rows` and `run_rows` replace the generated ones: newest first, each a dict or the exact
    bytes to serve. A row without a `run_id` of its own belongs to the newest run.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        runs: int = 50,
        tasks: int = 1000,
        rows: Sequence[Row] | None = None,
        run_rows: Sequence[Row] | None = None,
        dialects: Iterable[str] | Mapping[str, float] | None = None,
        mean_turns: float = 6,
        space: Space = OWN,
    ) -> None:
        self.tick = 0
        self.updates = 0
        self.log: list[Event] = []
        self.lock = threading.RLock()
        self.random = Random(f"{seed}:world")
        self.lists = Lists(array("I"), array("I"), {})
        self._rows = Rows(seed, space, dialects, mean_turns)
        self._task_ids, self._run_ids = Ids("T", seed), Ids("R", seed)
        self._run_of, self._born, self._run_born = array("I"), array("I"), array("I")
        self._given: dict[int, bytes] = {}
        self._given_runs: dict[int, bytes] = {}
        self._poisoned: set[int] = set()
        if run_rows is not None:
            self._take_runs(run_rows)
        else:
            self._fill_runs([None] * runs if rows is None else runs_named_in(rows))
        if rows is not None:
            self._take(rows)
        else:
            self._fill_tasks(tasks)
        self._now = max([NEWEST, *self._born[-1:]])

    def numbers(self, run_id: str | None = None, lists: Lists | None = None) -> Numbers:
        """The order of the space's or of one run's tasks, now or in older `lists`."""
        lists = lists or self.lists
        if run_id is None:
            return lists.tasks
        try:
            return lists.of_run.get(self._run_ids.number(run_id), array("I"))
        except KeyError:
            return array("I")

    def task_json(self, number: int) -> bytes:
        if number in self._given:
            return self._given[number]
        run = self._run_ids.text(self._run_of[number])
        return self._rows.task(number, self._task_ids.text(number), run, self._born[number])

    def run_json(self, number: int) -> bytes:
        if number in self._given_runs:
            return self._given_runs[number]
        tasks = len(self.lists.of_run.get(number, ()))
        run_id = self._run_ids.text(number)
        return self._rows.run(number, run_id, self._run_born[number], tasks)

    def created(self, number: int) -> int:
        """Unix seconds at which the task was created."""
        return self._born[number]

    def run_created(self, number: int) -> int:
        return self._run_born[number]

    def is_poisoned(self, number: int) -> bool:
        return number in self._poisoned

    def _later(self) -> int:
        """The time of the next new row. Always minute 30 to 32: calls follow from minute 33 on."""
        self._now += 1
        if self._now % 3600 >= 33 * 60:
            self._now += 57 * 60
        return self._now

    # Beginning

    def _fill_runs(self, ids: Sequence[str | None]) -> None:
        """Runs seven hours apart with these ids (None: one of ours), the newest first."""
        runs = len(ids)
        hours = min(7 * runs, 40_000)
        start = NEWEST - 3600 * hours
        self._run_born.extend(start + 3600 * ((n + 1) * hours // runs) for n in range(runs))
        self.lists.runs.extend(range(runs))
        self.lists.of_run.update((number, array("I")) for number in range(runs))
        for number, run_id in enumerate(reversed(ids)):
            if run_id is not None:
                self._run_ids.give(number, run_id)

    def _take_runs(self, rows: Sequence[Row]) -> None:
        self._fill_runs([row_id(row, "run_id") for row in rows])
        self._given_runs.update(enumerate(map(row_json, reversed(rows))))

    def _fill_tasks(self, tasks: int) -> None:
        if tasks and not self.lists.runs:
            raise ValueError("tasks belong to runs: runs must be at least 1")
        self.lists.tasks.extend(range(tasks))
        sizes = run_sizes(self.random, len(self.lists.runs), tasks)
        for run, (first, last) in enumerate(pairwise(accumulate(sizes, initial=0))):
            self.lists.of_run[run] = array("I", range(first, last))
            self._run_of.extend(array("I", [run]) * (last - first))
            born = self._run_born[run]
            pace = max(last - first, 4500)  # 25 a second, or all within three minutes
            self._born.extend(born + place * 180 // pace for place in range(last - first))

    def _take(self, rows: Sequence[Row]) -> None:
        if rows and not self.lists.runs:
            self._fill_runs([None])
        self._given.update(enumerate(map(row_json, reversed(rows))))
        for number, row in enumerate(reversed(rows)):
            task_id = row_id(row, "task_id")
            if task_id is not None:
                self._task_ids.give(number, task_id)
            run = self._run_named(row_id(row, "run_id"))
            self._run_of.append(run)
            self._born.append(row_created(row) or self._run_born[run])
            self.lists.tasks.append(number)
            self.lists.of_run[run].append(number)

    def _run_named(self, run_id: str | None) -> int:
        """The run of a given row: the newest, if it names none that exists."""
        try:
            number = self._run_ids.number(run_id or "")
        except KeyError:
            number = self.lists.runs[-1]
        return number if number in self.lists.of_run else self.lists.runs[-1]
