"""What is said when a package of an extra is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import ConfigurationError

__all__ = ["needs"]


@contextmanager
def needs(extra: str, *packages: str) -> Iterator[None]:
    """Around an import: if one of these packages is missing, say which extra has it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in packages:
            raise
        raise ConfigurationError(
            f'{error.name} is not installed: pip install "unpod-async[{extra}]"'
        ) from None
