"""A server far faster than any client here: one loop over raw sockets, in a process of its own.

It answers from prepared bytes. The rows lie in one buffer, so that any window is a head, a slice
and a tail, whatever page size a client picks. What a space is like is said by its token:

BULK   100,000 tasks, and the first 10,000 of their runs
QUIET  50,000 tasks
GZIP   10,000 tasks, compressed (level 6) for who accepts gzip
SLOW   as BULK, each answer 50 ms late
BIG    1,000,000 tasks: those of BULK ten times over, under ids of their own; TWICE 200,000

`GET /requests` tells how many requests each space had since it was last asked.
"""

from __future__ import annotations

import gzip
import json
import re
import selectors
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

from . import data

SMALL = 1 << 14  # answers up to this size are kept whole
HEAD = b'{"count":%d,"status_code":200,"message":"Tasks fetched successfully","data":['
TAIL = b"]}"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
PATH = re.compile(rb"/spaces/([A-Z]+)/(?:(tasks)|(runs)|runs/R(\d{6})\w*/tasks)/(?:\?(.*))?$")
PAGE = re.compile(rb"(?:^|&)page=(\d+)")
PAGE_SIZE = re.compile(rb"(?:^|&)page_size=(\d+)")

Parts = list[bytes | memoryview]


class Space(NamedTuple):
    tasks: int
    delay: float = 0.0
    zipped: bool = False


SPACES = {
    b"BULK": Space(data.TASKS),
    b"QUIET": Space(50_000),
    b"GZIP": Space(10_000, zipped=True),
    b"SLOW": Space(data.TASKS, delay=0.05),
    b"BIG": Space(10 * data.TASKS),
    b"TWICE": Space(2 * data.TASKS),
}


class Answers:
    """What to answer to a target, as the parts to send."""

    def __init__(self) -> None:
        self._tasks = data.task_rows(data.TASKS)
        self._runs = data.run_rows(data.RUNS)
        self._starts = data.Runs(data.TASKS).starts
        self._id_at = [
            self._tasks.blob.index(b'"task_id":"', start) + 11 for start in self._tasks.starts[:-1]
        ]
        self._ready: dict[tuple[bytes, bool], tuple[Space, Parts]] = {}

    def find(self, target: bytes, zipped: bool) -> tuple[Space, Parts] | None:
        found = self._ready.get((target, zipped))
        if found is None and (asked := PATH.search(target)):
            space = SPACES[asked[1]]
            found = space, self._make(space, asked, zipped)
            if space.tasks <= data.TASKS:
                self._ready[target, zipped] = found
        return found

    def _make(self, space: Space, asked: re.Match[bytes], zipped: bool) -> Parts:
        query = asked[5] or b""
        page, size = _number(PAGE, query, 1), _number(PAGE_SIZE, query, 50)
        first, last = 0, space.tasks
        rows = self._tasks
        if asked[3]:
            rows, last = self._runs, data.RUNS
        elif asked[4]:
            run = int(asked[4])
            first, last = self._starts[run], self._starts[run + 1]
        parts: Parts = [HEAD % (last - first)]
        begin, end = min(first + (page - 1) * size, last), min(first + page * size, last)
        parts += self._slices(rows, begin, end)
        parts.append(TAIL)
        return _with_head(parts, zipped and space.zipped)

    def _slices(self, rows: data.Rows, begin: int, end: int) -> Parts:
        """The rows from `begin` to `end`; those past the last one are a copy of the first ones."""
        slices: Parts = []
        while begin < end:
            copy, first = divmod(begin, len(rows))
            last = min(first + end - begin, len(rows))
            slices += [b","] if slices else []
            slices.append(self._renamed(first, last, copy) if copy else rows.window(first, last))
            begin += last - first
        return slices

    def _renamed(self, first: int, last: int, copy: int) -> bytes:
        window = bytearray(self._tasks.window(first, last))
        base, digit = self._tasks.starts[first], b"%x" % copy
        for at in self._id_at[first:last]:
            window[at - base : at - base + 1] = digit
        return bytes(window)


def _number(pattern: re.Pattern[bytes], query: bytes, default: int) -> int:
    found = pattern.search(query)
    return int(found[1]) if found else default


def _with_head(parts: Parts, zipped: bool) -> Parts:
    encoding = b""
    if zipped:
        encoding, parts = b"Content-Encoding: gzip\r\n", [gzip.compress(b"".join(parts), 6)]
    size = sum(map(len, parts))
    parts = [OK % (encoding, size), *parts]
    return [b"".join(parts)] if size < SMALL else parts


class Server:
    """One loop for all connections; an answer that is not due yet waits in a heap."""

    def __init__(self) -> None:
        self._answers = Answers()
        self._requests: Counter[str] = Counter()
        self._selector = selectors.DefaultSelector()
        self._rest: dict[socket.socket, Parts] = {}
        self._due: list[tuple[float, int, socket.socket, Parts]] = []
        self._order = count()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]

    def run(self) -> None:
        """Until the standard input ends, as it does when the parent goes."""
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(sys.stdin, selectors.EVENT_READ)
        while True:
            for key, events in self._selector.select(self._patience()):
                if key.fileobj is sys.stdin:
                    return
                if key.fileobj is self._listener:
                    self._accept()
                elif events & selectors.EVENT_WRITE:
                    self._send(key.fileobj, self._rest.pop(key.fileobj))
                else:
                    self._read(key.fileobj)
            while self._due and self._due[0][0] <= time.monotonic():
                _, _, connection, parts = heappop(self._due)
                self._send(connection, parts)

    def _patience(self) -> float | None:
        if not self._due:
            return None
        # The selector rounds up to milliseconds: be early and look again.
        return max(0.0, self._due[0][0] - time.monotonic() - 0.001)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket) -> None:
        try:
            request = connection.recv(1 << 16)
        except OSError:
            request = b""
        if not request:
            self._leave(connection)
            return
        target = request[4 : request.index(b" ", 4)]
        if target == b"/requests":
            self._send(connection, self._tell())
            return
        found = self._answers.find(target, b"gzip" in request)
        if found is None:
            self._send(connection, [NOT_FOUND])
            return
        space, parts = found
        self._requests[PATH.search(target)[1].decode()] += 1
        if space.delay:
            due = time.monotonic() + space.delay
            heappush(self._due, (due, next(self._order), connection, parts))
        else:
            self._send(connection, parts)

    def _leave(self, connection: socket.socket) -> None:
        """The client went. An answer that is not due yet may still be about."""
        if connection.fileno() >= 0:
            self._selector.unregister(connection)
            connection.close()

    def _tell(self) -> Parts:
        body = json.dumps(self._requests).encode()
        self._requests.clear()
        return _with_head([body], zipped=False)

    def _send(self, connection: socket.socket, parts: Parts) -> None:
        try:
            sent = connection.sendmsg(parts)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._leave(connection)
            return
        rest = _behind(parts, sent)
        if rest:
            self._rest[connection] = rest
        self._selector.modify(connection, selectors.EVENT_WRITE if rest else selectors.EVENT_READ)


def _behind(parts: Parts, sent: int) -> Parts:
    rest: Parts = []
    for part in parts:
        if sent < len(part):
            rest.append(memoryview(part)[sent:])
        sent = max(0, sent - len(part))
    return rest


@contextmanager
def serving() -> Iterator[int]:
    """A server in its own process; gives its port."""
    command = [sys.executable, "-m", "benchmarks.server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()


if __name__ == "__main__":
    server = Server()
    print(server.port, flush=True)
    server.run()
