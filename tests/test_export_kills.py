"""Exports that are killed at random moments and begun again: no row is lost, none is there
twice. `nox -s durability` does the same 200 times a destination."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
for driver in ("adbc_driver_postgresql", "adbc_driver_sqlite", "deltalake", "duckdb"):
    pytest.importorskip(driver)
if not hasattr(signal, "SIGKILL"):
    pytest.skip("there is no such signal", allow_module_level=True)

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

from destinations import destination, disagreeing  # noqa: E402
from kills import MUST_BE_0, NAMES, Killer, command, process, reference  # noqa: E402
from postgres import postgres_server  # noqa: E402, F401  (a fixture)
from test_cli_export import wait_for  # noqa: E402

from unpod_async.export._sink import sink_for  # noqa: E402
from unpod_async.simulator import Simulator  # noqa: E402

pytestmark = pytest.mark.once

SHAPES = ["x.parquet", "x.parquet/", "x.jsonl", "x.jsonl.gz/", "x.jsonl.zst", "x.csv/", "x.arrow"]
OTHERS = ["x.duckdb", "x.sqlite", "postgres", "delta"]


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Callable[[], str]:
    return lambda: str(request.getfixturevalue("postgres_server"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SHAPES, *OTHERS])
def test_what_is_killed_goes_on_and_ends_as_if_undisturbed(
    tmp_path: Path, server: Callable[[], str], name: str
) -> None:
    toll = Killer(name, tmp_path, server, seed=NAMES.index(name), tasks=120).until(5)
    assert toll["kills"] == 5
    assert toll["rows"] >= 90
    assert {column: toll[column] for column in MUST_BE_0} == dict.fromkeys(MUST_BE_0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet/", *OTHERS])
def test_a_command_that_is_told_to_end_saves_what_came(
    tmp_path: Path, server: Callable[[], str], name: str
) -> None:
    """They are fewer than one write takes: without the signal none would be there yet."""
    folder = tmp_path / "place"
    folder.mkdir()
    target = destination(name, folder, server)
    arguments = ("export", "tasks", "--to", target.target, "--page-size", "50", "--quiet")
    with Simulator(seed=3, runs=4, tasks=300) as simulator:
        simulator.fault("hang", times=None, after=4)
        environment = {
            "UNPOD_API_TOKEN": simulator.token,
            "UNPOD_BASE_URL": simulator.base_url,
            "UNPOD_SPACE_TOKEN": simulator.space_token,
        }
        running = process(command, environment, *arguments)
        wait_for(lambda: len(simulator.requests) > 5)
        running.terminate()
        running.join()
        assert running.exitcode == 143
        saved = target.held()
        assert saved.state is not None
        assert not saved.state["done"]
        assert 0 < len(saved.rows) < 300
        assert disagreeing(saved) == []
        simulator.clear_faults()
        running = process(command, environment, *arguments)
        running.join()
        assert running.exitcode == 0
        whole = reference(name, tmp_path, server, simulator)
    held = target.held()
    assert saved.rows.items() <= held.rows.items()
    assert (held.rows, held.turns) == (whole.rows, whole.turns)
    assert target.left() == []
    assert sink_for(target.target, "tasks").verify()[1] == []
