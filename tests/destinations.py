"""Every destination of an export, read back without our own code: the rows that count, their
turns, and the state that is kept with them."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import secrets
import shutil
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

TURNS = "transcript_turns"
SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".csv", ".arrow")
FILES = [f"x{suffix}{end}" for suffix in SUFFIXES for end in ("", "/")]
DATABASES = ["x.duckdb", "x.sqlite", "postgres"]
STORE = "UNPOD_TEST_STORE"
"""The variable with the URL of an object store, as `--to` takes it, to be tried too."""
STORED = ["store x.parquet/", "store x.jsonl"] if STORE in os.environ else []
ALL = [*FILES, *DATABASES, "delta", *STORED, "mock"]
"""The names of `destination()`; "mock" is a folder of an object store in memory."""

Row = dict[str, Any]
Said = tuple[str | None, str | None, datetime | None]

csv.field_size_limit(1 << 30)


class Held(NamedTuple):
    """What a target holds that counts. `turns` is None where there is no table of them."""

    rows: dict[str, Row]
    turns: dict[str, list[Said]] | None
    state: Row | None
    is_done: bool


class Destination(Protocol):
    """One target of its own."""

    name: str
    target: str
    """As `--to` takes it."""

    def held(self) -> Held:
        """What is there, whether it is finished or was left; fails if a row is there twice."""

    def tamper(self, table: str) -> None:
        """Change one row of a finished target."""

    def left(self) -> list[str]:
        """What is there that a finished target does not need."""


def destination(name: str, place: Path, server: Callable[[], str]) -> Destination:
    """A new target; `server` gives the URL of a PostgreSQL."""
    if name == "postgres":
        return Postgres(server())
    if name == "delta":
        return Delta(place)
    if name == "mock":
        return Files("x.parquet/", in_memory(place.name))
    if name.startswith("store "):
        return Files(name.removeprefix("store "), in_store(os.environ[STORE]))
    if name.endswith(".duckdb"):
        return DuckDB(place / name)
    return Sqlite(place / name) if name.endswith(".sqlite") else Files(name, Disk(place))


# -- rows and turns


def by_id(rows: Iterable[Row]) -> dict[str, Row]:
    listed = list(rows)
    found = {row["task_id"]: row for row in listed}
    twice = Counter(row["task_id"] for row in listed) if len(found) < len(listed) else Counter()
    assert not twice, f"a row is there twice: {twice.most_common(3)}"
    return found


def by_task(turns: Iterable[Row]) -> dict[str, list[Said]]:
    """The turns of each task in their order; fails if one is lacking or there twice."""
    found: dict[str, dict[int, Said]] = {}
    for turn in turns:
        said = found.setdefault(turn["task_id"], {})
        index = int(turn["index"])
        assert index not in said, f"{turn['task_id']} has turn {index} twice"
        said[index] = _said(turn)
    assert all(set(said) == set(range(len(said))) for said in found.values())
    return {task_id: [said[at] for at in range(len(said))] for task_id, said in found.items()}


def _said(turn: Row) -> Said:
    return turn["role"] or None, turn["text"] or None, _time(turn.get("at"))


def _time(sent: Any) -> datetime | None:
    if not sent:
        return None
    time = sent if isinstance(sent, datetime) else datetime.fromisoformat(sent)
    return time.astimezone(UTC)


def transcript(row: Row) -> list[Said]:
    """The turns that the row itself tells of."""
    sent = row.get("transcript") or []
    return [_said(turn) for turn in (json.loads(sent) if isinstance(sent, str) else sent)]


def disagreeing(held: Held, kept: Callable[[str], str] = str) -> list[str]:
    """The tasks whose turns are not those of their transcript. `kept` gives a text as the table
    of the turns has it."""
    if held.turns is None:
        return []
    told = {
        task_id: [(role, text and kept(text), at) for role, text, at in said]
        for task_id, row in held.rows.items()
        if (said := transcript(row))
    }
    ids = told.keys() | held.turns.keys()
    return sorted(task_id for task_id in ids if told.get(task_id) != held.turns.get(task_id))


# -- files


class Disk:
    """A folder of this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.url, self.query = f"{root}/", ""

    def read(self, name: str) -> bytes | None:
        path = self._root / name
        return path.read_bytes() if path.is_file() else None

    def write(self, name: str, content: bytes) -> None:
        (self._root / name).write_bytes(content)

    def names(self) -> list[str]:
        paths = self._root.rglob("*")
        return sorted(str(path.relative_to(self._root)) for path in paths if path.is_file())


