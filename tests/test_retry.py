"""Retry, wait or give up: the whole decision as tables, without a clock."""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unpod_async import errors
from unpod_async._protocol import Request, Response, error_for
from unpod_async._retry import (
    AdaptiveLimit,
    Breaker,
    Failure,
    GiveUp,
    Kind,
    Limits,
    Retry,
    RetryBudget,
    RetryPolicy,
    ceilings,
    check_seconds,
    decide,
    kind_of_answer,
)
from unpod_async.errors import ConfigurationError, UnpodError

LONG = 300.0


def failed(kind: Kind, retry_after: float | None = None) -> Failure:
    return Failure(UnpodError("it failed", retry_after=retry_after), kind)


def decision(
    *kinds: Kind,
    retry_after: float | None = None,
    remaining: float = LONG,
    draw: float = 1.0,
    **policy: Any,
) -> Retry | GiveUp:
    """What is decided after these failures, the last of them with this Retry-After."""
    failures = [*map(failed, kinds[:-1]), failed(kinds[-1], retry_after)]
    return decide(failures, remaining=remaining, policy=RetryPolicy(**policy), rng=lambda: draw)


# -- what an answer deserves ---------------------------------------------------------

TRANSIENT = {408, 425, 500, 502, 504, 530, *range(520, 528)}
THROTTLED = {429, 503}


def of_status(status: int, **headers: str) -> UnpodError:
    sent = {name.replace("_", "-"): text for name, text in headers.items()}
    error = error_for(Request("spaces/"), Response(status, sent, b""))
    assert error is not None
    return error


@pytest.mark.parametrize("status", [status for status in range(100, 600) if status != 200])
def test_what_every_status_deserves(status: int) -> None:
    throttled = Kind.THROTTLED if status in THROTTLED else Kind.NEVER
    expected = Kind.TRANSIENT if status in TRANSIENT else throttled
    assert kind_of_answer(of_status(status)) is expected
    told_to_wait = kind_of_answer(of_status(status, retry_after="3"))
    assert told_to_wait is (Kind.THROTTLED if status == 413 else expected)


# -- how often -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "tries"),
    [
        (Kind.NEVER, 1),
        (Kind.ONCE_MORE, 2),
        (Kind.TWICE_MORE, 3),
        (Kind.TRANSIENT, 4),
        (Kind.THROTTLED, 4),
        (Kind.DEAD_SOCKET, 4),
    ],
)
def test_how_often_each_kind_is_tried(kind: Kind, tries: int) -> None:
    for count in range(1, 8):
        expected: type = Retry if count < tries else GiveUp
        assert isinstance(decision(*[kind] * count), expected), count


def test_the_policy_limits_every_kind() -> None:
    for kind in Kind:
        assert decision(kind, attempts=1) == GiveUp()
    assert decision(Kind.TWICE_MORE, Kind.TWICE_MORE, attempts=2) == GiveUp()
    assert isinstance(decision(*[Kind.TRANSIENT] * 99, attempts=100), Retry)
    assert decision(*[Kind.TRANSIENT] * 100, attempts=100) == GiveUp()


@pytest.mark.parametrize(
    ("kinds", "again"),
    [
        ([Kind.TRANSIENT, Kind.ONCE_MORE], True),
        ([Kind.ONCE_MORE, Kind.TRANSIENT, Kind.ONCE_MORE], False),
        ([Kind.TRANSIENT, Kind.TRANSIENT, Kind.ONCE_MORE], True),
        ([Kind.TRANSIENT, Kind.TRANSIENT, Kind.TRANSIENT, Kind.ONCE_MORE], False),
        ([Kind.TWICE_MORE, Kind.ONCE_MORE, Kind.TWICE_MORE], True),
        ([Kind.THROTTLED, Kind.NEVER], False),
        ([Kind.DEAD_SOCKET, Kind.THROTTLED, Kind.DEAD_SOCKET], True),
    ],
)
def test_each_kind_is_counted_by_itself_within_the_attempts(kinds: list[Kind], again: bool) -> None:
    assert isinstance(decision(*kinds), Retry) is again


# -- how long ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "longest"),
    [
        (Kind.TRANSIENT, [0.5, 1, 2, 4, 8, 16, 20, 20, 20]),
        (Kind.ONCE_MORE, [0.5]),
        (Kind.TWICE_MORE, [0.5, 1]),
        (Kind.DEAD_SOCKET, [0, 1, 2, 4, 8, 16, 20, 20, 20]),
        (Kind.THROTTLED, [1, 2, 4, 8, 16, 20, 20, 20, 20]),
    ],
)
def test_waits_double_up_to_the_cap_and_jitter_is_full(kind: Kind, longest: list[float]) -> None:
    for count, most in enumerate(longest, 1):
        for draw in (0.0, 0.25, 1.0):
            verdict = decision(*[kind] * count, draw=draw, attempts=10)
            assert verdict == Retry(most * draw, pause=kind is Kind.THROTTLED)


