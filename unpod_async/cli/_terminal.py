"""What is written to stdout and stderr, and how."""

from __future__ import annotations

import locale
import os
import select
import sys
from contextlib import suppress

from unpod_async._secrets import Secret, redact


def mend_streams() -> None:
    """Text that the terminal cannot show is escaped instead of raising. A closed stdout
    becomes a pipe that nobody reads, lest a socket gets its number and then the rows."""
    if sys.stdout is None:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 1)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    # Python takes the locale C for UTF-8; whoever asks for C by name means ASCII.
    plain = locale.setlocale(locale.LC_CTYPE) in ("C", "POSIX")
    for stream in (sys.stdout, sys.stderr):
        encoding = "ascii" if plain else stream.encoding
        stream.reconfigure(encoding=encoding, errors="backslashreplace")  # type: ignore[union-attr]


def redact_given(text: str) -> str:
    """`text` without the token in the environment, which may have been given as something
    else too: as an option, a name, a path."""
    return redact(text, Secret(os.environ.get("UNPOD_API_TOKEN", "")))


def tell(line: str) -> None:
    """A line on stderr; whether anybody reads it must not change what comes of the work."""
    with suppress(OSError):
        sys.stderr.write(f"{redact_given(line)}\n")
        sys.stderr.flush()


def write_stdout(data: bytes) -> None:
    """All of it, past Python's buffers, so that none is lost or complained of at the end."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(1, rest) :]
        except BlockingIOError:  # whoever gave us this pipe made it non-blocking
            select.select([], [1], [])
