"""The client's lists against the simulator, over real sockets."""

from __future__ import annotations

import asyncio
import json
import random
import traceback
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from unpod_async import (
    AuthenticationError,
    BusinessError,
    ConfigurationError,
    DecodeError,
    Event,
    IncompleteWalk,
    Limits,
    NotFound,
    PermissionDenied,
    ProtocolError,
    ResponseTooLarge,
    RetryPolicy,
    Run,
    ServerError,
    SpaceHandle,
    Task,
    UnpodClient,
)
from unpod_async.simulator import Churn, Reply, Simulator

pytestmark = pytest.mark.anyio

IMPATIENT = RetryPolicy(base=0, throttle_base=0)


def client_of(sim: Simulator, **options: Any) -> UnpodClient:
    options.setdefault("retry", IMPATIENT)
    return UnpodClient(token=sim.token, base_url=sim.base_url, org_handle=sim.org_handle, **options)


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(seed=3, runs=12, tasks=900) as simulator:
        yield simulator


@pytest.fixture
async def client(sim: Simulator) -> AsyncIterator[UnpodClient]:
    async with client_of(sim) as opened:
        yield opened


@pytest.fixture
def space(client: UnpodClient, sim: Simulator) -> SpaceHandle:
    return client.space(sim.space_token)


# -- lists ------------------------------------------------------------------------------


async def test_all_tasks_of_a_space_come_once_newest_first(
    sim: Simulator, space: SpaceHandle
) -> None:
    assert [task.task_id async for task in space.tasks()] == sim.world.task_ids()


async def test_all_runs_of_a_space_come_once_newest_first(
    sim: Simulator, space: SpaceHandle
) -> None:
    assert [run.run_id async for run in space.runs()] == sim.world.run_ids()


async def test_the_tasks_of_each_run_are_its_own(sim: Simulator, space: SpaceHandle) -> None:
    for run_id in sim.world.run_ids():
        tasks = await space.run(run_id).tasks(page_size=50).collect()
        assert [task.task_id for task in tasks] == sim.world.task_ids(run_id)


async def test_a_run_that_does_not_exist_has_no_tasks(space: SpaceHandle) -> None:
    assert await space.run("Rdoesnotexist").tasks().collect() == []


async def test_a_task_is_decoded_and_comes_out_again_as_it_was_sent(
    sim: Simulator, space: SpaceHandle
) -> None:
    async for task in space.tasks(page_size=300):
        assert task.to_dict() == json.loads(json.dumps(sim.world.row(task.task_id)))


async def test_raw_rows_are_the_server_s_own_bytes(sim: Simulator, space: SpaceHandle) -> None:
    rows = await space.tasks().raw().collect()
    assert [json.loads(row) for row in rows] == [
        json.loads(json.dumps(sim.world.row(task_id))) for task_id in sim.world.task_ids()
    ]
    assert not any(b"\n" in row for row in rows)


async def test_pages_are_the_server_s_own(sim: Simulator, space: SpaceHandle) -> None:
    ids: list[str] = []
    numbers: list[int] = []
    async for page in space.tasks(page_size=400).pages():
        numbers.append(page.number)
        ids += [task.task_id for task in page.items]
        assert page.count == 900
    assert numbers == [1, 2, 3]
    assert ids == sim.world.task_ids()


@pytest.mark.parametrize("kind", ["repeat-last-page", "ignore-page"])
async def test_pages_of_a_server_that_repeats_itself_end(
    sim: Simulator, space: SpaceHandle, kind: str
) -> None:
    sim.fault(kind, times=None)
    numbers = [page.number async for page in space.tasks(page_size=300).pages()]
    assert len(numbers) <= 3


async def test_a_limit_counts_rows_and_shrinks_the_first_page(
    sim: Simulator, space: SpaceHandle
) -> None:
    tasks = await space.tasks().collect(limit=10)
    assert [task.task_id for task in tasks] == sim.world.task_ids()[:10]
    assert [request.page_size for request in sim.requests] == [10]
    assert await space.tasks().collect(limit=0) == []
    assert len(await space.tasks(page_size=100).collect(limit=250)) == 250


