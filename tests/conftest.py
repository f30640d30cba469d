"""What every test is held to: the event loop is never blocked, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import settings

# Other work on a loaded machine must not fail a test; the rest stays as hypothesis found it
# (in CI: the same examples every time).
settings.register_profile("unhurried", settings(), deadline=None)
settings.load_profile("unhurried")


def pytest_collection_finish() -> None:
    """What is there now stays: the collector need not look at it after each test."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Libraries in C count what is left at the end, and complain."""
    gc.unfreeze()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def lose(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """The first folder opened whose name ends so is removed at once. Gives what was."""

    def losing(end: str) -> list[str]:
        real = os.open
        removed: list[str] = []

        def open_and_lose(path: Any, *arguments: Any, **options: Any) -> int:
            opened = real(path, *arguments, **options)
            if str(path).endswith(end) and not removed:
                os.rmdir(path)
                removed.append(str(path))
            return opened

        monkeypatch.setattr(os, "open", open_and_lose)
        return removed

    return losing


@pytest.fixture(scope="session", autouse=True)
def unblocked_loop() -> Iterator[None]:
    """A call that blocks an event loop fails, if any of our code is on its stack. That
    includes the loop of a simulator that runs in a thread."""
    with blockbuster_ctx("unpod_async") as buster:
        for function in buster.functions.values():
            function.can_block_in("coverage/collector.py", "lock_data")
        yield


@pytest.fixture(autouse=True)
def nothing_unclosed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Set up first, so torn down last, when the loop is closed: what only the collector
    finds (sessions, transports, sockets) is reported by the test that left it."""
    yield
    if is_async(request):
        gc.collect()


@pytest.fixture(autouse=True)
def no_task_left(request: pytest.FixtureRequest, nothing_unclosed: None) -> None:
    if is_async(request):
        request.getfixturevalue("tasks_before_and_after")


@pytest.fixture
async def tasks_before_and_after(anyio_backend: str) -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    left = {task for task in asyncio.all_tasks() - before if not of_the_test_runner(task)}
    assert not left, f"the test left tasks: {left}"


def is_async(request: pytest.FixtureRequest) -> bool:
    return inspect.iscoroutinefunction(getattr(request, "function", None))


def of_the_test_runner(task: asyncio.Task[object]) -> bool:
    return getattr(task.get_coro(), "__qualname__", "").startswith("TestRunner.")