def test_a_dead_socket_costs_no_wait_but_once() -> None:
    assert decision(Kind.DEAD_SOCKET) == Retry(0.0)
    assert decision(Kind.TRANSIENT, Kind.DEAD_SOCKET) == Retry(0.0)
    assert decision(Kind.DEAD_SOCKET, Kind.DEAD_SOCKET) == Retry(1.0)


@pytest.mark.parametrize(
    ("base", "cap", "expected"),
    [
        (0.5, 20, [0.5, 1, 2, 4, 8, 16, 20, 20]),
        (1, 20, [1, 2, 4, 8, 16, 20, 20, 20]),
        (0, 20, [0] * 8),
        (5, 0, [0] * 8),
        (30, 20, [20] * 8),
        (1, 1e8, [1, 2, 4, 8, 16, 32, 64, 128]),
    ],
)
def test_the_ceilings_of_backoffs_expo(base: float, cap: float, expected: list[float]) -> None:
    assert ceilings(base, cap, 8) == expected
    assert ceilings(base, cap, 0) == []


def test_the_ceilings_of_a_hundred_attempts_do_not_overflow() -> None:
    assert ceilings(1e8, 1e8, 100)[-1] == 1e8


def test_jitter_is_uniform_and_differs_between_requests() -> None:
    rng = random.Random(20260116)
    policy = RetryPolicy()
    for count in (1, 2, 3):
        failures = [failed(Kind.TRANSIENT)] * count
        top = 0.5 * 2 ** (count - 1)
        deciles = [0] * 10
        for _ in range(10_000):
            verdict = decide(failures, remaining=LONG, policy=policy, rng=rng.random)
            assert isinstance(verdict, Retry) and 0 <= verdict.wait <= top
            deciles[min(9, int(verdict.wait / top * 10))] += 1
        assert all(abs(decile - 1000) < 150 for decile in deciles), deciles


# -- Retry-After and the deadline ----------------------------------------------------


@pytest.mark.parametrize(
    ("retry_after", "draw", "remaining", "verdict"),
    [
        (3.0, 0.0, LONG, Retry(3.0, pause=True)),
        (3.0, 1.0, LONG, Retry(pytest.approx(3.3), pause=True)),
        (0.25, 0.0, LONG, Retry(0.25, pause=True)),
        (60.0, 1.0, LONG, Retry(pytest.approx(66.0), pause=True)),
        (60.1, 0.0, LONG, GiveUp()),
        (999999999.0, 0.0, LONG, GiveUp()),
        (3.0, 0.0, 3.0, GiveUp()),
        (3.0, 1.0, 3.2, GiveUp()),
        (3.0, 0.0, 3.1, Retry(3.0, pause=True)),
        (3.0, 0.0, -1.0, GiveUp()),
        (0.0, 0.5, LONG, Retry(0.5, pause=True)),
        (None, 0.5, LONG, Retry(0.5, pause=True)),
        (None, 1.0, 1.0, GiveUp(deadline=True)),
    ],
)
def test_retry_after_is_honoured_in_full_or_not_at_all(
    retry_after: float | None, draw: float, remaining: float, verdict: Retry | GiveUp
) -> None:
    found = decision(Kind.THROTTLED, retry_after=retry_after, draw=draw, remaining=remaining)
    assert found == verdict


def test_a_wish_to_wait_counts_only_where_it_is_defined() -> None:
    assert decision(Kind.TRANSIENT, retry_after=50.0) == Retry(0.5)
    assert decision(Kind.TWICE_MORE, retry_after=50.0) == Retry(0.5)
    assert decision(Kind.THROTTLED, retry_after=9.0, max_retry_after=8) == GiveUp()


@pytest.mark.parametrize("remaining", [0.0, -1.0, 1e-9])
def test_nothing_is_tried_again_when_the_time_is_up(remaining: float) -> None:
    for kind in set(Kind) - {Kind.NEVER}:
        verdict = decision(kind, remaining=remaining)
        late = kind is not Kind.DEAD_SOCKET or remaining <= 0
        assert verdict == (GiveUp(deadline=True) if late else Retry(0.0))


