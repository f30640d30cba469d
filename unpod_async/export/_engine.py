"""The engine: rows from a source go in batches to a sink, which a thread of its own writes, and
the checkpoint moves only with the rows that it describes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from functools import partial, reduce
from typing import Any, NamedTuple, TypeVar

import anyio
from anyio import CancelScope
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from msgspec import Struct
from msgspec.structs import replace

from unpod_async._report import Report
from unpod_async._version import __version__
from unpod_async.errors import ConfigurationError, UnpodError
from unpod_async.models import Run

from ._batch import Batch
from ._select import OLD_ENOUGH, Selection
from ._sink import Sink, Written
from ._source import ROWS, Place, Reader, Select, Source, plain, total
from ._state import Job, Mode, Receipt, State

__all__ = ["Export", "Options", "Plan", "Sources", "plan_for"]

T = TypeVar("T")

HEAD = 256  # ids that a list is known again by
GONE = 10_000  # rows that are not listed any more, of which no more is asked

DELETED = "rows that the platform has deleted since they were exported are still here"
SETTLED = "changes of rows that were settled already were not looked for"
MENDED = "U+FFFD stands where a text had half a surrogate pair"


def _utc() -> datetime:
    return datetime.now(UTC)


class Options(Struct, kw_only=True, frozen=True):
    """How an export goes about it. `force` replaces a target that is not of this job, `fresh`
    one that is, `full` reads everything again and updates what is there. `settle` is for how
    long an evaluation is waited for, in seconds."""

    force: bool = False
    fresh: bool = False
    full: bool = False
    settle: float = 24 * 3600.0
    rows: int | None = None
    """In one write; by default what the engine thinks good."""


class Plan(NamedTuple):
    """What an export will do with its target: begin it (`full`, no state), go on (`resumed`), or
    refresh what is there; and whether what is there is replaced."""

    mode: Mode
    state: State | None
    replaces: bool = False


class Sources(NamedTuple):
    """How a job's rows are read: the `whole` from a place on (None: from the beginning); to
    bring them up to date, its lists from their `heads` on, and the tasks `of_runs`. `pages` is
    how many requests the whole would take, if that is known."""

    whole: Callable[[Place | None], Source]
    heads: Callable[[], Source]
    of_runs: Callable[[list[str]], Source]
    pages: Callable[[], Awaitable[int | None]]


def plan_for(sink: Sink, job: Job, options: Options) -> Plan:
    """What to do with an opened target. Raises `ConfigurationError` for one that is not ours
    to go on with, unless `force` or `fresh` says that it may be replaced."""
    if (blocked := sink.in_the_way()) is not None:
        if not options.force:
            raise ConfigurationError(f"{blocked}; --force replaces it")
        return Plan("full", None, replaces=True)
    state = sink.checkpoint()
    if state is None:
        return Plan("full", None)
    if (other := job.difference(state.job)) is not None:
        if not options.force:
            raise ConfigurationError(
                f"{sink.target} holds another export: {other}; --force replaces it"
            )
        return Plan("full", None, replaces=True)
    if options.fresh:
        return Plan("full", None, replaces=True)
    if not state.done:
        return Plan("resumed", state)
    cheap = job.via == "walk" and job.kind == "tasks" and job.limit is None
    # Only what was proved is built on: else one reading that was not would spoil all to come.
    return Plan("refreshed" if cheap and state.verified and not options.full else "full", state)


def _held_rows_before(plan: Plan) -> bool:
    """Whether rows of a finished export are there; one that is resumed may have begun over such."""
    return plan.state is not None and (plan.mode != "resumed" or bool(plan.state.head))


class Export:
    """One export under way; `report`, `written` and `taken` may be looked at meanwhile.

    Whatever ends `run()` early, an error or a cancellation: the rows that came are written
    first, with their place, and the next `run` goes on there.
    """

    def __init__(
        self,
        sink: Sink,
        job: Job,
        sources: Sources,
        options: Options,
        *,
        clock: Callable[[], datetime] = _utc,
    ) -> None:
        self.sink = sink
        self.job = job
        self.mode: Mode = "full"
        self.written = Written()
        self.missing: str | None = None
        """Why rows are known to be missing."""
        self.failures: Sequence[tuple[Run, UnpodError]] = ()
        self.options = options
        self._sources = sources
        self._clock = clock
        self._reports: list[Report] = []
        self._readers: list[Reader] = []
        self._source: Source | None = None
        self._notes: set[str] = set()
        self._failure: Exception | None = None
        self._updates = self._is_open = False

    @property
    def report(self) -> Report:
        """The receipt of the reading so far."""
        under_way = [] if self._source is None else [self._source.report]
        return reduce(total, [*self._reports, *under_way], Report())

    @property
    def taken(self) -> int:
        """How many rows came."""
        return sum(reader.taken for reader in self._readers)

    @property
    def is_cut_short(self) -> bool:
        """Whether as many rows came as were asked for."""
        return any(reader.is_full for reader in self._readers)

    async def plan(self) -> Plan:
        """What `run()` would do. Changes nothing."""
        async with self._opened():
            return await self._thread(plan_for, self.sink, self.job, self.options)

    async def run(self) -> Receipt:
        """Do it, and give the receipt that the target now holds. Raises what reading or writing
        raises; of a list that is not complete the receipt tells."""
        async with self._opened() as keep:
            began = self._clock()
            plan = await self._thread(plan_for, self.sink, self.job, self.options)
            if plan.replaces:
                await self._thread(self.sink.clear)
            self.mode = plan.mode
            self._updates = _held_rows_before(plan)
            state = await self._read(plan)
            receipt = self._receipt(state, began)
            if self.missing is not None and hasattr(self.sink, "partial"):
                self.sink.partial = True
            keep(receipt)
        return receipt

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Callable[[Receipt], None]]:
        """The sink, opened; closed at the end with the receipt that is then kept, if any."""
        kept: list[Receipt] = []
        # Each has one thread to the end: what a thread has freed, no other takes again.
        self._writer, self._preparer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        try:
            await self._thread(self.open_sink)
            yield kept.append
        except BaseException:
            if self._is_open:
                with suppress(Exception):  # the first error counts
                    await self._thread(self.sink.close, None)
            raise
        else:
            await self._thread(self.sink.close, kept[0] if kept else None)
        finally:
            for pool in (self._writer, self._preparer):
                pool.shutdown(wait=False)  # nothing is under way in it

    def open_sink(self) -> None:
        """Open it. A target whose own files are damaged is no obstacle to what replaces it,
        whatever it was."""
        try:
            self.sink.open()
        except ConfigurationError:
            if not self.options.force:
                raise
            self.sink.clear()
            self.sink.open()
        self._is_open = True

    async def _thread(
        self,
        function: Callable[..., T],
        *arguments: Any,
        on: ThreadPoolExecutor | None = None,
    ) -> T:
        """What the function gives, called in our thread. A cancellation is raised when it is
        done: nothing may be called meanwhile, and what it opened must be closed."""
        outcome: list[T | Exception] = []
        loop = asyncio.get_running_loop()
        job = partial(copy_context().run, function, *arguments)

        async def call() -> None:
            try:
                with CancelScope(shield=True):
                    outcome.append(await loop.run_in_executor(on or self._writer, job))
            except Exception as error:
                outcome.append(error)

        # A task of its own: of `task.cancel()` no shield keeps the await of a thread.
        with CancelScope(shield=True):
            async with anyio.create_task_group() as group:
                group.start_soon(call)
        (made,) = outcome
        if isinstance(made, Exception):
            raise made
        return made

    # -- what is read

    async def _read(self, plan: Plan) -> State:
        state = plan.state
        if plan.mode == "refreshed" and state is not None:
            due = await self._due(state)
            if due is not None:
                return await self._refresh(state, due)
            self.mode = "full"
        return await self._read_whole(state)

    async def _read_whole(self, state: State | None) -> State:
        resumed = self.mode == "resumed" and state is not None
        source = self._sources.whole(state.place if resumed and state is not None else None)
        blank = State(job=self.job, head={} if state is None else state.head)
        await self._pass(source, self._selection, lambda place: replace(blank, place=place))
        done = State(
            job=self.job,
            done=self.missing is None,
            verified=source.report.verified,
            head=source.heads,
            place=source.place() if self.failures else None,
        )
        await self._write(Batch(self.job.kind, ()), done)
        return done

    async def _due(self, state: State) -> dict[str, str] | None:
        """The rows to read again, with their runs; None if the whole list is cheaper."""
        after = self._clock() - timedelta(seconds=self.options.settle)
        rows = dict(await self._thread(self.sink.unsettled, after))
        for gone in state.gone:
            rows.pop(gone, None)
        due = {row: run for row, run in rows.items() if run is not None}
        if len(due) < len(rows):
            return None
        pages = await self._sources.pages() if due else None
        return None if pages is not None and 2 * len(set(due.values())) > pages else due

    async def _refresh(self, state: State, due: dict[str, str]) -> State:
        """The rows that came on top, then those that were not settled. The state moves at the
        end: until then a second try begins with the same."""

        def new(path: str) -> Selection:
            return self._selection(path, until=state.head.get(path, ()))

        heads = self._sources.heads()
        await self._pass(heads, new, lambda _: state)
        met: set[str] = set()
        if due:
            again = self._sources.of_runs(list(dict.fromkeys(due.values())))
            wanted = Selection(self.job.kind, among=due, met=met)
            await self._pass(again, lambda _: wanted, lambda _: state)
        complete = self.missing is None
        gone = [*state.gone, *(due.keys() - met if complete else ())][-GONE:]
        head = {
            path: [*ids, *(row for row in state.head.get(path, ()) if row not in ids)][:HEAD]
            for path, ids in heads.heads.items()
        }
        verified = state.verified and all(report.complete for report in self._reports)
        done = replace(state, head=head if complete else state.head, gone=gone, verified=verified)
        await self._write(Batch(self.job.kind, ()), done)
        return done

    def _selection(self, _: str, *, until: Collection[str] = ()) -> Selection:
        since = None if self.job.since is None else datetime.fromisoformat(self.job.since)
        return Selection(self.job.kind, status=self.job.status, since=since, until=until)

    # -- how

    async def _pass(
        self, source: Source, select: Select, state_at: Callable[[Place], State]
    ) -> None:
        """All rows of a source into the sink. Raises what ended it, when all is written."""
        rows = anyio.create_memory_object_stream[tuple[list[bytes], Place]](0)
        batches = anyio.create_memory_object_stream[tuple[Batch, Place]](0)

        async def put(lines: list[bytes], place: Place) -> None:
            await rows[0].send((lines, place))

        limit = None if self.job.limit is None else max(0, self.job.limit - source.taken)
        reader = Reader(put, limit=limit, rows=self.options.rows or ROWS)
        self._source = source
        self._readers.append(reader)
        async with anyio.create_task_group() as group:
            distinct = source.is_distinct
            group.start_soon(self._prepare_all, distinct, rows[1], batches[0], group.cancel_scope)
            group.start_soon(self._write_all, batches[1], state_at, group.cancel_scope)
            async with rows[0]:
                await self._read_all(source, reader, select)
        if self._failure is not None:
            raise self._failure
        self.missing = self.missing or _lack(source)
        self.failures = [*self.failures, *source.failures]
        self._reports.append(source.report)
        self._source = None

    async def _read_all(self, source: Source, reader: Reader, select: Select) -> None:
        try:
            if not reader.is_full:
                await source.read(reader, select)
        except Exception as error:
            self._failure = error
        finally:
            with CancelScope(shield=True), suppress(anyio.BrokenResourceError):
                await reader.hand_on(source.place())

    async def _prepare_all(
        self,
        distinct: bool,
        rows: MemoryObjectReceiveStream[tuple[list[bytes], Place]],
        batches: MemoryObjectSendStream[tuple[Batch, Place]],
        reading: CancelScope,
    ) -> None:
        """Batches for the writer, one of them ahead. Shielded: what was read is written, whoever
        cancels."""
        with CancelScope(shield=True), suppress(anyio.BrokenResourceError):
            async with rows, batches:
                async for lines, place in rows:
                    kind, columns = self.job.kind, self.job.columns
                    batch = Batch(kind, lines, columns, distinct=distinct)
                    del lines
                    try:
                        await self._thread(self.sink.prepare, batch, on=self._preparer)
                    except Exception as error:
                        self._failure = self._failure or error
                        reading.cancel()
                        return
                    await batches.send((batch, place))
                    del batch

    async def _write_all(
        self,
        batches: MemoryObjectReceiveStream[tuple[Batch, Place]],
        state_at: Callable[[Place], State],
        reading: CancelScope,
    ) -> None:
        with CancelScope(shield=True):
            async with batches:
                async for batch, place in batches:
                    try:
                        await self._write(batch, state_at(place))
                    except Exception as error:
                        self._failure = error
                        reading.cancel()
                        return
                    del batch

    async def _write(self, batch: Batch, state: State) -> None:
        self.written = self.written.plus(await self._thread(self.sink.write, batch, state))
        if batch.mended:
            self._notes.add(MENDED)

    # -- what came of it

    def _receipt(self, state: State, began: datetime) -> Receipt:
        report = self.report
        return Receipt(
            tool=f"unpod-async {__version__}",
            job=self.job,
            mode=self.mode,
            covers=self._covers(),
            started=began.isoformat(),
            ended=self._clock().isoformat(),
            inserted=self.written.inserted,
            updated=self.written.updated,
            unchanged=self.written.unchanged,
            verified=state.verified and not self.is_cut_short,
            complete=self.missing is None and (state.verified or report.complete),
            reason=self._reason(state, report),
            report=plain(report),
            notes=sorted({*self._notes, *getattr(self.sink, "notes", ())}),
        )

    def _reason(self, state: State, report: Report) -> str | None:
        if self.missing is not None:
            return self.missing
        if self.is_cut_short:
            return f"no more than {self.job.limit} rows were asked for"
        return None if state.verified else report.reason or "what was there before was not proved"

    def _covers(self) -> str:
        """In words, what a reading like this one does not."""
        limits = [DELETED] if self._updates else []
        if self.mode == "refreshed":
            limits.append(SETTLED)
        if self.job.since is not None:
            limits.append(f"behind {OLD_ENOUGH} older rows in a row no newer one was looked for")
        return "; ".join(limits)


def _lack(source: Source) -> str | None:
    if source.error is not None:
        return source.error
    if source.failures:
        return f"not read: {len(source.failures)} of the runs"
    report = source.report
    if report.missing or report.unreadable or report.invalid:
        return report.reason or "rows could not be read"
    return None
