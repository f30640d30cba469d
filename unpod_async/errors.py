"""The exception tree: one base, and every attribute present on every error.

Nothing here formats or cleans server text: whoever builds an error hands in
strings that are safe to show (`_protocol` does).
"""

from __future__ import annotations

from math import ceil
from typing import Any, ClassVar, NamedTuple

__all__ = [
    "APIError",
    "Attempt",
    "AuthenticationError",
    "BadRequest",
    "BusinessError",
    "ConfigurationError",
    "ConnectionFailed",
    "DeadlineExceeded",
    "DecodeError",
    "ExportError",
    "IncompleteWalk",
    "NotFound",
    "PermissionDenied",
    "ProtocolError",
    "RateLimited",
    "RequestTimeout",
    "ResponseTooLarge",
    "ServerError",
    "TransportError",
    "UnexpectedRedirect",
    "UnpodError",
]


class Attempt(NamedTuple):
    """One try of a request, as it went.

    `at` is in seconds since the first try began; `outcome` is the HTTP status or
    the name of the error; `wait` is how long the client then slept (None: it gave up).
    """

    at: float
    outcome: int | str
    wait: float | None


class UnpodError(Exception):
    """Base of everything this library raises, cancellation excepted.

    Every attribute is always there, None or empty when it does not apply, and none of
    them ever holds a token.

    - `message`: what happened, in one line.
    - `status`, `method`, `path`: of the answer and the request, where there was one.
    - `errors`: the server's own `errors` value, as sent.
    - `attempts`: every try with its outcome and the wait after it.
    - `retry_after`: seconds the server asked to wait.
    - `body`: at most 500 characters of the answer, control characters escaped.
    - `checkpoint`: where a walk stood when this ended it; `walk(resume=…)` takes it.
    - `hint`: what to do next, empty where the message says it.
    """

    _next: ClassVar[str] = ""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        method: str | None = None,
        path: str | None = None,
        errors: Any = None,
        attempts: tuple[Attempt, ...] = (),
        retry_after: float | None = None,
        body: str = "",
        checkpoint: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.method = method
        self.path = path
        self.errors = errors
        self.attempts = attempts
        self.retry_after = retry_after
        self.body = body
        self.checkpoint = checkpoint

    @property
    def hint(self) -> str:
        seconds = self.retry_after
        when = f"in {ceil(seconds)} s" if seconds and seconds < 1e9 else "later"
        hint = self._step().format(when=when)
        if self.checkpoint is None or isinstance(self, IncompleteWalk):
            return hint
        return f"{hint}; walk(resume=error.checkpoint) goes on from there".removeprefix("; ")

    def _step(self) -> str:
        return self._next

    def __str__(self) -> str:
        return f"{self.summary}; {self.hint}" if self.hint else self.summary

    @property
    def summary(self) -> str:
        """The text without the hint: what happened, where, after how many attempts."""
        request = f" ({self.method} {self.path})" if self.path else ""
        status = f"{self.status}: " if self.status is not None else ""
        tries = f" after {len(self.attempts)} attempts" if len(self.attempts) > 1 else ""
        return f"{status}{self.message}{request}{tries}"

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException would call the class with `args` and lose the keywords' checks;
        # __dict__ restores all attributes, so no subclass needs a __reduce__ of its own.
        return (_rebuild, (type(self), self.args), self.__dict__)


def _rebuild(kind: type[UnpodError], args: tuple[Any, ...]) -> UnpodError:
    error = kind.__new__(kind)
    error.args = args
    return error


class ConfigurationError(UnpodError):
    """An option or the way of use is wrong. Raised before anything is sent."""


class TransportError(UnpodError):
    """No usable HTTP answer came back."""

    _next = "check the network and base_url"


class ConnectionFailed(TransportError):
    """The connection could not be made, or was lost before the answer was whole."""


class RequestTimeout(TransportError):
    """One attempt took longer than its timeouts allow."""

    _next = "ask for less by page_size=, or allow more by the timeouts of RetryPolicy"


class DeadlineExceeded(TransportError):
    """The time for this page, retries and waits included, is used up."""

    _next = "allow more by deadline=, or ask for less by page_size="


class ProtocolError(UnpodError):
    """An answer came that is not what the API sends."""

    _next = "check base_url; error.body shows what answered"


class ResponseTooLarge(ProtocolError):
    """The body is larger than the cap; it was not read to its end."""

    _next = "ask for less by page_size="


class DecodeError(ProtocolError):
    """A row fits no model (raised only under `on_invalid="raise"`)."""

    _next = 'on_invalid="report" goes past such rows'


class UnexpectedRedirect(ProtocolError):
    """The server redirects. Redirects are never followed: they would carry headers elsewhere."""

    _next = "check base_url"


class APIError(UnpodError):
    """The server answered and refused."""


class BusinessError(APIError):
    """Status 206, which this platform uses for errors: a refused or unknown space, a
    fault of the caller, or trouble upstream. Never an empty result."""

    _next = "check the space token: client.spaces() lists what this token may read"

    def _step(self) -> str:
        """A refusal names no errors."""
        return self._next if self.errors is None else "check the filters, or try again {when}"


class BadRequest(APIError):
    """400, and every other 4xx without a class of its own."""

    _next = "check the filters, and org_handle (UNPOD_ORG_HANDLE)"


class AuthenticationError(APIError):
    """401: the token is missing, wrong, expired, or of the wrong scheme."""

    _next = 'check the token (UNPOD_API_TOKEN), or try auth_scheme="Bearer"'


class PermissionDenied(APIError):
    """403: this token may not read that."""

    _next = "client.spaces() lists what this token may read"


class NotFound(APIError):
    """404: no such thing, or a wrong base URL."""

    _next = "check base_url, org_handle and the space token"


class RateLimited(APIError):
    """429; `retry_after` carries the wait in seconds where the server named one."""

    _next = "try again {when}, or with fewer at once by Limits(max_concurrency=)"


class ServerError(APIError):
    """5xx."""

    _next = "the platform failed: try again {when}, or ask for less by page_size="


class IncompleteWalk(UnpodError):
    """A walk ended, after every readable row, and something is known to be missing.

    `report` says what; `items` holds the rows where the call would have returned them
    (`collect()`).
    """

    _next = "error.report says what; the other rows are sound; read the list again for these"

    def __init__(self, message: str, *, report: Any = None, items: Any = (), **rest: Any) -> None:
        super().__init__(message, **rest)
        self.report = report
        self.items = items


class ExportError(UnpodError):
    """A destination failed: the database, its connection, or a store. What was committed before
    stays, and the same export goes on from there.
    """

    _next = "what was written before is safe: mend the destination and run the same export again"
