"""Delta Lake: `delta:PATH` or `delta:s3://BUCKET/PATH`, a folder with a Delta table for each table.

What is atomic: the rows of `tasks` (or `runs`) and the state are one commit of one table, the
state in the commit's metadata: it is never ahead of the rows. The turns are another table, and
Delta has no commit over two: they are committed just before, under the same number, and if the
commit of the tasks does not follow, they are put back to what they were, by this export or, if
it was killed, by the next one that opens the target. Until then a reader may see turns that are
newer than their tasks. Every row is written by its key, so a batch that comes again does no harm.
The receipt is a property of the table (`unpod.receipt`), committed last.

On a full disk the library in Rust also prints a panic of its own; the export ends as any other.

One export at a time: a lock on the folder. In an object store there is none: there the second
of two exports fails at its commit, for each names the number of the one that it follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from unpod_async._missing import needs
from unpod_async._secrets import plain_url, safe_text
from unpod_async.errors import ConfigurationError, ExportError, UnpodError
from unpod_async.export._schema import IDENTITY, TABLES, TURNS
from unpod_async.export._sink import Written
from unpod_async.export._state import Kind, Receipt, State, TableEntry, read_receipt, read_state

from ._database import harmless, plain
from ._folder import Folder
from ._lake import (
    APP,
    NUMBER,
    json_of,
    marked,
    set_of,
    stored_schema,
    taken_at,
)
from ._targets import check_columns
from ._verify import Stored, differences, fingerprint, turns_fingerprint

with needs("delta", "pyarrow", "deltalake"):
    import pyarrow as pa
    import pyarrow.compute as pc
    from deltalake import DeltaTable, write_deltalake
    from deltalake.exceptions import DeltaError

if TYPE_CHECKING:
    from unpod_async.export._batch import Batch

__all__ = ["make"]

STATE, RECEIPT, BEFORE = "unpod.state", "unpod.receipt", "unpod.before"
PRIMES = (2147483647, 2147483629)
KEEP_LOG = {"delta.logRetentionDuration": "interval 3650 days"}
"""The state is in the log: it must not be cleaned away while others write to the table."""


def make(target: str, kind: Kind, columns: tuple[str, ...] | None) -> DeltaSink:
    return DeltaSink(target.removeprefix("delta:"), kind, columns)


class DeltaSink:
    """A folder of Delta tables."""

    def __init__(self, place: str, kind: Kind, columns: tuple[str, ...] | None) -> None:
        if not place or "\0" in place:
            raise ConfigurationError("delta:PATH needs the path of a folder")
        self._folder = None if "://" in place else Folder(place)
        self._place = str(self._folder.path) if self._folder else place.rstrip("/")
        self.target = f"delta:{safe_text(plain_url(self._place))}"
        self.notes: list[str] = []
        self._kind: Kind = kind
        self._id = IDENTITY[kind]
        self._schemas = {name: stored_schema(name, kind, columns) for name in TABLES[kind]}
        self._tables: dict[str, Any] = {}
        self._state: State | None = None
        self._number = 0
        self._clear = self._wrote = self._is_ours = False
        self._must_look = True
        """Whether it may hold a row that a distinct batch brings again."""

    # -- open and close

    def open(self) -> None:
        if self._folder:
            self._folder.take()
        try:
            with self._told():
                self._tables = self._found()
                self._number = self._last(self._kind)[0]
                if not self._clear:
                    self._read()
                    self._mend()
                    table = self._tables.get(self._kind)
                    self._must_look = table is not None and bool(table.file_uris())
        except BaseException:
            self._leave()
            raise

    def _found(self) -> dict[str, DeltaTable]:
        if self._folder:
            self._folder.check([below for n in self._schemas for below in (n, f"{n}/_delta_log")])
        places = {name: f"{self._place}/{name}" for name in self._schemas}
        return {
            name: DeltaTable(place)
            for name, place in places.items()
            if DeltaTable.is_deltatable(place)
        }

    def _last(self, table: str) -> tuple[int, dict[str, Any]]:
        """The number and the metadata of the last commit that was ours."""
        if table in self._tables:
            for limit in (10, None):  # nearly always the last one
                for commit in self._tables[table].history(limit):
                    if NUMBER in commit:
                        return int(commit[NUMBER]), commit
        return 0, {}

    def _read(self) -> None:
        commit = self._last(self._kind)[1]
        self._is_ours = bool(commit)
        if STATE in commit:
            self._state = read_state(commit[STATE])
        if commit:
            self._compare_columns()

    def _compare_columns(self) -> None:
        for name, schema in self._schemas.items():
            there = self._tables.get(name)
            have = {field.name for field in there.schema().fields} if there else set()
            check_columns(self.target, name, have, schema.names)

    def _mend(self) -> None:
        """Turns whose tasks were never committed go."""
        if TURNS in self._tables:
            number, commit = self._last(TURNS)
            if number > self._number:
                if not str(before := commit.get(BEFORE, "")).isdecimal():
                    raise ConfigurationError(f"{self.target}: the log of {TURNS} is damaged")
                self._put_back(int(before))

    def _put_back(self, version: int) -> None:
        self._tables[TURNS].restore(
            version, commit_properties=marked(self._number, {BEFORE: str(version)})
        )

    def checkpoint(self) -> State | None:
        return self._state

    def in_the_way(self) -> str | None:
        if self._is_ours:
            return None
        with self._told():
            for name in sorted(self._tables):
                if not self._last(name)[1]:
                    return f"{self.target} has a table {name} that is of no export"
        if self._folder and (
            others := self._folder.others({name for names in TABLES.values() for name in names})
        ):
            return f"{self.target} holds other files: {others}"
        return None

    def clear(self) -> None:
        self._clear = True
        self._must_look = False
        self._state = None

    def close(self, receipt: Receipt | None) -> None:
        try:
            if receipt is not None:
                with self._told():
                    self._finish(receipt)
        finally:
            self._leave()

    def _finish(self, receipt: Receipt) -> None:
        self._prepare()
        receipt.files = []
        receipt.tables = {name: self._entry(name) for name in self._schemas}
        kept = {} if self._state is None else {STATE: self._state.as_json().decode()}
        self._tables[self._kind].alter.set_table_properties(
            {RECEIPT: receipt.as_json().decode()},
            raise_if_not_exists=False,
            commit_properties=marked(self._number, kept),
        )
        self._wrote = True

    def _leave(self) -> None:
        self._tables = {}
        if self._folder:
            self._folder.release(keep=self._wrote)

    # -- write

    def prepare(self, batch: Batch) -> None:
        batch.tables("json")
        batch.forget_rows()

    def write(self, batch: Batch, state: State) -> Written:
        tables = self._made(batch)
        with self._told():
            self._prepare()
            self._check_alone()
            must_look = self._must_look or not batch.is_distinct
            self._must_look = True  # unless all of it succeeds
            written = self._take_over(tables, state, must_look)
        self._must_look = must_look
        self._state, self._is_ours, self._wrote = state, True, True
        self._number += 1
        return written

    def _made(self, batch: Batch) -> dict[str, pa.Table]:
        tables = batch.tables("json") if len(batch) else {}
        return {
            name: tables[name].cast(schema) if tables else schema.empty_table()
            for name, schema in self._schemas.items()
        }

    def _prepare(self) -> None:
        """The tables are there, marked as ours from the first; those to be replaced are emptied
        with the first rows' commits. That of the turns is made first: where there are tasks,
        there are turns, whenever an export was killed."""
        for name in reversed(self._schemas):
            if name not in self._tables:
                self._wrote = True
                self._tables[name] = DeltaTable.create(
                    f"{self._place}/{name}",
                    schema=self._schemas[name],
                    configuration=KEEP_LOG,
                    commit_properties=marked(0, {}),
                )

    def _check_alone(self) -> None:
        for table in self._tables.values():
            table.update_incremental()
        last = self._tables[self._kind].transaction_version(APP)
        if last is not None and last > self._number:
            raise ConfigurationError(f"another export is writing to {self.target}")

    def _take_over(self, tables: dict[str, pa.Table], state: State, must_look: bool) -> Written:
        rows = tables[self._kind]
        same = self._hits(rows) if must_look and not self._clear else {}
        new = [at for at in range(len(rows)) if at not in same]
        changed = [at for at, is_same in same.items() if not is_same]
        taken = rows if not same else taken_at(rows, sorted([*new, *changed]))
        ids = taken[self._id] if same else None
        with self._turns_too(tables, ids, taken_at(rows[self._id], changed)):
            self._write(self._kind, taken, [self._id] if changed else [], {STATE: json_of(state)})
        self._clear = False
        return Written(len(new), len(changed), len(same) - len(changed))

    @contextmanager
    def _turns_too(self, tables: dict[str, pa.Table], ids: Any, changed: Any) -> Iterator[None]:
        """The turns (of these tasks, or of all) are committed before the block, and put back if
        it fails: at once if that can be, else when the target is opened again."""
        if TURNS not in self._tables:
            yield
            return
        table = self._tables[TURNS]
        before = table.version()
        turns = tables[TURNS]
        if ids is not None:
            turns = turns.filter(pc.is_in(turns["task_id"], set_of(ids)))
        key = ["task_id", "index"] if len(changed) else []
        if key:
            turns = turns.append_column("gone", pa.array([False] * len(turns), pa.bool_()))
            turns = pa.concat_tables([turns, self._gone(turns, changed)])
        if len(turns) or self._clear:
            self._write(TURNS, turns, key, {BEFORE: str(before)})
        ours = table.version()
        try:
            yield
        except BaseException:
            if ours > before:
                with suppress(DeltaError, OSError):
                    self._put_back(before)
            raise

    def _gone(self, turns: pa.Table, changed: Any) -> pa.Table:
        """The stored turns behind the last one that a changed task still has."""
        left = dict.fromkeys(changed.to_pylist(), 0)
        for task_id in turns["task_id"].to_pylist():
            if task_id in left:
                left[task_id] += 1
        found = [
            {"task_id": task_id, "index": index, "gone": True}
            for task_id, index in self._scan(TURNS, ["task_id", "index"], "task_id", [*left])
            if index >= left[task_id]
        ]
        return pa.Table.from_pylist(found, schema=turns.schema)

    def _write(self, name: str, rows: pa.Table, key: list[str], kept: dict[str, str]) -> None:
        """One commit: new rows are appended, or, with a `key`, merged by it."""
        table, mark = self._tables[name], marked(self._number + 1, kept, is_write=True)
        if not key or self._clear:
            form: dict[str, Any] = {"mode": "append"}
            if self._clear:
                form = {"mode": "overwrite", "schema_mode": "overwrite"}
            write_deltalake(table, rows, commit_properties=mark, **form)
            table.update_incremental()
            return
        where = " AND ".join(f't."{column}" = s."{column}"' for column in key)
        merge = table.merge(rows, where, source_alias="s", target_alias="t", commit_properties=mark)
        if "gone" in rows.schema.names:
            values = {f'"{n}"': f's."{n}"' for n in rows.schema.names if n != "gone"}
            merge = merge.when_matched_delete("s.gone").when_matched_update(values)
            merge.when_not_matched_insert(values, "NOT s.gone").execute()
        else:
            merge.when_matched_update_all().when_not_matched_insert_all().execute()

    def _hits(self, rows: pa.Table) -> dict[int, bool]:
        """Of the rows that are there already, by position: whether they stay as they are."""
        names = [self._id, "row_hash", "modified_at"]
        mine = [column.to_pylist() for column in plain(rows.select(names)).columns]
        places = {row_id: at for at, row_id in enumerate(mine[0])}
        hits = {}
        for row_id, hashed, modified in self._scan(self._kind, names, self._id, mine[0]):
            at = places[row_id]
            newest = mine[2][at]
            is_older = None not in (modified, newest) and modified > newest
            hits[at] = hashed == mine[1][at] or is_older
        return hits

    # -- read

    def _scan(
        self, name: str, columns: list[str], key: str | None = None, ids: list[str] | None = None
    ) -> Iterator[tuple[Any, ...]]:
        """Some columns of the rows (with these ids), never many rows at once."""
        if ids == []:
            return
        wanted = pa.array(ids or [], pa.string())
        stored = self._tables[name].to_pyarrow_dataset()
        for batch in stored.to_batches(
            columns=columns, batch_size=8192, batch_readahead=2, fragment_readahead=1
        ):
            if key is not None:  # not by the dataset's own filter: a merge leaves string views
                batch = batch.filter(pc.is_in(batch[key].cast(pa.string()), wanted))
            yield from zip(*(column.to_pylist() for column in plain(batch).columns), strict=True)

    def unsettled(self, after: datetime) -> list[tuple[str, str | None]]:
        if not self._is_ours or self._clear:
            return []
        names = list(dict.fromkeys((self._id, "run_id")))
        with self._told():
            stored = self._tables[self._kind].to_pyarrow_dataset()
            found = stored.to_table(columns=names, filter=pc.field("settles_from") > after)
        first, last = found[names[0]].to_pylist(), found[names[-1]].to_pylist()
        return list(zip(first, last, strict=True))

    def verify(self) -> tuple[Receipt, list[str]]:
        try:
            with self._told():
                self._tables = self._found()
                receipt = self._receipt()
                stored = {
                    name: self._stored(name) if name in self._tables else None
                    for name in self._schemas
                }
                return receipt, differences(receipt, self._kind, stored)
        finally:
            self._tables = {}

    def _receipt(self) -> Receipt:
        found = None
        if self._kind in self._tables:
            found = self._tables[self._kind].metadata().configuration.get(RECEIPT)
        if found is None:
            raise ConfigurationError(f"{self.target} holds no receipt of an export of {self._kind}")
        return read_receipt(found)

    def _stored(self, name: str) -> Stored:
        fields = self._tables[name].schema().fields
        columns = [(field.name, str(getattr(field.type, "type", field.type))) for field in fields]
        return Stored(columns, lambda names: self._scan(name, names), str, lambda: self._sums(name))

    def _sums(self, name: str) -> tuple[int, str | None]:
        if name == TURNS:
            return self._tables[name].to_pyarrow_dataset().count_rows(), None
        count, sums = 0, [0, 0]
        for (hashed,) in self._scan(name, ["row_hash"]):
            count += 1
            for at, prime in enumerate(PRIMES):
                sums[at] += hashed % prime if hashed is not None else 0
        return count, fingerprint(sums)

    def _entry(self, name: str) -> TableEntry:
        stored = self._stored(name)
        rows, sums = stored.sums()
        if name == TURNS and "transcript" not in self._schemas["tasks"].names:
            sums = turns_fingerprint(stored)
        ours = set(self._schemas[name].names)
        columns = [(column, kind) for column, kind in stored.columns if column in ours]
        return TableEntry(rows=rows, columns=columns, fingerprint=sums)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (UnpodError, OSError):
            raise
        except (DeltaError, pa.ArrowException, ValueError) as error:
            raise ExportError(f"{self.target}: {harmless(str(error))}") from None
