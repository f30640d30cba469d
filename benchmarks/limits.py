"""The limits: what no client can do without. Blocking sockets, one request under way on each.

The next request is on its way before a page is decoded, and bodies land in one buffer, for ever
the same one. No errors, no retries, no HTTP beyond what these answers need.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle
from typing import Any

from .harness import SyncArm

Decode = Callable[[Any], int]
"""From the bytes of a body to how many rows were handed on."""

Inflate = Callable[[Any], bytes]

REQUEST = (
    "GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n"
    "Authorization: Token bench\r\nAccept-Encoding: {}\r\n\r\n"
)


def inflate() -> tuple[str, Inflate]:
    """The inflater that the library takes, in one shot, and its name."""
    try:
        from isal import igzip

        return "isal", igzip.decompress
    except ImportError:
        import gzip

        return "zlib", gzip.decompress


class Connection:
    """One blocking connection."""

    def __init__(self, port: int, coding: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._coding = coding

    def ask(self, target: str) -> None:
        self._socket.sendall(REQUEST.format(target, self._coding).encode())

    def answer(self, buffer: bytearray) -> memoryview:
        """The body, which lies in `buffer` until the next answer."""
        view = memoryview(buffer)
        have = self._socket.recv_into(view)
        while (end := buffer.find(b"\r\n\r\n", 0, have)) < 0:
            have += self._socket.recv_into(view[have:])
        at = buffer.index(b"Content-Length: ", 0, end) + 16
        whole = end + 4 + int(buffer[at : buffer.index(b"\r", at)])
        while have < whole:
            have += self._socket.recv_into(view[have:])
        return view[end + 4 : whole]

    def close(self) -> None:
        self._socket.close()


class RawSockets(SyncArm):
    """Targets over `lanes` connections in turn, each body given to `decode`."""

    def __init__(
        self,
        port: int,
        targets: Iterable[str],
        decode: Decode,
        *,
        lanes: int,
        inflate: Inflate | None = None,
    ) -> None:
        self._port, self._targets, self._decode = port, targets, decode
        self._lanes, self._inflate = lanes, inflate
        self._buffer = bytearray(1 << 23)

    def work(self) -> Iterator[int]:
        targets = cycle(self._targets)
        coding = "gzip" if self._inflate else "identity"
        lanes = [Connection(self._port, coding) for _ in range(self._lanes)]
        try:
            for lane in lanes:
                lane.ask(next(targets))
            for lane in cycle(lanes):
                body = lane.answer(self._buffer)
                lane.ask(next(targets))
                yield self._decode(self._inflate(body) if self._inflate else body)
        finally:
            for lane in lanes:
                lane.close()


class InMemory(SyncArm):
    """Bodies that are there already, each given to `decode`."""

    def __init__(self, bodies: list[bytes], decode: Decode) -> None:
        self._bodies, self._decode = bodies, decode

    def work(self) -> Iterator[int]:
        for body in cycle(self._bodies):
            yield self._decode(body)


def read_bodies(port: int, targets: Iterable[str]) -> list[bytes]:
    """The bodies of some targets, for what needs them in memory."""
    connection, buffer = Connection(port, "identity"), bytearray(1 << 23)
    bodies: list[bytes] = []
    for target in targets:
        connection.ask(target)
        bodies.append(bytes(connection.answer(buffer)))
    connection.close()
    return bodies
