"""An answer on a terminal: Markdown blocks are rendered as they close, the open one streams as plain text.

Code is highlighted line by line. Model text is data here: it is stripped of terminal control first, links are
not made clickable, and Rich markup in it means nothing.
"""

from __future__ import annotations

import re
import sys
from io import StringIO
from typing import ClassVar, TextIO

from markdown_it import MarkdownIt  # Rich's own parser
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Heading, Markdown, MarkdownElement
from rich.syntax import Syntax
from rich.text import Text

from localmoe.chat.output import colours
from localmoe.chat.painter import Painter, Wrapper, wrapped
from localmoe.text.safe import SafeText

_MAX_WIDTH = 100  # longer lines of prose are hard to read
_FENCE = re.compile(r"^(\s*)(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$")
_KINDS = {  # of blocks, by their line's beginning; the first that matches
    "heading": re.compile(r"^ {0,3}#{1,6}(\s|$)"),
    "rule": re.compile(r"^ {0,3}([-*_])(\s*\1){2,}\s*$"),
    "item": re.compile(r"^ {0,1}([-*+]|\d{1,9}[.)])\s"),
    "table": re.compile(r"^\s*\|"),
    "quote": re.compile(r"^ {0,3}>"),
}
_STYLING = re.compile(r"\x1b\[[0-9;]*m")


class _LeftHeading(Heading):
    """A heading in bold at the left, as the text around it (Rich centres it)."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        self.text.stylize("bold")
        yield self.text


class _Markdown(Markdown):
    """Markdown in which HTML is text: Rich would leave tags, and whole blocks of HTML, out."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {**Markdown.elements, "heading_open": _LeftHeading}

    def __init__(self, text: str, theme: str) -> None:
        super().__init__(text, code_theme=theme, hyperlinks=False)
        parser = MarkdownIt("commonmark", {"html": False}).enable("strikethrough").enable("table")
        self.parsed = parser.parse(text)


class AnswerView:
    """Feed pieces of an answer; leave the block, and the last one is finished."""

    def __init__(self, theme: str = "monokai", stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._theme = theme
        self._painter = Painter(self._stream)
        self._safe = SafeText()
        self._colour = colours(self._stream)
        self._width = max(20, min(self._painter.size.columns - 1, _MAX_WIDTH))
        self._lines: list[str] = []  # of the open block
        self._rows: list[str] = []  # theirs, as they are shown
        self._line = ""  # the open line
        self._wrapper = Wrapper(self._width)  # holds the open line
        self._kind = ""  # of the open block: "", text, item, table, quote
        self._fence: re.Match[str] | None = None
        self._code: list[str] = []
        self._gap = False  # a blank line was read
        self._begun = False

    def __enter__(self) -> AnswerView:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.finish()

    def feed(self, text: str) -> None:
        """Show more of the answer."""
        first, *rest = self._safe.feed(text).split("\n")
        self._extend(first)
        for line in rest:
            self._end_line()
            self._extend(line)
        self._show()

    def _extend(self, text: str) -> None:
        self._line += text
        self._wrapper.feed(text)

    def finish(self) -> None:
        """Render what is still open."""
        if self._line.strip():
            self._end_line()
        self._line, self._wrapper = "", Wrapper(self._width)
        self._close_block()
        self._fence = None

    # Lines

    def _end_line(self) -> None:
        line, self._line, self._wrapper = self._line, "", Wrapper(self._width)
        if self._fence is not None:
            self._end_code_line(line, self._fence)
        elif not line.strip():
            self._close_block()
            self._gap = self._begun
        else:
            self._end_text_line(line)

    def _end_code_line(self, line: str, fence: re.Match[str]) -> None:
        stripped = line.strip()
        if stripped.startswith(fence[2]) and not stripped.strip(fence[2][0]):
            self._painter.finish(self._dim(f"{fence[2][:3]}\n"))
            self._fence = None
            self._code = []
            return
        indent = len(fence[1])
        self._code.append(line[indent:] if line[:indent].isspace() else line)
        self._painter.show(wrapped(line, self._width))
        self._painter.finish(self._highlighted_last_line(fence[3]) + "\n" if line.strip() else "\n")

    def _end_text_line(self, line: str) -> None:
        fence = _FENCE.match(line)
        kind = _kind(line)
        if kind == "text" and self._kind in ("item", "quote") and not fence:
            kind = self._kind  # the item or quotation goes on
        elif kind != self._kind or kind in ("heading", "rule", "item") or fence:
            self._close_block()
        if fence:
            self._open_gap()
            self._painter.finish(self._dim(f"{fence[2][:3]}{fence[3]}\n"))
            self._fence, self._kind = fence, ""
            return
        if not self._lines:
            self._open_gap()
        self._lines.append(line)
        self._rows += wrapped(line, self._width)
        self._kind = kind
        if kind in ("heading", "rule"):
            self._close_block()

    # Blocks

    def _close_block(self) -> None:
        """Render the open block. A line after it that is on the screen already goes away, and comes again."""
        if self._lines:
            self._painter.show(self._rows)
            # a line break in prose is meant as one: Markdown would join the lines
            text = ("  \n" if self._kind in ("text", "quote") else "\n").join(self._lines)
            self._lines, self._rows = [], []
            self._painter.finish(self._markdown(text))
        self._kind = ""

    def _open_gap(self) -> None:
        """A blank line before a block, where there was one in the text."""
        if self._gap:
            self._painter.finish("\n")
        self._gap = False
        self._begun = True

    def _show(self) -> None:
        """Bring the open block and line to the screen as they are."""
        begun = not self._line.isspace() and self._line != ""
        if self._fence is not None:
            self._painter.show(self._wrapper.rows() if begun else [])
            return
        if not self._lines and not begun:
            return
        if not self._lines:
            self._open_gap()
        self._painter.show(self._rows + (self._wrapper.rows() if begun else []))

    # Styles

    def _console(self, buffer: StringIO) -> Console:
        return Console(
            file=buffer,
            force_terminal=True,
            color_system="truecolor" if self._colour else None,
            no_color=not self._colour,
            width=self._width,
            legacy_windows=False,
            highlight=False,
            markup=False,
            emoji=False,
        )

    def _markdown(self, text: str) -> str:
        """`text`, one Markdown block, as terminal lines."""
        buffer = StringIO()
        self._console(buffer).print(_Markdown(text, self._theme))
        rows = [re.sub(r" +((?:\x1b\[[0-9;]*m)*)$", r"\1", row) for row in buffer.getvalue().split("\n")]
        filled = [place for place, row in enumerate(rows) if _STYLING.sub("", row).strip()]
        return "".join(row + "\n" for row in rows[filled[0] : filled[-1] + 1]) if filled else "\n"

    def _highlighted_last_line(self, language: str) -> str:
        """The last line of the code so far; what comes before it decides what it means."""
        syntax = Syntax("", language or "text", theme=self._theme, background_color="default")
        lines = syntax.highlight("\n".join(self._code)).split("\n")
        last = lines[len(self._code) - 1] if len(lines) >= len(self._code) else Text(self._code[-1])
        buffer = StringIO()
        last.no_wrap, last.overflow = True, "ignore"
        self._console(buffer).print(last, soft_wrap=True)
        return buffer.getvalue().rstrip("\n")

    def _dim(self, text: str) -> str:
        return f"\x1b[2m{text.rstrip()}\x1b[0m\n" if self._colour else text


def _kind(line: str) -> str:
    return next((kind for kind, pattern in _KINDS.items() if pattern.match(line)), "text")
