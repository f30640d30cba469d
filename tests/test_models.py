"""The models against recorded answers, the vendor's examples, hostile bodies and arbitrary JSON."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import re
import sys
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unpod_async import _call
from unpod_async._pages import (
    _HALVES,
    ORGANIZATIONS,
    RUNS,
    SPACES,
    TASKS,
    EnvelopeError,
    Page,
    RowKind,
    _mend,
)
from unpod_async.models import Call, Contact, Run, Task, Turn, call_table

HERE = Path(__file__).parent


def envelopes() -> Iterator[Any]:
    """Every recorded answer and vendor's example whose `data` is a list."""
    for path in sorted((HERE / "samples").glob("*.json")):
        body = json.loads(path.read_text())["body"]
        if isinstance(body, dict) and isinstance(body.get("data"), list):
            yield pytest.param(RUNS if "runs_" in path.name else TASKS, body, id=path.stem)
    for path in sorted((HERE / "samples_seeds").glob("*_[rt]*s.json")):
        kind = RUNS if path.stem.endswith("runs") else TASKS
        yield pytest.param(kind, json.loads(path.read_text()), id=path.stem)


ENVELOPES = list(envelopes())


def page(kind: RowKind[Any], *rows: object, **envelope: object) -> Page[Any]:
    return kind.decode(json.dumps({"data": rows, **envelope}).encode())


def a_task(**wire: object) -> Task:
    (task,) = page(TASKS, {"task_id": "T1", **wire}).items
    assert isinstance(task, Task)
    return task


def sample(name: str) -> list[Task]:
    (path,) = (HERE / "samples").glob(f"{name}_*.json")
    return TASKS.decode(json.dumps(json.loads(path.read_text())["body"]).encode()).items


def utc(*numbers: int) -> datetime:
    return datetime(*numbers, tzinfo=UTC)  # type: ignore[arg-type,misc]


# -- every recorded row and every example of the vendor


@pytest.mark.parametrize(("kind", "body"), ENVELOPES)
def test_a_row_comes_out_as_it_came_in(kind: RowKind[Any], body: Any) -> None:
    sent = json.dumps(body).encode()
    rows, raw = kind.decode(sent), kind.decode_raw(sent)
    assert [json.loads(row.to_json()) for row in rows.items] == body["data"]
    assert [row.to_dict() for row in rows.items] == body["data"]
    assert [json.loads(row) for row in raw.items] == body["data"]
    assert rows.ids == raw.ids == [row[kind.identity] for row in body["data"]]
    assert rows.length == raw.length == len(body["data"])
    assert rows.count == raw.count == body["count"]
    assert rows.status_code == 200
    assert rows.message == raw.message == body["message"]
    assert rows.invalid == raw.invalid == []
    assert (
        rows.space_ids == raw.space_ids == {r["space_id"] for r in body["data"] if "space_id" in r}
    )
    assert rows.run_ids == raw.run_ids == {r["run_id"] for r in body["data"]}


@pytest.mark.parametrize(("kind", "body"), ENVELOPES)
def test_a_known_row_is_decoded_fast_and_reads_under_its_wire_names(
    kind: RowKind[Any], body: Any
) -> None:
    for row, sent in zip(kind.decode(json.dumps(body).encode()).items, body["data"], strict=True):
        assert type(row) is kind.type
        assert row.extra == {}
        for key, value in sent.items():
            assert getattr(row, {"_id": "internal_id"}.get(key, key)) == value


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        yield from strings(inner)


@pytest.mark.parametrize(("kind", "body"), ENVELOPES)
def test_no_repr_shows_a_person(kind: RowKind[Any], body: Any) -> None:
    sent = json.dumps(body).encode()
    whole, raw = kind.decode(sent), kind.decode_raw(sent)
    for row, wire in zip(whole.items, body["data"], strict=True):
        shown = [repr(row), str(row), str(row.__rich_repr__()), repr(whole), repr(raw)]
        hidden = {s for part in ("input", "output", "user_info") for s in strings(wire.get(part))}
        if kind is TASKS:
            call = row.call
            shown += [
                repr(call),
                repr(row.contact),
                repr(call.transcript),
                str(call.__rich_repr__()),
            ]
            hidden -= {call.id, call.status}
        for secret in hidden:
            assert len(secret) <= 3 or not any(secret in text for text in shown)
        assert row.run_id in shown[0]


def test_repr_of_the_other_models() -> None:
    (space,) = page(SPACES, {"token": "TOK", "id": "sp_001", "name": "Sales of Asha"}).items
    assert repr(space) == "Space(id='sp_001', token='TOK')"
    (organization,) = page(ORGANIZATIONS, {"id": 1, "name": "Asha", "domain_handle": "a.b"}).items
    assert repr(organization) == "Organization(id='1', domain_handle='a.b')"
    assert repr(a_task(secret="Asha Example")) == "Task(task_id='T1', run_id=None, status=None)"
    assert "Asha" not in repr(page(TASKS, "Asha").invalid)
    assert repr(Contact(name="Asha")) == "Contact()"
    assert repr(Turn("Asha", "Asha")) == "Turn(at=None)"
    assert repr(TASKS) == "<RowKind tasks>"


# -- rows


