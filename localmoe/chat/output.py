"""Answers go to stdout, everything else to stderr, and no escape byte into a file or pipe."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
import threading
from collections.abc import Mapping
from typing import Any, TextIO

from localmoe.generate.loop import Answer
from localmoe.text.safe import safe

DIM, RED = "2", "31"
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]")


def is_terminal(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that understands escape sequences."""
    return stream.isatty() and os.environ.get("TERM", "") != "dumb"


def colours(stream: TextIO) -> bool:
    """Whether to style what is written to `stream` (https://no-color.org)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def to_json(value: Any, indent: int | None = None) -> str:
    """`value` as JSON text that no terminal acts on: controls that JSON allows raw are escaped too."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return _UNSAFE_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class Notices:
    """Lines for the user on stderr; `quiet` drops them."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._held: list[str] | None = None

    def __call__(self, text: str) -> None:
        if self._held is not None:
            self._held.append(text)
        elif not self.quiet:
            self.write(text, DIM)

    def hold(self) -> None:
        """Keep lines back: an answer is being written, and a line in the middle of it would be drawn over."""
        self._held = self._held or []

    def release(self) -> None:
        """Show the lines that were kept back, and from now on each at once."""
        held, self._held = self._held, None
        for text in held or ():
            self(text)

    @staticmethod
    def write(text: str, style: str = "") -> None:
        """`text` made safe, in `style` (SGR parameters) where stderr is a terminal with colours."""
        plain = fitted(safe(text)) if is_terminal(sys.stderr) else safe(text)
        sys.stdout.flush()
        styled = f"\x1b[{style}m{plain}\x1b[0m" if style and colours(sys.stderr) else plain
        print(styled, file=sys.stderr, flush=True)


def fitted(text: str) -> str:
    """`text` with lines no wider than the terminal, broken between words and indented as their first row."""
    width = max(40, shutil.get_terminal_size().columns - 1)
    lines = []
    for line in text.split("\n"):
        column = re.match(r"\s*(?:\S+(?: \S+)*\s{2,})?", line)
        indent = " " * min(len(column[0]) if column else 0, width // 2)
        lines += textwrap.wrap(
            line, width, subsequent_indent=indent, break_on_hyphens=False, drop_whitespace=True
        ) if len(line) > width else [line]
    return "\n".join(lines)


def _cut(text: str) -> str:
    """`text` as far as it fits the row beside the spinner; a second row would not be cleared."""
    from rich.cells import cell_len, set_cell_size

    from localmoe.chat.painter import Painter

    # less the spinner, a space, and the last column, where some terminals wrap
    room = max(1, Painter(sys.stderr).size.columns - 3)
    return text if cell_len(text) <= room else set_cell_size(text, room - 1) + "…"


class Spinner:
    """A moving line on stderr while the block runs; nothing where stderr is no terminal or `quiet`."""

    def __init__(self, text: str, quiet: bool = False) -> None:
        self.text = text
        self._shown = is_terminal(sys.stderr) and not quiet
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)

    def _spin(self) -> None:
        frames = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
        turn = 0
        while not self._done.wait(0.1):
            turn += 1
            if turn > 2:  # nothing flashes up for what is quick
                sys.stderr.write(f"\r\x1b[K{frames[turn % len(frames)]} {_cut(safe(self.text))}")
                sys.stderr.flush()
        if turn > 2:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def stop(self) -> None:
        """Take the line away; more than once does nothing."""
        if self._shown and not self._done.is_set():
            self._done.set()
            self._thread.join()

    def __enter__(self) -> Spinner:
        if self._shown:
            self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()


def status_line(answer: Answer, used: int, context: int, status: Mapping[str, Any]) -> str:
    """What an answer took, on one line."""
    timings = answer.timings
    parts = [f"{answer.completion_tokens:,} token{'' if answer.completion_tokens == 1 else 's'}"]
    if timings["decode_tps"]:
        parts.append(f"{timings['decode_tps']:.1f} tok/s")
    parts.append(f"first {timings['first_token_s']:.2f} s")
    parts.append(f"context {used:,}/{context:,}")
    if status.get("hit_rate") is not None:
        parts.append(f"experts {100 * status['hit_rate']:.0f} %")
    return " · ".join(parts)
