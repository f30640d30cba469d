"""One view of a call over both output dialects of a task, declared once in `COLUMNS`.

The builder and the README's table (`call_table`) both work from `COLUMNS`. `output.call_id`
and its snake_case sisters are the platform's own dialect (vendor's newer pages), `output.id`
and its camelCase sisters are vapi's (vendor's older page).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple, cast

import msgspec
from msgspec import Raw, Struct, UnsetType, field

# Whatever hostile JSON may make msgspec or the standard library throw.
BROKEN = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError, MemoryError)


class Discreet:
    """`repr`, `str` and rich's repr name only what `shown` lists: rows hold people's data."""

    __slots__ = ()
    shown: ClassVar[tuple[str, ...]] = ()

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in self.shown]

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__.removeprefix('_Odd')}({inside})"


class Turn(Discreet, Struct, frozen=True, gc=False, eq=False):
    """One thing said: `role`, `text`, and `at` (aware UTC) if the server sent a time.

    It holds what the server sent, each value made usable when it is touched: a transcript costs
    little until it is read.
    """

    shown: ClassVar[tuple[str, ...]] = ("at",)
    _role: Any = field(name="role", default=None)
    _text: str | None = field(name="content", default=None)
    _at: Any = field(name="timestamp", default=None)
    _message: Any = field(name="message", default=None)
    _time: Any = field(name="time", default=None)
    _seconds: None = field(name="secondsFromStart", default=None)

    @property
    def role(self) -> str:
        return role(self._role)

    @property
    def text(self) -> str:
        return words(self._text) or words(self._message) or ""

    @property
    def at(self) -> datetime | None:
        if type(self._at) is datetime:
            return self._at
        sent = None if self._at is None else moment(self._at)
        return moment(self._time) if sent is None and self._time is not None else sent

    def _all(self) -> tuple[Any, ...]:
        return self.role, self.text, self.at

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Turn) and self._all() == other._all()

    def __hash__(self) -> int:
        return hash(self._all())


class _Sent(Turn, frozen=True, gc=False, eq=False):
    """A turn as it may also be sent: its text is no text, or its time needs the call's."""

    _text: Any = field(name="content", default=None)
    _seconds: Any = field(name="secondsFromStart", default=None)

    def turn(self, at: object) -> Turn:
        return Turn(self._role, self._text, at, self._message, self._time)


class Contact(Discreet, Struct, frozen=True, gc=False):
    """Who was to be called, from the task's `input`; numbers are text, as dialled."""

    name: str | None = None
    number: str | None = None
    alternate_number: str | None = None
    email: str | None = None
    company_name: str | None = None
    occupation: str | None = None
    title: str | None = None
    address: str | None = None
    context: str | None = None


class Call(Discreet, Struct, frozen=True, gc=False):
    """The call of a task, whichever dialect its `output` has; None is absent, null or unusable.

    Times are aware UTC, `duration` is in seconds, `cost` in US dollars (V). `call_table()` tells
    where each value comes from; an `output` with none of its keys is no call: all None.
    """

    shown: ClassVar[tuple[str, ...]] = ("id", "status", "duration", "turns")
    id: str | None = None
    status: str | None = None
    direction: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration: float | None = None
    ended_reason: str | None = None
    error: str | None = None
    recording_url: str | None = None
    transcript: tuple[Turn, ...] = ()
    summary: str | None = None
    outcome: str | None = None
    sentiment: str | None = None
    cost: float | None = None
    customer_number: str | None = None
    customer_name: str | None = None

    @property
    def turns(self) -> int:
        """How many turns the transcript has."""
        return len(self.transcript)


# -- rules: one wire value -> a usable value or None; the docstring is the table's rule text

