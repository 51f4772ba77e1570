"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path

from localmoe.errors import UsageError


def expanded(path: str | Path) -> Path:
    """`path` with a `~` or `~user` at its start replaced. Raises `UsageError` for what can be no path."""
    if "\0" in str(path):
        raise UsageError(f"{str(path)!r} is no path: it holds a NUL character")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path}: no such home directory is known; write the path in full") from error
