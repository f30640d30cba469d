"""Exports, the simulator and the demo from the command line; signals in the middle of it."""

# ruff: noqa: F811  (fixtures that are imported are named again by who uses them)

from __future__ import annotations

import errno
import gzip
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import Any

import pytest
from test_cli import COMMAND, Cli, cli, settings, simulator  # noqa: F401  (three are fixtures)

from unpod_async.export._source import Reader
from unpod_async.simulator import Churn, Simulator


def ids(path: Path) -> list[str]:
    content = path.read_bytes()
    lines = (gzip.decompress(content) if path.suffix == ".gz" else content).splitlines()
    return [json.loads(line)["task_id"] for line in lines]


@pytest.mark.parametrize("name", ["tasks.jsonl", "tasks.jsonl.gz"])
@pytest.mark.parametrize("via", ["walk", "runs"])
def test_export_of_a_changing_list(cli: Cli, tmp_path: Path, name: str, via: str) -> None:
    cli.simulator.churn = Churn(inserts=1, deletes=1)
    world = cli.simulator.world
    mark = world.mark()
    said = cli("export", "tasks", "--to", str(tmp_path / name), "--via", via, "--page-size", "50")
    assert (said.code, said.out) == (0, "")
    assert f"to {tmp_path / name}; verified" in said.err
    found = ids(tmp_path / name)
    assert len(found) == len(set(found))
    assert world.lived_throughout(mark) <= set(found)
    assert sorted(os.listdir(tmp_path)) == [name, f"{name}.manifest.json"]


def test_export_of_runs_and_of_one_run(cli: Cli, tmp_path: Path) -> None:
    world = cli.simulator.world
    path = tmp_path / "runs.jsonl"
    assert cli("export", "runs", "--to", str(path)).code == 0
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [row["run_id"] for row in rows] == world.run_ids()
    path, run_id = tmp_path / "tasks.jsonl", world.run_ids()[2]
    assert cli("export", "tasks", "--to", str(path), "--run", run_id).code == 0
    assert ids(path) == world.task_ids(run_id)


@pytest.mark.parametrize("via", ["walk", "runs"])
def test_limit_and_json(cli: Cli, tmp_path: Path, via: str) -> None:
    path = tmp_path / "tasks.jsonl"
    said = cli("export", "tasks", "--to", str(path), "--limit", "70", "--json", "--via", via)
    (summary,) = said.rows
    assert (said.code, said.err) == (0, "")
    assert (summary["rows"], summary["path"]) == (70, str(path))
    assert len(set(ids(path))) == 70


