"""The simulator against the recordings of the real server, and the rules of its lists."""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from unpod_async.simulator import Churn, Reply, Simulator

SAMPLES = sorted((Path(__file__).parent / "samples").glob("*.json"))
PREFIX = "/api/v2/platform"
UNCOMPARED = {"Date", "Connection", "Content-Length", "Transfer-Encoding"}


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)

    @property
    def ids(self) -> list[str]:
        return [row["task_id"] for row in self.body["data"]]


def ask(
    sim: Simulator, path: str, *, token: str | None = "", method: str = "GET", **headers: str
) -> Answer:
    """One request over a fresh connection; `token` "" is the right one, None is none."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if token is not None:
        sent.setdefault("Authorization", f"Token {token or sim.token}")
    connection = http.client.HTTPConnection(sim.host, sim.port, timeout=10)
    try:
        connection.request(method, path if path.startswith("/api") else PREFIX + path, None, sent)
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


def tasks(sim: Simulator, query: str = "", **options: Any) -> Answer:
    return ask(sim, f"/spaces/{sim.space_token}/tasks/{query}", **options)


@pytest.fixture(scope="module")
def big() -> Iterator[Simulator]:
    """A simulator that no test may change."""
    with Simulator(seed=1, runs=40, tasks=2200) as sim:
        yield sim


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with Simulator(seed=1, runs=4, tasks=23) as simulator:
        yield simulator


# Against the recordings


def load(sample: Path) -> dict[str, Any]:
    recorded: dict[str, Any] = json.loads(sample.read_text("utf-8"))
    return recorded


def replay(sim: Simulator, recorded: dict[str, Any]) -> Answer:
    """Asks the simulator what the real server was asked, in the simulator's own names."""
    request = recorded["request"]
    path = request["path"]
    for token in (
        "AAAA1111BBBB2222CCCC3333",
        "DDDD4444EEEE5555FFFF6666",
        "PPPP7777OOOO8888IIII9999",
    ):
        path = path.replace(token, sim.space_token)
    path = path.replace("XXXX7777YYYY8888ZZZZ9999", sim.foreign_space_token)
    path = path.replace("space-agent-aaaa1111", sim.agent_handle)
    run = next(run for run in sim.world.run_ids() if len(sim.world.task_ids(run)) == 51)
    for recorded_run in ("R6f4cc3a8e60311f1b31d02fc00000001", "R7dfa4f10e60311f1b31d02fc00000001"):
        path = path.replace(recorded_run, run)
    tokens = {
        "<valid token>": sim.token,
        "<valid token of a viewer>": sim.viewer_token,
        "<unknown token>": "nobody",
        "<token on the server's black list>": sim.blacklisted_token,
    }
    headers = dict(request["headers"])
    if "Authorization" in headers:
        scheme, _, placeholder = headers["Authorization"].partition(" ")
        headers["Authorization"] = f"{scheme} {tokens[placeholder]}"
    return ask(sim, path, token=None, method=request["method"], **headers)


def types_at(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every path in a JSON value with the type that is there; an object's type is its keys."""
    if isinstance(value, dict):
        yield path, f"object {sorted(value)}"
        for key, inner in value.items():
            yield from types_at(inner, f"{path}.{key}")
    elif isinstance(value, list):
        yield path, "list"
        for inner in value:
            yield from types_at(inner, f"{path}[]")
    elif value is not None:
        yield path, type(value).__name__


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.stem)
def test_it_answers_what_the_real_server_answered(sample: Path, big: Simulator) -> None:
    recorded = load(sample)
    if sample.stem.startswith("20_"):
        big.fault("status", status=500)
    if sample.stem.startswith("17_"):
        big.token_scheme_lists = False
    answer = replay(big, recorded)
    big.token_scheme_lists = True
    if sample.stem.startswith("10_"):
        with Simulator(seed=1, runs=40, tasks=2200) as poisoned:
            run = next(
                run for run in poisoned.world.run_ids() if len(poisoned.world.task_ids(run)) == 51
            )
            poisoned.world.poison(poisoned.world.task_ids(run)[49])
            answer = replay(poisoned, recorded)
    assert answer.status == recorded["status"]
    expected = {k: v for k, v in recorded["headers"].items() if k not in UNCOMPARED}
    assert {k: v for k, v in answer.headers.items() if k not in UNCOMPARED} == expected
    if answer.status != 200 and isinstance(recorded["body"], dict):
        assert answer.body == recorded["body"]
        assert list(answer.body) == list(recorded["body"])
        assert answer.headers["Content-Length"] == recorded["headers"]["Content-Length"]
    elif answer.status != 200:
        assert bool(answer.raw) == bool(recorded["body"])
    else:
        assert_same_list(answer.body, recorded["body"])