@given(
    st.lists(st.sampled_from(Kind), min_size=1, max_size=12),
    st.none() | st.floats(0, 1e9),
    st.floats(-10, 400),
    st.floats(0, 1),
    st.integers(1, 12),
)
def test_no_decision_waits_past_the_deadline_or_less_than_asked(
    kinds: list[Kind], retry_after: float | None, remaining: float, draw: float, attempts: int
) -> None:
    verdict = decision(
        *kinds, retry_after=retry_after, remaining=remaining, draw=draw, attempts=attempts
    )
    if isinstance(verdict, Retry):
        assert 0 <= verdict.wait < remaining
        assert len(kinds) < attempts
        assert kinds[-1] is not Kind.NEVER
        assert verdict.pause is (kinds[-1] is Kind.THROTTLED)
        if verdict.pause and retry_after:
            assert retry_after <= verdict.wait <= retry_after * 1.1
            assert retry_after <= 60


# -- the options ---------------------------------------------------------------------

DURATIONS = [name for name in RetryPolicy.__struct_fields__ if name != "attempts"]
MAY_BE_ZERO = {"base", "throttle_base", "cap", "outage_wait"}
NO_DURATION: list[Any] = [-1, -0.1, math.nan, math.inf, 1e9, "1", None, True, [1], 10**400]


def test_the_defaults_are_the_designs() -> None:
    assert msgspec.to_builtins(RetryPolicy()) == {
        "attempts": 4,
        "base": 0.5,
        "throttle_base": 1.0,
        "cap": 20.0,
        "max_retry_after": 60.0,
        "outage_wait": 0.0,
        "deadline": 300.0,
        "connect_timeout": 10.0,
        "read_timeout": 30.0,
        "attempt_timeout": 130.0,
    }
    assert Limits() == Limits(max_concurrency=8, adaptive=True)


@pytest.mark.parametrize("name", DURATIONS)
def test_wrong_durations_are_refused_by_name(name: str) -> None:
    for value in NO_DURATION + ([] if name in MAY_BE_ZERO else [0, 0.0]):
        with pytest.raises(ConfigurationError, match=rf"^{name} takes seconds"):
            RetryPolicy(**{name: value})
    for value in [0.001, 1, 1e8] + ([0] if name in MAY_BE_ZERO else []):
        assert getattr(RetryPolicy(**{name: value}), name) == value


@pytest.mark.parametrize("value", [0, -1, 101, 1.0, "4", None, True, math.nan])
def test_wrong_attempts_are_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^attempts takes a whole number from 1 to 100$"):
        RetryPolicy(attempts=value)


@pytest.mark.parametrize("value", [0, -1, 10_001, 1.0, "8", None, True])
def test_a_wrong_concurrency_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^max_concurrency takes a whole number from 1"):
        Limits(max_concurrency=value)


@pytest.mark.parametrize("value", [0, 1, "no", None])
def test_a_wrong_adaptive_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^adaptive takes True or False$"):
        Limits(adaptive=value)


def test_a_deadline_for_one_call_is_checked_the_same() -> None:
    check_seconds("deadline", 0.1)
    with pytest.raises(ConfigurationError, match=r"^deadline takes seconds, a number above 0$"):
        check_seconds("deadline", 0)


def test_policies_are_values() -> None:
    assert RetryPolicy(attempts=3) == RetryPolicy(attempts=3)
    with pytest.raises(AttributeError):
        RetryPolicy().attempts = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        RetryPolicy(3)  # type: ignore[call-arg]


# -- the adaptive limit --------------------------------------------------------------


def test_the_limit_starts_at_four_or_at_less() -> None:
    assert AdaptiveLimit(Limits()).whole == 4
    assert AdaptiveLimit(Limits(max_concurrency=2)).whole == 2
    assert AdaptiveLimit(Limits(max_concurrency=50, adaptive=False)).whole == 50


def test_a_fixed_limit_does_not_move() -> None:
    limit = AdaptiveLimit(Limits(adaptive=False))
    for moment in range(20):
        limit.overloaded(moment, 0.1)
        limit.succeeded(8)
    assert limit.whole == 8


