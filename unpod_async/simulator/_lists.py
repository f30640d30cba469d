"""How lists are read: churn, page query, more churn, count query. All lists share this one way."""

import math
from array import array
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain, groupby
from random import Random
from typing import Any, Literal, NamedTuple

import msgspec

from ._messages import Reply, Request, fetch_failed
from ._orders import Lists, Numbers, window
from ._paging import (
    FILTERS,
    RefusedError,
    Window,
    created_filter,
    matches,
    parse_window,
    row_filters,
)
from ._rows import agent_row, encode
from .world import World

Count = Literal["second-query", "atomic", "null", "missing"] | Callable[[int], object]
SNAPSHOTS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Churn:
    """What changes with each list request, on average.

    Tasks are inserted (each up to `depth` rows deep), deleted and get another status anywhere;
    runs are inserted, and deleted with all their tasks.
    """

    inserts: float = 1.0
    deletes: float = 1.0
    updates: float = 0.0
    depth: int = 0
    run_inserts: float = 0.0
    run_deletes: float = 0.0

    def changes(self, world: World) -> list[Callable[[], object]]:
        """What happens during one request, in random order."""
        kinds: tuple[tuple[float, Callable[[], object]], ...] = (
            (self.inserts, lambda: world.insert(depth=self.depth)),
            (self.deletes, world.delete_random),
            (self.updates, world.update_random),
            (self.run_inserts, world.insert_run),
            (self.run_deletes, world.delete_random_run),
        )
        counted = [[change] * _poisson(world.random, mean) for mean, change in kinds]
        changes = list(chain.from_iterable(counted))
        world.random.shuffle(changes)
        return changes


@dataclass(slots=True)
class View:
    """How one request sees its list; the faults that lie about lists change it."""

    ticks_ago: int = 0
    ignore_page: bool = False
    repeat_last_page: bool = False
    shuffle: Random | None = None


class Listing(NamedTuple):
    """One of the lists: whose rows, and what its failures are called."""

    world: World
    kind: Literal["runs", "tasks", "agent"]
    failure: str
    run_id: str | None = None


