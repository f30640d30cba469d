"""DuckDB: `x.duckdb`, `duckdb:PATH`.

The tables have JSON columns as JSON and times as TIMESTAMPTZ, and no primary key: DuckDB would
keep its index in memory, 70 bytes a row. While an export runs, the file is locked by it and by
DuckDB: nobody else can write to it or read it, but for a moment each `COMMITS`.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from typing import Any, ClassVar

import backoff

from unpod_async._missing import needs
from unpod_async.errors import ExportError
from unpod_async.export._schema import TIME
from unpod_async.export._state import Kind

from ._adbc import AdbcSink
from ._database import quoted
from ._database_file import DatabaseFile, FileDatabase
from ._targets import path_of

with needs("duckdb", "pyarrow", "duckdb", "_duckdb", "adbc_driver_duckdb", "adbc_driver_manager"):
    import adbc_driver_duckdb
    import pyarrow as pa
    from adbc_driver_manager import AdbcConnection, AdbcDatabase, dbapi

__all__ = ["make"]

MEMORY = 180  # MB
SETTINGS = {
    "memory_limit": f"{MEMORY}MB",
    "checkpoint_threshold": "32MB",
    "threads": "1",
    "preserve_insertion_order": "false",
}
"""So that an export of any length stays small: rows come more slowly than one thread writes them,
and each thread holds memory. Rows have no order but that of their columns. With a log of 32 MB
updates take a quarter less time than with the usual 16; a longer one saves no more."""
GROUP = 20_480
"""Rows of a row group. The last one of a table is written anew whenever rows are added: with the
usual 122,880 that takes twice the time of all else, and of 40,960 updates take an eighth more."""
COMMITS = 20
"""After which the file is attached anew: of all that was written since, DuckDB keeps where it lies,
40 bytes a row."""
PATIENCE = 10.0
"""Seconds in which another program that has taken the file in between may let it go again."""
HELD = "another program has it open"
SESSION = '"unpod.session"'
"""Where the database is attached: only then it takes a size of groups. No file gives this name."""


def make(target: str, kind: Kind, columns: tuple[str, ...] | None) -> AdbcSink:
    return AdbcSink(DuckDB(path_of(target, "duckdb")), kind, columns)


class DuckDB(FileDatabase):
    types: ClassVar = {
        pa.string(): "VARCHAR",
        pa.json_(): "JSON",
        pa.int64(): "BIGINT",
        pa.float64(): "DOUBLE",
        TIME: "TIMESTAMPTZ",
    }
    called: ClassVar = "DuckDB"
    others_sql: ClassVar = (
        "SELECT table_name FROM information_schema.tables "
        "WHERE table_catalog = current_database() ORDER BY 1 LIMIT 3"
    )
    names_columns: ClassVar = False
    has_keys: ClassVar = False

    def __init__(self, path: str) -> None:
        file = DatabaseFile(
            path, beside=(".wal",), empty=_empty, is_ours=lambda head: head[8:12] == b"DUCK"
        )
        super().__init__(file)
        self._name = ""
        self._commits = 0

    def connect(self, *, read_only: bool = False) -> Any:
        self._file.check_closed()
        if read_only:
            return _connect(self.target, SETTINGS | {"access_mode": "READ_ONLY"})
        link = _connect(":memory:", SETTINGS | {"temp_directory": str(self._file.scratch)})
        try:
            with link.cursor() as cursor:
                cursor.execute(f"ATTACH ':memory:' AS {SESSION}")
                cursor.execute(f"USE {SESSION}")
                cursor.execute("DETACH memory")
                self._attach(cursor)
        except BaseException:
            link.close()
            raise
        return link

    def _attach(self, cursor: Any) -> None:
        """By the name that DuckDB gives it, which may stand in what is stored there."""
        self._commits = 0
        self._file.protect(".wal")
        path = self.target.replace("'", "''")
        cursor.execute(f"ATTACH '{path}' (TYPE duckdb, ROW_GROUP_SIZE {GROUP})")
        cursor.execute(
            "SELECT database_name FROM duckdb_databases() "
            "WHERE NOT internal AND database_name <> current_database()"
        )
        self._name = quoted(cursor.fetchone()[0].replace('"', '""'))
        cursor.execute(f"USE {self._name}.main")

    def before(self, cursor: Any) -> None:
        self._check(cursor)
        if self._commits >= COMMITS:
            cursor.execute(f"USE {SESSION}")
            cursor.execute(f"DETACH {self._name}")
            self._attach_again(cursor)
            self._file.mark()

    def _attach_again(self, cursor: Any) -> None:
        """Once whoever took the file in between has let it go. Raises `ExportError` if it is not as
        it was by then."""
        before = os.stat(self.target)
        waits: list[Any] = []
        attach = backoff.on_exception(
            backoff.constant,
            self.errors(),
            interval=0.01,
            jitter=None,
            max_time=PATIENCE,
            giveup=lambda error: self.refusal(error) != HELD,
            on_backoff=waits.append,
            logger=None,
        )
        attach(self._attach)(cursor)
        if waits and os.stat(self.target).st_mtime_ns != before.st_mtime_ns:
            raise ExportError(f"{self.target} was changed by another program meanwhile")

    def _check(self, cursor: Any, *, changing: bool = False) -> None:
        try:
            self._file.check(changing=changing)
        except ExportError:
            # Else it would write over what another one wrote when it is closed.
            cursor.execute("PRAGMA disable_checkpoint_on_shutdown")
            raise

    def expect_update(self, cursor: Any, size: int) -> None:
        """What a transaction changes stays in memory until its end, three times."""
        cursor.execute(f"SET memory_limit = '{MEMORY + (4 * size >> 20)}MB'")

    def before_commit(self, cursor: Any) -> None:
        self._check(cursor, changing=True)
        self._commits += 1
        self._file.protect(".wal")

    def after(self) -> None:
        self._file.mark()

    def finish(self, cursor: Any) -> None:
        self._check(cursor)
        cursor.execute("CHECKPOINT")
        self._file.mark()

    def abandon(self, cursor: Any) -> None:
        with suppress(Exception):  # what matters is what the check forbids
            self._check(cursor)

    # It needs no index of turns: it scans as fast, and a key could not be deleted and inserted in
    # one transaction.

    def columns_of(self, table: str) -> str:
        return (
            "SELECT column_name, data_type FROM duckdb_columns() WHERE NOT internal AND "
            "database_name = current_database() AND schema_name = current_schema() AND "
            f"table_name = '{table}' ORDER BY column_index"
        )

    def refusal(self, error: Exception) -> str | None:
        text = str(error)
        if "Conflicting lock" in text or "Could not set lock" in text:
            return HELD
        if "not a valid DuckDB database" in text:
            return "it is no DuckDB database"
        return None


def _connect(path: str, settings: dict[str, str]) -> Any:
    """By ADBC's own class: the driver's `connect` takes no settings."""
    database = AdbcDatabase(
        driver=adbc_driver_duckdb.driver_path(),
        entrypoint="duckdb_adbc_init",
        path=path,
        **settings,
    )
    try:
        return dbapi.Connection(database, AdbcConnection(database), autocommit=True)
    except BaseException:
        database.close()
        raise


def _empty() -> bytes:
    """The bytes of an empty database: DuckDB itself takes no file that is there and empty, and
    would make one that the umask lets others read."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "empty.duckdb")
        _connect(path, {}).close()
        with open(path, "rb") as file:
            return file.read()
