"""The wire objects as msgspec Structs: what the list endpoints send, lossless and lazy.

`V` is the vendor's page, `O` what the open-source server was seen to send. A row types its
top level; the parts `input`, `output`, `task`, `user_info` and `attachments` stay raw JSON
and are decoded anew at each touch: bind `call = task.call` once. The public value of what is
absent, null or unusable is None; `to_json()` keeps the difference.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from operator import attrgetter
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    Literal,
    Never,
    Self,
    TypeVar,
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
    "Call",
    "Contact",
    "Organization",
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
        self.slot = slot

    def __set_name__(self, owner: type, name: str) -> None:
        self.slot = self.slot or f"_{name}"
        self._get = attrgetter(self.slot)

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

_OBJECT = msgspec.json.Decoder(dict[str, Raw])


def _wire_name(slot: str) -> str:
    return slot.removeprefix("_")


class _Row(Discreet, Struct, gc=False, kw_only=True, forbid_unknown_fields=True, rename=_wire_name):
    """What all rows share."""

    _views: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Public names that are no `Wire`, and the slots that they read."""

    @classmethod
    def _slots_of(cls, name: str) -> tuple[str, ...]:
        """The slots that a public name reads; () if there is no such name."""
        if name in cls._views:
            return cls._views[name]
        wire = vars(cls).get(name)
        return (wire.slot,) if isinstance(wire, Wire) else (name,) * (name == cls._identity())

    @classmethod
    def _identity(cls) -> str:
        """The one field that is public itself."""
        return next(slot for slot in cls.__struct_fields__ if not slot.startswith("_"))

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
    _views: ClassVar = {"call": ("_output", "_input")}

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
