"""The only client-side aiohttp: owns the session, makes one attempt, translates its
exceptions, and carries out what `_retry` decides under the client's one limiter."""

from __future__ import annotations

import asyncio
import errno
import inspect
import logging
import random
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import aiohttp
import anyio
from yarl import URL

from ._gate import Gate
from ._patience import Patience
from ._protocol import (
    MAX_BODY,
    Request,
    Response,
    check_token,
    error_for,
    headers_for,
    inflate,
    retry_after,
)
from ._retry import (
    Failure,
    GiveUp,
    Kind,
    Limits,
    Retry,
    RetryBudget,
    RetryPolicy,
    decide,
    is_unreadable,
    kind_of_answer,
)
from ._secrets import RedactingFilter, Secret, remember, safe_text
from ._stats import Observer
from ._version import __version__
from .errors import (
    Attempt,
    AuthenticationError,
    ConfigurationError,
    ConnectionFailed,
    DeadlineExceeded,
    ProtocolError,
    RequestTimeout,
    ResponseTooLarge,
    UnpodError,
)

__all__ = ["Credentials", "Transport"]

# The only logger of this package: a filter does not see the records of a logger below its own.
logger = logging.getLogger("unpod_async")
logger.addFilter(RedactingFilter())

KEEP_ALIVE = 4.0  # seconds; the server drops idle connections after 5 without notice
MAX_COMPRESSED = 16 * 2**20
HEEDED = ("content-encoding", "x-ratelimit-remaining")  # of an answer that is good
USER_AGENT = f"unpod-async/{__version__}"

TokenSource = Callable[[], str | Awaitable[str]]


class Credentials:
    """Who asks: a token (or a callable that gives one, sync or async), the authorization
    scheme, and the organization.

    The callable is asked when a token is first needed and after one was refused, once for
    all requests that wait. What it raises goes to the caller of the request as it is.
    """

    def __init__(self, token: Secret | TokenSource, scheme: str, org_handle: str | None) -> None:
        self._token = token
        self._scheme = scheme
        self._org_handle = org_handle
        self.current = token if isinstance(token, Secret) else None  # None: to be asked for
        if self.current is not None:
            remember(self.current)
        self._asking = anyio.Lock()
        self._headers: tuple[Secret, dict[str, str]] | None = None  # the last made

    @property
    def renewable(self) -> bool:
        return not isinstance(self._token, Secret)

    async def secret(self) -> Secret:
        if (secret := self.current) is not None:
            return secret
        async with self._asking:
            if self.current is None:
                assert not isinstance(self._token, Secret)
                self.current = check_token("the callable's token", await _ask(self._token))
                remember(self.current)
            return self.current

    def refused(self, secret: Secret) -> None:
        """Ask the callable again before the next attempt, unless that was done since."""
        if self.renewable and self.current is secret:
            self.current = self._headers = None

    def headers(self, secret: Secret) -> dict[str, str]:
        """They are the same dict each time."""
        if self._headers is None or self._headers[0] is not secret:
            self._headers = secret, headers_for(secret, self._scheme, self._org_handle)
        return self._headers[1]


async def _ask(source: TokenSource) -> Secret:
    """A function of its own, so that no frame that may raise holds the plain token."""
    try:
        given = source()
        return Secret(await given if inspect.isawaitable(given) else given)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Nobody cancels us: what the callable waits for was. As a cancellation of ours it would
        # end a block of parallel readers without a word.
        raise ConfigurationError("the token callable was cancelled from inside") from None


