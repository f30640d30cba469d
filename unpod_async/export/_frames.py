"""A list as one table in memory, as a stream of record batches, or in a destination."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from datetime import datetime
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from anyio import to_thread

from unpod_async._missing import needs
from unpod_async._paging import Listing
from unpod_async._run_tasks import RunTasks
from unpod_async.errors import ConfigurationError, IncompleteWalk
from unpod_async.models import Organization, Run, Space, Task

from ._batch import Batch
from ._engine import Export, Options
from ._jobs import wanted_of
from ._sink import sink_for
from ._source import ROWS

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from ._schema import Nested
    from ._state import Receipt

    Rows = Listing[Any] | RunTasks[Any] | Sequence[Any]

__all__ = ["export_to", "record_batches", "to_arrow", "to_pandas", "to_polars"]

ROW_TYPES = {"tasks": Task, "runs": Run, "spaces": Space, "organizations": Organization}
BOOKKEEPING = ("settles_from", "row_hash")  # columns that only a target that is kept needs


async def record_batches(
    rows: Rows, *, nested: Nested = "native", batch_rows: int = ROWS
) -> AsyncGenerator[pa.RecordBatch, None]:
    """The rows of a list as Arrow record batches of at most `batch_rows`, in the list's order.

    `rows` is any list of ours (`space.tasks()`, `client.spaces()` …), an open `run_tasks()`
    stream, or rows in memory. The columns are those of an export, of a list with `fields` only
    these; `nested="json"` has the transcript as JSON text, not as a list of structs. An empty list
    gives one empty batch. It reads on only while it is iterated, and raises what iterating the
    list raises; an `IncompleteWalk` comes after the last batch.
    """
    kind, columns = _kind_of(rows), _columns_of(rows)
    given = False
    async with aclosing(_chunks(rows, batch_rows)) as chunks:
        async for chunk in chunks:
            yield await to_thread.run_sync(_batch, kind, chunk, columns, nested)
            given = True
    if not given:
        yield _batch(kind, [], columns, nested)


async def to_arrow(rows: Rows, *, nested: Nested = "native") -> pa.Table:
    """All rows as one Arrow table; see `record_batches`. Raises what iterating the list raises,
    `IncompleteWalk` too: then there is no table."""
    with needs("arrow", "pyarrow"):
        import pyarrow as pa
    async with aclosing(record_batches(rows, nested=nested)) as batches:
        return pa.Table.from_batches([batch async for batch in batches])


async def to_polars(rows: Rows) -> pl.DataFrame:
    """All rows as a polars DataFrame, the transcript as a list of structs, JSON columns as text;
    see `to_arrow`."""
    with needs("polars", "polars"):
        import polars as pl
    frame = await to_thread.run_sync(pl.from_arrow, _plain(await to_arrow(rows)))
    assert isinstance(frame, pl.DataFrame)
    return frame


async def to_pandas(rows: Rows) -> pd.DataFrame:
    """All rows as a pandas DataFrame with its own dtypes, the transcript as lists of dicts, JSON
    columns as text; see `to_arrow`."""
    with needs("pandas", "pandas"):
        import pandas as pd  # noqa: F401  (here, so that its absence is told as such)
    return await to_thread.run_sync(_plain(await to_arrow(rows)).to_pandas)


async def export_to(
    rows: Listing[Any],
    target: str | PathLike[str],
    *,
    status: Iterable[str] = (),
    since: datetime | None = None,
    columns: Iterable[str] | None = None,
    limit: int | None = None,
    prefetch: int = 4,
    force: bool = False,
    fresh: bool = False,
    full: bool = False,
    settle: float = 24 * 3600.0,
) -> Receipt:
    """Write a list of tasks or runs into a file, a folder or a database, as
    `unpod-async export --to TARGET` does, and give the receipt that the target now holds.

    A target that holds the same export is gone on with, or refreshed if it was finished; any
    other one that exists is refused unless `force`. `fresh` begins anew, `full` reads everything
    again; `settle` seconds long an evaluation is waited for. `status` and `since` are the rows'
    own; `columns` narrows the table; `limit` counts rows; `prefetch` pages are read at once.

    Raises `ConfigurationError` before anything is written, `ExportError` or `OSError` if the
    target fails, and what reading raises: each time what was written before stays, and the
    next call goes on there. A list that is not complete is told in the receipt.
    """
    if columns is not None and isinstance(columns, str):
        raise ConfigurationError("columns takes the names of columns")
    if since is not None and since.tzinfo is None:
        raise ConfigurationError("since takes a datetime with a time zone")
    wanted = wanted_of(
        rows,
        status=(status,) if isinstance(status, str) else tuple(status),
        since=since,
        columns=None if columns is None else tuple(columns),
        limit=limit,
        lanes=prefetch,
    )
    job = wanted.job()
    sink = await to_thread.run_sync(sink_for, fspath(target), job.kind, job.columns)
    options = Options(force=force, fresh=fresh, full=full, settle=settle)
    return await Export(sink, job, wanted.sources(), options).run()


# -- rows in portions


async def _chunks(rows: Rows, most: int) -> AsyncGenerator[list[Any], None]:
    """Rows as lines where the list can give them so, else as they are."""
    held: list[Any] = []
    try:
        async for some in _portions(rows):
            held += some
            while len(held) >= most:
                chunk, held = held[:most], held[most:]
                yield chunk
    except IncompleteWalk:
        if held:
            yield held
        raise
    if held:
        yield held


async def _portions(rows: Rows) -> AsyncIterator[Sequence[Any]]:
    if isinstance(rows, Listing):
        async for row in rows if rows.fields is not None else rows.raw():
            yield (row,)
    elif isinstance(rows, RunTasks):
        async for _, tasks in rows:
            yield tasks
    else:
        yield list(rows)


def _batch(
    kind: str, rows: list[Any], columns: tuple[str, ...] | None, nested: Nested
) -> pa.RecordBatch:
    with needs("arrow", "pyarrow"):
        import pyarrow as pa
    lines = bool(rows) and isinstance(rows[0], bytes)
    batch = Batch(kind, rows, columns) if lines else Batch.of(kind, rows, columns)
    table = batch.tables(nested)[kind]
    made = table.select([name for name in table.schema.names if name not in BOOKKEEPING])
    arrays = [column.combine_chunks() for column in made.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=made.schema)


def _kind_of(rows: Rows) -> str:
    if isinstance(rows, Listing):
        return rows.kind
    if isinstance(rows, RunTasks):
        return "tasks"
    if not isinstance(rows, list | tuple):
        raise ConfigurationError("this takes a list of ours: space.tasks(), client.spaces() …")
    kinds = {name for name, row in ROW_TYPES.items() for one in rows if isinstance(one, row)}
    if len(kinds) > 1 or (
        rows and not all(isinstance(one, tuple(ROW_TYPES.values())) for one in rows)
    ):
        raise ConfigurationError("this takes rows of one kind: Task, Run, Space or Organization")
    return kinds.pop() if kinds else "tasks"


def _columns_of(rows: Rows) -> tuple[str, ...] | None:
    """The columns that the `fields` of a list fill."""
    if not isinstance(rows, Listing) or rows.fields is None:
        return None
    from ._schema import columns_of

    named = set(rows.fields)
    return tuple(
        column.name
        for column in columns_of(rows.kind)
        if column.name in named or (column.source == "call" and "call" in named)
    )


def _plain(table: pa.Table) -> pa.Table:
    """JSON columns as the text that they are: other libraries know no such type."""
    import pyarrow as pa

    types = {
        field.name: pa.string() if isinstance(field.type, pa.JsonType) else field.type
        for field in table.schema
    }
    return table.cast(pa.schema(list(types.items())))
