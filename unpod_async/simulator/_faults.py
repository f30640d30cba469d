"""Everything that can go wrong on purpose: one small function each, named in `FAULTS`.

To add one, write a coroutine that takes the exchange, `answer` (what comes next: another fault or
the true answer) and its options by keyword, and put it into the table. It returns a reply, or
None when it has dealt with the connection itself; the connection is closed then.
"""

import gzip
import inspect
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http import HTTPStatus
from random import Random
from typing import Any

from aiohttp import web

from ._lists import View
from ._messages import Reply, Request, default_failure, fetch_failed

Pause = Callable[[float | None], Awaitable[bool]]


@dataclass(slots=True)
class Exchange:
    """One request and its connection. `pause(seconds)` waits; True means: shut down, stop now."""

    request: Request
    http: web.BaseRequest
    pause: Pause
    random: Random
    view: View = field(default_factory=View)

    def send(self, data: bytes) -> None:
        if self.http.transport is not None:
            self.http.transport.write(data)


Answer = Callable[[], Awaitable[Reply | None]]
Fault = Callable[..., Awaitable[Reply | None]]


@dataclass(slots=True)
class Armed:
    """A fault that waits for its requests."""

    kind: str
    times: int | None
    rate: float | None
    match: Callable[[Request], bool] | str | None
    after: int
    options: dict[str, Any]
    random: Random

    def __post_init__(self) -> None:
        if self.kind not in FAULTS:
            raise ValueError(f"no fault {self.kind!r}; there are: {', '.join(FAULTS)}")
        inspect.signature(FAULTS[self.kind]).bind(None, None, **self.options)

    def fires(self, request: Request) -> bool:
        """Whether this request is hit; counts down `after` and `times`."""
        if self.times == 0 or not self._matches(request):
            return False
        if self.after > 0:
            self.after -= 1
            return False
        if self.rate is not None and self.random.random() >= self.rate:
            return False
        if self.times is not None:
            self.times -= 1
        return True

    def _matches(self, request: Request) -> bool:
        if self.match is None:
            return True
        return self.match in request.path if isinstance(self.match, str) else self.match(request)

    def run(self, exchange: Exchange, answer: Answer) -> Awaitable[Reply | None]:
        return FAULTS[self.kind](exchange, answer, **self.options)


# Other answers