def test_absent_and_null_read_alike_and_go_out_as_they_came() -> None:
    absent, null = a_task(), a_task(thread_id=None, output=None, failure_count=None, created=None)
    for task in (absent, null):
        assert (task.thread_id, task.output, task.failure_count) == (None, None, None)
        assert task.created_at is None
        assert task.call == Call()
        assert task.contact == Contact()
        assert task.objective is None
    assert absent.to_dict() == {"task_id": "T1"}
    assert null.to_dict() == {
        "task_id": "T1", "thread_id": None, "output": None, "failure_count": None, "created": None,
    }  # fmt: skip
    assert absent.json("output") is None
    assert null.json("output") == b"null"


def test_parts_decode_anew_and_keep_their_bytes() -> None:
    body = b'{"data":[{"task_id":"T1","output":{"a": 1.0,  "a":2},"attachments":[1],"input":[]}]}'
    (task,) = TASKS.decode(body).items
    assert task.json("output") == b'{"a": 1.0,  "a":2}'
    assert task.output == {"a": 2}
    assert task.output is not task.output
    assert task.attachments == [1]
    assert task.input is None
    assert b'"output":{"a": 1.0,  "a":2}' in task.to_json()


def test_ids_and_counters_of_other_types() -> None:
    task = a_task(space_id=346, user=7, status=None, failure_count="2", retry_attempt=1)
    assert type(task) is Task
    assert (task.space_id, task.user, task.failure_count, task.retry_attempt) == ("346", "7", 2, 1)
    assert json.loads(task.to_json())["space_id"] == 346


@pytest.mark.parametrize("task", [a_task(status="x"), a_task(status="x", new=1)], ids=repr)
def test_a_row_is_read_only(task: Task) -> None:
    with pytest.raises(AttributeError):
        task.status = "y"  # type: ignore[assignment]
    assert task.status == "x"
    assert Task.status.__doc__


def test_a_run_of_an_id() -> None:
    run = Run.of("R1")
    assert (run.run_id, run.status, run.to_json()) == ("R1", None, b'{"run_id":"R1"}')


def test_spaces_and_organizations_of_both_forms() -> None:
    newer: dict[str, Any] = {
        "id": "sp_001", "name": "Sales Outreach Q1", "token": "8KZA",
        "agent_handle": "space-agent-1", "created_at": "2026-01-10T08:00:00Z",
    }  # fmt: skip
    older: dict[str, Any] = {
        "name": "Sales", "slug": "sales", "token": "8KZB", "description": None, "logo": "",
        "privacy_type": "public", "space_type": "general", "content_type": "contact",
        "organization": {"name": "Unpod TV", "domain_handle": "unpod.tv"},
    }  # fmt: skip
    spaces = page(SPACES, newer, older, count=2)
    assert [type(space).__name__ for space in spaces.items] == ["Space", "Space"]
    assert [space.to_dict() for space in spaces.items] == [newer, older]
    assert spaces.ids == ["8KZA", "8KZB"]
    assert spaces.space_ids == spaces.run_ids == set()
    assert spaces.items[0].created_at == utc(2026, 1, 10, 8)
    assert spaces.items[1].organization == older["organization"]
    newer = {
        "id": 1,
        "name": "Unpod TV",
        "domain_handle": "u.tv",
        "created_at": "2024-01-15T10:30:00Z",
    }
    older = {
        "name": "Unpod", "token": "TK", "domain": "unpod.tv", "domain_handle": "unpod.tv",
        "is_private_domain": True, "role": "owner",
    }  # fmt: skip
    organizations = page(ORGANIZATIONS, newer, older)
    assert [type(row).__name__ for row in organizations.items] == ["Organization"] * 2
    assert [row.to_dict() for row in organizations.items] == [newer, older]
    assert organizations.items[0].id == "1"
    assert organizations.items[1].is_private_domain is True
    assert organizations.items[0].is_private_domain is None


# -- rows that do not fit


def test_nothing_on_a_row_is_set_by_a_key_that_is_not_of_the_wire() -> None:
    wire = {
        "_row": 1, "_extra": 2, "_task_id": "x", "_status": "y", "_internal_id": 3, "call": 4,
        "__class__": 5, "extra": 6, "shown": ["input"], "created_at": "2020-01-01",
    }  # fmt: skip
    task = a_task(status="ok", **wire)
    assert isinstance(task, Task)
    assert task.extra == wire
    assert (task.task_id, task.status, task.internal_id) == ("T1", "ok", None)
    assert task.call == Call()
    assert task.created_at is None
    assert repr(task) == "Task(task_id='T1', run_id=None, status='ok')"


def test_a_row_that_does_not_fit_keeps_its_bytes_and_what_fits() -> None:
    row = (
        b'{"task_id":12.50, "status":["x"], "batch":1e999,"run_id":1.0,"user":true, '
        b'"output":{"call_id":"C"},"space_id":' + b"9" * 5000 + b',"run_mode":"a","run_mode":"b"}'
    )
    other = b'{"task_id":"T2","status":"done"}'
    whole = TASKS.decode(b'{"data":[' + row + b"," + other + b"]}")
    odd, plain = whole.items
    assert whole.ids == ["12.50", "T2"]
    assert odd.to_json() == row
    assert (odd.status, odd.user, odd.space_id) == (None, None, None)
    assert (odd.run_id, odd.run_mode, odd.call.id) == ("1.0", "b", "C")
    assert odd.extra == {"batch": float("inf")}
    assert type(plain) is Task
    assert whole.run_ids == {"1.0"}