def assert_same_list(body: dict[str, Any], recorded: dict[str, Any]) -> None:
    def head(body: dict[str, Any]) -> list[tuple[str, Any]]:
        return [(k, v if k in ("status_code", "message") else type(v)) for k, v in body.items()]

    assert head(body) == head(recorded)
    assert len(body["data"]) == len(recorded["data"])
    for row in recorded["data"]:
        assert all(list(ours) == list(row) for ours in body["data"])


@pytest.mark.parametrize("path", ["/spaces/{}/runs/", "/spaces/{}/tasks/", "/agents/{}/tasks/"])
def test_its_rows_have_every_shape_that_was_recorded(path: str, big: Simulator) -> None:
    name = big.agent_handle if "agents" in path else big.space_token
    rows = ask(big, path.format(name) + "?page_size=0").body["data"]
    ours = {found for row in rows for found in types_at(row)}
    kind = path.replace("{}/", "").strip("/").replace("spaces/", "").replace("/", "_")
    for sample in SAMPLES:
        recorded = load(sample)
        asked = recorded["request"]["path"].partition("?")[0]
        if asked.endswith(path.rpartition("}")[2]) and ("agents" in asked) == ("agents" in path):
            data = recorded["body"].get("data") if isinstance(recorded["body"], dict) else None
            seen = {
                found for row in (data if isinstance(data, list) else ()) for found in types_at(row)
            }
            assert seen - ours == set(), (kind, sample.stem)


def test_json_is_written_as_the_real_server_writes_it(big: Simulator) -> None:
    raw = tasks(big, "?page_size=0").raw
    assert "नमस्ते".encode() in raw  # not escaped
    assert b"\\u2028" in raw  # but these are
    assert "\u2028".encode() not in raw
    assert b'": ' not in raw.replace(b'\\": ', b"")  # compact


# Pages


@pytest.mark.parametrize(
    ("query", "first", "rows"),
    [
        ("", 0, 23),
        ("?page_size=10", 0, 10),
        ("?page_size=10&page=3", 20, 3),
        ("?page_size=10&page=4", 30, 0),
        ("?page_size=0", 0, 23),
        ("?page_size=0&page=7", 0, 23),
        ("?page_size=0&page=0", 0, 23),
        ("?page_size=-5", 0, 5),
        ("?page_size=-5&page=0", 5, 5),
        ("?page_size=+5&page=%202", 5, 5),
        ("?page_size=abc&page=1.0", 0, 23),
        ("?page_size=&page=", 0, 23),
        ("?page=2", 50, 0),
        ("?limit=1&skip=5&offset=3", 0, 23),
        ("?page_size=1000000", 0, 23),
        ("?page_size=10&page_size=4", 0, 4),
    ],
)
def test_a_page_is_cut(query: str, first: int, rows: int, sim: Simulator) -> None:
    query = query.replace("+5", "%2B5")
    answer = tasks(sim, query)
    assert answer.status == 200
    assert answer.body["count"] == 23
    assert answer.ids == sim.world.task_ids()[first : first + rows]


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("?page=0", "skip must be >= 0"),
        ("?page=-1&page_size=3", "skip must be >= 0"),
        ("?page=2&page_size=-5", "skip must be >= 0"),
        (f"?page_size={2**63}", "MongoDB can only handle up to 8-byte ints"),
        (f"?page={2**62}", "MongoDB can only handle up to 8-byte ints"),
    ],
)
def test_a_page_that_cannot_be_is_a_206(query: str, detail: str, sim: Simulator) -> None:
    answer = tasks(sim, query)
    assert answer.status == 206
    assert json.loads(answer.body["errors"]) == {"detail": detail}
    assert answer.body["data"] == {"errors": answer.body["errors"]}


def test_all_three_lists_page_alike(big: Simulator) -> None:
    space = f"/spaces/{big.space_token}"
    run = max(big.world.run_ids(), key=lambda run: len(big.world.task_ids(run)))
    runs = ask(big, f"{space}/runs/?page_size=7&page=2").body
    assert [row["run_id"] for row in runs["data"]] == big.world.run_ids()[7:14]
    mine = ask(big, f"{space}/runs/{run}/tasks/?page_size=7&page=2")
    assert mine.ids == big.world.task_ids(run)[7:14]
    assert {row["run_id"] for row in mine.body["data"]} == {run}
    assert mine.body["count"] == len(big.world.task_ids(run))
    agents = ask(big, f"/agents/{big.agent_handle}/tasks/")
    assert agents.ids == big.world.task_ids()[:20]
    created = [row["created"] for row in tasks(big, "?page_size=0").body["data"]]
    assert created == sorted(created, reverse=True)


