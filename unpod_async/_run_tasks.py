"""The tasks of many runs: their lists read several at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, Literal, Self, TypeVar

from msgspec.structs import replace

from ._fanout import Block, FanOut
from ._pager import Pager
from ._protocol import check_whole
from ._reading import Begun, Rows, all_of, now
from ._report import Expected, Report
from ._stats import Operation
from ._windows import Answer, Window
from .errors import ConfigurationError, IncompleteWalk, UnpodError
from .models import Run

__all__ = ["OnError", "RunTasks"]

T = TypeVar("T")

OnError = Literal["raise", "collect"]


class RunTasks(Block[Run, "tuple[list[T], Report]"], Generic[T]):
    """The tasks of many runs, several runs at once: pairs of a `Run` and the list of its
    tasks. Use it as an async context manager and iterate it inside.

    `failures` holds (run, error) pairs under `on_error="collect"`; `report` is the receipt of
    all lists together, final once the iteration has ended. An error while listing the runs
    themselves is always raised.
    """

    def __init__(
        self,
        runs: Rows[Run] | AsyncIterator[Run],
        tasks_of: Callable[[Run], Pager[T]],
        *,
        begin: Callable[[Report], Operation],
        concurrency: int,
        ordered: bool,
        on_error: OnError,
    ) -> None:
        check_whole("concurrency", concurrency, most=10_000)
        if on_error not in ("raise", "collect"):
            raise ConfigurationError('on_error takes "raise" or "collect"')
        self.failures: list[tuple[Run, UnpodError]] = []
        self.report = Report()
        self.doubt: str | None = None
        """Of the first list that could be read and was not proved, why; whatever failed."""
        self._flaw: str | None = None
        self._runs = runs
        self._tasks_of = tasks_of
        self._collecting = on_error == "collect"
        stream = FanOut(self._read, runs, lanes=concurrency, ordered=ordered)
        super().__init__(stream, lambda: begin(self.report))

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.report.started = now()
        return self

    async def __anext__(self) -> tuple[Run, list[T]]:
        self._check_inside()
        while True:
            try:
                run, read, error = await anext(self._stream)
            except StopAsyncIteration:
                self._finish()
                raise
            except UnpodError as error:  # the list of runs itself
                if isinstance(error, IncompleteWalk):
                    error.report = _of_runs(error.report)
                self._fail("the list of runs", error)
                self.report.ended = now()
                raise
            if read is not None:
                tasks, report = read
                self._note(report, f"run {run.run_id}")
                return run, tasks
            assert error is not None
            self._fail(f"run {run.run_id}", error)
            if not (self._collecting and isinstance(error, UnpodError)):
                raise error
            self.failures.append((run, error))

    def _read(self, run: Run) -> Awaitable[tuple[list[T], Report]]:
        return _with_report(self._tasks_of(run))

    def _note(self, report: Report, what: str) -> None:
        self.report.add(report)
        if not report.complete:
            self.doubt = self.doubt or f"{what}: {report.reason}"
            self._flaw = self._flaw or self.doubt

    def _fail(self, what: str, error: Exception) -> None:
        if isinstance(error, IncompleteWalk):
            self.report.add(error.report)
        self.report.missing = True
        told = error.message if isinstance(error, UnpodError) else type(error).__name__
        self._flaw = self._flaw or f"{what}: {told}"
        self.report.reason = self._flaw

    def _finish(self) -> None:
        if self.report.ended is None:
            self.report.ended = now()
            if isinstance(self._runs, Rows):
                self._note(_of_runs(self._runs.report), "the list of runs")
            self.report.reason = self._flaw
            self.report.verified = self._flaw is None


async def _with_report(listing: Pager[T]) -> tuple[list[T], Report]:
    """All rows and their receipt, without the times. A walk is planned only where one answer
    is not the whole list."""
    window, home = Window(1, listing.page_size), listing.home()
    heard: list[Answer[T] | UnpodError] = []
    try:
        answer = await listing.answer(window, home, listing.fetch)
        if (report := listing.at_once(window, answer)) is not None:
            return answer.rows, report
        heard.append(answer)
        del answer  # no row stays in this frame, for a traceback might show it
    except UnpodError as error:
        heard.append(error)
    rows = Rows(listing, begun=Begun(home, heard))
    return await all_of(rows), rows.report


def _of_runs(report: Report) -> Report:
    """The receipt of a list of runs, fit for a total whose rows and counts are of tasks."""
    return replace(report, seen=0, expected=Expected())
