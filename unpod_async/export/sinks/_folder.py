"""A folder that one export holds at a time."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from unpod_async.errors import ConfigurationError
from unpod_async.export._lock import locked

__all__ = ["Folder"]


class Folder:
    def __init__(self, path: str) -> None:
        self.path = Path(os.path.abspath(path))
        self._file: int | None = None
        self._was_there = True

    def take(self) -> None:
        """Make the folder if it is not there, for its owner alone, and lock it."""
        if not self.path.parent.is_dir():
            raise ConfigurationError(f"{self.path.parent} is no folder")
        self._was_there = os.path.lexists(self.path)
        try:
            if not self._was_there:
                self.path.mkdir(mode=0o700)
            elif not stat.S_ISDIR(self.path.lstat().st_mode):
                raise ConfigurationError(f"{self.path} is no folder; it is left alone")
        except FileExistsError:
            raise self._busy() from None
        except PermissionError as error:
            raise ConfigurationError(f"{self.path}: {error.strerror}") from None
        self._file = locked(self.path, self.path)
        if self._file is None:
            raise self._busy()

    def check(self, names: Iterable[str]) -> None:
        """Raises `ConfigurationError` if one of these in the folder is a symbolic link."""
        for name in names:
            if (path := self.path / name).is_symlink():
                raise ConfigurationError(f"{path} is a symbolic link; it is left alone")

    def others(self, ours: set[str]) -> str | None:
        """Some names in the folder that are not ours; None if there are none."""
        names = sorted(name for name in os.listdir(self.path) if name not in ours)
        return ", ".join(names[:3]) or None

    def release(self, *, keep: bool) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if not keep and not self._was_there:
            with suppress(OSError):
                self.path.rmdir()

    def _busy(self) -> ConfigurationError:
        return ConfigurationError(f"another export is writing to {self.path}")