class Bucket:
    """A folder of an object store; `query` is what else its URLs need."""

    def __init__(self, system: Any, folder: str, scheme: str, query: str = "") -> None:
        self.system = system
        self.folder = folder
        self.url, self.query = f"{scheme}://{folder}/", query

    def read(self, name: str) -> bytes | None:
        if name not in self.names():
            return None
        with self.system.open_input_file(f"{self.folder}/{name}") as file:
            return bytes(file.read())

    def write(self, name: str, content: bytes) -> None:
        with self.system.open_output_stream(f"{self.folder}/{name}") as file:
            file.write(content)

    def names(self) -> list[str]:
        everything = pafs.FileSelector(self.folder, recursive=True, allow_not_found=True)
        found = self.system.get_file_info(everything)
        return sorted(info.path.removeprefix(f"{self.folder}/") for info in found if info.is_file)


def in_memory(folder: str) -> Bucket:
    """One that forgets all. Its `system` has to be what the URL leads to."""
    system = pafs._MockFileSystem()
    system.create_dir(folder)
    return Bucket(system, folder, "mock")


def in_store(url: str) -> Bucket:
    """A new folder below an URL, as `--to` takes it."""
    system, path = pafs.FileSystem.from_uri(url)
    scheme, query = url.partition("://")[0], url.partition("?")
    return Bucket(system, f"{path}/{secrets.token_hex(8)}", scheme, "".join(query[1:]))


class Files:
    """A file (its parts beside it while an export is under way), or a folder of files."""

    def __init__(self, name: str, disk: Disk | Bucket) -> None:
        self.name, self.disk = name, disk
        self.target = disk.url + name + disk.query
        self._is_folder = name.endswith("/")
        self._base = name.rstrip("/")
        self._root = f"{self._base}/" if self._is_folder else ""
        work = "" if self._is_folder else f".{self._base}.unpod/"
        self._checkpoint = f"{self._root}{work}_checkpoint.json"
        self._manifest = self._root + ("" if self._is_folder else f"{self._base}.")
        self._manifest += "_manifest.json" if self._is_folder else "manifest.json"

    def held(self) -> Held:
        entries, state, is_done = self._told()
        tables: dict[str, list[Row]] = {"tasks": [], TURNS: []}
        for entry in entries:
            content = self.disk.read(self._root + entry["name"])
            assert content is not None, f"{entry['name']} counts, and is not there"
            assert hashlib.sha256(content).hexdigest() == entry["sha256"], entry["name"]
            rows = rows_of(entry["name"], content)
            assert len(rows) == entry["rows"]
            tables[entry["table"]] += rows
        has_turns = self._is_folder and ".jsonl" not in self.name
        turns = by_task(tables[TURNS]) if has_turns else None
        return Held(by_id(tables["tasks"]), turns, state, is_done)

    def _told(self) -> tuple[list[Row], Row | None, bool]:
        """The files that count, the state, and whether the target is finished."""
        if (sent := self.disk.read(self._checkpoint)) is not None:
            found = json.loads(sent)
            if self._has_name(found["joined"]):
                return [{**found["joined"], "name": self._base}], found["state"], False
            base = [found["base"]] if found["base"] else []
            return [*base, *found["parts"]], found["state"], False
        if (sent := self.disk.read(self._manifest)) is not None:
            found = json.loads(sent)
            return found["receipt"]["files"], found["state"], True
        return [], None, False

    def _has_name(self, joined: Row | None) -> bool:
        content = self.disk.read(self._base) if joined else None
        if content is None or joined is None:
            return False
        return hashlib.sha256(content).hexdigest() == joined["sha256"]

    def tamper(self, table: str) -> None:
        entry = next(e for e in self._told()[0] if e["table"] == table and e["rows"])
        content = self.disk.read(self._root + entry["name"]) or b""
        self.disk.write(self._root + entry["name"], content[:-1] + bytes([content[-1] ^ 1]))

    def left(self) -> list[str]:
        needed = {self._root + entry["name"] for entry in self._told()[0]} | {self._manifest}
        return sorted(set(self.disk.names()) - needed)


