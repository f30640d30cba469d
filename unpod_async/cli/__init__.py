"""The command line, `unpod-async`. Nothing here is imported by the rest of the package.

`EXIT_CODES` says what each exit code means.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from ._outcome import EXIT_CODES
from ._terminal import mend_streams, tell

__all__ = ["EXIT_CODES", "main"]


def main() -> NoReturn:
    """Run the command that `sys.argv` names; exits with one of `EXIT_CODES`."""
    mend_streams()
    try:
        signal.signal(signal.SIGTERM, _terminated)
        code = _run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    except SystemExit:  # rich's: the reader of the help has left
        code = 0
    if code > 128:  # a thread may be stuck in a pipe that is never read again
        os._exit(code)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    try:
        from ._app import run
    except ModuleNotFoundError as error:
        if error.name != "cyclopts":
            raise
        tell('the command line needs: pip install "unpod-async[cli]"')
        return 2
    return run(arguments)


def _terminated(number: int, _: object) -> NoReturn:
    """Until a command minds signals itself, when nothing is begun yet. An exception could
    be lost here: in the middle of an import it may fall into a callback of the interpreter."""
    os._exit(128 + number)
