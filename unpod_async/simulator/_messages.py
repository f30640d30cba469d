"""Requests as they were noticed, answers before they are sent, and the bodies of failures."""

from dataclasses import dataclass, field
from typing import Any

from ._paging import number
from ._rows import encode

HTML = "text/html; charset=utf-8"

BASE_HEADERS = {
    "Server": "gunicorn",
    "Vary": "Accept-Language, origin",
    "Content-Language": "en",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(slots=True)
class Request:
    """One request that reached the server; `status` is filled in when it is answered.

    `headers` has names in Title-Case. `page` and `page_size` are what was asked for, None if
    absent or malformed. `at` is in seconds of `time.monotonic`, `tick` the world's when the
    request was answered (and None until then, or if no list was read for it).
    """

    method: str
    path: str
    query_string: str
    query: dict[str, str]
    headers: dict[str, str]
    at: float
    status: int | None = None
    tick: int | None = None

    @property
    def page(self) -> int | None:
        return number(self.query.get("page"))

    @property
    def page_size(self) -> int | None:
        return number(self.query.get("page_size"))


@dataclass(slots=True)
class Reply:
    """An answer. The body of a dict or list becomes JSON, text becomes HTML, bytes stay.

    `headers` are added to the usual ones, and win over them.
    """

    status: int = 200
    body: bytes | str | dict[str, Any] | list[Any] = b""
    headers: dict[str, str] = field(default_factory=dict)
    rows: int = 0

    def payload(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        return self.body.encode() if isinstance(self.body, str) else encode(self.body)

    def all_headers(self) -> dict[str, str]:
        kind = HTML if isinstance(self.body, str) else "application/json"
        return {**BASE_HEADERS, "Content-Type": kind, **self.headers}


def envelope(status: int, message: str, **more: Any) -> Reply:
    """What the API wraps its answers in, up to status 400."""
    return Reply(status, {"status_code": status, "message": message, "data": {}, **more})


def fetch_failed(message: str, errors: Any) -> Reply:
    """The upstream's failure, as a 206."""
    return envelope(206, message, data={"errors": errors}, errors=errors)


def plain(status: int, message: str, **headers: str) -> Reply:
    """From status 401 on there is no envelope."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"message": message, "status_code": status}, names)


def error_page(status: int, title: str) -> Reply:
    page = f"<!DOCTYPE html>\n<html><head><title>{title}</title></head>"
    body = f"{page}<body><h1>{status}</h1><h3>{title}</h3></body></html>\n"
    return Reply(status, body, {"X-Frame-Options": "DENY"})


def default_failure(status: int) -> Reply:
    """What the platform, or a proxy before it, says with this status."""
    if status in FAILURES:
        return FAILURES[status]
    return error_page(status, "Looks like something went wrong!")


FAILURES = {
    206: fetch_failed("Tasks Fetch Failed", "Internal Server Error"),
    400: envelope(400, "Organization handle is required in Org-Handle header"),
    401: plain(401, "Invalid token.", WWW_Authenticate="Token"),
    403: plain(403, "Token has expired."),
    404: plain(404, "Not found."),
    405: plain(405, 'Method "GET" not allowed.'),
    406: plain(406, "Could not satisfy the request Accept header."),
    415: plain(415, 'Unsupported media type "text/plain" in request.'),
    429: Reply(429, {"error": {"code": "rate_limit_exceeded", "message": "Rate limit exceeded."}}),
}
