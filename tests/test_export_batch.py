"""Rows as columns: what the tables of a batch hold, and that nothing is lost on the way."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pa = pytest.importorskip("pyarrow")

from unpod_async._call import moment  # noqa: E402
from unpod_async.export._batch import NEVER, Batch  # noqa: E402
from unpod_async.export._schema import KEPT, schema_of  # noqa: E402
from unpod_async.simulator import Simulator  # noqa: E402


def line(**row: Any) -> bytes:
    return json.dumps({"task_id": "T1", **row}, separators=(",", ":")).encode()


def row_of(sent: bytes, nested: Any = "json") -> dict[str, Any]:
    (row,) = Batch("tasks", [sent]).tables(nested)["tasks"].to_pylist()
    return row


@pytest.mark.parametrize("nested", ["native", "json"])
def test_every_row_of_the_simulator_becomes_a_valid_row_of_the_schema(nested: Any) -> None:
    world = Simulator(seed=3, runs=5, tasks=300).world
    lines = [json.dumps(world.row(task_id)).encode() for task_id in world.task_ids()]
    batch = Batch("tasks", lines)
    tables = batch.tables(nested)
    for name, table in tables.items():
        table.validate(full=True)
        assert table.schema == schema_of(name, nested)
    assert tables["tasks"].column("task_id").to_pylist() == world.task_ids()
    assert tables["tasks"].column("call_outcome").to_pylist() == [
        task.call.outcome for task in batch.items
    ]
    turns = [
        (task.task_id, at, turn.role, turn.text, turn.at)
        for task in batch.items
        for at, turn in enumerate(task.call.transcript)
    ]
    assert [tuple(row.values()) for row in tables["transcript_turns"].to_pylist()] == turns
    told = tables["tasks"].column("transcript").to_pylist()
    told = [json.loads(said) if isinstance(said, str) else said for said in told]
    assert [turn["text"] for said in told for turn in said or []] == [turn[3] for turn in turns]


def test_parts_are_json_as_the_server_sent_them() -> None:
    row = row_of(
        b'{"task_id":"T1","input":{"b": 1.50, "a":"\\u0000\\ud800"},"output":null,"attachments":[]}'
    )
    assert row["input"] == '{"b": 1.50, "a":"\\u0000\\ufffd"}'
    assert (row["output"], row["attachments"], row["task"]) == (None, "[]", None)


WRITTEN = (
    *("2026-01-16T13:30:00", "2026-01-16 13:30:00.902", "2026-01-16T13:30:00.902+00:00"),
    *("2026-01-16T13:30:00Z", "2026-01-16T13:30:00-0530", "2026-01-16", "20260116", "2026-W03-4"),
    *("2026-01-16T13:30:00.1234567", "2026-01-16T24:00:00", "0000-01-01T00:00:00", "", " "),
    *("0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-01:00", "2026-02-30T00:00:00", "NULL"),
    *("0000-12-31T23:59:00-23:59", "0001-01-01T00:00:00Z", "0001-01-02T00:00:00Z"),
)


def altered(text: str, draw: Any) -> str:
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(st.sampled_from(["", *"0129-+:.TZ "])) + text[at + 1 :]


@given(st.data())
def test_times_are_read_together_as_each_of_them_alone(data: Any) -> None:
    """Arrow reads them when they are written alike; it must never read one otherwise."""
    text = data.draw(st.sampled_from(WRITTEN))
    if data.draw(st.booleans()):
        text = altered(text, data.draw)
    same = [text, None, text]
    mixed = [text, data.draw(st.sampled_from(WRITTEN)), 1768570200, None]
    for sent in (same, mixed, mixed[:2]):
        rows = [line(task_id=f"T{at}", created=one) for at, one in enumerate(sent)]
        told = Batch("tasks", rows, ("created_at",)).tables("json")["tasks"]
        assert told.column("created_at").to_pylist() == [moment(one) for one in sent]


@pytest.mark.parametrize("nested", ["native", "json"])
def test_the_times_of_turns_are_those_of_the_call_whatever_stands_beside_them(nested: Any) -> None:
    said = {"role": "user", "content": "a"}
    ways: list[dict[str, Any]] = [
        {"secondsFromStart": 1.5},
        {"timestamp": "2026-01-16T13:30:09"},
        {"timestamp": 1768570209},
        {"timestamp": {"$date": 1768570209000}},
        {"time": 1768570209000},
        {"timestamp": "soon", "time": "2026-01-16T13:30:09Z"},
        {},
    ]
    for mine, its in product(ways, repeat=2):
        output = {"start_time": "2026-01-16T13:30:00", "transcript": [said | mine]}
        other = output | {"transcript": [said | its, said | mine]}
        batch = Batch("tasks", [line(output=output), line(task_id="T2", output=other)])
        tables = batch.tables(nested)
        sent = [[turn.at for turn in task.call.transcript] for task in batch.items]
        assert tables["transcript_turns"]["at"].to_pylist() == [*sent[0], *sent[1]]
        if nested == "native":
            told = tables["tasks"]["transcript"].to_pylist()
            assert [[turn["at"] for turn in turns] for turns in told] == sent


def test_what_no_column_holds_is_in_extra() -> None:
    odd = row_of(line(new_key={"a": 1}, status=[1], failure_count=10**30, thread_id=None))
    assert json.loads(odd["extra"]) == {
        "new_key": {"a": 1},
        "status": [1],
        "failure_count": 10**30,
    }
    assert (odd["status"], odd["failure_count"]) == (None, None)
    assert json.loads(row_of(line(failure_count="many"))["extra"]) == {"failure_count": "many"}
    assert row_of(line(failure_count="3", user_org_id=7))["extra"] is None


def test_the_later_modified_of_a_repeated_id_stays() -> None:
    def batch(*times: str) -> list[str]:
        lines = [line(modified=time, status=str(at)) for at, time in enumerate(times)]
        return [task.status for task in Batch("tasks", lines).items]

    assert batch("2026-01-02T00:00:00", "2026-01-01T00:00:00") == ["0"]
    assert batch("2026-01-01T00:00:00", "2026-01-02T00:00:00") == ["1"]
    assert batch("2026-01-01T00:00:00", "2026-01-01T00:00:00") == ["1"]
    assert batch("?", "2026-01-01T00:00:00") == ["1"]


def test_lines_are_those_of_the_rows_that_stay() -> None:
    first, other, again = line(status="a"), b'{"task_id":"T2"}', line(status="b")
    assert Batch("tasks", [first, other, again]).lines == [other, again]


def test_when_a_row_settles() -> None:
    ended = {"status": "completed", "modified": "2026-01-01T00:00:00"}
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for sent, expected in (
        (line(status="pending"), NEVER),
        (line(), NEVER),
        (line(**ended), at),
        (line(**ended, output={"post_call_data": {}}), at),
        (line(**ended, output={"post_call_data": {"summary": "x"}}), None),
        (line(status="failed"), None),  # no time is known from which to wait
    ):
        assert row_of(sent)["settles_from"] == expected


def test_the_hash_stands_for_what_the_row_says() -> None:
    one, same, other = line(input={"a": 1}), line(input={"a": 1}), line(input={"a": 2})
    assert row_of(one)["row_hash"] == row_of(same)["row_hash"] != row_of(other)["row_hash"]


def test_fewer_columns() -> None:
    table = Batch("tasks", [line(status="x")], ("status",)).tables("json")["tasks"]
    assert set(table.schema.names) == {"status", "task_id", "turns_hash", *KEPT}
    with pytest.raises(ValueError, match="nothing"):
        schema_of("tasks", "json", ("nothing",))


def test_an_empty_batch_has_its_tables() -> None:
    assert {
        name: table.num_rows for name, table in Batch("tasks", []).tables("native").items()
    } == {
        "tasks": 0,
        "transcript_turns": 0,
    }


@pytest.mark.parametrize("nested", ["native", "json"])
def test_a_changed_transcript_changes_the_hash_whatever_columns_there_are(nested: Any) -> None:
    def hashed(text: str, columns: tuple[str, ...] | None) -> int:
        sent = line(output={"transcript": [{"role": "user", "content": text}]})
        table = Batch("tasks", [sent], columns).tables(nested)["tasks"]
        assert table.schema == schema_of("tasks", nested, columns)
        return int(table["row_hash"][0].as_py())

    for columns in (None, ("status",), ("transcript",), ("output",)):
        assert hashed("a", columns) == hashed("a", columns) != hashed("b", columns)


def test_rows_that_were_let_go_are_not_taken_for_none() -> None:
    for ids in (("T1", "T2"), ("T1", "T1")):
        batch = Batch("tasks", [b'{"task_id":"%s"}' % row_id.encode() for row_id in ids])
        made = batch.tables("json")
        batch.forget_rows()
        assert batch.ids == sorted(set(ids))
        assert batch.tables("json") is made
        for gone in (lambda b: b.items, lambda b: b.lines, lambda b: b.tables("native")):
            with pytest.raises(RuntimeError, match="let go"):
                gone(batch)
