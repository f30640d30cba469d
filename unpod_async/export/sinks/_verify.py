"""Whether tables still hold what the receipt says, for destinations that can be read as rows."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from unpod_async.export._batch import row_hash
from unpod_async.export._schema import IDENTITY, TURNS
from unpod_async.export._state import Kind, Receipt, TableEntry

__all__ = ["Stored", "differences", "fingerprint", "turns_fingerprint"]

TURN = ["task_id", "index", "role", "text", "at"]
BUCKETS = 1 << 16
SHOWN = 3


class Stored(NamedTuple):
    """A table as it can be read: its columns as (name, type), its rows with some of them, how
    a text of a transcript is kept, and its count with the sums over `row_hash`."""

    columns: list[tuple[str, str]]
    rows: Callable[[list[str]], Iterator[tuple[Any, ...]]]
    text: Callable[[str], str]
    sums: Callable[[], tuple[int, str | None]]


class _Said(Struct, gc=False):
    role: str
    text: str
    at: datetime | None = None


_SAID = msgspec.json.Decoder(list[_Said])


def fingerprint(sums: Iterable[int]) -> str:
    return "-".join(f"{value & (1 << 64) - 1:x}" for value in sums)


def turns_fingerprint(stored: Stored) -> str:
    """A sum over all turns: the same in every order."""
    return fingerprint([sum(map(row_hash, stored.rows(TURN))) % (1 << 64)])


def differences(receipt: Receipt, kind: Kind, tables: dict[str, Stored | None]) -> list[str]:
    """In words, whatever is not as the receipt says."""
    found: list[str] = []
    for name, entry in receipt.tables.items():
        stored = tables.get(name)
        if stored is None:
            found.append(f"the table {name} is gone")
            continue
        have = {column for column, _ in stored.columns}
        lacking = [column for column, _ in entry.columns if column not in have]
        if lacking:
            found.append(f"{name}: the column {', '.join(lacking[:SHOWN])} is gone")
            continue
        found += _rows(name, entry, stored)
    if kind == "tasks" and not any("is gone" in said for said in found):
        found += _turns(receipt, tables)
    return found


def _rows(name: str, entry: TableEntry, stored: Stored) -> Iterator[str]:
    rows, sums = stored.sums()
    if rows < entry.rows:
        yield f"{name}: {entry.rows - rows} of {entry.rows} rows are missing"
    elif rows > entry.rows:
        yield f"{name}: {rows - entry.rows} rows were added to {entry.rows}"
    if name == TURNS:
        return
    changed = _changed(name, entry, stored)
    if changed:
        yield f"{name}: {len(changed)} rows were changed: {_few(changed)}"
    elif rows == entry.rows and sums != entry.fingerprint:
        yield f"{name}: it holds other rows than those that were written"


def _changed(name: str, entry: TableEntry, stored: Stored) -> list[str]:
    """The ids of the rows that are not what their `row_hash` stands for."""
    names = [column for column, _ in entry.columns]
    last = names.index("row_hash")
    identity = names.index(IDENTITY[name])
    return [
        str(row[identity])
        for row in stored.rows(names)
        if row_hash(row[:last] + row[last + 1 :]) != row[last]
    ]


def _turns(receipt: Receipt, tables: dict[str, Stored | None]) -> list[str]:
    tasks, turns, entry = tables["tasks"], tables[TURNS], receipt.tables.get(TURNS)
    if tasks is None or turns is None or entry is None:
        return []
    if "transcript" not in {name for name, _ in receipt.tables["tasks"].columns}:
        same = turns_fingerprint(turns) == entry.fingerprint
        return [] if same else [f"{TURNS}: some turns are not those that were written"]
    told, kept = _buckets(_told(tasks)), _buckets(turns.rows(TURN))
    differing = {at for at in range(BUCKETS) if told[at] != kept[at]}
    if not differing:
        return []
    mine, its = _by_id(_told(tasks), differing), _by_id(turns.rows(TURN), differing)
    ids = sorted(key for key in mine.keys() | its.keys() if mine.get(key, 0) != its.get(key, 0))
    return [f"{TURNS}: the turns of {len(ids)} tasks are not their transcript's: {_few(ids)}"]


def _told(tasks: Stored) -> Iterator[tuple[Any, ...]]:
    """The turns that the transcripts tell of. One that cannot be read has none."""
    for task_id, transcript in tasks.rows(["task_id", "transcript"]):
        try:
            said = _SAID.decode(transcript) if transcript else []
        except (msgspec.MsgspecError, RecursionError):
            said = []
        for at, turn in enumerate(said):
            yield task_id, at, tasks.text(turn.role), tasks.text(turn.text), turn.at


def _buckets(turns: Iterator[tuple[Any, ...]]) -> list[int]:
    """Sums over the turns of the tasks whose ids fall together: as large for any table."""
    sums = [0] * BUCKETS
    for turn in turns:
        sums[_bucket(turn[0])] += row_hash(turn)
    return sums


def _by_id(turns: Iterator[tuple[Any, ...]], buckets: set[int]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for turn in turns:
        if _bucket(turn[0]) in buckets:
            sums[turn[0]] = sums.get(turn[0], 0) + row_hash(turn)
    return sums


def _bucket(task_id: str) -> int:
    return zlib.crc32(task_id.encode()) % BUCKETS


def _few(ids: list[str]) -> str:
    return ", ".join(ids[:SHOWN]) + (", …" if len(ids) > SHOWN else "")
