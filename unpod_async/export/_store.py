"""Where files are: a folder of this machine, or one of an object store (`_store_url`).

Both give files that appear under their name whole or not at all. On a disk each is on the disk
before it has its name, and the name before the call returns; no symbolic link is followed, and
the folder that is worked in is locked.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol
from urllib.parse import unquote, urlsplit

from unpod_async.errors import ConfigurationError

from ._lock import locked

__all__ = ["STEP", "TEMPORARY", "LocalStore", "Output", "Store", "store_for", "written"]

What = Literal["file", "folder", "symbolic link", "thing of another kind"]

TEMPORARY = re.compile(r"\.unpod-part-[0-9a-f]{16}\.tmp")
"""The name of a file that is not complete."""

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | _NOFOLLOW | _BINARY
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP}
_REFUSALS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
STEP = 1 << 20
"""Bytes that are read or written at a time."""


class Output:
    """A file in the making: bytes go in, their number and sha256 are known. `commit()` gives it
    its name, or `discard()` removes it. `pyarrow` may write to it, and close it in vain."""

    closed = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.bytes = 0
        self._hash = hashlib.sha256()
        self._held = bytearray()  # a Parquet file comes in hundreds of pieces
        self._failure: BaseException | None = None

    @property
    def sha256(self) -> str:
        """Known after `commit()`."""
        return self._hash.hexdigest()

    def write(self, data: Any) -> int:
        """After a failure nothing is written any more, and nothing raised: a writer that is
        closed because of it would only hide the first."""
        view = memoryview(data).cast("B")
        self._held += view
        self.bytes += len(view)
        if len(self._held) >= STEP:
            self._write()
        return len(view)

    def _write(self) -> None:
        held, self._held = self._held, bytearray()
        if self._failure is None:
            self._hash.update(held)
            try:
                self._put(memoryview(held))
            except BaseException as error:
                self._failure = _named(error, self.name)
                raise

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def commit(self) -> None:
        """The file is durable under its name. Raises what made it fail."""
        self._write()
        if self._failure is not None:
            raise self._failure
        try:
            self._finish()
        except OSError as error:
            _named(error, self.name)
            raise

    def discard(self) -> None:
        """Remove it; does nothing after `commit()`."""
        raise NotImplementedError

    def _put(self, view: memoryview) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        raise NotImplementedError


class Store(Protocol):
    """Files below one folder, by names with `/` between the parts. Raises `OSError`, and
    `ConfigurationError` for a symbolic link and what else the user must change."""

    def take(self) -> None:
        """The folder to work in: made if it is not there, and locked."""

    def release(self) -> None:
        """Unlocked, and the folders that were made and are empty removed."""

    def path(self, name: str = "") -> str:
        """As it may be told."""

    def kind(self, name: str = "") -> What | None:
        """What is there."""

    def size(self, name: str) -> int | None:
        """Of a file, None if there is none."""

    def names(self, folder: str) -> list[str]:
        """All that is in a folder, in order; [] if there is none."""

    def read(self, name: str) -> bytes | None:
        """A whole small file, None if there is none."""

    def open(self, name: str) -> BinaryIO:
        """To be read, at any place."""

    def create(self, name: str) -> Output:
        """A new file, which takes the place of an old one."""

    def move(self, name: str, to: str, *, replace: bool) -> None:
        """A file gets another name. Raises `FileExistsError` if there is one, unless it may be
        replaced."""

    def remove(self, name: str) -> None:
        """A file, if it is there."""


@contextmanager
def written(store: Store, name: str) -> Iterator[Output]:
    """A new file, durable at the end of the block, or nothing of it."""
    output = store.create(name)
    try:
        yield output
        output.commit()
    finally:
        output.discard()


def store_for(folder: str, work: str) -> Store:
    """The store of a folder, given as a path or an URL; `work` is the folder below it, or "",
    that is worked in."""
    if folder.startswith("file://"):
        parts = urlsplit(folder)
        if parts.netloc not in ("", "localhost"):
            raise ConfigurationError("file:// is of this machine: file:///PATH, with three strokes")
        return LocalStore(Path(unquote(parts.path)), work)
    if "://" in folder:
        from ._store_url import UrlStore

        return UrlStore(folder, work)
    return LocalStore(Path(folder), work)


# -- a disk


class LocalStore:
    """A folder of this machine."""

    def __init__(self, root: Path, work: str) -> None:
        self._root, self._work = root, work
        self._lock: int | None = None
        self._made: list[Path] = []

    def path(self, name: str = "") -> str:
        return str(self._root / name)

    def take(self) -> None:
        folder = self._root / self._work
        if not folder.parent.is_dir():
            raise ConfigurationError(f"{folder.parent} is not there, or no folder")
        if (kind := self.kind(self._work)) not in (None, "folder"):
            raise ConfigurationError(f"{folder} is a {kind}; it is left alone")
        while self._lock is None:
            try:
                self._make(folder)
                self._lock = locked(folder, folder)
            except OSError as error:
                if error.errno not in _REFUSALS:
                    raise
                raise ConfigurationError(f"{folder}: {error.strerror}") from None

    def _make(self, folder: Path) -> None:
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)
            self._made.append(folder)
            _sync(folder.parent)

    def release(self) -> None:
        made = [*self._made, self._root / self._work] if self._work else self._made
        for folder in reversed(made):
            with suppress(OSError):
                os.rmdir(folder)
        self._made = []
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def kind(self, name: str = "") -> What | None:
        try:
            mode = os.lstat(self._root / name).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISLNK(mode):
            return "symbolic link"
        if stat.S_ISDIR(mode):
            return "folder"
        return "file" if stat.S_ISREG(mode) else "thing of another kind"

    def size(self, name: str) -> int | None:
        return os.lstat(self._root / name).st_size if self.kind(name) == "file" else None

    def names(self, folder: str) -> list[str]:
        return sorted(os.listdir(self._root / folder)) if self.kind(folder) == "folder" else []

    def read(self, name: str) -> bytes | None:
        if self.kind(name) is None:
            return None
        with self.open(name) as file:
            return file.read()

    def open(self, name: str) -> BinaryIO:
        if (kind := self.kind(name)) not in (None, "file"):
            raise ConfigurationError(f"{self.path(name)} is a {kind}; it is left alone")
        return os.fdopen(os.open(self._root / name, os.O_RDONLY | _NOFOLLOW | _BINARY), "rb")

    def create(self, name: str) -> Output:
        path = self._root / name
        if path.parent != self._root:
            if self.kind(os.path.dirname(name)) == "symbolic link":
                raise ConfigurationError(f"{path.parent} is a symbolic link; it is left alone")
            self._make(path.parent)
        # Beside the target only the folder that is worked in may have leftovers.
        return _LocalOutput(path, self._root / self._work if "/" not in name else path.parent)

    def move(self, name: str, to: str, *, replace: bool) -> None:
        old, new = self._root / name, self._root / to
        os.replace(old, new) if replace else _take_name(old, new)
        _sync(new.parent)

    def adopt(self, path: Path, name: str) -> None:
        """A file that is elsewhere on this disk, under a name here too."""
        new = self._root / name
        self._make(new.parent)
        with suppress(FileNotFoundError):
            os.unlink(new)
        os.link(path, new, follow_symlinks=False)
        _sync(new.parent)

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._root / name)
            _sync((self._root / name).parent)


class _LocalOutput(Output):
    def __init__(self, path: Path, folder: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._temporary = folder / f".unpod-part-{secrets.token_hex(8)}.tmp"
        self._file: int | None = os.open(self._temporary, _NEW, 0o600)
        self._named = False
        if hasattr(os, "fchmod"):
            os.fchmod(self._file, 0o600)  # whatever the umask

    def _put(self, view: memoryview) -> None:
        assert self._file is not None
        while view:
            view = view[os.write(self._file, view) :]

    def _finish(self) -> None:
        assert self._file is not None
        os.fsync(self._file)
        file, self._file = self._file, None
        os.close(file)
        os.replace(self._temporary, self._path)
        self._named = True
        _sync(self._path.parent)

    def discard(self) -> None:
        file, self._file = self._file, None
        # What the disk has to say of a file that is thrown away would only hide why it is.
        if file is not None:
            with suppress(OSError):
                os.close(file)
        if not self._named:
            with suppress(OSError):
                os.unlink(self._temporary)


def _named(error: BaseException, name: str) -> BaseException:
    """A full disk does not say which."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is None:
        error.filename = name
    return error


def _take_name(old: Path, new: Path) -> None:
    """A link, unlike a rename, does not replace a file that appeared meanwhile."""
    try:
        os.link(old, new, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.close(os.open(new, _NEW, 0o600))  # on a file system without links: claim it first
        os.replace(old, new)
    else:
        os.unlink(old)


def _sync(folder: Path) -> None:
    """The names in a folder are on the disk too. Not every system can sync a directory."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(file)
