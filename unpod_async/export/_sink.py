"""What a destination is to the engine, and which ones there are."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, Protocol

from unpod_async._secrets import plain_url, safe_text
from unpod_async.errors import ConfigurationError

from ._state import Kind, Receipt, State

if TYPE_CHECKING:
    from ._batch import Batch

__all__ = ["Sink", "Written", "sink_for"]


class Written(NamedTuple):
    """What became of the rows of a batch."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0

    def plus(self, other: Written) -> Written:
        return Written(*map(sum, zip(self, other, strict=True)))


class Sink(Protocol):
    """One destination. All methods block and, but for `prepare`, are called from one thread
    at a time.

    A sink keeps each row once, by its id (`task_id`, `run_id`): a row that is there already is
    replaced if the incoming one differs and its `modified` is not older, its turns with it, and
    left as it is otherwise. Rows of one batch that is `distinct` need not be looked for in another
    one. Methods raise `ConfigurationError` for what the user must change,
    and `ExportError` or `OSError` for what failed; after that the target holds what the last
    `write` that returned left there, and nothing of the one that failed.

    Some have more: `notes`, a list of what they could not hold as it was sent; a single file
    `partial`, which set before `close` gives it another name, for rows are missing, and
    `path_written`; CSV `raw`.
    """

    target: str
    """The target as it may be told: without a password."""

    def open(self) -> None:
        """Take the target: alone, and with what a killed export left half done put right.
        Makes nothing that `close(None)` would not remove, unless something is written.
        Raises `ConfigurationError` if another export holds it, for a symbolic link, a place
        that is not there, a missing driver, a checkpoint that is damaged."""
        ...

    def checkpoint(self) -> State | None:
        """The state that was written last, with the rows that it describes."""
        ...

    def in_the_way(self) -> str | None:
        """What is there that is not ours (a file, a table), in words; None if nothing is."""
        ...

    def clear(self) -> None:
        """What is there, ours or not, is to be replaced: by the first write in a database or
        a folder, at the end for a single file. Until then it stays as it is."""
        ...

    def prepare(self, batch: Batch) -> None:
        """Do what of a `write` needs the batch alone: in another thread, beside the `write` of
        an earlier one. The batch keeps it, and may let go of its rows."""
        ...

    def write(self, batch: Batch, state: State) -> Written:
        """Make the rows and the state durable, both or neither. An empty batch moves the
        state alone."""
        ...

    def unsettled(self, after: datetime) -> list[tuple[str, str | None]]:
        """(id, run_id) of all rows whose `settles_from` is later than `after`."""
        ...

    def close(self, receipt: Receipt | None) -> None:
        """Give the target free. With a receipt the export is over: its `tables` and `files`
        are filled in and it is kept with the rows, last of all. With None the target is left
        as it is, to be gone on with."""
        ...

    def verify(self) -> tuple[Receipt, list[str]]:
        """The receipt that the target holds, and in words whatever differs from it: rows,
        files, content. For a sink that was not opened; changes nothing. Raises
        `ConfigurationError` if there is no receipt."""
        ...


SUFFIXES = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".jsonl.zst": "jsonl",
    ".csv": "csv",
    ".arrow": "arrow",
    ".duckdb": "duckdb",
    ".sqlite": "sqlite",
    ".sqlite3": "sqlite",
    ".db": "sqlite",
}
SCHEMES = {
    "duckdb": "duckdb",
    "sqlite": "sqlite",
    "postgresql": "postgres",
    "postgres": "postgres",
    "delta": "delta",
}
STORES = {"file", "s3", "gs", "gcs", "abfs", "abfss", "hdfs"}
"""Schemes of file stores, of which the suffix says the format."""

FORMS = (
    "a file ({}; with a / at its end a folder of such files), "
    "duckdb:PATH, sqlite:PATH, postgresql://HOST/DATABASE, delta:PATH, "
    "or s3://, gs://, abfs:// and hdfs:// in place of a path"
).format(", ".join(SUFFIXES))


def sink_for(target: str, kind: Kind, columns: tuple[str, ...] | None = None) -> Sink:
    """The sink of a target, not opened. `columns` narrows its table. Raises
    `ConfigurationError` for a target of no known form, a missing package, an unknown column."""
    module = _module(target)
    if columns is not None:
        _check_columns(module, kind, columns)
    make: Callable[..., Sink] = import_module(f".sinks.{module}", __package__).make
    return make(target, kind, columns)


def _check_columns(module: str, kind: Kind, columns: tuple[str, ...]) -> None:
    if module == "jsonl":
        raise ConfigurationError("JSON Lines has whole rows, as they were sent: no columns")
    from ._schema import chosen, columns_of

    try:
        chosen(kind, columns)
    except ValueError as unknown:
        there = ", ".join(column.name for column in columns_of(kind))
        said = safe_text(unknown, limit=60)
        raise ConfigurationError(f"there is no column {said}; there are {there}") from None


def _module(target: str) -> str:
    try:
        target.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{target!a}: a name that is not UTF-8") from None
    scheme, colon, _ = target.partition(":")
    if colon and scheme in SCHEMES:
        return SCHEMES[scheme]
    if "://" in target and scheme not in STORES:
        raise ConfigurationError(f"no destination is called {safe_text(scheme)}: there is {FORMS}")
    path = target.partition("?")[0] if "://" in target else target
    name = path.rstrip("/").rpartition("/")[2]
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.endswith(suffix):
            return SUFFIXES[suffix]
    raise ConfigurationError(f"{safe_text(plain_url(target))}: a destination is {FORMS}")