async def test_a_count_is_one_small_request(sim: Simulator, space: SpaceHandle) -> None:
    assert await space.tasks().count() == 900
    assert [request.page_size for request in sim.requests] == [1]


async def test_a_server_without_a_count_is_read_to_its_end_and_nothing_is_claimed() -> None:
    async with Simulator(tasks=120, count="null") as sim, client_of(sim) as client:
        listing = client.space(sim.space_token).tasks(page_size=50)
        assert await listing.count() is None
        async with listing.walk() as walk:
            rows = [task.task_id async for task in walk]
        assert rows == sim.world.task_ids()
        assert not walk.report.verified
        assert not walk.report.missing


async def test_filters_reach_the_server_by_their_own_names(
    sim: Simulator, space: SpaceHandle
) -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    listing = space.tasks(
        summary_status=["Call Back", "A&B=c"],
        search="a.*b",
        call_type="inbound",
        created_from=moment,
        created_to=1767225600.5,
        user_id="1",
        thread_id="t",
        page_size=20,
    )
    await listing.collect()
    query = {key: value for key, value in sim.requests[0].query.items() if "page" not in key}
    assert query == {
        "status": "Call Back,A&B=c",
        "search": "a.*b",
        "call_type": "inbound",
        "from_ts": "1767225600",
        "to_ts": "1767225601",
        "user_id": "1",
        "thread_id": "t",
    }


async def test_spaces_organizations_and_one_space(sim: Simulator, client: UnpodClient) -> None:
    spaces = await client.spaces().collect()
    assert [space.token for space in spaces] == [sim.space_token]
    assert [org.domain_handle async for org in client.organizations()] == [sim.org_handle]
    assert (await client.space(sim.space_token).get()).token == sim.space_token
    with pytest.raises(NotFound):
        await client.space("NOSUCHSPACE").get()


async def test_check_tells_refusals_and_raises_trouble(sim: Simulator, client: UnpodClient) -> None:
    assert (await client.check()).ok
    assert (await client.check(sim.space_token)).ok
    refused = await client.check("NOSUCHSPACE")
    assert (refused.ok, refused.token, refused.space) == (False, True, False)
    assert refused.message == "Invalid Space Token"
    async with UnpodClient(token="wrong", base_url=sim.base_url) as stranger:
        assert (await stranger.check(sim.space_token)).token is False
    sim.fault("status", status=500, times=None)
    with pytest.raises(ServerError):
        await client.check()


# -- walks ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(50))
async def test_a_list_that_changes_under_the_walk_loses_and_repeats_nothing(seed: int) -> None:
    rng = random.Random(seed)
    churn = Churn(
        inserts=rng.choice([0, 0.5, 1, 2]),
        deletes=rng.choice([0.5, 1, 2]),
        updates=1,
        depth=rng.choice([0, 30]),
    )
    async with Simulator(seed=seed, tasks=400, churn=churn) as sim, client_of(sim) as client:
        since = sim.world.mark()
        rows = [task.task_id async for task in client.space(sim.space_token).tasks(page_size=50)]
        assert sim.world.lived_throughout(since) <= set(rows)
        assert len(set(rows)) == len(rows)


@pytest.mark.parametrize("prefetch", [1, 4, 8])
async def test_a_parallel_walk_gives_the_same_rows_in_the_same_order(
    sim: Simulator, space: SpaceHandle, prefetch: int
) -> None:
    async with space.tasks(page_size=50).walk(prefetch=prefetch) as walk:
        rows = [task.task_id async for task in walk]
    assert rows == sim.world.task_ids()
    report = walk.report
    assert (report.verified, report.reason, report.seen) == (True, None, 900)
    assert report.expected.count_first == report.expected.count_last == 900
    assert report.started
    assert report.ended
    assert json.loads(msgspec.json.encode(report))["drift"] == []


async def test_a_parallel_walk_keeps_several_requests_under_way() -> None:
    async with (
        Simulator(tasks=2000, latency=0.02) as sim,
        client_of(sim, limits=Limits(adaptive=False)) as client,
    ):
        async with client.space(sim.space_token).tasks(page_size=50).walk(prefetch=6) as walk:
            assert len([task async for task in walk]) == 2000
        assert 4 <= sim.peak_in_flight <= 8


