"""Parts that other exports wrote become those of one target, in one commit."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec import Raw

from unpod_async.errors import ConfigurationError
from unpod_async.export._state import FileEntry, State
from unpod_async.export._store import LocalStore

from ._ledger import Commit, read_manifest
from ._parts import FileSink
from ._shelf import Shelf

__all__ = ["adopt", "remove", "share_of", "shares_of"]


def share_of(sink: FileSink, share: tuple[int, int]) -> str:
    """The target of a share (k, n) of an export: a folder beside its own target. Raises
    `ConfigurationError` for one with files of somebody else."""
    target = f"{_beside(sink)}/.{share[0]}-of-{share[1]}.{sink._layout.name}/"
    if (others := _shelf(sink, target).in_the_way()) is not None:
        raise ConfigurationError(f"{others}, where a part of this export would be written")
    return target


def shares_of(sink: FileSink) -> list[str]:
    """All such folders that are there, of other numbers of shares too."""
    named = re.compile(r"\.\d+-of-\d+\." + re.escape(sink._layout.name))
    there = sorted(Path(_beside(sink)).iterdir())
    found = [f"{path}/" for path in there if named.fullmatch(path.name) and path.is_dir()]
    return [target for target in found if _shelf(sink, target).in_the_way() is None]


def _beside(sink: FileSink) -> Path:
    if not isinstance(sink, FileSink) or not isinstance(sink._store, LocalStore):
        raise ConfigurationError("several processes write files of this machine, nothing else")
    return Path(sink.target).absolute().parent


def _shelf(sink: FileSink, target: str) -> Shelf:
    return Shelf(target, sink._form, (sink._layout.suffix,))


def adopt(sink: FileSink, targets: Sequence[str], state: State) -> int:
    """The rows of finished folders are now those of an open sink, in place of all that it
    had. Gives how many. The folders keep theirs, until `remove`. Raises `OSError`, and
    `ConfigurationError` for a folder that is not finished."""
    parts: list[FileEntry] = []
    for target in targets:
        parts += _linked(sink, target)
    sink._save(
        Commit(
            form=sink._form.name,
            number=sink._number,
            parts=tuple(parts),
            replaces=True,
            state=Raw(state.as_json()),
        )
    )
    return sum(part.rows for part in parts if part.table == state.job.kind)


def _linked(sink: FileSink, target: str) -> Iterable[FileEntry]:
    """The parts of a folder under names of the sink's. Parts of one number stay together."""
    shelf = _shelf(sink, target)
    sent = shelf.store.read(shelf.layout.manifest)
    if sent is None:
        raise ConfigurationError(f"{target} is not finished")
    numbers: dict[str, int] = {}
    for entry in read_manifest(sent, target, shelf.layout).receipt.files:
        if entry.table in sink._tables:
            last = entry.name.rpartition("/")[2]
            if last not in numbers:
                sink._number += 1
                numbers[last] = sink._number
            name = sink._layout.part(entry.table, numbers[last])
            sink._store.adopt(Path(shelf.store.path(entry.name)), name)  # type: ignore[attr-defined]
            yield FileEntry(
                name=name,
                table=entry.table,
                rows=entry.rows,
                bytes=entry.bytes,
                sha256=entry.sha256,
            )


def remove(targets: Iterable[str]) -> None:
    """What the shares leave when they are adopted."""
    for target in targets:
        shutil.rmtree(target.rstrip("/"), ignore_errors=True)
