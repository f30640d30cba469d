"""Ids of rows, and what rows that were handed in say of themselves."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

import msgspec

from ._rows import encode

Row: TypeAlias = dict[str, Any] | bytes


class Ids:
    """Numbers to ids and back: ids look like the server's, `T` or `R` and 32 hex digits."""

    BASE, STEP = 0xE603_6F00_0000, 9973

    def __init__(self, prefix: str, seed: int) -> None:
        self._prefix = prefix
        self._tail = f"11f1b31d02fc{seed & 0xFFFFFFFF:08x}"
        self._text: dict[int, str] = {}
        self._number: dict[str, int] = {}

    def give(self, number: int, text: str) -> None:
        """A row that was handed in keeps its own id."""
        self._text[number] = text
        self._number.setdefault(text, number)

    def text(self, number: int) -> str:
        given = self._text.get(number)
        if given is not None:
            return given
        moment = self.BASE + number * self.STEP
        high, low = divmod(moment, 1 << 32)
        return f"{self._prefix}{low:08x}{high:04x}{self._tail}"

    def number(self, text: str) -> int:
        """Raises KeyError for an id that was never given out."""
        if text in self._number:
            return self._number[text]
        try:
            moment = int(text[9:13] + text[1:9], 16)
        except ValueError:
            raise KeyError(text) from None
        number = (moment - self.BASE) // self.STEP
        if number < 0 or self.text(number) != text:
            raise KeyError(text)
        return number


def row_json(row: Row) -> bytes:
    return row if isinstance(row, bytes) else encode(row)


def _value(row: Row, key: str) -> Any:
    """What a row has under a key, if it is a JSON object at all."""
    if isinstance(row, bytes):
        try:
            row = msgspec.json.decode(row)
        except (ValueError, RecursionError):
            return None
    return row.get(key) if isinstance(row, dict) else None


def row_id(row: Row, key: str) -> str | None:
    value = _value(row, key)
    return str(value) if isinstance(value, int | str) and value != "" else None


def row_created(row: Row) -> int | None:
    try:
        when = datetime.fromisoformat(_value(row, "created"))
        return max(0, min(int(when.replace(tzinfo=when.tzinfo or UTC).timestamp()), 2**32 - 1))
    except (TypeError, ValueError, OverflowError):
        return None


def runs_named_in(rows: Sequence[Row]) -> list[str | None]:
    """The runs of given tasks, in the order in which they are first named."""
    return list(dict.fromkeys(run for row in rows if (run := row_id(row, "run_id")) is not None))