@pytest.mark.parametrize("wire", [{"output": {"a": 1}}, {"output": {"a": 1}, "new": {"b": [2]}}])
def test_a_row_is_copied_and_pickled_whole(wire: dict[str, Any]) -> None:
    task = a_task(status="x", **wire)
    for twin in (pickle.loads(pickle.dumps(task)), copy.copy(task), copy.deepcopy(task)):
        assert twin == task
        assert (twin.to_json(), twin.extra) == (task.to_json(), task.extra)


def test_an_invalid_row_costs_no_other() -> None:
    bad = [
        b"{}", b'{"task_id":null}', b'{"task_id":""}', b'{"task_id":true}', b'{"task_id":["x"]}',
        b"null", b"7", b"1e999", b'"T9"', b"[]", b'[{"task_id":"T9"}]',
        b'{"task_id":"T9","output":{"name":"\xff"}}',
    ]  # fmt: skip
    rows = [b'{"task_id":"T1"}', *bad, b'{"task_id":"T2","output":{"a" : 1}}']
    body = b'{"count":99,"data":[' + b",".join(rows) + b"]}"
    for decoded in (TASKS.decode(body), TASKS.decode_raw(body)):
        assert decoded.ids == ["T1", "T2"]
        assert (decoded.length, decoded.count) == (len(rows), 99)
        assert [(row.offset, row.row) for row in decoded.invalid] == list(enumerate(bad, start=1))
        assert all(row.reason for row in decoded.invalid)
    assert TASKS.decode_raw(body).items[1] == b'{"task_id":"T2","output":{"a":1}}'


# -- envelopes


@pytest.mark.parametrize(
    ("sent", "count"),
    [
        ("40", 40), ("0", 0), ("null", None), ('"10"', 10), ("1.0", 1), ("1e3", 1000),
        ("true", None), ("-5", None), ("1.5", None), ("1e30", None), ("1e999", None),
        ('""', None),
        ('"-1"', None), ('"x"', None), ("[]", None), ("9" * 5000, None),
        (f'"{"9" * 5000}"', None),
        (str(2**63), None), (str(2**63 - 1), 2**63 - 1), ('"٣"', None),
    ],
)  # fmt: skip
def test_count_is_a_whole_number_or_none(sent: str, count: int | None) -> None:
    body = f'{{"count":{sent},"status_code":{sent},"data":[{{"run_id":"R"}}]}}'.encode()
    for decoded in (RUNS.decode(body), RUNS.decode_raw(body)):
        assert (decoded.count, decoded.status_code) == (count, count)
        assert decoded.message is None
        assert decoded.ids == ["R"]


ROW = b'{"task_id":"T1","output":%s}'


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"{}", b"{}{}", b"[]", b"null", b"7", b"<html>", b'{"data":{}}',
        b'{"data":null}',
        b'{"data":"x"}', b'{"data":[]}{}', b'{"data":[', b'{"data":[{"task_id":"T1"}', b"\xff",
        b'\xef\xbb\xbf{"data":[]}', b'{"data":[NaN]}', b'{"data":[' + ROW % b"NaN" + b"]}",
        b'{"data":[' + ROW % b'"a\nb"' + b"]}",
        b'{"data":[' + ROW % (b"[" * 100_000 + b"]" * 100_000) + b"]}",
        b'{"data":[' + ROW % (b'{"a":' * 100_000 + b"1" + b"}" * 100_000) + b"]}",
    ],
    ids=range(21),
)  # fmt: skip
def test_no_envelope(body: bytes) -> None:
    for decode in (TASKS.decode, TASKS.decode_raw):
        with pytest.raises(EnvelopeError, match=r"^not an envelope with a list of rows: ."):
            decode(body)


def test_no_text_makes_the_mending_of_a_page_slow() -> None:
    """As one match for what is sound, whatever is in it: a call for each escape took minutes."""
    for unit in (b"\\\\", b'\\"a', b"\\u0041", b"\\ud83d\\ude00", b"\\ud83d", b"abc"):
        body = b"\\ud83d" + unit * 1000
        found = [one for one in _HALVES.finditer(body) if one[0]]
        assert len(found) <= 2, unit
        assert b"".join(one[0] for one in found) == body
        assert len(_mend(body)) == len(body)


