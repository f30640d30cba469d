"""Files as a destination: parts that are written once, and a checkpoint that says which count.

A write makes its parts durable and then replaces the checkpoint, in one step: that is the
commit. What the checkpoint does not name is what a kill left, and is removed. A row that
changes leaves its part, which is written anew without it, and comes again with the new rows.

A target that ends in `/` is a folder of parts. A single file has its parts in a hidden folder
beside it; at the end they become one file, which takes the target's name.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from unpod_async.errors import ConfigurationError, ExportError
from unpod_async.export._batch import Batch
from unpod_async.export._sink import Written
from unpod_async.export._state import FileEntry, Kind, Receipt, State, TableEntry, read_state
from unpod_async.export._store import Output, written

from ._index import Index
from ._ledger import Commit, Manifest
from ._shelf import Format, Shelf, Version, damaged

__all__ = ["FileSink"]


class _Merged(NamedTuple):
    base: FileEntry | None
    parts: tuple[FileEntry, ...]
    told: Written = Written()


class FileSink:
    """The `Sink` of a file or a folder of files.

    With `partial = True` before `close` a single file is set aside as `….partial`, and the
    target left as it is. `path_written` is where `close` put the rows. A `write` that fails is
    the last one: what is there then is what a sink that is opened anew goes on with.
    """

    def __init__(self, target: str, kind: Kind, form: Format, suffixes: tuple[str, ...]) -> None:
        self.partial = False
        self.path_written: str | None = None
        self._kind, self._form = kind, form
        self._shelf = Shelf(target, form, suffixes)
        self._layout, self._store = self._shelf.layout, self._shelf.store
        self._tables = self._layout.tables(kind)
        self.target = self._shelf.target
        self._commit: Commit | None = None
        self._forget()
        self._number = 0
        self._is_open = self._is_cleared = self._is_broken = False

    def open(self) -> None:
        self._forget()
        self._store.take()
        try:
            self._shelf.check_kinds()
            if not self._is_cleared:
                self._commit = self._shelf.found()
                self._shelf.check_parts(self._commit.entries() if self._commit else [])
                self.checkpoint()
                self._sweep()
            last = self._commit.number if self._commit else 0
            self._number = max(last, self._shelf.highest())
        except BaseException:
            self._store.release()
            raise
        self._is_open = True

    def checkpoint(self) -> State | None:
        """None once it is cleared, and for an export of nothing."""
        if self._is_cleared or self._commit is None or bytes(self._commit.state) == b"null":
            return None
        return read_state(bytes(self._commit.state))

    def in_the_way(self) -> str | None:
        return self._shelf.in_the_way()

    def clear(self) -> None:
        self._is_cleared = True
        self._forget()

    def _forget(self) -> None:
        """All parts are others now, or of an earlier go."""
        self._index = Index()
        self._distinct: set[str] = set()  # parts of batches that have no row in common

    def verify(self) -> tuple[Receipt, list[str]]:
        return self._shelf.verify()

    def unsettled(self, after: datetime) -> list[tuple[str, str | None]]:
        entries = self._commit.entries() if self._commit and not self._is_cleared else []
        found: list[tuple[str, str | None]] = []
        for entry in entries:
            if entry.table == self._kind:
                with self._shelf.read(entry.name) as source:
                    found += self._form.unsettled(source, after)
        return found

    # -- writing

    def prepare(self, batch: Batch) -> None:
        self._form.prepare(batch)

    def write(self, batch: Batch, state: State) -> Written:
        self._check_usable()
        self._is_broken = True
        before = self._begun()
        if self._commit is None and not self._is_cleared:
            self._save(before)  # from now on the parts that there are can only be ours
        merged = _Merged(before.base, before.parts)
        made: list[FileEntry] = []
        try:
            if len(batch):
                with damaged(self.target):
                    merged = self._merge(batch, before, made)
        except BaseException:
            self._drop(made)
            raise
        parts = replace(before, base=merged.base, parts=merged.parts)
        self._save(replace(parts, number=self._number, state=Raw(state.as_json())))
        self._is_broken = False
        return merged.told

    def _check_usable(self) -> None:
        if not self._is_open:
            raise ExportError(f"{self.target} is not open")
        if self._is_broken:
            raise ExportError(f"{self.target}: an earlier write failed")

    def _begun(self) -> Commit:
        """What the next commit builds on."""
        if self._is_cleared or self._commit is None:
            return Commit(form=self._form.name, replaces=self._is_cleared)
        return self._commit

    def _merge(self, batch: Batch, before: Commit, made: list[FileEntry]) -> _Merged:
        """With the rows of a batch; the parts that are new are `made`."""
        rows, ids = self._form.prepare(batch), batch.ids
        index = self._indexed(before, but=self._distinct if batch.is_distinct else ())
        stale, old = self._known(index, rows, ids)
        keep = [at for at, row_id in enumerate(ids) if row_id not in stale]
        base, parts = before.base, before.parts
        for name, gone in old.items():
            mine = [base] if base and base.name == name else _twins(name, parts)
            new = self._without(mine, gone, made)
            index.moved(name, new[0].name if new else None)
            base, parts = _swapped(base, parts, mine, new)
        if keep:
            new = self._part(rows, None if len(keep) == len(ids) else keep, made)
            if batch.is_distinct:
                self._distinct.add(new[0].name)
            else:
                index.put(new[0].name, [ids[at] for at in keep])
            parts = (*parts, *new)
        updated = sum(map(len, old.values()))
        return _Merged(base, parts, Written(len(keep) - updated, updated, len(stale)))

    def _indexed(self, before: Commit, *, but: Collection[str]) -> Index:
        """Of all parts `but` some, which are read when they are needed: at the first write those
        that were there before. What only settles nothing needs no index."""
        for entry in before.entries():
            name = entry.name
            if entry.table == self._kind and name not in self._index and name not in but:
                self._index.put(name, [])  # it may have no rows
                with self._shelf.read(name) as source:
                    for ids in self._form.ids(source):
                        self._index.put(name, ids)
        return self._index

    def _known(
        self, index: Index, rows: Any, ids: list[str]
    ) -> tuple[set[str], dict[str, set[str]]]:
        """Of the rows that are there already: those that stay as they are, and, by part, those
        that are replaced."""
        hits = index.hits(ids)
        stale: set[str] = set()
        old: dict[str, set[str]] = {}
        for name, wanted in index.places(hits):
            with self._shelf.read(name) as source:
                for row_id, its in self._form.versions(source, wanted):
                    mine = self._form.version(rows, hits.pop(row_id))
                    (stale if _stays(its, mine) else old.setdefault(name, set())).add(row_id)
                    wanted.discard(row_id)
                    if not wanted:
                        break
        return stale, old

    def _part(
        self, rows: Any, keep: list[int] | None, made: list[FileEntry]
    ) -> tuple[FileEntry, ...]:
        """The rows as new parts, of which the first is that of the rows themselves."""
        self._number += 1
        first = len(made)
        for table in self._tables:
            name = self._layout.part(table, self._number)
            with written(self._store, name) as to:
                count = self._form.put(to, table, rows, keep)
            made.append(_entry(name, table, count, to))
        return tuple(made[first:])

    def _without(
        self, parts: list[FileEntry], gone: set[str], made: list[FileEntry]
    ) -> tuple[FileEntry, ...]:
        """The same parts without some rows; none if no row is left."""
        if len(gone) == parts[0].rows:
            return ()
        self._number += 1
        first = len(made)
        for part in parts:
            name = self._layout.part(part.table, self._number)
            with self._shelf.read(part.name) as source, written(self._store, name) as to:
                count = self._form.without(to, part.table, source, gone)
            made.append(_entry(name, part.table, count, to))
        return tuple(made[first:])

    def _save(self, commit: Commit) -> None:
        """The commit. After it the parts that it does not name are gone, or go later."""
        before, cleared = self._commit, self._is_cleared
        self._put(self._layout.checkpoint, msgspec.json.encode(commit))
        self._commit, self._is_cleared = commit, False
        with suppress(OSError, ExportError):
            if cleared:
                self._sweep()
                if not self._layout.work:
                    self._store.remove(self._layout.manifest)
            elif before is not None:
                names = {entry.name for entry in commit.parts}
                for entry in before.parts:
                    if entry.name not in names:
                        self._store.remove(entry.name)

    def _put(self, name: str, content: bytes) -> None:
        with written(self._store, name) as to:
            to.write(content)

    def _drop(self, entries: list[FileEntry]) -> None:
        for entry in entries:
            with suppress(OSError, ExportError):
                self._store.remove(entry.name)

    def _sweep(self) -> None:
        for name in self._shelf.leftovers(self._commit):
            self._store.remove(name)

    # -- the end

    def close(self, receipt: Receipt | None) -> None:
        if not self._is_open:
            return
        try:
            if receipt is not None:
                self._check_usable()
                self._finish(receipt)
            elif self._commit == Commit(form=self._form.name):
                with suppress(OSError, ExportError):  # nothing came of the first write
                    self._store.remove(self._layout.checkpoint)
        finally:
            self._is_open = False
            self._store.release()

    def _finish(self, receipt: Receipt) -> None:
        commit = self._begun()
        if commit is not self._commit:  # nothing was written: an export of no rows
            self._save(commit)
        self._sweep()
        receipt.tables = {table: self._table(table, commit) for table in self._tables}
        if self.partial and self._layout.work:
            receipt.files = [self._set_aside(commit)]
            return
        receipt.files = [self._as_one(commit)] if self._layout.work else list(commit.parts)
        number = max(commit.number, self._number)
        form, state = self._form.name, commit.state
        manifest = Manifest(form=form, number=number, receipt=receipt, state=state)
        self._put(self._layout.manifest, manifest.as_json())
        self.path_written = self.target
        self._leave()

    def _table(self, table: str, commit: Commit) -> TableEntry:
        rows = sum(entry.rows for entry in commit.entries() if entry.table == table)
        return TableEntry(rows=rows, columns=self._form.columns(table))

    def _leave(self) -> None:
        """Nothing is under way any more; a single file has no parts."""
        self._store.remove(self._layout.checkpoint)
        if self._layout.work:
            for name in self._shelf.leftovers(None):
                self._store.remove(name)

    def _as_one(self, commit: Commit) -> FileEntry:
        """The target, with all rows. That the checkpoint tells of it before it has its name
        makes a kill behind that a thing to go on from."""
        if commit.base is not None and not commit.parts:
            return commit.base
        alone = commit.base is None and len(commit.parts) == 1
        joined = commit.parts[0] if alone else self._joined(commit)
        self._save(replace(commit, number=self._number, joined=joined))
        try:
            self._store.move(joined.name, self._layout.name, replace=commit.replaces)
        except FileExistsError:
            reason = f"{self.target} appeared meanwhile; it is left alone"
            raise ConfigurationError(reason) from None
        return replace(joined, name=self._layout.name)

    def _joined(self, commit: Commit) -> FileEntry:
        self._number += 1
        name = self._layout.part(self._kind, self._number)
        entries = commit.entries()
        with damaged(self.target), written(self._store, name) as to:
            self._form.join(to, self._kind, self._shelf.sources(entries))
        rows = sum(entry.rows for entry in entries)
        return _entry(name, self._kind, rows, to)

    def _set_aside(self, commit: Commit) -> FileEntry:
        """Rows that are known not to be all, in place of an earlier such file."""
        joined = self._joined(commit)
        self._store.move(joined.name, self._layout.partial, replace=True)
        self.path_written = self._store.path(self._layout.partial)
        self._leave()
        return replace(joined, name=self._layout.partial)


def _entry(name: str, table: str, rows: int, to: Output) -> FileEntry:
    return FileEntry(name=name, table=table, rows=rows, bytes=to.bytes, sha256=to.sha256)


def _stays(there: Version, incoming: Version) -> bool:
    """Whether a row is left as it is."""
    if there.content == incoming.content:
        return True
    if there.modified is None or incoming.modified is None:
        return False
    return bool(incoming.modified < there.modified)


def _twins(name: str, parts: tuple[FileEntry, ...]) -> list[FileEntry]:
    """The part of this name and those of its rows' turns."""
    last = name.rpartition("/")[2]
    return [entry for entry in parts if entry.name.rpartition("/")[2] == last]


def _swapped(
    base: FileEntry | None,
    parts: tuple[FileEntry, ...],
    old: list[FileEntry],
    new: tuple[FileEntry, ...],
) -> tuple[FileEntry | None, tuple[FileEntry, ...]]:
    """With new parts in the place of old ones."""
    if base is not None and base in old:
        return None, (*new, *parts)
    at = parts.index(old[0])
    return base, tuple(e for e in (*parts[:at], *new, *parts[at:]) if e not in old)