def test_a_cap_makes_pages_smaller(sim: Simulator) -> None:
    sim.max_page_size = 10
    assert tasks(sim, "?page_size=500&page=2").ids == sim.world.task_ids()[10:20]
    assert len(tasks(sim, "?page_size=0").ids) == 10


@pytest.mark.parametrize(
    ("count", "shown"),
    [("null", None), ("atomic", 23), (lambda n: 10**12, 10**12), (lambda n: f"{n}", "23")],
)
def test_count_may_be_anything(count: Any, shown: object, sim: Simulator) -> None:
    sim.count = count
    assert tasks(sim).body["count"] == shown
    sim.count = "missing"
    assert "count" not in tasks(sim).body


def test_count_is_of_another_moment_than_its_page(sim: Simulator) -> None:
    sim.churn = Churn(inserts=3, deletes=0)
    pages = [tasks(sim, "?page_size=0").body for _ in range(20)]
    assert any(page["count"] != len(page["data"]) for page in pages)
    sim.count = "atomic"
    pages = [tasks(sim, "?page_size=0").body for _ in range(20)]
    assert all(page["count"] == len(page["data"]) for page in pages)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("status=Interested,Dropped", lambda row: verdict(row) in ("Interested", "Dropped")),
        ("status=Not%2BConnected", lambda row: verdict(row) == "Not Connected"),
        ("call_type=inbound", lambda row: call_type(row) in ("inbound", "inboundPhoneCall")),
        ("call_type=outbound", lambda row: call_type(row) in ("outbound", "outboundPhoneCall")),
        ("search=^asha", lambda row: ((row["input"] or {}).get("name") or "").startswith("Asha")),
        ("user_id=1", lambda row: row["user"] == "1"),
        ("from_ts=1768000000", lambda row: row["created"] >= "2026-01-09T23:06:40"),
        ("from_ts=1768000000&to_ts=x", lambda row: True),
    ],
)
def test_space_tasks_are_filtered(query: str, expected: Any, big: Simulator) -> None:
    rows = tasks(big, "?page_size=0").body["data"]
    wanted = [row["task_id"] for row in rows if expected(row)]
    answer = tasks(big, f"?page_size=0&{query}")
    assert wanted
    assert answer.ids == wanted
    assert answer.body["count"] == len(wanted)
    run = ask(
        big, f"/spaces/{big.space_token}/runs/{big.world.run_ids()[0]}/tasks/?{query}&page_size=0"
    )
    assert run.ids == big.world.task_ids(big.world.run_ids()[0])


def verdict(row: Any) -> Any:
    summary = ((row["output"] or {}).get("post_call_data") or {}).get("summary")
    return summary.get("status") if isinstance(summary, dict) else None


def call_type(row: Any) -> Any:
    output = row["output"] or {}
    return output.get("call_type") or output.get("type")


def test_a_bad_pattern_is_a_206(sim: Simulator) -> None:
    answer = tasks(sim, "?search=(")
    assert answer.status == 206
    assert answer.body["message"] == "Tasks Fetch Failed"


def test_a_space_id_in_the_query_reads_another_space(sim: Simulator) -> None:
    answer = tasks(sim, "?space_id=2")
    assert {row["space_id"] for row in answer.body["data"]} == {"2"}
    assert tasks(sim, "?space_id=3").body["count"] == 0


def test_a_poisoned_row_spoils_its_page_and_no_other(sim: Simulator) -> None:
    bad = sim.world.task_ids()[12]
    sim.world.poison(bad)
    for _ in range(2):
        answer = tasks(sim, "?page_size=5&page=3")
        assert (answer.status, answer.body["message"]) == (206, "Tasks Fetch Failed")
        assert answer.body["errors"] == "Internal Server Error"
    assert tasks(sim, "?page_size=5&page=2").status == 200
    assert tasks(sim, "?page_size=1&page=13").status == 206
    assert tasks(sim, "?page_size=1&page=12").status == 200
    sim.world.delete(bad)
    assert tasks(sim).status == 200


# Who may read what


def test_spaces_and_organizations(sim: Simulator) -> None:
    org = {"Org_Handle": sim.org_handle}
    spaces = ask(sim, "/spaces/", **org).body
    assert spaces["count"] == 1
    assert spaces["data"][0]["token"] == sim.space_token
    detail = ask(sim, f"/spaces/{sim.space_token}/", **org).body
    assert "count" not in detail
    assert detail["data"] == spaces["data"][0]
    assert ask(sim, "/organizations/").body["data"][0]["domain_handle"] == sim.org_handle
    missing = ask(sim, "/spaces/")
    assert missing.status == 400
    assert missing.body["data"] == {}
    assert ask(sim, "/spaces/NOSUCHSPACETOKEN/", **org).body == {"message": "Space not found"}
    assert ask(sim, "/spaces/", Org_Handle="nobody").status == 404
    sim.require_org = False
    assert ask(sim, "/spaces/").status == 200