_NOTHING = frozenset({"", "NULL", "Null", "null", "None", "none", "N/A", "n/a"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def text(value: object) -> str | None:
    """text as sent, a whole number as text; blank, `NULL`, `None` and `N/A` are unusable"""
    if type(value) is str:
        return None if value in _NOTHING or value.isspace() else value
    if type(value) is float and value.is_integer():  # a spreadsheet's phone number
        value = int(value)
    return str(value) if type(value) is int else None


def amount(value: object) -> float | None:
    """a number or numeric text, finite and not negative"""
    try:
        if type(value) is int or type(value) is float or (type(value) is str and "_" not in value):
            number = float(value)
            return number + 0.0 if 0 <= number < float("inf") else None  # -0.0 is 0.0
    except (ValueError, OverflowError):
        pass
    return None


def moment(value: object) -> datetime | None:
    """ISO 8601 text with `T` or a space (no zone means UTC), the same or milliseconds in
    `{"$date": …}`, or epoch seconds or milliseconds between 2001 and 2286"""
    if type(value) is dict:
        value = value.get("$date")
    try:
        if type(value) is str:
            at = datetime.fromisoformat(value)
            if at.tzinfo is UTC:
                return at
            if value[4] != "-":  # fromisoformat also takes "20260116" and "2026W034"
                return None
            if at.tzinfo is None:
                return datetime.combine(at, at.time(), UTC)  # four times as fast as replace()
            return at.astimezone(UTC)
        if type(value) is int or type(value) is float:
            if 1e9 <= value < 1e10:
                return _EPOCH + timedelta(seconds=value)
            return _EPOCH + timedelta(milliseconds=value) if 1e12 <= value < 1e13 else None
    except (ValueError, OverflowError):
        pass
    return None


def direction(value: object) -> str | None:
    """`inbound` or `outbound`, the word the text begins with (`outboundPhoneCall`)"""
    word = value[:8].lower() if type(value) is str else ""
    if word == "outbound":
        return word
    return "inbound" if word.startswith("inbound") else None


_ROLES = {
    **dict.fromkeys(("agent", "assistant", "ai", "bot"), "agent"),
    **dict.fromkeys(("user", "customer", "human", "caller"), "user"),
    "system": "system",
}


def role(value: object) -> str:
    """`agent` (agent, assistant, ai, bot), `user` (user, customer, human, caller) or `system`;
    another as sent, `""` if it is no text"""
    if type(value) is not str:
        return ""
    return _ROLES.get(value) or _ROLES.get(value.lower(), value)


def words(value: object) -> str | None:
    """text as sent, not empty"""
    return value if type(value) is str and value else None


def spoken(value: object) -> object:
    """a list of turns, or one text cut where a line begins with a speaker (`Agent:`, `AI:`,
    `User:`, `Customer:` …; what comes before has the role `""`); a turn without text is left out"""
    return value if type(value) is list and value else text(value)


# It begins with a character that can be looked for, which is twice as fast as a `^`.
_LABEL = re.compile(rf"\n[ \t]*({'|'.join(_ROLES)})[ \t]*:", re.IGNORECASE)


class Column(NamedTuple):
    """One row of the view: where a value comes from, first usable source first."""

    name: str
    type: str
    sources: tuple[str, ...]
    rule: Callable[[Any], Any]
    note: str = ""


_TEXT, _TIME, _NUMBER = "str | None", "datetime | None", "float | None"
_SUMMARY = "output.post_call_data.summary"

COLUMNS = (
    Column("created_at", _TIME, ("created",), moment),
    Column("modified_at", _TIME, ("modified",), moment),
    Column("objective", _TEXT, ("task.objective",), text),
    Column("contact.name", _TEXT, ("input.name",), text),
    Column("contact.number", _TEXT, ("input.contact_number",), text),
    Column("contact.alternate_number", _TEXT, ("input.alternate_number",), text),
    Column("contact.email", _TEXT, ("input.email",), text),
    Column("contact.company_name", _TEXT, ("input.company_name",), text),
    Column("contact.occupation", _TEXT, ("input.occupation",), text),
    Column("contact.title", _TEXT, ("input.title",), text),
    Column("contact.address", _TEXT, ("input.address",), text),
    Column("contact.context", _TEXT, ("input.context",), text),
    Column("call.id", _TEXT, ("output.call_id", "output.id"), text),
    Column("call.status", _TEXT, ("output.call_status", "output.status"), text),
    Column(
        "call.direction",
        _TEXT,
        ("output.call_type", "output.type", "output.metadata.type", "input.call_type"),
        direction,
    ),
    Column("call.started_at", _TIME, ("output.start_time", "output.startedAt"), moment),
    Column("call.ended_at", _TIME, ("output.end_time", "output.endedAt"), moment),
    Column(
        "call.duration",
        _NUMBER,
        ("output.duration",),
        amount,
        ", in seconds; else `ended_at - started_at` if not negative",
    ),
    Column("call.ended_reason", _TEXT, ("output.call_end_reason", "output.endedReason"), text),
    Column("call.error", _TEXT, ("output.error", "output.error.message"), text),
    Column(
        "call.recording_url",
        _TEXT,
        ("output.recording_url", "output.recordingUrl", "output.stereoRecordingUrl"),
        text,
    ),
    Column("call.transcript", "tuple[Turn, ...]", ("output.transcript", "output.messages"), spoken),
    Column("call.transcript[].role", "str", ("role",), role),
    Column("call.transcript[].text", "str", ("content", "message"), words),
    Column(
        "call.transcript[].at",
        _TIME,
        ("timestamp", "time", "secondsFromStart"),
        moment,
        "; `secondsFromStart` counts from `started_at`",
    ),
    Column(
        "call.summary",
        _TEXT,
        (
            _SUMMARY,
            f"{_SUMMARY}.summary",
            "output.call_summary",
            "output.summary",
            "output.analysis.summary",
        ),
        text,
    ),
    Column("call.outcome", _TEXT, ("output.post_call_data.outcome", f"{_SUMMARY}.status"), text),
    Column("call.sentiment", _TEXT, ("output.post_call_data.sentiment",), text),
    Column("call.cost", _NUMBER, ("output.cost", "output.metadata.cost"), amount),
    Column(
        "call.customer_number",
        _TEXT,
        ("output.customer.number", "output.contact_number", "input.contact_number"),
        text,
    ),
    Column(
        "call.customer_name",
        _TEXT,
        ("output.customer.name", "output.customer", "input.name"),
        text,
    ),
)


def call_table() -> str:
    """The view as a Markdown table (name, type, source keys in order, rule), and the rules."""
    lines = ["| `task.` | type | source, first usable wins | rule |", "|---|---|---|---|"]
    for column in COLUMNS:
        sources = ", ".join(f"`{source}`" for source in column.sources)
        kind = column.type.replace("|", "\\|")
        name, rule = column.name, column.rule.__name__
        lines.append(f"| `{name}` | `{kind}` | {sources} | {rule}{column.note} |")
    lines.append("")
    rules = dict.fromkeys(column.rule for column in COLUMNS)
    lines += [f"- *{rule.__name__}*: {' '.join(str(rule.__doc__).split())}" for rule in rules]
    return "\n".join(lines) + "\n"


# -- the builder

_SCALAR = str | int | float | bool | None
_Tree = dict[str, Any]


def _tree(sources: Iterable[str]) -> _Tree:
    tree: _Tree = {}
    for source in sources:
        node = tree
        for key in source.split("."):
            node = node.setdefault(key, {})
    return tree


def _struct(name: str, tree: _Tree, leaves: dict[str, Any]) -> type[Struct]:
    """A Struct of the keys in `tree` only: msgspec skips all others without building them."""
    fields = []
    for key, below in tree.items():
        kind = leaves.get(key, Any)
        if below:
            kind = _struct(key, below, leaves) | _SCALAR | list[Any]
        fields.append((key, kind, None))
    return msgspec.defstruct(name, fields, gc=False)


def _columns(prefix: str) -> list[Column]:
    return [column for column in COLUMNS if re.fullmatch(re.escape(prefix) + r"\w*", column.name)]


_USUAL_TURNS = list[Turn] | str | None
_TURNS = list[_Sent | _SCALAR | list[Any]] | dict[str, Any] | _SCALAR


def _part(cls: type[Struct], wide: type[Struct]) -> Callable[[Raw | UnsetType], Any]:
    """A decoder of one part of a row, which leaves what it has decoded as it is; all None if
    it is absent, null or no readable object. `wide` takes what does not fit into `cls`."""
    decode, decode_wide = msgspec.json.Decoder(cls).decode, msgspec.json.Decoder(wide).decode
    empty, nothing = cls(), wide()

    def part(raw: Any) -> Any:
        if type(raw) is cls:
            return raw
        if not isinstance(raw, Raw):
            return empty
        try:
            return decode(raw)
        except BROKEN:
            pass
        try:
            found = decode_wide(raw)
        except BROKEN:
            found = nothing
            with suppress(*BROKEN):  # 1e999 is JSON, yet msgspec refuses the number
                found = msgspec.convert(json.loads(bytes(raw)), wide)
        return empty if found == nothing else found

    return part


def _with_any_turns(cls: type[Struct]) -> type[Struct]:
    fields = [(name, _TURNS, None) for name in ("transcript",) if name in cls.__struct_fields__]
    return msgspec.defstruct(cls.__name__, fields, bases=(cls,), gc=False)


def _reader(prefix: str, *roots: str) -> Callable[..., list[Any]]:
    """A function from the raw parts `roots` to the columns of `prefix` in the order of the table,
    [] if the first is blank.

    Compiled from the table: a loop over it takes more time than the decoding.
    """
    columns = _columns(prefix)
    tree = _tree(source for column in columns for source in column.sources)
    names: dict[str, Any] = {column.rule.__name__: column.rule for column in columns}
    names["nothing"] = _NOTHING
    lines = [f"def read({', '.join(roots)}):"]
    for root in roots:
        cls = _struct(root, tree[root], {"transcript": _USUAL_TURNS, "messages": _TURNS})
        names[f"part_{root}"] = _part(cls, _with_any_turns(cls))
        names |= {f"is_{root}": cls, f"no_{root}": cls()}
    lines += _objects(roots[0], tree[roots[0]], names[f"is_{roots[0]}"], names)
    lines.append(f" if {roots[0]} == no_{roots[0]}: return []")
    lines.append(" return [")
    lines += [f"  {_first(column, roots[0])}," for column in columns]
    lines.append(" ]")
    exec("\n".join(lines), names)
    return cast("Callable[..., list[Any]]", names["read"])


def _objects(path: str, tree: _Tree, cls: type[Struct], names: dict[str, Any]) -> Iterator[str]:
    """A variable for each object on the way to a source, the empty object if there is none."""
    names |= {f"is_{path}": cls, f"no_{path}": cls()}
    got = f"part_{path}({path})" if f"part_{path}" in names else f"no_{path}"
    yield f" if type({path}) is not is_{path}: {path} = {got}"
    for key in msgspec.structs.fields(cls):
        if tree[key.name]:
            inner = next(t for t in key.type.__args__ if hasattr(t, "__struct_fields__"))
            yield f" {path}_{key.name} = {path}.{key.name}"
            yield from _objects(f"{path}_{key.name}", tree[key.name], inner, names)


def _first(column: Column, first: str) -> str:
    """An expression: the value of the first source that the rule can use, else None. Of the
    parts only the `first` is decoded by then: another one when it is needed."""
    expression = "None"
    for source in reversed(column.sources):
        path, _, key = source.rpartition(".")
        holder = path.replace(".", "_")
        if path.partition(".")[0] != first:
            holder = f"({path} := part_{path}({path}))"
        got = f"(v := {holder}.{key}) is not None"
        used = f"(v := {_usable(column.rule.__name__)}) is not None"
        expression = f"v if {got} and {used} else {expression}"
    return expression


def _usable(rule: str) -> str:
    """An expression: what the rule makes of `v`; of a usual text without calling it."""
    if rule != "text":
        return f"{rule}(v)"
    return "(v if type(v) is str and v not in nothing and not v.isspace() else text(v))"


_read_call = _reader("call.", "output", "input")
_read_contact = _reader("contact.", "input")
_read_task = _reader("objective", "task")


_STARTED, _ENDED, _DURATION, _TRANSCRIPT = map(
    Call.__struct_fields__.index, ("started_at", "ended_at", "duration", "transcript")
)


def build_call(output: Raw | UnsetType, given: Raw | UnsetType) -> Call:
    """The call in `output`; what it lacks of the customer comes from `given`, the input."""
    found = _read_call(output, given)
    if not found:
        return Call()
    started, ended = found[_STARTED], found[_ENDED]
    if found[_DURATION] is None and started and ended and ended >= started:
        found[_DURATION] = (ended - started).total_seconds()
    found[_TRANSCRIPT] = _turns(found[_TRANSCRIPT] or [], started)
    return Call(*found)  # by position: by name takes three times as long


def build_contact(given: Raw | UnsetType) -> Contact:
    return Contact(*_read_contact(given))


def read_objective(task: Raw | UnsetType) -> str | None:
    return next(iter(_read_task(task)), None)


_text_of = attrgetter("_text")


def _turns(said: str | list[Any], started: datetime | None) -> tuple[Turn, ...]:
    if isinstance(said, str):
        return tuple(_cut(said))
    # All of a list are `Turn`, or none is.
    usual = said and type(said[0]) is Turn and all(map(_text_of, said))
    return tuple(said if usual else _turns_of_any(said, started))


def _turns_of_any(said: list[Any], started: datetime | None) -> Iterator[Turn]:
    for item in said:
        if type(item) is str:
            yield from _cut(item)
        elif type(item) is Turn and item.text:
            yield item
        elif type(item) is _Sent and item.text:
            after = amount(item._seconds)
            if item.at is not None or after is None or started is None:
                yield item.turn(item._at)
            else:
                yield item.turn(_later(started, after))


def _later(started: datetime, seconds: float) -> datetime | None:
    with suppress(OverflowError):
        return started + timedelta(seconds=seconds)
    return None


def _cut(whole: str) -> Iterator[Turn]:
    """The turns of one text; only ASCII blanks are trimmed, for U+2028 may be the speaker's."""
    parts = ["", *_LABEL.split("\n" + whole)]
    for label, said in zip(parts[::2], parts[1::2], strict=True):
        if trimmed := said.strip(" \t\r\n"):
            yield Turn(label, trimmed)
