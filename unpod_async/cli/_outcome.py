"""What became of a command, and the exit code that says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unpod_async._secrets import safe_text
from unpod_async.errors import (
    AuthenticationError,
    BadRequest,
    ConfigurationError,
    ConnectionFailed,
    IncompleteWalk,
    NotFound,
    PermissionDenied,
    ProtocolError,
    RateLimited,
    ResponseTooLarge,
    ServerError,
    TransportError,
    UnpodError,
)

if TYPE_CHECKING:
    from unpod_async import Report

EXIT_CODES: dict[int, str] = {
    0: "complete and verified, or as much as --limit or a closed pipe asked for",
    1: "the API, the connection or the disk failed",
    2: "wrong usage or configuration",
    3: "something is known to be missing, or it stopped part-way",
    4: "authentication or permission was refused, or the space",
    5: "finished, nothing known to be missing, but not proved",
    130: "stopped by SIGINT (Ctrl-C)",
    143: "stopped by SIGTERM",
}


@dataclass
class Outcome:
    """What became of a command, filled in while it runs."""

    command: str
    rows: int = 0
    seconds: float = 0.0
    path: Path | str | None = None
    """The file, or other target, that was written."""
    detail: str = ""
    """What else is told of the rows."""
    prose: str | None = None
    """What is told in place of all that."""
    report: Report | None = None
    failures: Sequence[tuple[Any, Exception]] = ()
    """Runs that could not be read, and why."""
    cut_short: Literal["limit", "pipe"] | None = None
    """It was asked for no more: by --limit, or by who closed the pipe."""
    missing: str | None = None
    """Why rows are known to be missing, whatever the report says."""
    signal: int | None = None
    error: Exception | None = None
    more: dict[str, Any] = field(default_factory=dict)
    """What else `--json` tells."""

    @property
    def exit_code(self) -> int:
        if self.signal is not None:
            return 128 + self.signal
        if self.error is not None:
            return code_of(self.error)
        if self.lacks_something:
            return 3
        complete = self.report is None or self.report.complete
        return 0 if self.cut_short or complete else 5

    @property
    def lacks_something(self) -> bool:
        return self._lack is not None

    @property
    def _lack(self) -> str | None:
        """What is known to be missing."""
        report = self.report
        if self.failures:
            return f"not read: {len(self.failures)} of the runs"
        if report is not None and (report.missing or report.invalid or report.unreadable):
            return self.missing or report.reason
        return self.missing

    @property
    def verdict(self) -> str:
        """In words, whether the rows are all."""
        report = self.report
        if self._lack is not None:
            return f"NOT COMPLETE: {self._lack}"
        if self.cut_short:
            return "no more were asked for"
        if report is None or report.verified:
            return "verified: every row that lived throughout, once"
        if report.complete:
            return f"an empty list, asked for {report.empty_confirmed} times"
        return f"nothing known to be missing, but not proved: {report.reason}"


def code_of(error: BaseException) -> int:
    """The exit code of a command that this error ended."""
    if isinstance(code := getattr(error, "exit_code", None), int):  # another process has told
        return code
    if isinstance(error, ConfigurationError):
        return 2
    if isinstance(error, IncompleteWalk):
        return 3
    if isinstance(error, AuthenticationError | PermissionDenied) or is_refusal(error):
        return 4
    return 1


def is_refusal(error: BaseException) -> bool:
    """Whether a 206 refuses the space (rows that could not be fetched are a 206 too)."""
    from unpod_async import _retry  # msgspec and backoff, which `--help` must not pay for

    return isinstance(error, UnpodError) and _retry.is_refusal(error)


def told(error: Exception) -> str:
    """An error as one harmless line, with the next step where one is known."""
    if isinstance(error, UnpodError):
        details = "" if error.errors is None else f": {error.errors}"
        text = f"{error.summary}{details}"
    elif isinstance(error, OSError):
        text = f"{error.filename or 'the output'}: {error.strerror or error}"
    else:
        text = f"{type(error).__name__}: {error} (a fault of unpod-async: please report it)"
    advice = advice_on(error)
    return safe_text(text) + (f"; {advice}" if advice else "")


def advice_on(error: Exception) -> str | None:
    """The next step, where one is known: what `error.hint` says, in terms of flags."""
    if isinstance(error, AuthenticationError):
        return "check the token in UNPOD_API_TOKEN or --token-file, or try --auth-scheme Bearer"
    if isinstance(error, PermissionDenied) or is_refusal(error):
        return "`unpod-async spaces` lists the spaces that this token may read"
    if isinstance(error, RateLimited) and error.retry_after is not None:
        return f"try again in {error.retry_after:.0f} s, or with a lower --concurrency"
    if isinstance(error, BadRequest) and "org" in error.message.lower():
        return "name the organization by --org-handle or UNPOD_ORG_HANDLE"
    if isinstance(error, NotFound | ConnectionFailed):
        return "check --base-url or UNPOD_BASE_URL"
    if isinstance(error, TransportError | ResponseTooLarge):
        return "try a smaller --page-size"
    if isinstance(error, ProtocolError):
        return "check --base-url or UNPOD_BASE_URL"
    if isinstance(error, RateLimited | ServerError):
        return "the platform cannot answer now: try again later"
    return None
