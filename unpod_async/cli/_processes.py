"""Carries out `export --processes`: each process exports its share of the runs into a folder of
its own beside the target; when all are done their parts become those of the target."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import reduce

import anyio
import msgspec
from anyio import CancelScope, to_thread
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from unpod_async._report import Report
from unpod_async._version import __version__
from unpod_async.errors import ConfigurationError, UnpodError
from unpod_async.export._engine import Export, plan_for
from unpod_async.export._sink import Written
from unpod_async.export._source import plain, total
from unpod_async.export._state import Receipt, State
from unpod_async.export.sinks._adopt import adopt, remove, share_of, shares_of
from unpod_async.export.sinks._parts import FileSink
from unpod_async.models import Run

from ._worker import Task, Told

LINE = 1 << 28  # bytes: the last one holds a whole receipt


class Share:
    """One process and what it has told."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.last = Told()
        self.code: int | None = None

    @property
    def report(self) -> Report:
        receipt = self.last.receipt
        return Report() if receipt is None else msgspec.convert(receipt.report, Report)

    @property
    def failure(self) -> ShareFailed:
        why = self.last.error or "it was stopped"
        at, of = self.task.share
        code = self.code if self.code and self.code > 0 else 1
        return ShareFailed(f"process {at} of {of}: {why}", code)

    async def run(self) -> None:
        """Until it ends. A cancellation lets it save what it has."""
        command = [sys.executable, "-m", "unpod_async.cli._worker"]
        try:
            # A session of its own, so that Ctrl-C comes from here, once, and not twice.
            process = await anyio.open_process(
                command, stdin=subprocess.PIPE, stderr=None, start_new_session=True
            )
        except OSError as error:
            self.last.error = f"it could not be started: {error.strerror}"
            return
        try:
            assert process.stdin is not None
            with suppress(anyio.BrokenResourceError):  # it is gone already, and its code tells
                await process.stdin.send(msgspec.json.encode(self.task) + b"\n")
            await self._listen(process)
        except anyio.get_cancelled_exc_class():
            with CancelScope(shield=True):
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
                await self._listen(process)
            raise
        finally:
            with CancelScope(shield=True):
                self.code = await process.wait()
                await process.aclose()

    async def _listen(self, process: Process) -> None:
        assert process.stdout is not None
        lines = BufferedByteReceiveStream(process.stdout)
        with suppress(anyio.EndOfStream, anyio.IncompleteRead):
            while True:
                line = await lines.receive_until(b"\n", LINE)
                with suppress(msgspec.MsgspecError):  # something else that prints there
                    self.last = msgspec.json.decode(line, type=Told)


class ShareFailed(UnpodError):
    """A process ended without its share; it has told why."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code


class Shares:
    """All processes of one export; looks like an `Export` to whoever shows what becomes of it."""

    def __init__(self, export: Export, task: Task, processes: int) -> None:
        self._export = export
        self.sink, self.job = export.sink, export.job
        self._shares = [
            Share(
                msgspec.structs.replace(
                    task,
                    share=(at, processes),
                    target=share_of(_files(self.sink), (at, processes)),
                )
            )
            for at in range(1, processes + 1)
        ]
        self._failed: Share | None = None
        """The one that failed first, and made the others end."""
        self.missing: str | None = None
        self.failures: Sequence[tuple[Run, UnpodError]] = ()
        self.written = Written()
        self.is_cut_short = False

    @property
    def taken(self) -> int:
        return sum(share.last.taken for share in self._shares)

    @property
    def report(self) -> Report:
        """Of all shares that are through, together."""
        reports = [share.report for share in self._shares]
        return reduce(total, reports, Report())

    async def run(self) -> Receipt:
        """As `Export.run`. If it ends early, each process has saved what it has, and the next
        call goes on with that."""
        sink = _files(self.sink)
        began = datetime.now(UTC)
        await to_thread.run_sync(self._export.open_sink)
        receipt: Receipt | None = None
        try:
            await to_thread.run_sync(plan_for, sink, self.job, self._export.options)
            await self._run_all()
            receipt = await to_thread.run_sync(self._gathered, sink, began)
        finally:
            with CancelScope(shield=True):
                await to_thread.run_sync(sink.close, receipt)
        await to_thread.run_sync(lambda: remove(shares_of(sink)))
        return receipt

    async def _run_all(self) -> None:
        """All processes; if one fails the others are asked to save and end."""
        async with anyio.create_task_group() as group:
            for share in self._shares:
                group.start_soon(self._run_one, share, group.cancel_scope)
        if self._failed is not None:
            raise self._failed.failure

    async def _run_one(self, share: Share, others: CancelScope) -> None:
        await share.run()
        if share.last.receipt is None and self._failed is None:
            self._failed = share
            others.cancel()

    def _gathered(self, sink: FileSink, began: datetime) -> Receipt:
        """Their parts in the target, and their receipts as one."""
        done = [share.last for share in self._shares]
        receipts = [last.receipt for last in done if last.receipt is not None]
        self.missing = next((last.missing for last in done if last.missing is not None), None)
        self.failures = [
            (Run.of(run_id), UnpodError(why)) for last in done for run_id, why in last.failures
        ]
        report = self.report
        state = State(job=self.job, done=self.missing is None, verified=report.verified)
        self.written = Written(
            inserted=adopt(sink, [share.task.target for share in self._shares], state)
        )
        sink.partial = self.missing is not None
        return Receipt(
            tool=f"unpod-async {__version__}",
            job=self.job,
            started=began.isoformat(),
            ended=datetime.now(UTC).isoformat(),
            inserted=self.written.inserted,
            verified=report.verified,
            complete=report.complete and self.missing is None,
            reason=self.missing or report.reason,
            report=plain(report),
            notes=sorted({note for receipt in receipts for note in receipt.notes}),
        )


def _files(sink: object) -> FileSink:
    if not isinstance(sink, FileSink):
        raise ConfigurationError("--processes writes files of this machine, no database")
    return sink
