"""Files as destinations: what is in them, what a kill or a full disk leaves, and who is refused."""

from __future__ import annotations

import csv
import errno
import gc
import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pa = pytest.importorskip("pyarrow")
import pyarrow.fs as pafs  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from unpod_async._secrets import plain_url  # noqa: E402
from unpod_async.errors import ConfigurationError, ExportError  # noqa: E402
from unpod_async.export import _sink, _store_url  # noqa: E402
from unpod_async.export._batch import Batch  # noqa: E402
from unpod_async.export._sink import Written, sink_for  # noqa: E402
from unpod_async.export._state import Job, Receipt, State  # noqa: E402
from unpod_async.export.sinks import _columnar  # noqa: E402
from unpod_async.export.sinks._ledger import layout_of  # noqa: E402
from unpod_async.simulator import Simulator  # noqa: E402

SUFFIXES = (".parquet", ".arrow", ".csv", ".jsonl", ".jsonl.gz", ".jsonl.zst")
SHAPES = [f"x{suffix}{end}" for suffix in SUFFIXES for end in ("", "/")]
JOB = Job(kind="tasks", base_url="https://example.test")
pytestmark = pytest.mark.drivers

WORLD = Simulator(seed=11, runs=6, tasks=40).world
ROWS = [json.dumps(WORLD.row(task_id)).encode() for task_id in WORLD.task_ids()]
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A folder that costs little, where there is one."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def unhurried_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a test need outlive the power."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def changed(line: bytes, **values: Any) -> bytes:
    return json.dumps({**json.loads(line), **values}).encode()


def row(task_id: str, **values: Any) -> bytes:
    return json.dumps({"task_id": task_id, "run_id": "R1", **values}).encode()


def state(at: int = 0, run: int = 0, *, done: bool = False) -> State:
    return State(job=JOB, done=done, place={"run": run, "at": at})


def receipt() -> Receipt:
    return Receipt(tool="test", job=JOB)


def opened(target: Any, *, clear: bool = False) -> Any:
    sink: Any = sink_for(str(target), "tasks")
    if clear:
        sink.clear()
    sink.open()
    return sink


def export(target: Any, *batches: list[bytes], clear: bool = False) -> list[Written]:
    sink = opened(target, clear=clear)
    told = [sink.write(Batch("tasks", lines), state(at)) for at, lines in enumerate(batches)]
    sink.write(Batch("tasks", []), state(len(batches), done=True))
    sink.close(receipt())
    return told


# -- reading back, without our own readers


def rows_of(path: str, sent: bytes) -> list[Any]:
    if path.endswith(".parquet"):
        return pq.read_table(io.BytesIO(sent)).to_pylist()
    if path.endswith(".arrow"):
        return pa.ipc.open_file(io.BytesIO(sent)).read_all().to_pylist()
    if path.endswith(".csv"):
        return list(csv.DictReader(io.StringIO(sent.decode(), newline="")))
    if path.endswith(".gz"):
        sent = gzip.decompress(sent)
    if path.endswith(".zst"):
        sent = pa.CompressedInputStream(io.BytesIO(sent), "zstd").read()
    assert not sent or sent.endswith(b"\n")
    return [json.loads(line) for line in sent.splitlines()]


def key(found: dict[str, Any]) -> tuple[str, int]:
    return found["task_id"], int(found.get("index", 0))


def content(target: Path) -> dict[str, list[Any]]:
    """The rows of each table, in the order of their ids."""
    files = [target] if target.is_file() else sorted(target.rglob("part-*"))
    tables: dict[str, list[Any]] = {}
    for file in files:
        table = "tasks" if file == target else file.parent.name
        tables.setdefault(table, []).extend(rows_of(file.name, file.read_bytes()))
    return {table: sorted(rows, key=key) for table, rows in tables.items()}


def expected(target: Path, lines: list[bytes]) -> dict[str, list[Any]]:
    """What one write of these rows gives."""
    fresh = target.parent / "expected" / target.name
    shutil.rmtree(fresh.parent, ignore_errors=True)
    fresh.parent.mkdir()
    export(str(fresh) + ("/" if target.is_dir() else ""), lines)
    found = content(fresh)
    shutil.rmtree(fresh.parent)
    return found


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# -- rows


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_there_once_and_as_the_server_sent_them(tmp_path: Path, shape: str) -> None:
    target = tmp_path / shape
    told = export(tmp_path / shape if shape[-1] != "/" else f"{target}/", ROWS[:25], ROWS[20:])
    assert told == [Written(25), Written(15, 0, 5)]
    assert content(target) == expected(target, ROWS)
    assert len(content(target)["tasks"]) == len(ROWS)
    if ".jsonl" in shape:
        assert content(target) == {"tasks": sorted(map(json.loads, ROWS), key=key)}
    found, wrong = sink_for(f"{tmp_path}/{shape}", "tasks").verify()
    assert wrong == []
    assert found.tables["tasks"].rows == 40
    assert sum(file.rows for file in found.files if file.table == "tasks") == 40
    if ".jsonl" not in shape:
        assert ("row_hash", "int64") in found.tables["tasks"].columns
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {0o600}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_later_modified_of_a_row_stays(tmp_path: Path, shape: str) -> None:
    old = [row("A", status="a", modified="2026-01-02T00:00:00"), row("B", status="b"), row("C")]
    new = [
        row("A", status="older", modified="2026-01-01T00:00:00"),
        row("B", status="no time counts as later"),
        row("C"),
        row("D", status="d", modified="2026-01-01T00:00:00"),
        row("D", status="first of all", modified="2025-01-01T00:00:00"),
    ]
    newest = [row("A", status="newer", modified="2026-01-02T00:00:00"), new[3]]
    told = export(f"{tmp_path}/{shape}", old, new, newest)
    assert told == [Written(3), Written(1, 1, 2), Written(0, 1, 1)]
    target = tmp_path / shape
    assert content(target) == expected(target, [newest[0], new[1], old[2], new[3]])


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_that_change_take_their_turns_with_them(tmp_path: Path, shape: str) -> None:
    after = [changed(line, status=f"S{at}") for at, line in enumerate(ROWS)]
    told = export(f"{tmp_path}/{shape}", ROWS[:10], ROWS[10:20], after[5:8] + ROWS[8:9], after[:10])
    assert told == [Written(10), Written(10), Written(0, 3, 1), Written(0, 7, 3)]
    target = tmp_path / shape
    assert content(target) == expected(target, after[:10] + ROWS[10:20])
    if shape[-1] == "/":
        assert not list(target.glob("tasks/part-00001*"))  # all its rows were replaced