def test_schemes(sim: Simulator) -> None:
    bearer = {"Authorization": f"Bearer {sim.bearer}"}
    assert tasks(sim, token=None, **bearer).status == 200
    sim.token_scheme_lists = False
    assert ask(sim, "/organizations/").status == 401
    assert ask(sim, "/organizations/", token=None, **bearer).status == 200
    assert tasks(sim, token=None, Authorization="Basic abc").status == 401


def test_what_is_no_list(sim: Simulator) -> None:
    post = tasks(sim, method="POST")
    assert (post.status, post.body["status_code"]) == (405, 405)
    for path in ("/", "/nowhere/", "/spaces/x/y/z", "/api/v1/spaces/"):
        answer = ask(sim, path)
        assert answer.status == 404
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert ask(sim, "/agents/nobody/tasks/").body == {"message": "Agent not found"}
    assert ask(sim, f"/agents/{sim.agent_handle}/tasks/?page=x").status == 500
    assert tasks(sim, method="HEAD").raw == b""


# Rows that were handed in


def test_given_rows_are_served_as_they_are() -> None:
    rows: list[Any] = [
        {"task_id": "Tnew", "run_id": "Rb", "n": 1.0, "created": "2026-02-01T00:00:00Z"},
        b'{"task_id":  17, "run_id": "Ra"}',
        b"not JSON at all \xff",
        {"task_id": "Told", "run_id": "Ra", "text": "\u2028"},
    ]
    with Simulator(rows=rows) as sim:
        assert sim.world.run_ids() == ["Rb", "Ra"]
        ids = sim.world.task_ids()
        assert [ids[0], ids[1], ids[3]] == ["Tnew", "17", "Told"]
        raw = tasks(sim).raw
        assert b'{"task_id":"Tnew","run_id":"Rb","n":1.0,' in raw
        assert b'{"task_id":  17, "run_id": "Ra"},not JSON at all \xff,{"task_id":"Told"' in raw
        assert raw.endswith(b'"text":"\\u2028"}]}')
        assert sim.world.task_ids("Ra") == ["17", "Told"]
        assert len(sim.world.task_ids("Rb")) == 2  # the unreadable one belongs to the newest run
        assert tasks(sim, "?from_ts=1769904000").ids == ["Tnew"]
        assert tasks(sim, "?user_id=1").ids == []
        agents = ask(sim, f"/agents/{sim.agent_handle}/tasks/?page_size=2").body
        assert agents["data"][0]["failure_count"] == 0
        assert b"not JSON at all" in ask(sim, f"/agents/{sim.agent_handle}/tasks/").raw
        with pytest.raises(ValueError, match="malformed"):
            sim.world.row(ids[2])


def test_given_runs_are_served_as_they_are() -> None:
    runs: list[Any] = [{"run_id": "Rb"}, b'{"run_id":"Ra","x":[]}', b"{"]
    with Simulator(run_rows=runs, tasks=10) as sim:
        raw = ask(sim, f"/spaces/{sim.space_token}/runs/").raw
        assert raw.endswith(b'"data":[{"run_id":"Rb"},{"run_id":"Ra","x":[]},{]}')
        assert sim.world.run_ids()[:2] == ["Rb", "Ra"]


def test_dialects_may_be_chosen() -> None:
    with Simulator(tasks=50, dialects={"vapi": 1, "null": 1}, mean_turns=30) as sim:
        outputs = [row["output"] for row in tasks(sim).body["data"]]
    assert {output is None or "assistantId" in output for output in outputs} == {True}
    assert None in outputs
    assert max(len(output["messages"]) for output in outputs if output) > 20


def test_requests_are_recorded_and_may_be_answered_otherwise(sim: Simulator) -> None:
    sim.answer = lambda request: Reply(418, {"page": request.page}) if request.page else None
    assert tasks(sim, "?page=3", Org_Handle="acme").body == {"page": 3}
    assert tasks(sim, "?page_size=x").status == 200
    first, second = sim.requests
    assert (first.method, first.path) == ("GET", f"{PREFIX}/spaces/{sim.space_token}/tasks/")
    assert (first.status, first.page, first.page_size) == (418, 3, None)
    assert first.query == {"page": "3"}
    assert first.headers["Org-Handle"] == "acme"
    assert (second.status, second.page, second.tick) == (200, None, sim.world.tick)
    assert first.at <= second.at