async def test_a_consumer_that_takes_a_few_rows_has_asked_for_few_windows(
    sim: Simulator, space: SpaceHandle
) -> None:
    async with space.tasks(page_size=50).walk(prefetch=4) as walk:
        taken = 0
        async for _ in walk:
            taken += 1
            if taken == 10:
                break
    assert len(sim.requests) <= 5


async def test_a_failing_page_raises_and_never_ends_the_list_quietly(
    sim: Simulator, space: SpaceHandle
) -> None:
    sim.fault("upstream", times=None, after=2)
    seen = 0
    with pytest.raises(BusinessError, match="Tasks Fetch Failed"):
        async for _ in space.tasks(page_size=100):
            seen += 1
    assert seen > 0
    with pytest.raises(BusinessError):
        async with space.tasks(page_size=100).walk() as walk:
            async for _ in walk:
                pass


async def test_a_refused_space_is_an_error_not_an_empty_list(
    client: UnpodClient, sim: Simulator
) -> None:
    for token in ("NOSUCHSPACE", sim.foreign_space_token):
        with pytest.raises(BusinessError) as caught:
            await client.space(token).tasks().collect()
        assert caught.value.status == 206
        assert len(caught.value.attempts) == 1


async def test_a_damaged_body_is_asked_for_once_more(sim: Simulator, space: SpaceHandle) -> None:
    sim.fault("truncate", times=1)
    assert len(await space.tasks().collect()) == 900


async def test_a_body_that_stays_damaged_is_a_protocol_error(
    sim: Simulator, space: SpaceHandle
) -> None:
    sim.fault("html", times=None)
    with pytest.raises(ProtocolError) as caught:
        await space.tasks().collect()
    assert caught.value.status == 200
    assert len(sim.requests) == 2
    assert caught.value.body


def row(number: int, **changes: object) -> dict[str, object]:
    return {
        "space_id": "1",
        "run_id": "R1",
        "task_id": f"T{number}",
        "status": "completed",
    } | changes


@pytest.mark.parametrize("prefetch", [1, 4])
async def test_unreadable_rows_are_named_and_the_others_come(prefetch: int) -> None:
    async with Simulator(seed=1, runs=3, tasks=30) as sim, client_of(sim) as client:
        ids = sim.world.task_ids()
        bad = [2, 4, 18, 24, 25, 29]
        for offset in bad:
            sim.world.poison(ids[offset])
        rows: list[str] = []
        with pytest.raises(IncompleteWalk, match="6 rows cannot be read") as caught:
            async with client.space(sim.space_token).tasks().walk(prefetch=prefetch) as walk:
                async for task in walk:
                    rows.append(task.task_id)
        assert rows == [task_id for index, task_id in enumerate(ids) if index not in bad]
        assert caught.value.report.unreadable == bad
        assert len(sim.requests) < 120


async def test_a_row_whose_bytes_cannot_be_decoded_costs_only_itself() -> None:
    rows = [row(number) for number in range(60)]
    rows[17] = b'{"space_id":"1","task_id":"T17","input":{"a":NaN}}'
    async with Simulator(rows=rows) as sim, client_of(sim) as client:
        with pytest.raises(IncompleteWalk) as caught:
            await client.space(sim.space_token).tasks().collect()
        assert caught.value.report.unreadable == [17]
        assert len(caught.value.items) == 59


async def test_a_list_that_never_answers_is_an_outage_not_a_bad_row(
    sim: Simulator, space: SpaceHandle
) -> None:
    sim.fault("upstream", times=None)
    with pytest.raises(BusinessError):
        await space.tasks().collect()
    assert len(sim.requests) < 30


async def test_rows_without_a_usable_id_are_reported_with_their_bytes() -> None:
    rows = [row(1), {"space_id": "1", "task_id": ""}, row(2), b"17", row(3, task_id=None), row(4)]
    async with Simulator(rows=rows) as sim, client_of(sim) as client:
        listing = client.space(sim.space_token).tasks()
        with pytest.raises(IncompleteWalk) as caught:
            await listing.collect()
        assert [task.task_id for task in caught.value.items] == ["T1", "T2", "T4"]
        assert [invalid.offset for invalid in caught.value.report.invalid] == [1, 3, 4]
        assert caught.value.report.invalid[1].row == b"17"
        with pytest.raises(DecodeError, match="row 1"):
            await client.space(sim.space_token).tasks(on_invalid="raise").collect()


