"""The contract of `Sink`, of every destination: rows are there once, the newest of each, their
turns with them, and the state only with the rows that it describes. What is there is read
without our own code (`destinations.py`)."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")

from destinations import (
    ALL,
    TURNS,
    Bucket,
    Delta,
    Destination,
    Files,
    Held,
    Postgres,
    Row,
    Sqlite,
    destination,
    disagreeing,
    transcript,
)
from postgres import postgres_server  # noqa: F401  (a fixture)

from unpod_async.errors import ExportError
from unpod_async.export import _sink, _store_url
from unpod_async.export._batch import Batch
from unpod_async.export._sink import Written, sink_for
from unpod_async.export._state import Job, Receipt, State
from unpod_async.simulator import Simulator

pytestmark = pytest.mark.once

JOB = Job(kind="tasks", base_url="https://example.test")
WORLD = Simulator(seed=7, runs=4, tasks=36).world
LINES = [json.dumps(WORLD.row(task_id)).encode() for task_id in WORLD.task_ids()]
STEPS = [LINES[:12], LINES[12:24], LINES[24:]]


def line(task_id: str, **values: Any) -> bytes:
    return json.dumps({"task_id": task_id, "run_id": "R1", **values}).encode()


def changed(sent: bytes, **values: Any) -> bytes:
    return json.dumps({**json.loads(sent), **values}).encode()


def talk(*said: str) -> Row:
    return {"call_id": "C1", "transcript": [{"role": "user", "content": text} for text in said]}


def state(at: int, *, done: bool = False) -> State:
    return State(job=JOB, done=done, place={"at": at})


def opened(target: str, *, clear: bool = False) -> Any:
    sink: Any = sink_for(target, "tasks")
    sink.open()
    if clear:
        sink.clear()
    return sink


def export(place: Destination, *steps: list[bytes], clear: bool = False) -> list[Written]:
    """All of it, from the beginning to the receipt."""
    sink = opened(place.target, clear=clear)
    told = [sink.write(Batch("tasks", lines), state(at)) for at, lines in enumerate(steps, 1)]
    sink.write(Batch("tasks", []), state(len(steps), done=True))
    sink.close(Receipt(tool="test", job=JOB))
    return told


def go_on(place: Destination, steps: list[list[bytes]]) -> int:
    """An export that begins where its state says; gives where that was."""
    sink = opened(place.target)
    found = sink.checkpoint()
    at = found.place["at"] if found else 0
    for step in range(at, len(steps)):
        sink.write(Batch("tasks", steps[step]), state(step + 1, done=step + 1 == len(steps)))
    sink.close(Receipt(tool="test", job=JOB))
    return int(at)


Makes = Callable[[], Destination]


@pytest.fixture(params=ALL)
def make(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Makes]:
    """Gives a new target at each call."""
    systems: dict[str, Any] = {}
    found = _store_url._filesystem

    def filesystem(url: str) -> Any:
        bucket, _, path = url.removeprefix("mock://").partition("/")
        if bucket in systems:
            return Store(systems[bucket]), f"{bucket}/{path}".rstrip("/")
        system, path = found(url)
        return Store(system), path

    monkeypatch.setattr(_store_url, "_filesystem", filesystem)
    monkeypatch.setattr(_sink, "STORES", {*_sink.STORES, "mock"})  # it forgets all: for tests

    def made() -> Destination:
        folder = tmp_path / f"place{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        server = lambda: request.getfixturevalue("postgres_server")  # noqa: E731
        one = destination(request.param, folder, server)
        if request.param == "mock" and isinstance(one, Files) and isinstance(one.disk, Bucket):
            systems[one.disk.folder] = one.disk.system
        return one

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # nothing of a test need outlive the power
        yield made


@pytest.fixture
def place(make: Makes) -> Destination:
    return make()


class Store:
    """An object store that can be full."""

    is_full = False

    def __init__(self, system: Any) -> None:
        self._system = system

    def __getattr__(self, name: str) -> Any:
        return getattr(self._system, name)

    def open_output_stream(self, path: str, **options: Any) -> Any:
        if Store.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._system.open_output_stream(path, **options)


def content(held: Held) -> tuple[dict[str, Row], dict[str, Any] | None]:
    return held.rows, held.turns


def is_sound(place: Destination, wanted: Held) -> Held:
    """Finished, proved, nothing left over, and the same as `wanted`."""
    held = place.held()
    assert held.is_done
    assert content(held) == content(wanted)
    assert disagreeing(held) == []
    assert place.left() == []
    assert sink_for(place.target, "tasks").verify()[1] == []
    return held


@pytest.fixture
def whole(make: Makes) -> Held:
    """What one write of all rows leaves: the export that nobody disturbs."""
    one = make()
    export(one, LINES)
    return one.held()


# -- written, written again, gone on with


def test_rows_and_turns_are_there_once(place: Destination, whole: Held) -> None:
    assert export(place, *STEPS) == [Written(12), Written(12), Written(12)]
    held = is_sound(place, whole)
    assert held.rows.keys() == set(WORLD.task_ids())
    if held.turns is not None:
        assert sum(map(len, held.turns.values())) > 36


def test_the_same_again_changes_no_row(place: Destination, whole: Held) -> None:
    export(place, *STEPS)
    assert export(place, *STEPS) == [Written(0, 0, 12)] * 3
    is_sound(place, whole)
    assert export(place) == []
    is_sound(place, whole)


def test_what_is_cleared_is_replaced(place: Destination, make: Makes) -> None:
    other = [changed(sent, status="other", output=talk("Hi", "Bye")) for sent in LINES[:5]]
    export(place, *STEPS)
    assert export(place, other[:3], other[3:], clear=True) == [Written(3), Written(2)]
    held = place.held()
    assert held.rows.keys() == {json.loads(sent)["task_id"] for sent in other}
    assert sink_for(place.target, "tasks").verify()[1] == []
    assert disagreeing(held) == []


def test_an_export_that_was_left_goes_on_where_its_state_says(
    place: Destination, whole: Held
) -> None:
    for stop in (0, 1, 1, 2):
        sink = opened(place.target)
        found = sink.checkpoint()
        for at in range(found.place["at"] if found else 0, stop):
            sink.write(Batch("tasks", STEPS[at]), state(at + 1))
        sink.close(None)
        held = place.held()
        assert len(held.rows) == 12 * stop
        assert (held.state["place"] if held.state else {"at": 0}) == {"at": stop}
        assert disagreeing(held) == []
    assert go_on(place, STEPS) == 2
    is_sound(place, whole)


# -- the same id more than once


def test_the_later_modified_of_a_row_stays(place: Destination) -> None:
    first = [
        line("A", status="first", modified="2026-01-02T00:00:00", output=talk("one", "two")),
        line("B", status="first", output=talk("one")),
        line("C", status="first", modified="2026-01-02T00:00:00"),
        line("A", status="older", modified="2026-01-01T00:00:00", output=talk("no")),
        line("C", status="equal", modified="2026-01-02T00:00:00", output=talk("yes")),
    ]
    second = [
        line("A", status="older", modified="2026-01-01T00:00:00", output=talk("no", "no", "no")),
        line("B", status="second", output=talk("1", "2", "3")),
        line("C", status="third", modified="2026-01-03T00:00:00"),
        line("D", status="d"),
        line("D", status="d again", output=talk("d")),
    ]
    assert export(place, first, second) == [Written(3), Written(1, 2, 1)]
    held = place.held()
    found = {task_id: row["status"] for task_id, row in held.rows.items()}
    assert found == {"A": "first", "B": "second", "C": "third", "D": "d again"}
    assert disagreeing(held) == []
    if held.turns is not None:
        said = {task_id: [turn[1] for turn in turns] for task_id, turns in held.turns.items()}
        assert said == {"A": ["one", "two"], "B": ["1", "2", "3"], "D": ["d"]}
    assert sink_for(place.target, "tasks").verify()[1] == []


def test_a_row_may_change_many_times_in_one_export(place: Destination) -> None:
    for at in range(4):
        talks = [talk(*map(str, range(n % 4))) for n in range(at, at + 6)]
        lines = [line(f"T{n}", status=f"s{at}", output=said) for n, said in enumerate(talks)]
        told = export(place, lines[:4], lines[2:])
        assert (
            told == [Written(4), Written(2, 0, 2)] if at == 0 else [Written(0, 4), Written(0, 2, 2)]
        )
        held = place.held()
        assert {row["status"] for row in held.rows.values()} == {f"s{at}"}
        assert disagreeing(held) == []
        if held.turns is not None:
            lengths = {n: (at + n) % 4 for n in range(6) if (at + n) % 4}
            assert {int(i[1:]): len(said) for i, said in held.turns.items()} == lengths
    assert sink_for(place.target, "tasks").verify()[1] == []


@pytest.mark.parametrize("twins", [("A\0", "A\ufffd"), ("A\ufffd", "A\0")])
def test_ids_that_a_destination_cannot_tell_apart_are_one_row(
    place: Destination, twins: tuple[str, str]
) -> None:
    sink = opened(place.target)
    told = [
        sink.write(Batch("tasks", [line(twin)], distinct=True), state(at))
        for at, twin in enumerate(twins)
    ]
    sink.close(Receipt(tool="test", job=JOB))
    is_one = isinstance(place, Postgres)
    assert told == [Written(1), Written(0, 0, 1) if is_one else Written(1)]
    assert len(place.held().rows) == (1 if is_one else 2)
    assert sink_for(place.target, "tasks").verify()[1] == []


def test_a_sink_that_is_opened_again_knows_no_more_of_a_walk(place: Destination) -> None:
    sink = opened(place.target)
    for at in range(2):
        told = sink.write(Batch("tasks", LINES[:6], distinct=True), state(at))
        assert told == (Written(0, 0, 6) if at else Written(6))
        sink.close(None)
        sink.open()
    sink.close(None)


def test_rows_of_one_walk_are_looked_for_among_all_that_it_did_not_bring(
    place: Destination, make: Makes
) -> None:
    """Batches that have no row in common are not compared with each other, but with what was
    there when the export began, with what another batch brings, and both of these with them."""
    renewed = {at: changed(LINES[at], status="renewed") for at in (4, 13, 30)}
    one = make()
    export(one, [renewed.get(at, sent) for at, sent in enumerate(LINES)])

    def told(*batches: tuple[bool, list[bytes]]) -> list[Written]:
        return [
            sink.write(Batch("tasks", lines, distinct=distinct), state(at))
            for at, (distinct, lines) in enumerate(batches)
        ]

    sink = opened(place.target)
    again = [LINES[3], renewed[4], LINES[24]]
    assert told((True, LINES[:12]), (True, LINES[12:24]), (False, again)) == [
        Written(12),
        Written(12),
        Written(1, 1, 1),
    ]
    assert told((True, [LINES[24], *LINES[25:27]])) == [Written(2, 0, 1)]
    sink.close(None)
    sink = opened(place.target)  # a walk that goes on may bring what an earlier part of it brought
    again = [LINES[0], renewed[13], *LINES[27:30], LINES[30]]
    assert told((True, again), (True, LINES[31:]), (False, [renewed[30]])) == [
        Written(4, 1, 1),
        Written(5),
        Written(0, 1),
    ]
    sink.write(Batch("tasks", []), state(9, done=True))
    sink.close(Receipt(tool="test", job=JOB))
    is_sound(place, one.held())


# -- a write that fails


@contextmanager
def full_disk(*_: Any) -> Iterator[None]:
    """The disk, or the store, takes nothing any more."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    Store.is_full = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        try:
            yield
        finally:
            Store.is_full = False


