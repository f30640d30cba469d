"""The wire as pure functions: options, URLs and filters going out, answers coming in."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import traceback
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from unpod_async import _protocol, errors
from unpod_async._protocol import (
    DEFAULT_BASE_URL,
    Request,
    Response,
    check_base_url,
    check_segment,
    check_token,
    check_visible,
    check_whole,
    error_for,
    excerpt,
    headers_for,
    inflate,
    retry_after,
    task_query,
    text_filter,
    unix_seconds,
)
from unpod_async._retry import Kind, kind_of_answer
from unpod_async._secrets import Secret
from unpod_async.errors import ConfigurationError, ProtocolError, ResponseTooLarge

SAMPLES = sorted(Path(__file__).parent.joinpath("samples").glob("*.json"))
REQUEST = Request("spaces/S/tasks/", "page=2&page_size=50")
CANARY = "S3CR3T-CANARY"
SECRET = Secret(CANARY)

Check = Callable[[Any], object]


def refusal(check: Check, value: object) -> ConfigurationError:
    """The error for a wrong option; it does not say the value."""
    with pytest.raises(ConfigurationError) as caught:
        check(value)
    if isinstance(value, str) and len(value) > 8:
        shown = f"{caught.value} {caught.value!r} {vars(caught.value)}"
        assert value not in shown
        assert repr(value)[1:-1] not in shown
    return caught.value


def secret_refusal(check: Check, value: object) -> ConfigurationError:
    """The same, and not even the locals of our own frames show the value."""
    error = refusal(check, value)
    trace = traceback.TracebackException.from_exception(error, capture_locals=True)
    ours = [frame.locals for frame in trace.stack if "/unpod_async/" in frame.filename]
    assert ours
    if isinstance(value, str) and len(value) > 3:
        assert repr(value)[1:-1] not in repr(ours).replace("\\\\", "\\")
    return error


# -- options: the base URL -----------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        (DEFAULT_BASE_URL, DEFAULT_BASE_URL),
        ("https://unpod.ai", "https://unpod.ai"),
        ("https://unpod.ai/", "https://unpod.ai"),
        ("https://unpod.ai/api/v2/", "https://unpod.ai/api/v2"),
        ("https://unpod.ai:8443/a_b/~c/d.e/f-g", "https://unpod.ai:8443/a_b/~c/d.e/f-g"),
        ("https://UNPOD.ai.", "https://UNPOD.ai."),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("https://10.1.2.3", "https://10.1.2.3"),
        ("https://[2001:db8::1]:444/x", "https://[2001:db8::1]:444/x"),
        ("https://1und1.de", "https://1und1.de"),
        ("https://localhost.evil.com", "https://localhost.evil.com"),
        ("http://127.0.0.1", "http://127.0.0.1"),
        ("http://127.255.3.4:8080/api", "http://127.255.3.4:8080/api"),
        ("http://localhost:3001/api/v2/platform", "http://localhost:3001/api/v2/platform"),
        ("http://LocalHost", "http://LocalHost"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
        ("https://unpod.ai:65535", "https://unpod.ai:65535"),
    ],
)
def test_base_urls_that_are_taken(url: str, kept: str) -> None:
    assert check_base_url(url) == kept
    assert str(URL(kept, encoded=True)).rstrip("/") == kept  # what connects reads the same


NOT_LOOPBACK = [
    "http://unpod.ai",
    "http://localhost.evil.com",
    "http://localhost.",
    "http://mylocalhost",
    "http://127.0.0.1.nip.io",
    "http://10.0.0.1",
    "http://0.0.0.0",
    "http://128.0.0.1",
    "http://[::]",
    "http://[::2]",
    "http://[fe80::1]",
    "http://[::ffff:127.0.0.1]",
    "http://[::ffff:7f00:1]",
]


@pytest.mark.parametrize("url", NOT_LOOPBACK)
def test_plain_http_needs_a_literal_loopback_address_or_the_callers_word(url: str) -> None:
    assert "allow_insecure_http" in secret_refusal(check_base_url, url).message
    assert check_base_url(url, allow_insecure_http=True) == url


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            " ",
            "/",
            "//",
            "voice.test",
            "https:",
            "https://",
            "https:///x",
            "https:/voice.test",
        ),
        *("ftp://voice.test", "file:///etc/passwd", "ws://localhost", "httpss://voice.test"),
        *("https://user:S3CR3T@voice.test", "https://S3CR3T@voice.test", "https://@voice.test"),
        *(
            "https://voice.test@evil.com",
            "https://voice.test:443@evil.com",
            "https://voice.test%40e.com",
        ),
        *("https://voice.test\\@evil.com", "https://voice.test\\.evil.com", "https:\\\\voice.test"),
        *(
            "https://voice.test?x",
            "https://voice.test/?token=x",
            "https://voice.test/#x",
            "https://a#@b",
        ),
        *("https://voice.test/..", "https://voice.test/a/../b", "https://voice.test/./a"),
        *("https://voice.test/%2e%2e/a", "https://voice.test/a%2fb", "https://voice.test/%"),
        *(
            "https://voice.test//",
            "https://voice.test//a",
            "https://voice.test/a//b",
            "https://u.ai/a//",
        ),
        *("https://voice.test/a b", "https://voice.test/a;b", "https://voice.test/ä"),
        *(
            " https://voice.test",
            "https://voice.test ",
            "https://voice.test\n",
            "\nhttps://voice.test",
        ),
        *("https://voice.test\r\nHost: evil", "https://voi\tce.test", "https://voice.test\0"),
        *(
            "https://voice.test:",
            "https://voice.test:x",
            "https://voice.test:-1",
            "https://voice.test:0",
        ),
        *("https://voice.test:65536", "https://voice.test:99999", "https://voice.test:443443"),
        *("https://voice.test:٤٤٣", "https://voice.test:443:443"),
        *(
            "https://bücher.example",
            "https://voice。test",
            "https://ⓥoice.test",
            "https://voicе.test",
        ),
        *("https://.", "https://..", "https://a..b", "https://.a", "https://a..", "https://*.ai"),
        *("https://-a.com", "https://a-.com", "https://a_b.com", "https://" + "a" * 64 + ".com"),
        *("https://" + "a." * 127 + "com",),
        *("http://127.1", "http://2130706433", "http://0x7f.1", "http://0x7f000001", "http://0"),
        *("http://0177.0.0.1", "http://127.0.0.01", "http://127.0.0.1.", "http://127.0.0.256"),
        *("https://127.0.0.0x1", "https://127.0.0.0X1", "https://1.2.3", "https://1.2.3.4.5"),
        *("https://[::1", "https://::1", "https://[]", "https://[::1]x", "https://[127.0.0.1]"),
        *("https://[fe80::1%25eth0]", "https://[1::2::3]", "https://[v1.x]"),
        *(None, 7, b"https://voice.test", ["https://voice.test"]),
    ],
    ids=repr,
)
def test_base_urls_that_are_refused_whatever_the_caller_allows(url: object) -> None:
    message = secret_refusal(partial(check_base_url, allow_insecure_http=True), url).message
    assert message.startswith("base_url takes an https URL")


@given(st.text("https:/@[]?#%.\\0123456789abcxLOCALHOST-_~ \n", max_size=40))
def test_no_base_url_leads_elsewhere_than_it_says(tail: str) -> None:
    try:
        kept = check_base_url("https://" + tail)
    except ConfigurationError:
        return
    url = URL(kept, encoded=True)
    assert url.user is url.password is None
    assert not url.query_string and not url.fragment
    assert kept == f"https://{tail}".rstrip("/")
    assert kept.startswith(f"https://{url.raw_authority}")
    assert url.raw_path in (kept.removeprefix(f"https://{url.raw_authority}"), "/")


# -- options: texts and numbers ------------------------------------------------------


@pytest.mark.parametrize("value", ["a", "!~", "abc.def-_=/+", "x" * 4096])
def test_tokens_and_handles_that_are_taken(value: str) -> None:
    assert check_visible("org_handle", value) == value
    token = Secret(value)
    assert check_token("token", token) is token


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "two words", " lead", "trail ", "line\n", "line\r\nX-Evil: 1", "a\tb"),
        *("nul\0nul", "bell\x07bell", "del\x7fdel", "tok€n", "\u200bzero", "\ud800lone"),
        *("x" * 4097, "y" * 10_000, None, 7, b"bytes", ["list"]),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_tokens_and_handles_that_are_refused(value: Any) -> None:
    assert "org_handle takes" in secret_refusal(partial(check_visible, "org_handle"), value).message

    def check(value: Any) -> Secret:
        return check_token("token", Secret(value))

    assert "token takes" in secret_refusal(check, value).message


@pytest.mark.parametrize(
    "value", ["8KZAMRAHSXXXXXXMAYNASMJC", "R" + "0f" * 16, "a", "_-", "x" * 128]
)
def test_ids_that_are_taken(value: str) -> None:
    assert check_segment("run id", value) == value


@pytest.mark.parametrize(
    "value",
    [
        *("", ".", "..", "a/b", "../etc", "a%2fb", "a b", "a\n", "a\r\n", "a?b", "a#b", "a;b"),
        *("ärger", "１２３４", "x" * 129, "a\\b", "a\0b", None, 7, b"abcd"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_ids_that_are_refused(value: object) -> None:
    assert (
        "run id takes 1 to 128" in secret_refusal(partial(check_segment, "run id"), value).message
    )


@pytest.mark.parametrize("value", [1, 200, 10**9])
def test_whole_numbers_that_are_taken(value: int) -> None:
    assert check_whole("page_size", value) == value


@pytest.mark.parametrize("value", [0, -1, 10**9 + 1, 10**400, 1.0, "1", True, None, float("nan")])
def test_whole_numbers_that_are_refused(value: object) -> None:
    assert (
        "page_size takes a whole number"
        in refusal(partial(check_whole, "page_size"), value).message
    )


# -- filters -------------------------------------------------------------------------

NO_FILTER: dict[str, Any] = dict.fromkeys(
    ("summary_status", "search", "call_type", "created_from", "created_to", "user_id", "thread_id")
)


def query_of(**filters: Any) -> str:
    return task_query(**{**NO_FILTER, **filters})


@pytest.mark.parametrize(
    ("filters", "query"),
    [
        ({}, ""),
        ({"summary_status": "Interested"}, "status=Interested"),
        ({"summary_status": ["Interested", "Call Back"]}, "status=Interested%2CCall%20Back"),
        ({"summary_status": (text for text in "ab")}, "status=a%2Cb"),
        ({"search": "+91 [0-9]*"}, "search=%2B91%20%5B0-9%5D%2A"),
        ({"call_type": "outbound", "user_id": "u", "thread_id": "t"},
         "call_type=outbound&user_id=u&thread_id=t"),
        ({"created_from": 1.5, "created_to": 1.5}, "from_ts=1&to_ts=2"),
        ({"search": "x&space_id=evil"}, "search=x%26space_id%3Devil"),
        ({"search": "x#y?z;a=b/c%26"}, "search=x%23y%3Fz%3Ba%3Db%2Fc%2526"),
        ({"search": "東京 🎉"}, "search=%E6%9D%B1%E4%BA%AC%20%F0%9F%8E%89"),
    ],
)  # fmt: skip
def test_filters_become_a_query(filters: dict[str, Any], query: str) -> None:
    assert query_of(**filters) == query


FILTER_KEYS = {"status", "search", "call_type", "from_ts", "to_ts", "user_id", "thread_id"}


@given(st.fixed_dictionaries({}, optional={
    **dict.fromkeys(("search", "call_type", "user_id", "thread_id", "summary_status"), st.text()),
    **dict.fromkeys(("created_from", "created_to"), st.floats() | st.integers() | st.datetimes()),
}))  # fmt: skip
def test_no_value_of_a_filter_can_send_another_key(filters: dict[str, Any]) -> None:
    try:
        pairs = parse_qsl(query_of(**filters), keep_blank_values=True, strict_parsing=bool(filters))
    except ConfigurationError:
        return
    assert {key for key, _ in pairs} <= FILTER_KEYS
    assert len(pairs) == len(filters)
    sent = dict(pairs)
    for key in ("search", "call_type", "user_id", "thread_id"):
        assert sent.get(key) == filters.get(key)


@pytest.mark.parametrize("name", ["space_id", "skip", "limit", "page", "status", "from_ts", "_"])
def test_other_filters_cannot_even_be_named(name: str) -> None:
    with pytest.raises(TypeError):
        query_of(**{name: "x"})


@pytest.mark.parametrize("value", ["", "a\nb", "a\0b", "\ud800", "\u202eabc", "x" * 1001, 7, b"ab"])
@pytest.mark.parametrize("name", ["search", "call_type", "user_id", "thread_id"])
def test_filter_texts_that_are_refused(name: str, value: object) -> None:
    message = refusal(lambda value: query_of(**{name: value}), value).message
    assert message == f"{name} takes 1 to 1000 printable characters"


@pytest.mark.parametrize("value", ["", [], [""], ["a", 7], b"ab", 7, [None], ["x" * 600] * 2])
def test_status_filters_that_are_refused(value: object) -> None:
    assert "summary_status takes" in refusal(lambda v: query_of(summary_status=v), value).message


class NoOffset(tzinfo):
    """A zone that says nothing: such a datetime counts as naive."""

    def utcoffset(self, _: datetime | None) -> None:
        return None


IST = timezone(timedelta(hours=5, minutes=30))


@pytest.mark.parametrize(
    ("moment", "down", "up"),
    [
        (0, 0, 0),
        (1768570203, 1768570203, 1768570203),
        (1768570203.0, 1768570203, 1768570203),
        (1768570203.25, 1768570203, 1768570204),
        (-0.5, -1, 0),
        (datetime(2026, 1, 16, 13, 30, 3, tzinfo=UTC), 1768570203, 1768570203),
        (datetime(2026, 1, 16, 13, 30, 3, 1, tzinfo=UTC), 1768570203, 1768570204),
        (datetime(2026, 1, 16, 19, 0, 3, 999_999, tzinfo=IST), 1768570203, 1768570204),
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), -62135647200, -62135647200),
    ],
)
def test_moments_are_rounded_outward(moment: object, down: int, up: int) -> None:
    assert unix_seconds("created_from", moment, up=False) == down
    assert unix_seconds("created_to", moment, up=True) == up


@given(
    st.datetimes(timezones=st.just(UTC)) | st.floats(-1e10, 1e10) | st.integers(-(10**10), 10**10)
)
def test_a_time_filter_never_loses_a_moment_and_at_most_a_second(moment: Any) -> None:
    seconds = moment.timestamp() if isinstance(moment, datetime) else moment
    low, high = (unix_seconds("t", moment, up=up) for up in (False, True))
    assert type(low) is type(high) is int
    assert low <= seconds <= high <= low + 1


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 1, 16),  # noqa: DTZ001
        datetime(2026, 1, 16, tzinfo=NoOffset()),
        *(float("nan"), float("inf"), -float("inf"), 1e12, 1768570203000, 10**400),
        *("2026-01-16", "1768570203", True, b"1", [1], timedelta(1)),
    ],
    ids=repr,
)
def test_moments_that_are_refused(moment: object) -> None:
    message = refusal(partial(unix_seconds, "created_from", up=False), moment).message
    assert message == "created_from takes a datetime with a time zone, or Unix seconds"


# -- the request ---------------------------------------------------------------------


def test_the_headers_of_a_request() -> None:
    assert headers_for(SECRET, "Token", "acme") == {
        "Authorization": f"Token {CANARY}",
        "Accept": "application/json",
        "Accept-Encoding": "gzip",
        "Org-Handle": "acme",
    }
    assert "Org-Handle" not in headers_for(SECRET, "Bearer", None)
    assert headers_for(SECRET, "Bearer", None)["Authorization"] == f"Bearer {CANARY}"
    assert CANARY not in repr(headers_for(SECRET, "Token", None))


def test_the_target_of_a_request() -> None:
    assert REQUEST.target == "spaces/S/tasks/?page=2&page_size=50"
    assert Request("spaces/").target == "spaces/"


def test_no_repr_shows_what_was_searched_for_or_answered() -> None:
    request = Request("spaces/S/tasks/", "page=1&search=%2B919876500017&status=x")
    assert repr(request) == "Request('spaces/S/tasks/?page=1&search=***&status=x')"
    assert repr(Response(200, {"x": "CANARY"}, b"CANARY")) == "Response(200, 6 bytes)"


# -- answers: decompression ----------------------------------------------------------


@pytest.fixture(params=["zlib", "isal.isal_zlib"])
def inflater(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever it is, it is held to the same."""
    monkeypatch.setattr(_protocol, "zlib", pytest.importorskip(request.param))


