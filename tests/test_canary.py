"""A canary token, and canaries of people, through everything that the client and the command
line do. The token shows up nowhere; people only in the rows, where they belong."""

# ruff: noqa: F811  (fixtures that are imported are named again by who uses them)

from __future__ import annotations

import ast
import asyncio
import base64
import copy
import gc
import gzip
import html
import json
import logging
import pickle
import traceback
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import msgspec
import pytest
from test_cli import Cli, Said, cli, on_a_terminal, simulator  # noqa: F401  (two are fixtures)

import unpod_async
from unpod_async import (
    AuthenticationError,
    ConfigurationError,
    DecodeError,
    Event,
    IncompleteWalk,
    Limits,
    ProtocolError,
    RateLimited,
    RetryPolicy,
    SpaceHandle,
    UnpodClient,
    UnpodError,
)
from unpod_async._secrets import RedactingFilter, Secret, redact_known, remember
from unpod_async.simulator import Simulator
from unpod_async.simulator._faults import FAULTS
from unpod_async.simulator.world import World

pytestmark = pytest.mark.once

TOKEN = 'S3CR3T-CANARY+/=%"x'
PHONE = "+919876500017"
PEOPLE = (PHONE[1:], "TRANSCRIPT-CANARY", "USER-TOKEN-CANARY", "INPUT-TOKEN-CANARY")
QUICK = RetryPolicy(attempts=2, base=0, throttle_base=0, max_retry_after=0.05)
IMPATIENT = msgspec.structs.replace(QUICK, attempt_timeout=0.1)  # with a server that takes for ever