@given(
    st.lists(
        st.sampled_from(
            [b"\\", b"u", b"d83d", b"ude00", b"\\ud83d", b"\\ude00", b"a", b'"', b"\\u0041", b"\n"]
        )
    )
)
def test_the_mending_is_that_of_each_escape_in_turn(parts: list[bytes]) -> None:
    high, low = rb"\\u[dD][89abAB][\da-fA-F]{2}", rb"\\u[dD][c-fC-F][\da-fA-F]{2}"
    each = re.compile(rb"%s%s|(%s|%s)|\\." % (high, low, high, low), re.DOTALL)
    body = b"".join(parts)
    assert _mend(body) == each.sub(lambda one: b"\\ufffd" if one[1] else one[0], body)


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        ("\\ud83d", "\ufffd"),
        ("a\\uDe00b", "a\ufffdb"),
        ("\\ud83d\\ud83d\\ude00\\ude00", "\ufffd\U0001f600\ufffd"),
        ("\\\\ud83d\\ud83d\\n", "\\ud83d\ufffd\n"),
        ("\\\\\\ud83dx", "\\\ufffdx"),
    ],
)
def test_half_a_surrogate_pair_costs_only_itself(sent: str, text: str) -> None:
    other = b'{"task_id":"T2","status":"hold"}'
    row = b'{"task_id":"T1",\n"output":{"call_summary":"%s"}}' % sent.encode()
    body = b'{"count":2,"data":[%s, %s]}' % (row, other)
    page = TASKS.decode(body)
    assert (page.ids, page.count, page.mended) == (["T1", "T2"], 2, True)
    assert page.items[0].call.summary == text
    raw = TASKS.decode_raw(body)
    assert (raw.ids, raw.items) == (page.ids, [row.replace(b"\n", b" "), other])


@pytest.mark.parametrize("path", sorted((HERE / "samples_seeds").glob("*_error.json")), ids=str)
def test_the_vendors_errors_are_no_envelopes(path: Path) -> None:
    with pytest.raises(EnvelopeError):
        RUNS.decode(path.read_bytes())


def test_bad_utf8_outside_the_rows_costs_only_its_text() -> None:
    decoded = TASKS.decode(b'{"message":"\xff","data":[{"task_id":"T1"}]}')
    assert (decoded.message, decoded.ids) == (None, ["T1"])


def test_good_utf8_is_good_wherever_the_check_steps() -> None:
    for shift in range(4):
        text = "x" * shift + "🙂" * 40_000
        body = b'{"data":[{"task_id":"T1","output":"' + text.encode() + b'"}]}'
        assert TASKS.decode(body).invalid == []
        assert TASKS.decode(body[:-6] + b"\xf0" + body[-6:]).invalid[0].offset == 0


def test_the_last_of_a_repeated_id_counts() -> None:
    body = b'{"data":[{"task_id":"a","task_id":"b"},{"task_id":1,"task_id":"c"}]}'
    assert TASKS.decode(body).ids == TASKS.decode_raw(body).ids == ["b", "c"]
    assert TASKS.decode_raw(body).items[0] == b'{"task_id":"a","task_id":"b"}'


@pytest.mark.parametrize("blank", ["", " ", "\n", "\r\n\t "])
def test_raw_rows_are_one_line_each_and_otherwise_as_sent(blank: str) -> None:
    numbers = ["1.0", ",", "1E2", ",", "123456789012345678901234567890"]
    start = ["{", '"task_id"', ":", '"a\\n b : c"', ",", '"x"', ":", "["]
    tokens = [*start, *numbers, ",", '"\\u0041"', "]", ",", '"x"', ":", "0", "}"]
    row = blank.join(tokens)
    body = f'{{"data":{blank}[{row}{blank},{blank}{row}]}}'.encode()
    assert TASKS.decode_raw(body).items == ["".join(tokens).encode()] * 2


def test_a_line_break_in_any_row_is_found() -> None:
    body = b'{"data":[{"task_id":"a"},{"task_id":\n"b"},{"task_id":"c"}]}'
    assert TASKS.decode_raw(body).items[1] == b'{"task_id":"b"}'
    assert TASKS.decode_raw(body.replace(b"\n", b"\r")).items[1] == b'{"task_id":"b"}'


# -- memory


PARTS = {part: [1] for part in ("task", "input", "user_info", "attachments")}


@pytest.mark.parametrize("extra", [{}, {"new": 1}], ids=["as known", "odd"])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")], ids=["compact", "blanks"])
@pytest.mark.parametrize("kind", [TASKS, SPACES], ids=repr)
def test_a_kept_row_does_not_keep_its_page(
    kind: RowKind[Any], separators: tuple[str, str], extra: dict[str, int]
) -> None:
    parts = {"output": "x" * 5000, **PARTS} if kind is TASKS else {"organization": "x" * 5000}
    rows = [{kind.identity: "T", **parts, **extra}] * 1000
    body = json.dumps({"data": rows}, separators=separators).encode()
    for decode in (kind.decode, kind.decode_raw):
        gc.collect()
        references = sys.getrefcount(body)
        tracemalloc.start()
        kept = decode(body).items[500]
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert kept
        assert held < 50_000  # of five million
        assert sys.getrefcount(body) == references


# -- times


