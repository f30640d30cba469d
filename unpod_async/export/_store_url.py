"""Files of an object store, or whatever else `pyarrow.fs` reaches by an URL.

An object store promises what it promises: an object is there once it is closed. Elsewhere a
file gets its name when it is complete. Nothing keeps a second export out.
"""

from __future__ import annotations

import errno
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from unpod_async._missing import needs
from unpod_async._secrets import plain_url, safe_text
from unpod_async.errors import ConfigurationError, ExportError

from ._store import STEP, Output, What, written

__all__ = ["UrlStore"]

_WHOLE_AT_CLOSE = ("s3", "gcs", "abfs")


def _filesystem(url: str) -> tuple[Any, str]:
    with needs("arrow", "pyarrow"):
        from pyarrow import fs
    try:
        system, path = fs.FileSystem.from_uri(url)
    except (ValueError, OSError, NotImplementedError, RuntimeError) as error:
        reason = safe_text(_without(str(error), url))
        raise ConfigurationError(f"{plain_url(url)} cannot be opened: {reason}") from None
    return system, path.strip("/") if system.type_name in _WHOLE_AT_CLOSE else path.rstrip("/")


def _without(text: str, url: str) -> str:
    """A text that may quote the URL, or a part of it that is secret."""
    before, at, _ = url.partition("://")[2].rpartition("@")
    query = url.partition("?")[2]
    text = text.replace(url, plain_url(url))
    for part in (before + at, *re.split("[:@/]", before), *re.split("[&=]", query)):
        text = text.replace(part, "***") if len(part) > 3 else text
    return text


class UrlStore:
    """A folder behind an URL. One export at a time is the user's care."""

    def __init__(self, url: str, work: str) -> None:
        self._url, self._work = url, work
        self._system, self._root = _filesystem(url)
        self._is_whole = self._system.type_name in _WHOLE_AT_CLOSE

    def path(self, name: str = "") -> str:
        return "/".join(filter(None, (plain_url(self._url).rstrip("/"), name)))

    def _at(self, name: str) -> str:
        return "/".join(filter(None, (self._root, name)))

    def take(self) -> None:
        with _stored(self.path()):
            self._system.get_file_info(self._at(self._work))

    def release(self) -> None:
        if self._work:
            self.remove_folder(self._work)

    def _info(self, name: str) -> Any:
        with _stored(self.path(name)):
            return self._system.get_file_info(self._at(name))

    def kind(self, name: str = "") -> What | None:
        info = self._info(name)
        kinds: dict[str, What | None] = {"File": "file", "Directory": "folder", "NotFound": None}
        return kinds.get(info.type.name, "thing of another kind")

    def size(self, name: str) -> int | None:
        info = self._info(name)
        return int(info.size) if info.is_file else None

    def names(self, folder: str) -> list[str]:
        from pyarrow.fs import FileSelector

        with _stored(self.path(folder)):
            selector = FileSelector(self._at(folder), allow_not_found=True)
            return sorted(info.base_name for info in self._system.get_file_info(selector))

    def read(self, name: str) -> bytes | None:
        if self.kind(name) is None:
            return None
        with self.open(name) as file:
            return file.read()

    def open(self, name: str) -> BinaryIO:
        with _stored(self.path(name)):
            file: BinaryIO = self._system.open_input_file(self._at(name))
            return file

    def create(self, name: str) -> Output:
        with _stored(self.path(name)):
            if not self._is_whole:
                folder = name.rpartition("/")[0] or self._work
                self._system.create_dir(self._at(folder), recursive=True)
            temporary = f".unpod-part-{secrets.token_hex(8)}.tmp"
            temporary = self._at(f"{name.rpartition('/')[0] or self._work}/{temporary}".lstrip("/"))
            return _UrlOutput(self._system, self._at(name), None if self._is_whole else temporary)

    def move(self, name: str, to: str, *, replace: bool) -> None:
        if not replace and self.kind(to) is not None:
            raise FileExistsError(errno.EEXIST, "appeared meanwhile", self.path(to))
        with _stored(self.path(to)):
            try:
                self._system.move(self._at(name), self._at(to))
            except (OSError, NotImplementedError):  # not every store can, or for any size
                self._copy(name, to)
        self.remove(name)

    def _copy(self, name: str, to: str) -> None:
        with self.open(name) as source, written(self, to) as output:
            while step := source.read(STEP):
                output.write(step)

    def remove(self, name: str) -> None:
        with _stored(self.path(name)), suppress(FileNotFoundError):
            self._system.delete_file(self._at(name))

    def remove_folder(self, name: str) -> None:
        if self.kind(name) == "folder" and not self.names(name):
            with suppress(OSError):
                self._system.delete_dir(self._at(name))


class _UrlOutput(Output):
    def __init__(self, system: Any, path: str, temporary: str | None) -> None:
        super().__init__(path)
        self._system, self._path, self._temporary = system, path, temporary
        self._file = system.open_output_stream(temporary or path, compression=None)
        self._named = False

    def _put(self, view: memoryview) -> None:
        self._file.write(view)

    def _finish(self) -> None:
        with _stored(self._path):
            self._file.close()
            if self._temporary:
                self._system.move(self._temporary, self._path)
        self._named = True

    def discard(self) -> None:
        """What has no temporary name may have become an object, half a part: it is a leftover
        then. It is not deleted, for it may also be the old one still."""
        if not self._named:
            with suppress(Exception):
                self._file.close()
            with suppress(Exception):
                if self._temporary:
                    self._system.delete_file(self._temporary)


@contextmanager
def _stored(path: str) -> Iterator[None]:
    """Around calls of a store: what is no `OSError` becomes an `ExportError`."""
    try:
        yield
    except (ValueError, NotImplementedError, RuntimeError) as error:
        raise ExportError(f"{path}: {safe_text(error)}") from None