@pytest.mark.parametrize("raw", [False, True])
async def test_rows_of_another_space_are_refused_and_counted(raw: bool) -> None:
    rows = [row(1), row(2, space_id="2"), row(3), row(4, space_id=1)]
    async with Simulator(rows=rows) as sim, client_of(sim) as client:
        listing: Any = client.space(sim.space_token).tasks()
        async with (listing.raw() if raw else listing).walk() as walk:
            got = [one async for one in walk]
        ids = [json.loads(one)["task_id"] if raw else one.task_id for one in got]
        assert ids == ["T1", "T3", "T4"]
        assert walk.report.foreign == 1
        assert not walk.report.verified


async def test_rows_of_another_run_are_refused() -> None:
    data = [row(1), row(2, run_id="R2")]
    async with Simulator() as sim, client_of(sim) as client:
        sim.answer = lambda request: Reply(
            200, {"count": 2, "data": data if request.page == 1 else []}
        )
        tasks = await client.space(sim.space_token).run("R1").tasks().collect()
        assert [task.task_id for task in tasks] == ["T1"]


async def test_an_answer_too_large_is_asked_for_in_smaller_pages(
    sim: Simulator, space: SpaceHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unpod_async._transport.MAX_BODY", 400_000)
    assert [task.task_id async for task in space.tasks(page_size=500)] == sim.world.task_ids()
    monkeypatch.setattr("unpod_async._transport.MAX_BODY", 10)
    with pytest.raises(ResponseTooLarge):
        await space.tasks().collect()


# -- fan-out ----------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [False, True])
async def test_fan_out_gives_every_run_with_its_tasks(
    sim: Simulator, space: SpaceHandle, ordered: bool
) -> None:
    got: dict[str, list[str]] = {}
    async with space.run_tasks(concurrency=5, ordered=ordered) as stream:
        async for run, tasks in stream:
            got[run.run_id] = [task.task_id for task in tasks]
    assert got == {run_id: sim.world.task_ids(run_id) for run_id in sim.world.run_ids()}
    assert not ordered or list(got) == sim.world.run_ids()
    assert stream.report.seen == 900
    assert stream.report.verified, stream.report.reason


async def test_fan_out_over_given_runs_takes_ids_and_runs(
    sim: Simulator, space: SpaceHandle
) -> None:
    first, second = sim.world.run_ids()[:2]
    async with space.run_tasks([first, Run.of(second)], ordered=True) as stream:
        assert [run.run_id async for run, _ in stream] == [first, second]
    with pytest.raises(ConfigurationError):
        space.run_tasks(["../secret"])


async def test_a_failing_run_surfaces_as_itself_and_cancels_the_others(
    sim: Simulator, space: SpaceHandle
) -> None:
    bad = sim.world.run_ids()[3]
    sim.fault("status", status=403, match=bad, times=None)
    with pytest.raises(PermissionDenied, match=bad):
        async with space.run_tasks(concurrency=4) as stream:
            async for _ in stream:
                pass


async def test_collected_failures_leave_the_other_runs_whole(
    sim: Simulator, space: SpaceHandle
) -> None:
    forbidden, gone = sim.world.run_ids()[2:4]
    sim.fault("status", status=403, match=forbidden, times=None)
    sim.fault("status", status=404, match=gone, times=None)
    async with space.run_tasks(on_error="collect") as stream:
        runs = [run.run_id async for run, _ in stream]
    assert set(runs) == set(sim.world.run_ids()) - {forbidden, gone}
    assert {run.run_id: error.status for run, error in stream.failures} == {
        forbidden: 403,
        gone: 404,
    }
    for run, error in stream.failures:  # each can be taken up again, from its first row on
        resumed = space.run(run.run_id).tasks().walk(resume=error.checkpoint)
        assert resumed.report.seen == 0
    assert stream.report.missing
    assert not stream.report.verified


async def test_a_list_of_runs_that_fails_is_raised_even_when_failures_are_collected(
    sim: Simulator, space: SpaceHandle
) -> None:
    sim.fault("status", status=401, match="/runs/?", times=None)
    sim.fault("status", status=401, times=None)
    with pytest.raises(AuthenticationError):
        async with space.run_tasks(on_error="collect") as stream:
            async for _ in stream:
                pass


async def test_a_refused_token_in_mid_fan_out_stops_it_soon() -> None:
    async with Simulator(runs=50, tasks=500, latency=0.005) as sim, client_of(sim) as client:
        sim.fault("status", status=401, after=20, times=None)
        with pytest.raises(AuthenticationError):
            async with client.space(sim.space_token).run_tasks(concurrency=8) as stream:
                async for _ in stream:
                    pass
        assert len(sim.requests) <= 20 + 8


async def test_many_runs_never_mean_many_tasks() -> None:
    runs = [{"run_id": f"R{number}", "space_id": "1"} for number in range(3000)]
    async with Simulator(rows=[], run_rows=runs) as sim, client_of(sim) as client:
        most = 0
        async with client.space(sim.space_token).run_tasks(concurrency=10) as stream:
            async for _ in stream:
                most = max(most, len(asyncio.all_tasks()))
        assert most <= 10 + 40  # lanes, and what the server in this loop needs


async def test_the_whole_client_keeps_to_its_limit() -> None:
    async with (
        Simulator(runs=30, tasks=600, latency=0.002, slots=100) as sim,
        client_of(sim, limits=Limits(max_concurrency=3, adaptive=False)) as client,
    ):
        async with client.space(sim.space_token).run_tasks(concurrency=20) as stream:
            assert len([run async for run, _ in stream]) == 30
        assert sim.peak_in_flight <= 3


# -- options ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"token": ""}, "token"),
        ({"token": "two\nlines-S3CR3T"}, "token"),
        ({"token": " S3CR3T"}, "token"),
        ({"token": "S3CR3T\x00"}, "token"),
        ({"token": "S3CR3T€"}, "token"),
        ({"token": "S3CR3T" * 2000}, "token"),
        ({"org_handle": "S3CR3T org"}, "org_handle"),
        ({"auth_scheme": "Basic"}, "auth_scheme"),
        ({"base_url": "ftp://unpod.ai"}, "base_url"),
        ({"base_url": "https://user:S3CR3T@unpod.ai/api"}, "base_url"),
        ({"base_url": "http://unpod.ai/api"}, "base_url"),
        ({"retry": 3}, "retry"),
        ({"limits": 8}, "limits"),
    ],
)
async def test_a_wrong_client_option_is_named_and_never_echoed(
    options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named) as caught:
        UnpodClient(**{"token": "fine", "base_url": "https://unpod.ai/api"} | options)
    assert "S3CR3T" not in str(caught.value)
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert "S3CR3T" not in "".join(frame for frame in shown.format() if "unpod_async" in frame)


