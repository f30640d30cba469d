"""Which arms run side by side, and what each of them is."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

from . import data, ours, peers
from .harness import Arm
from .limits import InMemory, RawSockets, inflate, read_bodies
from .shapes import FULL, OURS, pydantic_page

PACKAGES = {
    "httpx + pydantic": ("httpx", "pydantic"),
    "requests + dicts": ("requests",),
    "niquests + full decode": ("niquests",),
    "dlt": ("dlt",),
}
"""What an arm needs that the library does not."""

LEGEND = {
    "(b) raw + full decode": "limit: blocking sockets, one buffer, every row typed to the bottom "
    "with plain msgspec Structs",
    "(b) once more": "the same again: how far its ratio is from 1 is how far to trust the others",
    "raw, bytes only": "limit: the same sockets, nothing decoded",
    "(c) full decode": "limit: the same decoding of pages in memory, no network",
    "raw + inflate + full decode": "limit: as (b), inflated in one shot by the fastest installed",
    "raw + inflate + our rows": "the same, decoded into the library's Structs",
    "ours": "walk(), rows as they come, the list proved complete; in W3 run_tasks(), which lists "
    "the runs too",
    "ours, task.call": "the same, and of every row the call with its transcript",
    "ours, async for": "plain iteration, proved complete, one request after the other",
    "ours, .pages()": "the server's own pages, one request after the other",
    "ours, JSON Lines": "walk() over .raw() rows, written to a file that takes all",
    "aiohttp + our rows, in turn": "bare aiohttp + msgspec into the library's Structs, one request "
    "after the other",
    "aiohttp + our rows": "the same with as many lanes as ours",
    "aiohttp + full decode": "the same lanes, every row typed to the bottom as in (b)",
    "aiohttp, bytes only": "the same lanes, nothing decoded",
    "httpx + pydantic": "the vendor SDK's way: AsyncClient, .json(), model_validate(), same lanes",
    "requests + dicts": "the loop of the vendor's documents: one session, .json()",
    "dlt": "RESTClient.paginate, dicts",
    "niquests + full decode": "one session, the bytes decoded as in (b)",
}


class Workload(NamedTuple):
    """What is read, and how to make the arms that read it. `often` are those compared with."""

    title: str
    arms: dict[str, Callable[[], Arm]]
    often: frozenset[str]


def workloads(port: int) -> dict[str, Workload]:
    """All of them by name, without the arms whose packages are missing."""
    made = {"W1": bulk(port), "W2": small(port), "W3": fan_out(port), "W4": zipped(port)}
    gone = set(missing())
    return {
        key: one._replace(arms={name: arm for name, arm in one.arms.items() if name not in gone})
        for key, one in made.items()
    }


def missing() -> list[str]:
    """The arms whose packages are not installed."""
    return [name for name, needs in PACKAGES.items() if not all(map(find_spec, needs))]


def pages(token: str, rows: int, size: int) -> list[str]:
    return [
        f"/api/spaces/{token}/tasks/?page={page}&page_size={size}"
        for page in range(1, rows // size + 1)
    ]


def runs() -> list[str]:
    return [
        f"/api/spaces/BULK/runs/{data.run_id(number)}/tasks/?page=1&page_size=200"
        for number in range(data.RUNS)
    ]


def full(body: Any) -> int:
    return len(FULL(body).data)


def our_rows(body: Any) -> int:
    return len(OURS(body).data)


def as_pydantic() -> Callable[[Any], int]:
    validate = pydantic_page().model_validate
    return lambda body: len(validate(body).data)


def uncounted(rows: int) -> Callable[[Any], int]:
    """For bytes that nobody looks into: how many rows they have on average."""
    return lambda _: rows


def bulk(port: int) -> Workload:
    size, lanes = 500, 4
    targets = pages("BULK", data.TASKS, size)
    bodies = read_bodies(port, targets[:8])
    arms = common(port, targets, lanes=lanes, unit=2 * size, rows=size)
    mine: dict[str, type[ours.Ours]] = {
        "ours": ours.OurWalk,
        "ours, task.call": ours.OurCalls,
        "ours, async for": ours.OurIteration,
        "ours, .pages()": ours.OurPages,
        "ours, JSON Lines": ours.OurLines,
    }
    for name, kind in mine.items():
        arms[name] = lambda kind=kind: kind(port, "BULK", lanes=lanes, size=size)
    arms |= {
        "(c) full decode": lambda: InMemory(bodies, full),
        "aiohttp + our rows, in turn": lambda: peers.Aiohttp(port, targets, our_rows, lanes=1),
        "aiohttp, bytes only": lambda: peers.Aiohttp(port, targets, uncounted(size), lanes=lanes),
        "dlt": lambda: peers.Dlt(port, "/api/spaces/BULK/tasks/", size=size, pages=len(targets)),
    }
    often = {"(b) raw + full decode", "(c) full decode", "ours", "aiohttp + our rows, in turn"}
    return Workload("bulk walk, 500 a page, 4 lanes", arms, frozenset(often))


def small(port: int) -> Workload:
    size, lanes = 20, 16
    targets = pages("BULK", data.TASKS, size)
    arms = common(port, targets, lanes=lanes, unit=lanes * size, rows=size)
    arms["ours"] = lambda: ours.OurWalk(port, "BULK", lanes=lanes, size=size)
    return Workload("small pages, 20 a page, 16 lanes", arms, frozenset({B, "ours"}))


def fan_out(port: int) -> Workload:
    lanes = 16
    arms = common(port, runs(), lanes=lanes, unit=4 * lanes, rows=3)
    arms["ours"] = lambda: ours.OurFanOut(port, "BULK", lanes=lanes, size=16)
    often = {B, "ours", "aiohttp + our rows"}
    return Workload("fan-out over 10,000 runs, 16 lanes", arms, frozenset(often))


def zipped(port: int) -> Workload:
    size, lanes = 500, 4
    targets = pages("GZIP", 10_000, size)
    name, unzip = inflate()
    arms: dict[str, Callable[[], Arm]] = {
        "raw + inflate + full decode": lambda: RawSockets(
            port, targets, full, lanes=lanes, inflate=unzip
        ),
        "raw + inflate + our rows": lambda: RawSockets(
            port, targets, our_rows, lanes=lanes, inflate=unzip
        ),
        "ours": lambda: ours.OurWalk(port, "GZIP", lanes=lanes, size=size),
        "aiohttp + our rows": lambda: peers.Aiohttp(port, targets, our_rows, lanes=lanes),
    }
    title = f"bulk walk of gzip, 500 a page, 4 lanes; the limits inflate by {name}"
    often = {"raw + inflate + full decode", "raw + inflate + our rows"}
    return Workload(title, arms, frozenset(often))


B = "(b) raw + full decode"


def common(
    port: int, targets: list[str], *, lanes: int, unit: int, rows: int
) -> dict[str, Callable[[], Arm]]:
    """The limits and peers that read any targets; `rows` is how many each has on average."""
    arms: dict[str, Callable[[], Arm]] = {
        B: lambda: RawSockets(port, targets, full, lanes=lanes),
        "(b) once more": lambda: RawSockets(port, targets, full, lanes=lanes),
        "raw, bytes only": lambda: RawSockets(port, targets, uncounted(rows), lanes=lanes),
        "aiohttp + our rows": lambda: peers.Aiohttp(port, targets, our_rows, lanes=lanes),
        "aiohttp + full decode": lambda: peers.Aiohttp(port, targets, full, lanes=lanes),
        "httpx + pydantic": lambda: peers.HttpxPydantic(port, targets, as_pydantic(), lanes=lanes),
        "requests + dicts": lambda: peers.Requests(port, targets, peers.as_dicts),
        "niquests + full decode": lambda: peers.Niquests(port, targets, full),
    }
    return {name: lambda make=make: _of(make(), unit) for name, make in arms.items()}


def _of(arm: Arm, unit: int) -> Arm:
    arm.unit = unit
    return arm
