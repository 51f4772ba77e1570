"""What stays on a terminal after an answer: every line once, rendered, in the screen and its scrollback."""

from __future__ import annotations

import io
import os
import re
import sys
import time

import pyte
import pytest
from fake_model import HOSTILE, LONG

from localmoe.chat.output import Spinner
from localmoe.chat.painter import Painter, wrapped
from localmoe.chat.render import AnswerView

COLUMNS, ROWS = 40, 8


class Terminal(io.StringIO):
    """A terminal of 40 by 8 that remembers what scrolled away, and every byte it got."""

    def __init__(self) -> None:
        super().__init__()
        self.screen = pyte.HistoryScreen(COLUMNS, ROWS, history=10000)
        self.screen.set_mode(pyte.modes.LNM)  # as a tty does: a line feed returns the carriage too
        self._stream = pyte.Stream(self.screen)
        self.bytes = ""

    def write(self, text: str) -> int:
        self.bytes += text
        self._stream.feed(text)
        return len(text)

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        history = ["".join(row[column].data for column in range(COLUMNS)) for row in self.screen.history.top]
        return [line.rstrip() for line in [*history, *self.screen.display]]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setattr(Painter, "size", os.terminal_size((COLUMNS, ROWS)))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def shown(terminal: Terminal, text: str, step: int = 3) -> list[str]:
    with AnswerView(stream=terminal) as view:
        for start in range(0, len(text), step):
            view.feed(text[start : start + step])
    lines = terminal.lines()
    while lines and not lines[-1]:
        lines.pop()
    return lines


def test_html_is_shown_as_it_is(terminal: Terminal) -> None:
    assert shown(terminal, "<div>kept</div>\n\nA <b>word</b>,\n<think>\ntoo.\n") == [
        "<div>kept</div>", "", "A <b>word</b>,", "<think>", "too.",
    ]  # fmt: skip


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_blocks(terminal: Terminal, step: int) -> None:
    assert shown(terminal, LONG, step) == [
        "Title",
        "",
        "Some words here.",
        "",
        "```python",
        "def f(x):",
        "    return x + 1",
        "```",
        "",
        " • one",
        " • two",
        "",
        "End.",
    ]


def test_the_scrollback_stays_whole(terminal: Terminal) -> None:
    text = "\n\n".join(f"Paragraph {n} with **bold** text that is long enough to wrap." for n in range(30))
    lines = shown(terminal, text)
    whole = " ".join(lines)
    assert "*" not in whole
    assert [whole.count(f"Paragraph {n} ") for n in range(30)] == [1] * 30


def test_a_block_taller_than_the_screen_stays_as_it_streamed(terminal: Terminal) -> None:
    words = [f"w{n}" for n in range(200)]
    lines = shown(terminal, " ".join(words) + "\n\nAfter **it**.")
    assert " ".join(lines[:-2]).split() == words
    assert lines[-1] == "After it."


def test_code_taller_than_the_screen_is_highlighted(terminal: Terminal) -> None:
    code = "\n".join(f"x{n} = {n}  # {'y' * (n % 50)}" for n in range(40))
    lines = shown(terminal, f"```py\n{code}\n```\n")
    assert "".join("".join(lines).split()) == "".join(f"```py{code}```".split())
    assert terminal.bytes.count("\x1b[38;2") > 80


def test_a_multi_line_string_is_highlighted_as_one(terminal: Terminal) -> None:
    shown(terminal, '```python\ns = """\nfor\n"""\nfor x in y: pass\n```')
    colours = re.findall(r"(\x1b\[[0-9;]*m)for\b", terminal.bytes)
    assert len(colours) == 2
    assert colours[0] != colours[1]


def test_a_fence_that_never_closes(terminal: Terminal) -> None:
    assert shown(terminal, "```\na\n\nb") == ["```", "a", "", "b"]


def test_tables_quotes_and_nested_lists(terminal: Terminal) -> None:
    lines = shown(terminal, "| a | b |\n|---|---|\n| 1 | 2 |\n\n> said\n\n1. x\n   - y\n2. z")
    assert lines == [" a  b", " ────", " 1  2", "", "▌ said", "", " 1 x", "    • y", " 2 z"]


def test_line_breaks_in_prose_are_kept(terminal: Terminal) -> None:
    assert shown(terminal, "roses are red\nviolets are blue") == ["roses are red", "violets are blue"]


def test_wide_characters(terminal: Terminal) -> None:
    text = "日本語の文章" * 12
    lines = shown(terminal, text)
    assert "".join(line.replace(" ", "") for line in lines) == text
    assert wrapped("日本語", 5) == ["日本", "語"]


def test_model_text_is_data(terminal: Terminal) -> None:
    lines = shown(terminal, f"[red]x[/red] :smile: [a](http://b.c) {HOSTILE}", 1)
    assert lines == ["[red]x[/red] :smile: a (http://b.c)", "abcde"]
    assert "\x1b]" not in terminal.bytes
    assert "\x9b" not in terminal.bytes
    assert "\u202e" not in terminal.bytes


def test_no_colour(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    shown(terminal, LONG)
    assert "\x1b[38" not in terminal.bytes
    assert "\x1b[3" not in terminal.bytes


def test_a_resized_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    view = AnswerView(stream=terminal)
    view.feed("some **bold** text")
    monkeypatch.setattr(Painter, "size", os.terminal_size((COLUMNS - 10, ROWS)))
    view.feed("\n\nnext")
    view.finish()
    assert [line for line in terminal.lines() if line] == ["some **bold** text", "next"]


@pytest.mark.parametrize(
    ("line", "width", "rows"),
    [
        ("", 10, [""]),
        ("one two three", 9, ["one two ", "three"]),
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
        ("a\tb", 10, ["a   b"]),
        ("aaaa bbbb", 4, ["aaaa", "bbbb"]),
    ],
)
def test_wrapping(line: str, width: int, rows: list[str]) -> None:
    assert wrapped(line, width) == rows


def test_a_spinner_keeps_to_one_row(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    print("above", end="\r\n", file=terminal)
    for text in ("loading " * 10, "読み込み中" * 10):  # the second: ten cells in five characters
        shown = terminal.bytes.count("\x1b[K")
        with Spinner(text):
            while terminal.bytes.count("\x1b[K") < shown + 3:
                time.sleep(0.01)
    assert terminal.lines()[0] == "above"
    assert not any(terminal.lines()[1:])