@pytest.mark.parametrize("value", [0, -1, "50", 1.5, True, 10**10])
async def test_a_wrong_page_size_is_a_configuration_error(
    space: SpaceHandle, sim: Simulator, value: Any
) -> None:
    for make in (space.tasks, space.runs, space.run("R1").tasks):
        with pytest.raises(ConfigurationError, match="page_size"):
            make(page_size=value)
    with pytest.raises(ConfigurationError):
        space.tasks().pages(first=value if value != 10**10 else 0)
    with pytest.raises(ConfigurationError):
        space.tasks().walk(prefetch=value)
    with pytest.raises(ConfigurationError):
        space.run_tasks(concurrency=value)
    assert sim.requests == []


@pytest.mark.parametrize("token", ["", "a/b", "..", "ä", "x" * 129, "a b", "a\n", None, 5])
async def test_a_wrong_space_token_or_run_id_is_a_configuration_error(
    client: UnpodClient, space: SpaceHandle, token: Any
) -> None:
    with pytest.raises(ConfigurationError):
        client.space(token)
    with pytest.raises(ConfigurationError):
        space.run(token)


async def test_options_come_from_the_environment_unless_they_are_given(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNPOD_API_TOKEN", raising=False)
    monkeypatch.delenv("UNPOD_PLATFORM_TOKEN", raising=False)
    with pytest.raises(ConfigurationError, match="UNPOD_API_TOKEN"):
        UnpodClient()
    monkeypatch.setenv("UNPOD_PLATFORM_TOKEN", sim.token)
    monkeypatch.setenv("UNPOD_ORG_HANDLE", sim.org_handle)
    monkeypatch.setenv("UNPOD_BASE_URL", sim.base_url)
    async with UnpodClient() as client:
        assert (await client.check()).ok
    monkeypatch.setenv("UNPOD_API_TOKEN", "wrong")
    async with UnpodClient() as client:
        assert not (await client.check()).ok
    async with UnpodClient(token=sim.token) as client:
        assert (await client.check()).ok
    monkeypatch.setenv("UNPOD_API_TOKEN", "two words")
    with pytest.raises(ConfigurationError, match="UNPOD_API_TOKEN"):
        UnpodClient()


async def test_a_client_opens_and_closes_from_different_tasks(sim: Simulator) -> None:
    client = client_of(sim)
    with pytest.raises(ConfigurationError, match="not open"):
        await client.check()
    await asyncio.wait_for(client.open(), 5)
    await client.open()
    assert (await client.check()).ok
    await asyncio.wait_for(client.aclose(), 5)
    await client.aclose()
    with pytest.raises(ConfigurationError, match="closed"):
        await client.check()
    with pytest.raises(ConfigurationError, match="closed"):
        await client.open()


async def test_nothing_shows_a_person_or_a_token(sim: Simulator, space: SpaceHandle) -> None:
    task = (await space.tasks().collect(limit=1))[0]
    assert isinstance(task, Task)
    shown = repr([space, space.tasks(), task, task.call, task.contact, UnpodClient(token="S3CR3T")])
    assert "S3CR3T" not in shown
    assert "Example" not in shown
    assert "@" not in shown


# -- what it did and tells --------------------------------------------------------------


async def test_the_totals_and_the_events_tell_what_happened(sim: Simulator) -> None:
    events: list[Event] = []
    async with client_of(sim, on_event=events.append) as client:
        sim.fault("status", status=503, times=1)
        tasks = await client.space(sim.space_token).tasks(page_size=500).collect()
        stats = client.stats
    assert (stats.requests, stats.retries) == (len(sim.requests), 1)
    assert stats.rows >= len(tasks) == 900
    assert stats.bytes > 900 * 500
    assert stats.served > 0
    told = [(event.kind, event.outcome) for event in events[:2]]
    assert told == [("retry", 503), ("answer", 200)]
    sim.fault("status", status=403)
    with pytest.raises(PermissionDenied):
        async with client_of(sim, on_event=events.append) as client:
            await client.space(sim.space_token).tasks().collect()
    assert events[-1].kind == "failure"


async def test_a_hook_that_raises_costs_no_request(sim: Simulator) -> None:
    def hook(event: Event) -> None:
        raise RuntimeError(event.kind)

    async with client_of(sim, on_event=hook) as client:
        assert await client.space(sim.space_token).tasks().count() == 900


async def test_a_hundred_tasks_do_not_hammer_a_platform_that_is_down(sim: Simulator) -> None:
    async with client_of(sim, limits=Limits(adaptive=False)) as client:
        sim.fault("status", status=503, times=None)
        tasks = client.space(sim.space_token).tasks()
        answers = await asyncio.gather(*(tasks.count() for _ in range(100)), return_exceptions=True)
        assert all(isinstance(answer, ServerError) for answer in answers)
        assert len(sim.requests) <= 100 + 500 // 5
        sim.clear_faults()
        assert await tasks.count() == 900


# -- misuse, and second tries -----------------------------------------------------------


async def test_an_iterator_goes_on_after_an_error_instead_of_seeming_to_end(
    sim: Simulator, space: SpaceHandle
) -> None:
    rows = aiter(space.tasks(page_size=100))
    ids = [(await anext(rows)).task_id for _ in range(100)]
    sim.fault("status", status=403)
    with pytest.raises(PermissionDenied):
        await anext(rows)
    ids += [task.task_id async for task in rows]
    assert ids == sim.world.task_ids()


async def test_an_iterator_goes_on_after_a_timeout(sim: Simulator, space: SpaceHandle) -> None:
    rows = aiter(space.tasks(page_size=100))
    sim.fault("hang")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(rows), 0.05)
    assert [task.task_id async for task in rows] == sim.world.task_ids()


