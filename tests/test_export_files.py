"""A file that is whole under its name, or not there."""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import stat
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unpod_async.errors import ConfigurationError
from unpod_async.export._files import SUFFIXES, LinesFile, open_lines

both = pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])


def read(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else content


def made(path: Path, *chunks: bytes, force: bool = False) -> LinesFile:
    file = LinesFile(path, force=force)
    file.open()
    for chunk in chunks:
        file.write(chunk)
    return file


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chunks=st.lists(st.binary(max_size=200)), suffix=st.sampled_from(SUFFIXES))
def test_what_is_written_is_there(tmp_path: Path, chunks: list[bytes], suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    assert made(path, *chunks, force=True).commit() == path
    assert read(path) == b"".join(chunks)
    assert os.listdir(tmp_path) == [path.name]
    path.unlink()


@both
def test_nothing_has_the_name_before_the_end(tmp_path: Path, name: str) -> None:
    file = made(tmp_path / name, b"{}\n")
    (temporary,) = tmp_path.iterdir()
    assert temporary.name != name
    file.commit()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_equal_rows_make_equal_files(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        made(tmp_path / name, b"{}\n").commit()
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


@pytest.mark.parametrize("umask", [0, 0o777])
def test_only_the_owner_may_read_it(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        path = made(tmp_path / "rows.jsonl").commit()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["rows", "rows.json", "rows.jsonl.zip", ".jsonl", ".jsonl.gz"])
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"must end in \.jsonl or \.jsonl\.gz"):
        LinesFile(tmp_path / name)


def make_link(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize(
    ("make", "force", "message"),
    [
        (Path.touch, False, "exists"),
        (make_link, False, "symbolic link"),
        (make_link, True, "symbolic link"),
        (Path.mkdir, True, "not a plain file"),
        (os.mkfifo, True, "not a plain file"),
    ],
)
def test_what_is_in_the_way_is_left_alone(
    tmp_path: Path, make: Callable[[Path], Any], force: bool, message: str
) -> None:
    path = tmp_path / "rows.jsonl"
    make(path)
    with pytest.raises(ConfigurationError, match=message):
        made(path, force=force)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("parent", ["missing", "a file"])
def test_a_directory_that_takes_no_files(tmp_path: Path, parent: str) -> None:
    (tmp_path / "a file").touch()
    file = LinesFile(tmp_path / parent / "rows.jsonl")
    with pytest.raises(ConfigurationError):
        file.open()
    file.discard()


def test_with_force_the_old_file_is_there_until_the_new_one_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"old\n")
    file = made(path, b"new\n", force=True)
    assert path.read_bytes() == b"old\n"
    file.commit()
    assert path.read_bytes() == b"new\n"


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", failing(errno.EPERM))
    file = made(tmp_path / "rows.jsonl", b"new\n")
    (tmp_path / "rows.jsonl").write_bytes(b"theirs\n")
    with pytest.raises(ConfigurationError, match="appeared meanwhile"):
        file.commit()
    file.discard()
    assert (tmp_path / "rows.jsonl").read_bytes() == b"theirs\n"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    path = made(tmp_path / "rows.jsonl", b"new\n").commit()
    assert path.read_bytes() == b"new\n"
    assert list(tmp_path.iterdir()) == [path]


def test_rows_that_are_not_all_go_beside_the_target(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"old\n")
    partial = tmp_path / "rows.jsonl.partial"
    partial.write_bytes(b"older\n")
    assert made(path, b"some\n", force=True).set_aside() == partial
    assert (path.read_bytes(), partial.read_bytes()) == (b"old\n", b"some\n")


def failing(code: int, *, after: Callable[..., Any] | None = None) -> Callable[..., Any]:
    def fail(*arguments: Any, **options: Any) -> None:
        if after is not None:
            after(*arguments, **options)
        raise OSError(code, os.strerror(code))

    return fail


@both
@pytest.mark.parametrize(
    ("call", "force"),
    [
        *((call, force) for call in ("write", "fsync", "close") for force in (True, False)),
        ("link", False),
        ("replace", True),
    ],
)
def test_a_failing_disk_leaves_nothing_and_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, name: str, force: bool
) -> None:
    path = tmp_path / name
    if force:
        path.write_bytes(b"old\n")
    file = LinesFile(path, force=force)
    file.open()
    with monkeypatch.context() as patch:
        after = os.close if call == "close" else None
        patch.setattr(os, call, failing(errno.ENOSPC, after=after))
        with pytest.raises(OSError, match="No space left"):
            file.write(b"new\n" * 100_000)
            file.commit()
    file.discard()
    assert [(left.name, left.read_bytes()) for left in tmp_path.iterdir()] == (
        [(name, b"old\n")] if force else []
    )


def test_the_rows_are_on_the_disk_before_they_have_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            return call(*arguments, **options)

        return wrapper

    for name in ("open", "fchmod", "write", "fsync", "close", "link", "unlink", "replace"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    made(tmp_path / "rows.jsonl", b"{}\n").commit()
    made(tmp_path / "rows.jsonl", b"{}\n", force=True).commit()
    new_file, sync_directory = ["open", "fchmod", "write", "fsync", "close"], ["open", "fsync"]
    assert calls == [
        *(*new_file, "link", "unlink", *sync_directory, "close"),
        *(*new_file, "replace", *sync_directory, "close"),
    ]


def test_a_temporary_name_that_is_taken_is_not_written_to(tmp_path: Path) -> None:
    file = LinesFile(tmp_path / "rows.jsonl")
    file._temporary.symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError):
        file.open()
    file.discard()
    assert file._temporary.is_symlink()
    assert not (tmp_path / "victim").exists()


@pytest.mark.anyio
async def test_a_block_that_does_not_commit_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"):
        async with open_lines(tmp_path / "rows.jsonl") as file:
            assert os.listdir(tmp_path)
            await to_thread.run_sync(file.write, b"{}\n")
            raise RuntimeError("stop")
    assert os.listdir(tmp_path) == []
    async with open_lines(tmp_path / "rows.jsonl") as file:
        await to_thread.run_sync(file.commit)
    assert os.listdir(tmp_path) == ["rows.jsonl"]


@pytest.mark.anyio
async def test_cancelled_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio's own cancellation does not wait for the thread; the file goes all the same."""
    loop, begun = asyncio.get_running_loop(), asyncio.Event()
    proceed: Future[None] = Future()
    opening = LinesFile.open

    def slow_open(file: LinesFile) -> None:
        with file._lock:
            loop.call_soon_threadsafe(begun.set)
            proceed.result(10)
        opening(file)

    monkeypatch.setattr(LinesFile, "open", slow_open)

    async def export() -> None:
        async with open_lines(tmp_path / "rows.jsonl"):
            raise AssertionError("not reached")

    task = asyncio.create_task(export())
    await begun.wait()
    task.cancel()
    loop.call_later(0.01, proceed.set_result, None)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert os.listdir(tmp_path) == []
