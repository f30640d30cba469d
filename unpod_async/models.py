"""The wire objects as msgspec Structs: what the list endpoints send, lossless and lazy.

`V` is the vendor's page, `O` what the open-source server was seen to send. A row types its
top level; the parts `input`, `output`, `task`, `user_info` and `attachments` stay raw JSON
and are decoded anew at each touch: bind `call = task.call` once. The public value of what is
absent, null or unusable is None; `to_json()` keeps the difference.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from operator import attrgetter
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    Generic,
    Literal,
    Never,
    Self,
    TypeVar,
    cast,
    overload,
)

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from ._call import (
    BROKEN,
    Call,
    Contact,
    Discreet,
    Turn,
    build_call,
    build_contact,
    call_table,
    moment,
    read_objective,
)

__all__ = [
    "ORGANIZATIONS",
    "RUNS",
    "SPACES",
    "TASKS",
    "Call",
    "Contact",
    "EnvelopeError",
    "InvalidRow",
    "Organization",
    "Page",
    "RowKind",
    "Run",
    "Space",
    "Task",
    "Turn",
    "call_table",
]

T = TypeVar("T")
R = TypeVar("R", bound="_Row")
S = TypeVar("S", bound=Struct)

Id = Annotated[str, Meta(min_length=1)]
# A float or an object where a text belongs is left to the slow path, which keeps its bytes.
Scalar = str | int | None | UnsetType
Part = Raw | UnsetType


# -- public read-only fields over private wire slots


class Wire(Generic[T]):
    """A read-only view of a private slot, by default the one of the same name."""

    def __init__(self, doc: str, read: Callable[[Any], T], slot: str = "") -> None:
        self.__doc__ = doc
        self._read = read
        self._slot = slot

    def __set_name__(self, owner: type, name: str) -> None:
        self._get = attrgetter(self._slot or f"_{name}")

    @overload
    def __get__(self, obj: None, owner: type) -> Self: ...
    @overload
    def __get__(self, obj: object, owner: type | None = None) -> T: ...
    def __get__(self, obj: object, owner: type | None = None) -> Self | T:
        return self if obj is None else self._read(self._get(obj))

    def __set__(self, obj: object, value: Never) -> None:
        raise AttributeError("a row is read-only")


def _as_text(value: object) -> str | None:
    if type(value) is str:
        return value
    return str(value) if type(value) is int or type(value) is float else None


def _as_whole(value: object) -> int | None:
    """A count: an integer from 0 to 2**63 - 1, also as 1.0 or "10"; anything else is None."""
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) < 20 else None
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < 2**63 else None


def _as_flag(value: object) -> bool | None:
    return value if type(value) is bool else None


def _value(raw: object) -> Any:
    """Decoded JSON; None if absent or unreadable (deeper nested than Python allows)."""
    if not isinstance(raw, Raw):
        return None
    try:
        return msgspec.json.decode(raw)
    except BROKEN:
        pass
    try:  # 1e999 is JSON, yet msgspec refuses the number
        return json.loads(bytes(raw))
    except BROKEN:
        return None


def _as_object(raw: object) -> dict[str, Any] | None:
    return value if isinstance(value := _value(raw), dict) else None


def _as_list(raw: object) -> list[Any] | None:
    return value if isinstance(value := _value(raw), list) else None


def _text(doc: str) -> Wire[str | None]:
    return Wire(doc, _as_text)


def _whole(doc: str) -> Wire[int | None]:
    return Wire(doc, _as_whole)


def _object(doc: str) -> Wire[dict[str, Any] | None]:
    return Wire(doc, _as_object)


def _time(name: str) -> Wire[datetime | None]:
    return Wire(f"`{name}`, aware UTC.", moment, f"_{name}")


# -- rows


def _wire_name(slot: str) -> str:
    return slot.removeprefix("_")


class _Row(Discreet, Struct, gc=False, kw_only=True, forbid_unknown_fields=True, rename=_wire_name):
    """What all rows share."""

    @property
    def extra(self) -> dict[str, Any]:
        """Top-level keys that this library does not know, decoded; normally empty."""
        return {}

    def to_json(self) -> bytes:
        """The row as JSON: every key and value as sent, absent keys absent, nulls null."""
        return msgspec.json.encode(self)

    def to_dict(self) -> dict[str, Any]:
        """The whole row decoded, by wire names."""
        return {key: _value(raw) for key, raw in _OBJECT.decode(self.to_json()).items()}


class Run(_Row):
    """A run: a batch of tasks in a space (V "Run Object Fields", O: 10 keys)."""

    shown: ClassVar = ("run_id", "status")

    run_id: Id
    """Unique run identifier (V)."""
    _internal_id: Scalar = field(name="_id", default=UNSET)
    _space_id: Scalar = UNSET
    _user: Scalar = UNSET
    _thread_id: Scalar = UNSET
    _collection_ref: Scalar = UNSET
    _run_mode: Scalar = UNSET
    _status: Scalar = UNSET
    _batch_count: Scalar = UNSET
    _created: Scalar = UNSET
    _modified: Scalar = UNSET

    internal_id = _text("Internal document ID (wire key `_id`).")
    space_id = _text("Space identifier (V).")
    user = _text("User ID who created the run (V).")
    thread_id = _text("Thread identifier (V).")
    collection_ref = _text("Reference to the data collection (V).")
    run_mode = _text("dev, prod, test, prefect, default …: an open set (V, O).")
    status = _text("pending, running, completed, partially_completed, failed …: an open set.")
    batch_count = _whole("Number of batches (V), not of tasks (O).")
    created = _text("Creation time as sent; parsed in `created_at`.")
    modified = _text("Time of the last change as sent; parsed in `modified_at`.")
    created_at = _time("created")
    modified_at = _time("modified")

    @classmethod
    def of(cls, run_id: str) -> Self:
        """A run of which only the id is known."""
        return cls(run_id=run_id)


PartName = Literal["task", "input", "output", "user_info", "attachments"]


class Task(_Row):
    """A task: one call, e-mail … of a run (V "Task Object Fields", O: 19 keys).

    Times are UTC. A change of `status` does not touch `modified` (O), and `completed` does not
    mean evaluated: `output` may still be `{}` or interim.
    """

    shown: ClassVar = ("task_id", "run_id", "status")

    task_id: Id
    """Unique task identifier (V)."""
    _internal_id: Scalar = field(name="_id", default=UNSET)
    _space_id: Scalar = UNSET
    _thread_id: Scalar = UNSET
    _user: Scalar = UNSET
    _user_org_id: Scalar = UNSET
    _user_info: Part = UNSET
    _run_id: Scalar = UNSET
    _collection_ref: Scalar = UNSET
    _execution_type: Scalar = UNSET
    _task: Part = UNSET
    _input: Part = UNSET
    _output: Part = UNSET
    _attachments: Part = UNSET
    _ref_id: Scalar = UNSET
    _assignee: Scalar = UNSET
    _run_mode: Scalar = UNSET
    _status: Scalar = UNSET
    _created: Scalar = UNSET
    _modified: Scalar = UNSET
    _failure_count: Scalar = UNSET
    _last_failure_reason: Scalar = UNSET
    _provider: Scalar = UNSET
    _retry_attempt: Scalar = UNSET
    _last_status_change: Scalar = UNSET
    _scheduled_timestamp: Scalar = UNSET

    internal_id = _text("Internal task document ID (V; wire key `_id`).")
    space_id = _text("Space identifier (V).")
    thread_id = _text("Thread identifier (V).")
    user = _text("User ID who created the task (V).")
    user_org_id = _text("Organization ID of the user (V).")
    user_info = _object("User details: id, email, full_name, user_token … (V).")
    run_id = _text("Parent run identifier (V).")
    collection_ref = _text("Reference to the data collection (V).")
    execution_type = _text("call, email …: an open set (V).")
    task = _object("Task definition with `objective` (V).")
    input = _object("Input data: name, contact_number, email … (V).")
    output = _object("What came of it, in the platform's or vapi's dialect (V); see `call`.")
    attachments = Wire("Attachments (O).", _as_list)
    ref_id = _text("Identifier of the document in the collection (O).")
    assignee = _text("Agent handle assigned to the task (V).")
    run_mode = _text("dev, prod, test, prefect, default …: an open set (V, O).")
    status = _text("pending, in_progress, processing, scheduled, hold, completed, failed …")
    created = _text("Creation time as sent; parsed in `created_at`.")
    modified = _text("Time of the last change as sent; parsed in `modified_at`.")
    created_at = _time("created")
    modified_at = _time("modified")
    failure_count = _whole("Failures so far (O, only an agent's list).")
    last_failure_reason = _text("Why it failed last (O, only an agent's list).")
    provider = _text("Who carried the call (O, only an agent's list).")
    retry_attempt = _whole("Retries so far (O, only an agent's list).")
    last_status_change = _text("When the status last changed, as sent (O, an agent's list).")
    scheduled_timestamp = _text("When it is due, as sent (O, only an agent's list).")
    objective = Wire("What the task is to achieve (V).", read_objective, "_task")
    contact = Wire("Who was to be called, from `input`.", build_contact, "_input")

    @property
    def call(self) -> Call:
        """The call, whichever dialect `output` has; all None if there is none. Never raises."""
        return build_call(self._output, self._input)

    def json(self, part: PartName) -> bytes | None:
        """A part as the server sent it; None if absent."""
        raw = getattr(self, f"_{part}")
        return bytes(raw) if isinstance(raw, Raw) else None


class Space(_Row):
    """A space (V's newer page: id, name, token, agent_handle, created_at; O: the older keys)."""

    shown: ClassVar = ("id", "token")

    token: Id
    """Space token: a public identifier (V), the `space_token` of all paths."""
    _id: Scalar = UNSET
    _name: Scalar = UNSET
    _slug: Scalar = UNSET
    _agent_handle: Scalar = UNSET
    _description: Scalar = UNSET
    _logo: Scalar = UNSET
    _privacy_type: Scalar = UNSET
    _space_type: Scalar = UNSET
    _content_type: Scalar = UNSET
    _organization: Part = UNSET
    _created: Scalar = field(name="created_at", default=UNSET)

    id = _text("Space identifier (V).")
    name = _text("Name of the space (V).")
    slug = _text("Name in addresses (O).")
    agent_handle = _text("Handle of the space's agent (V).")
    description = _text("Description (O).")
    logo = _text("Address of the logo (O).")
    privacy_type = _text("Who may see it (O).")
    space_type = _text("Kind of space (O).")
    content_type = _text("Kind of content (O).")
    organization = _object("name and domain_handle of the owner (O).")
    created = _text("Creation time as sent (wire key `created_at`).")
    created_at = _time("created")


class Organization(_Row):
    """An organization (V's newer page: id, name, domain_handle, created_at; O: older keys)."""

    shown: ClassVar = ("id", "domain_handle")

    domain_handle: Id
    """What the `Org-Handle` header wants (V)."""
    _id: Scalar = UNSET
    _name: Scalar = UNSET
    _token: Scalar = UNSET
    _domain: Scalar = UNSET
    _is_private_domain: Scalar | bool = UNSET
    _role: Scalar = UNSET
    _created: Scalar = field(name="created_at", default=UNSET)

    id = _text("Organization identifier (V).")
    name = _text("Name of the organization (V).")
    token = _text("Public token of the organization (O).")
    domain = _text("Domain (O).")
    is_private_domain = Wire("Whether the domain is private (O).", _as_flag)
    role = _text("The caller's role in it (O).")
    created = _text("Creation time as sent (wire key `created_at`).")
    created_at = _time("created")


# -- rows with a key that is not ours or a value that does not fit

_PARTS = frozenset({"_user_info", "_task", "_input", "_output", "_attachments", "_organization"})
_OBJECT = msgspec.json.Decoder(dict[str, Raw])
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
    identity = _identity(cls)
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


def _identity(cls: type[Struct]) -> str:
    """The one field that is public itself."""
    return next(slot for slot in cls.__struct_fields__ if not slot.startswith("_"))


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
    space_ids: set[str] = set()
    run_ids: set[str] = set()


_NULL = Raw(b"null")


class _Envelope(Struct, Generic[T], gc=False):
    data: list[T]
    # Raw, so that a strange count or message never costs the page.
    count: Raw = _NULL
    status_code: Raw = _NULL
    message: Raw = _NULL


class _Single(Struct):
    data: Raw


_SPLIT = msgspec.json.Decoder(_Envelope[Raw])
_SINGLE = msgspec.json.Decoder(_Single)
_STEP = 1 << 16


def _check_utf8(body: bytes) -> None:
    """Raise UnicodeDecodeError unless `body` is UTF-8: msgspec does not look into parts."""
    if body.isascii():
        return
    view, at = memoryview(body), 0
    while at < len(body):  # by steps: a text of 64 MiB could take 256
        at += codecs.utf_8_decode(view[at : at + _STEP], "strict", at + _STEP >= len(body))[1]


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


def _distinct(slot: str | None, keys: list[Any]) -> set[str]:
    values = set(map(attrgetter(slot), keys)) if slot else set()
    return {text for value in values if (text := _as_text(value)) is not None}


def _one_line(row: bytes | Raw) -> bytes:
    return msgspec.json.format(row, indent=-1)


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
        self.identity: Final = _identity(type_)
        slots = {self.identity: Id, **{slot: Scalar for slot in (space, run) if slot}}
        # The same slots as on a row, so that `_page` reads the ids of either.
        self._keys = msgspec.defstruct(
            "_Keys",
            [(s, kind) if s == self.identity else (s, kind, UNSET) for s, kind in slots.items()],
            rename=_wire_name,
            kw_only=True,
            gc=False,
        )
        self._odd, self._space, self._run, self._unpin = odd, space, run, unpin
        self._rows = msgspec.json.Decoder(_Envelope[type_])  # type: ignore[valid-type]
        self._ids = msgspec.json.Decoder(_Envelope[self._keys])  # type: ignore[name-defined]
        self._row = msgspec.json.Decoder(type_)

    def __repr__(self) -> str:
        return f"<RowKind {self.name}>"

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

    def decode_raw(self, body: bytes) -> Page[bytes]:
        """The page's rows as the server sent them, each compacted to one line of its own bytes;
        number text and repeated keys stay (the last of a repeated id counts).

        Raises EnvelopeError if `data` is not a list.
        """
        try:
            _check_utf8(body)
            keys = self._ids.decode(body).data
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
        message = _value(sent.message)
        return Page(
            items=rows,
            ids=list(map(attrgetter(self.identity), keys)),
            length=len(sent.data),
            count=_as_whole(_value(sent.count)),
            status_code=_as_whole(_value(sent.status_code)),
            message=message if isinstance(message, str) else None,
            invalid=list(invalid),
            space_ids=_distinct(self._space, keys),
            run_ids=_distinct(self._run, keys),
        )

    def _one_by_one(self, body: bytes, read: Callable[[bytes], tuple[Any, T]]) -> Page[T]:
        try:
            sent = _SPLIT.decode(body)
        except BROKEN as error:
            raise EnvelopeError(f"not an envelope with a list of rows: {error}") from None
        keys: list[Any] = []
        rows: list[T] = []
        invalid: list[InvalidRow] = []
        for offset, raw in enumerate(sent.data):
            row = bytes(raw)
            try:
                _check_utf8(row)
                key, made = read(row)
            except BROKEN as error:
                invalid.append(InvalidRow(offset, row, str(error) or type(error).__name__))
            else:
                keys.append(key)
                rows.append(made)
        return self._page(sent, keys, rows, invalid)

    def _any_row(self, row: bytes) -> tuple[R, R]:
        try:
            made = self._row.decode(row)
        except BROKEN:
            made = _odd(self._odd, row)
        return made, made

    def _any_line(self, row: bytes) -> tuple[Any, bytes]:
        return _loose(self._keys, row), _one_line(row)


TASKS = RowKind("tasks", Task, _OddTask, space="_space_id", run="_run_id", unpin=_unpin)
RUNS = RowKind("runs", Run, _OddRun, space="_space_id", run="run_id")
SPACES = RowKind("spaces", Space, _OddSpace, unpin=_unpin_spaces)
ORGANIZATIONS = RowKind("organizations", Organization, _OddOrganization)
