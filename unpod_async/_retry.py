"""Retry, wait or give up: a policy and a pure decision. Who sleeps is the transport."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import Enum
from itertools import islice
from typing import NamedTuple

import backoff
from msgspec import Struct

from .errors import BusinessError, ConfigurationError, ProtocolError, UnpodError

__all__ = [
    "AdaptiveLimit",
    "Breaker",
    "Failure",
    "GiveUp",
    "Kind",
    "Limits",
    "Retry",
    "RetryBudget",
    "RetryPolicy",
    "decide",
]


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """How one page is fetched when things go wrong; all times in seconds.

    `attempts` tries in all; waits are drawn from 0 to `base`·2ⁿ (`throttle_base`·2ⁿ after
    429 and 503), at most `cap`. A server's Retry-After is honoured in full up to
    `max_retry_after`. `deadline` covers one page: tries, retries and waits. Each try has
    `connect_timeout`, `read_timeout` (between two reads) and `attempt_timeout` (in all).

    Once nothing has answered for half a minute the platform is taken to be down: one request
    asks at growing intervals whether it is back, the others are held back for at most
    `outage_wait`, and fail at once where that is too short. A job that should sit an outage
    out takes both `outage_wait` and `deadline` long, and more `attempts`.
    """

    attempts: int = 4
    base: float = 0.5
    throttle_base: float = 1.0
    cap: float = 20.0
    max_retry_after: float = 60.0
    outage_wait: float = 0.0
    deadline: float = 300.0
    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    attempt_timeout: float = 130.0

    def __post_init__(self) -> None:
        if not _is_whole(self.attempts) or not 1 <= self.attempts <= 100:
            raise ConfigurationError("attempts takes a whole number from 1 to 100")
        for name in self.__struct_fields__[1:]:
            check_seconds(name, getattr(self, name), zero=name in _MAY_BE_ZERO)


_MAY_BE_ZERO = {"base", "throttle_base", "cap", "outage_wait"}


class Limits(Struct, frozen=True, kw_only=True):
    """How many requests the whole client has in flight, retries included.

    `adaptive` starts at 4 and lets the limit follow the server, never above
    `max_concurrency`; without it the limit is `max_concurrency` at once.
    """

    max_concurrency: int = 8
    adaptive: bool = True

    def __post_init__(self) -> None:
        if not _is_whole(self.max_concurrency) or not 1 <= self.max_concurrency <= 10_000:
            raise ConfigurationError("max_concurrency takes a whole number from 1 to 10000")
        if not isinstance(self.adaptive, bool):
            raise ConfigurationError("adaptive takes True or False")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_seconds(name: str, value: object, *, zero: bool = False) -> None:
    number = _is_whole(value) or isinstance(value, float)
    if not number or not (0 <= value < 1e9 if zero else 0 < value < 1e9):  # type: ignore[operator]
        raise ConfigurationError(f"{name} takes seconds, a number {'from' if zero else 'above'} 0")


class Kind(Enum):
    """What a failure deserves: how many tries in all, beside the policy's own limit."""

    NEVER = 1
    ONCE_MORE = 2
    TWICE_MORE = 3
    TRANSIENT = 100
    THROTTLED = 101
    DEAD_SOCKET = 102  # a kept-alive connection that the server had closed


class Failure(NamedTuple):
    """One failed try."""

    error: UnpodError
    kind: Kind


class Retry(NamedTuple):
    """Try again after `wait` seconds; `pause` asks the same of the whole client."""

    wait: float
    pause: bool = False


class GiveUp(NamedTuple):
    """Raise the last error; `deadline` says that time, not hope, ran out, `spent` that the
    client's budget of retries did."""

    deadline: bool = False
    spent: bool = False


_TRANSIENT = frozenset({408, 425, 500, 502, 504, 530, *range(520, 528)})
_THROTTLED = frozenset({429, 503})
_FETCHING = re.compile(r"fetch|retriev", re.IGNORECASE)
_CALLERS_FAULT = re.compile(r"\bskip\b|regular expression|\$?regex|8-byte int", re.IGNORECASE)


def kind_of_answer(error: UnpodError) -> Kind:
    """What an answer that is an error deserves."""
    if isinstance(error, BusinessError):
        return Kind.TWICE_MORE if is_upstream(error) else Kind.NEVER
    if error.status in _THROTTLED or (error.status == 413 and error.retry_after is not None):
        return Kind.THROTTLED
    return Kind.TRANSIENT if error.status in _TRANSIENT else Kind.NEVER


def is_upstream(error: UnpodError) -> bool:
    """Whether a 206 tells of trouble behind the server, not of a refusal or a fault of
    the caller. Only the text tells them apart (CONTRACT, section 4)."""
    return (
        error.errors is not None
        and _FETCHING.search(error.message) is not None
        and not _names_callers_fault(str(error.errors))
    )


def _names_callers_fault(errors: str) -> bool:
    """A proxy's HTML page never does, whatever its words ("skip to content")."""
    return not errors.lstrip().startswith("<") and _CALLERS_FAULT.search(errors) is not None


