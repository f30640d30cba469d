"""Paths in targets, and whether the tables that are there are those of an export."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from unpod_async.errors import ConfigurationError

__all__ = ["check_columns", "path_of"]


def path_of(target: str, scheme: str) -> str:
    """The path in `PATH`, `scheme:PATH` or `scheme://PATH` (of which `scheme:///PATH` is
    absolute). Raises `ConfigurationError` if there is none."""
    path = target.removeprefix(f"{scheme}:")
    if path != target and path.startswith("//"):
        path = path[2:]
    if not path or path.endswith("/") or "\0" in path or path == ":memory:":
        raise ConfigurationError(f"{scheme}:PATH needs the path of a file")
    return path


def check_columns(target: str, table: str, have: Collection[str], wanted: Iterable[str]) -> None:
    """Raises `ConfigurationError` for a table that is gone, or is another export's."""
    if not have:
        raise ConfigurationError(f"{target}: its table {table} is gone")
    if lacking := [name for name in wanted if name not in have]:
        raise ConfigurationError(
            f"{target}: its table {table} is of another export or version: "
            f"it has no column {', '.join(lacking[:3])}"
        )