BODY = b'{"count": 0, "data": []}' * 50
ZIPPED = gzip.compress(BODY)


def answer(body: bytes = b"", status: int = 200, **headers: str) -> Response:
    return Response(status, {name.replace("_", "-"): text for name, text in headers.items()}, body)


@pytest.mark.usefixtures("inflater")
@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        *((None, BODY), ("", BODY), ("identity", BODY), (" Identity ", BODY), (None, b"")),
        *(("gzip", ZIPPED), ("x-gzip", ZIPPED), (" GZip", ZIPPED)),
        ("gzip", gzip.compress(BODY[:100]) + gzip.compress(b"") + gzip.compress(BODY[100:])),
    ],
)
def test_bodies_that_can_be_read(encoding: str | None, body: bytes) -> None:
    headers = {} if encoding is None else {"content_encoding": encoding}
    plain = inflate(answer(body, **headers))
    assert plain.body == (BODY if body else b"")
    assert inflate(plain) == plain


@pytest.mark.usefixtures("inflater")
@pytest.mark.parametrize(
    ("encoding", "body", "message"),
    [
        ("gzip", ZIPPED[:-1], "ends early"),
        ("gzip", ZIPPED[:20], "ends early"),
        ("gzip", b"", "ends early"),
        ("gzip", ZIPPED + ZIPPED[:30], "ends early"),
        ("gzip", BODY, "damaged"),
        ("gzip", ZIPPED[:-8] + bytes(8), "damaged"),
        ("gzip", ZIPPED + b"trailing garbage", "damaged"),
        ("gzip", zlib.compress(BODY), "damaged"),
        ("gzip", ZIPPED * 1000, "too many parts"),
        *((name, ZIPPED, "nobody asked for: " + name) for name in ("br", "deflate", "gzip, gzip")),
        ("\x1b[31m" + "x" * 8000, ZIPPED, "nobody asked for: \\u001b[31mxxx"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_bodies_that_cannot_be_read(encoding: str, body: bytes, message: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        inflate(answer(body, content_encoding=encoding))
    assert type(caught.value) is ProtocolError
    assert message in caught.value.message
    assert len(caught.value.message) < 200


@pytest.mark.usefixtures("inflater")
@pytest.mark.parametrize("size", [1000, 1001, 10_000_000])
def test_a_bomb_is_not_inflated_past_the_limit(size: int) -> None:
    bomb = answer(gzip.compress(bytes(size)), content_encoding="gzip")
    if size == 1000:
        assert len(inflate(bomb, 1000).body) == 1000
        return
    with pytest.raises(ResponseTooLarge, match="1000 bytes"):
        inflate(bomb, 1000)


@pytest.mark.usefixtures("inflater")
def test_a_bomb_in_parts_is_not_inflated_past_the_limit() -> None:
    with pytest.raises(ResponseTooLarge):
        inflate(answer(gzip.compress(bytes(400)) * 3, content_encoding="gzip"), 1000)


@given(st.binary(max_size=200))
def test_no_body_makes_inflate_raise_anything_else(body: bytes) -> None:
    for data in (body, ZIPPED[:10] + body, ZIPPED + body):
        with contextlib.suppress(ProtocolError):
            inflate(answer(data, content_encoding="gzip"), 10_000)


# -- answers: the class of every status ----------------------------------------------

OF_ITS_OWN = {
    206: errors.BusinessError,
    401: errors.AuthenticationError,
    403: errors.PermissionDenied,
    404: errors.NotFound,
    429: errors.RateLimited,
}
OF_ITS_HUNDRED = {
    1: ProtocolError,
    2: ProtocolError,
    3: errors.UnexpectedRedirect,
    4: errors.BadRequest,
    5: errors.ServerError,
}


@pytest.mark.parametrize("status", [*range(100, 600), 600, 999])
def test_every_status_has_its_class(status: int) -> None:
    error = error_for(REQUEST, answer(b"", status))
    if status == 200:
        assert error is None
        return
    assert type(error) is OF_ITS_OWN.get(status, OF_ITS_HUNDRED.get(status // 100, ProtocolError))
    assert (error.status, error.method, error.path) == (status, "GET", REQUEST.target)
    assert str(status) in str(error)


# -- answers: what they say ----------------------------------------------------------


def of_json(status: int, body: Any, **headers: str) -> errors.UnpodError:
    error = error_for(REQUEST, answer(json.dumps(body).encode(), status, **headers), secret=SECRET)
    assert error is not None
    return error


RECORDED: dict[str, tuple[type[errors.UnpodError], str, object, Kind]] = {
    "09": (errors.BusinessError, "Runs Fetch Failed", '{"detail":"skip must be >= 0"}', Kind.NEVER),
    "10": (errors.BusinessError, "Runs Fetch Failed", "Internal Server Error", Kind.TWICE_MORE),
    "11": (errors.BusinessError, "Invalid Space Token", None, Kind.NEVER),
    "12": (errors.BusinessError, "You Don't have Access to this Space", None, Kind.NEVER),
    "13": (errors.BusinessError,
           "You Don't have Access to do operation to this Space", None, Kind.NEVER),
    "14": (errors.AuthenticationError,
           "Authentication credentials were not provided.", None, Kind.NEVER),
    "15": (errors.AuthenticationError, "Invalid token.", None, Kind.NEVER),
    "16": (errors.AuthenticationError, "Unauthorized Access: Expired Auth Token", None, Kind.NEVER),
    "17": (errors.AuthenticationError,
           "Authentication credentials were not provided.", None, Kind.NEVER),
    "18": (errors.UnexpectedRedirect,
           "spaces/S/tasks/ redirects to /api/v2/platform/spaces/AAAA1111BBBB2222CCCC3333/tasks/"
           "?page=2&page_size=1; redirects are not followed", None, Kind.NEVER),
    "20": (errors.ServerError,
           "the server answered 500 with text/html and no message", None, Kind.TRANSIENT),
}  # fmt: skip


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_what_the_real_server_said(path: Path) -> None:
    sample = json.loads(path.read_text())
    body = sample["body"] if isinstance(sample["body"], str) else json.dumps(sample["body"])
    headers = {name.lower(): text for name, text in sample["headers"].items()}
    error = error_for(REQUEST, Response(sample["status"], headers, body.encode()))
    if sample["status"] == 200:
        assert error is None
        return
    assert error is not None
    found = (type(error), error.message, error.errors, kind_of_answer(error))
    assert found == RECORDED[path.stem[:2]]
    assert len(error.body) <= 500
    assert error.retry_after is None


HTML_502 = "<html><body><a href='#main'>skip to content</a><h1>502 Bad Gateway</h1></body></html>"


@pytest.mark.parametrize(
    ("message", "more", "kind"),
    [
        ("Invalid Space Token", {}, Kind.NEVER),
        ("You Don't have Access to this Space", {"errors": None}, Kind.NEVER),
        ("Invalid Space Token", {"errors": "Internal Server Error"}, Kind.NEVER),
        ("Runs Fetch Failed", {}, Kind.NEVER),
        ("Runs Fetch Failed", {"errors": '{"detail":"skip must be >= 0"}'}, Kind.NEVER),
        ("Tasks Fetch Failed", {"errors": {"detail": "skip must be >= 0"}}, Kind.NEVER),
        ("Tasks Fetch Failed", {"errors": "Regular expression is invalid: missing )"}, Kind.NEVER),
        ("Tasks Fetch Failed", {"errors": "$regex has to be a string"}, Kind.NEVER),
        ("Tasks Fetch Failed",
         {"errors": ["MongoDB can only handle up to 8-byte ints"]}, Kind.NEVER),
        ("Tasks Fetch Failed", {"errors": "Internal Server Error"}, Kind.TWICE_MORE),
        ("Tasks Fetch Failed", {"errors": ""}, Kind.TWICE_MORE),
        ("Tasks Fetch Failed", {"errors": []}, Kind.TWICE_MORE),
        ("Tasks Fetch Failed", {"errors": {"detail": "Too Many Requests"}}, Kind.TWICE_MORE),
        ("Tasks Fetch Failed", {"errors": HTML_502}, Kind.TWICE_MORE),
        ("Runs Fetch Failed", {"errors": "Cannot connect to host tasks:8000"}, Kind.TWICE_MORE),
        ("Error fetching runs", {"errors": "Detailed error description"}, Kind.TWICE_MORE),
        ("Failed to retrieve tasks", {"errors": "timeout"}, Kind.TWICE_MORE),
    ],
)  # fmt: skip
def test_the_three_meanings_of_a_206(message: str, more: dict[str, Any], kind: Kind) -> None:
    error = of_json(206, {"status_code": 206, "message": message, "data": {}, **more})
    assert type(error) is errors.BusinessError
    assert error.message == message
    assert error.errors == more.get("errors")
    assert kind_of_answer(error) is kind


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"\xff\xfe", b"{", BODY, b"<html>", b"0"])
def test_a_206_is_an_error_whatever_its_body(body: bytes) -> None:
    error = error_for(REQUEST, answer(body, 206))
    assert isinstance(error, errors.BusinessError)
    assert error.message == "the server answered 206 with nothing and no message"
    assert kind_of_answer(error) is Kind.NEVER


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, {"status_code": 400, "message": "Organization handle is required", "data": {}},
         "Organization handle is required"),
        (403, {"status_code": 403, "message": "Token has expired."}, "Token has expired."),
        (404, {"message": "Space not found"}, "Space not found"),
        (429, {"error": {"code": "rate_limit_exceeded", "message": "Slow down"}}, "Slow down"),
        (401, {"message": "Unauthorized", "error": "Unauthorized"}, "Unauthorized"),
        (401, {"message": ["x"], "error": {"message": 7}},
         "the server answered 401 with nothing and no message"),
        (500, ["message"], "the server answered 500 with nothing and no message"),
        (500, {"message": "two\nlines \u202e\x1b[31m"}, "two\\u000alines \\u202e\\u001b[31m"),
        (500, {"message": "x" * 10_000}, "x" * 499 + "…"),
    ],
)  # fmt: skip
def test_the_message_in_the_forms_seen(status: int, body: Any, message: str) -> None:
    assert of_json(status, body).message == message


def test_two_megabytes_of_html_become_500_harmless_characters() -> None:
    page = b"<html>\x1b]0;owned\x07\r\n\xe2\x80\xae\xff" + b"<p>Bad Gateway</p>" * 110_000
    error = error_for(REQUEST, answer(page, 502, content_type="text/html; charset=utf-8"))
    assert error is not None
    assert error.message == "the server answered 502 with text/html and no message"
    assert error.body.startswith("<html>\\u001b]0;owned\\u0007\\u000d\\u000a\\u202e�<p>Bad")
    assert len(error.body) == 500
    assert error.body.isprintable()


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"message":"\\ud800"}', b'{"message":"\xff"}'])
def test_an_error_whose_json_cannot_be_read_is_still_that_error(body: bytes) -> None:
    error = error_for(REQUEST, answer(body, 404))
    assert isinstance(error, errors.NotFound)
    assert "no message" in error.message


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        *((value, value) for value in (None, True, 7, 1.5, [], {}, ["a", {"b": [None, 1]}])),
        ("a\nb", "a\\u000ab"),
        ({"a\x1b": ["\u202e"]}, {"a\\u001b": ["\\u202e"]}),
        (["x" * 300, "y" * 300], '["' + "x" * 300 + '","' + "y" * 194 + "…"),
        ([[[[[[[[["deep"]]]]]]]]], [[[[[[[['["deep"]']]]]]]]]),
    ],
)
def test_the_servers_errors_are_kept_harmless_and_small(sent: Any, kept: Any) -> None:
    assert of_json(400, {"message": "no", "errors": sent}).errors == kept


