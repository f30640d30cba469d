"""What a client did so far, and what it tells while it does it. Costs nothing when unused."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from msgspec import Struct

__all__ = ["Event", "Observer", "Stats"]


class Stats(Struct):
    """Running totals of one client; times in seconds, summed over all requests.

    `requests` sent, retries included; `retries`; `rows` decoded; `bytes` of bodies as they
    came over the wire; `waited` before retries; `queued` for a place under the client's limit,
    apart from `served`, between sending and having the whole answer.
    """

    requests: int = 0
    retries: int = 0
    rows: int = 0
    bytes: int = 0
    waited: float = 0.0
    queued: float = 0.0
    served: float = 0.0


class Event(Struct, frozen=True):
    """One thing that happened: `kind` is "answer" (a request was answered well), "retry"
    (`outcome` is a status or the name of an error, `wait` the seconds until the next attempt)
    or "failure" (nothing more is tried). `attempt` counts from 1; `path` has no secrets."""

    kind: str
    path: str
    attempt: int
    outcome: int | str
    wait: float | None = None


Hook = Callable[[Event], None]


class Observer:
    """The totals and the hook. A hook that raises is no reason for a request to fail."""

    def __init__(self, hook: Hook | None = None) -> None:
        self.stats = Stats()
        self._hook = hook

    def tell(
        self, kind: str, path: str, attempt: int, outcome: int | str, wait: float | None = None
    ) -> None:
        if self._hook is not None:
            with suppress(Exception):
                self._hook(Event(kind, path, attempt, outcome, wait))