def rows_of(name: str, content: bytes) -> list[Row]:
    if name.endswith(".parquet"):
        return pq.read_table(io.BytesIO(content)).to_pylist()
    if name.endswith(".arrow"):
        return pa.ipc.open_file(io.BytesIO(content)).read_all().to_pylist()
    if name.endswith(".csv"):
        return list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    if name.endswith(".gz"):
        content = gzip.decompress(content)
    if name.endswith(".zst"):
        content = pa.CompressedInputStream(io.BytesIO(content), "zstd").read()
    assert not content or content.endswith(b"\n")
    return [json.loads(line) for line in content.split(b"\n")[:-1]]


# -- databases that are files


@contextmanager
def copied(path: Path) -> Iterator[Path]:
    """The file and what the database keeps beside it, elsewhere: to open a database that was
    killed puts it right, and that is for the next export to do."""
    with tempfile.TemporaryDirectory() as folder:
        for found in path.parent.glob(f"{path.name}*"):
            if found.is_file():
                shutil.copy(found, folder)
        yield Path(folder, path.name)


def held_in(tables: dict[str, list[Row]]) -> Held:
    kept = [row for row in tables["unpod_export"] if row["kind"] == "tasks"]
    state = json.loads(kept[0]["state"]) if kept and kept[0]["state"] else None
    is_done = bool(state and state["done"] and kept[0]["receipt"])
    return Held(by_id(tables["tasks"]), by_task(tables[TURNS]), state, is_done)


TABLES = ("tasks", TURNS, "unpod_export")
TAMPERING = {
    "tasks": "UPDATE tasks SET status = 'tampered' WHERE task_id = "
    "(SELECT min(task_id) FROM tasks)",
    TURNS: f"DELETE FROM {TURNS} WHERE task_id = (SELECT min(task_id) FROM {TURNS})",
}


class DuckDB:
    name = "x.duckdb"

    def __init__(self, path: Path) -> None:
        self.path, self.target = path, str(path)

    def held(self) -> Held:
        import duckdb

        tables: dict[str, list[Row]] = {table: [] for table in TABLES}
        if not self.path.is_file() or not self.path.stat().st_size:
            return held_in(tables)
        with copied(self.path) as path, duckdb.connect(str(path)) as base:
            base.execute("SET TimeZone = 'UTC'")
            there = {
                name
                for (name,) in base.execute("SELECT table_name FROM duckdb_tables()").fetchall()
            }
            for table in there.intersection(TABLES):
                tables[table] = base.sql(f"SELECT * FROM {table}").to_arrow_table().to_pylist()
        return held_in(tables)

    def tamper(self, table: str) -> None:
        import duckdb

        with duckdb.connect(self.target) as base:
            base.execute(TAMPERING[table])

    def left(self) -> list[str]:
        return [name for name in os.listdir(self.path.parent) if name != self.path.name]


class Sqlite:
    name = "x.sqlite"

    def __init__(self, path: Path) -> None:
        self.path, self.target = path, str(path)

    def held(self) -> Held:
        tables: dict[str, list[Row]] = {table: [] for table in TABLES}
        if not self.path.is_file():
            return held_in(tables)
        with copied(self.path) as path, closing(sqlite3.connect(path)) as base:
            base.row_factory = sqlite3.Row
            assert base.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            there = {row[0] for row in base.execute("SELECT name FROM sqlite_master")}
            for table in there.intersection(TABLES):
                tables[table] = list(map(dict, base.execute(f"SELECT * FROM {table}")))
        return held_in(tables)

    def tamper(self, table: str) -> None:
        with closing(sqlite3.connect(self.path)) as base, base:
            base.execute(TAMPERING[table])

    def left(self) -> list[str]:
        return [name for name in os.listdir(self.path.parent) if name != self.path.name]