class Transport:
    """Sends requests, at most `limits.max_concurrency` at once, and retries what is worth
    it. Clock, sleep and randomness are parameters, so that tests need not wait."""

    def __init__(
        self,
        base_url: str,
        credentials: Credentials,
        *,
        policy: RetryPolicy,
        limits: Limits,
        connector: aiohttp.BaseConnector | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        rng: Callable[[], float] | None = None,
        observer: Observer | None = None,
    ) -> None:
        base = URL(base_url, encoded=True)
        self._scheme, self._authority = base.scheme, base.raw_authority
        self._base_path = base.raw_path.rstrip("/") + "/"
        self._credentials = credentials
        self._policy = policy
        self._limits = limits
        self._connector = connector
        self._clock = clock
        self._sleep = sleep
        self._rng = rng if rng is not None else random.SystemRandom().random
        self._observer = observer if observer is not None else Observer()
        self._stats = self._observer.stats
        self._budget = RetryBudget()
        self._session: aiohttp.ClientSession | None = None
        self._gate: Gate | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._under_way: dict[object, asyncio.Task[Any]] = {}
        # Of aiohttp's timers only this one: the others would be set anew with each read.
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=None, sock_read=None, sock_connect=policy.connect_timeout
        )

    # -- life -----------------------------------------------------------------------

    async def open(self) -> None:
        """Make the session in the running loop; a second call does nothing."""
        if self._closed:
            raise ConfigurationError("this client is closed; make a new one")
        if self._session is not None:
            self._usable()
            return
        self._loop = _running_loop()
        if getattr(self._connector, "_loop", self._loop) is not self._loop:
            raise ConfigurationError("connector belongs to another event loop")
        self._session = self._new_session()
        self._gate = Gate(self._limits, self._policy, self._clock, self._sleep)

    def _new_session(self) -> aiohttp.ClientSession:
        connector = self._connector or aiohttp.TCPConnector(
            limit=self._limits.max_concurrency,
            keepalive_timeout=KEEP_ALIVE,
            # With aiodns installed aiohttp would take that, whose errors do not tell an
            # unknown name from a resolver that is down for the moment.
            resolver=aiohttp.ThreadedResolver(),
        )
        session = aiohttp.ClientSession(
            connector=connector,
            connector_owner=self._connector is None,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            headers={"User-Agent": USER_AGENT},
        )
        # aiohttp sends an idempotent request again by itself when a kept-alive connection
        # turns out dead, so that n attempts could become 2n requests. One layer retries: ours.
        session._retry_connection = False
        return session

    async def aclose(self) -> None:
        """End all requests under way, with a `ConfigurationError`, and close all connections;
        may be called twice, and from another task."""
        self._closed = True
        for task in self._under_way.values():
            task.cancel()  # aiohttp would let them wait for the rest of a body
        session, self._session = self._session, None
        if session is not None:
            with anyio.CancelScope(shield=True):
                await session.close()

    def _usable(self) -> tuple[aiohttp.ClientSession, Gate]:
        if self._closed:
            raise ConfigurationError("this client is closed; make a new one")
        if self._session is None or self._gate is None:
            raise ConfigurationError("this client is not open: use `async with`, or await open()")
        if _running_loop() is not self._loop:
            raise ConfigurationError("this client was opened in another event loop")
        if self._session.closed:
            raise ConfigurationError("the connector that this client was given is closed")
        return self._session, self._gate

    # -- one page -------------------------------------------------------------------

    async def fetch(
        self, request: Request, *, deadline: float | None = None, once: bool = False
    ) -> bytes:
        """The body of the answer, decompressed. Raises what `_retry` gives up with; `once`
        gives up at the first sign of a row that cannot be read."""
        self._usable()
        task = asyncio.current_task()
        assert task is not None
        mark, cancelled_before = object(), task.cancelling()
        self._under_way[mark] = task
        try:
            return await self._fetch(
                request, self._policy.deadline if deadline is None else deadline, once
            )
        except asyncio.CancelledError:
            if not task.cancelling():
                self._usable()  # so aiohttp ends those who wait for a connector that is closed
                raise ConfigurationError("a request was cancelled, and not by who waits") from None
            # As asyncio's own timeouts do: a cancellation of ours ends here, any other goes on.
            if not self._closed or task.uncancel() > cancelled_before:
                raise
            raise ConfigurationError(
                "this client was closed while a request was under way"
            ) from None
        finally:
            del self._under_way[mark]

    async def _fetch(self, request: Request, deadline: float, once: bool) -> bytes:
        started = self._clock()
        ends = started + deadline
        failures: list[Failure] = []
        attempts: list[Attempt] = []
        paid = 0
        while True:
            outcome = await self._attempt(request, ends, once)
            if isinstance(outcome, bytes):
                self._budget.succeeded(paid)
                if self._observer.hooks:
                    self._observer.tell("answer", request.path, len(attempts) + 1, 200)
                return outcome
            failures.append(outcome)
            now = self._clock()
            if self._may_renew(outcome, failures):
                attempts.append(Attempt(now - started, 401, 0.0))
                continue
            verdict: Retry | GiveUp = GiveUp()
            if not (once and is_unreadable(outcome.error)):
                verdict = decide(failures, remaining=ends - now, policy=self._policy, rng=self._rng)
            if isinstance(verdict, Retry) and not (paid := self._budget.take(outcome.kind)):
                verdict = GiveUp(spent=True)
            wait = None if isinstance(verdict, GiveUp) else verdict.wait
            attempts.append(Attempt(now - started, _outcome(outcome.error), wait))
            self._tell(request, attempts)
            if isinstance(verdict, GiveUp):
                raise self._final(outcome.error, request, attempts, verdict) from None
            if verdict.pause:
                self._usable()[1].pause(verdict.wait)
            self._stats.retries += 1
            self._stats.waited += verdict.wait
            await self._sleep(verdict.wait)

    def _tell(self, request: Request, attempts: list[Attempt]) -> None:
        _, outcome, wait = attempts[-1]
        kind = "failure" if wait is None else "retry"
        self._observer.tell(kind, request.path, len(attempts), outcome, wait)
        with suppress(Exception):  # a log handler that raises is no reason to give up
            if wait is not None:
                logger.info("%s: retry in %.2f s (%s)", request.path, wait, outcome)

    def _may_renew(self, failure: Failure, failures: list[Failure]) -> bool:
        """A refused token that came from a callable is asked for again, once."""
        refusals = sum(isinstance(one.error, AuthenticationError) for one in failures)
        refused = isinstance(failure.error, AuthenticationError)
        return refused and refusals == 1 and self._credentials.renewable

    def _final(
        self, error: UnpodError, request: Request, attempts: list[Attempt], verdict: GiveUp
    ) -> UnpodError:
        if verdict.deadline:
            late = DeadlineExceeded(
                f"no time is left to try again: {error.message}",
                status=error.status,
                errors=error.errors,
                retry_after=error.retry_after,
                body=error.body,
            )
            error = late
        elif verdict.spent:
            error.message += " (not tried again: this client's budget of retries is spent)"
        error.method = "GET"
        error.path = request.target
        error.attempts = tuple(attempts)
        return error.with_traceback(None)  # its frames hold the answer

    async def _attempt(self, request: Request, ends: float, once: bool) -> bytes | Failure:
        """One try; its clock starts when it is through the gate."""
        gate = self._gate
        assert gate is not None
        slot = object()
        asked = began = self._clock()
        if not gate.enter_at_once(slot, asked, ends):
            if (refusal := await gate.enter(slot, ends)) is not None:
                return Failure(refusal, Kind.NEVER)
            began = self._clock()
            self._stats.queued += began - asked
        try:
            outcome = await self._send(request, ends)
            self._stats.served += self._clock() - began
            if isinstance(outcome, bytes):
                gate.answered()
            elif not (once and is_unreadable(outcome.error)):  # that is about a row
                gate.failed(slot, outcome, began)
            return outcome
        finally:
            gate.leave(slot)

    async def _send(self, request: Request, ends: float) -> bytes | Failure:
        if (secret := self._credentials.current) is None:
            with anyio.move_on_after(self._time_for_an_attempt(ends)):
                secret = await self._credentials.secret()
            if secret is None:
                return Failure(RequestTimeout("the token callable took too long"), Kind.NEVER)
        session = self._session
        if session is None or session.closed:  # it may have been closed in the meantime
            session, _ = self._usable()
        self._stats.requests += 1
        error: UnpodError | None = None
        seconds = self._time_for_an_attempt(ends)
        try:
            with Patience(quiet=self._policy.read_timeout, whole=seconds) as patience:
                answer = await session.get(
                    self._url(request),
                    headers=self._credentials.headers(secret),
                    timeout=self._timeout,
                    allow_redirects=False,
                )
                response = await _read(answer, patience)
                self._stats.bytes += len(response.body)
                if response.status == 200:
                    if not response.headers:  # none that are heeded
                        return response.body
                    self._heed(response)
                    return inflate(response).body
                error = error_for(request, response, secret=secret)
        except UnpodError as damage:
            return Failure(damage, _kind_of_body(damage))
        except (aiohttp.ClientError, OSError, ValueError) as cause:
            return translate(cause)
        if error is None:
            late = RequestTimeout(_QUIET if patience.lost == "quiet" else _WHOLE)
            return Failure(late, Kind.TRANSIENT)
        if isinstance(error, AuthenticationError):
            self._credentials.refused(secret)
        return Failure(error, kind_of_answer(error))

    def _heed(self, response: Response) -> None:
        """A good answer may say that it was the last one for a while (X-RateLimit-*)."""
        if response.headers.get("x-ratelimit-remaining") == "0":
            wait = retry_after(response.headers) or 0.0
            if 0 < wait <= self._policy.max_retry_after:
                self._usable()[1].pause(wait * (1 + 0.1 * self._rng()))

    def _time_for_an_attempt(self, ends: float) -> float:
        return max(0.0, min(self._policy.attempt_timeout, ends - self._clock()))

    def _url(self, request: Request) -> URL:
        return URL.build(
            scheme=self._scheme,
            authority=self._authority,
            path=self._base_path + request.path,
            query_string=request.query,
            encoded=True,
        )


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError("this client runs under asyncio only") from None


