"""What a client did so far, and what it tells while it does it. Costs nothing when unused."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from types import TracebackType
from typing import Self

from msgspec import Struct

from ._report import Report

__all__ = ["Event", "Fetch", "Observer", "Operation", "Stats", "Telemetry"]

Fetch = Callable[..., Awaitable[bytes]]


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
    """The totals and the hooks. A hook that raises is no reason for a request to fail."""

    def __init__(self, hook: Hook | None = None) -> None:
        self.stats = Stats()
        self.hooks = [] if hook is None else [hook]

    def tell(
        self, kind: str, path: str, attempt: int, outcome: int | str, wait: float | None = None
    ) -> None:
        for hook in self.hooks:
            with suppress(Exception):
                hook(Event(kind, path, attempt, outcome, wait))


class Operation:
    """One operation while it lasts; this one is told to nobody.

    `with operation:` covers it whole. A block that outlives a call starts its readers under
    `current()`, so that their requests belong to it, and calls `end` when it is left.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end(error)

    def current(self) -> AbstractContextManager[None]:
        return nullcontext()

    def end(self, error: BaseException | None) -> None:
        """Called once, with what ended it, or None."""


NOBODY = Operation()


class Telemetry(ABC):
    """Who is told of a client's requests and operations. None of its methods may raise."""

    @abstractmethod
    def watch(self, fetch: Fetch, observer: Observer) -> Fetch:
        """What the client's lists call instead of `fetch`."""

    @abstractmethod
    def rows(self, path: str, rows: int) -> None:
        """So many rows of a page were decoded."""

    @abstractmethod
    def operation(self, name: str, path: str, report: Report | None) -> Operation:
        """An operation begins; its report is final when it ends."""