@pytest.mark.parametrize("shape", SHAPES)
def test_an_export_of_no_rows_is_a_file_too(tmp_path: Path, shape: str) -> None:
    export(f"{tmp_path}/{shape}", [])
    assert not any(content(tmp_path / shape).values())
    assert sink_for(f"{tmp_path}/{shape}", "tasks").verify()[1] == []
    assert export(f"{tmp_path}/{shape}", ROWS[:3]) == [Written(3)]
    assert content(tmp_path / shape) == expected(tmp_path / shape, ROWS[:3])


@pytest.mark.parametrize("shape", ["x.parquet", "x.jsonl/", "x.csv"])
def test_runs(tmp_path: Path, shape: str) -> None:
    lines = [json.dumps({"run_id": f"R{at}", "status": "running"}).encode() for at in range(3)]
    sink: Any = sink_for(f"{tmp_path}/{shape}", "runs")
    sink.open()
    assert sink.write(Batch("runs", lines), state()) == Written(3)
    assert sorted(sink.unsettled(LONG_AGO)) == [("R0", "R0"), ("R1", "R1"), ("R2", "R2")]
    sink.close(receipt())
    assert sink_for(f"{tmp_path}/{shape}", "runs").verify()[1] == []


def test_a_transcript_alone_may_change_where_the_output_is_no_column(tmp_path: Path) -> None:
    def said(text: str) -> bytes:
        return row("A", output={"transcript": [{"role": "user", "content": text}]})

    columns = ("status", "transcript")
    for suffix in (".parquet", ".arrow", ".csv"):
        sink: Any = sink_for(f"{tmp_path}/x{suffix}", "tasks", columns)
        sink.open()
        sink.write(Batch("tasks", [said("one")], columns), state())
        assert sink.write(Batch("tasks", [said("one")], columns), state()) == Written(0, 0, 1)
        assert sink.write(Batch("tasks", [said("two")], columns), state()) == Written(0, 1)
        sink.close(receipt())
        (found,) = content(tmp_path / f"x{suffix}")["tasks"]
        assert "two" in str(found["transcript"]) and "provider" not in found


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_that_are_not_settled(tmp_path: Path, suffix: str) -> None:
    ended = {"status": "completed", "modified": "2026-03-01T00:00:00"}
    lines = [
        row("A", status="pending"),
        row("B", **ended),
        row("C", **ended, output={"post_call_data": {"a": 1}}),
        row("D", status="completed", modified="2026-01-01T00:00:00"),
    ]
    sink = opened(tmp_path / f"x{suffix}")
    sink.write(Batch("tasks", lines), state())
    after = datetime(2026, 2, 1, tzinfo=UTC)
    assert sorted(sink.unsettled(after)) == [("A", "R1"), ("B", "R1")]
    sink.clear()
    assert sink.unsettled(after) == []
    sink.close(None)


def test_parts_become_row_groups_of_a_useful_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_columnar, "ROWS", 16)
    export(tmp_path / "x.parquet", *[ROWS[at : at + 3] for at in range(0, 40, 3)])
    file = pq.ParquetFile(tmp_path / "x.parquet").metadata
    groups = [file.row_group(at).num_rows for at in range(file.num_row_groups)]
    assert sum(groups) == 40 and groups[:2] == [16, 16]
    monkeypatch.setattr(_columnar, "_LARGEST", 1)
    export(tmp_path / "y.parquet", ROWS[:2], ROWS[2:4])
    assert pq.ParquetFile(tmp_path / "y.parquet").metadata.num_row_groups == 2


# -- going on


@pytest.mark.parametrize("shape", SHAPES)
def test_an_export_that_was_left_is_gone_on_with(tmp_path: Path, shape: str) -> None:
    target = f"{tmp_path}/{shape}"
    sink = opened(target)
    sink.write(Batch("tasks", ROWS[:10]), state(1))
    sink.write(Batch("tasks", []), state(2))
    sink.close(None)
    assert shape[-1] == "/" or not os.path.exists(target)
    with pytest.raises(ConfigurationError, match="has no receipt"):
        sink_for(target, "tasks").verify()
    sink = opened(target)
    assert sink.in_the_way() is None
    assert sink.checkpoint() == state(2)
    assert sink.write(Batch("tasks", ROWS[5:]), state(3)) == Written(30, 0, 5)
    sink.close(receipt())
    assert content(tmp_path / shape) == expected(tmp_path / shape, ROWS)
    assert sink_for(target, "tasks").verify()[1] == []


@pytest.mark.parametrize("shape", SHAPES)
def test_a_refresh_without_changes_leaves_the_rows_alone(tmp_path: Path, shape: str) -> None:
    target = f"{tmp_path}/{shape}"
    export(target, ROWS[:10], ROWS[10:20])

    def files() -> dict[str, tuple[int, bytes]]:
        found = {p: p for p in tmp_path.rglob("*") if p.is_file() and "manifest" not in p.name}
        return {str(p): (p.stat().st_ino, p.read_bytes()) for p in found}

    before = files()
    sink = opened(target)
    assert sink.checkpoint() == state(2, done=True)
    assert sink.write(Batch("tasks", ROWS[3:17]), state(7)) == Written(0, 0, 14)
    ended = receipt()
    ended.notes = ["again"]
    sink.close(ended)
    assert files() == before
    found, wrong = sink_for(target, "tasks").verify()
    assert (found.notes, wrong) == (["again"], [])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_refresh_with_changes(tmp_path: Path, shape: str) -> None:
    target = f"{tmp_path}/{shape}"
    export(target, ROWS[:10], ROWS[10:20])
    new = [changed(ROWS[3], status="z"), changed(ROWS[15], status="z")]
    assert export(target, ROWS[18:30], new) == [Written(10, 0, 2), Written(0, 2)]
    rows = [*ROWS[:3], *ROWS[4:15], *ROWS[16:30], *new]
    assert content(tmp_path / shape) == expected(tmp_path / shape, rows)
    assert sink_for(target, "tasks").verify()[1] == []
    assert names(tmp_path) == [name for name in names(tmp_path) if "unpod" not in name]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("early", [False, True])