@contextmanager
def broken_statement(_: Any, sink: Any) -> Iterator[None]:
    """One more statement of the transaction, behind all rows, that the database refuses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sink, "_keep", lambda *_: sink._run("SELECT nothing FROM nowhere"))
        yield


@contextmanager
def lost_connection(place: Postgres, sink: Any) -> Iterator[None]:
    """The server ends the session behind all rows, before the state."""
    keep = sink._keep

    def lost(*arguments: Any) -> None:
        for pid in place.sessions():
            place.run(f"SELECT pg_terminate_backend({pid}, 5000)", rows=True)
        keep(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sink, "_keep", lost)
        yield


@contextmanager
def refusing_table(place: Sqlite, _: Any) -> Iterator[None]:
    """The table of the states takes none, by what another process has done."""

    def run(sql: str) -> None:
        code = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute(sys.argv[2])"
        subprocess.run([sys.executable, "-c", code, place.path, sql], check=True)

    run(
        "CREATE TRIGGER refusal BEFORE UPDATE ON unpod_export "
        "BEGIN SELECT RAISE(ABORT, 'refused'); END"
    )
    yield
    run("DROP TRIGGER refusal")


@contextmanager
def blocked_log(place: Delta, _: Any) -> Iterator[None]:
    """The next commit of the tasks cannot have its name in the log."""
    log = place.path / "tasks" / "_delta_log"
    blocked = log / f"{len(list(log.glob('*.json'))):020}.json"
    blocked.mkdir()
    try:
        yield
    finally:
        blocked.rmdir()


FAILURES: dict[str, list[Callable[[Any, Any], AbstractContextManager[None]]]] = {
    "x.duckdb": [broken_statement],
    "x.sqlite": [broken_statement, refusing_table],
    "postgres": [broken_statement, lost_connection],
    "delta": [blocked_log],
}
"""By destination; of files it is `full_disk`."""


@pytest.mark.parametrize("updating", [False, True])
def test_a_write_that_fails_leaves_rows_and_state_as_they_were(
    place: Destination, whole: Held, updating: bool
) -> None:
    step = STEPS[1]
    if updating:
        output = talk("never", "written")
        step = [*step, *(changed(sent, status="x", output=output) for sent in STEPS[0])]
    sink = opened(place.target)
    sink.write(Batch("tasks", STEPS[0]), state(1))
    sink.close(None)
    before = place.held()
    for at, failing in enumerate(FAILURES.get(place.name, [full_disk])):
        sink = opened(place.target)
        with failing(place, sink), pytest.raises((ExportError, OSError)):
            sink.write(Batch("tasks", step), state(2 + at))
        assert sink.checkpoint() == state(1)
        sink.close(None)
        held = place.held()
        assert content(held) == content(before)
        assert held.state == before.state
        assert disagreeing(held) == []
    assert go_on(place, STEPS) == 1
    is_sound(place, whole)


def test_a_first_write_that_fails_leaves_nothing(place: Destination, whole: Held) -> None:
    sink = opened(place.target)
    breaking = full_disk if isinstance(place, Files) else broken_statement
    if place.name == "delta":
        sink.close(None)
        pytest.skip("its tables are made first, empty")
    with breaking(place, sink), pytest.raises((ExportError, OSError)):
        sink.write(Batch("tasks", STEPS[0]), state(1))
    sink.close(None)
    held = place.held()
    assert (held.rows, held.state) == ({}, None)
    assert place.left() == []
    assert go_on(place, STEPS) == 0
    is_sound(place, whole)


def test_a_lake_that_was_left_before_its_first_row_is_gone_on_with(tmp_path: Path) -> None:
    """Its tables are made one by one, before the first commit."""
    pytest.importorskip("deltalake")
    for there in (["tasks", TURNS], [TURNS]):
        place = Delta(tmp_path / there[0])
        place.path.parent.mkdir()
        sink = opened(place.target)
        sink._prepare()
        sink.close(None)
        if there == [TURNS]:
            shutil.rmtree(place.path / "tasks")
        sink = opened(place.target)
        assert (sink.in_the_way(), sink.checkpoint()) == (None, None)
        sink.close(None)
        assert go_on(place, STEPS) == 0
        assert len(place.held().rows) == len(LINES)
        assert sink_for(place.target, "tasks").verify()[1] == []


# -- what rows may be like


LONG = "long text " * 44_700
FORMULAS = ["=1+1", "+91 98765 43210", "-1", "@SUM(A1)", "\t=1", "\r=1", "'=1", '"=1+1"', "＝1"]
HOSTILE: dict[str, Row] = {
    "nul": {"status": "a\0b", "input": {"n": "a\0b"}, "output": talk("x\0y", "\0")},
    "surrogate": {"status": "a\ud800b", "input": {"s": "\udfff"}, "output": talk("\ud83d!")},
    "large": {"failure_count": 1 << 70, "retry_attempt": -(1 << 64), "input": {"n": 1 << 80}},
    "year0": {"created": "0000-00-00T00:00:00", "modified": "0000-01-01T00:00:00Z"},
    "year1": {"created": "0001-01-01T00:00:00Z", "modified": "0001-01-01T00:00:00Z"},
    "year9999": {"created": "9999-12-31T23:59:59.999999Z", "modified": "9999-12-31T23:59:59Z"},
    "number": {"input": {"key": 1}, "user": 5, "status": None},
    "text": {"input": {"key": "1"}, "user": "x"},
    "object": {"input": {"key": {"a": [1]}}, "user": {"id": 1}},
    "list": {"input": ["key"], "output": [1, "two"], "user": ["x"]},
    "empty": {"status": "", "input": {}, "output": {}, "user": ""},
    "437 KB": {"status": "long", "input": {"text": LONG}, "output": talk(LONG, "short")},
    "separators": {"status": "a\u2028b\u2029c\x85d", "output": talk("x\u2028y\r\nz\n", "\n")},
    "quotes": {"status": "'; DROP TABLE tasks; --", "user": 'a"b\\c,d', "output": talk('"', "'")},
    **{f"cell {at}": {"status": cell, "output": talk(cell)} for at, cell in enumerate(FORMULAS)},
}
"""Rows by their ids. A key is a number, a text and an object in turn."""


def as_kept(name: str, text: str) -> str:
    """A text as a destination keeps it."""
    if ".jsonl" in name:
        return text
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if name == "postgres":
        text = text.replace("\0", "\ufffd")
    is_formula = text.lstrip("'\"")[:1] in tuple("=+-@\t\r\n＝＋－＠")
    return f"'{text}" if ".csv" in name and text and is_formula else text


def sent_in(row: Row, key: str) -> Any:
    """A part of a row as it was sent."""
    found = row[key]
    return json.loads(found) if isinstance(found, str) else found


def test_no_row_costs_the_others(place: Destination) -> None:
    lines = [line(task_id, **values) for task_id, values in HOSTILE.items()]
    usual = LINES[:6]
    told = export(place, [*usual, *lines[:8]], lines[8:])
    assert told == [Written(14), Written(len(lines) - 8)]
    assert export(place, lines, usual) == [Written(0, 0, len(lines)), Written(0, 0, 6)]
    held = place.held()
    assert held.rows.keys() == {*HOSTILE, *(json.loads(sent)["task_id"] for sent in usual)}
    assert disagreeing(held, partial(as_kept, place.name)) == []
    assert sink_for(place.target, "tasks").verify()[1] == []


def test_a_hostile_row_is_kept_as_it_was_sent(place: Destination) -> None:
    export(place, [line(task_id, **values) for task_id, values in HOSTILE.items()])
    held = place.held()
    for task_id, values in HOSTILE.items():
        row = held.rows[task_id]
        if ".jsonl" in place.name:
            assert row == {"task_id": task_id, "run_id": "R1", **values}
            continue
        for key in ("status", "created", "modified"):
            text = values.get(key)
            assert (row[key] or "") == as_kept(place.name, text or ""), (task_id, key)
        if task_id != "surrogate":
            for key in {"input", "output"} & values.keys():
                assert sent_in(row, key) == values[key], (task_id, key)
    if ".jsonl" not in place.name:
        counts = json.loads(held.rows["large"]["extra"])
        assert counts == {"failure_count": 1 << 70, "retry_attempt": -(1 << 64)}
        assert not held.rows["large"]["failure_count"]
    if held.turns is not None:
        for task_id in ("nul", "437 KB", "separators", "quotes", "surrogate"):
            said = [turn["content"] for turn in HOSTILE[task_id]["output"]["transcript"]]
            texts = [as_kept(place.name, text) for text in said]
            assert [turn[1] for turn in held.turns[task_id]] == texts, task_id


# -- the proof


@pytest.mark.parametrize("table", ["tasks", TURNS])
def test_the_proof_tells_of_what_was_changed(place: Destination, table: str) -> None:
    export(place, *STEPS)
    assert sink_for(place.target, "tasks").verify()[1] == []
    if table == TURNS and place.held().turns is None:
        pytest.skip("it has no table of turns")
    place.tamper(table)
    assert sink_for(place.target, "tasks").verify()[1] != []


def test_what_has_not_settled_is_found_again(place: Destination) -> None:
    done = {"status": "completed", "output": {"post_call_data": {"summary": "x"}}}
    export(
        place,
        [line("A", status="pending"), line("B", **done)],
        [line("C", status="in_progress"), line("D", status="pending")],
        [line("D", **done)],
    )
    sink = opened(place.target)
    found = sink.unsettled(datetime(2000, 1, 1, tzinfo=UTC))
    sink.close(None)
    assert sorted(found) == [("A", "R1"), ("C", "R1")]
    assert transcript(place.held().rows["B"]) == []