@pytest.mark.parametrize(
    ("sent", "at"),
    [
        ("2026-01-16T13:30:03", utc(2026, 1, 16, 13, 30, 3)),
        ("2026-01-16T13:30:03Z", utc(2026, 1, 16, 13, 30, 3)),
        ("2026-01-16T13:30:03+00:00", utc(2026, 1, 16, 13, 30, 3)),
        ("2026-01-16T19:00:03+05:30", utc(2026, 1, 16, 13, 30, 3)),
        ("2026-01-16T13:30:03.101000", utc(2026, 1, 16, 13, 30, 3, 101000)),
        ("2026-01-16 13:33:03.101456", utc(2026, 1, 16, 13, 33, 3, 101456)),
        ("2026-01-09T20:33:00.157Z", utc(2026, 1, 9, 20, 33, 0, 157000)),
        ("2026-01-09T20:33:00.248+00:00", utc(2026, 1, 9, 20, 33, 0, 248000)),
        ("2026-01-10 20:33", utc(2026, 1, 10, 20, 33)),
        ({"$date": 1761803096123}, utc(2025, 10, 30, 5, 44, 56, 123000)),
        ({"$date": "2025-10-30T05:44:56Z"}, utc(2025, 10, 30, 5, 44, 56)),
        (1761803096, utc(2025, 10, 30, 5, 44, 56)),
        (1761803096.5, utc(2025, 10, 30, 5, 44, 56, 500000)),
        (1761803096123, utc(2025, 10, 30, 5, 44, 56, 123000)),
        *((nothing, None) for nothing in (
            "NULL", "None", "", "N/A", "yesterday", "20260116", "2026-W03-5T",
            "2026-13-01T00:00:00", "0001-01-01T00:00:00+05:30", "1761803096", None,
            True, 0, 7, -1, 1e300, 10**30, [], {},
            {"$date": None}, {"$date": {"$date": 1761803096123}}, ["2026-01-16T13:30:03"],
        )),
    ],
)  # fmt: skip
def test_times(sent: object, at: datetime | None) -> None:
    call = a_task(output={"start_time": sent, "call_id": "C"}).call
    assert call.started_at == at
    assert at is None or (call.started_at is not None and call.started_at.tzinfo is UTC)
    if isinstance(sent, str):
        task = a_task(created=sent, modified=sent)
        assert (task.created_at, task.modified_at, task.created) == (at, at, sent)


# -- the view of a call


def test_the_unpod_dialect_with_times_in_the_turns() -> None:
    assert sample("04")[8].call == Call(
        id="c85113a4c90a0fd675",
        status="voicemail",
        direction="outbound",
        started_at=utc(2026, 1, 9, 20, 33, 0, 155456),
        ended_at=utc(2026, 1, 9, 20, 38, 33, 839869),
        duration=333.0,
        recording_url="https://recordings.example.com/4835b4165ac67e3bafc3c8c6.ogg",
        transcript=(
            Turn("agent", "Line one\nline two", utc(2026, 1, 9, 20, 33, 0, 248000)),
            Turn("user", "Could you call me next week? 🙂", utc(2026, 1, 9, 20, 33, 7, 642000)),
            Turn("agent", "Hello, is this a good time?", utc(2026, 1, 9, 20, 33, 14, 513000)),
            Turn("user", "Yes, please go ahead.", utc(2026, 1, 9, 20, 33, 21, 420000)),
            Turn("agent", "I am not interested, thank you.", utc(2026, 1, 9, 20, 33, 28, 745000)),
            Turn("user", "Line one\nline two", utc(2026, 1, 9, 20, 33, 35, 834000)),
        ),
        summary="The agent introduced the offer. The user replied briefly.",
        outcome="Call Back",
        cost=0.456325,
        customer_number="+15550107495",
        customer_name="José Example",
    )


def test_a_transcript_in_one_text() -> None:
    assert sample("04")[5].call == Call(
        id="69d04393-c0f4-a5cf-bbf4-10d43a22ef49",
        direction="outbound",
        started_at=utc(2026, 1, 9, 20, 33),
        ended_at=utc(2026, 1, 9, 20, 33, 59),
        duration=59.585,
        ended_reason="customer-ended-call",
        recording_url="https://storage.example.com/ff241568-e6dd-4e61-e6df-e9d4528ee547-1767990780161-mono.wav",
        transcript=(
            Turn("agent", "Hello, is this a good time?"),
            Turn("user", "Line one\nline two"),
            Turn("agent", "Great, I will share the details by e-mail."),
            Turn("user", "Could you call me next week? 🙂"),
            Turn("agent", "I am not interested, thank you."),
            Turn("user", "Could you call me next week? 🙂"),
        ),
        summary="The user asked to be called later.",
        cost=0.08333519671557765,
        customer_number="+15550102443",
        customer_name="आशा Example",
    )


def test_the_livekit_call_without_duration_counts_from_its_times() -> None:
    assert sample("04")[7].call == Call(
        id="635c0c55-66f0-3834-3293-a1acf0b0a324",
        status="not-connected",
        direction="outbound",
        started_at=utc(2026, 1, 9, 20, 33, 0, 157000),
        ended_at=utc(2026, 1, 9, 20, 36, 43, 795000),
        duration=223.638,
        ended_reason="assistant-ended-call",
        transcript=(
            Turn("agent", "Hello, is this a good time?"),
            Turn("user", "\u2028odd separators\u2029"),
        ),
        summary="The agent introduced the offer. The user replied briefly.",
        outcome="Dropped",
        cost=0.0296,
        customer_number="+15550102967",
        customer_name="李雷 Example",
    )