def test_an_existing_file(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(b"old\n")
    said = cli("export", "tasks", "--to", str(path))
    assert said.code == 2
    assert "--force" in said.err
    assert path.read_bytes() == b"old\n"
    assert cli.simulator.requests == []
    assert cli("export", "tasks", "--to", str(path), "--force").code == 0
    assert len(ids(path)) == 1200


def test_a_symbolic_link_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    path, victim = tmp_path / "tasks.jsonl", tmp_path / "victim"
    path.symlink_to(victim)
    assert cli("export", "tasks", "--to", str(path), "--force").code == 2
    assert os.listdir(tmp_path) == ["tasks.jsonl"]


def test_a_full_disk(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(b"old\n")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        said = cli("export", "tasks", "--to", str(path), "--force")
    assert said.code == 1
    assert said.err.endswith("No space left on device\n")
    assert path.read_bytes() == b"old\n"


def test_what_came_is_kept_when_the_api_fails(cli: Cli, tmp_path: Path) -> None:
    cli.simulator.fault("status", status=404, after=4)
    to = str(tmp_path / "tasks.jsonl")
    said = cli("export", "tasks", "--to", to, "--page-size", "100")
    assert said.code == 1
    assert said.err.startswith("error after ")
    assert os.listdir(tmp_path) == [".tasks.jsonl.unpod"]


def test_nothing_is_left_when_nothing_came(cli: Cli, tmp_path: Path) -> None:
    cli.simulator.fault("status", status=404, times=None)
    assert cli("export", "tasks", "--to", str(tmp_path / "tasks.jsonl")).code == 1
    assert os.listdir(tmp_path) == []


def test_what_is_not_proved_is_kept(cli: Cli, tmp_path: Path) -> None:
    cli.simulator.max_page_size = 5
    to = str(tmp_path / "runs.jsonl")
    assert cli("export", "runs", "--to", to).code == 5
    assert sorted(os.listdir(tmp_path)) == ["runs.jsonl", "runs.jsonl.manifest.json"]


def test_what_is_not_all_is_kept_beside_the_target(cli: Cli, tmp_path: Path) -> None:
    world = cli.simulator.world
    broken = world.run_ids()[1]
    cli.simulator.fault("status", status=404, match=broken, times=None)
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(b"old\n")
    said = cli("export", "tasks", "--to", str(path), "--via", "runs", "--force")
    assert said.code == 3
    assert "NOT COMPLETE: not read: 1 of the runs" in said.err
    assert broken in said.err
    partial = tmp_path / "tasks.jsonl.partial"
    assert str(partial) in said.err
    assert path.read_bytes() == b"old\n"
    assert set(ids(partial)) == set(world.task_ids()) - set(world.task_ids(broken))


def test_3_if_a_run_cannot_be_told_from_others(cli: Cli, tmp_path: Path) -> None:
    runs: list[Any] = [{"run_id": "R1"}, {"status": "completed"}]
    tasks: list[Any] = [{"task_id": "T1", "run_id": "R1"}]
    with Simulator(run_rows=runs, rows=tasks) as simulator:
        said = cli(
            *("export", "tasks", "--via", "runs", "--base-url", simulator.base_url),
            *("--to", str(tmp_path / "tasks.jsonl")),
        )
    assert said.code == 3
    assert os.listdir(tmp_path) == ["tasks.jsonl.partial"]
    assert ids(tmp_path / "tasks.jsonl.partial") == ["T1"]


# -- signals ---------------------------------------------------------------------------------


def wait_for(what: Callable[[], object]) -> None:
    ends = time.monotonic() + 20
    while not what():
        assert time.monotonic() < ends, "it never came"
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("via", ["walk", "runs"])
def test_a_signal_leaves_the_old_file_as_it_was(
    cli: Cli, tmp_path: Path, number: signal.Signals, via: str
) -> None:
    cli.simulator.fault("hang", times=None, after=5)
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(b"old\n")
    with cli.process(
        *("export", "tasks", "--to", str(path), "--force", "--json"),
        *("--page-size", "100", "--via", via),
    ) as process:
        wait_for(lambda: len(cli.simulator.requests) > 6)
        assert len(os.listdir(tmp_path)) == 2
        process.send_signal(number)
        out, err = process.communicate()
    assert process.returncode == 128 + number
    assert err == b""
    assert json.loads(out)["exit_code"] == 128 + number
    assert set(os.listdir(tmp_path)) <= {".tasks.jsonl.unpod", "tasks.jsonl"}
    assert path.read_bytes() == b"old\n"


def test_a_signal_before_anything_has_begun(cli: Cli) -> None:
    with cli.process("tasks", "--token-file", "/dev/stdin", stdin=-1) as process:
        wait_for(lambda: "SIGTERM" in handled(process.pid))
        process.send_signal(signal.SIGTERM)
        assert process.communicate() == (b"", b"")
    assert process.returncode == 143


def handled(pid: int) -> set[str]:
    """The signals for which a process has a handler."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines)
    caught = int(status["SigCgt"], 16)
    return {number.name for number in signal.Signals if caught >> (number - 1) & 1}


def test_a_signal_while_nobody_reads(cli: Cli) -> None:
    """The pipe is full and a thread is stuck in it: the end comes all the same."""
    with cli.process("tasks", "--quiet") as process:
        wait_for(lambda: len(cli.simulator.requests) > 2)
        process.send_signal(signal.SIGINT)
        process.wait(10)
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 130


def test_a_second_signal_does_not_wait(cli: Cli, tmp_path: Path) -> None:
    """The disk that should let go of the file hangs."""
    script = """if True:
        import time
        from unpod_async.export.sinks._parts import FileSink
        FileSink.close = lambda sink, receipt: print(flush=True) or time.sleep(60)
    """
    command = [*COMMAND[:-1], f"{script}\n{COMMAND[-1]}", "export", "tasks", "--to"]
    cli.simulator.fault("hang", times=None)
    with Popen([*command, str(tmp_path / "tasks.jsonl")], stdout=PIPE, stderr=PIPE) as process:
        wait_for(lambda: cli.simulator.requests)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate() == (b"", b"")
    assert process.returncode == -signal.SIGINT


# -- the simulator and the demo ----------------------------------------------------------------


@pytest.fixture
def served(cli: Cli) -> Iterator[tuple[Any, dict[str, str]]]:
    with cli.process("simulate", "--port", "0", "--runs", "2", "--tasks", "30") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().decode() for _ in range(5)]
        exports = [line.strip().removeprefix("export ").split("=", 1) for line in lines[1:]]
        yield process, dict(exports)
        process.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_simulate(
    cli: Cli,
    served: tuple[Any, dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    code: int,
) -> None:
    process, environment = served
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert set(environment) == {
        *("UNPOD_API_TOKEN", "UNPOD_BASE_URL", "UNPOD_SPACE_TOKEN", "UNPOD_ORG_HANDLE")
    }
    assert len(cli("tasks").rows) == 30
    process.send_signal(number)
    assert process.communicate() == (b"", b"")
    assert process.returncode == code


def test_a_port_that_is_taken(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = cli("simulate", "--port", str(taken.getsockname()[1]))
    assert (said.code, said.out) == (1, "")
    assert said.err.count("\n") == 1
    assert "in use" in said.err


DEMO = ("demo", "--runs", "5", "--tasks", "1500")


def test_the_demo_proves_its_point(cli: Cli, tmp_path: Path) -> None:
    said = cli(*DEMO, "--to", str(tmp_path / "kept"))
    assert (said.code, said.err) == (0, "")
    assert "Both exports hold every task that lived throughout, each once" in said.out
    lines = said.out.splitlines()
    assert max(map(len, lines[:-1])) <= 80 + len(str(tmp_path))
    assert lines[-1].startswith(sys.argv[0])
    assert lines[-1].endswith(
        "export tasks --space SPACE --token-file TOKEN_FILE --to calls.duckdb"
    )
    assert "FROM transcript_turns" in said.out
    assert len(ids(tmp_path / "kept" / "unpod-demo-runs.jsonl")) > 1400
    assert cli("verify", str(tmp_path / "kept" / "unpod-demo.duckdb")).code == 0


def test_the_demo_in_ascii_and_without_litter(cli: Cli, tmp_path: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C", "TMPDIR": str(tmp_path)}
    with cli.process(*DEMO, env=environment, cwd=tmp_path, stdin=DEVNULL) as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert out.isascii()
    assert b"\x1b" not in out
    assert b"\\u" not in out
    assert os.listdir(tmp_path) == []


def test_the_demo_says_so_if_a_task_is_lost(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    add = Reader.add

    def forgetful(reader: Reader, line: bytes) -> None:
        if reader.taken % 100 != 7:
            add(reader, line)
        else:
            reader.taken += 1

    monkeypatch.setattr(Reader, "add", forgetful)
    said = cli(*DEMO)
    assert said.code == 3
    assert "NOT exact" in said.out
    assert "Both exports hold" not in said.out
    (summary,) = cli(*DEMO, "--json").rows
    assert summary["exit_code"] == 3
    assert [way["way"] for way in summary["ways"]] == ["walk", "fan-out", "page loop"]
    assert summary["ways"][0]["lost"] > 0