class ListReader:
    """Answers list requests; what it reads and how may be changed at any time."""

    def __init__(
        self, world: World, churn: Churn | None, count: Count, max_page_size: int | None
    ) -> None:
        self.world = world
        self.churn = churn
        self.count: Count = count
        self.max_page_size = max_page_size
        self._snapshots: deque[tuple[int, Lists]] | None = None
        self._remembered: tuple[object, dict[int, bool]] = (None, {})

    def remember(self, armed: bool) -> None:
        """Keeps old states for `View.ticks_ago`, from now on or no more."""
        if not armed:
            self._snapshots = None
        elif self._snapshots is None:
            self._snapshots = deque([(self.world.tick, self.world.lists.copy())], SNAPSHOTS)

    def read(self, request: Request, view: View, listing: Listing) -> Reply:
        """One page, or the 206 of a query that cannot be or of a page with a poisoned row."""
        with listing.world.lock:
            between = self._begin(listing.world)
            request.tick = listing.world.tick
            try:
                asked = self._window(request, view, listing)
                order = self._order(request, view, listing)
            except RefusedError as error:
                detail = encode({"detail": str(error)}).decode()
                return fetch_failed(listing.failure, detail)
            if view.repeat_last_page:
                asked = _back_to_the_list(asked, len(order))
            page = window(order, asked.skip, asked.limit)
            if listing.kind != "runs" and any(map(listing.world.is_poisoned, page)):
                return fetch_failed(listing.failure, "Internal Server Error")
            rows = _rows(listing, page)
            for change in between:
                change()
            total = len(self._order(request, view, listing) if between else order)
        return self._answer(listing, rows, total)

    def _begin(self, world: World) -> list[Callable[[], object]]:
        """Lets the first part of the churn happen; returns what comes before the count query."""
        if world is not self.world:
            return []
        if self._snapshots is not None:
            self._snapshots.append((world.tick, world.lists.copy()))
        changes = self.churn.changes(world) if self.churn else []
        first = len(changes)
        if changes and self.count == "second-query":
            first = world.random.randint(0, first)
        for change in changes[:first]:
            change()
        world.tick += 1
        return changes[first:]

    def _window(self, request: Request, view: View, listing: Listing) -> Window:
        query = {**request.query, "page": "1"} if view.ignore_page else request.query
        default = 20 if listing.kind == "agent" else 50
        return parse_window(query, default, self.max_page_size)

    def _order(self, request: Request, view: View, listing: Listing) -> Numbers:
        """The numbers that match, oldest first."""
        world = listing.world
        lists = self._as_it_was(view.ticks_ago) if world is self.world else world.lists
        order = lists.runs if listing.kind == "runs" else world.numbers(listing.run_id, lists)
        if listing.kind == "tasks" and listing.run_id is None:
            order = self._filtered(world, order, request.query)
        if view.shuffle:
            born = world.run_created if listing.kind == "runs" else world.created
            order = _shuffle_ties(order, born, view.shuffle)
        return order

    def _as_it_was(self, ticks_ago: int) -> Lists:
        """The youngest snapshot that is old enough, or the oldest there is."""
        if not ticks_ago or not self._snapshots:
            return self.world.lists
        then = self.world.tick - ticks_ago
        old = [lists for tick, lists in self._snapshots if tick <= then]
        return old[-1] if old else self._snapshots[0][1]

    def _filtered(self, world: World, order: Numbers, query: Mapping[str, str]) -> Numbers:
        span = created_filter(query)
        if span:
            order = array("I", (n for n in order if span[0] <= world.created(n) <= span[1]))
        tests = row_filters(query)
        if not tests:
            return order
        key = (id(world), world.updates, *(query.get(name) for name in FILTERS))
        if self._remembered[0] != key:  # so that each row is decoded once for a whole walk
            self._remembered = (key, {})
        known = self._remembered[1]
        for n in order:
            if n not in known:
                known[n] = matches(world.task_json(n), tests)
        return array("I", filter(known.__getitem__, order))

    def _answer(self, listing: Listing, rows: list[bytes], total: int) -> Reply:
        shown = self.count(total) if callable(self.count) else {"null": None}.get(self.count, total)
        count = {} if self.count == "missing" else {"count": shown}
        what = "Runs" if listing.kind == "runs" else "Tasks"
        head = {**count, "status_code": 200, "message": f"{what} Fetched Successfully"}
        opening = encode(head).removesuffix(b"}")
        return Reply(200, opening + b',"data":[' + b",".join(rows) + b"]}", rows=len(rows))


def _rows(listing: Listing, page: Numbers) -> list[bytes]:
    world = listing.world
    if listing.kind == "runs":
        return [world.run_json(number) for number in page]
    rows = [world.task_json(number) for number in page]
    return rows if listing.kind == "tasks" else list(map(_as_the_agent_sees, rows, page))


def _as_the_agent_sees(row: bytes, number: int) -> bytes:
    try:
        return encode(agent_row(msgspec.json.decode(row, type=dict[str, Any]), number))
    except ValueError:
        return row


def _back_to_the_list(asked: Window, rows: int) -> Window:
    """A page past the end becomes the last one."""
    if asked.skip < rows or not rows or not asked.limit:
        return asked
    last = (rows - 1) // asked.limit
    return Window(last * asked.limit, asked.limit)


def _shuffle_ties(order: Numbers, born: Callable[[int], int], rng: Random) -> Numbers:
    groups = (list(group) for _, group in groupby(order, born))
    return array("I", chain.from_iterable(rng.sample(group, len(group)) for group in groups))


def _poisson(rng: Random, mean: float) -> int:
    """How many of something that happens `mean` times on average (Knuth's product of chances)."""
    happened, chance, limit = 0, rng.random(), math.exp(-mean)
    while chance > limit:
        happened += 1
        chance *= rng.random()
    return happened