def test_clear_replaces_what_is_there(tmp_path: Path, shape: str, early: bool) -> None:
    target = f"{tmp_path}/{shape}"
    export(target, ROWS[:10], ROWS[10:20])
    before = content(tmp_path / shape)
    sink = opened(target, clear=early)
    sink.clear()
    assert sink.checkpoint() is None
    assert content(tmp_path / shape) == before
    sink.close(None)
    assert content(tmp_path / shape) == before
    assert opened(target).close(None) is None
    export(target, ROWS[30:], clear=True)
    assert content(tmp_path / shape) == expected(tmp_path / shape, ROWS[30:])
    assert sink_for(target, "tasks").verify()[1] == []


def test_clear_leaves_what_is_not_ours(tmp_path: Path) -> None:
    target = tmp_path / "x.jsonl"
    export(f"{target}/", ROWS[:3])
    for name in ("notes.txt", "tasks/part-1.jsonl", "tasks/part-00001.parquet"):
        (target / name).write_text("mine")
    export(f"{target}/", ROWS[3:6], clear=True)
    assert (target / "notes.txt").read_text() == "mine"
    assert len(list(target.rglob("part-*"))) == 3


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_in_the_way(tmp_path: Path, shape: str) -> None:
    target = tmp_path / shape
    assert sink_for(f"{tmp_path}/{shape}", "tasks").in_the_way() is None
    if shape[-1] == "/":
        (target / "tasks").mkdir(parents=True)
        assert sink_for(f"{tmp_path}/{shape}", "tasks").in_the_way() is None
        mine = target / "tasks" / f"part-00001{shape[1:-1]}"
    else:
        mine = target
    mine.write_bytes(b"mine")
    sink = opened(f"{tmp_path}/{shape}")
    assert str(target) in sink.in_the_way()
    assert mine.read_bytes() == b"mine"
    sink.clear()
    sink.write(Batch("tasks", ROWS[:2]), state())
    assert mine.exists() == (shape[-1] != "/")
    sink.close(receipt())
    assert sink_for(f"{tmp_path}/{shape}", "tasks").in_the_way() is None
    assert content(target) == expected(target, ROWS[:2])


def test_a_file_that_appears_meanwhile_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "x.jsonl"
    sink = opened(target)
    sink.write(Batch("tasks", ROWS[:2]), state())
    target.write_text("mine")
    with pytest.raises(ConfigurationError, match="appeared meanwhile"):
        sink.close(receipt())
    assert target.read_text() == "mine"
    sink = opened(target)
    assert sink.in_the_way() == f"{target} exists"
    target.unlink()
    assert sink.in_the_way() is None
    sink.close(receipt())
    assert content(target)["tasks"] == expected(target, ROWS[:2])["tasks"]


def test_without_links_the_name_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_link)
    export(tmp_path / "x.jsonl", ROWS[:2])
    assert names(tmp_path) == ["x.jsonl", "x.jsonl.manifest.json"]


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_that_are_not_all_are_set_aside(tmp_path: Path, shape: str) -> None:
    target = tmp_path / shape
    export(f"{tmp_path}/{shape}", ROWS[:5])
    before = names(tmp_path)
    old = content(target)
    sink = opened(f"{tmp_path}/{shape}")
    sink.write(Batch("tasks", ROWS[5:8]), state())
    sink.partial = True
    sink.close(ended := receipt())
    if shape[-1] == "/":
        assert sink.path_written == str(target)
        return
    assert sink.path_written == f"{target}.partial"
    assert names(tmp_path) == [*before, f"{shape}.partial"] or sorted(
        [*before, f"{shape}.partial"]
    ) == names(tmp_path)
    assert content(target) == old
    assert ended.files[0].name == f"{shape}.partial"
    rows = rows_of(shape, Path(f"{target}.partial").read_bytes())
    assert sorted(rows, key=key) == expected(target, ROWS[:8])["tasks"]
    assert sink_for(str(target), "tasks").verify()[1] == []


@pytest.mark.parametrize("shape", ["x.jsonl", "x.jsonl/"])
def test_nothing_written_nothing_left(tmp_path: Path, shape: str) -> None:
    sink = opened(f"{tmp_path}/{shape}")
    assert names(tmp_path) != []
    sink.close(None)
    sink.close(None)
    assert names(tmp_path) == []


def test_a_receipt_whose_file_was_removed_says_nothing(tmp_path: Path) -> None:
    target = tmp_path / "x.csv"
    export(target, ROWS[:2])
    target.unlink()
    sink = opened(target)
    assert (sink.in_the_way(), sink.checkpoint()) == (None, None)
    sink.close(None)
    assert export(target, ROWS[:2]) == [Written(2)]


# -- kills and full disks

CALLS = ("open", "write", "fsync", "close", "fchmod", "replace", "link", "unlink", "mkdir", "rmdir")


class Killed(BaseException):
    """What no code may handle."""