@given(st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
))  # fmt: skip
def test_any_json_at_all_makes_an_error_fit_to_print(body: Any) -> None:
    for form in (body, {"message": body, "error": body, "errors": body}):
        error = of_json(206, form)
        kind_of_answer(error)
        assert len(error.message) <= 500 and len(error.body) <= 500
        assert not set("\n\r\x00\x1b\u2028\u202e") & set(f"{error} {error.errors} {error.body}")


def test_a_body_that_does_not_inflate_does_not_hide_the_status() -> None:
    for body, encoding in ((ZIPPED[:20], "gzip"), (b"", "gzip"), (b"x", "br")):
        wrong = answer(body, 429, content_encoding=encoding, retry_after="7")
        error = error_for(REQUEST, wrong)
        assert isinstance(error, errors.RateLimited)
        assert (error.retry_after, error.body) == (7.0, "")
    zipped = answer(gzip.compress(b'{"message": "No."}'), 404, content_encoding="gzip")
    assert str(error_for(REQUEST, zipped)).startswith("404: No.")


# -- answers that echo the token -----------------------------------------------------

ECHOES: dict[str, Callable[[str], str]] = {
    "plain": str,
    "quoted": partial(quote, safe=""),
    "base64": lambda token: base64.b64encode(token.encode()).decode(),
}


