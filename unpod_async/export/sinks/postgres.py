"""PostgreSQL: `postgresql://USER@HOST/DATABASE`, `postgres://…`, as libpq reads them.

`PGPASSWORD`, `PGHOST` and the others of libpq's variables count too. JSON columns are `json`,
which keeps them as they were sent, escaped NULs included; times are TIMESTAMPTZ. A text cannot
hold a NUL there: it becomes U+FFFD, and the notes tell how often. One export at a time has an
advisory lock of the schema, which needs a session of its own: a pooler that shares sessions
between transactions does not do.
"""

from __future__ import annotations

import os
import re
from typing import Any, ClassVar
from urllib.parse import unquote

from unpod_async._missing import needs
from unpod_async._secrets import Secret, redact, safe_text
from unpod_async.errors import ConfigurationError
from unpod_async.export._batch import row_hash
from unpod_async.export._schema import TIME
from unpod_async.export._state import Kind

from ._adbc import AdbcSink
from ._database import Database, plain

with needs("postgres", "pyarrow", "adbc_driver_postgresql", "adbc_driver_manager"):
    import pyarrow as pa
    import pyarrow.compute as pc
    from adbc_driver_postgresql import dbapi

__all__ = ["make"]

NUL, INSTEAD = "\0", "\ufffd"
LOCK = "hashtextextended('unpod_export ' || current_schema(), 0)"


def make(target: str, kind: Kind, columns: tuple[str, ...] | None) -> AdbcSink:
    return AdbcSink(Postgres(target), kind, columns)


class Postgres(Database):
    types: ClassVar = {
        pa.string(): "TEXT",
        pa.json_(): "JSON",
        pa.int64(): "BIGINT",
        pa.float64(): "DOUBLE PRECISION",
        TIME: "TIMESTAMPTZ",
    }
    names_columns: ClassVar = True

    def __init__(self, url: str) -> None:
        if "://" not in url:
            raise ConfigurationError("PostgreSQL is postgresql://USER@HOST/DATABASE")
        self._url = Secret(url)
        self.target, self._secrets = _without_password(url)
        self._replaced = 0

    def connect(self, *, read_only: bool = False) -> Any:
        if _is_split(self._url.reveal()):
            # libpq would take a part of it for the host, and tell that.
            raise ConfigurationError(
                f"{self.target}: of the password each @ / : ? # and blank is written %40 %2F %3A …"
            )
        try:
            link = dbapi.connect(self._url.reveal(), autocommit=True)
        except dbapi.Error as error:
            # Here nothing can be of a row, and the names of hosts and users help.
            text = self._redacted(" ".join(str(error).split()))
            raise ConfigurationError(f"{self.target}: {safe_text(text, limit=300)}") from None
        if read_only:
            with link.cursor() as cursor:
                cursor.execute("SET default_transaction_read_only = on")
        return link

    def settle(self, cursor: Any) -> None:
        cursor.execute("SET jit = off")
        cursor.execute("SELECT current_schema()")
        if cursor.fetchall()[0][0] is None:
            raise ConfigurationError(f"{self.target}: no schema of its search_path is there")
        # Not at once: of an export that was killed the server may not know yet.
        cursor.execute("SET lock_timeout = '2s'")
        try:
            cursor.execute(f"SELECT 1 FROM pg_advisory_lock({LOCK})")
            cursor.fetchall()
        except dbapi.Error as error:
            if error.sqlstate != "55P03":
                raise
            raise ConfigurationError(f"another export is writing to {self.target}") from None
        cursor.execute("SET lock_timeout = 0")

    def columns_of(self, table: str) -> str:
        return (
            "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a "
            "JOIN pg_class c ON c.oid = a.attrelid WHERE a.attnum > 0 AND NOT a.attisdropped AND "
            f"c.relname = '{table}' AND c.relnamespace = current_schema()::regnamespace "
            "ORDER BY a.attnum"
        )

    def indexes_of(self, table: str) -> str:
        return (
            "SELECT indexname::text FROM pg_indexes "
            f"WHERE schemaname = current_schema() AND tablename = '{table}'"
        )

    def held(self, rows: pa.Table) -> pa.Table:
        """Without NULs in its texts, and the `row_hash` that this makes."""
        changed = {
            at: column
            for at, column in enumerate(rows.columns)
            if column.type == pa.string() and pc.any(pc.match_substring(column, NUL)).as_py()
        }
        if not changed:
            return rows
        arrays = list(rows.columns)
        for at, column in changed.items():
            self._replaced += pc.sum(pc.count_substring(column, NUL)).as_py()
            arrays[at] = pc.replace_substring(column, NUL, INSTEAD)
        made = pa.Table.from_arrays(arrays, schema=rows.schema)
        return _hashed(made) if "row_hash" in rows.schema.names else made

    def text(self, sent: str) -> str:
        return sent.replace(NUL, INSTEAD)

    def notes(self) -> list[str]:
        if not self._replaced:
            return []
        return [f"{self._replaced} NUL characters, which PostgreSQL cannot hold, are U+FFFD there"]

    def refusal(self, error: Exception) -> str | None:
        state = getattr(error, "sqlstate", None)
        if state == "25006":
            return "it can only be read"
        return None

    def harmless(self, text: str) -> str:
        state = re.search(r"SQLSTATE: (\w{5})", text)
        if told := re.search(r"(?:ERROR|FATAL): +(.*)", text):  # without the statement before it
            text = told[1]
        said = super().harmless(self._redacted(text))
        return f"{said} ({state[1]})" if state else said

    def _redacted(self, text: str) -> str:
        text = text.replace(self._url.reveal(), self.target)
        secrets = [secret.reveal() for secret in self._secrets]
        for secret in {*secrets, os.environ.get("PGPASSWORD", "")}:
            if secret:
                text = redact(text, Secret(secret)).replace(secret, "***")
        # What libpq took for a port or a host may be half a password that was not escaped.
        hidden = "".join(secrets)
        return re.sub(r'"([^"]+)"', lambda m: '"…"' if m[1] in hidden else m[0], text)


def _hashed(rows: pa.Table) -> pa.Table:
    at = rows.schema.get_field_index("row_hash")
    columns = [column.to_pylist() for column in plain(rows).columns]
    del columns[at]
    hashes = pa.array(map(row_hash, zip(*columns, strict=True)), pa.int64())
    return rows.set_column(at, rows.schema.field(at), hashes)


_SPECIAL = re.compile(r"[@/:?#\s]")


def _without_password(url: str) -> tuple[str, list[Secret]]:
    """The URL as it may be told, and what was taken out, as it stands there and decoded. All
    up to the last @ counts as user and password: one that is not escaped must not show."""
    scheme, _, rest = url.partition("://")
    rest, mark, query = rest.partition("?")
    if "@" in query:
        return safe_text(f"{scheme}://***"), [Secret(url)]
    before, at, place = rest.rpartition("@")
    user, _, password = before.partition(":")
    shown, found = [], [password]
    for option in filter(None, query.split("&")):
        name, _, value = option.partition("=")
        if unquote(name).lower() in ("password", "sslpassword"):
            found.append(value)
        else:
            shown.append(option)
    forms = [form for text in found if text for form in (text, unquote(text))]
    told = f"{scheme}://{user}{at}{place}{mark if shown else ''}{'&'.join(shown)}"
    return safe_text(told), list(map(Secret, forms))


def _is_split(url: str) -> bool:
    """Whether the password has characters that end it: libpq would take what is behind them
    for a host, and tell it."""
    before = url.partition("://")[2].rpartition("@")[0]
    return bool(_SPECIAL.search(before.partition(":")[2]))
