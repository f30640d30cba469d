"""Paths in targets, and what the databases that are files say alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unpod_async.errors import ConfigurationError

if TYPE_CHECKING:
    from ._database import Database
    from ._database_file import DatabaseFile

__all__ = ["path_of", "replace", "tables_there"]


def path_of(target: str, scheme: str) -> str:
    """The path in `PATH`, `scheme:PATH` or `scheme://PATH` (of which `scheme:///PATH` is
    absolute). Raises `ConfigurationError` if there is none."""
    path = target.removeprefix(f"{scheme}:")
    if path != target and path.startswith("//"):
        path = path[2:]
    if not path or path.endswith("/") or "\0" in path or path == ":memory:":
        raise ConfigurationError(f"{scheme}:PATH needs the path of a file")
    return path


def replace(database: Database, file: DatabaseFile, *, cleared: bool) -> None:
    if (what := database.unreadable()) is not None:
        if not cleared:
            raise ConfigurationError(what)
        file.replace()


def tables_there(target: str, names: list[tuple[str]]) -> str | None:
    if not names:
        return None
    return f"{target} has other tables: {', '.join(name for (name,) in names)}"
