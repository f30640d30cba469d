"""What a file destination keeps beside its rows: which parts count, how far they go, and at
the end the receipt. Pure."""

from __future__ import annotations

import re
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import Raw, Struct, field

from unpod_async._secrets import safe_text
from unpod_async.errors import ConfigurationError
from unpod_async.export._batch import TABLES
from unpod_async.export._state import FileEntry, Receipt

__all__ = ["Commit", "Layout", "Manifest", "layout_of", "read_commit", "read_manifest"]

VERSION = 1

D = TypeVar("D", bound="Commit | Manifest")


class Commit(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """`_checkpoint.json`: what counts while an export is under way."""

    version: int = VERSION
    form: str
    number: int = 0
    """The last one that a part was given."""
    base: FileEntry | None = None
    """The file that was there before, if its rows are the first ones."""
    parts: tuple[FileEntry, ...] = ()
    joined: FileEntry | None = None
    """The file that is about to take the target's name."""
    replaces: bool = False
    """Whether a file that has the target's name may be replaced."""
    state: Raw = field(default_factory=lambda: Raw(b"null"))

    def entries(self) -> list[FileEntry]:
        return [*([self.base] if self.base else []), *self.parts]


class Manifest(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """`_manifest.json`: the receipt, and what is needed to go on."""

    version: int = VERSION
    form: str
    number: int
    receipt: Receipt
    state: Raw

    def as_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1)


class Layout(NamedTuple):
    """The names of a target's files, below its store's folder. `work` is the folder of the parts
    of a single file, "" if the target is a folder itself."""

    folder: str
    name: str
    work: str
    suffix: str

    @property
    def checkpoint(self) -> str:
        return self._in_work("_checkpoint.json")

    @property
    def manifest(self) -> str:
        return f"{self.name}.manifest.json" if self.work else "_manifest.json"

    @property
    def partial(self) -> str:
        return f"{self.name}.partial"

    def tables(self, kind: str) -> tuple[str, ...]:
        """The tables that the target holds: a single file has only the rows."""
        return (kind,) if self.work or self.suffix.startswith(".jsonl") else TABLES[kind]

    def folders(self) -> tuple[str, ...]:
        """Where there may be parts, of whatever kind the export was."""
        if self.work:
            return (self.work,)
        return tuple(dict.fromkeys(table for tables in TABLES.values() for table in tables))

    def part(self, table: str, number: int) -> str:
        return f"{self.work or table}/part-{number:05}{self.suffix}"

    def number(self, name: str) -> int | None:
        """Of a part, by its name without the folder; None for any other file."""
        found = re.fullmatch(r"part-(\d{5,18})" + re.escape(self.suffix), name)
        return int(found[1]) if found else None

    def is_ours(self, name: str) -> bool:
        """Whether a name in a checkpoint can be one that we wrote: it may have been meddled
        with, and files are removed by it."""
        folder, _, last = name.rpartition("/")
        if self.work and name == self.name:
            return True
        return folder in self.folders() and self.number(last) is not None

    def _in_work(self, name: str) -> str:
        return f"{self.work}/{name}" if self.work else name


def layout_of(target: str, suffixes: tuple[str, ...]) -> Layout:
    """Raises `ConfigurationError` for a target that has no name before its suffix."""
    path, mark, options = target.partition("?") if "://" in target else (target, "", "")
    is_folder = path.endswith("/")
    folder, slash, name = path.rstrip("/").rpartition("/")
    suffix = next((s for s in suffixes if name.endswith(s) and name != s), None)
    if suffix is None:
        raise ConfigurationError(f"{safe_text(name)}: the name must end in {' or '.join(suffixes)}")
    if is_folder:
        return Layout(path.rstrip("/") + mark + options, name, "", suffix)
    folder = (folder + slash if folder.endswith(("/", ":")) else folder) or slash or "."
    return Layout(folder + mark + options, name, f".{name}.unpod", suffix)


def read_commit(sent: bytes, name: str, layout: Layout) -> Commit:
    """Raises `ConfigurationError` for anything but a checkpoint that this version wrote."""
    commit = _read(Commit, sent, name)
    joined = [commit.joined] if commit.joined else []
    _check_names([*commit.entries(), *joined], name, layout)
    return commit


def read_manifest(sent: bytes, name: str, layout: Layout) -> Manifest:
    """Raises `ConfigurationError` for anything but a manifest that this version wrote."""
    manifest = _read(Manifest, sent, name)
    _check_names(manifest.receipt.files, name, layout)
    return manifest


def _read(kind: type[D], sent: bytes, name: str) -> D:
    try:
        found: dict[str, Any] = msgspec.json.decode(sent, type=dict[str, Any])
        if (version := found.get("version")) != VERSION:
            told = safe_text(repr(version), limit=50)
            raise ConfigurationError(f"{name} is of version {told}, and this reads {VERSION}")
        return msgspec.json.decode(sent, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{name} is damaged ({safe_text(error)})") from None


def _check_names(entries: list[FileEntry], name: str, layout: Layout) -> None:
    for entry in entries:
        if not layout.is_ours(entry.name):
            raise ConfigurationError(f"{name} is damaged (it names {safe_text(entry.name)})")