def in_base64(text: str) -> Iterator[str]:
    """What of a text is seen in the base64 of anything that contains it."""
    for before in range(3):
        coded = base64.b64encode(b"\0" * before + text.encode()).decode()
        inner = coded[before + (before > 0) : (before + len(text)) * 8 // 6]
        yield from (inner, inner.translate(str.maketrans("+/", "-_")))


# The letters of the token are written alike in all forms but base64.
TELLTALES = ("S3CR3T", "S3CR3T".lower(), *in_base64("S3CR3T-CANARY"))


def no_token(*shown: object) -> None:
    for one in shown:
        text = one if isinstance(one, str) else repr(one)
        assert [mark for mark in TELLTALES if mark in text] == [], text[:2000]


def nobody(*shown: object) -> None:
    """Neither the token nor a person."""
    no_token(*shown)
    for one in shown:
        text = one if isinstance(one, str) else repr(one)
        assert [mark for mark in PEOPLE if mark in text] == [], text[:2000]


def test_the_telltales_tell() -> None:
    forms = [TOKEN, quote(TOKEN), quote(TOKEN, safe=""), html.escape(TOKEN), json.dumps(TOKEN)]
    for before in ("", "Token ", "Bearer ", "a user:"):
        forms.append(base64.b64encode(f"{before}{TOKEN}".encode()).decode())
        forms.append(base64.urlsafe_b64encode(f"{before}{TOKEN} and more".encode()).decode())
    for form in forms:
        with pytest.raises(AssertionError):
            no_token(form)
        secret = Secret(TOKEN)
        remember(secret)
        no_token(redact_known(f"before {form} behind"))


# -- what is looked at, all the while ---------------------------------------------------


class Everything(logging.Handler):
    """Each record of each logger, as it is shown and as it is."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen += [logging.Formatter().format(record), repr(vars(record))]


@pytest.fixture(autouse=True)
def log() -> Iterator[list[str]]:
    """All logs; nobody is in them. (A warning fails its test.)"""
    handler, root = Everything(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield handler.seen
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    nobody(*handler.seen)


def task_rows(count: int = 60) -> list[dict[str, Any]]:
    world = World(seed=1, runs=3, tasks=count)
    return [with_people(world.row(task_id)) for task_id in world.task_ids()]


def with_people(row: dict[str, Any]) -> dict[str, Any]:
    _, said, user, given = PEOPLE
    row["input"] |= {"contact_number": PHONE, "token": given}
    row["user_info"] |= {"user_token": user}
    row["output"] = {"contact_number": PHONE, "transcript": [{"role": "user", "content": said}]}
    return row


@pytest.fixture
def settings() -> dict[str, Any]:
    """Of the simulator in a thread, for the command line."""
    return {"rows": task_rows(), "token": TOKEN}


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    asyncio.get_running_loop().set_debug(True)
    with anyio.fail_after(40):
        async with Simulator(rows=task_rows(), token=TOKEN) as simulated:
            yield simulated


def client_of(base_url: str, **options: Any) -> UnpodClient:
    options = {"token": TOKEN, "retry": QUICK, "limits": Limits(adaptive=False)} | options
    return UnpodClient(org_handle="acme-voice", base_url=base_url, **options)


@pytest.fixture
async def client(sim: Simulator) -> AsyncIterator[UnpodClient]:
    async with client_of(sim.base_url) as opened:
        yield opened


@pytest.fixture
def space(client: UnpodClient, sim: Simulator) -> SpaceHandle:
    return client.space(sim.space_token)


def traced(error: BaseException) -> str:
    trace = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(trace.format())


def examine(error: BaseException) -> None:
    """Every way in which an error can be shown or sent. Its `body` and `items` are the
    server's text and rows, which its text and its traceback never show."""
    nobody(str(error), repr(error), f"{error}", f"{error!a}", traced(error))
    if not isinstance(error, UnpodError):
        return
    nobody(error.hint, error.summary, error.attempts, error.path)
    no_token(vars(error))
    logging.getLogger("unpod_async").error("%s %r", error, error, exc_info=error)
    for protocol in (0, pickle.HIGHEST_PROTOCOL):
        sent = pickle.dumps(error, protocol)
        no_token(sent, vars(pickle.loads(sent)))
    no_token(copy.deepcopy(error), copy.copy(error))


async def outcome(work: Awaitable[object]) -> BaseException | None:
    """The error that this ends with, examined."""
    try:
        await work
    except Exception as error:
        examine(error)
        return error
    return None


# -- everything that the client can do ----------------------------------------------------


async def iterate(space: SpaceHandle) -> None:
    async for task in space.tasks(page_size=20):
        nobody(task, str(task), f"{task}", task.call, task.contact)


async def pages(space: SpaceHandle) -> None:
    async for page in space.tasks(page_size=20).pages():
        nobody(page)


async def collect(space: SpaceHandle) -> None:
    await space.tasks(page_size=20).collect()


async def collect_raw(space: SpaceHandle) -> None:
    await space.tasks(page_size=20).raw().collect()


async def count(space: SpaceHandle) -> None:
    await space.tasks().count()


async def get(space: SpaceHandle) -> None:
    nobody(await space.get())


async def walk(space: SpaceHandle) -> None:
    checkpoint = None
    async with space.tasks(page_size=20).walk(prefetch=3) as walk:
        try:
            async for task in walk:
                checkpoint = walk.checkpoint()
                nobody(walk, task, json.dumps(checkpoint))
                no_token(pickle.dumps(task), copy.deepcopy(task), pickle.dumps(checkpoint))
        finally:
            nobody(walk.report, msgspec.json.encode(walk.report))
            no_token(pickle.dumps(walk.report))
    async with space.tasks(page_size=20).walk(resume=checkpoint) as walk:
        async for _ in walk:
            pass


async def fan_out(space: SpaceHandle) -> None:
    async with space.run_tasks(concurrency=3, page_size=20) as stream:
        async for run, _ in stream:
            nobody(run, stream, stream.report)
            no_token(pickle.dumps(run))


async def fan_out_collecting(space: SpaceHandle) -> None:
    async with space.run_tasks_raw(concurrency=3, page_size=20) as stream:
        try:
            async for _ in stream:
                pass
        finally:
            nobody(stream.report, msgspec.json.encode(stream.report))
            for run, error in stream.failures:
                nobody(run)
                examine(error)


ENDLESS = ("delay", "hang", "slow", "endless")
WORKS = [*(iterate, pages, collect, collect_raw, count, get, walk, fan_out, fan_out_collecting)]


def before(work: Callable[[SpaceHandle], Awaitable[None]]) -> int:
    """The requests that go well first."""
    return 0 if work in (count, get) else 1


@pytest.mark.anyio
@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("times", [1, None], ids=["once", "always"])
async def test_everything_under_every_fault(sim: Simulator, kind: str, times: int | None) -> None:
    for work in WORKS:
        events: list[Event] = []
        sim.clear_faults()
        sim.fault(kind, times=times, after=before(work))
        retry = IMPATIENT if kind in ENDLESS else QUICK
        async with client_of(sim.base_url, on_event=events.append, retry=retry) as client:
            await outcome(work(client.space(sim.space_token)))
        nobody(client.stats, pickle.dumps(client.stats), copy.deepcopy(client.stats))
        nobody(events, pickle.dumps(events), copy.deepcopy(events))


@pytest.mark.anyio
async def test_a_token_that_is_refused(sim: Simulator, log: list[str]) -> None:
    sim.token = "another"

    async def renewed() -> str:
        return TOKEN

    for token in (TOKEN, Secret(TOKEN), lambda: TOKEN, renewed):
        for scheme in ("Token", "Bearer"):
            async with client_of(sim.base_url, token=token, auth_scheme=scheme) as client:
                for work in WORKS:
                    error = await outcome(work(client.space(sim.space_token)))
                    assert isinstance(error, AuthenticationError)
                nobody(await client.check(), await client.check(sim.space_token))


@pytest.mark.anyio
async def test_a_throttle_that_lasts_too_long(sim: Simulator, space: SpaceHandle) -> None:
    for as_date in (True, False):
        sim.clear_faults()
        sim.fault("throttle", times=None, retry_after=3000, as_date=as_date)
        assert isinstance(await outcome(collect(space)), RateLimited)


@pytest.mark.anyio
async def test_retries_are_logged(sim: Simulator, space: SpaceHandle, log: list[str]) -> None:
    sim.fault("status")
    assert await outcome(collect(space)) is None
    assert any("retry in" in line for line in log)


@pytest.mark.anyio
@pytest.mark.parametrize("work", WORKS)
async def test_a_request_that_is_cancelled(
    sim: Simulator, space: SpaceHandle, work: Callable[[SpaceHandle], Awaitable[None]]
) -> None:
    sim.fault("hang", times=None, after=before(work))
    ended: list[BaseException] = []

    async def cancelled() -> None:
        try:
            await work(space)
        except BaseException as error:
            ended.append(error)
            raise

    async with anyio.create_task_group() as group:
        group.start_soon(cancelled)
        while len(sim.requests) <= before(work):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        group.cancel_scope.cancel()
    assert isinstance(ended[0], asyncio.CancelledError)
    nobody(traced(ended[0]))


@pytest.mark.anyio
async def test_a_client_that_nobody_closes(sim: Simulator, log: list[str]) -> None:
    async def forget() -> None:
        client = await client_of(sim.base_url).open()
        await client.space(sim.space_token).tasks().count()

    shown: list[str] = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        await forget()
        for _ in range(2):  # a warning holds the session, and that the connector
            gc.collect()
            shown += map(str, warned)
            warned.clear()
    for name in ("Unclosed client session", "Unclosed connector"):
        assert any(name in text for text in shown)
        assert any(name in line for line in log)
    nobody(*shown)


# -- rows that cannot be read ---------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("work", WORKS)
async def test_a_body_of_people_that_is_no_envelope(
    sim: Simulator, space: SpaceHandle, work: Callable[[SpaceHandle], Awaitable[None]]
) -> None:
    body = json.dumps(task_rows(1)[0]).encode()
    for damaged in (body, body[:-1], gzip.compress(body), b'{"data": [' + body):
        sim.clear_faults()
        sim.fault("bytes", body=damaged, times=None)
        assert isinstance(await outcome(work(space)), ProtocolError)


@pytest.mark.anyio
async def test_gzip_that_is_cut_or_too_much(sim: Simulator, space: SpaceHandle) -> None:
    rows = json.dumps({"data": task_rows(), "count": 60}).encode()
    packed = gzip.compress(rows)
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    for body in (packed[:-9], packed + b"x", gzip.compress(rows + b" " * 2**26, 1)):
        sim.clear_faults()
        sim.fault("status", status=200, body=body, headers=headers, times=None)
        assert isinstance(await outcome(collect(space)), ProtocolError)


@pytest.mark.anyio
async def test_rows_without_identity() -> None:
    rows: list[Any] = task_rows()
    for row in rows[7:9]:
        del row["task_id"]
    async with Simulator(rows=rows, token=TOKEN) as sim, client_of(sim.base_url) as client:
        space = client.space(sim.space_token)
        assert isinstance(await outcome(space.tasks(on_invalid="raise").collect()), DecodeError)
        error = await outcome(space.tasks().collect())
        assert isinstance(error, IncompleteWalk)
        nobody(error.report, error.report.invalid, error.items)


@pytest.mark.anyio
async def test_rows_that_the_server_cannot_send(sim: Simulator, space: SpaceHandle) -> None:
    bad = sim.world.task_ids()[7]

    def has_it(request: Any) -> bool:
        start = (request.page - 1) * request.page_size
        return bad in sim.world.task_ids()[start : start + request.page_size]

    sim.fault("upstream", times=None, match=has_it)
    for work in (iterate, collect, collect_raw, walk):
        assert isinstance(await outcome(work(space)), IncompleteWalk)


@pytest.mark.anyio
async def test_what_was_searched_for(sim: Simulator, space: SpaceHandle) -> None:
    sim.fault("status", status=500, times=None)
    error = await outcome(space.tasks(search=PHONE).collect())
    assert isinstance(error, UnpodError)
    assert error.path is not None
    assert error.path.endswith("&search=***")


@pytest.mark.anyio
async def test_a_checkpoint_of_another_search(space: SpaceHandle) -> None:
    async with space.tasks(search=PHONE).walk() as walk:
        checkpoint = walk.checkpoint()

    async def resume() -> None:
        space.tasks().walk(resume=copied)

    copied = checkpoint | {}
    with pytest.raises(ConfigurationError, match="query") as caught:
        await resume()
    nobody(str(caught.value))


# -- a server that says what it heard ----------------------------------------------------------

ECHOES: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "URL": quote,
    "all of the URL": partial(quote, safe=""),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "URL-safe base64": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "HTML": html.escape,
    "JSON": lambda text: json.dumps(text)[1:-1],
    "PHP's JSON": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "Python": repr,
}


