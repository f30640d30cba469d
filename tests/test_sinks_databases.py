"""Databases as destinations: rows and state move together, and what is there can be proved."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

pytest.importorskip("pyarrow")

from postgres import postgres_server, postgres_url  # noqa: F401

from unpod_async.errors import ConfigurationError, ExportError
from unpod_async.export._batch import Batch
from unpod_async.export._sink import Written, sink_for
from unpod_async.export._state import Job, Receipt, State
from unpod_async.export.sinks._database import harmless
from unpod_async.simulator import Simulator

pytestmark = pytest.mark.drivers

WORLD = Simulator(seed=3, runs=4, tasks=60).world
IDS = WORLD.task_ids()
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
JOB = Job(kind="tasks", base_url="http://test")
RUNS = Job(kind="runs", base_url="http://test")


def line(**row: Any) -> bytes:
    return json.dumps({"task_id": "T1", "modified": "2026-01-01T00:00:00", **row}).encode()


LINES = [json.dumps(WORLD.row(task_id)).encode() for task_id in IDS]


def talk(*said: str) -> dict[str, Any]:
    return {"call_id": "C1", "transcript": [{"role": "user", "content": text} for text in said]}


def tasks(*lines: bytes, columns: tuple[str, ...] | None = None) -> Batch:
    return Batch("tasks", lines, columns)


def state(place: int, job: Job = JOB) -> State:
    return State(job=job, place={"at": place})


class Place:
    """A destination in a test: its target, and a way past the sink."""

    def __init__(self, name: str, target: str) -> None:
        self.name, self.target = name, target
        self.path = Path(target.partition(":")[2] if name == "delta" else target)

    def sink(self, kind: Any = "tasks", columns: tuple[str, ...] | None = None) -> Any:
        return sink_for(self.target, kind, columns)

    def opened(self, kind: Any = "tasks", columns: tuple[str, ...] | None = None) -> Any:
        sink = self.sink(kind, columns)
        sink.open()
        return sink

    def checkpoint(self) -> State | None:
        sink = self.opened()
        sink.close(None)
        return sink.checkpoint()

    def export(self, *batches: Batch, kind: Any = "tasks", clear: bool = False) -> Receipt:
        job = JOB if kind == "tasks" else RUNS
        sink = self.opened(kind)
        if clear:
            sink.clear()
        for at, batch in enumerate(batches):
            sink.write(batch, state(at, job))
        receipt = Receipt(tool="test", job=job)
        sink.close(receipt)
        return receipt

    def sql(self, *statements: str) -> list[Any]:
        """The rows of the last of some statements."""
        if self.name != "sqlite":
            module = {"postgres": "adbc_driver_postgresql", "duckdb": "adbc_driver_duckdb"}
            dbapi = pytest.importorskip(f"{module[self.name]}.dbapi")
            with dbapi.connect(self.target, autocommit=True) as link, link.cursor() as cursor:
                return run(cursor, statements)
        link = sqlite3.connect(self.target, isolation_level=None)
        try:
            return run(link.cursor(), statements)
        finally:
            link.close()

    def table(self, name: str) -> list[dict[str, Any]]:
        key = {"runs": "run_id"}.get(name, "task_id")
        if self.name == "delta":
            from deltalake import DeltaTable

            found = DeltaTable(f"{self.path}/{name}").to_pyarrow_table().to_pylist()
        else:
            have = [row[0] for row in self.sql(self.sink()._database.columns_of(name))]
            names = ", ".join(f'"{column}"' for column in have)
            found = [
                dict(zip(have, row, strict=True)) for row in self.sql(f"SELECT {names} FROM {name}")
            ]
        return sorted(found, key=lambda row: (row[key], row.get("index", 0)))

    def said(self) -> list[str]:
        return [turn["text"] for turn in self.table("transcript_turns")]


def run(cursor: Any, statements: tuple[str, ...]) -> list[Any]:
    for statement in statements:
        cursor.execute(statement)
    return list(cursor.fetchall()) if statements[-1].startswith("SELECT") else []


@pytest.fixture(params=["duckdb", "sqlite", "postgres", "delta"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return placed(request, tmp_path)


@pytest.fixture(params=["duckdb", "sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return placed(request, tmp_path)


@pytest.fixture(params=["duckdb", "sqlite"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return placed(request, tmp_path)


@pytest.fixture
def postgres(postgres_url: str) -> Place:  # noqa: F811
    return Place("postgres", postgres_url)


def placed(request: pytest.FixtureRequest, folder: Path) -> Place:
    name = request.param
    modules = {"duckdb": "duckdb", "sqlite": "adbc_driver_sqlite", "delta": "deltalake"}
    if name == "postgres":
        return Place(name, request.getfixturevalue("postgres_url"))
    pytest.importorskip(modules[name])
    return Place(name, f"delta:{folder}/lake" if name == "delta" else f"{folder}/tasks.{name}")


# -- what is written


def test_rows_of_all_kinds_come_back_and_prove_true(place: Place) -> None:
    receipt = place.export(tasks(*LINES[:40]), tasks(*LINES[30:]))
    tables = tasks(*LINES).tables("json")
    rows = sorted(tables["tasks"].to_pylist(), key=lambda row: row["task_id"])
    stored = place.table("tasks")
    for column in ("task_id", "status", "output", "extra", "failure_count", "call_duration"):
        told = [as_json(row[column]) for row in stored]
        assert told == [as_json(row[column]) for row in rows], column
    times = [row["created_at"] and moment(row["created_at"]) for row in stored]
    assert times == [row["created_at"] and moment(row["created_at"]) for row in rows]
    assert len(place.table("transcript_turns")) == len(tables["transcript_turns"])
    assert receipt.tables["tasks"].rows == len(IDS)
    assert [name for name, _ in receipt.tables["tasks"].columns] == tables["tasks"].schema.names
    assert place.sink().verify()[1] == []
    assert place.sink().verify()[0] == receipt


def as_json(value: Any) -> Any:
    """Drivers differ in whether they decode JSON."""
    if isinstance(value, str) and value[:1] in "{[":
        return json.loads(value)
    return value


def moment(value: Any) -> datetime:
    found = datetime.fromisoformat(value) if isinstance(value, str) else value
    return found.astimezone(UTC)


def test_json_can_be_asked(database: Place) -> None:
    database.export(tasks(line(output=talk("hello"), created="2026-01-31T09:00:00")))
    path = "'$.call_id'" if database.name != "postgres" else "'call_id'"
    assert database.sql(f"SELECT output->>{path} FROM tasks") == [("C1",)]
    year = {
        "sqlite": "CAST(strftime('%Y', created_at) AS INTEGER)",
        "duckdb": "CAST(year(created_at) AS INTEGER)",
        "postgres": "extract(year FROM created_at AT TIME ZONE 'UTC')::int",
    }
    assert database.sql(f"SELECT {year[database.name]} FROM tasks") == [(2026,)]


def test_the_later_modified_stays_and_its_turns_with_it(place: Place) -> None:
    sink = place.opened()
    first = line(output=talk("a", "b", "c"), status="first")
    later = line(output=talk("d"), status="later", modified="2026-02-01T00:00:00")
    other = line(task_id="T2", output=talk("x"))
    assert sink.write(tasks(first, other), state(1)) == Written(inserted=2)
    assert sink.write(tasks(later), state(2)) == Written(updated=1)
    assert sink.write(tasks(first, other), state(3)) == Written(unchanged=2)
    both = tasks(line(task_id="T3", output=talk("n")), line(status="last", modified="2026-03-01"))
    assert sink.write(both, state(4)) == Written(inserted=1, updated=1)
    sink.close(Receipt(tool="test", job=JOB))
    assert [row["status"] for row in place.table("tasks")] == ["last", None, None]
    assert place.said() == ["x", "n"]
    assert place.sink().verify()[1] == []


def test_turns_change_only_with_their_transcript(place: Place) -> None:
    sink = place.opened()
    sink.write(tasks(line(output=talk("a", "b"))), state(1))
    sink.write(tasks(line(output=talk("a", "b"), status="odd")), state(2))
    sink.close(None)
    assert place.said() == ["a", "b"]
    place.export(tasks(line(output=talk("a", "c", "d"), status="odd")))
    assert place.said() == ["a", "c", "d"]


def test_rows_that_are_the_same_are_left_alone(postgres: Place) -> None:
    sql = "SELECT xmin::text FROM tasks UNION ALL SELECT xmin::text FROM transcript_turns"
    postgres.export(tasks(*LINES))
    before = sorted(postgres.sql(sql))
    sink = postgres.opened()
    assert sink.write(tasks(*LINES), state(2)) == Written(unchanged=len(IDS))
    sink.close(None)
    assert sorted(postgres.sql(sql)) == before


def test_some_columns_without_the_transcript(place: Place) -> None:
    sink = place.opened(columns=("status",))
    for modified, said in (("2026-01-01", ("a", "b")), ("2026-01-02", ("c",))):
        row = line(output=talk(*said), modified=modified)
        sink.write(tasks(row, columns=("status",)), state(1))
    receipt = Receipt(tool="test", job=JOB)
    sink.close(receipt)
    assert place.said() == ["c"]
    assert receipt.tables["transcript_turns"].fingerprint
    assert place.sink(columns=("status",)).verify()[1] == []
    tamper(place, "transcript_turns", "text", "x", "task_id = 'T1'")
    assert "some turns" in " ".join(place.sink(columns=("status",)).verify()[1])


def test_what_is_not_settled_is_known(place: Place) -> None:
    sink = place.opened()
    rows = [line(task_id=f"T{n}", status="completed", output={"post_call_data": {"a": 1}})
            for n in range(3)]  # fmt: skip
    waits = [line(task_id="T8", status="pending", run_id="R1"), line(task_id="T9", status="new")]
    sink.write(tasks(*rows, *waits), state(1))
    assert sorted(sink.unsettled(LONG_AGO)) == [("T8", "R1"), ("T9", None)]
    sink.close(None)


def test_hostile_content_survives(place: Place) -> None:
    rows = [
        line(task_id="T1", status="a\0b", output=talk("x\0y"), input={"z": "\0"}),
        line(task_id="T2", failure_count=10**30, created="0001-01-01T00:00:00"),
        line(task_id="T'3\"; DROP TABLE tasks; --", status="é\ud800", thread_id="y" * 437_000),
        line(task_id="T4", status=None, output=[1], input="text"),
        line(task_id="T5", output={**talk("c"), "duration": 12, "cost": 0.1}),
    ]
    sink = place.opened()
    assert sink.write(tasks(*rows), state(1)) == Written(inserted=5)
    assert sink.write(tasks(*rows), state(2)) == Written(unchanged=5)
    sink.close(Receipt(tool="test", job=JOB))
    nul = "\ufffd" if place.name == "postgres" else "\0"
    stored = {row["task_id"]: row for row in place.table("tasks")}
    assert stored["T1"]["status"] == f"a{nul}b"
    assert place.said() == [f"x{nul}y", "c"]
    assert as_json(stored["T2"]["extra"]) == {"failure_count": 10**30}
    assert len(stored["T'3\"; DROP TABLE tasks; --"]["thread_id"]) == 437_000
    assert place.sink().verify()[1] == []
    assert bool(sink.notes) == (place.name == "postgres")


# -- state


def test_an_export_is_gone_on_with(place: Place) -> None:
    sink = place.opened()
    assert (sink.checkpoint(), sink.in_the_way()) == (None, None)
    sink.write(tasks(*LINES[:5]), state(1))
    sink.write(tasks(), state(2))
    sink.close(None)
    sink = place.opened()
    assert sink.checkpoint() == state(2)
    assert sink.in_the_way() is None
    sink.close(None)
    with pytest.raises(ConfigurationError, match="no receipt"):
        place.sink().verify()
    place.export()
    assert place.sink().verify()[0].tables["tasks"].rows == 5


def test_nothing_is_left_of_an_export_that_wrote_nothing(place: Place) -> None:
    place.opened().close(None)
    assert place.name == "postgres" or not place.path.exists()


def test_an_export_of_nothing_has_its_tables(place: Place) -> None:
    assert place.export().tables["tasks"].rows == 0
    assert place.table("tasks") == []
    assert place.sink().verify()[1] == []


def test_a_write_that_fails_leaves_neither_rows_nor_state(place: Place) -> None:
    sink = place.opened()
    sink.write(tasks(line(output=talk("a"))), state(1))
    fail_at_the_end(sink)
    changed = line(output=talk("b", "c"), status="new", modified="2026-02-01")
    with pytest.raises(OSError, match="full"):
        sink.write(tasks(changed, line(task_id="T2", output=talk("d"))), state(2))
    assert sink.checkpoint() == state(1)
    sink.close(None)
    assert place.said() == ["a"]
    assert [row["status"] for row in place.table("tasks")] == [None]
    assert place.checkpoint() == state(1)


def fail_at_the_end(sink: Any) -> None:
    def fails(*_: Any) -> None:
        raise OSError("the disk is full")

    if hasattr(sink, "_database"):
        sink._database.before_commit = fails
        return
    write = sink._write
    sink._write = lambda name, *rest: fails() if name == "tasks" else write(name, *rest)


def test_turns_of_an_export_that_was_killed_are_put_back(tmp_path: Path) -> None:
    pytest.importorskip("deltalake")
    place = Place("delta", f"delta:{tmp_path}/lake")
    sink = place.opened()
    sink.write(tasks(line(output=talk("a", "b"))), state(1))
    fail_at_the_end(sink)
    sink._put_back = lambda version: None
    with pytest.raises(OSError, match="full"):
        sink.write(tasks(line(output=talk("c"), modified="2026-02-01")), state(2))
    sink.close(None)
    assert place.said() == ["c"]
    place.opened().close(None)
    assert place.said() == ["a", "b"]


def test_runs_beside_tasks(place: Place) -> None:
    run = json.dumps({"run_id": "R1", "status": "pending"}).encode()
    place.export(tasks(*LINES[:3]))
    place.export(Batch("runs", [run]), kind="runs")
    assert len(place.table("tasks")) == 3
    assert [row["run_id"] for row in place.table("runs")] == ["R1"]
    assert place.sink("tasks").verify()[1] == place.sink("runs").verify()[1] == []
    sink = place.opened("runs")
    assert sink.unsettled(LONG_AGO) == [("R1", "R1")]
    sink.close(None)
    place.export(tasks(*LINES[:2]), clear=True)
    assert (len(place.table("tasks")), len(place.table("runs"))) == (2, 1)


# -- what is in the way


def test_what_is_cleared_stays_until_the_first_write(place: Place) -> None:
    place.export(tasks(line(status="old", output=talk("a"))))
    for early in (True, False):
        sink = place.sink()
        if early:
            sink.clear()
        sink.open()
        sink.clear()
        assert sink.checkpoint() is None
        assert sink.unsettled(LONG_AGO) == []
        sink.close(None)
        assert place.said() == ["a"]
    place.export(tasks(line(task_id="T2", output=talk("b"))), clear=True)
    assert place.said() == ["b"]
    assert [row["task_id"] for row in place.table("tasks")] == ["T2"]


def test_a_foreign_table_is_in_the_way_until_it_is_cleared(database: Place) -> None:
    database.sql("CREATE TABLE tasks (mine INTEGER)", "CREATE TABLE other (a INTEGER)")
    sink = database.opened()
    assert "tasks" in sink.in_the_way()
    sink.close(None)
    assert database.sql("SELECT count(*) FROM tasks") == [(0,)]
    database.export(tasks(*LINES[:2]), clear=True)
    assert database.sql("SELECT count(*) FROM tasks") == [(2,)]
    assert database.sql("SELECT count(*) FROM other") == [(0,)]


def test_other_tables_are_usual_only_in_a_server(database: Place) -> None:
    database.sql("CREATE TABLE other (a INTEGER)")
    sink = database.opened()
    assert (sink.in_the_way() is None) == (database.name == "postgres")
    sink.close(None)


def test_a_folder_with_other_files_is_in_the_way(tmp_path: Path) -> None:
    pytest.importorskip("deltalake")
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "notes.txt").touch()
    sink = Place("delta", f"delta:{tmp_path}/lake").opened()
    assert "notes.txt" in sink.in_the_way()
    sink.close(None)


def test_a_file_that_is_no_database(file: Place) -> None:
    file.path.write_bytes(b"my only notes\n" * 50)
    sink = file.opened()
    assert "is no " in sink.in_the_way()
    with pytest.raises(ConfigurationError, match="is no "):
        sink.write(tasks(*LINES[:2]), state(1))
    sink.close(None)
    assert file.path.read_bytes().startswith(b"my only notes")
    with pytest.raises(ConfigurationError, match="is no "):
        file.sink().verify()
    file.export(tasks(*LINES[:2]), clear=True)
    assert file.sink().verify()[1] == []
    assert mode(file.path) == 0o600


LEAVES_A_LOG = """
import os, sys
from adbc_driver_duckdb import dbapi
link = dbapi.connect(sys.argv[1], autocommit=True)
link.cursor().execute("CREATE TABLE tasks AS SELECT 1 AS stranger")
os._exit(9)
"""


def test_what_lay_beside_a_file_that_is_no_database_does_not_spoil_the_new_one(file: Place) -> None:
    if file.name == "duckdb":
        made = [sys.executable, "-c", LEAVES_A_LOG, str(file.path)]
        assert subprocess.run(made, check=False).returncode == 9
        assert file.path.with_name(f"{file.path.name}.wal").stat().st_size
    else:
        for end in ("-journal", "-wal"):
            file.path.with_name(file.path.name + end).write_bytes(b"of another file\n" * 50)
    file.path.write_bytes(b"my only notes\n" * 50)
    file.export(tasks(*LINES[:2]), clear=True)
    assert file.sink().verify()[1] == []
    assert os.listdir(file.path.parent) == [file.path.name]


def test_an_empty_file_is_taken(file: Place) -> None:
    file.path.touch()
    sink = file.opened()
    assert sink.in_the_way() is None
    sink.close(None)
    assert file.path.read_bytes() == b""
    file.export(tasks(*LINES[:2]))
    assert len(file.table("tasks")) == 2


def test_files_are_their_owner_s_alone(file: Place) -> None:
    old = os.umask(0)
    try:
        sink = file.opened()
        modes = []
        commit = sink._database.before_commit
        sink._database.before_commit = lambda cursor: (commit(cursor), modes.extend(beside(file)))
        sink.write(tasks(*LINES), state(1))
        modes += beside(file)
        sink.close(Receipt(tool="test", job=JOB))
    finally:
        os.umask(old)
    assert len(modes) > 2
    assert set(modes) <= {0o600, 0o700}
    assert os.listdir(file.path.parent) == [file.path.name]


def beside(file: Place) -> list[int]:
    return [mode(path) for path in file.path.parent.iterdir()]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_places_that_are_refused(file: Place) -> None:
    (file.path.parent / "real").touch()
    file.path.symlink_to("real")
    with pytest.raises(ConfigurationError, match="symbolic link"):
        file.sink().open()
    file.path.unlink()
    with pytest.raises(ConfigurationError, match="no folder"):
        sink_for(f"{file.path.parent}/none/x.{file.name}", "tasks").open()
    file.path.mkdir()
    with pytest.raises(ConfigurationError, match="not a plain file"):
        file.sink().open()


@pytest.mark.parametrize("form", ["{scheme}:{path}", "{scheme}://{path}"])
def test_the_forms_of_a_target(file: Place, form: str) -> None:
    sink = sink_for(form.format(scheme=file.name, path=file.path), "tasks")
    assert sink.target == str(file.path)
    for bad in ("", ":memory:", "x/"):
        with pytest.raises(ConfigurationError, match="path of a file"):
            sink_for(f"{file.name}:{bad}", "tasks")


def test_a_damaged_checkpoint_is_refused(database: Place) -> None:
    database.export(tasks(*LINES[:2]))
    database.sql("""UPDATE unpod_export SET state = '{"version": 7}'""")
    with pytest.raises(ConfigurationError, match="version 7"):
        database.opened()
    sink = database.sink()
    sink.clear()
    sink.open()
    sink.close(None)


def test_columns_of_another_type_are_a_damaged_checkpoint(postgres: Place) -> None:
    postgres.export(tasks(*LINES[:2]))
    postgres.sql("ALTER TABLE unpod_export DROP COLUMN receipt, ADD COLUMN receipt INT DEFAULT 7")
    with pytest.raises(ConfigurationError, match="its receipt is damaged"):
        postgres.sink().verify()
    postgres.sql("ALTER TABLE unpod_export DROP COLUMN state, ADD COLUMN state INT DEFAULT 7")
    with pytest.raises(ConfigurationError, match="its checkpoint is damaged"):
        postgres.opened()


def test_tables_of_another_schema_are_left_alone(postgres: Place) -> None:
    postgres.sql("CREATE TABLE tasks (task_id TEXT)", "INSERT INTO tasks VALUES ('a stranger')")
    postgres.sql("CREATE TABLE unpod_export (kind TEXT, state TEXT, receipt TEXT)")
    postgres.sql("CREATE SCHEMA mine")
    here = "&" if "?" in postgres.target else "?"
    mine = Place("postgres", f"{postgres.target}{here}options=-csearch_path%3Dmine,public")
    mine.export(tasks(*LINES[:2]), clear=True)
    assert len(mine.table("tasks")) == 2
    assert mine.sink().verify()[1] == []
    assert postgres.sql("SELECT task_id FROM public.tasks") == [("a stranger",)]
    assert postgres.sql("SELECT kind FROM public.unpod_export") == []


def test_a_role_that_owns_nothing_can_go_on(postgres: Place) -> None:
    postgres.export(tasks(line(output=talk("a"))))
    role = f"unpod_test_writer_{os.getpid()}"
    postgres.sql(
        f"CREATE ROLE {role} LOGIN",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}",
    )
    try:
        here = "&" if "?" in postgres.target else "?"
        writer = Place("postgres", f"{postgres.target}{here}options=-crole%3D{role}")
        assert writer.sql("SELECT current_user::text") == [(role,)]
        writer.export(tasks(line(output=talk("b"), status="x"), line(task_id="T2")))
        assert writer.sink().verify()[1] == []
        assert writer.said() == ["b"]
    finally:
        postgres.sql(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_links_in_a_lake_are_left_alone(tmp_path: Path) -> None:
    pytest.importorskip("deltalake")
    outer = Place("delta", f"delta:{tmp_path}/outer")
    outer.export(tasks(*LINES[:2]))
    lake = Place("delta", f"delta:{tmp_path}/lake")
    lake.path.mkdir()
    for name, real in (
        ("tasks", "../outer/tasks"),
        ("tasks/_delta_log", "../../outer/tasks/_delta_log"),
    ):
        if "/" in name:
            (lake.path / "tasks").unlink()
            (lake.path / "tasks").mkdir()
        (lake.path / name).symlink_to(real)
        for refused in (lake.opened, lake.sink().verify):
            with pytest.raises(ConfigurationError, match="is a symbolic link; it is left alone"):
                refused()
    assert outer.sink().verify()[1] == []


def test_a_lake_whose_log_was_changed(tmp_path: Path) -> None:
    pytest.importorskip("deltalake")
    lake = Place("delta", f"delta:{tmp_path}/lake")
    lake.export(tasks(line(output=talk("a"))))
    logs = sorted((lake.path / "transcript_turns/_delta_log").glob("*.json"))
    for log in logs:
        log.write_text(
            log.read_text()
            .replace("unpod.before", "unpod.after")
            .replace('"unpod.number":"1"', '"unpod.number":"9"')
        )
    with pytest.raises(ConfigurationError, match="damaged"):
        lake.opened()


def test_tables_of_another_form_are_refused(place: Place) -> None:
    sink = place.opened(columns=("status",))
    sink.write(tasks(*LINES[:2], columns=("status",)), state(1))
    sink.close(None)
    with pytest.raises(ConfigurationError, match="no column internal_id"):
        place.opened()


def test_columns_of_the_user_do_no_harm(database: Place) -> None:
    database.export(tasks(line(output=talk("a"))))
    for table in ("tasks", "transcript_turns"):
        database.sql(f"ALTER TABLE {table} ADD COLUMN mine INTEGER")
    database.sql("UPDATE tasks SET mine = 7")
    database.export(tasks(line(output=talk("b"), status="x"), line(task_id="T2", output=talk("c"))))
    assert database.sql("SELECT mine, status FROM tasks ORDER BY task_id") == [
        (7, "x"),
        (None, None),
    ]
    assert database.said() == ["b", "c"]
    assert database.sink().verify()[1] == []


def test_a_duckdb_has_no_index_which_would_grow_in_memory_with_the_rows(tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    place = Place("duckdb", f"{tmp_path}/x.duckdb")
    place.export(tasks(*LINES))
    kept = place.sql(
        "SELECT DISTINCT table_name, constraint_type FROM duckdb_constraints() "
        "WHERE table_name <> 'unpod_export' ORDER BY 1"
    )
    assert kept == [("tasks", "NOT NULL"), ("transcript_turns", "NOT NULL")]


@pytest.mark.once
@pytest.mark.parametrize("name", ["x", "memory", "temp", "we ird'q\"x", "a.b"])
def test_a_duckdb_has_the_name_that_others_know_it_by(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a user stores there may name it."""
    pytest.importorskip("duckdb")
    place = Place("duckdb", f"{tmp_path}/{name}.duckdb")
    monkeypatch.chdir(tmp_path)
    place.export(tasks(line()))
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.duckdb"]
    ((called,),) = place.sql("SELECT current_database()")
    called = '"' + called.replace('"', '""') + '"'
    place.sql(
        "CREATE SEQUENCE counter START 5",
        "ALTER TABLE tasks ADD COLUMN mine BIGINT",
        "ALTER TABLE tasks ALTER mine SET DEFAULT nextval('{}.main.counter')".format(
            called.replace("'", "''")
        ),
    )
    place.export(tasks(line(task_id="T2"), line(task_id="T3")))
    assert place.sql("SELECT mine FROM tasks ORDER BY task_id") == [(None,), (5,), (6,)]
    assert place.sink().verify()[1] == []