def test_ten_overloads_then_a_hundred_successes() -> None:
    """Never below 1, never above the most; one more for each full window."""
    limit = AdaptiveLimit(Limits(max_concurrency=8))
    fallen = []
    for moment in range(10):
        limit.overloaded(float(moment), 0.5)
        fallen.append(limit.whole)
    assert fallen == [2, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    risen = []
    for _ in range(100):
        limit.succeeded(limit.whole)
        risen.append(limit.whole)
    assert risen == sorted(risen)
    assert (risen[0], risen[4], risen[-1]) == (2, 3, 8)


def test_the_limit_falls_once_in_a_round_trip() -> None:
    limit = AdaptiveLimit(Limits(max_concurrency=100))
    limit.value = 100.0
    for moment in (10.0, 10.1, 10.9):
        limit.overloaded(moment, 1.0)
    assert limit.value == pytest.approx(70.0)
    limit.overloaded(11.0, 1.0)
    assert limit.value == pytest.approx(49.0)


@pytest.mark.parametrize(("in_flight", "grows"), [(1, False), (2, True), (4, True)])
def test_the_limit_grows_only_when_half_of_it_is_used(in_flight: int, grows: bool) -> None:
    limit = AdaptiveLimit(Limits())
    limit.succeeded(in_flight)
    assert (limit.value > 4) is grows


@given(st.integers(1, 40), st.lists(st.none() | st.floats(0, 2), max_size=60))
def test_the_limit_stays_in_its_bounds_whatever_happens(
    most: int, events: list[float | None]
) -> None:
    limit = AdaptiveLimit(Limits(max_concurrency=most))
    now = 0.0
    for event in events:
        if event is None:
            limit.succeeded(limit.whole)
        else:
            now += event
            limit.overloaded(now, event)
        assert 1 <= limit.whole <= most


def test_every_kind_of_error_can_be_decided_on() -> None:
    for name in errors.__all__:
        kind = getattr(errors, name)
        if name != "Attempt":
            verdict = decide(
                [Failure(kind("it failed"), Kind.TRANSIENT)],
                remaining=LONG,
                policy=RetryPolicy(),
                rng=lambda: 1.0,
            )
            assert verdict == Retry(0.5)


# -- the budget of the whole client -----------------------------------------------------


@given(st.lists(st.sampled_from([*Kind, None]), max_size=300))
def test_the_budget_is_never_overdrawn_nor_overfilled(events: list[Kind | None]) -> None:
    budget = RetryBudget()
    paid = 0
    for kind in events:
        before = budget.tokens
        if kind is None:
            budget.succeeded(paid)
            paid = 0
        else:
            paid = budget.take(kind)
            assert budget.tokens == before - paid
        assert 0 <= budget.tokens <= RetryBudget.MOST


def test_a_spent_budget_comes_back_with_success() -> None:
    budget = RetryBudget()
    while budget.take(Kind.TRANSIENT):
        pass
    assert budget.tokens < 14
    for _ in range(14):
        budget.succeeded(0)
    cost = budget.take(Kind.TRANSIENT)
    assert cost == 14
    left = budget.tokens
    budget.succeeded(cost)
    assert budget.tokens == left + cost


# -- the breaker ------------------------------------------------------------------------

DOWN = errors.ServerError("down", status=503)


def broken(*, failures: int = 11, over: float = 30.0) -> Breaker:
    breaker = Breaker()
    for number in range(failures):
        breaker.failed(DOWN, over * number / (failures - 1), probe=False)
    return breaker


@pytest.mark.parametrize(
    ("failures", "over", "down"), [(9, 60, False), (10, 29, False), (10, 30, True), (80, 5, False)]
)
def test_ten_failures_in_a_row_over_half_a_minute_are_an_outage(
    failures: int, over: float, down: bool
) -> None:
    breaker = broken(failures=failures, over=over)
    assert breaker.down is down
    assert breaker.wait(over) == (15.0 if down else 0.0)


def test_an_answer_starts_the_count_anew() -> None:
    breaker = Breaker()
    for second in range(60):
        breaker.failed(DOWN, second, probe=False)
        if second % 9 == 8:
            breaker.answered()
        assert not breaker.down


def test_each_probe_that_fails_doubles_the_time_up_to_two_minutes() -> None:
    breaker, now = broken(), 30.0
    pauses = []
    for _ in range(6):
        pauses.append(breaker.wait(now))
        now += breaker.wait(now)
        assert breaker.wait(now) == 0.0
        breaker.failed(DOWN, now, probe=True)
    assert pauses == [15.0, 30.0, 60.0, 120.0, 120.0, 120.0]
    breaker.answered()
    assert (breaker.down, breaker.wait(now)) == (False, 0.0)


def test_what_was_sent_before_the_outage_was_seen_does_not_lengthen_it() -> None:
    breaker = broken()
    breaker.failed(DOWN, 40.0, probe=False)
    assert breaker.wait(40.0) == 5.0


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0, 50)), max_size=80))
def test_the_breaker_never_closes_the_way_for_long(events: list[tuple[bool, bool, float]]) -> None:
    breaker, now = Breaker(), 0.0
    for good, probe, passed in events:
        now += passed
        if good:
            breaker.answered()
            assert breaker.wait(now) == 0.0
        else:
            breaker.failed(DOWN, now, probe=probe and breaker.down)
        assert 0.0 <= breaker.wait(now) <= 120.0
