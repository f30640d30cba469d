"""How the pages of the lists become rows: one fast decode for rows as they are known, and row
by row where one has an unknown key, an odd type, or no usable id. Pure.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from operator import attrgetter
from typing import Any, ClassVar, Final, Generic, TypeVar, cast

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from ._call import BROKEN, Discreet
from .models import (
    _OBJECT,
    Id,
    Organization,
    Run,
    Scalar,
    Space,
    Task,
    _as_text,
    _as_whole,
    _Row,
    _value,
    _wire_name,
)

__all__ = [
    "ORGANIZATIONS",
    "RUNS",
    "SPACES",
    "TASKS",
    "EnvelopeError",
    "InvalidRow",
    "Page",
    "RowKind",
]

T = TypeVar("T")
R = TypeVar("R", bound="_Row")
S = TypeVar("S", bound=Struct)

# -- rows with a key that is not ours or a value that does not fit

_PARTS = frozenset({"_user_info", "_task", "_input", "_output", "_attachments", "_organization"})
_SCALAR = msgspec.json.Decoder(str | int | float | bool | None)


class _Odd:
    """Keeps the row's own bytes, so that nothing the server sent is lost."""

    __slots__ = ()
    _row: bytes

    @property
    def extra(self) -> dict[str, Any]:
        known = cast("type[_Row]", type(self)).__struct_encode_fields__
        keys = _OBJECT.decode(self._row)
        return {key: _value(raw) for key, raw in keys.items() if key not in known}

    def to_json(self) -> bytes:
        return self._row

    def __reduce__(self) -> tuple[Any, ...]:
        return _odd, (type(self), self._row)

    def __copy__(self) -> Any:
        return _odd(cast("type[_Row]", type(self)), self._row)


class _OddRun(_Odd, Run, dict=True, gc=True): ...


class _OddTask(_Odd, Task, dict=True, gc=True): ...


class _OddSpace(_Odd, Space, dict=True, gc=True): ...


class _OddOrganization(_Odd, Organization, dict=True, gc=True): ...


def _odd(cls: type[R], row: bytes) -> R:
    made = _loose(cls, row)
    made._row = row  # type: ignore[attr-defined]
    return made


def _loose(cls: type[S], row: bytes) -> S:
    """The row with each known field that fits, the others unset; ValueError if it has no id."""
    keys = _OBJECT.decode(row)
    fields: dict[str, Any] = {}
    for slot, key in zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True):
        if slot in _PARTS and key in keys:
            fields[slot] = keys[key]
        elif key in keys:
            with suppress(*BROKEN):
                fields[slot] = _SCALAR.decode(keys[key])
    identity = next(slot for slot in cls.__struct_fields__ if not slot.startswith("_"))
    fields[identity] = _id(identity, keys.get(identity))
    return cls(**fields)


def _id(name: str, raw: Raw | None) -> str:
    """An identifier as text, a number by its digits as sent."""
    sent = b"" if raw is None else bytes(raw)
    if sent[:1].isdigit() or sent[:1] == b"-":
        return sent.decode()
    if sent[:1] != b'"' or sent == b'""':
        raise ValueError(f"no usable {name}")
    return msgspec.json.decode(sent, type=str)


_SKIPPED = "not decoded: "  # a key that no server sends


@lru_cache(maxsize=256)
def _narrow(cls: type[R], keep: frozenset[str]) -> type[R]:
    """The row type with all other fields under keys that never come, so that they stay unset."""
    others = [
        (slot, UnsetType, msgspec.field(name=_SKIPPED + slot, default=UNSET))
        for slot in cls.__struct_fields__
        if slot not in keep
    ]

    def reduce(self: Any) -> tuple[Any, ...]:
        return _narrow_row, (cls, keep, {slot: getattr(self, slot) for slot in keep})

    made = msgspec.defstruct(
        cls.__name__,
        others,
        bases=(cls,),
        module=cls.__module__,
        namespace={"__doc__": cls.__doc__, "__reduce__": reduce},
        forbid_unknown_fields=False,
        gc=False,
        kw_only=True,
    )
    return cast("type[R]", made)


def _narrow_row(cls: type[R], keep: frozenset[str], values: dict[str, Any]) -> R:
    made: R = _narrow(cls, keep)(**values)
    return made