async def _read(answer: aiohttp.ClientResponse, patience: Patience) -> Response:
    """The whole answer, never more of it than the caps allow. Whatever goes wrong, its
    connection is not used again."""
    try:
        headers = _headers(answer)
        plain = not headers or headers.get("content-encoding", "").lower() in ("", "identity")
        cap = MAX_BODY if plain else MAX_COMPRESSED
        if (told := answer.content_length or 0) > cap:
            raise ResponseTooLarge(f"the answer has {told} bytes, the cap is {cap}")
        chunks: list[bytes] = []
        size = 0
        content = answer.content
        while not content.at_eof() and (chunk := await content.readany()):
            patience.heard()
            size += len(chunk)
            if size > cap:
                raise ResponseTooLarge(f"the answer is larger than {cap} bytes")
            chunks.append(chunk)
    except BaseException:
        answer.close()
        raise
    if not answer.closed:  # the end of the body has given its connection back
        answer.release()
    return Response(answer.status, headers, b"".join(chunks))


def _headers(answer: aiohttp.ClientResponse) -> dict[str, str]:
    """By lower-case names, repeated ones joined; none of a good answer that nobody reads."""
    sent = answer.headers
    if answer.status == 200 and not any(map(sent.__contains__, HEEDED)):
        return {}
    return {name.lower(): ", ".join(sent.getall(name)) for name in sent}