def is_refusal(error: UnpodError) -> bool:
    """Whether a 206 refuses the space, rather than naming trouble or a fault of the caller."""
    fetching = error.errors is not None and _FETCHING.search(error.message) is not None
    return isinstance(error, BusinessError) and not fetching


def is_unreadable(error: UnpodError) -> bool:
    """Whether this may tell of a row that the server cannot send (206 upstream, 500) or
    whose bytes cannot be read: then a smaller page may do. A page of HTML tells of neither."""
    if isinstance(error, BusinessError):
        return is_upstream(error)
    damaged = type(error) is ProtocolError and error.status == 200
    return error.status == 500 or (damaged and error.body.lstrip().startswith("{"))


def ceilings(base: float, cap: float, count: int) -> list[float]:
    """The longest wait before each retry. `expo` yields None first."""
    return [float(wait) for wait in islice(backoff.expo(2, base, cap), 1, count + 1)]


def decide(
    failures: Sequence[Failure],
    *,
    remaining: float,
    policy: RetryPolicy,
    rng: Callable[[], float],
) -> Retry | GiveUp:
    """What to do after the last of `failures`, with `remaining` seconds of the page's
    deadline. `rng` gives numbers from 0 to 1."""
    error, kind = failures[-1]
    alike = sum(failure.kind is kind for failure in failures)
    if kind is Kind.NEVER or len(failures) >= policy.attempts or alike >= kind.value:
        return GiveUp()
    if kind is Kind.DEAD_SOCKET and alike == 1:
        return Retry(0.0) if remaining > 0 else GiveUp(deadline=True)
    throttled = kind is Kind.THROTTLED
    if throttled and error.retry_after:  # a wait of 0, or a date gone by, says nothing
        wait = error.retry_after * (1 + 0.1 * rng())
        fits = error.retry_after <= policy.max_retry_after and wait < remaining
        return Retry(wait, pause=True) if fits else GiveUp()
    base = policy.throttle_base if throttled else policy.base
    wait = rng() * ceilings(base, policy.cap, len(failures))[-1]
    return Retry(wait, pause=throttled) if wait < remaining else GiveUp(deadline=True)


class RetryBudget:
    """What the whole client may still spend on retries: 500 tokens, so that a platform that is
    down is not asked four times by each of a hundred tasks. A retry costs 14, one that was
    asked for by throttling 5, one on a dead connection 1; the success of a retry gives its
    cost back, any other success one token."""

    MOST = 500

    def __init__(self) -> None:
        self.tokens = self.MOST

    def take(self, kind: Kind) -> int:
        """The cost of a retry, now paid; 0 if there are not enough tokens left."""
        cost = {Kind.THROTTLED: 5, Kind.DEAD_SOCKET: 1}.get(kind, 14)
        if cost > self.tokens:
            return 0
        self.tokens -= cost
        return cost

    def succeeded(self, paid: int) -> None:
        """A request succeeded, after a last retry that cost `paid`, or at once (0)."""
        self.tokens = min(self.MOST, self.tokens + (paid or 1))


class Breaker:
    """Whether the platform is taken to be down: after 10 failures in a row over 30 seconds
    or more, nothing is sent for 15 seconds, then one probe; each probe that fails doubles the
    time, to 120 seconds at most, and any answer ends it."""

    FAILURES, OVER, FIRST, LONGEST = 10, 30.0, 15.0, 120.0

    def __init__(self) -> None:
        self.last: UnpodError | None = None  # what the platform failed with last
        self.failures = 0  # in a row
        self._since = 0.0  # when the first of them was
        self._pause = 0.0  # how long nothing is sent; 0: the platform is not taken to be down
        self._until = 0.0

    @property
    def down(self) -> bool:
        return self._pause > 0

    def wait(self, now: float) -> float:
        """Seconds until a request may be sent."""
        return max(0.0, self._until - now) if self.down else 0.0

    def answered(self) -> None:
        self.failures, self._pause = 0, 0.0

    def failed(self, error: UnpodError, now: float, *, probe: bool) -> None:
        self.last = error
        self.failures += 1
        if self.failures == 1:
            self._since = now
        trips = self.failures >= self.FAILURES and now - self._since >= self.OVER
        if probe or (trips and not self.down):
            self._pause = min(self._pause * 2, self.LONGEST) or self.FIRST
            self._until = now + self._pause


class AdaptiveLimit:
    """How many requests may be in flight: one more after each full window of successes
    that used at least half of it, 0.7 times as many after an overload, once per round trip."""

    def __init__(self, limits: Limits) -> None:
        self.most = limits.max_concurrency
        self.value = float(min(4, self.most) if limits.adaptive else self.most)
        self._adaptive = limits.adaptive
        self._quiet_until = float("-inf")

    @property
    def whole(self) -> int:
        return max(1, int(self.value))

    @property
    def full(self) -> bool:
        return self.value >= self.most

    def succeeded(self, in_flight: int) -> None:
        if self._adaptive and in_flight * 2 >= self.value:
            self.value = min(float(self.most), self.value + 1 / self.value)

    def overloaded(self, now: float, round_trip: float) -> None:
        if self._adaptive and now >= self._quiet_until:
            self.value = max(1.0, self.value * 0.7)
            self._quiet_until = now + round_trip