# -- pages


class EnvelopeError(ValueError):
    """The body is not an envelope whose `data` is a list of rows."""


class InvalidRow(Discreet, Struct, frozen=True, gc=False):
    """An element of `data` that is no row: its place in the page, its bytes, what is wrong."""

    shown: ClassVar = ("offset", "reason")
    offset: int
    row: bytes
    reason: str


class Page(Discreet, Struct, Generic[T], kw_only=True):
    """One page as the server sent it. `items` and `ids` are parallel and in the server's order;
    `number` is the page that was asked for, from 1 (0: not said); `length` counts
    all elements of `data`, the `invalid` ones too; `count` is the server's total, None unless a
    whole number. `space_ids` and `run_ids` are what the rows name, for a foreign-row check."""

    shown: ClassVar = ("number", "length", "count", "status_code")
    items: list[T]
    ids: list[str]
    length: int
    number: int = 0
    count: int | None = None
    status_code: int | None = None
    message: str | None = None
    invalid: list[InvalidRow] = []
    mended: bool = False
    """Whether it had texts with half a surrogate pair: U+FFFD stands there, but not in `raw()`."""
    space_ids: set[str] = set()
    run_ids: set[str] = set()


Plain = str | int | float | bool | None
_NULL = Raw(b"null")


class _Envelope(Struct, Generic[T], gc=False):
    data: list[T]
    count: Plain = None
    status_code: Plain = None
    message: Plain = None


class _AnyEnvelope(Struct, gc=False):
    """Raw, so that a strange count or message never costs the page."""

    data: list[Raw]
    count: Raw = _NULL
    status_code: Raw = _NULL
    message: Raw = _NULL


class _Single(Struct):
    data: Raw


_SPLIT = msgspec.json.Decoder(_Envelope[Raw])
_SPLIT_ANY = msgspec.json.Decoder(_AnyEnvelope)
_SINGLE = msgspec.json.Decoder(_Single)
_STEP = 1 << 12


def _check_utf8(body: bytes) -> None:
    """Raise UnicodeDecodeError unless `body` is UTF-8: msgspec does not look into parts."""
    if body.isascii():
        return
    view, last, at = memoryview(body), len(body) - _STEP, 0
    while at < last:  # by steps: a text of 64 MiB could take 256
        at += codecs.utf_8_decode(view[at : at + _STEP], "strict", False)[1]
    codecs.utf_8_decode(view[at:], "strict", True)


def _unpin(rows: list[Task]) -> None:
    """Give each part bytes of its own; a Raw from a page keeps the whole page alive."""
    for row in rows:
        if (part := row._user_info) is not UNSET:
            row._user_info = part.copy()
        if (part := row._task) is not UNSET:
            row._task = part.copy()
        if (part := row._input) is not UNSET:
            row._input = part.copy()
        if (part := row._output) is not UNSET:
            row._output = part.copy()
        if (part := row._attachments) is not UNSET:
            row._attachments = part.copy()


def _unpin_spaces(rows: list[Space]) -> None:
    for row in rows:
        if (part := row._organization) is not UNSET:
            row._organization = part.copy()


def _lines(raws: list[Raw], body: bytes) -> list[bytes]:
    """The rows, each on one line. A line break cannot stand inside a JSON string, so looking
    for one is exact; for blanks the first and the last row speak for their page."""
    ends = [bytes(raw) for raw in (*raws[:1], *raws[-1:])]
    if b"\n" in body or b"\r" in body or any(_one_line(end) != end for end in ends):
        return [_one_line(raw) for raw in raws]
    return [bytes(raw) for raw in raws]


def _distinct(read: Callable[[Any], Any] | None, keys: list[Any]) -> set[str]:
    values = set() if read is None else set(map(read, keys))
    return {text for value in values if (text := _as_text(value)) is not None}


def _one_line(row: bytes | Raw) -> bytes:
    return msgspec.json.format(row, indent=-1)