async def test_one_iterator_has_one_consumer(space: SpaceHandle) -> None:
    rows = aiter(space.tasks())
    first, second = await asyncio.gather(anext(rows), anext(rows), return_exceptions=True)
    assert isinstance(first, Task)
    assert isinstance(second, ConfigurationError)


async def test_a_walk_that_failed_says_so_again(sim: Simulator, space: SpaceHandle) -> None:
    sim.fault("status", status=403, after=2, times=None)
    async with space.tasks(page_size=100).walk(prefetch=1) as walk:
        with pytest.raises(PermissionDenied):
            async for _ in walk:
                pass
        with pytest.raises(PermissionDenied):
            await anext(walk)


async def test_blocks_are_entered_once_and_iterated_inside(space: SpaceHandle) -> None:
    for block in (space.tasks().walk(), space.run_tasks()):
        with pytest.raises(ConfigurationError, match="inside"):
            await anext(block)
        async with block:
            await anext(block)
        with pytest.raises(ConfigurationError, match="inside"):
            await anext(block)
        with pytest.raises(ConfigurationError, match="once"):
            async with block:
                pass


async def test_a_fan_out_claims_nothing_before_its_end(space: SpaceHandle) -> None:
    stream = space.run_tasks()
    assert not stream.report.verified
    async with stream:
        await anext(stream)
    assert not stream.report.verified
    assert stream.report.reason == "not finished"