def _kind_of_body(error: UnpodError) -> Kind:
    """A body that does not inflate may be damage on the way; one too large stays so."""
    return Kind.ONCE_MORE if type(error) is ProtocolError else Kind.NEVER


def _outcome(error: UnpodError) -> int | str:
    return error.status if error.status is not None else type(error).__name__


# -- the one table of exception translations, most special first -------------------------

_QUIET = "the server sent nothing for too long"
_WHOLE = "the attempt took too long"

# What a broken connection is to aiohttp: a ClientOSError with one of these numbers.
_RESET = {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED}

_RESOLVER_MAY_RECOVER = {
    code for name in ("EAI_AGAIN", "EAI_SYSTEM") if (code := getattr(socket, name, None))
}


def translate(error: BaseException) -> Failure:
    """An aiohttp or socket exception as one of ours. Its text is not taken over where it
    could hold headers or addresses; `from None` drops it from tracebacks."""
    for kinds, make in _TRANSLATIONS:
        if isinstance(error, kinds):
            return make(error)
    return Failure(ConnectionFailed(f"the request failed: {_named(error)}"), Kind.TRANSIENT)


def _dns(error: BaseException) -> Failure:
    cause = getattr(error, "os_error", None)
    again = getattr(cause, "errno", None) in _RESOLVER_MAY_RECOVER
    what = "cannot be resolved just now" if again else "is not known: is base_url right?"
    host = safe_text(getattr(error, "host", ""), limit=253)
    return Failure(ConnectionFailed(f"the host {host} {what}"), _kind(again))


