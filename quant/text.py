"""Text from files and file names, made safe to print."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with control and invisible characters escaped, so that a terminal obeys none of it."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