async def test_an_incomplete_list_of_runs_counts_in_the_receipt_of_all(
    sim: Simulator, space: SpaceHandle
) -> None:
    """Its flaw does; its rows and its count do not, for the totals are of tasks."""
    await space.tasks().collect(limit=200)  # so that one answer of three rows is the whole list
    run_ids = sim.world.run_ids()[:2]
    data = [{"run_id": run_id} for run_id in (*run_ids, "")]
    body = msgspec.json.encode({"status_code": 200, "count": 3, "data": data})
    sim.fault("bytes", body=body, match=lambda asked: asked.path.endswith("/runs/"), times=None)
    got: dict[str, int] = {}
    with pytest.raises(IncompleteWalk) as caught:
        async with space.run_tasks() as stream:
            async for run, tasks in stream:
                got[run.run_id] = len(tasks)
    assert got == {run_id: len(sim.world.task_ids(run_id)) for run_id in run_ids}
    report = stream.report
    assert report.seen == report.expected.count_last == sum(got.values())
    assert report.missing and not report.verified
    assert report.reason is not None and report.reason.startswith("the list of runs: ")
    assert [row.offset for row in report.invalid] == [2]
    assert report.started and report.ended
    assert caught.value.report.seen == 0


async def test_a_run_given_twice_is_read_once(sim: Simulator, space: SpaceHandle) -> None:
    run_id = sim.world.run_ids()[0]
    async with space.run_tasks([run_id, Run.of(run_id)]) as stream:
        assert [run.run_id async for run, _ in stream] == [run_id]
    with pytest.raises(ConfigurationError, match="runs"):
        space.run_tasks(run_id)


async def test_a_token_callable_that_is_cancelled_from_inside_is_an_error(sim: Simulator) -> None:
    async def token() -> str:
        refresh: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        refresh.cancel()
        return await refresh

    async with UnpodClient(token=token, base_url=sim.base_url) as client:
        space = client.space(sim.space_token)
        with pytest.raises(ConfigurationError, match="cancelled"):
            async with space.tasks().walk() as walk:
                await anext(walk)
        with pytest.raises(ConfigurationError, match="cancelled"):
            async with space.run_tasks() as stream:
                await anext(stream)