def answers(heard: str) -> list[bytes]:
    """Answers that say it in each place there is."""
    message = {"message": heard, "errors": {heard: [heard]}, "error": {"message": heard}}
    refused = {**message, "errors": None, "data": {}}
    bodies = [json.dumps(message), json.dumps(refused), f"<html>{heard}", "x" * 480 + heard]
    one_line = {
        *("Location", "X-Echo", "Content-Type", "Content-Encoding", "Retry-After", "Set-Cookie"),
        *("Content-Length", "Transfer-Encoding", "Connection", "Date"),
    }
    made = [
        f"HTTP/1.1 {status} OK\r\nContent-Length: {len(body.encode())}\r\n\r\n{body}"
        for status in (200, 206, 302, 400, 401, 404, 429, 503)
        for body in bodies
    ]
    made += [
        f"HTTP/1.1 {status} OK\r\n{name}: {heard}\r\n\r\n"
        for name in one_line
        for status in (200, 302)
    ]
    made += [
        *(f"HTTP/1.1 200 {heard}\r\n\r\n", f"HTTP/1.1 {heard}\r\n\r\n", f"{heard}\r\n\r\n"),
        *(f"HTTP/1.1 200 OK\r\n{heard}\r\n\r\n", f"HTTP/1.1 200 OK\r\n{heard}: x\r\n\r\n"),
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{heard}\r\n",
    ]
    return [text.encode() for text in made]


