"""The wire, as pure functions: options checked, URLs and headers built, answers turned
into bytes or into an error of our tree. No await, no clock."""

from __future__ import annotations

import importlib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct

from ._secrets import HiddenText, Secret, redact, redact_known, safe_text
from .errors import (
    APIError,
    AuthenticationError,
    BadRequest,
    BusinessError,
    ConfigurationError,
    NotFound,
    PermissionDenied,
    ProtocolError,
    RateLimited,
    ResponseTooLarge,
    ServerError,
    UnexpectedRedirect,
    UnpodError,
)

zlib: Any  # of the extra `speed`, or else the standard library's, which it is modelled on
try:
    zlib = importlib.import_module("isal.isal_zlib")
except ImportError:
    zlib = importlib.import_module("zlib")

__all__ = ["Request", "Response", "error_for", "inflate"]

DEFAULT_BASE_URL = "https://unpod.ai/api/v2/platform"
MAX_BODY = 64 * 2**20  # bytes of one answer after decompression
EXCERPT = 500  # characters of a body that an error shows
SCANNED = 2**21  # bytes of a body in which a secret is looked for, before it is cut to that
GZIP_MEMBERS = 16  # gzip files in a row that one body may consist of


class Request(Struct, frozen=True):
    """One GET. `path` is below the base URL and ends in "/"; `query` is encoded."""

    path: str
    query: str = ""

    @property
    def target(self) -> str:
        """As errors and tracebacks show it: what was searched for may be a person's number."""
        query = _SEARCHED.sub("***", self.query)
        return f"{self.path}?{query}" if query else self.path

    def __repr__(self) -> str:
        return f"Request({self.target!r})"


_SEARCHED = re.compile(r"(?<=\bsearch=)[^&]+")


