"""The export engine over real targets: whole, resumed, refreshed, refused; nothing lost, nothing
twice, and never a checkpoint ahead of its rows."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from test_cli import Cli, cli, settings, simulator  # noqa: F401  (three are fixtures)

from unpod_async import ConfigurationError, ExportError, RetryPolicy, ServerError, UnpodClient
from unpod_async.export import _source, export_to
from unpod_async.export._engine import Export, Options
from unpod_async.export._jobs import Wanted, wanted_of
from unpod_async.export._select import Selection
from unpod_async.export._sink import sink_for
from unpod_async.export._state import Receipt
from unpod_async.simulator import Churn, Simulator

# ruff: noqa: F811  (fixtures that are imported are named again by who uses them)

duckdb = pytest.importorskip("duckdb")

pytestmark = pytest.mark.drivers

TARGETS = ["tasks.jsonl", "tasks.jsonl/", "tasks.parquet", "tasks.duckdb"]
every_target = pytest.mark.parametrize("name", TARGETS)


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    """What a target holds, by id; fails if an id is there twice."""
    rows = list(_rows(path))
    ids = [row["task_id"] for row in rows]
    assert len(set(ids)) == len(ids), Counter(ids).most_common(3)
    return dict(zip(ids, rows, strict=True))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".duckdb":
        with duckdb.connect(str(path), read_only=True) as base:
            names = "task_id, status, output, input, created"
            found = base.execute(f"SELECT {names} FROM tasks").fetchall()
        for row in found:
            yield dict(zip(names.split(", "), row, strict=True))
    elif path.suffix == ".parquet":
        import pyarrow.parquet as pq

        yield from pq.read_table(path).to_pylist()
    else:
        files = sorted(path.glob("tasks/*.jsonl")) if path.is_dir() else [path]
        for file in files:
            yield from map(json.loads, file.read_bytes().splitlines())


def statuses(path: Path) -> dict[str, Any]:
    return {row_id: row["status"] for row_id, row in rows_of(path).items()}


def expected(simulator: Simulator) -> dict[str, Any]:
    world = simulator.world
    return {task_id: world.row(task_id)["status"] for task_id in world.task_ids()}


def export(cli: Cli, path: Path | str, *options: str) -> dict[str, Any]:
    """The summary of an export, whatever its exit code."""
    said = cli("export", "tasks", "--to", str(path), "--json", "--page-size", "100", *options)
    assert said.err == ""
    (summary,) = said.rows
    assert summary["exit_code"] == said.code
    return summary


def target(tmp_path: Path, name: str) -> str:
    return f"{tmp_path}/{name}"


@every_target
@pytest.mark.parametrize("via", ["walk", "runs"])
def test_a_whole_export_then_the_same_again(cli: Cli, tmp_path: Path, name: str, via: str) -> None:
    cli.simulator.churn = Churn(inserts=1, deletes=1)
    mark = cli.simulator.world.mark()
    first = export(cli, target(tmp_path, name), "--via", via)
    assert (first["exit_code"], first["mode"]) == (0, "full")
    lived = cli.simulator.world.lived_throughout(mark)
    cli.simulator.churn = None
    assert lived <= rows_of(tmp_path / name).keys()
    second = export(cli, target(tmp_path, name), "--via", via)
    assert second["exit_code"] == 0
    assert expected(cli.simulator).items() <= statuses(tmp_path / name).items()
    third = export(cli, target(tmp_path, name), "--via", via)
    assert (third["inserted"], third["updated"]) == (0, 0)
    assert cli("verify", target(tmp_path, name)).code == 0


@every_target
def test_a_refresh_reads_the_head_and_what_had_not_settled(
    cli: Cli, tmp_path: Path, name: str
) -> None:
    world = cli.simulator.world
    for at, task_id in enumerate(world.task_ids()):
        late = at in (700, 800)
        output = {} if late else {"post_call_data": {"summary": {"status": "Done"}}}
        world.update(task_id, status="pending" if late else "completed", output=output)
    assert export(cli, target(tmp_path, name))["exit_code"] == 0
    ids = world.task_ids()
    world.update(ids[700], status="completed", output={"post_call_data": {"summary": "x"}})
    world.update(ids[5], status="failed")  # had settled: the platform does not tell
    born = world.insert(3)
    before = len(cli.simulator.requests)
    summary = export(cli, target(tmp_path, name))
    assert (summary["mode"], summary["exit_code"]) == ("refreshed", 0)
    assert (summary["inserted"], summary["updated"]) == (3, 1)
    assert "settled" in summary["covers"]
    assert len(cli.simulator.requests) - before <= 10
    found = statuses(tmp_path / name)
    assert set(born) <= found.keys()
    assert (found[ids[700]], found[ids[800]]) == ("completed", "pending")
    assert found[ids[5]] == "completed"
    full = export(cli, target(tmp_path, name), "--full")
    assert (full["mode"], full["updated"]) == ("full", 1)
    assert statuses(tmp_path / name) == expected(cli.simulator)


def test_a_row_that_is_gone_is_looked_for_once(cli: Cli, tmp_path: Path) -> None:
    world = cli.simulator.world
    ids = world.task_ids()
    for task_id in ids:
        world.update(task_id, status="completed", output={"post_call_data": {"a": 1}})
    world.update(ids[600], status="pending")
    path = tmp_path / "tasks.duckdb"
    export(cli, path)
    world.delete(ids[600])
    requests = []
    for _ in range(2):
        before = len(cli.simulator.requests)
        summary = export(cli, path)
        assert (summary["mode"], summary["exit_code"]) == ("refreshed", 0)
        assert "deleted" in summary["covers"]
        requests.append(len(cli.simulator.requests) - before)
    assert requests[1] < requests[0]
    assert ids[600] in rows_of(path)


@pytest.mark.parametrize("hours", [1, 48])
def test_an_evaluation_is_waited_for_as_long_as_settle_says(
    cli: Cli, tmp_path: Path, hours: int
) -> None:
    world = cli.simulator.world
    ids = world.task_ids()
    ended = (datetime.now(UTC) - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%S")
    for task_id in ids:
        world.update(task_id, status="completed", output={"post_call_data": {"a": 1}})
    world.update(ids[600], output={"end_time": ended})
    path = tmp_path / "tasks.duckdb"
    export(cli, path)
    world.update(ids[600], output={"end_time": ended, "post_call_data": {"a": 2}})
    assert export(cli, path)["updated"] == (1 if hours == 1 else 0)
    assert export(cli, path, "--settle", "3d")["updated"] == (0 if hours == 1 else 1)


@every_target
@pytest.mark.parametrize("via", ["walk", "runs"])
def test_an_export_that_failed_goes_on_where_it_stood(
    cli: Cli, tmp_path: Path, name: str, via: str
) -> None:
    cli.simulator.fault("status", status=404, after=6, times=None, match="tasks")
    first = export(cli, target(tmp_path, name), "--via", via, "--concurrency", "1")
    assert first["exit_code"] == (1 if via == "walk" else 3)
    cli.simulator.clear_faults()
    before = len(cli.simulator.requests)
    second = export(cli, target(tmp_path, name), "--via", via)
    assert second["exit_code"] == 0
    if name != "tasks.jsonl" or via == "walk":
        assert second["mode"] in ("resumed", "full")
    if via == "walk":
        assert first["rows"] >= 400
        assert second["mode"] == "resumed"
        assert len(cli.simulator.requests) - before < 12
        assert second["inserted"] + first["inserted"] == 1200 if "inserted" in first else True
    assert statuses(tmp_path / name) == expected(cli.simulator)


def test_status_since_columns_and_limit(cli: Cli, tmp_path: Path) -> None:
    world = cli.simulator.world
    rows = [world.row(task_id) for task_id in world.task_ids()]
    since = rows[50]["created"]
    wanted = {row["task_id"] for row in rows if row["created"] >= since}
    before = len(cli.simulator.requests)
    options = ("--since", f"{since}Z", "--columns", "status,created,output,input")
    options += ("--concurrency", "1")
    path = tmp_path / "since.duckdb"
    assert export(cli, path, *options)["exit_code"] == 0
    assert rows_of(path).keys() == wanted
    assert len(cli.simulator.requests) - before < 12
    again = export(cli, path, *options)
    assert (again["inserted"], again["updated"], again["exit_code"]) == (0, 0, 0)
    path = tmp_path / "status.jsonl"
    assert export(cli, path, "--status", "pending", "--status", "failed")["exit_code"] == 0
    assert rows_of(path).keys() == {
        row["task_id"] for row in rows if row["status"] in ("pending", "failed")
    }
    path = tmp_path / "limit.jsonl"
    for _ in range(2):
        assert export(cli, path, "--limit", "70")["exit_code"] == 0
        assert list(rows_of(path)) == world.task_ids()[:70]


@every_target
def test_another_job_is_refused_and_says_why(cli: Cli, tmp_path: Path, name: str) -> None:
    path = target(tmp_path, name)
    assert export(cli, path, "--limit", "50")["exit_code"] == 0
    held = rows_of(tmp_path / name)
    other = export(cli, path, "--status", "completed")
    assert other["exit_code"] == 2
    assert "limit" in other["error"] or "status" in other["error"]
    assert "--force" in other["error"]
    assert rows_of(tmp_path / name) == held
    assert export(cli, path, "--status", "completed", "--force")["exit_code"] == 0
    found = statuses(tmp_path / name)
    assert found == {
        row: status for row, status in expected(cli.simulator).items() if status == "completed"
    }
    cli.simulator.world.delete(next(iter(found)))
    fresh = export(cli, path, "--status", "completed", "--fresh")
    assert (fresh["exit_code"], fresh["mode"]) == (0, "full")
    assert len(rows_of(tmp_path / name)) == len(found) - 1


def test_a_dry_run_changes_nothing(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "tasks.duckdb"
    said = cli("export", "tasks", "--to", str(path), "--dry-run")
    assert said.code == 0
    assert "would write" in said.err
    assert "1,200 tasks" in said.err
    assert list(tmp_path.iterdir()) == []
    assert len(cli.simulator.requests) == 1


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("ftp://x/tasks.parquet", "postgresql://"),
        ("tasks.xlsx", ".parquet"),
        ("tasks", ".duckdb"),
        ("no/such/folder/tasks.jsonl", "no/such/folder"),
    ],
)
def test_a_target_that_there_is_not(cli: Cli, tmp_path: Path, to: str, said: str) -> None:
    told = cli("export", "tasks", "--to", to if ":" in to else str(tmp_path / to))
    assert told.code == 2
    assert said in told.err
    assert len(told.err.splitlines()) == 1
    assert cli.simulator.requests == []


def test_unknown_columns_are_refused_with_those_that_there_are(cli: Cli, tmp_path: Path) -> None:
    told = cli("export", "tasks", "--to", str(tmp_path / "t.parquet"), "--columns", "nonsense")
    assert told.code == 2
    assert "nonsense" in told.err
    assert "user_info, run_id" in told.err
    told = cli("export", "tasks", "--to", str(tmp_path / "t.jsonl"), "--columns", "status")
    assert told.code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("s3://k:hunter2pw@b/t.txt", "s3://b/t.txt"),
        ("gs://b/t.txt?secret=hunter2pw", "gs://b/t.txt"),
        ("s3://AK:hunter2pw/x@bucket/t.jsonl", "s3://bucket"),
        ("postgresql:u:hunter2pw@h/db", "postgresql://USER@HOST/DATABASE"),
        ("postgres:password=hunter2pw host=h", "postgresql://USER@HOST/DATABASE"),
        ("postgresql://u:p@hunter2pw@h/db", "%40"),
        ("postgresql://localhost:1/db?pass%77ord=hunter2pw", "localhost"),
        ("postgresql://localhost:1/db?password=x@hunter2pw", "%40"),
        ("file://host/t.jsonl", "three strokes"),
        ("mock://t.jsonl", "no destination is called mock"),
        ("\udcff.jsonl", "not UTF-8"),
    ],
)
def test_targets_that_are_refused_tell_no_password(cli: Cli, to: str, said: str) -> None:
    for command in (("export", "tasks", "--to", to), ("verify", to)):
        refused = cli(*command)
        assert refused.code == 2
        assert said in refused.err
        assert "hunter2" not in refused.err


@pytest.mark.parametrize(
    "options",
    [("--since", text) for text in ("nan", "inf", "-inf", "1e400", "-1e12", "1e18")]
    + [("--columns", ""), ("--columns", ","), ("--run", ""), ("--limit", "1.5")]
    + [("--page-size", "1e9"), ("--concurrency", "x"), ("--processes", "0")],
    ids=" ".join,
)
def test_values_that_there_are_not(cli: Cli, tmp_path: Path, options: tuple[str, ...]) -> None:
    refused = cli("export", "tasks", "--to", str(tmp_path / "t.jsonl"), *options)
    assert refused.code == 2
    assert "fault of unpod-async" not in refused.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["tasks.jsonl", "tasks.duckdb"])
def test_a_signal_saves_what_came(
    cli: Cli, tmp_path: Path, number: signal.Signals, name: str
) -> None:
    from test_cli_export import wait_for

    cli.simulator.fault("hang", times=None, after=5)
    path = tmp_path / name
    arguments = ("export", "tasks", "--to", str(path), "--json", "--page-size", "100")
    with cli.process(*arguments) as process:
        wait_for(lambda: len(cli.simulator.requests) > 6)
        process.send_signal(number)
        out, err = process.communicate()
    assert (process.returncode, err) == (128 + number, b"")
    first = json.loads(out)
    assert first["rows"] > 0
    cli.simulator.clear_faults()
    second = export(cli, path)
    assert (second["exit_code"], second["mode"]) == (0, "resumed")
    assert first["rows"] + second["rows"] == 1200
    assert statuses(path) == expected(cli.simulator)


def test_rows_that_cannot_be_read_are_told_and_read_by_the_next_run(
    cli: Cli, tmp_path: Path
) -> None:
    world = cli.simulator.world
    poisoned = world.task_ids()[300]
    world.poison(poisoned)
    path = tmp_path / "tasks.duckdb"
    first = export(cli, path)
    assert first["exit_code"] == 3
    assert len(rows_of(path)) == 1199
    world.delete(poisoned)
    second = export(cli, path)
    assert second["exit_code"] == 0
    assert (second["inserted"], second["updated"]) == (0, 0)


def test_what_was_not_proved_is_read_whole_by_the_next_run(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "tasks.duckdb"
    cli.simulator.max_page_size = 5  # too small a page to prove anything by
    assert export(cli, path)["exit_code"] == 5
    cli.simulator.max_page_size = None
    second, third = export(cli, path), export(cli, path)
    assert (second["exit_code"], second["mode"], second["inserted"]) == (0, "full", 0)
    assert (third["exit_code"], third["inserted"], third["updated"]) == (0, 0, 0)


def test_half_a_surrogate_pair_hides_no_row_from_a_selection(tmp_path: Path) -> None:
    selection = Selection("tasks", status=("held",), since=datetime(2026, 1, 1, tzinfo=UTC))
    line = b'{"task_id":"T1","input":"\\ud83d","status":"%s","created":"%s"}'
    assert selection.takes(line % (b"held", b"2026-02-01T00:00:00"))
    assert not selection.takes(line % (b"other", b"2026-02-01T00:00:00"))
    assert not selection.takes(line % (b"held", b"2025-02-01T00:00:00"))
    assert not Selection("tasks", until=("T1",)).takes(line % (b"", b""))


@pytest.mark.parametrize("status", ["[]", "{}", "[1]", "7", "null", "true"])
def test_a_status_that_is_no_word_is_no_status(status: str) -> None:
    assert not Selection("tasks", status=("held",)).takes(
        b'{"task_id":"T1","status":%s}' % status.encode()
    )


def test_a_row_that_python_cannot_read_is_taken_unless_a_status_is_asked_for() -> None:
    line = b'{"task_id":"T1","input":"\\ud83d","status":"held","big":' + b"1" * 5000 + b"}"
    assert Selection("tasks", since=datetime(2026, 1, 1, tzinfo=UTC)).takes(line)
    assert Selection("tasks", until=("T2",)).takes(line)


# -- from Python ---------------------------------------------------------------------------


def client_of(sim: Simulator, **options: Any) -> UnpodClient:
    return UnpodClient(
        token=sim.token, base_url=sim.base_url, retry=RetryPolicy(attempts=1), **options
    )


@pytest.mark.anyio
async def test_export_to_gives_the_receipt(tmp_path: Path) -> None:
    async with Simulator(seed=2, runs=5, tasks=120) as sim, client_of(sim) as client:
        space = client.space(sim.space_token)
        receipt = await export_to(space.tasks(), tmp_path / "tasks.duckdb")
        assert (receipt.verified, receipt.inserted) == (True, 120)
        assert receipt.tables["tasks"].rows == 120
        assert receipt.job.base_url == sim.base_url
        receipt = await export_to(space.runs(), tmp_path / "tasks.duckdb")
        assert receipt.tables["runs"].rows == 5
        again = await export_to(space.tasks(), tmp_path / "tasks.duckdb")
        assert (again.verified, again.inserted, again.updated) == (True, 0, 0)
        run = sim.world.run_ids()[0]
        one = await export_to(space.run(run).tasks(), tmp_path / "run.jsonl")
        assert one.inserted == len(sim.world.task_ids(run))
        for wrong in (space.tasks(), client.spaces()):
            with pytest.raises(ConfigurationError):
                await export_to(wrong, tmp_path / "run.jsonl")


@pytest.mark.anyio
async def test_a_target_that_fails_ends_the_reading_and_keeps_its_state(tmp_path: Path) -> None:
    async with Simulator(seed=2, runs=5, tasks=500) as sim, client_of(sim) as client:
        wanted = wanted_of(client.space(sim.space_token).tasks(page_size=50))
        path = tmp_path / "tasks.duckdb"
        for failing in (2, 1):
            sink = await to_thread.run_sync(sink_for, str(path), "tasks")
            write, calls = sink.write, 0

            def full(batch: Any, state: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == failing:  # noqa: B023
                    raise ExportError("no space is left")
                return write(batch, state)  # noqa: B023

            sink.write = full  # type: ignore[method-assign]
            with pytest.raises(ExportError):
                await Export(sink, wanted.job(), wanted.sources(), Options(rows=100)).run()
        receipt = await export_to(client.space(sim.space_token).tasks(page_size=50), path)
        assert (receipt.mode, receipt.inserted, receipt.verified) == ("resumed", 400, True)
    assert rows_of(path).keys() == set(sim.world.task_ids())


@pytest.mark.anyio
async def test_a_refresh_knows_no_row_that_it_has_not_looked_at(tmp_path: Path) -> None:
    async with Simulator(seed=2, runs=3, tasks=300) as sim, client_of(sim) as client:

        async def export() -> tuple[str, int]:
            tasks = client.space(sim.space_token).tasks(page_size=20)
            receipt = await export_to(tasks, tmp_path / "x.jsonl", settle=-1e9)
            return receipt.mode, receipt.inserted

        assert await export() == ("full", 300)
        (late,) = sim.world.insert(1, depth=10)
        assert await export() == ("refreshed", 0)  # it ends at the first known row
        above = sim.world.task_ids()[: sim.world.task_ids().index(late)]
        assert above
        sim.world.delete(*above)
        assert await export() == ("refreshed", 1)
    assert late in rows_of(tmp_path / "x.jsonl")


@pytest.mark.anyio
async def test_a_batch_is_no_heavier_than_its_last_row_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_source, "BYTES", 20_000)
    async with Simulator(seed=2, runs=3, tasks=300) as sim, client_of(sim) as client:
        wanted = wanted_of(client.space(sim.space_token).tasks(page_size=100))
        sink = await sink_of(tmp_path / "x.jsonl")
        write, written = sink.write, []

        def weighed(batch: Any, state: Any) -> Any:
            written.append([len(line) for line in batch.lines])
            return write(batch, state)

        sink.write = weighed
        await Export(sink, wanted.job(), wanted.sources(), Options()).run()
    assert sum(map(len, written)) == 300
    assert all(sum(sizes[:-1]) < 20_000 for sizes in written)


@pytest.mark.anyio
@every_target
@pytest.mark.parametrize("rows", [40, 1000])
async def test_lists_that_share_rows_give_each_once(tmp_path: Path, name: str, rows: int) -> None:
    async with Simulator(seed=2, runs=3, tasks=120) as sim, client_of(sim) as client:
        space = client.space(sim.space_token)
        lists = [space.run(run).tasks(page_size=50) for run in sim.world.run_ids()]
        wanted = Wanted(kind="tasks", listings=[lists[0], space.tasks(page_size=50), *lists])
        sink = await to_thread.run_sync(sink_for, target(tmp_path, name), "tasks")
        receipt = await Export(sink, wanted.job(), wanted.sources(), Options(rows=rows)).run()
        assert (receipt.verified, receipt.inserted, receipt.updated) == (True, 120, 0)
    assert rows_of(tmp_path / name).keys() == set(sim.world.task_ids())


async def sink_of(path: Path) -> Any:
    return await to_thread.run_sync(sink_for, str(path), "tasks")


async def failing(path: Path, after: int) -> Any:
    """The sink of a target whose `write` fails after some calls."""
    sink = await sink_of(path)
    write, left = sink.write, [after]

    def failing(batch: Any, state: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise ExportError("no space is left")
        return write(batch, state)

    sink.write = failing
    return sink


def by_runs(client: UnpodClient, token: str, **options: Any) -> Wanted:
    space = client.space(token)
    return Wanted(
        kind="tasks", listings=[space.tasks()], spaces=[space], by_runs=True, lanes=1, **options
    )


async def export_runs(wanted: Wanted, sink: Any) -> Receipt:
    return await Export(sink, wanted.job(), wanted.sources(), Options(rows=50)).run()


@pytest.mark.anyio
async def test_runs_that_failed_are_remembered_however_often_an_export_is_cut_short(
    tmp_path: Path,
) -> None:
    async with Simulator(seed=2, runs=10, tasks=1000) as sim, client_of(sim) as client:
        wanted = by_runs(client, sim.space_token)
        path = tmp_path / "tasks.duckdb"
        first = sim.world.run_ids()[0]
        sim.fault("status", status=404, times=None, match=first)
        for _ in range(3):
            with pytest.raises(ExportError):
                await export_runs(wanted, await failing(path, after=2))
        receipt = await export_runs(wanted, await sink_of(path))
        assert not receipt.complete
        assert "1 of the runs" in str(receipt.reason)
        receipt = await export_runs(wanted, await sink_of(path))
        assert "1 of the runs" in str(receipt.reason)
        sim.clear_faults()
        before = len(sim.requests)
        receipt = await export_runs(wanted, await sink_of(path))
        assert (receipt.complete, receipt.mode) == (True, "resumed")
        assert len(sim.requests) - before == 1
    assert rows_of(path).keys() == set(sim.world.task_ids())


@pytest.mark.anyio
@pytest.mark.parametrize("via", ["walk", "runs"])
async def test_a_limit_counts_the_rows_of_all_goes(tmp_path: Path, via: str) -> None:
    async with Simulator(seed=2, runs=10, tasks=1000) as sim, client_of(sim) as client:
        if via == "runs":
            wanted = by_runs(client, sim.space_token, limit=330)
        else:
            wanted = wanted_of(client.space(sim.space_token).tasks(page_size=50), limit=330)
        path = tmp_path / "tasks.duckdb"
        for _ in range(2):
            with pytest.raises(ExportError):
                await export_runs(wanted, await failing(path, after=2))
        for _ in range(2):
            receipt = await export_runs(wanted, await sink_of(path))
            assert len(rows_of(path)) == 330
            assert "no more than 330" in str(receipt.reason)


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["open", "write", "close"])
@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancelled_task_waits_for_its_thread(
    tmp_path: Path, method: str, times: int
) -> None:
    path = tmp_path / "tasks.duckdb"
    sink = await sink_of(path)
    calls: list[str] = []
    began, may_go_on = threading.Event(), threading.Event()

    def watched(name: str, call: Any) -> Any:
        def called(*arguments: Any) -> Any:
            calls.append(f"+{name}")
            if name == method and not began.is_set():
                began.set()
                assert may_go_on.wait(20)
            try:
                return call(*arguments)
            finally:
                calls.append(f"-{name}")

        return called

    for name in ("open", "checkpoint", "write", "close"):
        setattr(sink, name, watched(name, getattr(sink, name)))
    async with Simulator(seed=2, runs=5, tasks=500) as sim, client_of(sim) as client:
        wanted = wanted_of(client.space(sim.space_token).tasks(page_size=50))
        task = asyncio.create_task(
            Export(sink, wanted.job(), wanted.sources(), Options(rows=100)).run()
        )
        await to_thread.run_sync(began.wait)
        for _ in range(times):
            task.cancel()
            for _ in range(20):
                await asyncio.sleep(0)
        assert not task.done()
        may_go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert calls[-1] == "-close"
        pairs = list(zip(calls[::2], calls[1::2], strict=True))
        assert all(first[1:] == last[1:] for first, last in pairs), calls
        receipt = await export_to(client.space(sim.space_token).tasks(page_size=50), path)
        assert receipt.verified
    assert rows_of(path).keys() == set(sim.world.task_ids())


PLACES = [
    {"at": -1},
    {"at": "x"},
    {"walk": 7},
    {"walk": {"version": 1}},
    {"heads": []},
    {"report": {"seen": "many"}},
    {"taken": None},
    {"space": 1},
    {"failed": [[9, "R1"]]},
    {"behind": "R1"},
    {"behind": 3},
]


@pytest.mark.once
@pytest.mark.anyio
@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("via", ["walk", "runs"])
async def test_a_place_that_was_changed_is_refused(
    tmp_path: Path, via: str, place: dict[str, Any]
) -> None:
    async with Simulator(seed=2, runs=5, tasks=500) as sim, client_of(sim) as client:
        wanted = by_runs(client, sim.space_token)
        if via == "walk":
            wanted = wanted_of(client.space(sim.space_token).tasks(page_size=50))
        path = tmp_path / "tasks.jsonl"
        with pytest.raises(ExportError):
            await export_runs(wanted, await failing(path, after=2))
        checkpoint = tmp_path / ".tasks.jsonl.unpod/_checkpoint.json"
        found = json.loads(checkpoint.read_bytes())
        found["state"]["place"] |= place
        checkpoint.write_text(json.dumps(found))
        with pytest.raises(ConfigurationError, match="checkpoint"):
            await export_runs(wanted, await sink_of(path))


@pytest.mark.anyio
async def test_an_error_of_the_platform_is_raised_when_all_is_written(tmp_path: Path) -> None:
    async with Simulator(seed=2, runs=5, tasks=500) as sim, client_of(sim) as client:
        sim.fault("status", status=500, after=4, times=None)
        tasks = client.space(sim.space_token).tasks(page_size=50)
        with pytest.raises(ServerError):
            await export_to(tasks, tmp_path / "tasks.jsonl/", prefetch=1)
        sim.clear_faults()
        receipt = await export_to(tasks, tmp_path / "tasks.jsonl/")
        assert receipt.mode == "resumed"
        assert 0 < receipt.inserted < 400
    assert rows_of(tmp_path / "tasks.jsonl").keys() == set(sim.world.task_ids())


# -- several processes -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tasks.jsonl", "tasks.parquet/", "tasks.csv"])
def test_several_processes_write_one_target(cli: Cli, tmp_path: Path, name: str) -> None:
    path = target(tmp_path, name)
    for _ in range(2):
        summary = export(cli, path, "--processes", "2")
        assert (summary["exit_code"], summary.get("inserted")) == (0, 1200), summary
        assert summary["report"]["verified"]
        assert cli("verify", path).code == 0
        left = {file.name for file in tmp_path.iterdir()}
        assert left <= {Path(path).name, f"{Path(path).name}.manifest.json"}
        cli.simulator.world.insert(0)
    if name.endswith("jsonl"):
        assert statuses(tmp_path / name) == expected(cli.simulator)
    assert set(ids_of(tmp_path / name)) == set(cli.simulator.world.task_ids())


def ids_of(path: Path) -> list[str]:
    if path.suffix == ".csv":
        import csv

        with path.open(newline="") as file:
            ids = [row["task_id"] for row in csv.DictReader(file)]
    elif path.is_dir():
        import pyarrow.parquet as pq

        files = sorted(path.glob("tasks/*.parquet"))
        assert len(files) >= 2
        ids = [row for file in files for row in pq.read_table(file)["task_id"].to_pylist()]
    else:
        ids = list(rows_of(path))
    assert len(set(ids)) == len(ids)
    return ids


def test_processes_that_are_stopped_go_on(cli: Cli, tmp_path: Path) -> None:
    from test_cli_export import wait_for

    cli.simulator.fault("hang", times=None, after=10)
    path = str(tmp_path / "tasks.jsonl")
    arguments = ("export", "tasks", "--to", path, "--processes", "2", "--json")
    arguments += ("--page-size", "100", "--concurrency", "2")
    with cli.process(*arguments) as process:
        wait_for(lambda: len(cli.simulator.requests) > 10)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate()
    assert (process.returncode, err) == (143, b"")
    assert not (tmp_path / "tasks.jsonl").exists()
    cli.simulator.clear_faults()
    before = len(cli.simulator.requests)
    assert export(cli, path, "--processes", "2")["exit_code"] == 0
    assert len(cli.simulator.requests) - before < 40
    assert statuses(tmp_path / "tasks.jsonl") == expected(cli.simulator)


def test_what_is_not_ours_is_not_taken_for_a_share(cli: Cli, tmp_path: Path) -> None:
    others = [tmp_path / name for name in (".a-of-b.t.jsonl", ".1-of-2.other.t.jsonl")]
    for folder in others:
        folder.mkdir()
        (folder / "mine").write_text("mine")
    others.append(tmp_path / ".4-of-4.t.jsonl")  # by its name it might be ours
    others[-1].mkdir()
    (others[-1] / "mine").write_text("mine")
    stale = tmp_path / ".3-of-3.t.jsonl"
    stale.mkdir()
    path = str(tmp_path / "t.jsonl")
    assert export(cli, path, "--processes", "2", "--fresh")["exit_code"] == 0
    assert all((folder / "mine").exists() for folder in others)
    assert not stale.exists()
    refused = cli("export", "tasks", "--to", path, "--processes", "4", "--force")
    assert refused.code == 2
    assert "is a folder with other files" in refused.err
    assert (others[-1] / "mine").exists()


def test_processes_write_below_a_name_that_looks_like_a_scheme(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "delta:x").mkdir()
    assert export(cli, "./delta:x/t.jsonl", "--processes", "2")["exit_code"] == 0
    assert len(rows_of(tmp_path / "delta:x" / "t.jsonl")) == 1200


@pytest.mark.parametrize("how", ["dead", "absent", "noisy"])
def test_processes_that_cannot_be_used(
    cli: Cli, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    if how != "absent":
        python.write_text(
            "#!/bin/sh\n"
            + ("exit 7\n" if how == "dead" else f'echo "hello"\nexec {sys.executable} "$@"\n')
        )
        python.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(python))
    said = cli("export", "tasks", "--to", str(tmp_path / "t.jsonl"), "--processes", "2")
    if how == "noisy":
        assert said.code == 0
        return
    assert said.code == (7 if how == "dead" else 1)
    assert "process" in said.err
    assert "fault of unpod-async" not in said.err


def test_a_process_that_is_told_nothing_says_nothing() -> None:
    command = [sys.executable, "-m", "unpod_async.cli._worker"]
    said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert (said.returncode, said.stdout, said.stderr) == (143, b"", b"")


def test_a_process_that_fails_says_so_once(cli: Cli, tmp_path: Path) -> None:
    cli.simulator.fault("status", status=401, times=None, after=3)
    said = cli("export", "tasks", "--to", str(tmp_path / "t.jsonl"), "--processes", "2")
    assert said.code == 4
    assert len(said.err.splitlines()) == 1
    assert "process" in said.err


@pytest.mark.parametrize("options", [("--to", "t.duckdb"), ("--to", "t.jsonl", "--limit", "5")])
def test_processes_need_files_and_whole_runs(
    cli: Cli, tmp_path: Path, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = cli("export", "tasks", "--processes", "2", *options)
    assert said.code == 2
    assert cli.simulator.requests == []
    assert list(tmp_path.iterdir()) == []