class Disk:
    """The calls of `os`, of which the n-th fails: for good (the process is dead), or once."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, error: BaseException) -> None:
        self.at, self.error, self.count = at, error, 0
        self.open_files: set[int] = set()
        self._close = os.close
        for name in CALLS:
            patch.setattr(os, name, self._call(name, getattr(os, name)))

    def _call(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            dead = isinstance(self.error, Killed) and self.count > self.at
            if name == "close" and not dead:
                self.open_files.discard(arguments[0])
                real(*arguments)
            if dead or self.count == self.at:
                raise self.error
            if name in ("close", "fsync"):
                return None  # the disk of a test need not be waited for
            made = real(*arguments, **options)
            if name == "open":
                self.open_files.add(made)
            return made

        return call

    def end(self) -> None:
        """What the kernel does for a process that is gone."""
        for file in self.open_files:
            with suppress(OSError):
                self._close(file)


def go(target: str, steps: list[list[bytes]], run: int, *, clear: bool = False) -> Any:
    """An export that begins where its checkpoint says, to its end."""
    sink: Any = sink_for(target, "tasks", None if ".jsonl" in target else FEW)
    try:
        sink.open()
        found = sink.checkpoint()
        at = found.place["at"] if found and found.place and found.place["run"] == run else 0
        if clear and at == 0:
            sink.clear()
        for step in range(at, len(steps)):
            sink.write(Batch("tasks", steps[step], FEW), state(step + 1, run))
        sink.close(receipt())
    except OSError:
        sink.close(None)
        raise


ERRORS: dict[str, Callable[[], BaseException]] = {
    "killed": Killed,
    "full": lambda: OSError(errno.ENOSPC, "No space left on device"),
}
FEW = ("status", "transcript")
FIRST = [ROWS[:3]]
SECOND = [
    [*ROWS[2:5], changed(ROWS[0], status="z")],
    [changed(ROWS[4], status="y"), ROWS[5]],
    [],
]
FAULTS = [
    (shape, scenario, error)
    for shape in ("x.jsonl", "x.jsonl/", "x.parquet", "x.parquet/", "x.csv", "x.arrow/")
    for scenario in ("fresh", "refresh", "replace")
    for error in ERRORS
    if shape.startswith("x.jsonl") or (scenario == "refresh" and error == "killed")
]
STRIDE = 11
"""Of what costs more only each eleventh call: which calls there are is the same for all."""


@pytest.mark.parametrize(("shape", "scenario", "error"), FAULTS)
def test_a_fault_at_any_call_loses_nothing(
    tmp_path: Path, shape: str, scenario: str, error: str
) -> None:
    """After each, what is there is the old or the new, and the next run makes it the same as
    one that was never disturbed."""
    clear = scenario == "replace"
    old = tmp_path / "old"
    old.mkdir()
    if scenario != "fresh":
        go(f"{old}/{shape}", FIRST, 1)
    before = content(old / shape) if scenario != "fresh" else None
    done = tmp_path / "done"
    shutil.copytree(old, done)
    go(f"{done}/{shape}", SECOND, 2, clear=clear)
    after, at = content(done / shape), 0
    while True:
        every = ".jsonl" in shape and error == "killed" and scenario != "replace"
        at += 1 if every else STRIDE
        place = tmp_path / "place"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(old, place)
        target = place / shape
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, at, ERRORS[error]())
            with suppress(Killed, OSError):
                go(f"{place}/{shape}", SECOND, 2, clear=clear)
            disk.end()
        if target.is_file():
            assert content(target) in (before, after)
        elif shape[-1] != "/":
            assert before is None
        with pytest.MonkeyPatch.context() as patch:
            Disk(patch, -1, OSError())
            go(f"{place}/{shape}", SECOND, 2, clear=clear)
        assert content(target) == after
        assert sink_for(f"{place}/{shape}", "tasks").verify()[1] == []
        left = {name for name in names(place) if "unpod" in name or "checkpoint" in name}
        assert left == set()
        if disk.count < at:
            break
    assert at > 40


@pytest.mark.parametrize("shape", ["x.jsonl/", "x.parquet/"])
def test_what_the_checkpoint_says_is_on_the_disk(tmp_path: Path, shape: str) -> None:
    """After a kill at any call of a write: the rows are those of the state, neither more."""
    (tmp_path / "old").mkdir()
    sink = opened(f"{tmp_path}/old/{shape}")
    sink.write(Batch("tasks", ROWS[:3]), state(0))
    sink.close(None)
    rows = {0: ROWS[:3], 1: [changed(ROWS[0], status="z"), *ROWS[1:5]]}
    wanted = {at: expected(tmp_path / "old" / shape, lines) for at, lines in rows.items()}
    batch = Batch("tasks", [*ROWS[2:5], changed(ROWS[0], status="z")])
    at, met = 0, set()
    while True:
        at += 1 if ".jsonl" in shape else 4
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
        shutil.copytree(tmp_path / "old", tmp_path / "new")
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, at, Killed())
            with suppress(Killed):
                opened(f"{tmp_path}/new/{shape}").write(batch, state(1))
            disk.end()
        sink = opened(f"{tmp_path}/new/{shape}")
        step = sink.checkpoint().place["at"]
        assert content(tmp_path / "new" / shape) == wanted[step]
        met.add(step)
        sink.close(None)
        if disk.count < at:
            break
    assert met == {0, 1}


def test_a_failed_write_is_the_last(tmp_path: Path) -> None:
    sink = opened(f"{tmp_path}/x.jsonl/")
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, 3, OSError(errno.EIO, "Input/output error"))
        with pytest.raises(OSError, match="Input/output"):
            sink.write(Batch("tasks", ROWS[:2]), state())
    assert disk.count >= 3
    with pytest.raises(ExportError, match="earlier write failed"):
        sink.write(Batch("tasks", ROWS[:2]), state())
    with pytest.raises(ExportError, match="earlier write failed"):
        sink.close(receipt())
    assert names(tmp_path) == []
    with pytest.raises(ExportError, match="not open"):
        sink.write(Batch("tasks", ROWS[:2]), state())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_told_as_what_it_is(tmp_path: Path, suffix: str) -> None:
    """Also through the writers of Arrow."""
    sink = opened(tmp_path / f"x{suffix}")

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    sink.write(Batch("tasks", []), state())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left") as caught:
            sink.write(Batch("tasks", ROWS[:5]), state())
    assert caught.value.errno == errno.ENOSPC
    sink.close(None)
    assert [name for name in names(tmp_path) if "part-" in name] == []


def test_each_file_is_on_the_disk_before_it_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = opened(f"{tmp_path}/x.jsonl/")
    sink.write(Batch("tasks", ROWS[:1]), state())
    calls: list[tuple[str, str]] = []
    files: dict[int, str] = {}

    def noted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *rest: Any, **options: Any) -> Any:
            made = real(first, *rest, **options)
            path = files.get(first, "") if isinstance(first, int) else str(first)
            if name == "open":
                files[made] = path
                if ".tmp" in path:
                    assert rest[0] & os.O_EXCL and rest[0] & os.O_NOFOLLOW and rest[1] == 0o600
            what = "temporary" if path.endswith(".tmp") else path.removeprefix(f"{tmp_path}/")
            to = str(rest[0]).removeprefix(f"{tmp_path}/") if name == "replace" else what
            if name != "open" and (name != "close" or what == "temporary"):
                calls.append((name, to))
            return made

        return call

    for name in ("open", "fsync", "close", "replace", "unlink"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    sink.write(Batch("tasks", ROWS[1:2]), state())
    file = [("fsync", "temporary"), ("close", "temporary")]
    assert calls == [
        *(*file, ("replace", "x.jsonl/tasks/part-00002.jsonl"), ("fsync", "x.jsonl/tasks")),
        *(*file, ("replace", "x.jsonl/_checkpoint.json"), ("fsync", "x.jsonl")),
    ]
    calls.clear()
    sink.write(Batch("tasks", [changed(ROWS[0], status="z")]), state())
    told = [name for name, what in calls if what != "temporary"]
    assert told == ["replace", "fsync", "replace", "fsync", "unlink", "fsync"]
    calls.clear()
    sink.close(receipt())
    assert calls == [
        *(*file, ("replace", "x.jsonl/_manifest.json"), ("fsync", "x.jsonl")),
        *(("unlink", "x.jsonl/_checkpoint.json"), ("fsync", "x.jsonl")),
    ]


# -- who is refused


@pytest.mark.parametrize("shape", ["x.jsonl", "x.jsonl/"])
def test_two_exports_do_not_share_a_target(tmp_path: Path, shape: str) -> None:
    target = f"{tmp_path}/{shape}"
    first = opened(target)
    with pytest.raises(ConfigurationError, match="another export is writing to"):
        opened(target)
    first.write(Batch("tasks", ROWS[:2]), state())
    with pytest.raises(ConfigurationError, match="another export is writing to"):
        opened(target)
    first.close(receipt())
    opened(target).close(None)


def test_the_lock_of_a_killed_export_is_no_more(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").mkdir()
    code = (
        "import fcntl, os, sys; file = os.open(sys.argv[1], os.O_RDONLY);"
        "fcntl.flock(file, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "x.jsonl")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(ConfigurationError, match="another export is writing to"):
            opened(f"{tmp_path}/x.jsonl/")
        other.send_signal(signal.SIGKILL)
        other.wait(10)
        opened(f"{tmp_path}/x.jsonl/").close(None)


def test_a_folder_that_was_removed_before_it_was_locked(
    tmp_path: Path, lose: Callable[[str], list[str]]
) -> None:
    removed = lose(".unpod")
    export(tmp_path / "x.jsonl", ROWS[:2])
    assert removed and len(content(tmp_path / "x.jsonl")["tasks"]) == 2


@pytest.mark.parametrize(
    ("shape", "link"),
    [
        ("x.jsonl", "x.jsonl"),
        ("x.jsonl", ".x.jsonl.unpod"),
        ("x.jsonl", ".x.jsonl.unpod/_checkpoint.json"),
        ("x.jsonl", ".x.jsonl.unpod/part-00001.jsonl"),
        ("x.jsonl", "x.jsonl.manifest.json"),
        ("x.jsonl", "x.jsonl.partial"),
        ("x.jsonl/", "x.jsonl"),
        ("x.jsonl/", "x.jsonl/tasks"),
        ("x.jsonl/", "x.jsonl/tasks/part-00001.jsonl"),
        ("x.jsonl/", "x.jsonl/_manifest.json"),
        ("x.jsonl/", "x.jsonl/_checkpoint.json"),
    ],
)
def test_no_link_is_followed(tmp_path: Path, shape: str, link: str) -> None:
    place, away = tmp_path / "place", tmp_path / "away"
    place.mkdir()
    sink = opened(f"{place}/{shape}")
    sink.write(Batch("tasks", ROWS[:2]), state())
    sink.close(None)
    if (place / link).exists():
        (place / link).rename(away)
    else:
        away.write_text("mine")
    (place / link).symlink_to(away)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for clear in (False, True):
        if clear and "part-" in link:
            continue
        with pytest.raises(ConfigurationError, match="is a symbolic link; it is left alone"):
            opened(f"{place}/{shape}", clear=clear)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    if "part-" in link:
        export(f"{place}/{shape}", ROWS[:3], clear=True)
        assert before[away] == away.read_bytes()


def test_a_link_in_the_place_of_a_table_is_met_in_time(tmp_path: Path) -> None:
    sink = opened(f"{tmp_path}/x.jsonl/")
    (tmp_path / "away").mkdir()
    (tmp_path / "x.jsonl" / "tasks").symlink_to(tmp_path / "away")
    with pytest.raises(ConfigurationError, match="symbolic link"):
        sink.write(Batch("tasks", ROWS[:1]), state())
    sink.close(None)
    assert names(tmp_path / "away") == []


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("none/x.jsonl", "none is not there"),
        ("none/x.jsonl/", "none is not there"),
        ("folder.jsonl", "is a folder"),
        ("file.jsonl/", "is a file"),
        ("file.jsonl/x.jsonl", "is not there, or no folder"),
        (".jsonl", "the name must end in"),
    ],
)
def test_targets_of_the_wrong_kind(tmp_path: Path, target: str, reason: str) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "file.jsonl").write_text("mine")
    with pytest.raises(ConfigurationError, match=reason):
        opened(f"{tmp_path}/{target}")
    assert names(tmp_path) == ["file.jsonl", "folder.jsonl"]


def test_a_folder_that_takes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(ConfigurationError, match="Permission denied"):
        opened(tmp_path / "x.jsonl")


GARBAGE = [b"", b"{", b"[]", b"\x00\xff", b'{"version":2}', b'{"version":1,"form":1}', b"TRUNCATE"]


@pytest.mark.parametrize("name", ["_checkpoint.json", "_manifest.json"])
@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("shape", ["x.jsonl", "x.jsonl/"])
def test_a_damaged_checkpoint_is_not_gone_on_with(
    tmp_path: Path, shape: str, garbage: bytes, name: str
) -> None:
    target = f"{tmp_path}/{shape}"
    export(target, ROWS[:2])
    if "checkpoint" in name:
        sink = opened(target)
        sink.write(Batch("tasks", ROWS[2:4]), state())
        sink.close(None)
    (file,) = tmp_path.rglob(f"*{name[1:]}")
    sent = file.read_bytes()
    file.write_bytes(sent[: len(sent) // 2] if garbage == b"TRUNCATE" else garbage)
    with pytest.raises(ConfigurationError, match=r"\.json is (damaged|of version)"):
        opened(target)
    assert sink_for(target, "tasks").in_the_way() is None
    assert export(target, ROWS[:3], clear=True) == [Written(3)]
    assert content(tmp_path / shape) == expected(tmp_path / shape, ROWS[:3])
    assert sink_for(target, "tasks").verify()[1] == []


def test_a_damaged_state(tmp_path: Path) -> None:
    sink = opened(f"{tmp_path}/x.jsonl/")
    sink.write(Batch("tasks", ROWS[2:4]), state())
    sink.close(None)
    file = tmp_path / "x.jsonl" / "_checkpoint.json"
    file.write_bytes(file.read_bytes().replace(b'"done"', b'"gone too"'))
    with pytest.raises(ConfigurationError, match="its checkpoint is damaged"):
        opened(f"{tmp_path}/x.jsonl/")


def test_a_checkpoint_cannot_name_other_files(tmp_path: Path) -> None:
    (tmp_path / "precious.jsonl").write_text("mine")
    for evil in (
        "../precious.jsonl",
        "/etc/passwd",
        "tasks/../../precious.jsonl",
        "_manifest.json",
    ):
        sink = opened(f"{tmp_path}/x.jsonl/", clear=True)
        sink.write(Batch("tasks", ROWS[:2]), state())
        sink.close(None)
        file = tmp_path / "x.jsonl" / "_checkpoint.json"
        file.write_bytes(file.read_bytes().replace(b"tasks/part-00001.jsonl", evil.encode()))
        if evil.encode() in file.read_bytes():
            with pytest.raises(ConfigurationError, match="it names"):
                opened(f"{tmp_path}/x.jsonl/")


@pytest.mark.parametrize("shape", ["x.jsonl", "x.jsonl/"])
def test_rows_that_were_meddled_with(tmp_path: Path, shape: str) -> None:
    export(f"{tmp_path}/{shape}", ROWS[:2])
    (file,) = [path for path in tmp_path.rglob("*.jsonl") if path.is_file()]
    file.write_bytes(file.read_bytes() + b"{}\n")
    with pytest.raises(ConfigurationError, match="was changed since it was written"):
        opened(f"{tmp_path}/{shape}")
    file.write_bytes(b"x" * (file.stat().st_size - 3))
    sink = opened(f"{tmp_path}/{shape}")
    with pytest.raises(ExportError, match="cannot be read"):
        sink.write(Batch("tasks", ROWS[:2]), state())
    sink.close(None)
    if shape[-1] == "/":
        file.unlink()
        with pytest.raises(ConfigurationError, match="is missing"):
            opened(f"{tmp_path}/{shape}")


def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    sink = opened(f"{tmp_path}/x.jsonl")
    sink.write(Batch("tasks", ROWS[:2]), state())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(OSError, match=r"\.unpod/part-") as caught:
            big = b'{"task_id":"T%d","input":"' + b"x" * 1_500_000 + b'"}'
            sink.write(Batch("tasks", [big % number for number in range(2)]), state())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    sink.close(None)
    sink = opened(f"{tmp_path}/x.jsonl")
    assert sink.checkpoint() == state()
    sink.close(None)


# -- the proof


def tampered(target: Path, how: str) -> str:
    """What is done to an export, and what must be said of it."""
    file = target if target.is_file() else min(target.glob("tasks/part-*"))
    manifest = next(target.parent.rglob("*manifest.json"))
    if how == "changed":
        sent = bytearray(file.read_bytes())
        sent[len(sent) // 2] ^= 1
        file.write_bytes(sent)
        return "sha256"
    if how == "cut":
        file.write_bytes(file.read_bytes()[:-20])
        return "bytes, not"
    if how == "removed":
        file.unlink()
        return "it is missing"
    if how == "linked":
        file.rename(target.parent / "away")
        file.symlink_to(target.parent / "away")
        return "it is a symbolic link"
    if how == "folder linked":
        (target / "tasks").rename(target.parent / "away")
        (target / "tasks").symlink_to(target.parent / "away")
        return "is a symbolic link"
    if how == "rows":
        said = json.loads(manifest.read_bytes())
        said["receipt"]["files"][0]["rows"] += 1
        manifest.write_text(json.dumps(said))
        return "rows, not"
    if how == "tables":
        said = json.loads(manifest.read_bytes())
        said["receipt"]["tables"]["tasks"]["rows"] += 1
        manifest.write_text(json.dumps(said))
        return "not as many as its receipt says"
    work = target if target.is_dir() else target.with_name(f".{target.name}.unpod")
    work.mkdir(exist_ok=True)
    if how == "under way":
        (work / "_checkpoint.json").write_text("{}")
        return "under way or was killed"
    folder = work if target.is_file() else work / "tasks"
    (folder / f"part-00099{''.join(target.suffixes)}").write_text("")
    return "is not in the receipt"


@pytest.mark.parametrize("shape", SHAPES)
def test_the_proof_finds_what_differs(tmp_path: Path, shape: str) -> None:
    (tmp_path / "sound").mkdir()
    export(f"{tmp_path}/sound/{shape}", ROWS[:9], ROWS[9:12])
    ways = ["changed", "cut", "removed", "linked", "rows", "tables", "under way", "more"]
    for how in ways + ["folder linked"] * shape.endswith("/"):
        shutil.rmtree(tmp_path / "place", ignore_errors=True)
        shutil.copytree(tmp_path / "sound", tmp_path / "place")
        said = tampered(tmp_path / "place" / shape, how)
        before = names(tmp_path / "place")
        _, wrong = sink_for(f"{tmp_path}/place/{shape}", "tasks").verify()
        assert any(said in what for what in wrong), (how, wrong)
        assert names(tmp_path / "place") == before


# -- CSV

DANGEROUS = [
    "=1+1",
    "+91 98",
    "-1",
    "@x",
    "\tx",
    "\rx",
    "\nx",
    '"=x',
    '"\n=x',
    "＝1",
    "'=1",
    "''+1",
]
HARMLESS = [
    "a=1",
    "'tis",
    '"quoted"',
    "x\ny",
    'a"b,c',
    "nul\0",
    "line\u2028end",
    "1-2",
    "नमस्ते",
    "'",
]


@pytest.mark.parametrize("raw", [False, True])
def test_no_cell_is_a_formula(tmp_path: Path, raw: bool) -> None:
    texts = DANGEROUS + HARMLESS
    lines = [row(f"T{at}", user=text, failure_count=1) for at, text in enumerate(texts)]
    lines += [row(text) for text in DANGEROUS]
    sink: Any = sink_for(f"{tmp_path}/x.csv", "tasks")
    sink.raw = raw
    sink.open()
    assert sink.write(Batch("tasks", lines[:5]), state()) == Written(5)
    assert sink.write(Batch("tasks", lines), state()) == Written(len(lines) - 5, 0, 5)
    assert {row_id for row_id, _ in sink.unsettled(LONG_AGO)} == {
        json.loads(line)["task_id"] for line in lines
    }
    sink.close(receipt())
    sent = (tmp_path / "x.csv").read_bytes()
    assert not sent.startswith(b"\xef\xbb\xbf")
    found = rows_of("x.csv", sent)
    told = ["" if raw else "'"] * len(DANGEROUS) + [""] * len(HARMLESS)
    pairs = zip(told, texts, strict=True)
    assert [cells["user"] for cells in found[: len(texts)]] == [mark + text for mark, text in pairs]
    assert {cells["failure_count"] for cells in found[: len(texts)]} == {"1"}
    sink = sink_for(f"{tmp_path}/x.csv", "tasks")
    sink.raw = raw
    sink.open()
    assert sink.write(Batch("tasks", lines), state()) == Written(0, 0, len(lines))
    new = [changed(line, status="z") for line in lines[-3:]]
    assert sink.write(Batch("tasks", new), state()) == Written(0, 3)
    sink.close(receipt())
    assert not hasattr(sink_for(f"{tmp_path}/x.jsonl", "tasks"), "raw")
    other: Any = sink_for(f"{tmp_path}/x.csv", "tasks")
    other.raw = not raw
    with pytest.raises(ConfigurationError, match="was written as"):
        other.open()


def test_numbers_times_and_parts_in_csv(tmp_path: Path) -> None:
    said = {"transcript": [{"role": "user", "content": "+1"}], "cost": -1.5}
    sent = row("A", created="2026-01-02T03:04:05", output=said, input={"b": [1, "ü"]})
    export(f"{tmp_path}/x.csv/", [sent])
    found = content(tmp_path / "x.csv")
    (cells,) = found["tasks"]
    assert cells["created_at"] == "2026-01-02T03:04:05.000000Z"
    assert json.loads(cells["input"]) == {"b": [1, "ü"]}
    assert json.loads(cells["output"]) == said
    assert [turn["text"] for turn in json.loads(cells["transcript"])] == ["+1"]
    assert cells["row_hash"].lstrip("-").isdigit()
    assert [turn["text"] for turn in found["transcript_turns"]] == ["'+1"]


def test_a_cell_of_megabytes_is_read_in_steps(tmp_path: Path) -> None:
    lines = [row("A", user="x\n" * 700_000), row("B", user="=" * 1_500_000), row("C", user="\n")]
    for suffix in (".csv", ".jsonl", ".jsonl.gz"):
        target = tmp_path / f"x{suffix}"
        assert export(target, lines, lines[::-1]) == [Written(3), Written(0, 0, 3)]
        assert sink_for(str(target), "tasks").verify()[1] == []


# -- URLs


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Any:
    """One store for all sinks of a test: each `mock://` would be one of its own."""
    system = pafs._MockFileSystem()
    monkeypatch.setattr(
        _store_url, "_filesystem", lambda url: (system, url.removeprefix("mock://").rstrip("/"))
    )
    monkeypatch.setattr(_sink, "STORES", {*_sink.STORES, "mock"})
    system.create_dir("bucket")
    return system


def stored(system: Any) -> dict[str, bytes]:
    found = system.get_file_info(pafs.FileSelector("bucket", recursive=True))
    files = [info.path for info in found if info.is_file]
    return {path: system.open_input_file(path).read() for path in files}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_store_holds_the_same(tmp_path: Path, store: Any, shape: str) -> None:
    target = f"mock://bucket/{shape}"
    steps = (ROWS[:10], [*ROWS[8:12], changed(ROWS[0], status="z")])
    for kind in (None, receipt()):
        sink = opened(target)
        assert sink.in_the_way() is None
        for lines in steps:
            sink.write(Batch("tasks", lines), state())
        sink.close(kind)
    assert sink.path_written == target.rstrip("/")
    for kind in (None, receipt()):
        sink = opened(f"{tmp_path}/{shape}")
        for lines in steps:
            sink.write(Batch("tasks", lines), state())
        sink.close(kind)
    local = {p: (tmp_path / p).read_bytes() for p in names(tmp_path) if (tmp_path / p).is_file()}
    rows = {f"bucket/{path}": sent for path, sent in local.items() if "manifest" not in path}
    found = {path: sent for path, sent in stored(store).items() if "manifest" not in path}
    assert found == rows
    found_receipt, wrong = sink_for(target, "tasks").verify()
    assert (wrong, found_receipt.tables["tasks"].rows) == ([], 12)
    assert export(target, ROWS[:2]) == [Written(0, 1, 1)]
    assert export(target, ROWS[:3], clear=True) == [Written(3)]
    assert sink_for(target, "tasks").verify()[1] == []


@pytest.mark.parametrize("shape", ["x.jsonl", "x.parquet/"])
def test_a_store_that_fails_at_any_call(store: Any, shape: str) -> None:
    """Every call of the store once: an error surfaces, and the next run goes on."""

    class Failing:
        """The store, of which the n-th call fails."""

        count, at = 0, 0
        type_name = "mock"

        def __getattr__(self, name: str) -> Any:
            self.count += 1
            if self.count == self.at and name != "delete_file":
                raise OSError(errno.EIO, "the store failed")
            return getattr(store, name)

    failing = Failing()
    at = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_store_url, "_filesystem", lambda _: (failing, "bucket"))
        if shape[-1] == "/":
            patch.setattr(_store_url, "_filesystem", lambda _: (failing, "bucket/x.parquet"))
        while failing.count >= failing.at:
            at += 1
            failing.count, failing.at = 0, at
            with suppress(OSError):
                go(f"mock://bucket/{shape}", SECOND, at, clear=True)
            is_over = failing.count < at
            failing.at = -1
            go(f"mock://bucket/{shape}", SECOND, at, clear=True)
            assert sink_for(f"mock://bucket/{shape}", "tasks").verify()[1] == []
            failing.count, failing.at = (0, 1) if is_over else (1, 1)
    assert at > 20


def test_an_object_store_needs_no_temporary_names(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_store_url, "_WHOLE_AT_CLOSE", ("mock",))
    for folder in ("bucket/x.jsonl/tasks", "bucket/.y.jsonl.unpod"):
        store.create_dir(folder, recursive=True)
    export("mock://bucket/x.jsonl/", ROWS[:2])
    export("mock://bucket/y.jsonl", ROWS[:2], ROWS[2:3])
    assert sorted(path for path in stored(store) if path.endswith("jsonl")) == [
        "bucket/x.jsonl/tasks/part-00001.jsonl",
        "bucket/y.jsonl",
    ]
    sink = opened("mock://bucket/x.jsonl/")
    sink._store._system = None
    with pytest.raises(AttributeError):
        sink.write(Batch("tasks", ROWS[2:3]), state())


def test_a_store_that_cannot_rename_copies(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fixed:
        type_name = "s3"

        def move(self, *_: Any) -> None:
            raise NotImplementedError("no moves")

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

    monkeypatch.setattr(_store_url, "_filesystem", lambda _: (Fixed(), "bucket"))
    store.create_dir("bucket/.y.jsonl.unpod")
    export("mock://bucket/y.jsonl", ROWS[:2], ROWS[2:3])
    assert sink_for("mock://bucket/y.jsonl", "tasks").verify()[1] == []
    sink = opened("mock://bucket/z.jsonl")
    sink._store.create("z.jsonl").commit()
    with pytest.raises(FileExistsError):
        sink._store.move("y.jsonl", "z.jsonl", replace=False)


def test_what_is_not_known_of_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        sink_for("abfs://:pass:word@@/x.jsonl", "tasks")
    with pytest.raises(ExportError, match="odd"), _store_url._stored("there"):
        raise ValueError("odd")


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    export(f"file://{tmp_path}/a%20b/x.jsonl", ROWS[:2])
    assert names(tmp_path) == ["a b", "a b/x.jsonl", "a b/x.jsonl.manifest.json"]


def test_no_password_is_told() -> None:
    for user in ("KEY:SECRET", "KEY:SEC/RET", "KEY:SEC@RET", "KEY"):
        told = plain_url(f"s3://{user}@bucket/x?session_token=SECRET&region=x")
        assert told == "s3://bucket/x"


@pytest.mark.parametrize(
    ("target", "folder", "name", "work"),
    [
        ("x.csv", ".", "x.csv", ".x.csv.unpod"),
        ("/x.csv", "/", "x.csv", ".x.csv.unpod"),
        ("a/x.csv", "a", "x.csv", ".x.csv.unpod"),
        ("a/x.csv/", "a/x.csv", "x.csv", ""),
        ("s3://b/x.csv", "s3://b", "x.csv", ".x.csv.unpod"),
        ("s3://b/a/x.csv?region=r", "s3://b/a?region=r", "x.csv", ".x.csv.unpod"),
        ("s3://b/a/x.csv/?region=r", "s3://b/a/x.csv?region=r", "x.csv", ""),
        ("mock://x.csv", "mock://", "x.csv", ".x.csv.unpod"),
        ("a?b/x.csv", "a?b", "x.csv", ".x.csv.unpod"),
    ],
)
def test_where_a_target_is(target: str, folder: str, name: str, work: str) -> None:
    assert layout_of(target, (".csv",))[:3] == (folder, name, work)


# -- without pyarrow


def test_lines_need_no_pyarrow(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["pyarrow"] = None
from unpod_async.export._batch import Batch
from unpod_async.export._sink import sink_for
from unpod_async.export._state import Job, Receipt, State
job = Job(kind="tasks", base_url="x")
for name in ("x.jsonl", "y.jsonl/", "z.jsonl.gz"):
    sink = sink_for(sys.argv[1] + "/" + name, "tasks")
    sink.open()
    sink.write(Batch("tasks", [b'{"task_id":"A"}']), State(job=job))
    sink.write(Batch("tasks", [b'{"task_id":"A","status":"z"}']), State(job=job))
    sink.close(Receipt(tool="t", job=job))
try:
    sink_for("x.parquet", "tasks")
except Exception as error:
    print(error)
"""
    made = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "unpod-async[arrow]" in made.stdout
    assert content(tmp_path / "x.jsonl")["tasks"] == [{"task_id": "A", "status": "z"}]


