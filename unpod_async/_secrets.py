"""Secrets that do not leak by accident, and server text that cannot harm a terminal."""

from __future__ import annotations

import base64
import html
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NoReturn
from urllib.parse import quote
from weakref import WeakValueDictionary

__all__ = [
    "HiddenText",
    "RedactingFilter",
    "Secret",
    "plain_url",
    "redact",
    "redact_known",
    "remember",
    "safe_text",
]


class Secret:
    """A string that shows itself only to `reveal()`: not to str, repr, format or pickle."""

    __slots__ = ("__value", "__weakref__")

    def __init__(self, value: str) -> None:
        self.__value = value

    def reveal(self) -> str:
        return self.__value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return "***"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied to another process")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.reveal() == other.reveal()

    def __hash__(self) -> int:
        return hash((Secret, self.__value))


class HiddenText(str):
    """A header value: sent as it is, but its repr is `'***'`. aiohttp keeps the object, so
    that tracebacks which show its locals do not show the value."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def plain_url(url: str) -> str:
    """A URL without its user, password and query; what is no URL as it is. All up to the last @
    is user and password: one that is not escaped may hold anything."""
    scheme, colon, rest = url.partition("://")
    return f"{scheme}{colon}{rest.rpartition('@')[2].partition('?')[0]}" if colon else url


def redact(text: str, secret: Secret | None) -> str:
    """`text` with the secret replaced by `***`: plain, URL-encoded, base64 (also as a part of
    something longer), or escaped for JSON, HTML or Python. Redact before cutting: a part of a
    secret is not recognized."""
    if secret is None or not (value := secret.reveal()):
        return text
    for form in sorted(
        {*_written(value), *_base64(value.encode(errors="surrogatepass"))}, key=len, reverse=True
    ):
        text = text.replace(form, "***")
    return text


def _written(value: str) -> set[str]:
    """As it may stand in a text: encoded up to twice, such as JSON in a string of JSON."""
    forms = {value}
    for _ in range(2):
        forms |= {encode(form) for form in forms for encode in _ENCODERS}
    return forms


def _json(text: str) -> str:
    return json.dumps(text)[1:-1]


_PERCENT = re.compile("%..")
_ENCODERS: tuple[Callable[[str], str], ...] = (
    lambda text: quote(text, errors="surrogatepass"),
    lambda text: quote(text, safe="", errors="surrogatepass"),
    lambda text: _PERCENT.sub(lambda code: code.group().lower(), _ENCODERS[1](text)),
    _json,
    lambda text: _json(text).replace("/", "\\/"),
    html.escape,
    lambda text: text.replace("\\", "\\\\"),  # what repr does, if there are no quotes in it
    lambda text: text.replace("\\", "\\\\").replace("'", "\\'"),
)


def _base64(value: bytes) -> Iterator[str]:
    """Alone, and as it looks behind other text: without the letters that it shares with that."""
    alone = base64.b64encode(value).decode().rstrip("=")
    inside = []
    for before in range(3):
        coded = base64.b64encode(b"-" * before + value).decode()
        inside.append(coded[-(-before * 8 // 6) : (before + len(value)) * 8 // 6])
    for coded in (alone, *(form for form in inside if len(form) >= 8)):
        yield coded
        yield coded.translate(_URL_SAFE)


_URL_SAFE = str.maketrans("+/", "-_")


# -- the log -------------------------------------------------------------------------

# The tokens in use, each as long as its client keeps it. By id, for two clients may use equal
# ones; weak, so that this keeps none alive; and no repr of it shows one.
_KNOWN: WeakValueDictionary[int, Secret] = WeakValueDictionary()


def remember(secret: Secret) -> None:
    """From now on `redact_known` and the log take this secret out, as long as it lives."""
    _KNOWN[id(secret)] = secret


def redact_known(text: str) -> str:
    """`text` without the tokens that are in use."""
    for secret in {ref() for ref in _KNOWN.valuerefs()}:
        text = redact(text, secret)
    return text


class RedactingFilter(logging.Filter):
    """Takes the tokens in use out of every record of a logger: out of its message, arguments,
    exception, stack and extras. It lets every record pass and raises nothing, so that what is
    wrong with a record is still told by `logging` itself."""

    def filter(self, record: logging.LogRecord) -> bool:
        if _KNOWN:
            with suppress(Exception):
                _redact_trace(record)
            with suppress(Exception):
                _redact_message(record)
            for name in vars(record).keys() - _NOT_TEXT:
                with suppress(Exception):
                    setattr(record, name, _without_secrets(getattr(record, name)))
        return True


_TRACE = logging.Formatter()
_NOT_TEXT = vars(logging.makeLogRecord({})).keys() - {"msg", "args", "exc_text", "stack_info"}


def _redact_trace(record: logging.LogRecord) -> None:
    if record.exc_info and not record.exc_text:
        text = _TRACE.formatException(record.exc_info)
        if (clean := redact_known(text)) != text:
            record.exc_info, record.exc_text = None, clean


def _redact_message(record: logging.LogRecord) -> None:
    text = record.getMessage()
    if (clean := redact_known(text)) != text:
        record.msg, record.args = clean, ()


def _without_secrets(value: Any) -> Any:
    """The same object unless it shows a secret."""
    if value is None or isinstance(value, (int, float)):
        return value
    text = value if isinstance(value, str) else repr(value)
    if (clean := redact_known(text)) == text:
        return value
    if isinstance(value, tuple):
        return tuple(map(_without_secrets, value))
    if isinstance(value, Mapping):
        return {key: _without_secrets(item) for key, item in value.items()}
    return clean


# -- server text ---------------------------------------------------------------------

# C0 and C1 controls, DEL, zero-width and bidi marks, line and paragraph separators,
# the byte-order mark, and lone surrogates.
_HOSTILE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def safe_text(value: Any, *, limit: int = 500) -> str:
    """Server text as one harmless line: controls, bidi and zero-width marks and lone
    surrogates escaped, at most `limit` characters."""
    text = value if isinstance(value, str) else str(value)
    # Cut before escaping: a body of many megabytes must not be scanned for 500 characters.
    cut = _HOSTILE.sub(_escape, text[: limit + 1])
    return cut if len(cut) <= limit else cut[: max(limit - 1, 0)] + "…"