def _tls(error: BaseException) -> Failure:
    host = safe_text(getattr(error, "host", "") or "the server", limit=253)
    reason = safe_text(getattr(error, "certificate_error", None) or error, limit=200)
    return Failure(ConnectionFailed(f"no secure connection to {host}: {reason}"), Kind.NEVER)


def _lost_or_refused(error: BaseException) -> Failure:
    if getattr(error, "errno", None) in _RESET:
        return Failure(ConnectionFailed("the connection was reset"), Kind.DEAD_SOCKET)
    return _refused(error)


def _refused(error: BaseException) -> Failure:
    text = getattr(getattr(error, "os_error", None), "strerror", None) or _named(error)
    message = f"the connection could not be made: {safe_text(text, limit=200)}"
    return Failure(ConnectionFailed(message), Kind.TRANSIENT)


def _late(message: str) -> Callable[[BaseException], Failure]:
    return lambda _: Failure(RequestTimeout(message), Kind.TRANSIENT)


def _lost(message: str, kind: Kind = Kind.TRANSIENT) -> Callable[[BaseException], Failure]:
    return lambda _: Failure(ConnectionFailed(message), kind)


def _malformed(_: BaseException) -> Failure:
    # aiohttp gives malformed HTTP a made-up status 400, and its repr holds our headers.
    return Failure(ProtocolError("the answer is not well-formed HTTP"), Kind.ONCE_MORE)


def _unsendable(error: BaseException) -> Failure:
    return Failure(ProtocolError(f"the request could not be made: {_named(error)}"), Kind.NEVER)


def _kind(again: bool) -> Kind:
    return Kind.TRANSIENT if again else Kind.NEVER


def _named(error: BaseException) -> str:
    return type(error).__name__


_TRANSLATIONS: tuple[
    tuple[
        type[BaseException] | tuple[type[BaseException], ...], Callable[[BaseException], Failure]
    ],
    ...,
] = (
    (aiohttp.ClientConnectorDNSError, _dns),
    ((aiohttp.ClientSSLError, aiohttp.ServerFingerprintMismatch, ssl.SSLError), _tls),
    (aiohttp.ConnectionTimeoutError, _late("the connection took too long to make")),
    (aiohttp.SocketTimeoutError, _late(_QUIET)),
    (TimeoutError, _late(_WHOLE)),
    (aiohttp.ClientConnectorError, _refused),
    (
        aiohttp.ServerDisconnectedError,
        _lost("the server closed the connection unanswered", Kind.DEAD_SOCKET),
    ),
    (aiohttp.ClientResponseError, _malformed),
    (aiohttp.ClientPayloadError, _lost("the answer ended early")),
    ((aiohttp.InvalidURL, ValueError), _unsendable),
    (
        (aiohttp.ClientConnectionResetError, ConnectionError),
        _lost("the connection was reset", Kind.DEAD_SOCKET),
    ),
    ((aiohttp.ClientConnectionError, OSError), _lost_or_refused),
)
