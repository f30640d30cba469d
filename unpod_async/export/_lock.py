"""A folder that one export holds at a time: the kernel lets go of what a dead process held.

Never a file that a database locks too: on macOS and BSD locks of all kinds are in each other's way,
those of one process as well.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from unpod_async.errors import ConfigurationError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["is_last", "locked"]

_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)


def locked(folder: Path, target: object, *, shared: bool = False) -> int | None:
    """The folder, open and locked until it is closed. None if it was removed meanwhile. Raises
    `ConfigurationError` if another export holds it, to write to `target`."""
    if not fcntl:  # a system that opens and locks no folders
        return os.open(os.devnull, os.O_RDONLY)
    file = os.open(folder, _FOLDER)
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.lstat(folder), os.fstat(file)):
                file, kept = -1, file
                return kept
        return None
    except BlockingIOError:
        raise ConfigurationError(f"another export is writing to {target}") from None
    finally:
        if file >= 0:
            os.close(file)


def is_last(file: int, folder: Path) -> bool:
    """Whether nobody shares what `locked` gave, and it is still what has this name: then it may be
    removed. Nobody is kept out any more if not."""
    if not fcntl:
        return False
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.lstat(folder), os.fstat(file))
    return False
