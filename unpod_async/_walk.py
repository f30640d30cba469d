"""The chain walk: which windows of a changing list to ask for, what to hand on, and
whether the whole was seen. Pure: no I/O, no clock, no randomness.

Two answers that share one row cover one gap-free interval of the list, whatever the
times they were taken, because rows keep their order. An answer that starts at offset 0
is open upwards; a short answer that reaches its own count is open downwards. If the
intervals join from top to bottom, no row that lived throughout can be missing: it would
lie inside some interval, and that answer would have held it. So windows overlap, and
each must show a row already known before its new rows count.

A driver alternates `next(free)` (windows to fetch) and `feed(window, answer)` (rows to
hand on). Windows are matched to answers by identity; answers may be fed in any order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sized
from typing import Generic, TypeVar

from msgspec import Struct

from ._checkpoint import REMEMBERED, Relink, WalkState
from ._crossing import LOST, SINGLE, Crossing, Step
from ._report import MAX_DRIFT, Drift, Report
from ._seen import Seen
from ._windows import MIN_PROVABLE, Answer, ServerMemory, Window, plan

__all__ = ["ChainWalk"]

T = TypeVar("T")

EMPTY_ASKS = 2  # an empty answer is believed after this many
EMPTY_ASKS_DOUBTED = 5  # … once one was ever contradicted
STALLS = 10  # answers in a row without a new row before the proof is given up
RESTARTS = 3  # times the chain may start again from the top
TAIL_LOOKS = 8  # looks behind a short answer that lies below its own count
HEAD_WINDOWS = 64  # windows to find the way from the new head back to known rows
BARREN = 16  # crossings in a row, none of which meets a bad row, that are worth more requests
PER_ROW = 4  # requests that bad rows are worth at most, for each row of the list
FURTHER = 10  # times as many rows as were reached may be believed to follow
JOINT = 4  # known rows in one piece that join the new head to the list as it was
RECENT = 4096  # rows whose ids are kept, at least; and as many as may be under way at once
MANY = 10_000  # … if a page has no more rows than this
HELD = 8  # answers held beyond the lanes while a bridge is laid
EMPTY_DELAY = 0.05  # seconds before an empty list is asked again; four times that, …


class _Slot(Struct, Generic[T], eq=False):
    """A window in list order, and its answer once it came."""

    window: Window
    planned_from: int  # the proven frontier when it was planned
    asked: int = 0  # logical time; 0: not asked yet
    answer: Answer[T] | None = None
    failed: bool = False
    taken: bool = False  # its answer has come, and is about to be heard
    gap: Drift | None = None  # it showed no known row; held until a bridge joins it


class _Head(Generic[T]):
    """The way from the top of the list, as it is after the walk, down to a row the walk
    knows: what lies above was born since."""

    def __init__(self) -> None:
        self.windows = 0
        self.restart()

    def restart(self) -> None:
        self.frontier = 0
        self.born: dict[str, T] = {}

    def links(self, window: Window, answer: Answer[T], seen: Seen[T]) -> bool:
        return answer.length > 0 and (
            window.start == 0 or any(i in self.born or i in seen for i in answer.ids)
        )


class ChainWalk(Generic[T]):
    """Plans one walk over one list. `size` is the largest page to ask for, `lanes` how
    many windows may be under way at once."""

    done = False
    outage = False  # nothing answers any more: raise the last error
    _frontier = 0  # offset behind the last proven row, as of the last answer absorbed
    _tick = 0  # logical time of questions and answers
    _absorbed = 0  # … of the last answer absorbed
    _extensions = 0  # answers that brought new rows
    _stalled = 0  # answers in a row that brought none
    _back = 0  # how far behind the frontier the last bridge was laid
    _counted = 0  # the first count that this walk (or this leg of it) was told
    _reached = 0  # as far as any answer held rows
    _beyond = 0  # how far the list reaches where the count says that it does not
    _restarts = 0
    _top = 0  # the first row handed on since the last of them
    _empties = 0
    _shorts = 0  # short answers in a row below their own count
    _longest = 0
    _confirming = False
    _most = 0  # the largest window to try after a page that may have been capped; 0: any
    _cap = 0  # how long that page was
    _head: _Head[T] | None = None
    _listed: int | None = None  # rows handed on when the chain had reached the end
    _narrow = 0  # the largest window to try near a bad row; 0: none is near
    _floor = 0  # no window may start above this offset: it would hold the bad row
    _crossing: Crossing[T] | None = None
    _stepped = False  # rows were read one by one: no answer joins them
    _allowance = 0  # requests beyond the budget that bad rows are worth
    _allowed_for = 0  # … so far
    _barren = 0  # crossings since one named a bad row
    _chaining = True
    _doubt: str | None = None  # the first reason why this walk proves nothing
    _relink: Relink | None = None

    def __init__(
        self,
        *,
        size: int,
        lanes: int = 1,
        memory: ServerMemory | None = None,
        resume: WalkState | None = None,
    ) -> None:
        self.report = Report()
        self._size = size
        self._lanes = lanes
        self._memory = memory if memory is not None else ServerMemory()
        self._overlap = 2 if lanes == 1 else max(2, size * 3 // 100)
        self._slots: deque[_Slot[T]] = deque()
        self._seen: Seen[T] = Seen(max(RECENT, min(size, MANY) * (lanes + HELD + 2)))
        self._invalid: set[tuple[int, bytes]] = set()
        if size < MIN_PROVABLE:
            self._stop_chaining(f"pages of {size} rows are too small to prove by")
        if resume is not None and resume.handed:
            self._resume(resume)

    # -- leaving and coming back --------------------------------------------------------

    def state(self, unhanded: int = 0) -> WalkState:
        """Where the walk stands, if the last `unhanded` rows had not been given out."""
        report = self.report
        handed = self._seen.count - unhanded
        listed = self._seen.count if self._listed is None else self._listed
        phase = "head" if self._head is not None and handed >= listed else "rows"
        return WalkState(
            handed=handed,
            listed=listed,
            frontier=max(0, self._frontier - max(0, listed - handed)),
            longest=self._longest,
            head=self._seen.first(min(REMEMBERED, handed)),
            tail=self._seen.last(REMEMBERED, skip=unhanded),
            phase="done" if self.done and not unhanded else phase,
            extensions=self._extensions,
            windows=report.windows,
            duplicates=report.duplicates,
            conflicts=report.conflicts,
            foreign=report.foreign,
            invalid=len(report.invalid),
            unreadable=list(report.unreadable),
            expected=report.expected,
            doubt=self._doubt or self._blemish() or (report.reason if self.done else None),
            missing=report.missing,
            top=self._top if self._top < handed else 0,
        )

    def _resume(self, state: WalkState) -> None:
        report = self.report
        self._seen.recall(state.head, state.tail, state.handed)
        self._frontier, self._longest = state.frontier, state.longest
        # What was read in two legs was not seen at one moment, be it a list of one answer.
        self._extensions, self._doubt = state.extensions + 1, state.doubt
        report.seen, report.windows, report.expected = state.handed, state.windows, state.expected
        report.duplicates, report.conflicts = state.duplicates, state.conflicts
        report.foreign, report.unreadable = state.foreign, state.unreadable
        report.missing = state.missing or state.invalid > 0
        self._allowance = state.windows
        self._top = state.top
        self._chaining = True  # even a plain walk must find its place by a known row
        if state.top >= REMEMBERED and not self._seen.whole and state.phase != "done":
            # Of the rows handed on first, which may stand anywhere below, some are forgotten.
            self._finish("the list was turned over, it cannot be taken up again", missing=True)
        elif state.phase == "rows":
            self._relink = Relink(state)
        elif state.phase == "head" and not self._seen.whole:
            # Of the rows born meanwhile some were handed on and are forgotten; none is owed.
            self._finish("the walk was left while it read what was born since it began")
        elif state.phase == "head":
            self._head, self._listed = _Head(), state.listed
        else:
            self._finish()

    def _consume_relink(self, relink: Relink, slot: _Slot[T], answer: Answer[T]) -> list[T]:
        """Go on from a window that shows a row of the checkpoint; else look elsewhere."""
        known = [at for at, row_id in enumerate(answer.ids) if self._seen.links(row_id)]
        last = self._seen.ordinal(answer.ids[known[-1]]) if known else None
        behind = self._seen.count - (last or 0)
        if known and (known[-1] + 1 < len(answer.ids) or behind < 4 * answer.length):
            self._relink = None
            if self._size < MIN_PROVABLE:
                self._chaining = False
            return self._consume(slot, answer)
        self._slots.popleft()
        if known:  # the place is further down, by as many rows as are known behind
            relink.seen_at(slot.window.start + known[-1] + behind)
        reached = slot.window.start + answer.length if answer.length else 0
        if relink.missed(answer.count, max(1, self._longest), reached):
            return []
        self._relink, self._frontier = None, 0
        if not self._seen.whole:  # else all rows ever handed on are known: start at the top
            self._drift("gone", self._frontier)
            self._finish("no row that the checkpoint names is there any more", missing=True)
        return []

    # -- asking ---------------------------------------------------------------------

    def next(self, free: int) -> list[Window]:
        """At most `free` windows to fetch now, in list order. Empty while the walk waits
        for answers, or is done."""
        if self.done:
            return []
        if not self._slots:
            self._slots.append(_Slot(self._next_window(), self._frontier))
        asked = [slot for slot in self._slots if not slot.asked][:free]
        while len(asked) < free and (ahead := self._plan_ahead()):
            self._slots.append(ahead)
            asked.append(ahead)
        for slot in asked:
            self._tick += 1
            slot.asked = self._tick
        self.report.windows += len(asked)
        return [slot.window for slot in asked]

    def wants(self, window: Window) -> bool:
        """Whether an answer to this window is still of use."""
        return any(slot.window is window for slot in self._slots)

    def take(self, window: Window) -> None:
        """Its answer has come, and is about to be heard: another may be asked for meanwhile."""
        for slot in self._slots:
            if slot.window is window:
                slot.taken = True

    def _next_window(self) -> Window:
        """The one window that brings the walk on."""
        if self._crossing is not None:
            return self._crossing.window()
        if self._relink is not None:
            return self._relink.window(self._size, max(1, min(self._size, self._longest)))
        if self._head is not None:
            return plan(self._head.frontier, min(self._size, self._longest), self._overlap)
        if self._narrow:
            return self._narrow_window(self._narrow)
        if self._empties and not self._longest:
            return Window(1, self._size, delay=EMPTY_DELAY * 4 ** (self._empties - 1))
        if self._confirming:
            return self._behind_it_all()
        grown = self._frontier <= self._longest < (self.report.expected.count_last or 0)
        again = self._chaining and self._longest < self._size and (grown or self._shorts == 1)
        if again or not self._longest:
            return Window(1, self._size)  # the first, and once more if it came short
        size = self._largest
        if not self._chaining:
            return Window(self._frontier // size + 1, size)
        if self._back:
            return plan(self._frontier, size, max(self._overlap, self._back))
        return self._ahead_of(self._frontier, size)

    def _ahead_of(self, frontier: int, size: int) -> Window:
        """The window that overlaps the frontier and reaches furthest. Between few small sizes
        there may be none but with one row in common."""
        window = plan(frontier, size, self._overlap)
        return window if window.end > frontier else plan(frontier, size, 1)

    def _behind_it_all(self) -> Window:
        """A window over the end of a list that came in one answer: its last row and what
        lies behind. Two rows leave no such window; then only what lies behind."""
        if self._frontier < 3:
            return Window(2, self._frontier)
        return plan(self._frontier, self._frontier - 1, 1)

    def _plan_ahead(self) -> _Slot[T] | None:
        """One more window behind the last planned one, while lanes are free and the
        server's count says that rows are there."""
        end = self._slots[-1].window.end
        waiting = sum(slot.answer is None and not slot.taken for slot in self._slots)
        if (
            not (self._chaining and self._seen)
            or self._confirming
            or self._narrow
            or self._relink is not None
            or self._shorts  # the end, or a cap: nothing is known of what lies ahead
            or self._head is not None
            or waiting >= self._lanes
            or len(self._slots) >= self._lanes + HELD
            or end >= (self.report.expected.count_last or 0)
        ):
            return None
        return _Slot(self._ahead_of(end, self._largest), self._frontier)

    # -- hearing --------------------------------------------------------------------

    def feed(self, window: Window, answer: Answer[T]) -> list[T]:
        """Take the answer to a window; the rows that can now be handed on, in order."""
        slot = next((slot for slot in self._slots if slot.window is window), None)
        if slot is None:
            return []
        slot.answer = answer
        self._note(window, answer)
        return self._advance()

    def fail(self, window: Window) -> list[T]:
        """A window failed for good; the rows that can now be handed on. The walk looks for
        the rows that cannot be read and goes round them, or sets `outage`."""
        for slot in self._slots:
            if slot.window is window:
                slot.failed = True
        return self._advance()

    def _advance(self) -> list[T]:
        rows: list[T] = []
        while self._slots and not self.outage:
            slot = self._slots[0]
            if self._crossing is not None and (slot.failed or slot.answer is not None):
                rows += self._cross(self._crossing, slot)
            elif slot.failed:
                self._consume_failure(slot.window)
            elif slot.answer is not None:
                rows += self._consume(slot, slot.answer)
            else:
                break
            self._mind_the_budget()
        self.report.seen = self._seen.count
        return rows

    def _note(self, window: Window, answer: Answer[T]) -> None:
        self._longest = max(self._longest, answer.length)
        if answer.length and self._measures():
            self._reached = max(self._reached, window.start + answer.length)
        self._memory.longest = max(self._memory.longest, answer.length)
        for row in answer.invalid:  # overlapping windows show the same one twice
            if (place := (row.offset, row.row)) not in self._invalid:
                self._invalid.add(place)
                self.report.invalid.append(row)
                answer.news = True
        self.report.foreign += answer.foreign
        if answer.count is not None and (answer.length or answer.count):
            self.report.expected.note(answer.count)
            self._counted = self._counted or answer.count
        if answer.length > window.size:
            self._size = answer.length
            self._stop_chaining(f"asked for {window.size} rows, the server sent {answer.length}")

    def _consume(self, slot: _Slot[T], answer: Answer[T]) -> list[T]:
        """Deal with the answer at the head of the line: absorb it, drop it, or put a
        bridge in front of it."""
        if self._relink is not None:
            return self._consume_relink(self._relink, slot, answer)
        if self._head is not None:
            return self._consume_head(self._head, slot.window, answer)
        if answer.length == 0:
            self._consume_empty(slot)
            return []
        if self._empties and not self._extensions:
            self._memory.empty_contradicted = True
        known = self._known(answer)
        if self._narrow and self._seen and not known:
            self._slots.clear()
            self._crossing = Crossing(self._seen.bottom, self._frontier)
            return []
        if self._chaining and self._seen and not known and slot.window.start > 0:
            self._bridge(slot)
            return []
        self._slots.popleft()
        if slot.gap:
            slot.gap.repaired = True
        if self._seen and not known:
            self._restart()
            if self.done:
                return []
        if self._chaining and known and slot.asked < self._absorbed and not self._at_bottom(answer):
            # Asked before the last answer was absorbed: what it shows behind its last known
            # row may have died since, above the frontier. Let another answer show it.
            return []
        # Under doubt every unseen row is handed on, unless old ones may look unseen.
        strictly = known and not (self._doubt and self._seen.whole)
        position = known[-1] + 1 if strictly else 0
        return self._absorb(slot.window, answer, position)

    def _restart(self) -> None:
        """The top of the list shows no known row: all of them died, or were pushed out of
        sight faster than one page. An answer from the top needs no link, but a walk that
        starts over again and again gets nowhere."""
        self._restarts += 1
        self._top = self._seen.count
        if not self._seen.whole:
            self._finish("no row that the checkpoint names is there any more", missing=True)
        if self._restarts > RESTARTS and self._chaining:
            self._stop_chaining("the list changes faster than it can be read")
            self.report.missing = True

    def _at_bottom(self, answer: Answer[T]) -> bool:
        """Whether the answer holds the last row handed on."""
        bottom = self._seen.count - 1
        return any(self._seen.ordinal(row_id) == bottom for row_id in answer.ids)

    def _known(self, answer: Answer[T]) -> list[int]:
        """Positions of rows seen before; notes repetitions, conflicts and broken order."""
        known: list[int] = []
        last = -1
        ordinals = self._seen.ordinals(answer.ids)
        for position, ordinal in enumerate(ordinals):
            if ordinal is None:
                continue
            self._repeated(ordinal, answer.rows[position])
            if self._listed is not None and ordinal >= self._listed:
                continue  # born since, and handed on before a resume: it stands above all
            if self._head is None and ordinal < self._seen.solid:
                continue  # rows behind it may have been handed on and forgotten
            if ordinal < last:
                self._out_of_order(ordinal)
            last = ordinal
            known.append(position)
        return known

    def _out_of_order(self, ordinal: int) -> None:
        self._drift("order", ordinal)
        self._doubt = self._doubt or "rows changed places in the list"

    def _repeated(self, ordinal: int, row: T) -> None:
        self.report.duplicates += 1
        self.report.conflicts += self._seen.differs(ordinal, row)

    def _absorb(self, window: Window, answer: Answer[T], position: int) -> list[T]:
        """Join an answer to the proven rows; its rows from `position` on that are new."""
        before, short = self._frontier, answer.length < window.size
        shifted = short and self._is_shifted(window, answer)
        self._frontier = window.start + answer.length
        self._tick += 1
        self._absorbed = self._tick
        self._back = 0
        self._confirming = False
        fresh = self._emit(answer.ids[position:], answer.rows[position:])
        self._mind_the_count(answer, fresh)
        if self._narrow and fresh:
            self._widen()
        suspect = shifted and self._chaining and window.size > max(self._cap, MIN_PROVABLE)
        if fresh or answer.news:
            self._extensions += bool(fresh)
            self._stalled = self._shorts = 0
        elif not suspect:
            self._stall()
        if suspect and not self.done:
            self._suspect_cap(answer, self._frontier if fresh else before)
        elif short and not self.done:
            self._consider_end(window, answer)
        elif self._most:
            self._most = 2 * self._most if 2 * self._most < self._size else 0
        return fresh

    def _is_shifted(self, window: Window, answer: Answer[T]) -> bool:
        """Whether the last row handed on is further down in the answer than its offset says:
        rows came above it, or the server has begun to cap its pages and the offset is not the one
        asked for. If it is not there at all, only a count that fits the offset speaks for it."""
        if not self._seen or window.start == 0:
            return False
        place = self._frontier - 1 - window.start
        bottom = self._seen.count - 1
        found = (at for at, i in enumerate(answer.ids) if self._seen.ordinal(i) == bottom)
        at = next(found, None)
        return window.start + answer.length != answer.count if at is None else at > place

    def _suspect_cap(self, answer: Answer[T], frontier: int) -> None:
        """Neither the offset nor the end that such a page shows is to be believed. A page that
        asks for no more than came cannot come short for the same cap: it tells."""
        self._slots.clear()
        self._stalled = 0  # smaller pages show known rows for longer
        self._frontier = min(frontier, answer.count or frontier)
        self._most = max(answer.length, MIN_PROVABLE)
        if answer.length == self._cap >= MIN_PROVABLE:  # twice the same: that is what it is
            self._drift("clamp", self._frontier)
            self._size, self._most = answer.length, 0
        self._cap = answer.length

    @property
    def _largest(self) -> int:
        """The largest window to ask for. Never more than was once sent: of a capped page the
        offset would not be ours."""
        return min(self._size, self._longest, self._most or self._size)

    def _mind_the_count(self, answer: Answer[T], fresh: list[T]) -> None:
        """Rows where the count says that there are none: the list is longer. But a count that
        moves is alive, and rows mostly seen before may be the same page over and over."""
        told = self.report.expected
        beyond = self._frontier > (answer.count or 0) + self._size
        still = (told.max or 0) - (told.min or 0) <= self._size
        new = 2 * len(fresh) > answer.length and fresh[-1] is answer.rows[-1]
        if self._measures() and beyond and still and new:
            self._beyond = max(self._beyond, min(self._frontier, self._seen.count))

    def _emit(self, ids: list[str], rows: list[T]) -> list[T]:
        before, doubted = self._seen.count, self._doubt
        self._seen.expected = self.report.expected.max or 0
        fresh, repeated = self._seen.add(ids, rows)
        if doubted:
            return fresh  # `_known` has counted what is repeated
        for ordinal, row in repeated:
            self._repeated(ordinal, row)
            if ordinal < before:  # not twice in one answer, but long ago
                self._out_of_order(ordinal)
        return fresh

    # -- rows that cannot be read -----------------------------------------------------

    def _consume_failure(self, window: Window) -> None:
        self._slots.clear()
        if self._head is not None:
            self._head.windows += HEAD_WINDOWS // 4
            self._head.restart()
            if self._head.windows >= HEAD_WINDOWS:
                self._finish("the head of the list cannot be read again", missing=True)
            return
        if self._relink is not None:
            if self._relink.unread():
                return
            self._frontier, self._relink = self._relink.place, None
        if not self._narrow:
            self._allow(4 * self._size.bit_length() + 16)
        self._narrow = min(window.size, self._narrow or window.size) // 2
        if self._narrow < SINGLE:
            self._crossing = Crossing(self._seen.bottom, self._frontier)

    def _allow(self, requests: int) -> None:
        """More requests for a bad row; not without end, for a list may move faster than
        single rows can be read."""
        most = PER_ROW * (100 + self._believed())
        requests = min(requests, max(0, most - self._allowed_for))
        self._allowed_for += requests
        self._allowance += requests

    def _narrow_window(self, most: int) -> Window:
        """The window of at most `most` rows behind the floor that shows a known row and
        reaches furthest; if there is none, the next row is crossed to by itself."""
        if not self._seen:
            return Window(1, most, once=True)
        best = Window(1, 1)
        # As much room on both sides as there is: the bad row may move down, the known up.
        room = min(3, (self._frontier - self._floor) // 3)
        for size in range(1, most + 1):
            start = (self._frontier - max(1, room)) // size * size
            if start >= self._floor + room and start + size > best.end:
                best = Window(start // size + 1, size, once=True)
        if best.end > self._frontier:
            return best
        self._crossing = Crossing(self._seen.bottom, self._frontier)
        return self._crossing.window()

    def _widen(self) -> None:
        self._narrow *= 2
        if self._narrow >= self._size and self._floor <= self._frontier - self._size // 2:
            self._narrow = self._floor = 0

    def _cross(self, crossing: Crossing[T], slot: _Slot[T]) -> list[T]:
        self._slots.clear()
        step = crossing.heard(None if slot.failed else slot.answer, self._seen)
        if step is Step.ON:
            return []
        if step is Step.OUTAGE:
            self.outage = True
            return []
        self._crossing = None
        if not self._seen.whole and not self._seen.links(crossing.anchor or ""):
            # What lies behind may have been handed on and forgotten.
            self._finish("no row that the checkpoint names is there any more", missing=True)
            return []
        self._stepped = True
        self._barren = 0 if crossing.failed else self._barren + 1
        if self._barren < BARREN:
            self._allow(4 * self._size.bit_length() + 2 * LOST)
        self.report.unreadable += crossing.failed
        if step is Step.END:
            self._finish()
            return []
        self._frontier = crossing.landed + 1
        if crossing.failed:
            self._floor = crossing.landed
        self._narrow = max(SINGLE, self._narrow)
        rows = self._emit([crossing.row_id], [crossing.row])  # type: ignore[list-item]
        if crossing.shaken and self._frontier - self._floor < 2 * SINGLE:
            self._crossing = Crossing(self._seen.bottom, self._frontier, sure=True)
            self._crossing.shaken = True
        return rows

    # -- gaps, ends and other turns ---------------------------------------------------

    def _bridge(self, slot: _Slot[T]) -> None:
        """Hold an answer that shares no row with the proven ones, and put a window in
        front of it that starts further back."""
        if slot.gap is None:
            slot.gap = self._drift("gap", slot.window.start)
        if self._back:
            self._back *= 2
        elif slot.planned_from != self._frontier:
            self._back = self._overlap
        else:
            self._back = max(self._size // 4, self._overlap)
        while len(self._slots) >= self._lanes + HELD:
            self._slots.pop()
        bridge = plan(self._frontier, self._largest, self._back)
        self._slots.appendleft(_Slot(bridge, self._frontier))

    def _consume_empty(self, slot: _Slot[T]) -> None:
        self._slots.popleft()
        self._empties += 1
        if not self._longest:
            self._consider_empty_list()
        elif self._confirming and slot.window.start >= self._frontier:
            self._end()
        elif slot.planned_from == self._frontier:
            # Behind the frontier there must be rows to overlap: a failed fetch, or the list
            # has shrunk. (A window planned ahead may simply lie behind the end.)
            self._drift("empty", slot.window.start)
            self._back = max(self._back * 2, self._size // 4, self._overlap)
            self._confirming = False
            self._stall()

    def _consider_empty_list(self) -> None:
        count = self.report.expected.max or 0
        doubted = self._memory.empty_contradicted or count > 0
        if self._empties < (EMPTY_ASKS_DOUBTED if doubted else EMPTY_ASKS):
            return
        if count:
            self._finish(f"the server counts {count} rows and sends none")
        else:
            self.report.empty_confirmed = self._empties
            self._finish(f"an empty list cannot be proved; it was asked {self._empties} times")

    def _consider_end(self, window: Window, answer: Answer[T]) -> None:
        """What a short answer means: the end, a cap on the page size, or a count that
        describes another moment."""
        count = answer.count
        if count is not None and window.start + answer.length >= count:
            if answer.length < self._memory.longest:
                self._end()
            else:  # so far nothing shows that this server ever sends more rows at once
                self._confirming = True
            return
        self._shorts += 1
        if self._shorts > 1 and answer.length == self._longest < self._size:
            self._drift("clamp", window.start)
            self._shorts, self._size = 0, answer.length
            if self._size < MIN_PROVABLE:
                self._stop_chaining(f"the server sends no more than {self._size} rows at once")
        elif count is None and self._shorts > 1:
            self._finish("the server gives no count to tell the end by")
        elif self._shorts >= TAIL_LOOKS:
            self._finish(f"the server counts {count} rows, the list ends at {self._frontier}")

    def _end(self) -> None:
        """The chain reaches the bottom. A list of one answer was seen whole at one moment;
        a longer one is looked at once more from the top, for rows that are new or moved."""
        self._slots.clear()
        if self._extensions > 1 and self._chaining:
            self._head, self._listed = _Head(), self._seen.count
        else:
            self._finish()

    def _consume_head(self, head: _Head[T], window: Window, answer: Answer[T]) -> list[T]:
        self._slots.popleft()
        head.windows += 1
        known = self._known(answer)
        if head.links(window, answer, self._seen):
            head.frontier = window.start + answer.length
            reach = self._born_above(answer, known)
            for row_id, row in zip(answer.ids[:reach], answer.rows[:reach], strict=True):
                if row_id not in self._seen:
                    head.born.setdefault(row_id, row)
            if known and not reach:
                self._finish("the top of the list is not the one that the walk began with")
            elif known and self._joined(window, answer, known, reach):
                fresh = self._emit(list(head.born), list(head.born.values()))
                self._finish()
                return fresh
        else:
            head.restart()
        expected = self.report.expected
        born = (expected.max or 0) - (expected.min or 0)
        most = HEAD_WINDOWS + 2 * born // self._size
        if head.windows >= (most if answer.length else EMPTY_ASKS_DOUBTED):
            self._drift("head", head.frontier)
            self._finish("no way was found from the new head of the list to known rows")
        return []

    def _joined(self, window: Window, answer: Answer[T], known: list[int], reach: int) -> bool:
        """Whether this is the list that the walk knows, and no known row that moved up among
        others that moved unseen: some known rows in one piece, or the end."""
        if window.start + answer.length >= (answer.count or 0):
            return True
        piece = range(max(0, reach - JOINT), reach)
        return known[0] <= piece[0] and set(piece) <= set(known)

    def _born_above(self, answer: Answer[T], known: list[int]) -> int:
        """How many of the answer's rows are old or born since, for sure. After a resume not
        every old row is known, but those above the first rows of the walk were born since."""
        if self._seen.whole or not known:
            return len(answer.ids)
        ordinals = [self._seen.ordinal(answer.ids[at]) or 0 for at in known]
        tops = [at for at, n in zip(known, ordinals, strict=True) if self._top <= n < REMEMBERED]
        return tops[-1] + 1 if tops else 0

    def _stall(self) -> None:
        self._stalled += 1
        if self._stalled < STALLS:
            return
        if self._chaining:
            self._stop_chaining("the server sends rows already seen, whatever the page")
            self._stalled = 0
            self._slots.clear()  # more of the same
        else:
            received = self._seen.count + self.report.foreign + len(self.report.invalid)
            self._finish(missing=received < (self.report.expected.min or 0))

    def _measures(self) -> bool:
        """Whether what is read tells how long the list is, and not how fast it grows."""
        mostly_new = 4 * self.report.duplicates <= self._seen.count + 400
        return self._chaining or (self._size < MIN_PROVABLE and mostly_new)

    def _believed(self) -> int:
        """How many rows the list may be taken to have. One that grows while it is read owes no
        more than it held at first; one that counts far more than it shows, little more."""
        return max(min(self._counted, FURTHER * self._reached), self._beyond)

    def _mind_the_budget(self) -> None:
        budget = 40 + 6 * -(-self._believed() // self._size)
        if self.done or self.report.windows <= budget + self._allowance:
            return
        if self._chaining:
            self._stop_chaining("the budget of requests is spent")
            self.report.missing = True
        elif self.report.windows > 4 * budget + self._allowance:
            self._finish("the list changes faster than it can be read", missing=True)

    def _stop_chaining(self, reason: str) -> None:
        """Go on as a plain walk: stopping here would lose all that lies behind."""
        self._chaining = False
        self._doubt = self._doubt or reason

    def _drift(self, kind: str, offset: int) -> Drift:
        drift = Drift(kind, offset)
        if len(self.report.drift) < MAX_DRIFT:
            self.report.drift.append(drift)
        return drift

    def _finish(self, doubt: str | None = None, *, missing: bool = False) -> None:
        report = self.report
        self.done = True
        self._slots.clear()
        report.seen = self._seen.count
        report.extra_requests = max(0, report.windows - -(-report.seen // self._size))
        report.missing |= missing or bool(report.invalid or report.unreadable)
        report.reason = self._doubt or self._blemish() or doubt or self._shortfall()
        if report.missing and report.reason is None:
            report.reason = "something was missing before the walk was left and taken up again"
        report.verified = report.reason is None

    def _blemish(self) -> str | None:
        if self.report.unreadable:
            offsets = ", ".join(map(str, self.report.unreadable[:10]))
            more = ", …" if len(self.report.unreadable) > 10 else ""
            return _counted(self.report.unreadable, f"cannot be read: offset {offsets}{more}")
        if self._stepped:
            return "rows had to be read one by one, beside one that could not be read at first"
        if self.report.invalid:
            return _counted(self.report.invalid, "without a usable identity")
        if self.report.foreign:
            return f"{self.report.foreign} rows belong to another list"
        return None

    def _shortfall(self) -> str | None:
        """Where pages are capped, now so and now so, the end is told by offsets that are not
        ours: then the count must not speak against it, by more than it moved. One that never
        moved need not see a cap."""
        capped = self._cap or any(one.kind == "clamp" for one in self.report.drift)
        fewest, most = self.report.expected.min or 0, self.report.expected.max or 0
        spread = most - fewest
        if (spread and not capped) or self._seen.count >= fewest - spread:
            return None
        return f"the server never counted fewer than {fewest} rows, {self._seen.count} were seen"

    def shrink(self, window: Window) -> None:
        """The answer to this window was too large: ask for half as many rows from now on."""
        self._slots = deque(slot for slot in self._slots if slot.window is not window)
        self._size = max(1, min(self._size, window.size) // 2)
        if self._narrow and self._crossing is None:
            self._narrow = min(self._narrow, window.size) // 2
            if self._narrow < SINGLE:
                self._crossing = Crossing(self._seen.bottom, self._frontier)
        self._mind_the_budget()
        if self._size < MIN_PROVABLE and self._chaining:
            self._stop_chaining(
                f"the answers are too large for more than {self._size} rows at once"
            )


def _counted(rows: Sized, what: str) -> str:
    return f"{len(rows)} {'row' if len(rows) == 1 else 'rows'} {what}"
