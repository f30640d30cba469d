"""A database that is one file: made for its owner alone, and held by one export at a time."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

from unpod_async.errors import ConfigurationError

from ._database import Database

try:
    import fcntl
except ImportError:  # Windows: there the database's own lock is all
    fcntl = None  # type: ignore[assignment]

__all__ = ["DatabaseFile", "FileDatabase"]

_OPEN = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)

# Files that this process holds. To close any descriptor of a file drops all POSIX locks that
# the process has on it, those of the database itself too: so a held file is not opened again.
_held: set[tuple[int, int]] = set()
_guard = Lock()


class DatabaseFile:
    """The file of a database, and the files that the database makes beside it (`beside`: the
    ends of their names).

    `empty()` gives the bytes of a new database, `is_ours(head)` says from the first bytes
    whether a file is one.
    """

    def __init__(
        self,
        path: str,
        *,
        beside: tuple[str, ...],
        empty: Callable[[], bytes],
        is_ours: Callable[[bytes], bool],
    ) -> None:
        self.path = Path(os.path.abspath(path))
        self._beside = tuple(self.path.with_name(self.path.name + end) for end in beside)
        self._empty = empty
        self._is_ours = is_ours
        self._file: int | None = None
        self._key: tuple[int, int] | None = None
        self._was_there = True
        self._was_empty = False
        self._protected: set[Path] = set()
        self.is_foreign = False
        """Whether the file is no such database."""

    @property
    def scratch(self) -> Path:
        """A folder for what the database cannot keep in memory."""
        return self.path.with_name(f".unpod-{self.path.name}.tmp")

    def look(self) -> None:
        """Raises `ConfigurationError` if the file cannot be read as it is."""
        found = self._status()
        if found is None:
            raise ConfigurationError(f"{self.path} is not there")
        if self._identity(found) in _held:
            raise self._busy()
        self._file = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            if fcntl:
                fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if not self._is_ours(os.read(self._file, 64)):
                raise ConfigurationError(f"{self.path} is no such database")
        except BlockingIOError:
            self.release(keep=True)
            raise self._busy() from None
        except BaseException:
            self.release(keep=True)
            raise

    def take(self) -> None:
        """Open the file, a new one if there is none, and lock it."""
        found = self._status()
        if found is not None and self._identity(found) in _held:
            raise self._busy()
        self._was_there = found is not None
        if found is None:
            self._file = self._make(self.path)
        else:
            self._file = self._reached(lambda: os.open(self.path, _OPEN))
        try:
            self._lock()
            if found is not None:
                head = os.pread(self._file, 64, 0)
                if not head and (seed := self._empty()):
                    self._was_empty = True
                    os.pwrite(self._file, seed, 0)
                self.is_foreign = bool(head) and not self._is_ours(head)
        except BaseException:
            self.release(keep=False)
            raise

    def replace(self) -> None:
        """An empty database in place of the file."""
        temporary = self.path.with_name(f".unpod-{secrets.token_hex(8)}.tmp")
        made, old = self._make(temporary), self._file
        for path in self._beside:  # a log of what was here is not to be read into what is new
            path.unlink(missing_ok=True)
        os.replace(temporary, self.path)
        if old is not None:
            os.close(old)
        self._forget()
        self._file = made
        self._lock()
        self.is_foreign, self._was_there, self._was_empty = False, True, False

    def protect(self, end: str) -> None:
        """Make an empty file beside ours before the database does, which would let the umask
        say who may read it."""
        with suppress(FileExistsError):
            path = self.path.with_name(self.path.name + end)
            self._protected.add(path)
            os.close(os.open(path, _OPEN | os.O_CREAT | os.O_EXCL, 0o600))

    def release(self, *, keep: bool) -> None:
        """Give the lock back, last of all; a file that was not there goes unless it is kept."""
        file, self._file = self._file, None
        if file is None:
            return
        if self._key is not None:  # else another export has it, and all that is beside it
            self._tidy(file, keep=keep)
            self._forget()
        os.close(file)

    def _tidy(self, file: int, *, keep: bool) -> None:
        """What we made beside the file goes if the database did not use it."""
        if not keep and not self._was_there:
            self.path.unlink(missing_ok=True)
        elif not keep and self._was_empty:
            os.ftruncate(file, 0)
        if self.scratch.is_dir() and not self.scratch.is_symlink():
            shutil.rmtree(self.scratch, ignore_errors=True)
        for path in self._protected:
            with suppress(OSError):
                if not path.stat().st_size:
                    path.unlink()

    def _status(self) -> os.stat_result | None:
        if not self.path.parent.is_dir():
            raise ConfigurationError(f"{self.path.parent} is no folder")
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            if stale := [path.name for path in self._beside if path.exists()]:
                raise ConfigurationError(
                    f"{self.path.parent / stale[0]} is there without its database"
                ) from None
            return None
        if not stat.S_ISREG(found.st_mode):
            kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "not a plain file"
            raise ConfigurationError(f"{self.path} is {kind}; it is left alone")
        return found

    def _make(self, path: Path) -> int:
        seed = self._empty()
        file = self._reached(lambda: os.open(path, _OPEN | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            os.fchmod(file, 0o600)
            if os.write(file, seed) < len(seed):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except BaseException:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        return file

    def _reached(self, opened: Callable[[], int]) -> int:
        try:
            return opened()
        except OSError as error:
            if error.errno == errno.EEXIST:  # made by another one just now
                raise self._busy() from None
            if error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
                raise
            raise ConfigurationError(f"{self.path}: {error.strerror}") from None

    def _lock(self) -> None:
        assert self._file is not None
        if fcntl:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                raise self._busy() from None
        held = os.fstat(self._file)
        try:
            is_it = os.path.samestat(held, self.path.lstat())
        except FileNotFoundError:
            is_it = False
        if not is_it:  # removed or replaced by the export that held it
            raise self._busy()
        with _guard:
            self._key = self._identity(held)
            _held.add(self._key)

    def _forget(self) -> None:
        with _guard:
            if self._key is not None:
                _held.discard(self._key)
            self._key = None

    @staticmethod
    def _identity(found: os.stat_result) -> tuple[int, int]:
        return found.st_dev, found.st_ino

    def _busy(self) -> ConfigurationError:
        return ConfigurationError(f"another export is writing to {self.path}")


class FileDatabase(Database):
    """A database that is one file, which is what is taken, looked at and let go."""

    called: ClassVar[str]
    others_sql: ClassVar[str]
    """Asks for the names of all tables, at most three."""

    def __init__(self, file: DatabaseFile) -> None:
        self._file = file
        self.target = str(file.path)

    def take(self) -> None:
        self._file.take()

    def look(self) -> None:
        self._file.look()

    def unreadable(self) -> str | None:
        return f"{self.target} is no {self.called} database" if self._file.is_foreign else None

    def replace(self, *, cleared: bool) -> None:
        if (what := self.unreadable()) is not None:
            if not cleared:
                raise ConfigurationError(what)
            self._file.replace()

    def release(self, *, keep: bool) -> None:
        self._file.release(keep=keep)

    def others(self, cursor: Any) -> str | None:
        cursor.execute(self.others_sql)
        names = ", ".join(name for (name,) in cursor.fetchall())
        return f"{self.target} has other tables: {names}" if names else None
