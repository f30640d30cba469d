"""Exports: a whole list into files and databases, or into tables in memory.

`export_to()` does what `unpod-async export` does; `to_arrow()`, `to_polars()`, `to_pandas()` and
`record_batches()` take any list, and need the extra that their error names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._frames import export_to, record_batches, to_arrow, to_pandas, to_polars
    from ._state import Receipt

__all__ = ["Receipt", "export_to", "record_batches", "to_arrow", "to_pandas", "to_polars"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "Receipt":
        from ._state import Receipt

        return Receipt
    from . import _frames

    return getattr(_frames, name)


def __dir__() -> list[str]:
    return __all__
