"""The state of the simulated platform: which runs and tasks exist, in which order, since when.

Pure: no sockets, no clock, and all chance comes from the seed. Lists are arrays of numbers and
rows are written when they are asked for, so a million tasks cost about ten megabytes.
"""

from array import array
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec

from ._orders import position, window
from ._rows import encode
from ._state import Event, State

TASK_STATUSES = ("pending", "in_progress", "processing", "scheduled", "completed", "failed")


P = ParamSpec("P")
T = TypeVar("T")


def _locked(method: "Callable[Concatenate[World, P], T]") -> "Callable[Concatenate[World, P], T]":
    """A test's thread and the server's thread may both use the world."""

    @wraps(method)
    def wrapper(world: "World", /, *args: P.args, **kwargs: P.kwargs) -> T:
        with world.lock:
            return method(world, *args, **kwargs)

    return wrapper


class World(State):
    """The runs and tasks of one space, newest first, and all that ever happened to them.

    `tick` counts changes and list queries; `log` has the changes.
    """

    # Asking

    def __len__(self) -> int:
        return len(self.lists.tasks)

    def mark(self) -> int:
        """The tick of now, to hand to `lived_throughout`."""
        return self.tick

    @_locked
    def task_ids(self, run_id: str | None = None) -> list[str]:
        """Ids of the space's or of one run's tasks, newest first; unknown run: none."""
        return [self._task_ids.text(number) for number in reversed(self.numbers(run_id))]

    @_locked
    def run_ids(self) -> list[str]:
        """Ids of all runs, newest first."""
        return [self._run_ids.text(number) for number in reversed(self.lists.runs)]

    @_locked
    def row(self, task_id: str) -> dict[str, Any]:
        """The task as a list shows it now, or showed it last; KeyError if it never was."""
        row = msgspec.json.decode(self.task_json(self._task_ids.number(task_id)))
        if not isinstance(row, dict):
            raise TypeError(f"{task_id} is not a JSON object")
        return row

    @_locked
    def lived_throughout(
        self, since_tick: int, until_tick: int | None = None, *, run_id: str | None = None
    ) -> set[str]:
        """Ids of the tasks that were there at every moment from one tick to the other (or now)."""
        alive = set(self.task_ids(run_id))
        return self._survivors(alive, ("insert", "delete"), since_tick, until_tick, run_id)

    @_locked
    def runs_lived_throughout(self, since_tick: int, until_tick: int | None = None) -> set[str]:
        """The same for runs."""
        kinds = ("insert-run", "delete-run")
        return self._survivors(set(self.run_ids()), kinds, since_tick, until_tick, None)

    def _survivors(
        self,
        alive: set[str],
        kinds: tuple[str, str],
        since: int,
        until: int | None,
        run_id: str | None,
    ) -> set[str]:
        """Undoes what happened after `until`, then leaves out whatever came or went before."""
        touched: set[str] = set()
        for tick, kind, name in reversed(self.log):
            if tick <= since:
                break
            if kind not in kinds:
                continue
            if until is None or tick <= until:
                touched.add(name)
            elif kind == kinds[0]:
                alive.discard(name)
            elif run_id is None or self._run_ids.text(self._run_of_task(name)) == run_id:
                alive.add(name)
        return alive - touched

    # Changing

    @_locked
    def insert(self, n: int = 1, *, depth: int = 0, run_id: str | None = None) -> list[str]:
        """New tasks at the head, or each up to `depth` rows deep; of this run or of a recent one.

        Returns their ids in the order of insertion; KeyError for an unknown run.
        """
        return [self._insert(depth, run_id) for _ in range(n)]

    @_locked
    def insert_run(self, n: int = 1, *, tasks: int = 0) -> list[str]:
        """New runs at the head, each with so many new tasks; returns the runs' ids."""
        made = []
        for _ in range(n):
            number = len(self._run_born)
            self._run_born.append(self._later())
            self.lists.runs.append(number)
            self.lists.of_run[number] = array("I")
            made.append(self._run_ids.text(number))
            self._tell("insert-run", made[-1])
            self.insert(tasks, run_id=made[-1])
        return made

    @_locked
    def delete(self, *task_ids: str) -> None:
        """Removes these tasks; KeyError, and nothing removed, if one is not there."""
        numbers = [self._alive(task_id) for task_id in dict.fromkeys(task_ids)]
        self._remove(numbers)

    @_locked
    def delete_random(self, n: int = 1) -> list[str]:
        """Removes so many tasks (or all there are) anywhere; returns their ids."""
        numbers = self.random.sample(self.lists.tasks, min(n, len(self)))
        return self._remove(numbers)

    @_locked
    def delete_span(self, offset: int, n: int) -> list[str]:
        """Removes `n` neighbours, the first of them `offset` rows below the head."""
        return self._remove(list(window(self.lists.tasks, offset, n)) if n > 0 else [])

    @_locked
    def delete_run(self, run_id: str) -> None:
        """Removes a run and its tasks; KeyError if it is not there."""
        number = self._run_ids.number(run_id)
        if number not in self.lists.of_run:
            raise KeyError(run_id)
        self._remove(list(self.lists.of_run[number]))
        del self.lists.of_run[number]
        del self.lists.runs[position(self.lists.runs, number)]
        self._tell("delete-run", run_id)

    @_locked
    def delete_random_run(self) -> str | None:
        """Removes one run with its tasks, if there is one; returns its id."""
        if not self.lists.runs:
            return None
        run_id = self._run_ids.text(self.random.choice(self.lists.runs))
        self.delete_run(run_id)
        return run_id

    @_locked
    def update(self, task_id: str, /, **changes: Any) -> None:
        """Changes keys of a row in place: it moves nowhere and `modified` stays as it was."""
        self._given[self._alive(task_id)] = encode(self.row(task_id) | changes)
        self.updates += 1
        self._tell("update", task_id)

    @_locked
    def update_random(self, n: int = 1) -> list[str]:
        """Gives so many tasks another status; returns their ids."""
        chosen = self.random.sample(self.lists.tasks, min(n, len(self)))
        ids = [self._task_ids.text(number) for number in chosen]
        for task_id in ids:
            self.update(task_id, status=self.random.choice(TASK_STATUSES))
        return ids

    @_locked
    def move_to_head(self, task_id: str) -> None:
        """What the real server never does: an old row becomes the first of its lists."""
        number = self._alive(task_id)
        for order in (self.lists.tasks, self.lists.of_run[self._run_of[number]]):
            del order[position(order, number)]
            order.append(number)
        self._tell("move", task_id)

    @_locked
    def poison(self, task_id: str) -> None:
        """Makes every page that holds this row fail, until the row is deleted."""
        self._poisoned.add(self._alive(task_id))

    def _insert(self, depth: int, run_id: str | None) -> str:
        run = self._recent_run() if run_id is None else self._run_ids.number(run_id)
        tasks, mine = self.lists.tasks, self.lists.of_run[run]
        number, above = len(self._run_of), self.random.randint(0, min(depth, len(tasks)))
        newer = tasks[len(tasks) - above :]
        self._run_of.append(run)
        self._born.append(self._born[newer[0]] if newer else self._later())
        # The run's own list must keep the order of the whole one.
        mine.insert(len(mine) - sum(self._run_of[other] == run for other in newer), number)
        tasks.insert(len(tasks) - above, number)
        self._tell("insert", self._task_ids.text(number))
        return self.log[-1].id

    def _remove(self, numbers: Sequence[int]) -> list[str]:
        tasks, of_run = self.lists.tasks, self.lists.of_run
        if len(numbers) == 1:
            (number,) = numbers
            mine = of_run[self._run_of[number]]
            for order in (tasks, mine):
                del order[position(order, number)]
        elif numbers:
            dead = set(numbers)
            for order in (tasks, *(of_run[run] for run in {self._run_of[n] for n in dead})):
                order[:] = array("I", (number for number in order if number not in dead))
        ids = [self._task_ids.text(number) for number in numbers]
        for task_id in ids:
            self._tell("delete", task_id)
        return ids

    def _tell(self, kind: str, name: str) -> None:
        self.tick += 1
        self.log.append(Event(self.tick, kind, name))

    def _recent_run(self) -> int:
        runs = self.lists.runs
        if not runs:
            self.insert_run()
        return runs[-1 - min(int(self.random.expovariate(0.5)), len(runs) - 1)]

    def _run_of_task(self, task_id: str) -> int:
        return self._run_of[self._task_ids.number(task_id)]

    def _alive(self, task_id: str) -> int:
        number = self._task_ids.number(task_id)
        try:
            position(self.lists.of_run[self._run_of[number]], number)
        except (LookupError, ValueError):
            raise KeyError(task_id) from None
        return number