def test_outputs_that_are_no_finished_call() -> None:
    tasks = sample("04")
    number, name = "+15550102266", "Asha Example"
    assert tasks[0].call == Call(status="connected", customer_number=number, customer_name=name)
    number, name = "+15550109467", "José Example"
    assert tasks[3].call == Call(
        error="No Contact Number Found", customer_number=number, customer_name=name
    )
    assert tasks[6].call == Call(
        error="Task exceeded max retries (3)",
        ended_reason="customer-did-not-answer",
        customer_number="+15550105908",
        customer_name="Łukasz Example",
    )
    assert tasks[9].call == Call()  # only message and scheduled_time
    assert tasks[2].call == Call(
        id="ee2e4b47-b3bb-482a-9d08-5e4a6e08fce1",
        direction="outbound",
        duration=0.0,
        cost=0.0,
        customer_number="+15550101089",
        customer_name="Om Example",
    )
    (inbound,), (null,) = sample("05"), sample("06")
    assert inbound.call == Call(
        id="789f46b3-9425-6a9c-57c4-cb7e1ed25ad9", direction="inbound", cost=0.0
    )
    assert null.call == Call()
    assert sample("19")[1].call == Call()


def test_the_vapi_dialect_of_the_vendor() -> None:
    body = (HERE / "samples_seeds" / "02_tasks.json").read_bytes()
    (task,) = TASKS.decode(body).items
    assert task.call == Call(
        id="call-uuid-001",
        direction="outbound",
        started_at=utc(2025, 11, 17, 12, 5),
        ended_at=utc(2025, 11, 17, 12, 10),
        duration=300.0,
        recording_url="https://example.com/recordings/rec123.mp3",
        transcript=(
            Turn("agent", "Hello, this is calling to confirm..."),
            Turn("user", "Yes, confirmed."),
        ),
        summary="Customer confirmed the appointment for tomorrow at 2 PM",
        cost=0.45,
        customer_number="+1234567890",
        customer_name="Alice Smith",
    )
    assert task.contact == Contact(name="John Doe", number="9876688992")
    assert task.objective == "hey"
    assert task.created_at == utc(2025, 11, 28, 10, 7, 32)


def test_the_vendors_newer_example() -> None:
    (task,) = TASKS.decode((HERE / "samples_seeds" / "30_tasks.json").read_bytes()).items
    assert task.call == Call(
        id="CALL_7dAb3kR9mXvQ2pLw",
        status="completed",
        direction="outbound",
        started_at=utc(2026, 2, 7, 5, 57, 45),
        ended_at=utc(2026, 2, 7, 6, 2, 30),
        duration=285.0,
        recording_url="https://cdn.unpod.ai/recordings/CALL_7dAb3kR9mXvQ2pLw.mp3",
        transcript=(
            Turn(
                "agent",
                "Hello, this is an AI assistant calling on behalf of Unpod. "
                "Am I speaking with John Doe?",
            ),
            Turn("user", "Yes, this is John."),
        ),
        summary="The agent successfully connected with John Doe and discussed "
        "project requirements.",
        outcome="interested",
        sentiment="positive",
        customer_number="1234567890",
        customer_name="John Doe",
    )


@pytest.mark.parametrize(
    ("sent", "turns"),
    [
        ("Agent: Hello\nCustomer: Yes", [Turn("agent", "Hello"), Turn("user", "Yes")]),
        ("hello there", [Turn("", "hello there")]),
        ("ring\nBOT : a\r\n caller:b", [Turn("", "ring"), Turn("agent", "a"), Turn("user", "b")]),
        ("AI: Note: a\nThanks: b\n\nUser:\nAI: x",
         [Turn("agent", "Note: a\nThanks: b"), Turn("agent", "x")]),
        ("System: s\nHuman: I said AI: no", [Turn("system", "s"), Turn("user", "I said AI: no")]),
        ("NULL", []), ("", []), (None, []), ({"a": 1}, []), ([], []), ([[], None, 3], []),
        (7, [Turn("", "7")]),
        (["AI: hi", "User: ho"], [Turn("agent", "hi"), Turn("user", "ho")]),
        ([{"role": "Bot", "content": "a"}, {"role": "tool", "content": "b"}, {"content": "c"},
          {"role": 5, "message": "None"}],
         [Turn("agent", "a"), Turn("tool", "b"), Turn("", "c"), Turn("", "None")]),
        ([{"role": "user", "content": ""}, {"role": "user"}, {"content": ["x"]}], []),
        ([{"role": "bot", "message": "a", "time": 1761803096123, "secondsFromStart": 9}],
         [Turn("agent", "a", utc(2025, 10, 30, 5, 44, 56, 123000))]),
        ([{"role": "bot", "message": "a", "time": "x", "secondsFromStart": 1.5}],
         [Turn("agent", "a", utc(2026, 1, 1, 0, 0, 1, 500000))]),
        ([{"role": "bot", "message": "a", "secondsFromStart": "NULL"}], [Turn("agent", "a")]),
        ([{"role": "bot", "message": "a", "secondsFromStart": 1e300}], [Turn("agent", "a")]),
    ],
)  # fmt: skip
def test_transcripts(sent: object, turns: list[Turn]) -> None:
    call = a_task(output={"startedAt": "2026-01-01T00:00:00Z", "transcript": sent}).call
    assert call.transcript == tuple(turns)
    assert call.turns == len(turns)


