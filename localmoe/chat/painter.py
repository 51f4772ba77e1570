"""The open end of an append-only terminal output: rows that may still change, below text that never does.

Only rows that are still on the screen are ever rewritten, so the scrollback stays whole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TextIO

from rich.cells import cell_len

_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"  # a terminal that knows synchronized updates shows both at once
_TAB = 4


class Wrapper:
    """Cuts one growing line into rows of at most `width` cells, between words where possible.

    A token adds a few characters to a line of perhaps thousands: what is settled is not cut again.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._rows: list[str] = []  # full ones
        self._row, self._used = "", 0  # the last one, and its cells
        self._open = ""  # a word, or white space, that may still grow

    def feed(self, text: str) -> None:
        """Append `text`, which holds no line break."""
        for part in re.findall(r"\s+|\S+", text.expandtabs(_TAB)):
            if self._open and part.isspace() == self._open.isspace():
                self._open += part
            else:
                self._rows, self._row, self._used = self._placed()
                self._open = part

    def rows(self) -> list[str]:
        """The rows of the line so far; at least one."""
        rows, row, _ = self._placed()
        return [*rows, row]

    def _placed(self) -> tuple[list[str], str, int]:
        """Rows, last row and its cells with the open part in place."""
        rows, row, used, part = self._rows, self._row, self._used, self._open
        cells = cell_len(part)
        if used + cells <= self._width:
            return rows, row + part, used + cells
        if part.isspace():
            return [*rows, row], "", 0
        if cells <= self._width:
            return [*rows, row], part, cells
        rows = list(rows)
        for character in part:  # longer than a row
            cells = cell_len(character)
            if used + cells > self._width:
                rows.append(row)
                row, used = "", 0
            row, used = row + character, used + cells
        return rows, row, used


def wrapped(line: str, width: int) -> list[str]:
    """`line` cut into rows of at most `width` cells; at least one row."""
    wrapper = Wrapper(width)
    wrapper.feed(line)
    return wrapper.rows()


class Painter:
    """Writes finished text and keeps the rows after it up to date. The cursor rests after the last row."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._rows: list[str] = []
        self._size = os.terminal_size((80, 24))

    @property
    def size(self) -> os.terminal_size:
        """Columns and lines, now."""
        try:
            return os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            return os.terminal_size((80, 24))

    def show(self, rows: Sequence[str]) -> None:
        """Make `rows` the open rows. None may be wider than the terminal."""
        old, new = self._rows, list(rows)
        if not old:
            self._size = self.size
        pairs = enumerate(zip(old, new, strict=False))
        same = next((place for place, (a, b) in pairs if a != b), min(len(old), len(new)))
        if old and len(new) >= len(old) and same >= len(old) - 1 and new[len(old) - 1].startswith(old[-1]):
            tail = [new[len(old) - 1][len(old[-1]) :], *new[len(old) :]]
            text = "\n".join(tail)
        elif not old:
            text = "\n".join(new)
        else:
            same = max(0, min(same, len(new) - 1))  # the cursor must end after the last row
            text = self._erased_from(same) + "\n".join(new[same:])
        self._rows = new
        self._write(text)

    def finish(self, text: str) -> bool:
        """Put `text` (whole lines) in the place of the open rows; there are none afterwards.

        If some of the rows have left the screen, or its size has changed, they stay as they are instead:
        false.
        """
        fits = len(self._rows) < self._size.lines and (self._size == self.size or not self._rows)
        if fits:
            erase = self._erased_from(0) if self._rows else ""
            self._write(f"{_BEGIN}{erase}{text}{_END}" if erase else text)
        else:
            self._write("\n")
        self._rows = []
        return fits

    def _erased_from(self, row: int) -> str:
        """Moves to the beginning of `row` and clears what follows."""
        up = len(self._rows) - 1 - row
        if up < 0:  # below the last row
            return "\n"
        return (f"\x1b[{up}A" if up else "") + "\r\x1b[J"

    def _write(self, text: str) -> None:
        if text:
            self._stream.write(text)
            self._stream.flush()
