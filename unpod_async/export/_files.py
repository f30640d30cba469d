"""JSON Lines files that appear under their final name only when they are complete.

The rows go to a temporary file beside the target (`.unpod-….tmp`, mode 0600 whatever the
umask), which is synced to the disk and then takes the target's name in one step. So
whatever happens, be it an error, a signal or a power cut, the target is either the old file,
untouched, or the new one, whole.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from threading import Lock

import anyio
from anyio import to_thread

from unpod_async.errors import ConfigurationError

__all__ = ["SUFFIXES", "LinesFile", "open_lines"]

SUFFIXES = (".jsonl", ".jsonl.gz")

# Of zlib's levels, 1 to 3 are equally fast (170 MB/s of call tasks on one core, which is more
# than any server sends) and 3 is the smallest; 4 takes a third more time, 6 twice as much.
LEVEL = 3

_TEMPORARY = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP}
_REFUSALS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


@asynccontextmanager
async def open_lines(path: str | Path, *, force: bool = False) -> AsyncIterator[LinesFile]:
    """A file for rows, made in a worker thread. Without `commit()` or `set_aside()` before
    the end of the block nothing is left of it. Raises what `LinesFile.open()` raises."""
    file = LinesFile(path, force=force)
    try:
        await to_thread.run_sync(file.open)
        yield file
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(file.discard)


class LinesFile:
    """A JSON Lines file in the making, compressed if its name ends in `.gz`.

    All methods block: call them in a worker thread. They may be called from different
    threads; each waits for the one before. A suffix that is not in `SUFFIXES` raises
    `ConfigurationError`.
    """

    def __init__(self, path: str | Path, *, force: bool = False) -> None:
        self.path = Path(path)
        if not self.path.name.endswith(SUFFIXES) or self.path.name in SUFFIXES:
            raise ConfigurationError(f"{path}: the name must end in {' or '.join(SUFFIXES)}")
        self._force = force
        self._temporary = self.path.with_name(f".unpod-{secrets.token_hex(8)}.tmp")
        self._zip = zlib.compressobj(LEVEL, wbits=31) if self.path.suffix == ".gz" else None
        self._lock = Lock()
        self._file: int | None = None
        self._made = self._ended = False

    @property
    def partial_path(self) -> Path:
        """Where `set_aside()` puts the rows."""
        return self.path.with_name(f"{self.path.name}.partial")

    def open(self) -> None:
        """Make the temporary file. Raises `ConfigurationError` for a target that is in the
        way (any that exists; with `force`, any but a plain file) or a directory that is not
        there or takes no files; `OSError` for trouble with the disk."""
        with self._lock:
            if self._ended:  # the caller was cancelled before this thread began
                return
            self._check_target()
            try:
                self._file = os.open(self._temporary, _TEMPORARY, 0o600)
            except OSError as error:
                if error.errno not in _REFUSALS:
                    raise
                reason = f"no file can be made in {self.path.parent}: {error.strerror}"
                raise ConfigurationError(reason) from None
            self._made = True
            if hasattr(os, "fchmod"):
                os.fchmod(self._file, 0o600)

    def _check_target(self) -> None:
        try:
            mode = self.path.lstat().st_mode
        except FileNotFoundError:
            return
        except OSError as error:
            raise ConfigurationError(f"{self.path}: {error.strerror}") from None
        if not stat.S_ISREG(mode):
            kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a plain file"
            raise ConfigurationError(f"{self.path} is {kind}; it is left alone")
        if not self._force:
            raise ConfigurationError(f"{self.path} exists; --force replaces it")

    def write(self, data: bytes) -> None:
        """Append some lines, each with its line end. Raises `OSError`."""
        with self._lock:
            self._write(self._zip.compress(data) if self._zip else data)

    def _write(self, data: bytes) -> None:
        if self._file is None:
            raise ValueError("the file is not open")
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def commit(self) -> Path:
        """Make the file complete and give it its name. Raises `ConfigurationError` if a file
        of that name appeared meanwhile (without `force`), `OSError` if the disk fails: then
        the rows are lost and what was there before is as it was."""
        with self._lock:
            self._complete()
            self._take_name() if not self._force else os.replace(self._temporary, self.path)
            self._settle()
            return self.path

    def set_aside(self) -> Path:
        """Make the file complete, but under `partial_path`, in place of an earlier one: for
        rows that are known not to be all. The target stays as it was."""
        with self._lock:
            self._complete()
            os.replace(self._temporary, self.partial_path)
            self._settle()
            return self.partial_path

    def discard(self) -> None:
        """Remove what is not complete. Does nothing after the two above, or twice."""
        with self._lock:
            file, self._file = self._file, None
            # What the disk has to say of a file that is thrown away would only hide why it is.
            if file is not None:
                with suppress(OSError):
                    os.close(file)
            if self._made and not self._ended:
                with suppress(OSError):
                    self._temporary.unlink(missing_ok=True)
            self._ended = True

    def _complete(self) -> None:
        if self._zip:
            self._write(self._zip.flush())
        assert self._file is not None
        os.fsync(self._file)
        file, self._file = self._file, None
        os.close(file)

    def _take_name(self) -> None:
        """A link, unlike a rename, does not replace a file that appeared meanwhile."""
        try:
            os.link(self._temporary, self.path)
            os.unlink(self._temporary)
        except FileExistsError:
            raise self._appeared() from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._take_name_without_links()

    def _take_name_without_links(self) -> None:
        """On a file system without links: claim the name with an empty file first."""
        try:
            os.close(os.open(self.path, _TEMPORARY, 0o600))
        except FileExistsError:
            raise self._appeared() from None
        try:
            os.replace(self._temporary, self.path)
        except OSError:
            self.path.unlink()
            raise

    def _appeared(self) -> ConfigurationError:
        return ConfigurationError(f"{self.path} appeared meanwhile; it is left alone")

    def _settle(self) -> None:
        """The new name is on the disk too. Not every system can sync a directory."""
        self._ended = True
        if hasattr(os, "O_DIRECTORY"):
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            except OSError as error:
                if error.errno not in _NO_SYNC:
                    raise
            finally:
                os.close(directory)
