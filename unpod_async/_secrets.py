"""Secrets that do not leak by accident, and server text that cannot harm a terminal."""

from __future__ import annotations

import base64
import html
import json
import re
from typing import Any, NoReturn
from urllib.parse import quote

__all__ = ["HiddenText", "Secret", "redact", "safe_text"]


class Secret:
    """A string that shows itself only to `reveal()`: not to str, repr, format or pickle."""

    __slots__ = ("__value",)

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


def redact(text: str, secret: Secret | None) -> str:
    """`text` with the secret replaced by `***`: plain, URL-encoded, base64, or escaped for
    JSON or HTML. Redact before cutting: a part of a secret is not recognized."""
    if secret is None or not (value := secret.reveal()):
        return text
    coded = base64.b64encode(value.encode()).decode().rstrip("=")
    forms = {value, quote(value), quote(value, safe=""), coded, coded.translate(_URL_SAFE)}
    forms |= {json.dumps(value)[1:-1], html.escape(value)}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, "***")
    return text


_URL_SAFE = str.maketrans("+/", "-_")


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
