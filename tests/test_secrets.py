"""A secret shows itself to `reveal()` alone, and server text cannot harm a terminal."""

from __future__ import annotations

import base64
import copy
import html
import json
import pickle
import pprint
import traceback
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unpod_async._secrets import HiddenText, Secret, redact, safe_text

CANARY = "S3CR3T-CANARY"

# -- Secret --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "show",
    [
        str,
        repr,
        ascii,
        format,
        "{}".format,
        "{0!r:>40}".format,
        lambda secret: f"{secret} {secret!r} {secret!s:>20} {secret:>20}",
        lambda secret: "%s %r" % (secret, secret),  # noqa: UP031
        lambda secret: repr([secret, {"token": secret}, (secret,)]),
        lambda secret: pprint.pformat({"token": secret}),
        lambda secret: str(ValueError(secret)) + repr(ValueError(secret)),
    ],
)
def test_no_way_of_showing_a_secret_shows_it(show: Callable[[Secret], str]) -> None:
    shown = show(Secret(CANARY))
    assert CANARY not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    "take_out",
    [
        pickle.dumps,
        copy.copy,
        copy.deepcopy,
        lambda secret: copy.deepcopy({"token": secret}),
        json.dumps,
        msgspec.json.encode,
        msgspec.to_builtins,
        vars,
        iter,
        len,
        bytes,
    ],
)
def test_a_secret_cannot_be_taken_out_of_its_process(take_out: Callable[[Any], object]) -> None:
    with pytest.raises((TypeError, msgspec.MsgspecError)) as caught:
        take_out(Secret(CANARY))
    assert CANARY not in str(caught.value)


def test_a_traceback_with_locals_shows_no_secret() -> None:
    def fail(token: Secret, headers: dict[str, str]) -> None:
        raise RuntimeError(f"{token} did not work")

    with pytest.raises(RuntimeError) as caught:
        fail(Secret(CANARY), {"Authorization": HiddenText("Token " + CANARY)})
    trace = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    text = "".join(trace.format())
    assert "Secret(***)" in text
    assert CANARY not in text


def test_secrets_compare_by_value_and_never_equal_their_text() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
    assert Secret("a") != "a"
    assert hash(Secret("a")) != hash("a")
    assert Secret("a").reveal() == "a"


def test_hidden_text_is_text_that_does_not_show_in_a_repr() -> None:
    hidden = HiddenText("Token x")
    assert hidden == "Token x"
    assert f"{hidden}" == "Token x"  # this is what is sent
    assert repr({"Authorization": hidden}) == "{'Authorization': '***'}"


# -- redact --------------------------------------------------------------------------

AWKWARD = "S3C/R3+T=%\"<&'\\CANARY~"


@pytest.mark.parametrize("token", [CANARY, AWKWARD, "a/b", "x" * 4096])
@pytest.mark.parametrize(
    "form",
    [
        str,
        quote,
        lambda token: quote(token, safe=""),
        lambda token: base64.b64encode(token.encode()).decode(),
        lambda token: base64.urlsafe_b64encode(token.encode()).decode(),
        lambda token: base64.urlsafe_b64encode(token.encode()).decode().rstrip("="),
        lambda token: json.dumps(token)[1:-1],
        html.escape,
        lambda token: json.dumps(token)[1:-1].replace("/", "\\/"),
        lambda token: json.dumps(json.dumps(token)[1:-1])[1:-1],
        lambda token: quote(quote(token, safe=""), safe=""),
        lambda token: html.escape(json.dumps(token)[1:-1]),
        lambda token: repr("'\"" + token)[4:-1],
    ],
)
def test_redact_knows_the_forms_in_which_a_server_echoes_a_token(
    token: str, form: Callable[[str], str]
) -> None:
    text = redact(f"before {form(token)} after {form(token)}", Secret(token))
    assert form(token) not in text
    assert text.replace("=", "") == "before *** after ***"


@pytest.mark.parametrize("before", ["", "Token ", "Bearer ", "a user:"])
def test_redact_finds_a_token_inside_of_base64(before: str) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        coded = encode(f"{before}{CANARY} and more".encode()).decode()
        shown = redact(coded, Secret(CANARY))
        assert "***" in shown
        assert len(coded) - len(shown) >= len(CANARY) * 4 // 3 - 5


def test_redact_takes_any_text_for_a_secret() -> None:
    assert redact("a \udcff b", Secret("\udcff")) == "a *** b"


def test_redact_without_a_secret_changes_nothing() -> None:
    assert redact(CANARY, None) == CANARY
    assert redact(CANARY, Secret("")) == CANARY


@given(st.text(), st.text("ab%/+", min_size=1, max_size=4), st.text())
def test_redact_leaves_no_plain_secret(before: str, token: str, after: str) -> None:
    assert token not in redact(before + token + after, Secret(token))


# -- safe_text -----------------------------------------------------------------------

HOSTILE = [
    *map(chr, [*range(0x20), *range(0x7F, 0xA0)]),
    *"\u00ad\u061c\u180e\u200b\u200d\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e",
    *"\u2060\u2066\u2067\u2068\u2069\ufeff\ufff9\ud800\udbff\udc00\udfff\U000e0001\U000e007f",
]


@pytest.mark.parametrize("char", HOSTILE, ids=lambda char: f"U+{ord(char):04X}")
def test_every_hostile_character_is_escaped(char: str) -> None:
    shown = safe_text(f"a{char}b")
    code = ord(char)
    assert shown == (f"a\\u{code:04x}b" if code < 0x10000 else f"a\\U{code:08x}b")
    assert shown.isprintable()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("", ""),
        ("Tasks Fetch Failed", "Tasks Fetch Failed"),
        ("naïve Über 東京 नमस्ते 🎉", "naïve Über 東京 नमस्ते 🎉"),
        ("two\r\nlines", "two\\u000d\\u000alines"),
        ("\x1b[31mred\x1b]0;title\x07", "\\u001b[31mred\\u001b]0;title\\u0007"),
        (None, "None"),
        (42, "42"),
        (["a\n"], "['a\\n']"),
        ("x" * 501, "x" * 499 + "…"),
        ("x" * 500, "x" * 500),
    ],
)
def test_safe_text(value: object, shown: str) -> None:
    assert safe_text(value) == shown


any_text = st.text(st.characters() | st.sampled_from(HOSTILE))


@given(any_text, st.integers(1, 40))
def test_safe_text_is_one_short_harmless_line_and_safe_twice(text: str, limit: int) -> None:
    shown = safe_text(text, limit=limit)
    assert len(shown) <= limit
    assert not set(shown) & set(HOSTILE)
    assert len(shown.splitlines()) <= 1
    shown.encode()
    assert safe_text(shown, limit=limit) == shown


def test_a_huge_text_is_cut_before_it_is_looked_at() -> None:
    assert len(safe_text("\x1b" * 50_000_000)) == 500