async def status(
    _: Exchange,
    __: Answer,
    *,
    status: int = 503,
    body: bytes | str | dict[str, Any] | list[Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Another status, with the body that usually comes with it."""
    usual = default_failure(status)
    body = usual.body if body is None else body
    return replace(usual, body=body, headers={**usual.headers, **(headers or {})})


async def throttle(
    _: Exchange,
    __: Answer,
    *,
    retry_after: float | None = 1,
    as_date: bool = False,
    limit: int = 100,
) -> Reply:
    """429 with `Retry-After` in seconds, as a date, or (None) without one."""
    until = time.time() + (retry_after or 0)
    headers = {
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": str(round(until)),
    }
    if retry_after is not None:
        headers["Retry-After"] = formatdate(until, usegmt=True) if as_date else f"{retry_after:g}"
    return replace(default_failure(429), headers=headers)


async def upstream(
    exchange: Exchange,
    _: Answer,
    *,
    errors: Any = "Internal Server Error",
    message: str | None = None,
) -> Reply:
    """206: the service behind the API failed."""
    runs = "/runs/" in exchange.request.path
    return fetch_failed(message or f"{'Runs' if runs else 'Tasks'} Fetch Failed", errors)


async def empty(_: Exchange, __: Answer, *, count: object = 0) -> Reply:
    """An error swallowed: 200 and no rows."""
    message = "Tasks Fetched Successfully"
    return Reply(200, {"count": count, "status_code": 200, "message": message, "data": []})


async def html(_: Exchange, __: Answer, *, status: int = 200, size: int = 0) -> Reply:
    """A captive portal's page, made `size` bytes long if that is longer."""
    page = "<!DOCTYPE html>\n<html><body><h1>Please log in to the network</h1></body></html>\n"
    return Reply(status, page.ljust(size))


async def redirect(
    _: Exchange, __: Answer, *, location: str = "https://example.com/", status: int = 302
) -> Reply:
    return Reply(status, "", {"Location": location})


async def some_bytes(
    _: Exchange,
    __: Answer,
    *,
    body: bytes = b"\xff\xfe not JSON",
    content_type: str = "application/json",
    status: int = 200,
) -> Reply:
    return Reply(status, body, {"Content-Type": content_type})


# The true answer, later or in other clothes


async def delay(exchange: Exchange, answer: Answer, *, seconds: float = 0.1) -> Reply | None:
    await exchange.pause(seconds)
    return await answer()


async def truncate(_: Exchange, answer: Answer, *, keep: float = 0.5) -> Reply | None:
    """A whole HTTP answer whose JSON is cut."""
    reply = await answer()
    if reply is None:
        return None
    body = reply.payload()
    return replace(reply, body=body[: int(len(body) * keep)], headers=reply.all_headers())


async def zipped(_: Exchange, answer: Answer) -> Reply | None:
    reply = await answer()
    if reply is None:
        return None
    headers = {**reply.all_headers(), "Content-Encoding": "gzip"}
    return replace(reply, body=gzip.compress(reply.payload()), headers=headers)


async def stale(exchange: Exchange, answer: Answer, *, ticks: int = 5) -> Reply | None:
    """The lists as they were so many ticks ago, as an older replica has them."""
    exchange.view.ticks_ago = ticks
    return await answer()


async def repeat_last_page(exchange: Exchange, answer: Answer) -> Reply | None:
    """Past the end comes the last page again, and again."""
    exchange.view.repeat_last_page = True
    return await answer()


async def ignore_page(exchange: Exchange, answer: Answer) -> Reply | None:
    """Every page is the first."""
    exchange.view.ignore_page = True
    return await answer()


async def shuffle(exchange: Exchange, answer: Answer) -> Reply | None:
    """Rows with the same `created` come in another order each time."""
    exchange.view.shuffle = exchange.random
    return await answer()


# Broken connections


async def drop(_: Exchange, __: Answer) -> None:
    """The connection is closed without an answer."""


async def hang(exchange: Exchange, _: Answer) -> None:
    """No answer ever comes."""
    await exchange.pause(None)


async def raw(exchange: Exchange, _: Answer, *, data: bytes = b"garbage\r\n\r\n") -> None:
    """Exactly these bytes instead of an answer, then the end."""
    exchange.send(data)


async def cut(
    exchange: Exchange, answer: Answer, *, keep: float = 0.5, chunked: bool = False
) -> None:
    """The head promises the whole body; the connection ends before it does."""
    reply = await answer()
    if reply is not None:
        body = reply.payload()
        part = body[: int(len(body) * keep)]
        length = None if chunked else len(body)
        exchange.send(_head(reply, length) + (b"%x\r\n%b\r\n" % (len(part), part)) * chunked)
        exchange.send(b"" if chunked else part)


async def reset(exchange: Exchange, answer: Answer, *, keep: float = 0.5) -> None:
    """Like `cut`, but with a TCP reset instead of an orderly end."""
    await cut(exchange, answer, keep=keep)
    transport = exchange.http.transport
    if transport is not None:
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


async def slow(
    exchange: Exchange, answer: Answer, *, delay: float = 0.01, chunk: int | None = None
) -> None:
    """The body dribbles: `chunk` bytes (default: a twentieth), a pause of `delay` s, and so on."""
    reply = await answer()
    if reply is None:
        return
    body = reply.payload()
    step = chunk or max(1, len(body) // 20)
    exchange.send(_head(reply, len(body)))
    for start in range(0, len(body), step):
        exchange.send(body[start : start + step])
        if await exchange.pause(delay):
            return


async def endless(exchange: Exchange, _: Answer, *, chunk: bytes = b" " * 65536) -> None:
    """A chunked body that does not end."""
    response = web.StreamResponse(headers=Reply().all_headers())
    response.enable_chunked_encoding()
    await response.prepare(exchange.http)
    while not await exchange.pause(0):
        await response.write(chunk)


def _head(reply: Reply, length: int | None) -> bytes:
    body = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    headers = (f"{name}: {value}" for name, value in reply.all_headers().items())
    first = f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}"
    return "\r\n".join((first, *headers, body, "", "")).encode()


FAULTS: dict[str, Fault] = {
    "status": status,
    "throttle": throttle,
    "upstream": upstream,
    "empty": empty,
    "html": html,
    "redirect": redirect,
    "bytes": some_bytes,
    "delay": delay,
    "truncate": truncate,
    "gzip": zipped,
    "stale": stale,
    "repeat-last-page": repeat_last_page,
    "ignore-page": ignore_page,
    "shuffle": shuffle,
    "drop": drop,
    "hang": hang,
    "raw": raw,
    "cut": cut,
    "reset": reset,
    "slow": slow,
    "endless": endless,
}