def test_a_table_that_is_dropped_meanwhile(postgres: Place) -> None:
    sink = postgres.opened()
    sink.write(tasks(*LINES[:2]), state(1))
    postgres.sql("DROP TABLE transcript_turns")
    with pytest.raises(ExportError, match="transcript_turns") as caught:
        sink.write(tasks(line(output=talk("secret words"))), state(2))
    assert "secret words" not in str(caught.value)
    sink.close(None)
    with pytest.raises(ConfigurationError, match="transcript_turns is gone"):
        postgres.opened()


# -- others


HOLDER = """
import sys
from unpod_async.export._sink import sink_for
sink = sink_for(sys.argv[1], "tasks")
sink.open()
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_by_another(target: str) -> Iterator[None]:
    """Another process has the target open; killed at the end."""
    code = [sys.executable, "-c", HOLDER, target]
    with subprocess.Popen(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"ready\n"
            yield
        finally:
            other.send_signal(signal.SIGKILL)


def test_one_export_at_a_time_until_it_is_killed(place: Place) -> None:
    with (
        held_by_another(place.target),
        pytest.raises(ConfigurationError, match="another export is writing to"),
    ):
        place.opened()
    if place.name == "postgres":  # it learns of it a moment later
        while place.sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"):
            pass
    place.opened().close(None)


def test_what_another_export_works_with_is_left_alone(file: Place) -> None:
    with held_by_another(file.target):
        spill = file.path.with_name(f".unpod-{file.path.name}.tmp")
        spill.mkdir(exist_ok=True)
        (spill / "spilled").touch()
        for refused in (file.opened, file.sink().verify):
            with pytest.raises(ConfigurationError, match="another export is writing to"):
                refused()
        assert (spill / "spilled").exists()
        assert file.path.exists()


def test_a_folder_to_work_in_that_is_removed_before_it_was_locked(
    file: Place, lose: Callable[[str], list[str]]
) -> None:
    removed = lose(".tmp")
    file.export(tasks(*LINES[:2]))
    assert removed and len(file.table("tasks")) == 2


def test_a_file_is_not_locked_in_a_way_that_keeps_its_database_out(file: Place) -> None:
    """On macOS both kinds of locks are one, and one process keeps itself out."""
    sink = file.opened()
    sink.write(tasks(*LINES[:2]), state(1))
    # In a process of its own: to close the file here would drop the locks of the database.
    code = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    subprocess.run([sys.executable, "-c", code, file.target], check=True)
    sink.close(None)


@contextmanager
def connection(file: Place, **options: Any) -> Iterator[Any]:
    """One of this process, by the module that Python users know."""
    link = pytest.importorskip({"sqlite": "sqlite3"}.get(file.name, file.name)).connect(
        file.target, **options
    )
    try:
        yield link
    finally:
        link.close()


def test_a_file_that_this_process_has_open_loses_no_rows(file: Place) -> None:
    """No lock keeps the two out of each other's way, and the last one would write over the other's
    rows."""
    file.export(tasks(*LINES[:2]))
    with connection(file) as link:
        assert link.execute("SELECT count(*) FROM tasks").fetchall() == [(2,)]
        for refused in (file.opened, file.sink().verify):
            with pytest.raises(ConfigurationError, match="this process has it open already: close"):
                refused()
        if file.name == "duckdb":  # a careless look would have dropped its lock
            code = "import duckdb, sys; duckdb.connect(sys.argv[1])"
            command = [sys.executable, "-c", code, file.target]
            kept_out = subprocess.run(command, check=False, capture_output=True, text=True)
            assert "Conflicting lock" in kept_out.stderr
    file.export(tasks(*LINES[2:4]))
    assert len(file.table("tasks")) == 4


def test_a_file_that_this_process_opens_meanwhile_is_not_written_to(file: Place) -> None:
    sink = file.opened()
    sink.write(tasks(*LINES[:2]), state(1))
    with connection(file):
        with pytest.raises(ExportError, match="opened by somebody else meanwhile"):
            sink.write(tasks(*LINES[2:4]), state(2))
        sink.close(None)
    assert len(file.table("tasks")) == 2
    assert file.checkpoint() == state(1)


@pytest.mark.parametrize("writes", [False, True])
def test_what_this_process_stores_in_a_file_meanwhile_stays_there(
    file: Place, writes: bool
) -> None:
    """Also if the export has made the file, and even if nobody sees it at a commit."""
    for first in (False, True):
        file = Place(file.name, f"{file.target}{first}.{file.name}")
        sink = file.opened()
        if not first:
            sink.write(tasks(*LINES[:2]), state(1))
        with connection(file) as link:
            link.execute("CREATE TABLE mine AS SELECT 1 AS x")
            link.commit()
        if file.name == "duckdb" and writes:
            with pytest.raises(ExportError, match="opened by somebody else meanwhile"):
                sink.write(tasks(*LINES[2:4]), state(2))
        sink.close(None)
        assert file.sql("SELECT count(*) FROM mine") == [(1,)]
        if not first:
            assert len(file.table("tasks")) == 2


def test_a_file_that_is_moved_away_is_not_made_anew(file: Place) -> None:
    sink = file.opened()
    sink.write(tasks(*LINES[:2]), state(1))
    file.path.rename(file.path.with_name("old"))
    refusals = "was replaced or opened|cannot be written to"
    with pytest.raises((ExportError, ConfigurationError), match=refusals):
        sink.write(tasks(*LINES[2:4]), state(2))
    sink.close(None)
    assert not file.path.exists()


def test_an_error_on_the_way_out_gives_the_lock_back(file: Place) -> None:
    file.path.touch()
    sink = file.opened()
    file.path.unlink()
    sink.close(None)
    file.export(tasks(*LINES[:2]))
    assert file.sink().verify()[1] == []


def test_those_who_verify_keep_exports_away_to_the_last(file: Place) -> None:
    file.export(tasks(*LINES[:2]))
    first, second = (file.sink()._database._file for _ in range(2))
    for held in (first, second):
        held.look()
    first.release(keep=True)
    with pytest.raises(ConfigurationError, match="another export is writing to"):
        file.opened()
    second.release(keep=True)
    file.opened().close(None)
    assert os.listdir(file.path.parent) == [file.path.name]


def test_a_duckdb_that_is_attached_anew_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unpod_async.export.sinks.duckdb.COMMITS", 2)
    place = Place("duckdb", str(tmp_path / "x.duckdb"))
    whole = Place("duckdb", str(tmp_path / "whole.duckdb"))
    sink = place.opened()
    logs = []
    for at, line in enumerate(LINES):
        sink.write(tasks(line), state(at))
        logs.append(mode(tmp_path / "x.duckdb.wal"))
        if not at % 10:
            with pytest.raises(ExportError, match="stopped"), monkeypatch.context() as patch:
                patch.setattr(sink, "_keep", stopped)
                sink.write(tasks(line), state(at))
    sink.close(Receipt(tool="test", job=JOB))
    whole.export(tasks(*LINES))
    for table in ("tasks", "transcript_turns"):
        assert place.table(table) == whole.table(table)
    assert place.sink().verify()[1] == []
    assert set(logs) == {0o600}


def stopped(*_: Any) -> None:
    raise ExportError("stopped")


OPENER = """
import sys
import duckdb
link = duckdb.connect(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
if sys.argv[2] == "changes":
    link.execute("CREATE TABLE mine (x INT)")
link.close()
print("ready", flush=True)
"""


@pytest.mark.parametrize("does", ["stays", "changes", "looks"])
def test_a_program_that_takes_a_duckdb_while_it_is_attached_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str
) -> None:
    pytest.importorskip("duckdb")
    monkeypatch.setattr("unpod_async.export.sinks.duckdb.COMMITS", 1)
    monkeypatch.setattr("unpod_async.export.sinks.duckdb.PATIENCE", 0.1 if does == "stays" else 60)
    place = Place("duckdb", str(tmp_path / "x.duckdb"))
    sink = place.opened()
    sink.write(tasks(*LINES[:2]), state(1))
    attach = sink._database._attach
    others: list[Any] = []

    def late(cursor: Any) -> None:
        if not others:
            command = [sys.executable, "-c", OPENER, place.target, does]
            others.append(subprocess.Popen(command, stdin=-1, stdout=-1))
            assert others[0].stdout.readline() == b"ready\n"
        elif does != "stays":
            others[0].communicate(b"\n")
        attach(cursor)

    monkeypatch.setattr(sink._database, "_attach", late)
    refusal = {
        "stays": pytest.raises(ConfigurationError, match="another program has it open"),
        "changes": pytest.raises(ExportError, match="was changed by another program meanwhile"),
    }
    with refusal.get(does, nullcontext()):
        sink.write(tasks(*LINES[2:4]), state(2))
    if does == "stays":
        others[0].communicate(b"\n")
    monkeypatch.setattr(sink._database, "_attach", attach)
    sink.write(tasks(*LINES[2:4]), state(2))
    sink.close(None)
    assert len(place.table("tasks")) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["x.duckdb"]


def test_one_export_at_a_time_in_a_process(place: Place) -> None:
    sink = place.opened()
    sink.write(tasks(*LINES[:2]), state(1))
    with pytest.raises(ConfigurationError, match="another export is writing to"):
        place.opened()
    sink.write(tasks(*LINES[2:4]), state(2))
    sink.close(None)
    assert len(place.table("tasks")) == 4


def test_a_connection_that_is_lost_in_a_write(postgres: Place) -> None:
    sink = postgres.opened()
    sink.write(tasks(*LINES[:2]), state(1))
    sink._database.before_commit = lambda _: postgres.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with pytest.raises(ExportError) as caught:
        sink.write(tasks(*LINES[2:6]), state(2))
    assert "\n" not in str(caught.value)
    sink.close(None)
    sink = postgres.opened()
    assert sink.checkpoint() == state(1)
    sink.close(None)
    assert len(postgres.table("tasks")) == 2


@pytest.mark.once
def test_a_large_batch_may_change_whole(tmp_path: Path) -> None:
    """DuckDB keeps in memory what a transaction changes, and has little."""
    place = Place("duckdb", f"{tmp_path}/x.duckdb")
    for word in ("one", "two"):
        said = talk(*(word * 250 for _ in range(20)))
        rows = [line(task_id=f"T{at}", output=said, status=word) for at in range(3500)]
        receipt = place.export(tasks(*rows))
        assert receipt.tables["transcript_turns"].rows == 70_000
    assert {row["status"] for row in place.table("tasks")} == {"two"}


def test_a_full_disk(tmp_path: Path) -> None:
    pytest.importorskip("adbc_driver_sqlite")
    place = Place("sqlite", f"{tmp_path}/x.sqlite")
    sink = place.opened()
    sink.write(tasks(*LINES[:2]), state(1))
    sink._run("PRAGMA max_page_count = 40")
    with pytest.raises(ExportError, match="full"):
        sink.write(tasks(*LINES), state(2))
    sink.close(None)
    assert place.checkpoint() == state(1)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cr3t@localhost:1/db",
        "postgresql://me:s3cr3t/x@localhost:1/db",
        "postgresql://me:s3cr3t@@localhost:1/db",
        "postgres://localhost:1/db?password=s3cr3t&user=me",
        "postgresql://me@localhost:1/db?sslpassword=s3cr3t",
        "postgresql://me:s3cr3t@localhost:nowhere/db",
    ],
)
def test_no_password_is_told(url: str) -> None:
    pytest.importorskip("adbc_driver_postgresql")
    sink = sink_for(url, "tasks")
    with pytest.raises(ConfigurationError) as caught:
        sink.open()
    error = "".join(traceback.format_exception(caught.value))
    for text in (sink.target, error, repr(vars(sink)), repr(vars(sink._database))):
        assert "s3cr3t" not in text
        assert "s3cr3t" not in unquote(text)


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ("IO Error: [duckdb] Cannot write 'x'\nmore", "IO Error: [duckdb] Cannot write …"),
        ("Failed to commit transaction: log is gone", "log is gone"),
        ("Failed to commit transaction: 15", "Failed to commit transaction: 15"),
    ],
)
def test_what_is_told_of_a_driver_s_error(sent: str, told: str) -> None:
    assert harmless(sent) == told


# -- proof


def tamper(place: Place, table: str, column: str, value: str, where: str) -> None:
    if place.name != "delta":
        place.sql(f"UPDATE {table} SET {column} = '{value}' WHERE {where}")
        return
    from deltalake import DeltaTable

    DeltaTable(f"{place.path}/{table}").update(updates={column: f"'{value}'"}, predicate=where)


def delete(place: Place, table: str, where: str) -> None:
    if place.name != "delta":
        place.sql(f"DELETE FROM {table} WHERE {where}")
        return
    from deltalake import DeltaTable

    DeltaTable(f"{place.path}/{table}").delete(where)


TAMPERINGS: dict[str, Callable[[Place], None]] = {
    "tasks: 1 of 3 rows are missing": lambda place: delete(place, "tasks", "task_id = 'T2'"),
    "tasks: 1 rows were changed: T2": lambda place: tamper(
        place, "tasks", "status", "new", "task_id = 'T2'"
    ),
    "the turns of 1 tasks are not their transcript's: T1": lambda place: tamper(
        place, "transcript_turns", "text", "no", "task_id = 'T1'"
    ),
    "transcript_turns: 1 of 4 rows are missing": lambda place: delete(
        place, "transcript_turns", "task_id = 'T3'"
    ),
}


@pytest.mark.once
@pytest.mark.parametrize("words", TAMPERINGS)
def test_tampering_is_found(place: Place, words: str) -> None:
    rows = [line(task_id="T1", output=talk("a", "b")), line(task_id="T2", output=talk("c"))]
    place.export(tasks(*rows, line(task_id="T3", output=talk("d"))))
    TAMPERINGS[words](place)
    receipt, found = place.sink().verify()
    assert words in " ".join(found)
    assert receipt.tables["tasks"].rows == 3


def test_rows_that_were_added_or_exchanged_are_found(database: Place) -> None:
    database.export(tasks(line(), line(task_id="T2")))
    database.sql("INSERT INTO tasks (task_id) VALUES ('T3')")
    found = " ".join(database.sink().verify()[1])
    assert "1 rows were added" in found
    assert "changed: T3" in found
    database.export(tasks(line(), line(task_id="T2")), clear=True)
    columns = [row[0] for row in database.sql(database.sink()._database.columns_of("tasks"))]
    names = ", ".join(f'"{name}"' for name in columns)
    database.sql(
        "DELETE FROM tasks WHERE task_id = 'T2'",
        f"CREATE TABLE spare AS SELECT {names} FROM tasks",
    )
    other = Batch("tasks", [line(task_id="T9")]).tables("json")["tasks"].to_pylist()[0]
    database.sql(
        f"UPDATE spare SET task_id = 'T9', row_hash = {other['row_hash']}",
        f"INSERT INTO tasks ({names}) SELECT {names} FROM spare",
    )
    assert "other rows" in " ".join(database.sink().verify()[1])
    database.sql("DROP TABLE transcript_turns")
    assert "transcript_turns is gone" in " ".join(database.sink().verify()[1])
