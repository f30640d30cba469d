"""One of the processes of `export --processes`: reads what to do from its standard input, and
tells on its standard output, a JSON object a line, how far it is and at last what came of it.

When its input ends, whoever started it is gone: it saves what it has, and ends too.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from datetime import datetime
from typing import Any

import anyio
import msgspec
from anyio import to_thread
from msgspec import Struct

from unpod_async import Limits, RetryPolicy, UnpodClient
from unpod_async.export._engine import Export, Options
from unpod_async.export._jobs import Wanted
from unpod_async.export._sink import sink_for
from unpod_async.export._state import Receipt

from ._outcome import Outcome, told
from ._run import beside, run, settle_in

POLL = 0.5


class Task(Struct, kw_only=True):
    """What one process is to do. Comes over a pipe, for it holds the token."""

    token: str
    base_url: str
    org_handle: str | None
    auth_scheme: Any
    spaces: list[str]
    runs: list[str] | None
    share: tuple[int, int]
    target: str
    raw: bool
    status: list[str]
    since: datetime | None
    columns: list[str] | None
    page_size: int
    lanes: int
    settle: float
    fresh: bool

    def __repr__(self) -> str:
        return f"<Task {self.share}>"  # nothing of the token


class Told(Struct, kw_only=True, omit_defaults=True):
    """A line of output."""

    taken: int = 0
    receipt: Receipt | None = None
    missing: str | None = None
    failures: list[tuple[str, str]] = []
    error: str | None = None


def main() -> None:
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):  # whoever started it was gone before it had said what to do
        os._exit(143)
    task = msgspec.json.decode(line, type=Task)
    outcome, told_last = Outcome("export tasks"), Told()

    run(outcome, lambda: beside(_end_with_input, lambda: _export(task, told_last)))
    if outcome.error is not None:
        told_last.error = told(outcome.error)
    _tell(told_last)
    os._exit(outcome.exit_code)  # a thread may be waiting for the input still


async def _export(task: Task, last: Told) -> None:
    async with UnpodClient(
        token=task.token,
        base_url=task.base_url,
        org_handle=task.org_handle,
        auth_scheme=task.auth_scheme,
        limits=Limits(max_concurrency=task.lanes),
        retry=RetryPolicy(outage_wait=300),
    ) as client:
        export = await to_thread.run_sync(_made, task, client)

        async def work() -> None:
            last.receipt = await export.run()

        try:
            await beside(lambda: _show(export), work)
        finally:
            last.taken, last.missing = export.taken, export.missing
            last.failures = [(run.run_id, told(error)) for run, error in export.failures]


def _made(task: Task, client: UnpodClient) -> Export:
    spaces = [client.space(token) for token in task.spaces]
    wanted = Wanted(
        kind="tasks",
        listings=[space.tasks(page_size=task.page_size) for space in spaces],
        spaces=spaces,
        runs=task.runs,
        by_runs=True,
        share=task.share,
        status=task.status,
        since=task.since,
        columns=task.columns,
        lanes=task.lanes,
        page_size=task.page_size,
    )
    job = wanted.job()
    sink = sink_for(task.target, job.kind, job.columns)
    if task.raw:
        sink.raw = True  # type: ignore[attr-defined]
    settle_in()
    # What another job left in this folder, which is ours alone, is in nobody's way.
    return Export(
        sink, job, wanted.sources(), Options(settle=task.settle, fresh=task.fresh, force=True)
    )


async def _show(export: Export) -> None:
    while True:
        _tell(Told(taken=export.taken))
        await anyio.sleep(POLL)


def _tell(line: Told) -> None:
    with suppress(BrokenPipeError):
        os.write(1, msgspec.json.encode(line) + b"\n")


async def _end_with_input() -> None:
    await to_thread.run_sync(sys.stdin.buffer.read, abandon_on_cancel=True)
    signal.raise_signal(signal.SIGTERM)


if __name__ == "__main__":
    main()