@pytest.mark.parametrize("token", [CANARY, "S3CR3T/+=%CANARY", "x1y2" * 1000])
@pytest.mark.parametrize("echo", ECHOES.values(), ids=list(ECHOES))
@pytest.mark.parametrize("padding", [0, 45, 195, 490, 499])
def test_a_token_that_the_server_echoes_is_nowhere_in_the_error(
    token: str, echo: Callable[[str], str], padding: int
) -> None:
    """Nor the part of it that a cut at 500 characters, or any other, would leave."""
    text = "-" * padding + echo(token)
    body = {"message": text, "error": text, "errors": {text: [text], "list": text}}
    for status in (206, 302, 400, 500):
        for content in (json.dumps(body).encode(), text.encode() * 20, text.encode()):
            headers = {"location": text, "content-type": text, "retry-after": text}
            response = Response(status, headers, content)
            error = error_for(REQUEST, response, secret=Secret(token))
            assert error is not None
            shown = f"{error!r} {error} {vars(error)}".replace("\\\\", "\\")
            assert echo(token)[:8] not in shown


def test_an_excerpt_hides_a_token_behind_many_others() -> None:
    token = "x1y2" * 150
    assert excerpt(token.encode() * 100, Secret(token)) == "***" * 100


# -- answers: how long to wait -------------------------------------------------------