class Response(Struct):
    """An answer as it came; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"Response({self.status}, {len(self.body)} bytes)"


# -- options -------------------------------------------------------------------------

_VISIBLE = re.compile(r"[!-~]{1,4096}")
_SEGMENT = re.compile(r"[A-Za-z0-9_-]{1,128}")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_BASE_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*)/?"
)

# A check that fails drops the value before it raises, so that tracebacks which show locals
# do not show it either: what is wrong as a space token may well be a misplaced API token.


def check_visible(name: str, value: object) -> str:
    """A handle: printable ASCII without spaces, in one line, at most 4096 long."""
    if isinstance(value, str) and _VISIBLE.fullmatch(value):
        return value
    del value
    raise ConfigurationError(
        f"{name} takes 1 to 4096 printable ASCII characters without spaces or line ends"
    )


def check_token(name: str, token: Secret) -> Secret:
    """The same for a token, which is a `Secret` from the first line on."""
    check_visible(name, token.reveal())
    return token


def check_segment(name: str, value: object) -> str:
    """A space token or run id that is safe inside a path."""
    if isinstance(value, str) and _SEGMENT.fullmatch(value):
        return value
    del value
    raise ConfigurationError(f"{name} takes 1 to 128 characters of A-Z a-z 0-9 _ -")


def check_whole(name: str, value: object, *, least: int = 1, most: int = 10**9) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigurationError(f"{name} takes a whole number from {least} to {most}")
    return value


def check_base_url(value: object, *, allow_insecure_http: bool = False) -> str:
    """The base URL without its last slash: https, or http to this machine; no
    credentials, query, fragment, escapes or dot segments."""
    match = _BASE_URL.fullmatch(value) if isinstance(value, str) else None
    if match is None or not _is_plain_host(match["host"]) or not _is_port(match["port"]):
        del value, match
        raise ConfigurationError(
            "base_url takes an https URL of host, port and path alone, without credentials, "
            f"query or escapes, such as {DEFAULT_BASE_URL}"
        )
    if match["scheme"] == "http" and not (allow_insecure_http or _is_loopback(match["host"])):
        del value, match
        raise ConfigurationError(
            "base_url takes https; plain http is for 127.0.0.0/8, [::1] and localhost "
            "(or allow_insecure_http=True, which sends the token in the clear)"
        )
    return match.string.rstrip("/")


def _is_port(port: str | None) -> bool:
    return port is None or 0 < int(port) < 2**16


def _is_plain_host(host: str) -> bool:
    """A name, or an address in its one canonical form: resolvers read 0x7f.1 and
    2130706433 as addresses too."""
    labels = host.removesuffix(".").split(".")
    numeric = labels[-1].isdigit() or re.fullmatch(r"0[xX][0-9A-Fa-f]*", labels[-1]) is not None
    if host.startswith("[") or numeric:
        return _address(host) is not None
    return all(_LABEL.fullmatch(label) for label in labels)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        if host.startswith("["):
            return ipaddress.IPv6Address(host[1:-1])
        return ipaddress.IPv4Address(host)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    address = _address(host)
    if isinstance(address, ipaddress.IPv6Address):
        return address == ipaddress.IPv6Address("::1")  # some versions of Python: mapped ones too
    return host.lower() == "localhost" or (address is not None and address.is_loopback)


def unix_seconds(name: str, value: object, *, up: bool) -> int:
    """A moment for the server's inclusive time filters, rounded outward."""
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ConfigurationError(f"{name} takes a datetime with a time zone, or Unix seconds")
        value = value.timestamp()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e12:
        raise ConfigurationError(f"{name} takes a datetime with a time zone, or Unix seconds")
    return int(-(-value // 1)) if up else int(value // 1)


def text_filter(name: str, value: object) -> str:
    if isinstance(value, str) and 0 < len(value) <= 1000 and value.isprintable():
        return value
    del value
    raise ConfigurationError(f"{name} takes 1 to 1000 printable characters")


def task_query(
    *,
    summary_status: str | Iterable[str] | None,
    search: str | None,
    call_type: str | None,
    created_from: object,
    created_to: object,
    user_id: str | None,
    thread_id: str | None,
) -> str:
    """The space tasks' filters as a query; only these keys can ever be sent, for others
    (`space_id`) change which space is read."""
    values: list[tuple[str, object]] = []
    if summary_status is not None:
        values.append(("status", _statuses(summary_status)))
    texts = {"search": search, "call_type": call_type, "user_id": user_id, "thread_id": thread_id}
    values += [(key, text_filter(key, text)) for key, text in texts.items() if text is not None]
    if created_from is not None:
        values.append(("from_ts", unix_seconds("created_from", created_from, up=False)))
    if created_to is not None:
        values.append(("to_ts", unix_seconds("created_to", created_to, up=True)))
    return "&".join(f"{key}={quote(str(value), safe='')}" for key, value in values)


def _statuses(value: object) -> str:
    """One status, or several as the server's comma list."""
    if isinstance(value, str):
        return text_filter("summary_status", value)
    if not isinstance(value, Iterable):
        raise ConfigurationError("summary_status takes text, or several texts")
    several = [text_filter("summary_status", status) for status in value]
    return text_filter("summary_status", ",".join(several))


def headers_for(token: Secret, scheme: str, org_handle: str | None) -> dict[str, str]:
    headers = {
        "Authorization": HiddenText(f"{scheme} {token.reveal()}"),
        "Accept": "application/json",
        "Accept-Encoding": "gzip",
    }
    if org_handle is not None:
        headers["Org-Handle"] = org_handle
    return headers


# -- answers -------------------------------------------------------------------------


def inflate(response: Response, limit: int = MAX_BODY) -> Response:
    """The response with its body decompressed. Raises `ResponseTooLarge` past `limit`
    bytes, and `ProtocolError` for any other encoding or a body that is cut."""
    sent = response.headers.get("content-encoding", "")
    encoding = sent.strip().lower()
    if encoding in ("", "identity"):
        return response
    if encoding not in ("gzip", "x-gzip"):
        shown = _shown(sent, None, limit=60)
        raise ProtocolError(f"the answer has a content encoding nobody asked for: {shown}")
    others = {name: text for name, text in response.headers.items() if name != "content-encoding"}
    return Response(response.status, others, _gunzip(response.body, limit))


def _gunzip(data: bytes, limit: int) -> bytes:
    body: bytes = b""
    for _ in range(GZIP_MEMBERS):
        inflater = zlib.decompressobj(wbits=31)
        try:
            body += inflater.decompress(data, limit + 1 - len(body))
        except zlib.error:
            raise ProtocolError("the answer's gzip data is damaged") from None
        if len(body) > limit:
            raise ResponseTooLarge(f"the answer is larger than {limit} bytes when decompressed")
        if not inflater.eof:
            raise ProtocolError("the answer's gzip data ends early")
        if not (data := inflater.unused_data):
            return body
    raise ProtocolError("the answer's gzip data has too many parts")


_CLASSES: dict[int, type[APIError]] = {
    206: BusinessError,
    401: AuthenticationError,
    403: PermissionDenied,
    404: NotFound,
    429: RateLimited,
}


def error_class(status: int) -> type[UnpodError]:
    """The class for every status but 200."""
    if status in _CLASSES:
        return _CLASSES[status]
    if 300 <= status < 400:
        return UnexpectedRedirect
    if 400 <= status < 500:
        return BadRequest
    return ServerError if 500 <= status < 600 else ProtocolError


def error_for(
    request: Request, response: Response, *, secret: Secret | None = None
) -> UnpodError | None:
    """The error that this answer means; None for a 200."""
    if response.status == 200:
        return None
    kind = error_class(response.status)
    content = _legible(response)
    body = _json(content)
    message = _message(body) or f"{_what(response)} and no message"
    errors = body.get("errors") if isinstance(body, dict) else None
    if kind is UnexpectedRedirect:
        target = _shown(response.headers.get("location", "nowhere"), secret, limit=200)
        message = f"{request.path} redirects to {target}; redirects are not followed"
    return kind(
        _shown(message, secret),
        status=response.status,
        method="GET",
        path=request.target,
        errors=_clean(errors, secret),
        retry_after=retry_after(response.headers),
        body=excerpt(content, secret),
    )


def _legible(response: Response) -> bytes:
    """The body of an error, empty if it does not inflate: the status says enough."""
    try:
        return inflate(response).body
    except ProtocolError:
        return b""


def _shown(text: str, secret: Secret | None, *, limit: int = EXCERPT) -> str:
    """Server text as an error shows it. What is cut first is not redacted: a part of a
    secret is not recognized."""
    text = redact_known(text) if secret is None else redact(text, secret)
    return safe_text(text, limit=limit)


def _what(response: Response) -> str:
    content = response.headers.get("content-type", "").partition(";")[0] or "nothing"
    return f"the server answered {response.status} with {content}"


def _json(body: bytes) -> Any:
    if len(body) > 2**20:
        return None
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, MemoryError):
        return None


def _message(body: Any) -> str:
    """The envelope's message, in any of the forms seen."""
    if not isinstance(body, dict):
        return ""
    inner = body.get("error")
    candidates = [body.get("message"), inner.get("message") if isinstance(inner, dict) else inner]
    said = [text for text in candidates if isinstance(text, str) and text]
    return ": ".join(dict.fromkeys(said))


def _clean(errors: Any, secret: Secret | None, depth: int = 8) -> Any:
    """The server's `errors` with harmless strings; bounded in size and depth."""
    if isinstance(errors, str):
        return _shown(errors, secret)
    if errors is None or isinstance(errors, (bool, int, float)):
        return errors
    try:
        text = msgspec.json.encode(errors).decode("utf-8", "replace")
    except RecursionError:
        return "(nested too deeply to be shown)"
    if len(text) > EXCERPT or not depth:
        return _shown(text, secret)
    if isinstance(errors, list):
        return [_clean(item, secret, depth - 1) for item in errors]
    return {_shown(key, secret): _clean(item, secret, depth - 1) for key, item in errors.items()}


def excerpt(body: bytes, secret: Secret | None = None) -> str:
    """The beginning of a body, safe to show."""
    return _shown(body[:SCANNED].decode("utf-8", "replace"), secret)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asks to wait. A date is read against the answer's own `Date`,
    for the two clocks need not agree."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value, re.ASCII):
        return float(value)
    now = _date(headers.get("date", ""))
    if (until := _date(value)) is not None and now is not None:
        return max(0.0, (until - now).total_seconds())
    reset = headers.get("x-ratelimit-reset", "").strip()
    spent = headers.get("x-ratelimit-remaining", "").strip() == "0"
    if spent and now is not None and re.fullmatch(r"\d{1,11}", reset, re.ASCII):
        return max(0.0, int(reset) - now.timestamp())
    return None


def _date(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
