"""What a file destination finds at its target: its own files, others, and whether they are as
the checkpoint or the receipt says."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, BinaryIO, NamedTuple, Protocol

import msgspec
from msgspec.structs import replace

from unpod_async._secrets import safe_text
from unpod_async.errors import ConfigurationError, ExportError
from unpod_async.export._batch import Batch
from unpod_async.export._state import FileEntry, Receipt
from unpod_async.export._store import STEP, TEMPORARY, Output, store_for

from ._ledger import Commit, layout_of, read_commit, read_manifest

__all__ = ["Format", "Shelf", "Version", "copy", "damaged"]

_BROKEN = (ValueError, LookupError, EOFError, zlib.error, msgspec.MsgspecError)


class Version(NamedTuple):
    """What tells two states of a row apart: its time, if it has one, and what it holds."""

    modified: Any
    content: Any


class Format(Protocol):
    """How rows are written to a file and read from it. `rows` is a batch as `prepare` made it;
    a file is read from its beginning, in steps."""

    @property
    def name(self) -> str: ...

    def prepare(self, batch: Batch) -> Any:
        """The rows in the form in which they are written: the batch keeps what took long."""

    def version(self, rows: Any, at: int, /) -> Version:
        """Of the row at a position of the batch."""

    def put(self, to: Output, table: str, rows: Any, keep: list[int] | None, /) -> int:
        """A part of a table with the rows at these positions (None: all). Gives its rows."""

    def ids(self, source: BinaryIO) -> Iterator[list[str]]:
        """Of all rows, in order."""

    def versions(self, source: BinaryIO, ids: set[str], /) -> Iterator[tuple[str, Version]]:
        """Of those rows that are there."""

    def unsettled(self, source: BinaryIO, after: datetime) -> Iterator[tuple[str, str | None]]:
        """(id, run_id) of all rows that settle later."""

    def without(self, to: Output, table: str, source: BinaryIO, ids: set[str], /) -> int:
        """A part anew without the rows (or turns) of these ids. Gives its rows."""

    def join(self, to: Output, table: str, sources: Iterator[BinaryIO], /) -> None:
        """Parts as one file; of no parts an empty one."""

    def count(self, source: BinaryIO, table: str, /) -> int:
        """The rows of a file by its content."""

    def columns(self, table: str, /) -> list[tuple[str, str]]:
        """(name, type)."""


class Shelf:
    """The files of one target."""

    def __init__(self, target: str, form: Format, suffixes: tuple[str, ...]) -> None:
        self.layout = layout_of(target, suffixes)
        self.store = store_for(self.layout.folder, self.layout.work)
        self.form = form

    @property
    def target(self) -> str:
        return self.store.path(self.layout.name if self.layout.work else "")

    def found(self) -> Commit | None:
        """What the checkpoint says, or the manifest if no export is under way. Raises
        `ConfigurationError` for one that is damaged."""
        layout, store = self.layout, self.store
        if (sent := store.read(layout.checkpoint)) is not None:
            commit = read_commit(sent, store.path(layout.checkpoint), layout)
            self._check_form(commit.form)
            return self._recovered(commit)
        if (sent := store.read(layout.manifest)) is None:
            return None
        manifest = read_manifest(sent, store.path(layout.manifest), layout)
        self._check_form(manifest.form)
        files = tuple(manifest.receipt.files)
        made = Commit(form=manifest.form, number=manifest.number, state=manifest.state)
        if not layout.work:
            return replace(made, parts=files)
        # A manifest whose file the user removed says nothing any more.
        there = store.kind(layout.name) is not None and len(files) == 1
        return replace(made, base=files[0], replaces=True) if there else None

    def _recovered(self, commit: Commit) -> Commit:
        """After a kill behind the rename the target has all rows already."""
        joined = commit.joined
        if joined is None or self.store.size(self.layout.name) != joined.bytes:
            return replace(commit, joined=None)
        if self.sha256(self.layout.name) != joined.sha256:
            return replace(commit, joined=None)
        base = replace(joined, name=self.layout.name)
        return replace(commit, base=base, parts=(), joined=None, replaces=True)

    def _check_form(self, form: str) -> None:
        if form != self.form.name:
            raise ConfigurationError(f"{self.target} was written as {form}, not {self.form.name}")

    def check_kinds(self) -> None:
        """Raises `ConfigurationError` for a link or a folder where a file belongs."""
        layout, store = self.layout, self.store
        files = [layout.checkpoint, layout.manifest]
        files += [layout.name, layout.partial] if layout.work else []
        folders = () if layout.work else layout.folders()
        wanted = dict.fromkeys(files, "file") | dict.fromkeys(folders, "folder")
        for name, kind in wanted.items():
            if (found := store.kind(name)) not in (None, kind):
                raise ConfigurationError(f"{store.path(name)} is a {found}; it is left alone")

    def check_parts(self, entries: Iterable[FileEntry]) -> None:
        """Raises `ConfigurationError` for a part that is missing or of another size."""
        for entry in entries:
            name = self.store.path(entry.name)
            if (kind := self.store.kind(entry.name)) not in (None, "file"):
                raise ConfigurationError(f"{name} is a {kind}; it is left alone")
            if (size := self.store.size(entry.name)) != entry.bytes:
                what = "is missing" if size is None else "was changed since it was written"
                raise ConfigurationError(f"{name} {what}")

    def in_the_way(self) -> str | None:
        layout, store = self.layout, self.store
        found: Commit | None = None
        try:
            found = self.found()
        except ConfigurationError:  # ours, though damaged
            return None
        if layout.work:
            is_ours = found is not None and (found.base is not None or found.replaces)
            is_there = store.kind(layout.name) is not None and not is_ours
            return f"{self.target} exists" if is_there else None
        if found is None and store.kind() == "folder" and not self._is_empty():
            return f"{self.target} is a folder with other files"
        return None

    def _is_empty(self) -> bool:
        """Whether there is nothing but what a kill may leave before the first commit."""
        folders = self.layout.folders()
        names = [name for name in self.store.names("") if name not in folders]
        names += [name for folder in folders for name in self.store.names(folder)]
        return all(map(TEMPORARY.fullmatch, names))

    def parts(self) -> list[str]:
        """The parts that are there, whether they count or not, and what was not completed."""
        found = [
            f"{folder}/{name}"
            for folder in self.layout.folders()
            for name in self.store.names(folder)
            if self.layout.number(name) is not None or TEMPORARY.fullmatch(name)
        ]
        if not self.layout.work:
            found += [name for name in self.store.names("") if TEMPORARY.fullmatch(name)]
        return found

    def highest(self) -> int:
        """The highest number of a part that is there."""
        names = [name.rpartition("/")[2] for name in self.parts()]
        return max((self.layout.number(name) or 0 for name in names), default=0)

    def leftovers(self, commit: Commit | None) -> list[str]:
        """Parts that do not count, and what was not completed. Beside neither a checkpoint nor
        a manifest a folder's parts are somebody's."""
        names = {entry.name for entry in commit.entries()} if commit else set()
        found = self.parts()
        if commit is None and not self.layout.work:
            found = [name for name in found if TEMPORARY.fullmatch(name.rpartition("/")[2])]
        return [n for n in found if n not in names and self.store.kind(n) == "file"]

    @contextmanager
    def read(self, name: str) -> Iterator[BinaryIO]:
        """A file to be read; what is wrong with its content is an `ExportError`."""
        with damaged(self.store.path(name)), self.store.open(name) as file:
            yield file

    def sources(self, entries: Iterable[FileEntry]) -> Iterator[BinaryIO]:
        for entry in entries:
            with self.read(entry.name) as file:
                yield file

    def sha256(self, name: str) -> str:
        digest = hashlib.sha256()
        with self.store.open(name) as file:
            while step := file.read(STEP):
                digest.update(step)
        return digest.hexdigest()

    # -- the proof

    def verify(self) -> tuple[Receipt, list[str]]:
        layout, store = self.layout, self.store
        if (sent := store.read(layout.manifest)) is None:
            raise ConfigurationError(f"{self.target} has no receipt")
        receipt = read_manifest(sent, store.path(layout.manifest), layout).receipt
        links = [name for name in layout.folders() if store.kind(name) == "symbolic link"]
        wrong = [f"{store.path(name)} is a symbolic link" for name in links if not layout.work]
        if store.kind(layout.checkpoint) is not None:
            name = store.path(layout.checkpoint)
            wrong.append(f"{name} is there: an export is under way or was killed")
        counted = dict.fromkeys(receipt.tables, 0)
        for entry in receipt.files:
            rows, differs = self._differs(entry)
            counted[entry.table] = counted.get(entry.table, 0) + rows
            wrong += [f"{store.path(entry.name)}: {what}" for what in differs]
        for table, rows in counted.items():
            if table not in receipt.tables or receipt.tables[table].rows != rows:
                wrong.append(f"table {table} has {rows} rows, not as many as its receipt says")
        named = {entry.name for entry in receipt.files}
        left = [name for name in self.parts() if name not in named]
        return receipt, wrong + [f"{store.path(name)} is not in the receipt" for name in left]

    def _differs(self, entry: FileEntry) -> tuple[int, list[str]]:
        """The rows of a file by its content, and what is not as its receipt says."""
        if (kind := self.store.kind(entry.name)) != "file":
            return 0, ["it is missing" if kind is None else f"it is a {kind}"]
        wrong: list[str] = []
        if (size := self.store.size(entry.name)) != entry.bytes:
            wrong.append(f"it has {size} bytes, not {entry.bytes}")
        if self.sha256(entry.name) != entry.sha256:
            wrong.append("its content is not what was written (sha256)")
        try:
            with self.read(entry.name) as file:
                rows = self.form.count(file, entry.table)
        except (ExportError, OSError) as error:
            return 0, [*wrong, f"it cannot be read ({safe_text(error, limit=200)})"]
        if rows != entry.rows:
            wrong.append(f"it has {rows} rows, not {entry.rows}")
        return rows, wrong


def copy(source: BinaryIO, to: Output) -> None:
    while step := source.read(STEP):
        to.write(step)


@contextmanager
def damaged(name: str) -> Iterator[None]:
    """Around the reading of a file: what a damaged one raises becomes an `ExportError`."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if not isinstance(error, _BROKEN) and not type(error).__module__.startswith("pyarrow"):
            raise
        raise ExportError(f"{name} cannot be read: {safe_text(error, limit=200)}") from error
