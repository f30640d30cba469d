"""What an export keeps beside its rows: the job, how far it came, the receipt. Pure."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from unpod_async.errors import ConfigurationError

__all__ = ["FileEntry", "Job", "Receipt", "State", "TableEntry", "read_receipt", "read_state"]

VERSION = 1

Kind = Literal["tasks", "runs"]
Mode = Literal["full", "resumed", "refreshed"]


class Job(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What is exported: two exports with equal jobs may go on with each other's work. None of
    it is secret, but `query` may name a person that was searched for."""

    kind: Kind
    base_url: str
    org_handle: str | None = None
    paths: tuple[str, ...] = ()
    """The lists, in the order in which they are read."""
    query: str = ""
    via: Literal["walk", "runs"] = "walk"
    runs: tuple[str, ...] | None = None
    share: tuple[int, int] | None = None
    """The k-th of n parts of the runs."""
    status: tuple[str, ...] = ()
    since: str | None = None
    columns: tuple[str, ...] | None = None
    limit: int | None = None
    schema: int = VERSION

    def difference(self, other: Job) -> str | None:
        """In words, how another job differs from this one; None if it is the same."""
        for name in self.__struct_fields__:
            mine, its = getattr(self, name), getattr(other, name)
            if mine != its and name == "query":
                return "its filters are others"
            if mine != its:
                return f"its {name} is {_told(its)}, not {_told(mine)}"
        return None


def _told(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


class State(Struct, kw_only=True, forbid_unknown_fields=True):
    """How far an export is; kept with the rows that it describes, and moved only with them."""

    job: Job
    done: bool = False
    verified: bool = False
    """Whether all that the target held then was proved, when it was last done."""
    place: dict[str, Any] | None = None
    """Where the source stands: None at its beginning."""
    head: dict[str, list[str]] = field(default_factory=dict)
    """Of each list that was read to its end, the ids of its first rows then."""
    gone: list[str] = field(default_factory=list)
    """Rows that were not settled and are not listed any more."""
    version: int = VERSION

    def as_json(self) -> bytes:
        return msgspec.json.encode(self)


def read_state(sent: bytes | str) -> State:
    """A state from its JSON. Raises `ConfigurationError` for anything else."""
    try:
        found = msgspec.json.decode(sent)
        if isinstance(found, dict) and found.get("version") not in (None, VERSION):
            raise ConfigurationError(
                f"its checkpoint is of version {found['version']!r}, and this reads {VERSION}"
            )
        return msgspec.convert(found, State, strict=False)
    except _DAMAGED as error:
        raise ConfigurationError(f"its checkpoint is damaged ({error})") from None


_DAMAGED = (msgspec.MsgspecError, ValueError, TypeError, RecursionError)


class TableEntry(Struct, kw_only=True):
    """One table of a target: its columns as (name, type), its rows, and, in a database, a
    `fingerprint` of what they hold."""

    rows: int
    columns: list[tuple[str, str]] = field(default_factory=list)
    fingerprint: str | None = None


class FileEntry(Struct, kw_only=True):
    """One file of a target; `name` is below the target, with `/` between folders."""

    name: str
    table: str
    rows: int
    bytes: int
    sha256: str


class Receipt(Struct, kw_only=True):
    """The receipt of an export: what was asked, what is there, and whether it is all.

    `mode` is "full" (all was read), "resumed" (the same, in several goes) or "refreshed" (the
    head and what was not settled); `covers` says in words what that does not cover. `report` is
    the source's own, `verified` and `reason` are its verdict.
    """

    tool: str
    job: Job
    mode: Mode = "full"
    covers: str = ""
    started: str | None = None
    ended: str | None = None
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    verified: bool = False
    complete: bool = False
    reason: str | None = None
    report: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, TableEntry] = field(default_factory=dict)
    files: list[FileEntry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What the target could not hold as it was sent, and what was done about it."""

    def as_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1)


def read_receipt(sent: bytes | str) -> Receipt:
    """A receipt from its JSON. Raises `ConfigurationError` for anything else."""
    try:
        return msgspec.json.decode(sent, type=Receipt)
    except _DAMAGED as error:
        raise ConfigurationError(f"its receipt is damaged ({error})") from None
