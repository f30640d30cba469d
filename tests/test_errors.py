"""The tree that DESIGN fixes; every attribute on every error; nothing lost by a pickle."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import unpod_async
from unpod_async import errors
from unpod_async.errors import Attempt, IncompleteWalk, UnpodError

TREE = {
    "UnpodError": "Exception",
    "ConfigurationError": "UnpodError",
    "TransportError": "UnpodError",
    "ConnectionFailed": "TransportError",
    "RequestTimeout": "TransportError",
    "DeadlineExceeded": "TransportError",
    "ProtocolError": "UnpodError",
    "ResponseTooLarge": "ProtocolError",
    "DecodeError": "ProtocolError",
    "UnexpectedRedirect": "ProtocolError",
    "APIError": "UnpodError",
    "BusinessError": "APIError",
    "BadRequest": "APIError",
    "AuthenticationError": "APIError",
    "PermissionDenied": "APIError",
    "NotFound": "APIError",
    "RateLimited": "APIError",
    "ServerError": "APIError",
    "IncompleteWalk": "UnpodError",
    "ExportError": "UnpodError",
}
CLASSES = [getattr(errors, name) for name in TREE]
FULL: dict[str, Any] = {
    "status": 503,
    "method": "GET",
    "path": "spaces/S/tasks/?page=2",
    "errors": {"detail": ["x"]},
    "attempts": (Attempt(0.0, 503, 0.5), Attempt(0.7, "ConnectionFailed", None)),
    "retry_after": 3.0,
    "body": "<html>",
    "checkpoint": {"s": 1},
}

every_class = pytest.mark.parametrize("kind", CLASSES, ids=list(TREE))


def test_the_tree_is_the_designs() -> None:
    found = {
        name: kind.__base__.__name__
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, Exception)
    }
    assert found == TREE
    assert sorted([*TREE, "Attempt"]) == sorted(errors.__all__)


@every_class
def test_every_error_is_at_the_front_door(kind: type[UnpodError]) -> None:
    assert getattr(unpod_async, kind.__name__) is kind
    assert kind.__doc__


@every_class
def test_every_attribute_is_there_when_nothing_was_given(kind: type[UnpodError]) -> None:
    error = kind("it failed")
    assert vars(error) == {
        "message": "it failed",
        "status": None,
        "method": None,
        "path": None,
        "errors": None,
        "attempts": (),
        "retry_after": None,
        "body": "",
        "checkpoint": None,
        **({"report": None, "items": ()} if kind is IncompleteWalk else {}),
    }
    assert error.args == ("it failed",)
    assert error.summary == "it failed"


@every_class
@pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy]
    + [
        lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ],
)
def test_errors_survive_copies_and_pickles_whole(
    kind: type[UnpodError], again: Callable[[UnpodError], UnpodError]
) -> None:
    more = {"report": {"seen": 3}, "items": [1, 2]} if kind is IncompleteWalk else {}
    error = kind("it failed", **FULL, **more)
    twin = again(error)
    assert type(twin) is kind
    assert vars(twin) == vars(error)
    assert (twin.args, str(twin), repr(twin)) == (error.args, str(error), repr(error))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "no luck"),
        ({"status": 404}, "404: no luck"),
        ({"path": "spaces/", "method": "GET"}, "no luck (GET spaces/)"),
        ({"attempts": (Attempt(0, 500, None),)}, "no luck"),
        (FULL, "503: no luck (GET spaces/S/tasks/?page=2) after 2 attempts"),
    ],
)
def test_the_text_says_what_where_and_how_often(given: dict[str, Any], text: str) -> None:
    error = UnpodError("no luck", **given)
    assert error.summary == text
    assert str(error) == (f"{text}; {error.hint}" if error.hint else text)


NEXT = {
    "TransportError": "base_url",
    "ConnectionFailed": "base_url",
    "RequestTimeout": "RetryPolicy",
    "DeadlineExceeded": "deadline=",
    "ProtocolError": "error.body",
    "ResponseTooLarge": "page_size=",
    "DecodeError": 'on_invalid="report"',
    "ExportError": "run the same export again",
    "UnexpectedRedirect": "base_url",
    "BusinessError": "client.spaces()",
    "BadRequest": "org_handle",
    "AuthenticationError": "UNPOD_API_TOKEN",
    "PermissionDenied": "client.spaces()",
    "NotFound": "the space token",
    "RateLimited": "try again later",
    "ServerError": "try again later",
    "IncompleteWalk": "error.report",
}
NO_STEP = {"UnpodError", "APIError", "ConfigurationError"}  # two bases; messages that say it


@every_class
def test_the_text_ends_with_the_next_step(kind: type[UnpodError]) -> None:
    error = kind("no luck", status=418)
    assert str(error) == "418: no luck" + f"; {error.hint}" * (kind.__name__ not in NO_STEP)
    assert NEXT.get(kind.__name__, "") in error.hint
    assert len(error.hint) <= 100
    assert error.hint.isprintable()


def test_every_class_has_a_next_step_or_says_it_in_its_message() -> None:
    assert {*NEXT, *NO_STEP} == set(TREE)


@pytest.mark.parametrize("kind", [errors.RateLimited, errors.ServerError])
@pytest.mark.parametrize(
    ("seconds", "when"),
    [(None, "later"), (0, "later"), (0.2, "in 1 s"), (90, "in 90 s"), (float("inf"), "later")],
)
def test_it_says_when_to_come_back(
    kind: type[UnpodError], seconds: float | None, when: str
) -> None:
    assert f"try again {when}" in str(kind("no luck", retry_after=seconds))


def test_a_refused_space_is_told_from_trouble_behind_the_platform() -> None:
    assert "space token" in errors.BusinessError("Invalid Space Token").hint
    trouble = errors.BusinessError("Tasks Fetch Failed", errors="Internal Server Error")
    assert trouble.hint == "check the filters, or try again later"


@every_class
def test_an_error_in_mid_walk_says_how_to_go_on(kind: type[UnpodError]) -> None:
    text = str(kind("no luck", checkpoint={"version": 1}))
    goes_on = kind is not IncompleteWalk  # such a walk is at its end
    assert text.endswith("; walk(resume=error.checkpoint) goes on from there") is goes_on
    assert "; ;" not in text


def test_an_unknown_attribute_is_refused() -> None:
    with pytest.raises(TypeError):
        IncompleteWalk("it failed", reprot=None)


def test_an_incomplete_walk_hands_over_what_there_is() -> None:
    error = IncompleteWalk("2 rows are missing", report="R", items=["a"], checkpoint={"s": 1})
    assert (error.report, error.items, error.checkpoint) == ("R", ["a"], {"s": 1})