@asynccontextmanager
async def echoing(form: Callable[[str], str]) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that gives each of `answers` to what it heard, twice; and what is left of them."""
    left = [answer for answer in answers(form(f"Token {TOKEN}")) for _ in range(2)]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            assert f"Authorization: Token {TOKEN}\r\n" in head
            writer.write(left.pop())
        writer.close()

    asyncio.get_running_loop().set_debug(True)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", left
    finally:
        server.close()


@pytest.mark.anyio
@pytest.mark.parametrize("form", ECHOES)
async def test_a_server_that_echoes_the_request(form: str) -> None:
    async with echoing(ECHOES[form]) as (base_url, left):
        while left:
            async with client_of(base_url, retry=RetryPolicy(attempts=1)) as client:
                space = client.space("A")
                for work in (
                    space.tasks().collect(),
                    space.get(),
                    client.check(),
                    client.check("A"),
                ):
                    if left:
                        await outcome(work)
                    else:
                        work.close()


# -- the client itself ------------------------------------------------------------------------


def parts(thing: object, seen: dict[int, object], depth: int = 12) -> Iterable[object]:
    """The thing and all that is reached from it through the attributes of our objects."""
    if id(thing) in seen or not depth:
        return
    seen[id(thing)] = thing
    yield thing
    if type(thing).__module__.startswith("unpod_async"):
        for part in getattr(thing, "__dict__", {}).values():
            yield from parts(part, seen, depth - 1)
        for name in getattr(thing, "__struct_fields__", getattr(thing, "_fields", ())):
            yield from parts(getattr(thing, name), seen, depth - 1)


@pytest.mark.anyio
async def test_the_client_and_its_handles(client: UnpodClient, sim: Simulator) -> None:
    space = client.space(sim.space_token)
    listing, run = space.tasks(), space.run("R1")
    await listing.count()
    reading = [
        listing.pages(),
        aiter(listing),
        listing.walk(),
        space.run_tasks(),
        run.tasks().raw(),
    ]
    seen: dict[int, object] = {}
    for thing in (client, space, run, listing, *reading):
        nobody(repr(thing), str(thing), f"{thing}")
        for part in parts(thing, seen):
            nobody(repr(part), getattr(part, "__dict__", {}))
        for send in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError) as caught:
                send(thing)
            no_token(str(caught.value), repr(caught.value))
    assert any(isinstance(part, Secret) for part in seen.values())


@pytest.mark.parametrize(
    "options",
    [
        {"token": TOKEN + "\n"},
        {"token": TOKEN, "base_url": f"https://{TOKEN}@example.com"},
        {"token": TOKEN, "base_url": f"https://example.com/?token={TOKEN}"},
        {"token": TOKEN, "auth_scheme": "Basic"},
        {"token": TOKEN, "org_handle": f"{TOKEN} "},
        {"token": TOKEN, "retry": 5},
        {"token": Secret(TOKEN + "\n")},
    ],
)
def test_options_that_are_refused(options: dict[str, Any]) -> None:
    text = ""
    try:
        UnpodClient(**options)
    except ConfigurationError as error:
        frames = traceback.TracebackException.from_exception(error, capture_locals=True)
        frames.stack.pop(0)  # our own
        text = "".join(frames.format()) + str(error)
    assert "ConfigurationError" in text
    no_token(text)


def test_misplaced_tokens_are_not_quoted() -> None:
    client = UnpodClient(TOKEN)
    with pytest.raises(ConfigurationError) as caught:
        client.space(TOKEN)
    no_token(str(caught.value))
    with pytest.raises(ConfigurationError) as caught:
        client.space("A").run(TOKEN)
    no_token(str(caught.value))


# -- the log -------------------------------------------------------------------------------------


def test_there_is_one_logger_and_it_has_the_filter() -> None:
    """A filter does not see the records of loggers below its own."""
    named = set()
    for path in Path(unpod_async.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            name = node.func if isinstance(node, ast.Call) else None
            if getattr(name, "attr", getattr(name, "id", "")) in ("getLogger", "getChild"):
                named.add(ast.unparse(node))  # type: ignore[arg-type]
    assert named == {"logging.getLogger('unpod_async')"}
    assert UnpodClient  # which has loaded the transport
    filters = logging.getLogger("unpod_async").filters
    assert [type(one) for one in filters] == [RedactingFilter]
    nobody(filters, *map(vars, filters))


@pytest.fixture
def secret() -> Secret:
    kept = Secret(TOKEN)
    remember(kept)
    return kept


class Shown:
    def __repr__(self) -> str:
        return f"<{TOKEN}>"


@pytest.mark.parametrize("form", ECHOES)
def test_the_log_takes_the_token_out_of_every_part_of_a_record(
    secret: Secret, log: list[str], form: str
) -> None:
    said, logger = ECHOES[form](TOKEN), logging.getLogger("unpod_async")
    logger.debug(said)
    logger.info("100%% of %s and %r", said, said)
    logger.info("%(a)s and %(b)d", {"a": said, "b": 7})
    logger.info("%.2s", said)
    logger.info("%s %s %s", Shown(), [said], said.encode())
    logger.info(Shown())
    logger.warning("see", extra={"header": said, "headers": {"Authorization": said}, "n": 7})
    logger.warning("see", stack_info=True, extra={"said": (said, Shown())})
    try:
        raise ValueError(said) from KeyError(said)
    except ValueError:
        logger.exception("it failed with %s", 7)
    assert len(log) == 18
    assert sum("***" in line for line in log) >= 12
    text = "\n".join(log).translate(dict.fromkeys(map(ord, "'=\\")))
    for shown in ("100% of *** and ***", "*** and 7", "Traceback", "ValueError: ***"):
        assert shown in text


def test_a_record_that_is_clean_stays_as_it_is(secret: Secret) -> None:
    given = [7, 2.5, None, Shown, "text"]
    record = logging.makeLogRecord({"msg": "%d %f %s %s %s", "args": (*given,), "more": given})
    before = dict(vars(record))
    assert RedactingFilter().filter(record) is True
    assert vars(record) == before
    assert record.args is before["args"]


def test_a_broken_record_is_still_complained_of(
    secret: Secret, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        def __repr__(self) -> str:
            raise ZeroDivisionError

    handler = logging.StreamHandler()
    logger = logging.getLogger("unpod_async")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        logger.error("%d of %s", TOKEN, 7)
        logger.error("%s %s", TOKEN)
        logger.error("%s", Broken())
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
    told = capsys.readouterr().err
    assert told.count("--- Logging error ---") == 3
    assert "Arguments: ('***', 7)" in told
    # The rest is the source text of this test, and numbers.
    no_token(told)


def test_the_log_knows_a_token_only_as_long_as_it_lives() -> None:
    first, second = Secret(TOKEN), Secret(TOKEN)
    remember(first)
    remember(second)
    del first
    gc.collect()
    assert redact_known(TOKEN) == "***"
    del second
    gc.collect()
    assert redact_known(TOKEN) == TOKEN


# -- the command line ------------------------------------------------------------------------------


def quiet_about_people(said: Said) -> Said:
    no_token(said.out)
    nobody(said.err)
    return said


LISTS = ["tasks", "runs", "spaces", "tasks --limit 3", "tasks --page-size 20 --concurrency 3"]


@pytest.mark.parametrize("line", LISTS)
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_commands(cli: Cli, line: str, more: list[str]) -> None:
    assert quiet_about_people(cli(*line.split(), *more)).code == 0


FAULTS_OF_EXPORTS: list[dict[str, Any]] = [
    {},
    {"kind": "status", "status": 404},
    {"kind": "status", "status": 206, "body": {"message": f"not for {TOKEN}", "errors": [TOKEN]}},
    {"kind": "html"},
    {"kind": "bytes", "body": PEOPLE[0].encode()},
]


@pytest.mark.parametrize("via", ["walk", "runs"])
@pytest.mark.parametrize("fault", FAULTS_OF_EXPORTS, ids=str)
def test_exports(cli: Cli, tmp_path: Path, via: str, fault: dict[str, Any]) -> None:
    if fault:
        cli.simulator.fault(match="/tasks/", times=None, after=1, **fault)
    to = ("--to", str(tmp_path / "tasks.jsonl"), "--page-size", "20", "--via", via, "--force")
    for more in ([], ["--json"]):
        said = quiet_about_people(cli("export", "tasks", *to, *more))
        nobody(said.out)
        assert (said.code == 0) is (not fault)
    for path in tmp_path.rglob("*"):
        no_token(str(path), path.read_bytes() if path.is_file() else b"")


@pytest.mark.parametrize("name", ["tasks.parquet/", "tasks.duckdb", "tasks.sqlite"])
def test_other_targets(cli: Cli, tmp_path: Path, name: str) -> None:
    for more in ((), ("--processes", "2"), ("--full",)):
        said = quiet_about_people(cli("export", "tasks", "--to", f"{tmp_path}/{name}", *more))
        nobody(said.out)
    for options in ((), ("--json",)):
        nobody(quiet_about_people(cli("verify", f"{tmp_path}/{name}", *options)).out)
    for path in tmp_path.rglob("*"):
        no_token(str(path), path.read_bytes() if path.is_file() else b"")


def test_progress(cli: Cli) -> None:
    cli.simulator.latency = 0.02
    code, shown = on_a_terminal(cli, "tasks", "--page-size", "20")
    assert code == 0
    assert "rows/s" in shown
    nobody(shown)


@pytest.mark.parametrize(
    "line",
    [
        ["tasks", TOKEN],
        [TOKEN],
        ["tasks", "--token", TOKEN],
        ["tasks", f"--token={TOKEN}"],
        [f"--token={TOKEN}", "tasks"],
        ["tasks", "--limit", TOKEN],
        ["tasks", "--space", TOKEN],
        ["tasks", "--run", TOKEN],
        ["tasks", "--token-file", TOKEN],
        ["tasks", "--base-url", f"https://{TOKEN}@127.0.0.1"],
        ["tasks", "--auth-scheme", TOKEN],
        ["export", "tasks", "--to", TOKEN],
    ],
)
def test_a_token_in_the_wrong_place(cli: Cli, line: list[str]) -> None:
    for arguments in (line, [*line, "--json"]):
        said = quiet_about_people(cli(*arguments))
        assert said.code == 2