@pytest.mark.parametrize("name", ["x.parquet", "x.jsonl"])
def test_what_was_there_is_read_once(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it has no rows."""
    export(tmp_path / name)
    sink = opened(tmp_path / name)
    reads: list[str] = []
    read = sink._shelf.read
    monkeypatch.setattr(sink._shelf, "read", lambda name: reads.append(name) or read(name))
    for at in range(3):
        sink.write(Batch("tasks", ROWS[3 * at : 3 * at + 3]), state(at))
    assert reads == [name]
    sink.close(None)


@pytest.mark.once
@pytest.mark.parametrize("name", ["x.parquet/", "x.jsonl/"])
def test_the_rows_of_one_walk_leave_nothing_in_memory(tmp_path: Path, name: str) -> None:
    """However long the list: an export of millions of rows takes no more than one of thousands."""

    def write(first: int, last: int) -> int:
        for at in range(first, last):
            lines = [row(f"T{at}-{n}") for n in range(2000)]
            sink.write(Batch("tasks", lines, ("status",), distinct=True), state(at))
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    sink: Any = sink_for(f"{tmp_path}/{name}", "tasks", None if "jsonl" in name else ("status",))
    sink.open()
    tracemalloc.start()
    try:
        before = write(0, 2)
        assert write(2, 12) - before < 5 * 20_000  # bytes; an index of ids took 20 a row
    finally:
        tracemalloc.stop()
        sink.close(None)
