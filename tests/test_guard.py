"""The cost of the bulk readings in counted work, which is the same on every machine: function
calls, bytecodes, decoded pages, turns of the event loop, memory. No clock.

A figure that went down may be written down anew; one that went up wants a reason.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tracemalloc
from collections import Counter
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

import pytest

from unpod_async._pager import ListOptions, Source
from unpod_async._pages import TASKS
from unpod_async._paging import Listing
from unpod_async._protocol import Request
from unpod_async._run_tasks import RunTasks
from unpod_async._stats import NOBODY, Stats
from unpod_async._windows import ServerMemory
from unpod_async.models import Run, Task

Way = Callable[[], Awaitable[int]]
ROWS, SIZE = 5000, 500
TOOL = 4  # of `sys.monitoring`
SLACK = 1.04  # between versions of Python and of what we stand on


def a_row(number: int) -> bytes:
    turns = [{"role": "user", "content": f"Words {at} नमस्ते", "timestamp": None} for at in range(8)]
    output = {
        "call_id": f"c{number}",
        "transcript": turns,
        "start_time": "2026-01-16 13:33:03.101456",
        "duration": 7,
        "post_call_data": {"summary": {"status": "Interested", "summary": "Words."}},
    }
    parts = {"user_info": {"id": "1"}, "task": {"objective": "Call."}, "input": {"name": "Asha"}}
    row = {"space_id": "1", "run_id": "R1", "task_id": f"T{number}", "status": "completed"}
    return json.dumps({**row, **parts, "output": output, "attachments": []}).encode()


DATA = [a_row(number) for number in range(ROWS)]


async def fetch(request: Request, **_: object) -> bytes:
    """The server and the way to it, which are not what is counted here."""
    page, size = map(int, re.findall(r"page(?:_size)?=(\d+)", request.query))
    rows = b",".join(DATA[(page - 1) * size : page * size])
    return b'{"count":%d,"data":[%b]}' % (ROWS, rows)


def tasks(size: int = SIZE) -> Listing[Task]:
    source = Source(fetch, ServerMemory(), Stats(), "http://x", None, None)
    return Listing(source, TASKS, ListOptions("spaces/S/tasks/", page_size=size))


async def walk() -> int:
    async with tasks().walk(prefetch=4) as rows:
        seen = sum([1 async for _ in rows])
    assert rows.report.verified
    return seen


async def walk_calls() -> int:
    async with tasks().walk(prefetch=4) as rows:
        return sum([1 async for task in rows if task.call.transcript])


async def walk_raw() -> int:
    async with tasks().raw().walk(prefetch=4) as rows:
        return sum([1 async for _ in rows])


async def pages() -> int:
    return sum([len(page.items) async for page in tasks().pages()])


class One:
    """A run, over and over; now and then the lanes have to wait for it."""

    def __init__(self) -> None:
        self.left = 1000

    def __aiter__(self) -> One:
        return self

    async def __anext__(self) -> Run:
        self.left -= 1
        if not self.left % 200:
            await asyncio.sleep(0)
        if self.left < 0:
            raise StopAsyncIteration
        return Run.of("R1")


async def fan_out() -> int:
    source = Source(few, ServerMemory(longest=200), Stats(), "http://x", None, None)

    def tasks_of(run: Run) -> Listing[Task]:
        path = f"spaces/S/runs/{run.run_id}/tasks/"
        return Listing(source, TASKS, ListOptions(path, run_id=run.run_id))

    options: dict[str, Any] = {"concurrency": 16, "ordered": False, "on_error": "raise"}
    async with RunTasks(One(), tasks_of, begin=lambda _: NOBODY, **options) as stream:
        return sum([1 async for _ in stream])


async def few(*_: object, **__: object) -> bytes:
    await asyncio.sleep(0)
    return b'{"count":3,"data":[%b]}' % b",".join(DATA[:3])


# Function calls a row (a run), bytecodes a row on one version (others compile differently), and
# decoded texts in all: 13 windows, overlaps and the look at the head among them.
WAYS: dict[Way, tuple[float, float, int]] = {
    walk: (9.7, 136, 13),
    walk_calls: (34.7, 772, 13 + 2 * ROWS),
    walk_raw: (6.3, 84.8, 2 * 13),
    pages: (5.1, 65.1, 11),
    fan_out: (102, 1470, 1000),
}
COUNTED_ON = (3, 12)
# What goes over the bytes of a page, or makes other bytes or text of them.
TOUCHING = {"Decoder.decode", "bytes.isascii", "codecs.utf_8_decode", "bytes.join", "Raw.copy"}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_no_row_costs_more_calls_than_it_did(way: Way) -> None:
    calls, _, decodes = WAYS[way]
    counted, touched = count_calls(way)
    assert counted.total() / units(way) <= calls * SLACK
    assert set(touched) <= TOUCHING
    assert touched["Decoder.decode"] <= decodes


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.skipif(sys.version_info[:2] != COUNTED_ON, reason="counted on another version")
def test_no_row_costs_more_bytecodes_than_it_did(way: Way) -> None:
    assert count_bytecodes(way) / units(way) <= WAYS[way][1] * SLACK


def test_a_page_costs_few_turns_of_the_event_loop() -> None:
    counted, _ = count_calls(walk)
    assert counted["_run_once"] <= 3 * 15


def test_a_walk_needs_the_memory_of_a_few_pages() -> None:
    units(walk)
    tracemalloc.start()
    try:
        units(walk)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    page = SIZE * len(DATA[-1])
    assert peak < 14 * page


def units(way: Way) -> int:
    return asyncio.run(way())  # type: ignore[arg-type]


def count_calls(way: Way) -> tuple[Counter[str], Counter[str]]:
    """All calls by the name of the function; those of C by type, if they touch bytes."""
    counted: Counter[str] = Counter()
    touched: Counter[str] = Counter()

    def note(frame: FrameType, event: str, called: Any) -> None:
        if frame.f_code.co_filename == __file__:
            return
        if event == "call":
            counted[frame.f_code.co_name] += 1
        elif event == "c_call":
            counted[called.__name__] += 1
            owner = getattr(called, "__self__", None)
            name = getattr(owner, "__name__", type(owner).__name__).lstrip("_")
            if name in ("Decoder", "Encoder", "bytes", "bytearray", "Raw", "codecs", "json"):
                touched[f"{name}.{called.__name__}"] += 1

    async def watched() -> None:
        sys.setprofile(note)
        try:
            await way()
        finally:
            sys.setprofile(None)

    units(way)  # what is made once is made by now
    asyncio.run(watched())
    return counted, touched


def count_bytecodes(way: Way) -> int:
    events = sys.monitoring.events
    counted = 0

    def note(*_: object) -> None:
        nonlocal counted
        counted += 1

    sys.monitoring.use_tool_id(TOOL, "guard")
    try:
        sys.monitoring.register_callback(TOOL, events.INSTRUCTION, note)
        sys.monitoring.set_events(TOOL, events.INSTRUCTION)
        units(way)
    finally:
        sys.monitoring.set_events(TOOL, 0)
        sys.monitoring.free_tool_id(TOOL)
    return counted
