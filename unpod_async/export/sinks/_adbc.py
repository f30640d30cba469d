"""One write path for all databases, over ADBC.

A write is one transaction: the keys of the batch are compared with what is stored, the rows
that are new are appended, those that changed are staged and taken over from there, and the
checkpoint is moved with them. So what differs between databases (`_database.Database`) is how
they are reached, what a type is called and how they tell what went wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from unpod_async._missing import needs
from unpod_async.errors import ConfigurationError
from unpod_async.export._schema import IDENTITY, TABLES, TURNS, schema_of
from unpod_async.export._sink import Written
from unpod_async.export._state import Kind, Receipt, State, TableEntry, read_receipt, read_state

from ._database import Database, portions, quoted
from ._targets import check_columns
from ._verify import Stored, differences, fingerprint, turns_fingerprint

with needs("arrow", "pyarrow"):
    import pyarrow as pa
    import pyarrow.compute as pc

if TYPE_CHECKING:
    from unpod_async.export._batch import Batch

__all__ = ["AdbcSink"]

OURS = "unpod_export"
KEYS, STAGED, TURNED = "unpod_keys", "unpod_staged", "unpod_turned"


class AdbcSink:
    """A destination in a database: its tables, and a row of `unpod_export` for their kind."""

    def __init__(self, database: Database, kind: Kind, columns: tuple[str, ...] | None) -> None:
        self.target = database.target
        self.notes: list[str] = []
        """What the database could not hold as it was sent, in words."""
        self._database = database
        self._kind: Kind = kind
        self._id = IDENTITY[kind]
        self._schemas = {
            name: schema_of(name, "json", columns if name == kind else None)
            for name in TABLES[kind]
        }
        self._link: Any = None
        self._cursor: Any = None
        self._state: State | None = None
        self._has_row = self._clear = self._made = self._wrote = False
        self._must_look = True
        """Whether it may hold a row that a distinct batch brings again."""
        self._plain: dict[str, bool] = {}

    # -- open and close

    def open(self) -> None:
        self._made = False
        self._database.take()
        try:
            if self._database.is_readable():
                self._connect()
                if not self._clear:
                    self._read()
        except BaseException:
            self._leave()
            raise

    def _connect(self) -> None:
        with self._database.told():
            self._link = self._database.connect()
            self._cursor = self._link.cursor()
            self._database.settle(self._cursor)

    def _read(self) -> None:
        """What was left here. Raises `ConfigurationError` if it is damaged or of another form."""
        with self._database.told():
            found = self._kept()
            self._has_row = found is not None
            if found and found[0] is not None:
                self._state = read_state(found[0])
            if self._has_row:
                self._compare_columns()

    def _kept(self) -> tuple[str | None, str | None] | None:
        """The state and the receipt of our kind."""
        have = {name for name, _ in self._columns(OURS)}
        if not have >= {"kind", "state", "receipt"}:
            return None
        sql = f"SELECT state, receipt FROM {OURS} WHERE kind = '{self._kind}'"
        rows = self._fetch(sql)
        return rows[0] if rows else None

    def _compare_columns(self) -> None:
        for table, schema in self._schemas.items():
            have = {name for name, _ in self._columns(table)}
            check_columns(self.target, table, have, schema.names)

    def checkpoint(self) -> State | None:
        return self._state

    def in_the_way(self) -> str | None:
        if self._link is None:
            return self._database.unreadable()
        if self._has_row:
            return None
        with self._database.told():
            if not self._columns(OURS) and (others := self._database.others(self._cursor)):
                return others
            for table in self._schemas:
                if self._columns(table):
                    return f"{self.target} has a table {table} that is of no export"
        return None

    def clear(self) -> None:
        self._clear = True
        self._state = None

    def close(self, receipt: Receipt | None) -> None:
        try:
            if receipt is not None:
                self._finish(receipt)
            elif self._link is not None:
                self._database.abandon(self._cursor)
        finally:
            self._leave()

    def _finish(self, receipt: Receipt) -> None:
        with self._transaction():
            self._prepare()
            self._index_turns()
        with self._database.told():
            receipt.files = []
            receipt.tables = {name: self._entry(name) for name in self._schemas}
        with self._transaction():
            self._keep("receipt", receipt.as_json().decode())
        with self._database.told():
            self._database.finish(self._cursor)

    def _leave(self) -> None:
        self._disconnect()
        self._database.release(keep=self._wrote)

    def _disconnect(self) -> None:
        cursor, link, self._cursor, self._link = self._cursor, self._link, None, None
        for opened in (cursor, link):
            if opened is not None:
                with suppress(Exception):  # what a lost connection says now helps nobody
                    opened.close()

    # -- write

    def prepare(self, batch: Batch) -> None:
        batch.tables("json")
        batch.forget_rows()

    def write(self, batch: Batch, state: State) -> Written:
        tables = batch.tables("json") if len(batch) else {}
        held = {name: self._database.held(table) for name, table in tables.items()}
        # Two ids may become one by what the database cannot hold.
        as_sent = not held or held[self._kind][self._id].equals(tables[self._kind][self._id])
        is_distinct = batch.is_distinct and as_sent
        with self._transaction():
            self._prepare()
            written = self._take_over(held, is_distinct) if held else Written()
            self._keep("state", state.as_json().decode())
        self._state = state
        self.notes = self._database.notes()
        return written

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of the block or nothing. A link that cannot even roll back is not used again:
        what was open in it must not be committed by accident."""
        with self._database.told():
            if self._link is None:
                self._database.replace(cleared=self._clear)
                self._connect()
            self._before()
            link = self._link.adbc_connection
            link.set_autocommit(False)
            try:
                yield
                self._database.before_commit(self._cursor)
                link.commit()
            except BaseException:
                self._must_look = True
                self._roll_back(link)
                raise
            self._clear, self._made = False, True
            self._wrote = self._has_row = True
            link.set_autocommit(True)
            self._database.after()

    def _before(self) -> None:
        try:
            self._database.before(self._cursor)
        except BaseException:
            self._disconnect()
            raise

    def _roll_back(self, link: Any) -> None:
        try:
            link.rollback()
            link.set_autocommit(True)
            self._database.after()
        except Exception:
            self._disconnect()

    def _prepare(self) -> None:
        """The tables are there, empty if they are to be replaced. It counts once committed.
        Only what our schema has counts as there: others of a search path may have such names,
        and a role need not own what it writes to."""
        if self._made and not self._clear:
            return
        if self._clear:
            for table in self._schemas:
                if self._columns(table):
                    self._run(f"DROP TABLE {table}")
            if self._columns(OURS):
                self._run(f"DELETE FROM {OURS} WHERE kind = '{self._kind}'")
        text = self._database.types[pa.string()]
        if not self._columns(OURS):
            self._run(
                f"CREATE TABLE {OURS} (kind {text} PRIMARY KEY, state {text}, receipt {text})"
            )
        for table, schema in self._schemas.items():
            if not (have := self._columns(table)):
                self._run(self._definition(table, schema))
            as_made = not have or [name for name, _ in have] == schema.names
            self._plain[table] = self._database.names_columns or as_made
        self._must_look = bool(self._fetch(f"SELECT 1 FROM {self._kind} LIMIT 1"))

    def _definition(self, table: str, schema: pa.Schema) -> str:
        columns = [
            f"{quoted(field.name)} {self._database.types[field.type]}"
            + ("" if field.nullable else " NOT NULL")
            for field in schema
        ]
        has_key = self._database.has_keys and table != TURNS
        key = [f"PRIMARY KEY ({self._id})"] if has_key else []
        return f"CREATE TABLE {table} ({', '.join([*columns, *key])})"

    def _index_turns(self) -> None:
        if TURNS not in self._schemas or not (indexes := self._database.indexes_of(TURNS)):
            return
        name = f"{TURNS}_of_task"
        if (name,) not in self._fetch(indexes):
            self._run(f"CREATE INDEX {name} ON {TURNS} (task_id)")

    def _take_over(self, tables: dict[str, pa.Table], is_distinct: bool) -> Written:
        rows = tables[self._kind]
        self._must_look |= not is_distinct
        same = self._hits(rows) if self._must_look else {}
        if not same:
            for name, table in tables.items():
                self._append(name, table)
            return Written(inserted=len(rows))
        new = [at for at in range(len(rows)) if at not in same]
        changed = [at for at, is_same in same.items() if not is_same]
        if new:
            fresh = rows.take(pa.array(new))
            self._append(self._kind, fresh)
            self._append_turns(tables, fresh[self._id])
        if changed:
            size = sum(table.nbytes for table in tables.values())
            self._database.expect_update(self._cursor, size * len(changed) // len(rows))
            for part in portions(rows.take(pa.array(sorted(changed)))):
                self._replace(tables, part)
        return Written(len(new), len(changed), len(same) - len(changed))

    def _hits(self, rows: pa.Table) -> dict[int, bool]:
        """Of the rows that are there already, by position: whether they stay as they are."""
        names = {"id": self._id, "hash": "row_hash", "modified": "modified_at"}
        keys = {name: rows[column] for name, column in names.items()}
        self._stage(KEYS, pa.table({"at": pa.array(range(len(rows)), pa.int64()), **keys}))
        found = self._fetch(
            f"SELECT k.at, CASE WHEN t.row_hash = k.hash OR t.modified_at > k.modified "
            f"THEN 1 ELSE 0 END FROM {KEYS} k JOIN {self._kind} t ON t.{self._id} = k.id"
        )
        self._run(f"DROP TABLE {KEYS}")
        return {at: bool(is_same) for at, is_same in found}

    def _append(self, table: str, rows: pa.Table) -> None:
        """Some new rows. A user may have added columns: then ours are named."""
        if not len(rows):
            return
        if self._plain[table]:
            self._cursor.adbc_ingest(table, rows, mode="append")
            return
        names = ", ".join(map(quoted, rows.schema.names))
        self._stage(STAGED, rows)
        self._run(f"INSERT INTO {table} ({names}) SELECT {names} FROM {STAGED}")
        self._run(f"DROP TABLE {STAGED}")

    def _append_turns(self, tables: dict[str, pa.Table], ids: Any) -> None:
        if turns := tables.get(TURNS):
            self._append(TURNS, turns.filter(pc.is_in(turns["task_id"], ids)))

    def _replace(self, tables: dict[str, pa.Table], rows: pa.Table) -> None:
        """Take changed rows over. Not with ON CONFLICT: an UPDATE is 5 times as fast in DuckDB
        and the same elsewhere, and that the rows are there is known in this transaction."""
        self._stage(STAGED, rows)
        turned = self._turned(rows) if TURNS in tables else None
        names = [quoted(name) for name in rows.schema.names if name != self._id]
        self._run(
            f"UPDATE {self._kind} SET {', '.join(f'{name} = s.{name}' for name in names)} "
            f"FROM {STAGED} s WHERE s.{self._id} = {self._kind}.{self._id}"
        )
        self._run(f"DROP TABLE {STAGED}")
        if turned is not None and len(turned):
            self._index_turns()
            self._stage(TURNED, pa.table({"task_id": turned}))
            self._run(f"DELETE FROM {TURNS} WHERE task_id IN (SELECT task_id FROM {TURNED})")
            self._run(f"DROP TABLE {TURNED}")
            self._append_turns(tables, turned)

    def _turned(self, rows: pa.Table) -> Any:
        """The ids of the staged tasks whose turns are others: all, if no transcript tells."""
        if "transcript" not in rows.schema.names:
            return rows[self._id]
        text = self._database.types[pa.string()]
        found = self._fetch(
            f"SELECT s.task_id FROM {STAGED} s JOIN tasks t ON t.task_id = s.task_id WHERE "
            f"CAST(s.transcript AS {text}) IS DISTINCT FROM CAST(t.transcript AS {text})"
        )
        return pa.array([task_id for (task_id,) in found], pa.string())

    def _stage(self, name: str, rows: pa.Table) -> None:
        self._cursor.adbc_ingest(name, rows, mode="create", temporary=True)

    def _keep(self, column: str, text: str) -> None:
        # By a cursor of its own: one that has ingested takes parameters for more to ingest.
        with self._link.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {OURS} (kind, {column}) VALUES ('{self._kind}', $1) "
                f"ON CONFLICT (kind) DO UPDATE SET {column} = excluded.{column}",
                (text,),
            )

    # -- read

    def unsettled(self, after: datetime) -> list[tuple[str, str | None]]:
        if not self._has_row or self._clear:
            return []
        moment = pa.array([after], pa.timestamp("us", "UTC"))
        run = "'+' || run_id" if self._kind == "tasks" else "'-'"
        with self._database.told():
            # Marked, for SQLite's driver takes a column whose first values are null for numbers.
            self._cursor.execute(
                f"SELECT {self._id}, coalesce({run}, '-') FROM {self._kind} "
                f"WHERE settles_from > {self._database.moment(moment)}"
            )
            found = self._cursor.fetchall()
        if self._kind == "runs":
            return [(run_id, run_id) for run_id, _ in found]
        return [(row_id, run_id[1:] if run_id != "-" else None) for row_id, run_id in found]

    def verify(self) -> tuple[Receipt, list[str]]:
        self._database.look()
        try:
            with self._database.told():
                self._link = self._database.connect(read_only=True)
                self._cursor = self._link.cursor()
                receipt = self._receipt()
                return receipt, differences(receipt, self._kind, self._tables())
        finally:
            self._leave()

    def _receipt(self) -> Receipt:
        found = self._kept()
        if not found or found[1] is None:
            raise ConfigurationError(f"{self.target} holds no receipt of an export of {self._kind}")
        return read_receipt(found[1])

    def _tables(self) -> dict[str, Stored | None]:
        """How the tables are read; None for one that is not there."""
        return {name: self._stored(name) if self._columns(name) else None for name in self._schemas}

    def _stored(self, table: str) -> Stored:
        database, cursor = self._database, self._cursor

        def rows(names: list[str]) -> Iterator[tuple[Any, ...]]:
            schema = schema_of(table, "json", None if table == TURNS else tuple(names))
            fields = pa.schema([schema.field(name) for name in names])
            return database.rows(cursor, table, fields)

        columns = self._columns(table)
        return Stored(columns, rows, database.text, lambda: self._sums(table))

    def _sums(self, table: str) -> tuple[int, str | None]:
        count = self._fetch(f"SELECT count(*) FROM {table}")[0][0]
        if table == TURNS:
            return count, None
        return count, fingerprint(self._fetch(f"SELECT {_SUMS} FROM {table}")[0])

    def _entry(self, table: str) -> TableEntry:
        rows, sums = self._sums(table)
        stored = self._stored(table)
        if table == TURNS and "transcript" not in self._schemas["tasks"].names:
            sums = turns_fingerprint(stored)
        ours = set(self._schemas[table].names)
        columns = [(name, kind) for name, kind in stored.columns if name in ours]
        return TableEntry(rows=rows, columns=columns, fingerprint=sums)

    def _columns(self, table: str) -> list[tuple[str, str]]:
        return self._fetch(self._database.columns_of(table))

    def _fetch(self, sql: str) -> list[Any]:
        self._cursor.execute(sql)
        return self._cursor.fetchall()  # type: ignore[no-any-return]

    def _run(self, sql: str) -> None:
        self._cursor.execute(sql)


# Sums that no database finds too large, of two remainders: together 62 bits.
_SUMS = ", ".join(
    f"coalesce(CAST(sum(row_hash % {prime}) AS BIGINT), 0)" for prime in (2147483647, 2147483629)
)