async def test_a_stranger_at_the_top_does_not_disown_the_rest() -> None:
    rows = [row(0, space_id="9"), *(row(number) for number in range(1, 40)), row(40, space_id="")]
    async with Simulator(rows=rows) as sim, client_of(sim) as client:
        tasks = await client.space(sim.space_token).tasks().collect()
        assert len(tasks) == 40  # "" names no other space


async def test_a_whole_page_of_rows_without_identity_costs_only_itself() -> None:
    rows = [
        *(row(number) for number in range(40)),
        *(row(number, task_id=None) for number in range(60)),
        *(row(number) for number in range(100, 140)),
    ]
    async with Simulator(rows=rows) as sim, client_of(sim) as client:
        listing = client.space(sim.space_token).tasks(page_size=20)
        with pytest.raises(IncompleteWalk) as caught:
            await listing.collect()
        assert len(caught.value.items) == 80
        assert len(caught.value.report.invalid) == 60
        pages = [page async for page in listing.pages()]
        assert sum(len(page.items) for page in pages) == 80


async def test_a_finished_walk_taken_up_again_keeps_its_doubts() -> None:
    async with Simulator(tasks=60, count="null") as sim, client_of(sim) as client:
        listing = client.space(sim.space_token).tasks(page_size=50)
        async with listing.walk() as walk:
            assert len([task async for task in walk]) == 60
        async with listing.walk(resume=walk.checkpoint()) as again:
            assert [task async for task in again] == []
        assert not again.report.verified
        assert again.report.reason == walk.report.reason


# -- only some fields -------------------------------------------------------------------


async def test_every_list_decodes_only_what_is_named(
    client: UnpodClient, space: SpaceHandle
) -> None:
    whole = await space.tasks().collect()
    few = await space.tasks(fields=("status", "created_at")).collect()
    assert [(task.task_id, task.status) for task in few] == [
        (task.task_id, task.status) for task in whole
    ]
    assert few[0].created_at == whole[0].created_at
    assert {task.output for task in few} == {None}
    run = (await space.runs(fields=["status"]).collect(limit=1))[0]
    assert (run.created, bool(run.status)) == (None, True)
    async with space.run_tasks(fields=("status",)) as stream:
        read = [task async for _, tasks in stream for task in tasks]
    assert {task.task_id for task in read} == {task.task_id for task in whole}
    assert {task.input for task in read} == {None}
    assert {space.name for space in await client.spaces(fields=["slug"]).collect()} == {None}


async def test_a_walk_over_some_fields_is_proved_and_resumed_as_any(space: SpaceHandle) -> None:
    tasks = space.tasks(fields=("status",), page_size=50)
    rows = []
    async with tasks.walk() as first:
        async for task in first:
            rows.append(task.task_id)
            if len(rows) == 70:
                break
        place = first.checkpoint()
    async with tasks.walk(resume=place) as second:
        rows += [task.task_id async for task in second]
    assert rows == [task.task_id for task in await space.tasks().collect()]
    assert second.report.verified


@pytest.mark.parametrize("fields", ["status", [], ["no_such"], [7], ("status", None), ["_status"]])
async def test_fields_that_a_row_has_not_are_refused(space: SpaceHandle, fields: Any) -> None:
    for make in (space.tasks, space.runs, space.run("R1").tasks, space.run_tasks):
        with pytest.raises(ConfigurationError, match=r"^fields"):
            make(fields=fields)


async def test_raw_rows_are_whole(space: SpaceHandle) -> None:
    with pytest.raises(ConfigurationError, match="fields"):
        space.tasks(fields=("status",)).raw()


async def test_the_receipt_of_all_runs_tells_of_empty_ones() -> None:
    runs = [{"run_id": f"R{number}", "space_id": "1"} for number in range(3)]
    rows = [{"task_id": f"T{number}", "run_id": "R1", "space_id": "1"} for number in range(4)]
    async with (
        Simulator(rows=rows, run_rows=runs) as sim,
        client_of(sim) as client,
        client.space(sim.space_token).run_tasks() as stream,
    ):
        read = [task.task_id async for _, tasks in stream for task in tasks]
    assert len(read) == 4
    assert stream.report.verified
    assert stream.report.empty_confirmed == 4  # two runs, each asked twice
