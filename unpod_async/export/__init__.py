"""Exports: rows as the server sent them, in files that are whole or not there at all."""

from ._files import SUFFIXES, LinesFile, open_lines

__all__ = ["SUFFIXES", "LinesFile", "open_lines"]
