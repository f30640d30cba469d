"""The flags that commands share, each declared once, and the client they describe."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from unpod_async._secrets import safe_text
from unpod_async.errors import ConfigurationError

from ._terminal import tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cyclopts import Token

    from unpod_async import Listing, UnpodClient
    from unpod_async._client import SpaceHandle

MAX_TOKEN_FILE = 65_536


def moment(_: object, tokens: Sequence[Token]) -> datetime | float:
    """A time on the command line: Unix seconds, or ISO 8601 with a zone."""
    text = tokens[0].value
    try:
        seconds = float(text)
    except ValueError:
        seconds = None
    if seconds is not None:
        try:
            datetime.fromtimestamp(seconds, UTC)
        except (ValueError, OverflowError, OSError):
            raise ValueError("takes Unix seconds of the years 1 to 9999") from None
        return seconds
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("takes ISO 8601 such as 2026-01-16T13:30:00Z, or Unix seconds") from None
    if when.tzinfo is None:
        raise ValueError("needs a time zone, such as Z or +05:30 at its end")
    return when


def duration(_: object, tokens: Sequence[Token]) -> float:
    """A length of time on the command line, as seconds: a number with s, m, h or d."""
    text = tokens[0].value.strip()
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}.get(text[-1:])
    try:
        seconds = float(text[:-1]) * (unit or -1.0)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise ValueError("takes a length of time such as 90m, 24h or 7d")
    return seconds


def whole(_: object, tokens: Sequence[Token]) -> int:
    """A whole number on the command line: cyclopts itself would round."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError("takes a whole number") from None


def names(_: object, tokens: Sequence[Token]) -> list[str]:
    """Names with commas between them, or the option several times."""
    found = [name for token in tokens for name in token.value.split(",") if name]
    if not found:
        raise ValueError("takes one name or more")
    return found


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """What every command that reads from the platform takes."""

    base_url: Annotated[
        str | None, Parameter(env_var="UNPOD_BASE_URL", help="The platform's address.")
    ] = None
    org_handle: Annotated[
        str | None, Parameter(env_var="UNPOD_ORG_HANDLE", help="The organization's domain handle.")
    ] = None
    token_file: Annotated[
        str | None,
        Parameter(help="File that holds the API token. Without it: UNPOD_API_TOKEN."),
    ] = None
    auth_scheme: Annotated[
        Literal["Token", "Bearer"], Parameter(help="Word before the token in the header.")
    ] = "Token"
    page_size: Annotated[
        int,
        Parameter(
            converter=whole, validator=Number(gte=1, lte=100_000), help="Rows to ask for at once."
        ),
    ] = 500
    concurrency: Annotated[
        int | None,
        Parameter(
            converter=whole,
            validator=Number(gte=1, lte=1000),
            help="Pages to read at once [default: 4], or runs with --via runs [default: 16].",
        ),
    ] = None
    limit: Annotated[
        int | None,
        Parameter(converter=whole, validator=Number(gte=0), help="Stop after so many rows."),
    ] = None
    quiet: Annotated[
        bool,
        Parameter(
            negative="", show_default=False, help="No progress and no summary; errors all the same."
        ),
    ] = False
    json: Annotated[
        bool,
        Parameter(negative="", show_default=False, help="Tell the summary as one JSON object."),
    ] = False

    def lanes(self, usual: int = 4) -> int:
        """How many pages or runs to read at once; no more than --limit can use."""
        lanes = self.concurrency or usual
        return lanes if self.limit is None else min(lanes, -(-self.limit // self.page_size) or 1)

    @property
    def shows_progress(self) -> bool:
        return sys.stderr.isatty() and not self.quiet

    @property
    def rows_a_page(self) -> int:
        return self.page_size if not self.limit else min(self.page_size, self.limit)

    def token(self) -> str:
        """The token itself, to be handed to another process over a pipe."""
        if self.token_file is not None:
            return read_token(self.token_file)
        return os.environ.get("UNPOD_API_TOKEN") or os.environ.get("UNPOD_PLATFORM_TOKEN", "")

    def client(self, lanes: int) -> UnpodClient:
        """A client as the flags say, not yet open. Raises `ConfigurationError`."""
        from unpod_async import Limits, RetryPolicy, UnpodClient

        return UnpodClient(
            token=None if self.token_file is None else read_token(self.token_file),
            base_url=self.base_url or None,
            org_handle=self.org_handle or None,
            auth_scheme=self.auth_scheme,
            limits=Limits(max_concurrency=max(8, lanes)),
            retry=RetryPolicy(outage_wait=300),
        )


@dataclass(frozen=True, kw_only=True)
class Place:
    """The space, first in the help."""

    space: Annotated[
        str | None, Parameter(env_var="UNPOD_SPACE_TOKEN", help="The space's token.")
    ] = None

    def space_of(self, client: UnpodClient) -> SpaceHandle:
        return named_space(client, self.space)


def named_space(client: UnpodClient, token: str | None) -> SpaceHandle:
    if not token:
        raise ConfigurationError(
            "no space is named: pass --space or set UNPOD_SPACE_TOKEN "
            "(`unpod-async spaces` lists them)"
        )
    return client.space(token)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SpaceOptions(Options, Place):
    """What every command that reads from a space takes."""


DEFAULTS = SpaceOptions()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """What an export takes of the options that all commands share, with several spaces."""

    space: Annotated[
        list[str] | None,
        Parameter(
            env_var="UNPOD_SPACE_TOKEN",
            negative="",
            help="The space's token; may be repeated.",
        ),
    ] = None

    def spaces_of(self, client: UnpodClient) -> list[SpaceHandle]:
        return [named_space(client, token) for token in dict.fromkeys(self.space or [""])]


SEVERAL = ExportOptions()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TaskFilters:
    """Which tasks; the server chooses."""

    summary_status: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            help="Status that the evaluation gave the call; may be given several times.",
        ),
    ] = None
    search: Annotated[str | None, Parameter(help="Regular expression over names and numbers.")] = (
        None
    )
    call_type: Annotated[str | None, Parameter(help="inbound, outbound ...")] = None
    created_from: Annotated[
        datetime | float | None,
        Parameter(converter=moment, help="Created then or later: ISO 8601 or Unix seconds."),
    ] = None
    created_to: Annotated[
        datetime | float | None,
        Parameter(converter=moment, help="Created then or earlier, in the same forms."),
    ] = None
    user_id: Annotated[str | None, Parameter(help="Tasks of this user.")] = None
    thread_id: Annotated[str | None, Parameter(help="Tasks of this thread.")] = None

    def tasks(self, space: SpaceHandle, run: str | None, page_size: int) -> Listing[Any]:
        """The list of the space's tasks, or of one run's. Raises `ConfigurationError`."""
        if run is None:
            return space.tasks(page_size=page_size, **self.given())
        if self.given():
            raise ConfigurationError("--run takes no filters: the server has none for a run")
        return space.run(run).tasks(page_size=page_size)

    def given(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


NO_FILTERS = TaskFilters()


def read_token(path: str) -> str:
    """The token in a file, without the line end behind it. Tells on stderr if others may
    read the file too. Raises `ConfigurationError`, which never quotes what is in it."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MAX_TOKEN_FILE)
        token = content.decode()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(f"the token file {path} cannot be read: {reason}") from None
    if stat.S_ISREG(mode) and mode & 0o077:
        tell(
            f"warning: {safe_text(path)} is open to others (mode {stat.S_IMODE(mode):04o}); "
            "chmod 600 makes it yours alone"
        )
    return token.removesuffix("\n").removesuffix("\r")
