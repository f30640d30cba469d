"""How a walk gets past rows that the server cannot send. Pure.

One bad row makes every page that holds it fail. Windows are shrunk from the frontier until
few rows are left, and these are crossed one by one. A single row cannot overlap its
neighbour, so the crossing holds on to the last good row, the anchor: it is looked up before
the step and once more behind it, and then the row behind it again. If both stand where they
stood, what was stepped over is what could not be read, and nothing else; if one moved, the
step is taken again from where the anchor is.
"""

from __future__ import annotations

from enum import Enum
from typing import Generic, TypeVar

from ._seen import Seen
from ._windows import Answer, Window

__all__ = ["Crossing", "Step"]

T = TypeVar("T")

SINGLE = 4  # rows in question below which they are read one by one
DEAD = 4  # failures in a row, where a known row should be, that make an outage
LOST = 40  # looks for the anchor before the crossing goes on without it
OUTAGE = 16  # rows in a row that fail: these are no bad rows
SILENCE = 8  # … where nothing at all has answered yet


class Step(Enum):
    """What to do after an answer: go on asking, take the row and what was stepped over,
    the list ends here, or nothing answers any more."""

    ON = 1
    LANDED = 2
    END = 3
    OUTAGE = 4


class _State(Enum):
    FIND = 1
    STEP = 2
    SURE = 3  # the same row again, with all retries, before it is called unreadable
    CHECK = 4
    CONFIRM = 5


class Crossing(Generic[T]):
    """Single rows from the anchor on, until one can be read behind those that cannot.

    It looks for the anchor near offset `frontier - 1`, or takes it to be there if `sure`;
    None if the list has not begun. After LANDED: `row_id` and `row` are the next good row, at
    offset `landed`, and `failed` the offsets between; `anchor` None: it was given up.
    """

    def __init__(self, anchor: str | None, frontier: int, *, sure: bool = False) -> None:
        self.failed: list[int] = []
        self.row_id = ""
        self.row: T | None = None
        self.landed = frontier
        self.shaken = False  # the list moved during the crossing
        self._at = frontier - 1
        self.anchor = anchor
        self._low: tuple[int, str] | None = None  # a known row, as it was found
        self._high: int | None = None  # an offset where no known row was found
        self._dead = 0  # failures in a row
        self._looks = 0
        self._ended = False
        self._alive = anchor is not None
        self._state = _State.STEP if sure or anchor is None else _State.FIND

    def window(self) -> Window:
        if self._state in (_State.STEP, _State.SURE, _State.CONFIRM):
            return Window(self.landed + 1, 1, once=self._state is _State.STEP)
        return Window(self._at + 1, 1)

    def heard(self, answer: Answer[T] | None, known: Seen[T]) -> Step:
        """Take the answer to `window()`; None if it failed."""
        looking = self._state in (_State.FIND, _State.CHECK)
        self._dead = 0 if answer is not None else self._dead + looking
        if self._dead >= DEAD:
            return Step.OUTAGE
        if self._state is _State.FIND:
            return self._find(answer, known)
        if self._state is _State.CHECK:
            if answer is not None and answer.ids == [self.anchor]:
                self._state = _State.CONFIRM
                return Step.ON
            self._lose()
            return self._find(answer, known)
        if self._state is _State.CONFIRM:
            # A birth and a death between two looks may have hidden a row from the first.
            if answer is not None and answer.ids == ([] if self._ended else [self.row_id]):
                return self._arrived()
            self._lose()
            return Step.ON
        return self._step(answer, known)

    def _lose(self) -> None:
        self._state, self._low, self._high, self.shaken = _State.FIND, None, None, True

    def _find(self, answer: Answer[T] | None, known: Seen[T]) -> Step:
        """Look for a known row with none behind it."""
        self._looks += 1
        here = self._at
        seen = answer.ids[0] if answer and answer.ids else ""
        if (ordinal := known.ordinal(seen)) is not None:
            self._low = here, seen
            behind = known.count - 1 - ordinal
            if not behind or self._high == here + 1:
                return self._stand_on(here, seen)
            self._at = here + (behind if self._looks < LOST // 4 else 1)
        else:  # unknown, unreadable, or behind the end: rows died above
            self._high = here
            if self._low is not None and self._low[0] == here - 1:
                return self._stand_on(*self._low)
            self._at = max(0, here - 1)
        if self._looks >= LOST:
            return self._stand_on(self._at, None)
        return Step.ON

    def _stand_on(self, at: int, anchor: str | None) -> Step:
        self._at, self.anchor = at, anchor
        self._state, self.landed, self.failed = _State.STEP, at + 1, []
        return Step.ON

    def _step(self, answer: Answer[T] | None, known: Seen[T]) -> Step:
        if answer is None and self._state is _State.STEP and self._alive:
            self._state = _State.SURE
            return Step.ON
        if answer is not None and not self._alive:  # so it is the rows: name them for sure
            self._alive = True
            if self.failed:
                return self._stand_on(self._at, None)
        self._state = _State.STEP
        if answer is None or (answer.length and not answer.ids):
            self.failed += [] if answer else [self.landed]
            self.landed += 1
            most = OUTAGE if self._alive else SILENCE
            return Step.OUTAGE if len(self.failed) >= most else Step.ON
        if answer.length and answer.ids[0] in known:  # rows were born above
            self._lose()
            self._at = self.landed
            return Step.ON if self.anchor else self._stand_on(self.landed, None)
        if answer.length:
            self.row_id, self.row = answer.ids[0], answer.rows[0]
        self._ended = answer.length == 0
        if self.anchor is None:
            return self._arrived()
        self._state = _State.CHECK
        return Step.ON

    def _arrived(self) -> Step:
        return Step.END if self._ended else Step.LANDED