# In turn what is sound, as much as there is at once, and halves that stand alone: a backslash
# that is escaped itself begins no other escape.
_HIGH, _LOW = rb"\\u[dD][89abAB][\da-fA-F]{2}", rb"\\u[dD][c-fC-F][\da-fA-F]{2}"
_HALVES = re.compile(
    rb"(?:[^\\]++|%s%s|\\(?!u[dD][89a-fA-F]).)++|((?:%s(?!%s)|%s)++)"
    % (_HIGH, _LOW, _HIGH, _LOW, _LOW),
    re.DOTALL,
)


def _mend(body: bytes) -> bytes:
    """The body with U+FFFD for each half of a surrogate pair, of which no text can be made (it is
    what a text cut in the middle of an emoji ends with). All bytes stay in their places."""
    mended = bytearray(body)
    for found in _HALVES.finditer(body):
        if found[1]:
            mended[slice(*found.span())] = b"\\ufffd" * (len(found[1]) // 6)
    return bytes(mended)


class RowKind(Generic[R]):
    """One kind of row: its type, the wire key that is its identity, how its pages decode."""

    def __init__(
        self,
        name: str,
        type_: type[R],
        odd: type[R],
        *,
        space: str | None = None,
        run: str | None = None,
        unpin: Callable[[list[R]], None] | None = None,
    ) -> None:
        self.name: Final = name
        self.type: Final = type_
        self.identity: Final = type_._identity()
        slots = {self.identity: Id, **{slot: Scalar for slot in (space, run) if slot}}
        # The same slots as on a row, so that `_page` reads the ids of either.
        self._keys = msgspec.defstruct(
            "_Keys",
            [(s, kind) if s == self.identity else (s, kind, UNSET) for s, kind in slots.items()],
            rename=_wire_name,
            kw_only=True,
            gc=False,
        )
        self._id_of = attrgetter(self.identity)
        self._space_of = attrgetter(space) if space else None
        self._run_of = attrgetter(run) if run else None
        self._odd, self._space, self._run, self._unpin = odd, space, run, unpin
        self._rows = msgspec.json.Decoder(_Envelope[type_])  # type: ignore[valid-type]
        self._ids = msgspec.json.Decoder(_Envelope[self._keys])  # type: ignore[name-defined]
        self._row = msgspec.json.Decoder(type_)

    def __repr__(self) -> str:
        return f"<RowKind {self.name}>"

    @lru_cache(maxsize=256)  # noqa: B019
    def only(self, names: frozenset[str]) -> RowKind[R]:
        """The same rows with nothing decoded but what these public names read, and what the
        rows of a list are told apart by. Raises ValueError for a name that a row has not."""
        keep = {self.identity, self._space, self._run} - {None}
        for name in sorted(names):
            if not (slots := self.type._slots_of(name)):
                raise ValueError(name)
            keep.update(slots)
        narrow = _narrow(self.type, frozenset(keep))
        parts = self._unpin if _PARTS & keep else None
        return RowKind(self.name, narrow, narrow, space=self._space, run=self._run, unpin=parts)

    def decode(self, body: bytes) -> Page[R]:
        """The page's rows as Structs; none of them keeps the page's bytes alive.

        One decode if all rows are as known; else row by row, where a row with unknown keys or
        odd types keeps its own bytes. Raises EnvelopeError if `data` is not a list.
        """
        try:
            _check_utf8(body)
            sent = self._rows.decode(body)
        except BROKEN:
            return self._one_by_one(body, self._any_row)
        if self._unpin is not None:
            self._unpin(sent.data)
        return self._page(sent, sent.data, sent.data)

    def keys(self, body: bytes) -> list[Any] | None:
        """What the rows are told apart by, all that `decode_raw` needs to know of them, which is
        half of its work; None if that has to look at each."""
        try:
            _check_utf8(body)
            return self._ids.decode(body).data
        except BROKEN:
            return None

    def decode_raw(self, body: bytes, keys: list[Any] | None = None) -> Page[bytes]:
        """The page's rows as the server sent them, each compacted to one line of its own bytes;
        number text and repeated keys stay (the last of a repeated id counts). `keys` if they are
        there already.

        Raises EnvelopeError if `data` is not a list.
        """
        keys = self.keys(body) if keys is None else keys
        if keys is None:
            return self._one_by_one(body, self._any_line)
        try:
            sent = _SPLIT.decode(body)
            rows = _lines(sent.data, body)
        except BROKEN:
            return self._one_by_one(body, self._any_line)
        return self._page(sent, keys, rows)

    def decode_one(self, body: bytes) -> R:
        """The row of an answer whose `data` is one object. Raises EnvelopeError for any other."""
        try:
            return self._any_row(bytes(_SINGLE.decode(body).data))[0]
        except BROKEN as error:
            raise EnvelopeError(f"not an envelope with one row: {error}") from None

    def decode_line(self, line: bytes) -> tuple[R, bool]:
        """The row of a line that `decode_raw` gave, which it keeps, and whether it had to be
        mended. Raises EnvelopeError for a line that is no row."""
        try:
            return self._row.decode(line), False
        except BROKEN:
            page = self.decode(b'{"data":[%b]}' % line)
        if not page.items:
            raise EnvelopeError("a line that is no row")
        return page.items[0], page.mended

    def home(self, row: R | bytes) -> tuple[str | None, str | None]:
        """The space id and the run id that a row names."""
        read = self._any_row(row)[0] if isinstance(row, bytes) else row
        return getattr(read, "space_id", None), getattr(read, "run_id", None)

    def _page(
        self,
        sent: _Envelope[Any],
        keys: list[Any],
        rows: list[T],
        invalid: Sequence[InvalidRow] = (),
    ) -> Page[T]:
        return Page(
            items=rows,
            ids=list(map(self._id_of, keys)),
            length=len(sent.data),
            count=_as_whole(sent.count),
            status_code=_as_whole(sent.status_code),
            message=sent.message if isinstance(sent.message, str) else None,
            invalid=list(invalid),
            space_ids=_distinct(self._space_of, keys),
            run_ids=_distinct(self._run_of, keys),
        )

    def _one_by_one(self, body: bytes, read: Callable[[bytes, bytes], tuple[Any, T]]) -> Page[T]:
        sent, mended = _split(body)
        at = 0
        keys: list[Any] = []
        rows: list[T] = []
        invalid: list[InvalidRow] = []
        for offset, raw in enumerate(sent.data):
            row = bytes(raw)
            at = mended.index(row, at)
            as_sent, at = body[at : at + len(row)], at + len(row)
            try:
                _check_utf8(row)
                key, made = read(row, as_sent)
            except BROKEN as error:
                invalid.append(InvalidRow(offset, as_sent, str(error) or type(error).__name__))
            else:
                keys.append(key)
                rows.append(made)
        page = self._page(sent, keys, rows, invalid)
        page.mended = mended is not body
        return page

    def _any_row(self, row: bytes, _: bytes = b"") -> tuple[R, R]:
        try:
            made = self._row.decode(row)
        except BROKEN:
            make = _odd if issubclass(self._odd, _Odd) else _loose
            made = make(self._odd, row)
        return made, made

    def _any_line(self, row: bytes, as_sent: bytes) -> tuple[Any, bytes]:
        line = _one_line(row) if as_sent == row else as_sent.translate(_NO_BREAKS)
        return _loose(self._keys, row), line


_NO_BREAKS = bytes.maketrans(b"\r\n", b"  ")  # none stands inside a JSON string


def _split(body: bytes) -> tuple[_Envelope[Raw], bytes]:
    """The envelope with its rows as they are, and the body that they are parts of: the same, or
    a mended one. Raises EnvelopeError."""
    try:
        return _told(_SPLIT_ANY.decode(body)), body
    except BROKEN as error:
        broken = error
    mended = _mend(body)
    try:
        if mended != body:
            return _told(_SPLIT_ANY.decode(mended)), mended
    except BROKEN as error:
        broken = error
    raise EnvelopeError(f"not an envelope with a list of rows: {broken}")


def _told(sent: _AnyEnvelope) -> _Envelope[Raw]:
    return _Envelope(sent.data, *map(_value, (sent.count, sent.status_code, sent.message)))


TASKS = RowKind("tasks", Task, _OddTask, space="_space_id", run="_run_id", unpin=_unpin)
RUNS = RowKind("runs", Run, _OddRun, space="_space_id", run="run_id")
SPACES = RowKind("spaces", Space, _OddSpace, unpin=_unpin_spaces)
ORGANIZATIONS = RowKind("organizations", Organization, _OddOrganization)
