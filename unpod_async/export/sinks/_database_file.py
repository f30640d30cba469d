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
from typing import Any, ClassVar, TypeVar

from unpod_async.errors import ConfigurationError, ExportError
from unpod_async.export._lock import is_last, locked

from ._database import Database

__all__ = ["DatabaseFile", "FileDatabase"]

T = TypeVar("T")

_OPEN = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


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
        self._lock: int | None = None
        self._may_tidy = False
        self._known: tuple[int, ...] = ()
        self._was_there = True
        self._was_empty = False
        self._seeded = 0
        self._protected: set[Path] = set()
        self.is_foreign = False
        """Whether the file is no such database."""

    @property
    def scratch(self) -> Path:
        """A folder for what the database cannot keep in memory; whoever has it locked may write to
        the file."""
        return self.path.with_name(f".unpod-{self.path.name}.tmp")

    def look(self) -> None:
        """Keep exports away. Raises `ConfigurationError` if the file cannot be read as it is."""
        if self._status() is None:
            raise ConfigurationError(f"{self.path} is not there")
        try:
            self._hold(shared=True)
        except OSError as error:  # where nothing can be made, nobody writes
            if self.scratch.exists():
                raise ConfigurationError(f"{self.scratch}: {error.strerror}") from None
        try:
            if not self._is_ours(self._head(os.O_RDONLY)):
                raise ConfigurationError(f"{self.path} is no such database")
        except BaseException:
            self.release(keep=True)
            raise

    def take(self) -> None:
        """Lock the file; make one if there is none."""
        self._status()  # what is refused here leaves no trace; what counts is what is there below
        self._reached(self._hold, of=self.scratch)
        self._may_tidy, self._was_there, self._was_empty = True, True, False
        try:
            if self._status() is None:
                self._make(self.path)
                self._was_there = False
            else:
                head = self._reached(lambda: self._head(_OPEN))
                self.is_foreign = bool(head) and not self._is_ours(head)
        except BaseException:
            self.release(keep=False)
            raise

    def _hold(self, *, shared: bool = False) -> None:
        while self._lock is None:
            self.scratch.mkdir(mode=0o700, exist_ok=True)
            with suppress(FileNotFoundError):
                self._lock = locked(self.scratch, self.path, shared=shared)

    def _head(self, flags: int) -> bytes:
        """The first bytes of the file. An empty one becomes a database, if it can be written to."""
        self.check_closed()
        file = os.open(self.path, flags)
        try:
            head = os.read(file, 64)
            if flags == _OPEN and not head:
                self._was_empty = True
                self._seed(file, self.path)
            return head
        finally:
            os.close(file)

    def _seed(self, file: int, path: Path) -> None:
        """An empty database in an empty file."""
        seed = self._empty()
        self._seeded = os.write(file, seed)
        if self._seeded < len(seed):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    # Locks of one process are not in each other's way: what one connection writes another one of
    # the same process writes over, and to close any descriptor of a file drops all locks on it.

    def check_closed(self) -> None:
        """Raises `ConfigurationError` if this process has the file open."""
        if _times_open(self.path):
            raise ConfigurationError(
                f"{self.path}: this process has it open already: close that connection first"
            )

    def mark(self) -> None:
        """This is how our database has it, and leaves it until it is asked for more."""
        self._known = self._traits()

    def check(self, *, changing: bool = False) -> None:
        """Raises `ExportError` unless it is as it was marked: the same file, open as often, and, if
        our database is not `changing` it, as long, with what is beside it."""
        count = 2 if changing else None
        if self._traits()[:count] != self._known[:count]:
            raise ExportError(
                f"{self.path} was replaced or opened by somebody else meanwhile:"
                " nothing more is written to it"
            )

    def _traits(self) -> tuple[int, ...]:
        with suppress(OSError):
            found = self.path.stat()
            return (found.st_ino, _times_open(self.path), found.st_size, *map(_size, self._beside))
        return ()

    def replace(self) -> None:
        """An empty database in place of the file."""
        temporary = self.path.with_name(f".unpod-{secrets.token_hex(8)}.tmp")
        self._make(temporary)
        for path in self._beside:  # a log of what was here is not to be read into what is new
            path.unlink(missing_ok=True)
        os.replace(temporary, self.path)
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
        lock, self._lock = self._lock, None
        if lock is None:
            return
        try:
            if self._may_tidy:
                with suppress(OSError):
                    self._tidy(keep=keep)
                shutil.rmtree(self.scratch, ignore_errors=True)
            elif is_last(lock, self.scratch):
                with suppress(OSError):
                    self.scratch.rmdir()
        finally:
            os.close(lock)

    def _tidy(self, *, keep: bool) -> None:
        """What we made goes if neither the database nor anybody else did anything with it."""
        if _times_open(self.path):
            return
        if not keep and self.path.stat().st_size == self._seeded:
            if not self._was_there:
                self.path.unlink()
            elif self._was_empty:
                os.close(os.open(self.path, _OPEN | os.O_TRUNC))
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

    def _make(self, path: Path) -> None:
        file = self._reached(lambda: os.open(path, _OPEN | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            if hasattr(os, "fchmod"):
                os.fchmod(file, 0o600)  # whatever the umask
            self._seed(file, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)

    def _reached(self, reach: Callable[[], T], *, of: Path | None = None) -> T:
        try:
            return reach()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
                raise
            raise ConfigurationError(f"{of or self.path}: {error.strerror}") from None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _times_open(path: Path) -> int:
    """How often this process has the file open; 0 where that cannot be known."""
    times = 0
    with suppress(OSError):
        found = path.stat()
        for name in os.listdir("/dev/fd"):
            with suppress(OSError):  # that of the list itself
                times += os.path.samestat(os.fstat(int(name)), found)
    return times


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

    def settle(self, cursor: Any) -> None:  # noqa: ARG002
        self._file.mark()

    def before_commit(self, cursor: Any) -> None:  # noqa: ARG002
        self._file.check(changing=True)

    def release(self, *, keep: bool) -> None:
        self._file.release(keep=keep)

    def others(self, cursor: Any) -> str | None:
        cursor.execute(self.others_sql)
        names = ", ".join(name for (name,) in cursor.fetchall())
        return f"{self.target} has other tables: {names}" if names else None
