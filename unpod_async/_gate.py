"""Where every attempt of a client waits for its turn: for a place under the limit, for the
pause that the server asked for, and for a platform that is down to come back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from ._retry import AdaptiveLimit, Breaker, Failure, Kind, Limits, RetryPolicy
from .errors import DeadlineExceeded, RequestTimeout, ServerError, TransportError, UnpodError

__all__ = ["Gate"]


class Gate:
    """One for the whole client. An attempt enters with a token of its own, its `slot`, tells
    what it learnt, and leaves."""

    def __init__(
        self,
        limits: Limits,
        policy: RetryPolicy,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._outage_wait = policy.outage_wait
        self._clock = clock
        self._sleep = sleep
        self._adaptive = AdaptiveLimit(limits)
        self._breaker = Breaker()
        self._probe: object | None = None  # the slot that asks whether the platform is back
        self._probed = anyio.Event()
        self._paused_until = float("-inf")
        self.limiter = anyio.CapacityLimiter(self._adaptive.whole)

    def enter_at_once(self, slot: object, now: float, ends: float) -> bool:
        """Whether `slot` may send, for nothing stands in its way, as it does most of the time."""
        if (
            self._breaker.failures
            or self._probe is not None
            or not self._paused_until <= now < ends
        ):
            return False
        try:
            self.limiter.acquire_on_behalf_of_nowait(slot)
        except anyio.WouldBlock:
            return False
        return True

    async def enter(self, slot: object, ends: float) -> UnpodError | None:
        """None once `slot` may send, before `ends`; else the error that says why it may not."""
        now = self._clock()
        patient_until = now + self._outage_wait
        while True:
            closed = self._breaker.wait(now)
            probing = self._probe is not None
            if (closed and now + closed > patient_until) or (probing and now >= patient_until):
                return self._down(closed)
            wait = max(closed, self._paused_until - now)
            if now + max(wait, 0.0) >= ends:
                return DeadlineExceeded("no time was left to send the request")
            if wait > 0:
                await self._sleep(wait)
            elif probing:
                with anyio.move_on_after(min(ends, patient_until) - now):
                    await self._probed.wait()
            elif await self._took_place(slot, ends - now) and self._may_go(slot):
                return None
            now = self._clock()

    async def _took_place(self, slot: object, seconds: float) -> bool:
        try:
            self.limiter.acquire_on_behalf_of_nowait(slot)
        except anyio.WouldBlock:
            with anyio.move_on_after(seconds):
                await self.limiter.acquire_on_behalf_of(slot)
                return True
            return False
        return True

    def _may_go(self, slot: object) -> bool:
        """Whether nothing came in between while the slot waited for its place."""
        now = self._clock()
        free = self._paused_until <= now and not self._breaker.wait(now) and self._probe is None
        if not free:
            self.limiter.release_on_behalf_of(slot)
        elif self._breaker.down:
            self._probe, self._probed = slot, anyio.Event()
        return free

    def leave(self, slot: object) -> None:
        self.limiter.release_on_behalf_of(slot)
        if self._probe is slot:
            self._probe = None
            self._probed.set()

    def pause(self, seconds: float) -> None:
        """Nobody sends for so long."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    def answered(self) -> None:
        """The platform sent an answer that it meant."""
        if self._breaker.failures:
            self._breaker.answered()
        if not self._adaptive.full:
            self._adaptive.succeeded(int(self.limiter.borrowed_tokens))
            self._follow()

    def _follow(self) -> None:
        if self.limiter.total_tokens != self._adaptive.whole:
            self.limiter.total_tokens = self._adaptive.whole

    def failed(self, slot: object, failure: Failure, began: float) -> None:
        now = self._clock()
        error, kind = failure
        if kind is Kind.THROTTLED or (isinstance(error, RequestTimeout) and kind is not Kind.NEVER):
            self._adaptive.overloaded(now, now - began)
            self._follow()
        if isinstance(error, ServerError) or (
            isinstance(error, TransportError) and kind is not Kind.NEVER
        ):
            self._breaker.failed(error, now, probe=self._probe is slot)
        elif error.status is not None:
            self._breaker.answered()

    def _down(self, closed: float) -> UnpodError:
        """As the error that the platform failed with last, for that is what is wrong."""
        last = self._breaker.last
        assert last is not None
        return type(last)(
            "not sent, for the platform is down: the last of many failures in a row was "
            f"{last.status or last.message!r}; it is asked again in {closed:.0f} s",
            status=last.status,
            errors=last.errors,
            retry_after=closed,
            body=last.body,
        )
