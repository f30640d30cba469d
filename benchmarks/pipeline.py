"""The export as a user of dlt would write it who wants it fast: dlt's own session, orjson, Arrow
tables of 10,000 rows, and a merge on `task_id` where the destination has one.

It makes the same rows as ours, but only the main columns of the call, and no proof that the
list was complete.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from .peers import HEADERS

ROWS = 10_000  # in one Arrow table
SIZE = 500  # in a page
SCHEMA = "unpod"

SCALARS = (
    *("task_id", "space_id", "thread_id", "user", "user_org_id", "run_id", "collection_ref"),
    *("execution_type", "ref_id", "assignee", "run_mode", "status", "created", "modified"),
)
PARTS = ("user_info", "task", "input", "output", "attachments")
CALL = {
    "call_id": ("call_id", "id"),
    "call_status": ("call_status", "status"),
    "call_direction": ("call_type", "type"),
    "call_ended_reason": ("call_end_reason", "endedReason"),
    "call_recording_url": ("recording_url", "recordingUrl"),
}
TIMES = {"call_started_at": ("start_time", "startedAt"), "call_ended_at": ("end_time", "endedAt")}
SPEAKER = re.compile(r"^(Agent|Customer): ?", re.MULTILINE)
ROLES = {"assistant": "agent", "Agent": "agent", "Customer": "user"}


def run(kind: str, port: int, space: str, target: str, folder: str) -> None:
    """Load a space into a destination; `folder` is for what dlt keeps of its own."""
    os.environ |= {
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "RUNTIME__LOG_LEVEL": "ERROR",
        "DLT_DATA_DIR": folder,
    }
    import dlt

    pipeline = dlt.pipeline(
        pipeline_name="unpod",
        pipelines_dir=folder,
        destination=_destination(kind, target),
        dataset_name=SCHEMA,
    )
    pipeline.run(_resource(kind, port, space), loader_file_format="parquet").raise_on_failed_jobs()


def load() -> None:
    """Import what costs time to import, before the clock starts."""
    for name in (
        *("deltalake", "dlt.destinations", "dlt.sources.helpers.requests", "duckdb", "orjson"),
        *("adbc_driver_manager.dbapi", "psycopg2", "pyarrow.dataset", "sqlalchemy"),
    ):
        import_module(name)


def _destination(kind: str, target: str) -> Any:
    from dlt import destinations

    if kind == "duckdb":
        return destinations.duckdb(target)
    if kind == "postgres":
        return destinations.postgres(_with_host(target))
    if kind == "sqlite":
        return destinations.sqlalchemy(f"sqlite:///{target}")
    return destinations.filesystem(target)


def _with_host(url: str) -> str:
    """dlt wants a host even where the query has a socket's, which is what counts in the end."""
    at = urlsplit(url)
    return url if at.hostname else at._replace(netloc=f"{at.username}:-@localhost").geturl()


def _resource(kind: str, port: int, space: str) -> Any:
    import dlt

    hints: dict[str, Any] = {"write_disposition": _disposition(kind), "primary_key": "task_id"}
    turn_key = ["task_id", "index"]
    if kind == "delta":
        hints["table_format"] = "delta"

    @dlt.resource(name="tasks", **hints)
    def tasks() -> Iterator[Any]:
        turns = dlt.mark.make_hints(
            table_name="transcript_turns", **{**hints, "primary_key": turn_key}
        )
        for rows in _portions(port, space):
            table, said = _tables(rows)
            yield table
            yield dlt.mark.with_hints(said, turns, create_table_variant=True)

    return tasks


def _disposition(kind: str) -> Any:
    """Merging is silently appending where plain files are the destination."""
    if kind == "parquet":
        return "append"
    strategy = "delete-insert" if kind == "sqlite" else "upsert"
    return {"disposition": "merge", "strategy": strategy}


def _portions(port: int, space: str) -> Iterator[list[dict[str, Any]]]:
    import orjson
    from dlt.sources.helpers import requests

    session = requests.Client().session
    url = f"http://127.0.0.1:{port}/api/spaces/{space}/tasks/"
    held: list[dict[str, Any]] = []
    page = 1
    while True:
        answer = session.get(url, params={"page": page, "page_size": SIZE}, headers=HEADERS)
        rows = orjson.loads(answer.content)["data"]
        held += rows
        if len(held) >= ROWS or (held and len(rows) < SIZE):
            yield held
            held = []
        if len(rows) < SIZE:
            return
        page += 1


def _tables(rows: list[dict[str, Any]]) -> tuple[Any, Any]:
    import orjson
    import pyarrow as pa

    outputs = [row.get("output") or {} for row in rows]
    columns: dict[str, Any] = {name: [row.get(name) for row in rows] for name in SCALARS}
    for name in ("created", "modified"):
        columns[f"{name}_at"] = [_moment(text) for text in columns[name]]
    for name in PARTS:
        columns[name] = [orjson.dumps(row.get(name)).decode() for row in rows]
    for name, (one, other) in CALL.items():
        columns[name] = [output.get(one) or output.get(other) for output in outputs]
    for name, (one, other) in TIMES.items():
        columns[name] = [_moment(output.get(one) or output.get(other)) for output in outputs]
    for name in ("duration", "cost"):
        columns[f"call_{name}"] = [output.get(name) for output in outputs]
    evaluations = [output.get("post_call_data") for output in outputs]
    columns["post_call_data"] = [one and orjson.dumps(one).decode() for one in evaluations]
    columns["call_summary"] = [
        one["summary"]["summary"] if one else output.get("summary")
        for one, output in zip(evaluations, outputs, strict=True)
    ]
    return pa.table({name: _array(name, some) for name, some in columns.items()}), _turns(rows)


def _turns(rows: list[dict[str, Any]]) -> Any:
    """A row for each turn of all transcripts."""
    import pyarrow as pa

    columns: dict[str, list[Any]] = {
        name: [] for name in ("task_id", "index", "role", "text", "at")
    }
    for row in rows:
        said = (row.get("output") or {}).get("transcript") or []
        turns = list(_spoken(said)) if isinstance(said, str) else said
        columns["task_id"] += [row["task_id"]] * len(turns)
        columns["index"] += range(len(turns))
        columns["role"] += [ROLES.get(turn["role"], turn["role"]) for turn in turns]
        columns["text"] += [turn["content"] for turn in turns]
        columns["at"] += [_moment(turn.get("timestamp")) for turn in turns]
    return pa.table({name: _array(name, some) for name, some in columns.items()})


def _spoken(text: str) -> Iterator[dict[str, Any]]:
    """The turns of a transcript that is one text."""
    _, *parts = SPEAKER.split(text)
    for role, words in zip(parts[::2], parts[1::2], strict=True):
        yield {"role": role, "content": words.strip()}


def _array(name: str, values: list[Any]) -> Any:
    import pyarrow as pa

    if name in ("call_duration", "call_cost"):
        return pa.array(values, pa.float64())
    if name == "index":
        return pa.array(values, pa.int64())
    return pa.array(values, pa.timestamp("us", "UTC") if name.endswith("at") else pa.string())


def _moment(text: str | None) -> datetime | None:
    if not text:
        return None
    at = datetime.fromisoformat(text)
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