NOW = datetime(2026, 11, 21, 23, 32, 9, tzinfo=UTC)


def http_date(seconds: float) -> str:
    return format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        *(({"retry-after": text}, float(text)) for text in ("0", "3", "0.25", "120", "999999999")),
        ({"retry-after": " 3 "}, 3.0),
        *(({"retry-after": text}, None) for text in (
            "", "-1", "+3", "3s", "1e3", "inf", "nan", "3,5", "3, 5", "0x3", "1_0", "٣", "soon",
            "9999999999", "3.", ".5", "Sat, 99 Foo 2026 99:99:99 GMT", "\ud800", "\0", "9" * 8000,
        )),
        ({"retry-after": http_date(5)}, 5.0),
        ({"retry-after": http_date(-5)}, 0.0),
        ({"retry-after": "Sunday, 22-Nov-26 00:32:09 GMT"}, 3600.0),
        ({"retry-after": "Sun Nov 22 00:32:09 2026"}, 3600.0),
        ({"retry-after": "Sun, 22 Nov 2026 00:32:09 +0000"}, 3600.0),
        ({"retry-after": "Sun, 22 Nov 2026 06:02:09 +0530"}, 3600.0),
        ({"retry-after": http_date(5), "date": ""}, None),
        ({"retry-after": http_date(5), "date": "today"}, None),
        ({"retry-after": "3", "date": "today"}, 3.0),
        ({"x-ratelimit-reset": str(int(NOW.timestamp()) + 9), "x-ratelimit-remaining": "0"}, 9.0),
        ({"x-ratelimit-reset": "1", "x-ratelimit-remaining": "0"}, 0.0),
        ({"x-ratelimit-reset": str(int(NOW.timestamp()) + 9), "x-ratelimit-remaining": "1"}, None),
        ({"x-ratelimit-reset": str(int(NOW.timestamp()) + 9)}, None),
        ({"x-ratelimit-reset": "soon", "x-ratelimit-remaining": "0"}, None),
        ({"x-ratelimit-reset": "9", "x-ratelimit-remaining": "0", "date": "?"}, None),
        ({"retry-after": "4", "x-ratelimit-reset": "1", "x-ratelimit-remaining": "0"}, 4.0),
    ],
    ids=lambda value: repr(value)[:60],
)  # fmt: skip
def test_how_long_the_server_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after({"date": http_date(0), **headers}) == seconds


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=15))
def test_no_header_makes_retry_after_raise(value: str, date: str, reset: str) -> None:
    for headers in (
        {"retry-after": value, "date": date},
        {"retry-after": http_date(3) + value, "date": http_date(0)},
        {"x-ratelimit-reset": reset, "x-ratelimit-remaining": "0", "date": http_date(0)},
    ):
        wait = retry_after(headers)
        assert wait is None or 0 <= wait < float("inf")


def test_nothing_here_waits_or_reads_a_clock() -> None:
    source = Path(_protocol.__file__).read_text()
    assert not any(word in source for word in ("await ", "async ", "import time", ".now("))


def test_a_filter_text_is_sent_as_it_is() -> None:
    assert text_filter("search", "a+b c") == "a+b c"
