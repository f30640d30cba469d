"""How the platform cuts a list into pages and filters it: pure functions of the query."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

Predicate = Callable[[Any], bool]

CALL_TYPES = {
    "inbound": ("inbound", "inboundPhoneCall"),
    "outbound": ("outbound", "outboundPhoneCall"),
}


class RefusedError(Exception):
    """The database does not take this query; the text is the `detail` of its answer."""


class Window(NamedTuple):
    """Which rows a request gets: `limit` of them after the first `skip`; 0 is no limit."""

    skip: int
    limit: int


def number(text: str | None) -> int | None:
    """What Python's `int` makes of it (so `+1`, ` 1 ` and `1_0` count), else None."""
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def parse_window(query: Mapping[str, str], default: int = 50, cap: int | None = None) -> Window:
    """Malformed is default. A negative size acts like a positive one, but only on page 1."""
    page, size = number(query.get("page")), number(query.get("page_size"))
    page, size = 1 if page is None else page, default if size is None else size
    if cap is not None and (size == 0 or abs(size) > cap):
        size = cap
    skip = (page - 1) * size
    if skip < 0:
        raise RefusedError("skip must be >= 0")
    if max(skip, abs(size)) >= 2**63:
        raise RefusedError("MongoDB can only handle up to 8-byte ints")
    return Window(skip, abs(size))


def created_filter(query: Mapping[str, str]) -> tuple[int, int] | None:
    """First and last second of `from_ts` and `to_ts`; one malformed end drops both."""
    ends = {key: query[key] for key in ("from_ts", "to_ts") if query.get(key)}
    bounds = {key: number(text) for key, text in ends.items()}
    low, high = bounds.get("from_ts", 0), bounds.get("to_ts", 2**63)
    return None if not bounds or low is None or high is None else (low, high)


def row_filters(query: Mapping[str, str]) -> list[Predicate]:
    """Tests of a decoded row, one for each filter in the query. RefusedError: a bad pattern."""
    asked = {key: value for key, value in query.items() if value}
    return [make(asked[key]) for key, make in FILTERS.items() if key in asked]


def matches(row: bytes, filters: list[Predicate]) -> bool:
    try:
        value = msgspec.json.decode(row)
    except (ValueError, RecursionError):
        return False
    return all(test(value) for test in filters)


def _at(row: Any, *path: str) -> Any:
    for key in path:
        row = row.get(key) if isinstance(row, dict) else None
    return row


def _by_key(key: str) -> Callable[[str], Predicate]:
    return lambda wanted: lambda row: bool(_at(row, key) == wanted)


def _by_status(wanted: str) -> Predicate:
    words = {word.strip().replace("+", " ") for word in wanted.split(",")}

    def test(row: Any) -> bool:
        status = _at(row, "output", "post_call_data", "summary", "status")
        return isinstance(status, str) and status in words

    return test


def _by_call_type(wanted: str) -> Predicate:
    words = CALL_TYPES.get(wanted, (wanted,))
    return lambda row: (
        _at(row, "output", "call_type") in words or _at(row, "output", "type") in words
    )


def _by_search(pattern: str) -> Predicate:
    try:
        search = re.compile(pattern, re.IGNORECASE).search
    except re.error as error:
        raise RefusedError(f"Regular expression is invalid: {error}") from None
    places = ("input.name", "input.phone", "output.customer", "output.contact_number")
    fields = [place.split(".") for place in places]

    def test(row: Any) -> bool:
        texts = (_at(row, *field) for field in fields)
        return any(isinstance(text, str) and search(text) for text in texts)

    return test


FILTERS: dict[str, Callable[[str], Predicate]] = {
    "status": _by_status,
    "call_type": _by_call_type,
    "search": _by_search,
    "user_id": _by_key("user"),
    "thread_id": _by_key("thread_id"),
}
"""The space's task list has these (beside from_ts, to_ts); no other list has any."""
