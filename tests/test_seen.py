"""What a walk remembers, against a plain dict."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from walk_model import Churn, ModelList, walk

from unpod_async import _walk
from unpod_async._seen import Seen

PAGES = st.lists(st.lists(st.integers(0, 60), max_size=12), max_size=12)


@given(PAGES, st.integers(1, 20))
def test_every_row_is_new_once_however_few_are_kept_as_they_are(
    pages: list[list[int]], recent: int
) -> None:
    seen: Seen[int] = Seen(recent)
    model: dict[str, int] = {}
    for page in pages:
        ids = [f"T{number}" for number in page]
        assert all((row_id in seen) is (row_id in model) for row_id in ids)
        fresh, repeated = seen.add(ids, page)
        assert fresh == [number for number in dict.fromkeys(page) if f"T{number}" not in model]
        assert len(repeated) == len(page) - len(fresh)
        for number in fresh:
            model[f"T{number}"] = len(model)
    assert seen.count == len(model)
    assert seen.bottom == next(reversed(model), None)
    assert seen.first(min(3, recent)) == list(model)[: min(3, recent)]
    assert seen.last(3) == list(model)[-3:] or recent < 3


@given(PAGES, st.integers(1, 20))
def test_the_first_and_the_last_rows_keep_their_ordinals(
    pages: list[list[int]], recent: int
) -> None:
    seen: Seen[int] = Seen(recent)
    model: dict[str, int] = {}
    for page in pages:
        for row_id in map(str, seen.add([f"T{number}" for number in page], page)[0]):
            model[f"T{row_id}"] = len(model)
    exact = list(model)[:recent] + list(model)[-recent:]
    assert [seen.ordinal(row_id) for row_id in exact] == [model[row_id] for row_id in exact]
    assert all(row_id in seen for row_id in model)
    assert seen.ordinals(exact[-recent:]) == [model[row_id] for row_id in exact[-recent:]]


def test_a_row_takes_no_more_than_16_bytes() -> None:
    seen: Seen[None] = Seen(1000)
    seen.expected = 101_000  # as the server's count says
    seen.add([f"T{number:032x}" for number in range(1000)], [None] * 1000)
    tracemalloc.start()
    try:
        for start in range(1000, 101_000, 500):
            seen.add([f"T{number:032x}" for number in range(start, start + 500)], [None] * 500)
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert grown < 100_000 * 16 + 2 * 1500 * 120  # … beside the ids that are kept as they are


@pytest.mark.once
@pytest.mark.parametrize("expected", [0, 10, 10**12])
def test_a_wrong_idea_of_the_length_costs_no_row_and_bounded_memory(expected: int) -> None:
    seen: Seen[None] = Seen(100)
    seen.expected = expected
    tracemalloc.start()
    try:
        for start in range(0, 30_000, 50):
            ids = [f"T{number}" for number in range(start, start + 60)]
            _, repeated = seen.add(ids, [None] * 60)
            assert len(repeated) == (10 if start else 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen.count == 30_010
    assert peak < 20 * 2**20


@pytest.mark.parametrize("lanes", [1, 8])
def test_walks_that_keep_few_ids_prove_as_well(lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_walk, "RECENT", 1)
    monkeypatch.setattr(_walk, "MANY", 25)
    churn = Churn(inserts=0.5, deletes=0.5, depth=30, bulk=0.02, stale=0.02, second_query=True)
    for seed in range(100):
        outcome = walk(ModelList(1500, random.Random(seed), churn), size=50, lanes=lanes)
        assert (outcome.lost, outcome.repeated, outcome.invented) == (set(), 0, set())
        assert outcome.report.verified