# -- PostgreSQL


class Postgres:
    """A schema of its own in the database of a server. Clients are killed here, the server is
    not: its disk need not be waited for."""

    name = "postgres"

    def __init__(self, server: str) -> None:
        self._schema = f"unpod_test_{secrets.token_hex(6)}"
        option = f"options=-csearch_path%3D{self._schema}%20-csynchronous_commit%3Doff"
        self.target = f"{server}{'&' if '?' in server else '?'}{option}"
        self.run(f"CREATE SCHEMA {self._schema}")

    def run(self, sql: str, *, rows: bool = False) -> list[Row]:
        """One statement, in a session of its own; with `rows` what it gives."""
        from adbc_driver_postgresql import dbapi

        with dbapi.connect(self.target, autocommit=True) as link, link.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetch_arrow_table().to_pylist() if rows else []

    def sessions(self) -> list[int]:
        """Of exports that hold or want the schema, by the process of the server."""
        sql = (
            "SELECT DISTINCT pid FROM pg_locks WHERE locktype = 'advisory' OR relation IN "
            f"(SELECT oid FROM pg_class WHERE relnamespace = '{self._schema}'::regnamespace)"
        )
        return [row["pid"] for row in self.run(sql, rows=True)]

    def is_free(self) -> bool:
        """Whether the server has noticed that a killed export is gone; waits for it."""
        until = time.monotonic() + 20
        while found := self.sessions():
            if time.monotonic() > until:
                return not found
            time.sleep(0.005)
        return True

    def held(self) -> Held:
        assert self.is_free()
        there = {row["name"] for row in self._there()}
        return held_in(
            {
                table: self.run(f"SELECT * FROM {table}", rows=True) if table in there else []
                for table in TABLES
            }
        )

    def _there(self) -> list[Row]:
        where = f"relnamespace = '{self._schema}'::regnamespace AND relkind = 'r'"
        return self.run(f"SELECT relname::text AS name FROM pg_class WHERE {where}", rows=True)

    def tamper(self, table: str) -> None:
        self.run(TAMPERING[table])

    def left(self) -> list[str]:
        return [row["name"] for row in self._there() if row["name"] not in TABLES]


# -- Delta Lake


class Delta:
    name = "delta"

    def __init__(self, place: Path) -> None:
        self.path = place / "lake"
        self.target = f"delta:{self.path}"

    def _table(self, name: str) -> Any:
        from deltalake import DeltaTable

        place = str(self.path / name)
        return DeltaTable(place) if DeltaTable.is_deltatable(place) else None

    def held(self) -> Held:
        found: dict[str, list[Row]] = {}
        for name in ("tasks", TURNS):
            table = self._table(name)
            found[name] = table.to_pyarrow_table().to_pylist() if table else []
        state = self.state()
        is_done = bool(state and state["done"])
        return Held(by_id(found["tasks"]), by_task(found[TURNS]), state, is_done)

    def state(self) -> Row | None:
        table = self._table("tasks")
        for commit in table.history() if table else []:
            if "unpod.state" in commit:
                return dict(json.loads(commit["unpod.state"]))
        return None

    def tamper(self, table: str) -> None:
        found = self._table(table)
        first = min(found.to_pyarrow_table(columns=["task_id"])["task_id"].to_pylist())
        if table == "tasks":
            found.update(predicate=f"task_id = '{first}'", updates={"status": "'tampered'"})
        else:
            found.delete(f"task_id = '{first}'")

    def left(self) -> list[str]:
        return sorted(set(os.listdir(self.path)) - {"tasks", TURNS})
