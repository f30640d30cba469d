"""The command line: what is printed where, and every exit code."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from unpod_async import Report, errors
from unpod_async.cli import EXIT_CODES
from unpod_async.cli._app import run
from unpod_async.cli._outcome import Outcome, code_of, told
from unpod_async.cli._run import finish
from unpod_async.simulator import Churn, Simulator

COMMAND = [sys.executable, "-W", "error", "-c", "import unpod_async.cli as cli; cli.main()"]
NAMES = ("UNPOD_API_TOKEN", "UNPOD_BASE_URL", "UNPOD_SPACE_TOKEN", "UNPOD_ORG_HANDLE")


class Said(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


class Cli:
    """Runs commands against a simulator: in this process, or in one of their own."""

    def __init__(self, simulator: Simulator, capfd: pytest.CaptureFixture[str]) -> None:
        self.simulator = simulator
        self._capfd = capfd

    def __call__(self, *arguments: str) -> Said:
        self._capfd.readouterr()
        code = run(list(arguments))
        return Said(code, *self._capfd.readouterr())

    def process(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*COMMAND, *arguments], **{**pipes, **options})


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"seed": 1, "runs": 12, "tasks": 1200}


@pytest.fixture
def simulator(settings: dict[str, Any]) -> Iterator[Simulator]:
    with Simulator(**settings) as simulator:
        yield simulator


@pytest.fixture
def cli(
    simulator: Simulator, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Cli:
    values = (simulator.token, simulator.base_url, simulator.space_token, simulator.org_handle)
    for name, value in zip(NAMES, values, strict=True):
        monkeypatch.setenv(name, value)
    return Cli(simulator, capfd)


# -- help and usage --------------------------------------------------------------------


def cpu_seconds(*arguments: str) -> float:
    command = [sys.executable, *COMMAND[3:], *arguments]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("arguments", [["--help"], ["export", "--help"]])
def test_help_is_quick(arguments: list[str]) -> None:
    """Usually 0.2 s. A busy machine makes a second of CPU do less, so it has some tries."""
    assert any(cpu_seconds(*arguments) < 0.3 for _ in range(10))


def test_help_loads_nothing_heavy() -> None:
    script = """if True:
        import sys
        from unpod_async.cli._app import run
        for words in ("--help", "tasks --help", "export --help", "export tasks --help",
                      "simulate --help", "demo --help"):
            run(words.split())
        heavy = {"aiohttp", "msgspec", "asyncio", "rich.progress", "rich.markdown"}
        sys.exit(f"loaded: {heavy & set(sys.modules)}" if heavy & set(sys.modules) else 0)
    """
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_the_exit_codes_are_in_the_help_and_cost_nothing(cli: Cli) -> None:
    text = cli("--help").out
    assert all(f"{code:>3}  {meaning}" in text for code, meaning in EXIT_CODES.items())
    script = """if True:
        import sys
        from unpod_async.cli import EXIT_CODES
        sys.exit(bool({"cyclopts", "aiohttp", "msgspec", "rich"} & set(sys.modules)))
    """
    subprocess.run([sys.executable, "-c", script], check=True)


def test_without_the_extra_it_says_what_to_install() -> None:
    script = "import sys; sys.modules['cyclopts'] = None; import unpod_async.cli as c; c.main()"
    said = subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (2, "")
    assert 'pip install "unpod-async[cli]"' in said.stderr


@pytest.mark.parametrize(
    "line",
    [
        "frobnicate",
        "tasks --frobnicate",
        "tasks --concurrency 0",
        "tasks --concurrency -1",
        "tasks --concurrency 1000000000",
        "tasks --page-size 0",
        "tasks --limit -1",
        "tasks --token secret",
        "tasks --space ../x",
        "tasks --run a/b",
        "tasks --run R1 --search x",
        "tasks --base-url http://example.com",
        "tasks --auth-scheme Basic",
        "tasks --created-from yesterday",
        "tasks --created-from 2026-01-01T00:00:00",
        "tasks --token-file /nonexistent",
        "export tasks",
        "export tasks --to rows.txt",
        "export tasks --to /nonexistent/rows.jsonl",
        "export tasks --to rows.jsonl --via runs --search x",
        "simulate --runs 0 --tasks 1",
        "demo --runs 0",
    ],
)
def test_wrong_usage_is_one_line_and_2(cli: Cli, line: str) -> None:
    said = cli(*line.split())
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert cli.simulator.requests == []


@pytest.mark.parametrize("name", ["UNPOD_API_TOKEN", "UNPOD_SPACE_TOKEN"])
def test_what_must_be_set_is_named(cli: Cli, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    said = cli("tasks")
    assert said.code == 2
    assert name in said.err


def test_a_token_that_is_no_text(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNPOD_API_TOKEN", "CANARY\udcff")
    said = cli("tasks")
    assert (said.code, said.out) == (2, "")
    assert "CANARY" not in said.err


# -- lists -------------------------------------------------------------------------------


def test_tasks_prints_each_task_once_as_the_platform_holds_it(cli: Cli) -> None:
    said = cli("tasks")
    assert said.code == 0
    assert said.rows == [cli.simulator.world.row(i) for i in cli.simulator.world.task_ids()]
    assert said.err.startswith("1,200 rows in ")
    assert said.err.endswith("verified: every row that lived throughout, once\n")


def test_the_other_lists(cli: Cli) -> None:
    world = cli.simulator.world
    assert [row["run_id"] for row in cli("runs").rows] == world.run_ids()
    assert [row["token"] for row in cli("spaces").rows] == [cli.simulator.space_token]
    run_id = world.run_ids()[3]
    rows = cli("tasks", "--run", run_id).rows
    assert [row["task_id"] for row in rows] == world.task_ids(run_id)


@pytest.mark.parametrize("times", [["2026-01-16T13:30:00Z"], ["1768570200"]])
def test_filters_reach_the_server(cli: Cli, times: list[str]) -> None:
    said = cli(
        *("tasks", "--summary-status", "interested", "--summary-status", "busy"),
        *("--search", "a.b", "--call-type", "inbound", "--user-id", "1", "--thread-id", "7"),
        *("--created-from", *times, "--created-to", *times),
    )
    assert said.code == 0
    asked = dict(cli.simulator.requests[0].query)
    del asked["page"], asked["page_size"]
    moment = {"from_ts": "1768570200", "to_ts": "1768570200", "user_id": "1", "thread_id": "7"}
    words = {"status": "interested,busy", "search": "a.b", "call_type": "inbound"}
    assert asked == moment | words


def test_a_changing_list(cli: Cli) -> None:
    cli.simulator.churn = Churn(inserts=1, deletes=1)
    world = cli.simulator.world
    mark = world.mark()
    said = cli("tasks", "--concurrency", "8", "--page-size", "50")
    ids = [row["task_id"] for row in said.rows]
    assert said.code == 0
    assert len(ids) == len(set(ids))
    assert world.lived_throughout(mark) <= set(ids)


@pytest.mark.parametrize("limit", [0, 1, 7, 700, 1200])
def test_limit(cli: Cli, limit: int) -> None:
    said = cli("tasks", "--limit", str(limit))
    assert said.code == 0
    ids = [row["task_id"] for row in said.rows]
    assert ids == cli.simulator.world.task_ids()[:limit]
    assert "no more were asked for" in said.err


def test_quiet_and_json(cli: Cli) -> None:
    assert cli("tasks", "--limit", "1", "--quiet").err == ""
    said = cli("runs", "--json")
    summary = json.loads(said.err)
    assert len(said.rows) == 12
    report = summary.pop("report")
    assert report["seen"] == 12
    assert report["verified"]
    told = {name: summary[name] for name in ("command", "rows", "path", "exit_code", "error")}
    assert told == {"command": "runs", "rows": 12, "path": None, "exit_code": 0, "error": None}
    assert summary["rate"] == pytest.approx(12 / summary["seconds"], rel=0.1)


# -- exit codes ----------------------------------------------------------------------------


def test_1_when_the_api_fails(cli: Cli) -> None:
    cli.simulator.fault("status", status=404, after=2)
    said = cli("tasks", "--page-size", "100", "--json")
    assert said.code == 1
    summary = json.loads(said.err)
    assert summary["exit_code"] == 1
    assert summary["error"].startswith("404: ")
    assert 100 <= len(said.rows) == summary["rows"] < 1200


def test_1_when_nobody_listens(cli: Cli) -> None:
    said = cli("tasks", "--base-url", "http://127.0.0.1:1/x")
    assert said.code == 1
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert "--base-url" in said.err


def test_1_for_a_query_that_the_database_does_not_take(cli: Cli) -> None:
    said = cli("tasks", "--search", "[")
    assert said.code == 1
    assert "Regular expression is invalid" in said.err


@pytest.mark.parametrize("rows", [[{"run_id": "R1"}], [{"task_id": "T1"}, 7]])
def test_3_for_rows_without_identity(cli: Cli, rows: list[Any]) -> None:
    with Simulator(rows=[json.dumps(row).encode() for row in rows]) as simulator:
        said = cli("tasks", "--base-url", simulator.base_url, "--json")
    assert said.code == 3
    assert said.rows == rows[:-1]
    invalid = json.loads(said.err)["report"]["invalid"]
    assert {tuple(row) for row in invalid} == {("offset", "reason")}  # no copy of the row itself


def test_4_for_a_token_that_is_refused(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNPOD_API_TOKEN", "S3CR3T-CANARY")
    said = cli("tasks")
    assert said.code == 4
    assert "UNPOD_API_TOKEN" in said.err
    assert "CANARY" not in said.out + said.err


@pytest.mark.parametrize("space", ["NOSUCHSPACE", "XXXX7777YYYY8888ZZZZ9999"])
def test_4_for_a_space_that_is_refused(cli: Cli, space: str) -> None:
    said = cli("tasks", "--space", space)
    assert said.code == 4
    assert "`unpod-async spaces`" in said.err


def test_5_when_nothing_is_proved(cli: Cli) -> None:
    cli.simulator.max_page_size = 5
    said = cli("runs")
    assert said.code == 5
    assert len(said.rows) == 12
    assert "not proved" in said.err


def test_an_empty_list_is_complete(cli: Cli) -> None:
    with Simulator(runs=1, tasks=0) as simulator:
        said = cli("tasks", "--base-url", simulator.base_url)
    assert (said.code, said.out) == (0, "")
    assert "an empty list" in said.err


NO = {"status": 206, "message": "Tasks Fetch Failed"}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigurationError("x"), 2),
        (errors.ConnectionFailed("x"), 1),
        (errors.DeadlineExceeded("x"), 1),
        (errors.ProtocolError("x"), 1),
        (errors.ServerError("x", status=500), 1),
        (errors.RateLimited("x", status=429, retry_after=90), 1),
        (errors.NotFound("x", status=404), 1),
        (errors.AuthenticationError("x", status=401), 4),
        (errors.PermissionDenied("x", status=403), 4),
        (errors.BusinessError("Invalid Space Token", status=206), 4),
        (errors.BusinessError(**NO), 4),
        (errors.BusinessError("Invalid Space Token", status=206, errors="x"), 4),
        (errors.BusinessError(**NO, errors="Internal Server Error"), 1),
        (errors.BusinessError(**NO, errors='{"detail":"skip must be >= 0"}'), 1),
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (ZeroDivisionError("x"), 1),
    ],
)
def test_codes_of_errors(error: Exception, code: int) -> None:
    assert code_of(error) == code
    assert Outcome("tasks", error=error).exit_code == code
    assert "\n" not in told(error)


def test_codes_of_endings() -> None:
    assert Outcome("x", signal=2).exit_code == 130
    assert Outcome("x", signal=15).exit_code == 143
    assert Outcome("x", report=Report(verified=True)).exit_code == 0
    assert Outcome("x", report=Report(empty_confirmed=2, windows=2)).exit_code == 0
    assert Outcome("x", report=Report()).exit_code == 5
    assert Outcome("x", report=Report(), cut_short="limit").exit_code == 0
    assert Outcome("x", report=Report(missing=True), cut_short="limit").exit_code == 3
    assert Outcome("x", report=Report(unreadable=[7])).exit_code == 3


# -- hostile text on a terminal -----------------------------------------------------------------

EVIL = "\x1b]0;owned\x07 \x9b31m \u202eright-to-left \x7f\u200b\r\nA second line"


def is_harmless(shown: str) -> None:
    assert shown.count("\n") <= 1
    assert shown.replace("\n", "").isprintable()


@pytest.mark.parametrize("status", [206, 400, 401, 403, 404, 418, 501, 302])
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_hostile_messages(cli: Cli, tmp_path: Path, status: int, more: list[str]) -> None:
    body = {"message": EVIL, "errors": {EVIL: [EVIL]}, "error": EVIL}
    headers = {"Location": "https://\u202e.example/"}
    cli.simulator.fault("status", status=status, body=body, headers=headers, times=None)
    for line in (
        ["tasks"],
        ["runs"],
        ["spaces"],
        ["export", "tasks", "--to", str(tmp_path / "x.jsonl")],
    ):
        said = cli(*line, *more)
        assert said.code in (1, 4)
        is_harmless(said.err)
        is_harmless(said.out)


def test_hostile_names(cli: Cli, tmp_path: Path) -> None:
    """Of runs and tasks; the rows on stdout are JSON, as the server sent it."""
    runs: list[Any] = [{"run_id": f"R{EVIL}"}, {"run_id": "R2", "status": EVIL}, {EVIL: EVIL}]
    tasks: list[Any] = [{"task_id": EVIL, "run_id": "R2", EVIL: 1}, {EVIL: EVIL}, EVIL]
    with Simulator(run_rows=runs, rows=tasks) as simulator:
        base = ("--base-url", simulator.base_url)
        for line in ("tasks", "runs", "tasks --run R2", "export tasks", "export tasks --via runs"):
            to = ("--to", str(tmp_path / "x.jsonl"), "--force") if "export" in line else ()
            for more in ([], ["--json"]):
                said = cli(*line.split(), *base, *to, *more)
                assert said.code in (0, 3, 4)
                is_harmless(said.err)
                if to:
                    is_harmless(said.out)


def test_the_summary_is_plain_text(capfd: pytest.CaptureFixture[str]) -> None:
    ended = Outcome("tasks", path=Path(EVIL), missing=EVIL)
    for as_json in (True, False):
        finish(ended, quiet=False, as_json=as_json)
        is_harmless(capfd.readouterr().err)


# -- the token file -------------------------------------------------------------------------


@pytest.fixture
def token_file(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("UNPOD_API_TOKEN")
    path = tmp_path / "token"
    path.touch(mode=0o600)
    return path


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_token_file(cli: Cli, token_file: Path, end: str) -> None:
    token_file.write_bytes(f"{cli.simulator.token}{end}".encode())
    said = cli("tasks", "--limit", "1", "--quiet", "--token-file", str(token_file))
    assert (said.code, said.err) == (0, "")


def test_token_file_that_others_may_read(cli: Cli, token_file: Path) -> None:
    token_file.write_text(cli.simulator.token)
    token_file.chmod(0o640)
    said = cli("tasks", "--limit", "1", "--quiet", "--token-file", str(token_file))
    assert said.code == 0
    assert said.err.startswith("warning: ")
    assert "0640" in said.err


@pytest.mark.parametrize("content", [b"", b"CANARY\n\n", b"CANARY \n", b"CANARY\xff", b"CA\0NARY"])
def test_token_file_is_never_quoted(cli: Cli, token_file: Path, content: bytes) -> None:
    token_file.write_bytes(content)
    said = cli("tasks", "--token-file", str(token_file))
    assert said.code == 2
    assert "CA" not in said.err


# -- pipes, terminals, locales ----------------------------------------------------------------


def test_a_reader_that_leaves(cli: Cli) -> None:
    with cli.process("tasks") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
    assert json.loads(first)["task_id"] == cli.simulator.world.task_ids()[0]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["runs", "--help"]])
def test_a_reader_of_help_that_leaves(arguments: list[str]) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    said = subprocess.run([*COMMAND, *arguments], stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    assert (said.returncode, said.stderr) == (0, b"")


def test_stdout_that_is_closed(cli: Cli) -> None:
    with cli.process("tasks", preexec_fn=lambda: os.close(1), stdout=None) as process:
        assert process.communicate() == (None, b"")
    assert process.returncode == 0


def test_stdout_that_is_full(cli: Cli) -> None:
    with open("/dev/full", "wb") as full, cli.process("tasks", stdout=full) as process:
        told = process.communicate()[1].decode()
    assert process.returncode == 1
    assert told == "error: the output: No space left on device\n"


def test_a_row_does_not_wait_for_the_next_page(cli: Cli) -> None:
    cli.simulator.fault("hang", times=None, after=1)
    with cli.process("tasks", "--page-size", "100") as process:
        assert process.stdout is not None
        for _ in range(100):
            assert process.stdout.readline()
        process.terminate()
    assert process.returncode == 143


def test_the_locale_c(cli: Cli) -> None:
    name = "Zoë \N{GRINNING FACE}"
    cli.simulator.world.update(cli.simulator.world.task_ids()[0], ref_id=name)
    with cli.process("tasks", env={**os.environ, "LC_ALL": "C"}) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[0])["ref_id"] == name
    cli.simulator.fault("status", status=404, body={"message": name})
    with cli.process("tasks", env={**os.environ, "LC_ALL": "C"}) as process:
        out, err = process.communicate()
    assert process.returncode == 1
    assert b"Zo\\xeb" in err


def on_a_terminal(cli: Cli, *arguments: str) -> tuple[int, str]:
    """The exit code and what stderr showed, on a terminal of its own."""
    ours, theirs = os.openpty()
    with cli.process(*arguments, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65536):
                shown += chunk
        except OSError:  # the other side is closed
            pass
        os.close(ours)
    return process.returncode, shown.decode()


def test_progress_is_for_terminals(cli: Cli) -> None:
    cli.simulator.latency = 0.05
    code, shown = on_a_terminal(cli, "tasks", "--page-size", "100")
    assert code == 0
    assert "rows/s" in shown.partition("verified")[0]
    assert "\x1b[" in shown
    code, shown = on_a_terminal(cli, "tasks", "--page-size", "100", "--quiet")
    assert (code, shown) == (0, "")
