"""The chain walk against a changing list in memory."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from walk_model import Churn, ModelList, Outage, Outcome, outcome_of, read_on, walk

from unpod_async._pages import InvalidRow
from unpod_async._walk import ChainWalk
from unpod_async._windows import Answer, CountedWalk, ServerMemory, Window, at_once, plan

CHURNS = {
    "quiet": Churn(),
    "one insert a request": Churn(inserts=1),
    "a delete in ten requests": Churn(deletes=0.1),
    "one change in five requests": Churn(inserts=0.1, deletes=0.1),
    "one insert and one delete a request": Churn(inserts=1, deletes=1),
    "the count is a second query": Churn(inserts=0.5, deletes=0.5, second_query=True),
    "inserts up to 30 rows deep": Churn(inserts=0.5, deletes=0.5, depth=30, second_query=True),
    "five changes a request": Churn(inserts=2.5, deletes=2.5, second_query=True),
    "bulk deletes": Churn(inserts=0.5, deletes=0.5, bulk=0.05),
    "swallowed errors": Churn(inserts=0.1, deletes=0.1, swallowed=0.01),
    "stale replicas": Churn(inserts=0.5, deletes=0.5, stale=0.05),
    "short answers": Churn(inserts=0.5, deletes=0.5, short=0.05),
}


def assert_whole(outcome: Outcome) -> None:
    assert outcome.lost == set()
    assert outcome.repeated == 0
    assert outcome.invented == set()
    assert outcome.report.verified, outcome.report.reason
    assert not outcome.report.missing


@pytest.mark.once
@pytest.mark.parametrize("lanes", [1, 2, 8])
@pytest.mark.parametrize("name", CHURNS)
def test_nothing_that_lived_throughout_is_lost_or_repeated(name: str, lanes: int) -> None:
    # 12 kinds of churn, 3 numbers of lanes: 2,400 walks one at a time, 4,800 in parallel.
    for seed in range(200):
        model = ModelList(600, random.Random(f"{name}{seed}"), CHURNS[name])
        outcome = walk(model, size=50, lanes=lanes)
        if name == "swallowed errors" and outcome.report.empty_confirmed:
            continue  # twice `200 []` in a row for a list that is not empty: confirmed, not proved
        assert_whole(outcome)


def test_a_naive_page_loop_on_the_same_lists_does_lose_rows() -> None:
    """The model is no easy ground: without the chain, most walks lose something."""
    losing = 0
    for seed in range(100):
        model = ModelList(600, random.Random(seed), CHURNS["the count is a second query"])
        seen: set[str] = set()
        for page in range(1, 14):
            seen.update(model.answer(Window(page, 50)).ids)
        losing += bool(model.stable - seen)
    assert losing > 50


def test_no_hostile_mixture_makes_a_walk_claim_what_it_did_not_see() -> None:
    counts: list[Callable[[int], int | None]] = [lambda n: n] * 4
    counts += [lambda n: None, lambda n: 10, lambda n: 10**12, lambda n: n + 3, lambda n: n // 2]
    for seed in range(700):
        rng = random.Random(seed)
        churn = Churn(
            inserts=rng.choice([0, 0.1, 0.5, 3]),
            deletes=rng.choice([0, 0.1, 0.5, 3]),
            depth=rng.choice([0, 30, 1000]),
            bulk=rng.choice([0, 0, 0.05]),
            swallowed=rng.choice([0, 0, 0.01, 0.1]),
            stale=rng.choice([0, 0, 0.05, 0.3]),
            second_query=rng.random() < 0.5,
        )
        model = ModelList(
            rng.choice([0, 1, 2, 49, 50, 51, 100, rng.randint(0, 900)]),
            rng,
            churn,
            cap=rng.choice([None, None, 37, 100]),
            count=rng.choice(counts),
        )
        size = rng.choice([10, 16, 50, 100, rng.randint(10, 500)])
        outcome = walk(model, size=size, lanes=rng.choice([1, 2, 8]), max_requests=20_000)
        assert outcome.repeated == 0
        assert outcome.invented == set()
        assert not (outcome.report.verified and outcome.lost), seed


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 199, 200, 201, 400])
def test_short_lists_take_few_requests(rows: int, lanes: int) -> None:
    outcome = walk(ModelList(rows, random.Random(1)), size=200, lanes=lanes)
    assert outcome.lost == set()
    assert outcome.report.complete
    assert outcome.requests <= (2 if rows < 200 else 1.3 * -(-rows // 200) + 2)


def test_one_answer_is_enough_once_the_server_is_known_to_send_more() -> None:
    memory = ServerMemory(longest=200)
    outcome = walk(ModelList(5, random.Random(1)), size=200, memory=memory)
    assert_whole(outcome)
    assert outcome.requests == 1


@given(
    ids=st.lists(st.sampled_from("abcdefghijklmnop"), max_size=14),
    invalid=st.integers(0, 1),
    foreign=st.integers(0, 1),
    count=st.none() | st.integers(0, 15),
    size=st.integers(8, 14),
    longest=st.integers(0, 15),
)
def test_a_list_that_comes_at_once_has_the_receipt_that_a_walk_gives(
    ids: list[str], invalid: int, foreign: int, count: int | None, size: int, longest: int
) -> None:
    def answer() -> Answer[str]:
        bad = [InvalidRow(at, b"{}", "no usable id") for at in range(invalid)]
        return Answer(ids, list(ids), len(ids) + invalid + foreign, count, bad, foreign)

    memory = ServerMemory(longest=longest)
    receipt = at_once(Window(1, size), answer(), memory)
    assert memory == ServerMemory(longest=longest)
    walk_: ChainWalk[str] = ChainWalk(size=size, memory=memory)
    (window,) = walk_.next(1)
    rows = walk_.feed(window, answer())
    whole = walk_.done and walk_.report.verified and not walk_.report.duplicates
    assert receipt == (walk_.report if whole else None)
    if receipt is not None:
        assert rows == ids
        assert memory == ServerMemory(longest=longest)


@pytest.mark.parametrize(("lanes", "most"), [(1, 1.10), (8, 1.20)])
def test_the_proof_costs_little_on_a_long_quiet_list(lanes: int, most: float) -> None:
    outcome = walk(ModelList(50_000, random.Random(1)), size=500, lanes=lanes)
    assert_whole(outcome)
    assert outcome.requests <= most * 100


@pytest.mark.parametrize("lanes", [1, 4, 16])
@pytest.mark.parametrize("size", [10, 11, 12, 13, 14, 15])
def test_small_pages_read_a_quiet_list_whole(size: int, lanes: int) -> None:
    assert_whole(walk(ModelList(2000, random.Random(1)), size=size, lanes=lanes))
    # Behind offset 2,520 no page of 5 to 10 rows has a row in common: read on without proof.
    assert walk(ModelList(3000, random.Random(1)), size=size, lanes=lanes).lost == set()


def test_an_empty_list_is_asked_twice_and_never_called_proved() -> None:
    outcome = walk(ModelList(0, random.Random(1)), size=200)
    assert outcome.requests == 2
    assert outcome.report.empty_confirmed == 2
    assert outcome.report.complete
    assert not outcome.report.verified


def test_an_empty_list_is_asked_five_times_once_an_empty_answer_was_contradicted() -> None:
    memory = ServerMemory(empty_contradicted=True)
    assert walk(ModelList(0, random.Random(1)), size=200, memory=memory).requests == 5


def test_an_empty_answer_that_proves_wrong_is_remembered() -> None:
    memory = ServerMemory()
    plan_: ChainWalk[str] = ChainWalk(size=50, memory=memory)
    [window] = plan_.next(1)
    plan_.feed(window, Answer([], [], 0, 0))
    [window] = plan_.next(1)
    assert window.delay > 0
    assert plan_.feed(window, Answer(["a"], ["a"], 1, 1)) == ["a"]
    assert memory.empty_contradicted


def test_a_list_that_counts_rows_but_sends_none_is_not_an_empty_list() -> None:
    plan_: ChainWalk[str] = ChainWalk(size=50)
    while windows := plan_.next(1):
        plan_.feed(windows[0], Answer([], [], 0, 7))
    assert plan_.report.empty_confirmed == 0
    assert not plan_.report.complete
    assert "counts 7 rows" in (plan_.report.reason or "")


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("cap", [20, 37, 100])
def test_a_cap_on_the_page_size_is_recognised_and_loses_nothing(cap: int, lanes: int) -> None:
    for seed in range(30):
        model = ModelList(700, random.Random(seed), Churn(inserts=0.3, deletes=0.3), cap=cap)
        outcome = walk(model, size=200, lanes=lanes)
        assert_whole(outcome)
        assert any(drift.kind == "clamp" for drift in outcome.report.drift)


@pytest.mark.parametrize(
    "count", [lambda n: None, lambda n: 10, lambda n: 10**12, lambda n: n + 3, lambda n: -1]
)
def test_a_lying_count_costs_no_row_and_few_requests(count: Callable[[int], int | None]) -> None:
    outcome = walk(ModelList(1000, random.Random(1), count=count), size=50, lanes=4)
    assert outcome.lost == set()
    assert not outcome.report.missing
    assert outcome.requests <= 45


@pytest.mark.parametrize(
    ("churn", "paging"),
    [(Churn(ties=20), "honest"), (Churn(), "ignored"), (Churn(), "fixed")],
    ids=["ties", "page ignored", "size ignored"],
)
@pytest.mark.parametrize("lanes", [1, 4])
def test_a_server_that_breaks_the_rules_is_never_proved(
    churn: Churn, paging: str, lanes: int
) -> None:
    for seed in range(30):
        model = ModelList(1000, random.Random(seed), churn, paging=paging)
        outcome = walk(model, size=50, lanes=lanes)
        assert not outcome.report.verified
        assert outcome.report.reason
        assert outcome.requests < 700


@pytest.mark.parametrize("lanes", [1, 4])
def test_rows_that_move_to_the_head_leave_no_false_proof(lanes: int) -> None:
    for seed in range(200):
        outcome = walk(ModelList(600, random.Random(seed), Churn(moves=1)), size=50, lanes=lanes)
        assert not (outcome.report.verified and outcome.lost)


def test_a_known_row_that_moved_to_the_head_does_not_hide_others_that_did() -> None:
    model = ModelList(60, random.Random(1))
    plan_: ChainWalk[str] = ChainWalk(size=10)
    rows = read_on(plan_, model, most=30)
    known, unread = model.rows[5], model.rows[42:57]
    model.rows = [known, *unread, *(r for r in model.rows if r not in {known, *unread})]
    rows += read_on(plan_, model)
    assert set(rows) == model.stable
    assert len(rows) == len(set(rows))


def test_a_list_without_count_that_grows_among_the_rows_ahead_comes_to_an_end() -> None:
    churn = Churn(inserts=6, deletes=0.5, depth=1000)
    model = ModelList(20, random.Random(1), churn, count=lambda _: None)
    walk(model, size=10, max_requests=3_000)


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize(("rows", "size"), [(30, 200), (1000, 50), (1000, 200)])
def test_rows_that_cannot_be_read_cost_only_themselves(rows: int, size: int, lanes: int) -> None:
    for seed in range(40):
        rng = random.Random(seed)
        offsets = sorted(rng.sample(range(rows), 6))
        model = ModelList(rows, rng, bad={f"T{rows - offset:06d}" for offset in offsets})
        outcome = walk(model, size=size, lanes=lanes)
        assert outcome.lost == set()
        assert outcome.repeated == 0
        assert outcome.report.unreadable == offsets
        assert outcome.report.missing
        assert not outcome.report.verified
        if rows == 30:
            assert outcome.requests < 120


@pytest.mark.once
@pytest.mark.parametrize("lanes", [1, 4])
def test_unreadable_rows_that_move_cost_next_to_nothing_and_are_never_called_proved(
    lanes: int,
) -> None:
    """Single rows have no overlap, so this cannot be exact; the rate is held here."""
    losing = 0
    for seed in range(100):
        rng = random.Random(seed)
        bad = {f"T{number:06d}" for number in rng.sample(range(1, 1001), 6)}
        model = ModelList(1000, rng, Churn(inserts=0.1, deletes=0.1), bad=bad)
        outcome = walk(model, size=50, lanes=lanes)
        losing += bool(outcome.lost)
        assert len(outcome.lost) <= 2
        assert outcome.repeated == 0
        assert not outcome.report.verified
    assert losing <= 8


def test_a_server_that_stops_answering_is_an_outage() -> None:
    rng = random.Random(1)
    model = ModelList(1000, rng)
    model.bad = set(model.rows[400:])
    with pytest.raises(Outage):
        walk(model, size=50)
    assert model.requests < 60


@pytest.mark.parametrize("depth", [0, 30])
@pytest.mark.parametrize("lanes", [1, 4])
def test_one_page_for_ever_full_of_new_rows_comes_to_an_end(depth: int, lanes: int) -> None:
    churn = Churn(inserts=4, deletes=2, depth=depth, second_query=True)
    model = ModelList(300, random.Random(1), churn, paging="ignored")
    outcome = walk(model, size=10, lanes=lanes, max_requests=2_000)
    assert not outcome.report.verified


@pytest.mark.parametrize("lanes", [1, 8])
def test_a_list_that_grows_for_ever_under_a_count_without_bounds_comes_to_an_end(
    lanes: int,
) -> None:
    model = ModelList(100, random.Random(1), Churn(inserts=16), count=lambda _: 10**12)
    outcome = walk(model, size=10, lanes=lanes, max_requests=10_000)
    assert not outcome.report.verified


@pytest.mark.parametrize("lanes", [1, 8])
@pytest.mark.parametrize("size", [5, 50])
def test_a_count_without_bounds_loses_nothing_of_a_list_that_stands_still(
    size: int, lanes: int
) -> None:
    outcome = walk(
        ModelList(5_000, random.Random(1), count=lambda _: 10**12), size=size, lanes=lanes
    )
    assert outcome.lost == set()


@pytest.mark.parametrize("lanes", [1, 4])
def test_bad_rows_in_a_list_that_moves_faster_than_rows_can_be_read_come_to_an_end(
    lanes: int,
) -> None:
    for seed in range(10):
        rng = random.Random(seed)
        bad = {f"T{number:06d}" for number in rng.sample(range(1, 301), 6)}
        model = ModelList(300, rng, Churn(inserts=3, deletes=1), bad=bad)
        outcome = walk(model, size=50, lanes=lanes, max_requests=3_000)
        assert outcome.repeated == 0
        assert not outcome.report.verified


def test_a_last_page_that_repeats_for_ever_ends_the_walk() -> None:
    outcome = walk(ModelList(1000, random.Random(1), paging="repeats"), size=50)
    assert_whole(outcome)


def test_pages_too_small_to_overlap_are_walked_and_not_proved() -> None:
    outcome = walk(ModelList(100, random.Random(1)), size=5)
    assert outcome.lost == set()
    assert not outcome.report.verified
    assert "too small" in (outcome.report.reason or "")


def test_all_known_rows_dying_at_once_starts_the_chain_anew() -> None:
    rng = random.Random(1)
    model = ModelList(1000, rng)
    plan_: ChainWalk[str] = ChainWalk(size=50)
    rows: list[str] = []
    for step in range(200):
        if plan_.done:
            break
        if step == 5:
            gone = model.rows[:300]
            model.stable.difference_update(gone)
            del model.rows[:300]
        [window] = plan_.next(1)
        rows += plan_.feed(window, model.answer(window))
    assert model.stable <= set(rows)
    assert plan_.report.verified


def test_the_same_id_with_other_content_is_one_row_and_one_conflict() -> None:
    plan_: ChainWalk[str] = ChainWalk(size=50, memory=ServerMemory(longest=50))
    [window] = plan_.next(1)
    answer = Answer(["a", "b", "a", "b"], ["first", "same", "other", "same"], 4, 4)
    assert plan_.feed(window, answer) == ["first", "same"]
    assert plan_.report.conflicts == 1
    assert plan_.report.duplicates == 2


def test_a_consumer_that_stops_early_has_asked_no_more_than_its_lanes() -> None:
    plan_: ChainWalk[str] = ChainWalk(size=50, lanes=4)
    model = ModelList(10_000, random.Random(1))
    [window] = plan_.next(4)
    plan_.feed(window, model.answer(window))
    assert len(plan_.next(4)) == 4
    assert plan_.next(4) == []


def test_an_answer_nobody_waits_for_changes_nothing() -> None:
    plan_: ChainWalk[str] = ChainWalk(size=50)
    plan_.next(1)
    assert plan_.feed(Window(1, 50), Answer(["x"], ["x"], 1, 1)) == []
    assert plan_.report.seen == 0


def test_an_answer_too_large_to_be_read_halves_the_window() -> None:
    model = ModelList(300, random.Random(1))
    plan_: ChainWalk[str] = ChainWalk(size=200)
    [window] = plan_.next(1)
    plan_.shrink(window)
    rows: list[str] = []
    while windows := plan_.next(1):
        assert windows[0].size <= 100
        rows += plan_.feed(windows[0], model.answer(windows[0]))
    assert rows == model.rows
    assert plan_.report.verified


@given(frontier=st.integers(0, 100_000), size=st.integers(10, 1000), overlap=st.integers(1, 5))
def test_a_planned_window_overlaps_the_frontier_and_goes_beyond_it(
    frontier: int, size: int, overlap: int
) -> None:
    window = plan(frontier, size, overlap)
    assert 1 <= window.size <= size
    assert window.start == (window.page - 1) * window.size
    assert window.start <= max(frontier - overlap, 0)
    assert window.end > frontier - overlap
    if frontier >= size and size >= 16 and overlap <= 2:
        assert window.end > frontier


def test_a_list_without_documented_paging_is_read_while_its_count_says_so() -> None:
    counted: CountedWalk[str] = CountedWalk(size=2)
    pages = [["a", "b"], ["b", "c"], ["d"]]
    rows: list[str] = []
    for ids in pages:
        [window] = counted.next(1)
        assert counted.next(1) == []
        rows += counted.feed(window, Answer(ids, ids, len(ids), 4))
    assert counted.done
    assert rows == ["a", "b", "c", "d"]
    assert not counted.report.verified


def test_an_answer_too_large_of_a_list_without_documented_paging_is_asked_for_in_halves() -> None:
    ids = [f"T{number}" for number in range(23)]
    counted: CountedWalk[str] = CountedWalk(size=8)
    rows: list[str] = []
    asked = []
    while windows := counted.next(1):
        [window] = windows
        asked.append((window.start, window.size))
        if window.end > 8 and window.size > 2:
            counted.shrink(window)
            assert not counted.wants(window)
        else:
            page = ids[window.start : window.end]
            rows += counted.feed(window, Answer(page, list(page), len(page), 23))
    assert asked[:4] == [(0, 8), (8, 8), (8, 4), (8, 2)]
    assert rows == ids
    assert counted.report.seen == 23
    assert not counted.report.missing


def test_a_list_that_ignores_paging_is_read_once() -> None:
    counted: CountedWalk[str] = CountedWalk(size=2)
    for _ in range(2):
        [window] = counted.next(1)
        counted.feed(window, Answer(["a", "b"], ["a", "b"], 2, 9))
    assert counted.done
    assert counted.report.reason


def test_rows_without_identity_are_reported_once_however_often_they_are_sent() -> None:
    plan_: ChainWalk[str] = ChainWalk(size=50)
    invalid = [InvalidRow(0, b"17", "not an object")]
    while windows := plan_.next(1):
        rows = 1 if windows[0].start == 0 else 0
        plan_.feed(windows[0], Answer([], [], rows, 1, invalid[:rows]))
    assert len(plan_.report.invalid) == 1
    assert plan_.report.missing
    assert plan_.report.reason == "1 row without a usable identity"
    assert plan_.report.windows <= 3


def test_answers_that_stay_too_large_near_a_bad_row_come_to_an_end() -> None:
    plan_: ChainWalk[str] = ChainWalk(size=200)
    asked = 0
    while (windows := plan_.next(1)) and not plan_.outage:
        asked += 1
        assert asked < 500, "endless"
        if windows[0].size > 100:
            plan_.fail(windows[0])
        elif windows[0].size > 30:
            plan_.shrink(windows[0])
        else:
            ids = [f"T{n}" for n in range(windows[0].start, min(windows[0].end, 1000))]
            plan_.feed(windows[0], Answer(ids, list(ids), len(ids), 1000))
    assert plan_.report.seen == 1000


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("size", [10, 20, 100, 500])
@pytest.mark.parametrize("how", ["half", "one less", "late", "random"])
def test_a_cap_that_differs_from_page_to_page_proves_nothing(
    lanes: int, size: int, how: str
) -> None:
    """The server makes the offset of a page from the rows that it sends, not of those asked for."""
    for rows in (30, 99, 300, 1000):
        rng = random.Random(rows)
        planner: ChainWalk[str] = ChainWalk(size=size, lanes=lanes)
        got: set[str] = set()
        for number in range(5000):
            windows = planner.next(1)
            if planner.done or not windows:
                break
            (window,) = windows
            caps = {
                "half": window.size // 2,
                "one less": window.size - 1,
                "late": size if number < 16 else size - 1,
                "random": rng.randint(1, size),
            }
            cap = max(1, min(window.size, caps[how]))
            start = (window.page - 1) * cap
            ids = [f"T{n}" for n in range(start, min(start + cap, rows))]
            got.update(planner.feed(window, Answer(ids, list(ids), len(ids), rows)))
        assert planner.done
        assert len(got) == rows or not planner.report.verified


def test_a_page_cap_that_changes_in_mid_walk_makes_no_end_of_the_list() -> None:
    """A capped page begins elsewhere than its window says; where it ends is not the end."""
    verified = 0
    for seed in range(600):
        rng = random.Random(seed)
        size = rng.randint(20, 100)
        model = ModelList(rng.randint(5, 400), rng, cap=rng.choice([None, rng.randint(12, size)]))
        planner: ChainWalk[str] = ChainWalk(size=size, lanes=rng.choice([1, 3]))
        rows = read_on(planner, model, most=rng.randint(1, 300))
        model.cap = rng.choice([None, rng.randint(12, size)])
        outcome = outcome_of(rows + read_on(planner, model), planner, model)
        assert outcome.repeated == 0
        assert not (outcome.report.verified and outcome.lost), seed
        verified += outcome.report.verified
    assert verified > 400
