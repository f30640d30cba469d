"""Runs a command: signals, the end, and what is told of it."""

from __future__ import annotations

import gc
import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

from unpod_async._secrets import safe_text

from ._copy import copy_list
from ._outcome import Outcome, told
from ._terminal import redact_given, tell, write_stdout

if TYPE_CHECKING:
    from unpod_async import Listing, UnpodClient

    from ._options import Options

Work = Callable[[], Awaitable[None]]


def settle_in() -> None:
    """In a process that is here for one export alone, when all is imported: the collector need
    not go over that again and again, and a thread that is at work gives the event loop its turn
    sooner (of the usual 5 ms many add up to a long wait)."""
    gc.freeze()
    sys.setswitchinterval(0.0005)


def run(outcome: Outcome, work: Work) -> None:
    """Do the work in an event loop, and put into `outcome` whatever ends it early. A signal
    cancels it, so that it cleans up after itself; a second one ends the process at once."""
    began = time.monotonic()
    try:
        anyio.run(_until_signal, outcome, work)
    except KeyboardInterrupt:
        outcome.signal = signal.SIGINT
    outcome.seconds = time.monotonic() - began


async def _until_signal(outcome: Outcome, work: Work) -> None:
    async with anyio.create_task_group() as group:
        await group.start(_watch, outcome, group.cancel_scope)
        try:
            await work()
        except BrokenPipeError:
            outcome.cut_short = "pipe"
        except Exception as error:
            outcome.error = error
        group.cancel_scope.cancel()


async def beside(side: Callable[[], Coroutine[Any, Any, None]], work: Work) -> None:
    """Do the work while something runs beside it, which ends with it. Raises what the work
    raises, as it is."""
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(side)
        try:
            await work()
        except Exception as error:
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _watch(
    outcome: Outcome, scope: anyio.CancelScope, *, task_status: anyio.abc.TaskStatus[None]
) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with anyio.open_signal_receiver(*handlers) as signals:
            task_status.started()
            async for number in signals:
                outcome.signal = number
                handlers = dict.fromkeys(handlers, signal.SIG_DFL)
                scope.cancel()
                break
    except NotImplementedError:  # on Windows, where Ctrl-C raises KeyboardInterrupt
        task_status.started()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def finish(outcome: Outcome, *, quiet: bool, as_json: bool, json_to_stdout: bool = False) -> int:
    """Tell what became of the command; gives its exit code."""
    if as_json:
        text = redact_given(json.dumps(_summary(outcome)).replace("\x7f", "\\u007f"))
        if json_to_stdout:
            with suppress(BrokenPipeError):
                write_stdout(f"{text}\n".encode())
        else:
            tell(text)
    elif outcome.error is not None:
        after = f" after {outcome.rows:,} rows" if outcome.rows else ""
        tell(f"error{after}: {told(outcome.error)}")
    elif not quiet and outcome.cut_short != "pipe":
        tell(_prose(outcome))
    return outcome.exit_code


def print_list(
    command: str, options: Options, listing_of: Callable[[UnpodClient], Listing[Any]]
) -> int:
    """A command that prints a list as JSON Lines; gives its exit code."""
    outcome = Outcome(command)

    async def work() -> None:
        async with await to_thread.run_sync(options.client, options.lanes()) as client:
            shown = options.shows_progress and not sys.stdout.isatty()
            await copy_list(listing_of(client), write_stdout, outcome, options, progress=shown)

    run(outcome, work)
    return finish(outcome, quiet=options.quiet, as_json=options.json)


def _prose(outcome: Outcome) -> str:
    if outcome.prose is not None:
        return outcome.prose
    where = f" to {safe_text(outcome.path)}" if outcome.path else ""
    verdict = outcome.verdict
    if outcome.signal is not None:
        verdict = f"stopped by {signal.Signals(outcome.signal).name}"
    if outcome.failures:
        run, error = outcome.failures[0]
        verdict += f", the first is {run.run_id}: {told(error)}"
    return f"{rate_of(outcome)}{outcome.detail}{where}; {safe_text(verdict, limit=2000)}"


def rate_of(outcome: Outcome) -> str:
    rate = outcome.rows / outcome.seconds if outcome.seconds else 0
    rows = "1 row" if outcome.rows == 1 else f"{outcome.rows:,} rows"
    return f"{rows} in {outcome.seconds:.1f} s ({rate:,.0f} rows/s)"


def _summary(outcome: Outcome) -> dict[str, Any]:
    rate = outcome.rows / outcome.seconds if outcome.seconds else 0.0
    error = outcome.error
    return {
        "command": outcome.command,
        "rows": outcome.rows,
        "seconds": round(outcome.seconds, 3),
        "rate": round(rate, 1),
        "path": None if outcome.path is None else str(outcome.path),
        "exit_code": outcome.exit_code,
        "verdict": None if error or outcome.signal else outcome.verdict,
        "error": None if error is None else told(error),
        "failures": [[run.run_id, told(error)] for run, error in outcome.failures],
        "report": _report(outcome),
        **outcome.more,
    }


def _report(outcome: Outcome) -> dict[str, Any] | None:
    if outcome.report is None:
        return None
    from msgspec import to_builtins

    report: dict[str, Any] = to_builtins(outcome.report)
    # A row without an identity is somebody's call all the same: no copy of it in a summary.
    report["invalid"] = [
        {"offset": row.offset, "reason": row.reason} for row in outcome.report.invalid
    ]
    return report