@pytest.mark.parametrize(
    ("sent", "duration"),
    [
        (62, 62.0), (62.5, 62.5), ("62", 62.0), ("62.5", 62.5), (0, 0.0), ("NULL", 90.0),
        ("", 90.0), (None, 90.0), (-1, 90.0), ("NaN", 90.0), ("inf", 90.0), ("1_0", 90.0),
        (True, 90.0), ([], 90.0), (10**400, 90.0),
    ],
)  # fmt: skip
def test_durations(sent: object, duration: float) -> None:
    early, late = "2026-01-01 00:00:00", "2026-01-01 00:01:30"
    forward = a_task(output={"start_time": early, "end_time": late, "duration": sent})
    backward = a_task(output={"start_time": late, "end_time": early, "duration": "NULL"})
    assert forward.call.duration == duration
    assert backward.call.duration is None


def test_one_number_out_of_range_costs_no_other_field() -> None:
    body = b'{"data":[{"task_id":"T","output":{"call_id":"C","cost":1e999,"duration":5}}]}'
    (task,) = TASKS.decode(body).items
    assert task.call == Call(id="C", duration=5.0)
    assert task.output == {"call_id": "C", "cost": float("inf"), "duration": 5}


@pytest.mark.parametrize("output", ["null", "{}", " { } ", "[]", '"x"', "7", "false"])
def test_without_output_there_is_no_call(output: str) -> None:
    body = f'{{"data":[{{"task_id":"T","output":{output},"input":{{"name":"Asha"}}}}]}}'
    (task,) = TASKS.decode(body.encode()).items
    assert task.call == Call()
    assert task.contact.name == "Asha"


def test_numbers_as_text() -> None:
    task = a_task(
        input={"contact_number": 919876688992, "name": 5}, output={"contact_number": 9.1e11}
    )
    assert task.contact == Contact(number="919876688992", name="5")
    assert task.call.customer_number == "910000000000"


# -- the table is true

USABLE: dict[str, list[Any]] = {
    "text": [f"text {n}" for n in range(5)],
    "moment": ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", 3600],
    "amount": [0.5 + n for n in range(5)],
    "direction": ["inbound", "outbound", "inbound", "outbound"],
    "spoken": [f"AI: turn {n}" for n in range(5)],
    "role": ["user"],
    "words": ["a", "b"],
}


def put(row: dict[str, Any], path: str, value: object) -> None:
    *above, key = path.split(".")
    for name in above:
        if not isinstance(row.get(name), dict):
            row[name] = {}
        row = row[name]
    row[key] = value


@pytest.mark.parametrize("column", _call.COLUMNS, ids=lambda column: column.name)
def test_the_table_names_the_sources_in_the_order_they_are_tried(column: _call.Column) -> None:
    path = column.name.removeprefix("call.transcript[].")
    of_a_turn = path != column.name
    usable = USABLE[column.rule.__name__]
    for first in range(len(column.sources)):
        row: dict[str, Any] = {"output": {"endedReason": "so that there is a call"}}
        if of_a_turn:
            row = {"content": "said"} if path != "text" else {}
        # The later ones first: where a key holds a text or an object, the earlier source stays.
        for index in reversed(range(first, len(column.sources))):
            put(row, column.sources[index], usable[index])
        if of_a_turn:
            started = "2025-12-31T00:00:00Z"
            row = {"output": {"start_time": started, "transcript": [row]}}
        value: Any = a_task(**row)
        if of_a_turn:
            (value,) = value.call.transcript
        for attribute in path.split("."):
            value = getattr(value, attribute)
        expected = column.rule(usable[first])
        if column.sources[first] == "secondsFromStart":
            expected = utc(2025, 12, 31, 1)
        assert value == ((Turn("agent", f"turn {first}"),) if path.endswith("pt") else expected)


def test_the_table_is_complete_and_is_markdown() -> None:
    documented = [column.name for column in _call.COLUMNS if "[]" not in column.name]
    for prefix, model in (("call", Call), ("contact", Contact)):  # they are made by position
        fields = [f"{prefix}.{name}" for name in model.__struct_fields__]
        assert [name for name in documented if name.startswith(prefix)] == fields
    table, _, rules = call_table().partition("\n\n")
    lines = table.splitlines()
    assert len(lines) == 2 + len(_call.COLUMNS)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {5}
    assert "| `call.id` | `str \\| None` | `output.call_id`, `output.id` | text |" in lines
    assert "- *amount*: " in rules


# -- arbitrary JSON in every place

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(
        ["NULL", "inbound", "2026-01-01T00:00:00Z", "AI: a\nUser: b", 1761803096, {"$date": 1e12}]
    ),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(sorted({s.rpartition(".")[2] for c in _call.COLUMNS for s in c.sources}))
        | st.text(max_size=3),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
KEYS = st.sampled_from(
    [*Task.__struct_encode_fields__, "batch_count", "call", "extra", "_row", "new key"]
)


