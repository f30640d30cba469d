"""The command line, `unpod-async`. Nothing here is imported by the rest of the package.

`EXIT_CODES` says what each exit code means.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from ._outcome import EXIT_CODES

__all__ = ["EXIT_CODES", "main"]


def main() -> NoReturn:
    """Run the command that `sys.argv` names; exits with one of `EXIT_CODES`."""
    _mend_streams()
    try:
        signal.signal(signal.SIGTERM, _terminated)
        code = _run(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # of help, for instance; whoever reads it has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    try:
        from ._app import run
    except ModuleNotFoundError as error:
        if error.name not in ("cyclopts", "rich"):
            raise
        sys.stderr.write('the command line needs: pip install "unpod-async[cli]"\n')
        return 2
    return run(arguments)


def _terminated(number: int, _: object) -> NoReturn:
    """Until a command looks after signals itself: an end without a traceback."""
    sys.exit(128 + number)


def _mend_streams() -> None:
    """Text that the terminal cannot show is escaped instead of raising; a closed stdout
    becomes a pipe that nobody reads, lest a socket gets its number and the rows."""
    if sys.stdout is None:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 1)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    import locale

    plain = locale.setlocale(locale.LC_CTYPE) in ("C", "POSIX")
    for stream in (sys.stdout, sys.stderr):
        encoding = "ascii" if plain else stream.encoding
        stream.reconfigure(encoding=encoding, errors="backslashreplace")  # type: ignore[union-attr]