def same(left: object, right: object) -> bool:
    """Equal, NaN and -0.0 included, number types too."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


@settings(max_examples=200, deadline=None)
@given(row=st.dictionaries(KEYS, JSON, max_size=8), sane=st.booleans())
def test_arbitrary_json_never_raises_and_round_trips(row: dict[str, Any], sane: bool) -> None:
    if sane:
        row["task_id"] = "T1"
    text = json.dumps(row)
    body = f'{{"data":[{text},{{"task_id":"T2"}}],"count":2}}'.encode()
    try:
        row = json.loads(json.dumps(row, allow_nan=False))
    except ValueError:
        with pytest.raises(EnvelopeError):
            TASKS.decode(body)
        return
    whole, raw = TASKS.decode(body), TASKS.decode_raw(body)
    assert whole.ids == raw.ids
    assert whole.space_ids == raw.space_ids
    assert whole.run_ids == raw.run_ids
    assert whole.ids[-1] == "T2"
    assert len(whole.items) + len(whole.invalid) == 2
    if not whole.invalid:
        task = whole.items[0]
        assert json.loads(raw.items[0]) == row
        assert b"\n" not in raw.items[0]
        assert same(json.loads(task.to_json()), row)
        assert same(task.to_dict(), row)
        assert isinstance(task.call, Call)
        for name in dir(Task):
            if not name.startswith("_"):
                getattr(task, name)
        assert repr(task).startswith("Task(task_id=")


@settings(max_examples=200, deadline=None)
@given(output=JSON, given=JSON)
def test_a_call_is_always_a_call(output: object, given: object) -> None:
    raw = [msgspec.Raw(json.dumps(part).encode()) for part in (output, given)]
    call = _call.build_call(raw[0], raw[1])
    assert isinstance(call, Call)
    assert isinstance(_call.build_contact(raw[1]), Contact)
    assert call.duration is None or call.duration >= 0
    assert "NULL" not in repr(call)
    for at in (call.started_at, call.ended_at, *(turn.at for turn in call.transcript)):
        assert at is None or at.tzinfo is UTC


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 200))
def test_arbitrary_bytes_are_an_envelope_error_or_rows(noise: bytes, at: int) -> None:
    body = b'{"count":1,"data":[{"task_id":"T1","status":"a","output":{"x":[1,"y"]}}],"message":""}'
    for sent in (noise, body[:at] + noise + body[at:], body[:at]):
        for decode in (TASKS.decode, TASKS.decode_raw):
            try:
                decoded = decode(sent)
            except EnvelopeError:
                continue
            assert decoded.length == len(decoded.items) + len(decoded.invalid)


# -- only some fields


@pytest.mark.parametrize(("kind", "body"), ENVELOPES)
def test_only_the_named_fields_are_decoded(kind: RowKind[Any], body: Any) -> None:
    sent = json.dumps(body).encode()
    whole = kind.decode(sent)
    part = kind.only(frozenset({"status", "created_at"})).decode(sent)
    assert (part.ids, part.count, part.length) == (whole.ids, whole.count, whole.length)
    assert (part.space_ids, part.run_ids) == (whole.space_ids, whole.run_ids)
    for few, all_ in zip(part.items, whole.items, strict=True):
        assert isinstance(few, type(all_) if type(all_) in (Task, Run) else (Task, Run))
        assert (few.status, few.created, few.created_at) == (
            all_.status,
            all_.created,
            all_.created_at,
        )
        assert (few.run_id, few.space_id) == (all_.run_id, all_.space_id)
        assert few.modified is few.user is few.internal_id is None
        assert repr(few) == repr(all_)


def test_a_view_brings_the_parts_that_it_reads() -> None:
    sent = json.dumps(
        {"data": [{"task_id": "T1", "input": {"name": "Asha"}, "output": {"call_id": "c"}, "x": 1}]}
    ).encode()
    (task,) = TASKS.only(frozenset({"call", "contact"})).decode(sent).items
    assert (task.call.id, task.contact.name, task.status) == ("c", "Asha", None)
    (task,) = TASKS.only(frozenset({"objective"})).decode(sent).items
    assert (task.call, task.input, task.output) == (Call(), None, None)


def test_an_odd_row_has_no_more_than_the_named_fields() -> None:
    sent = b'{"data":[{"task_id":7,"status":"ok","user":[1],"created":{"$date":1}}]}'
    (task,) = TASKS.only(frozenset({"status"})).decode(sent).items
    assert (task.task_id, task.status, task.user, task.created, task.extra) == (
        "7",
        "ok",
        None,
        None,
        {},
    )
    assert json.loads(task.to_json()) == {"task_id": "7", "status": "ok"}


def test_a_row_of_some_fields_can_be_copied_and_pickled() -> None:
    sent = b'{"data":[{"task_id":"T1","status":"ok","input":{"name":"Asha"}}]}'
    (task,) = TASKS.only(frozenset({"status", "input"})).decode(sent).items
    for again in (copy.copy(task), copy.deepcopy(task), pickle.loads(pickle.dumps(task))):
        assert again == task
        assert again.input == {"name": "Asha"}


def test_every_public_name_of_a_row_can_be_asked_for() -> None:
    for kind in (TASKS, RUNS, SPACES, ORGANIZATIONS):
        names = [name for name, value in vars(kind.type).items() if hasattr(value, "slot")]
        for name in (*names, kind.identity):
            assert kind.only(frozenset({name})).decode(b'{"data":[]}').items == []
    for name in ("", "nothing", "_status", "to_json", "extra"):
        with pytest.raises(ValueError, match=f"^{name}$"):
            TASKS.only(frozenset({name}))
