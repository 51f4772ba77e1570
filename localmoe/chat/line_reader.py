"""Reading what the user types: prompt_toolkit on a terminal, plain lines without a prompt elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from localmoe.chat.present import keyboard
from localmoe.text.safe import safe

if TYPE_CHECKING:
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings

PROMPT, CONTINUATION = ">>> ", "... "
_QUOTES = '"""'


class LineReader(Protocol):
    """Where prompts come from."""

    def read(self, default: str = "") -> str:
        """The next prompt, which may have several lines. Raises EOFError, KeyboardInterrupt."""

    def confirm(self, question: str) -> bool:
        """Whether the user says yes."""


class PlainReader:
    """Lines of stdin; with prompts only if stdin and stderr are terminals, though of the simplest kind."""

    def read(self, default: str = "") -> str:
        """As `LineReader.read`; a line cannot be changed here, so `default` is only shown."""
        if default and _seen():
            sys.stderr.write(f"{safe(default)}\n")
        text = _line(PROMPT)
        while open_block(text):
            text += "\n" + _line(CONTINUATION)
        return unquoted(text)

    def confirm(self, question: str) -> bool:
        """As `LineReader.confirm`; no, where nobody sees the question: the next line is not its answer."""
        if not _seen():
            sys.stderr.write(f"{question} No: nobody can answer here.\n")
            return False
        try:
            with keyboard(echo=True):
                return _yes(_line(f"{question} [y/N] "))
        except EOFError:
            return False


def _seen() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _line(prompt: str) -> str:
    if _seen():
        sys.stderr.write(prompt)
        sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")


def _yes(answer: str) -> bool:
    return answer.strip().lower() in ("y", "yes")


class TerminalReader:
    """prompt_toolkit: multi-line editing, history with Ctrl-R, completion, bracketed paste."""

    def __init__(
        self, completer: Completer, earlier: Callable[[], Iterable[str]], *, vi: bool = False
    ) -> None:
        """`earlier`: the prompts of earlier conversations, the latest first."""
        from prompt_toolkit import PromptSession
        from prompt_toolkit.enums import EditingMode
        from prompt_toolkit.filters import Condition
        from prompt_toolkit.output import create_output

        self._session: PromptSession[str] = PromptSession(
            completer=completer,
            history=_earlier_prompts(earlier),
            multiline=True,
            key_bindings=_keys(),
            editing_mode=EditingMode.VI if vi else EditingMode.EMACS,
            prompt_continuation=CONTINUATION,
            enable_open_in_editor=True,
            complete_while_typing=Condition(lambda: self._session.default_buffer.text.startswith("/")),
            output=create_output(stdout=sys.stdout if sys.stdout.isatty() else sys.stderr),
            reserve_space_for_menu=4,
        )

    def read(self, default: str = "") -> str:
        text = self._session.prompt(PROMPT, default=default)
        return unquoted(text)

    def confirm(self, question: str) -> bool:
        from prompt_toolkit import PromptSession

        session: PromptSession[str] = PromptSession(output=self._session.output)
        try:
            return _yes(session.prompt(f"{question} [y/N] "))
        except (EOFError, KeyboardInterrupt):
            return False


def open_block(text: str) -> bool:
    """Whether `text` begins a block in triple quotes that is not closed yet."""
    stripped = text.strip()
    return stripped.startswith(_QUOTES) and (len(stripped) < 6 or not stripped.endswith(_QUOTES))


def unquoted(text: str) -> str:
    """`text` without the triple quotes around it."""
    stripped = text.strip()
    if len(stripped) >= 6 and stripped.startswith(_QUOTES) and stripped.endswith(_QUOTES):
        return stripped[3:-3].strip("\n")
    return text


def _keys() -> KeyBindings:
    """Enter sends, Alt-Enter breaks the line, as does Enter in a triple-quoted block; Ctrl-C discards."""
    from prompt_toolkit.application import get_app
    from prompt_toolkit.filters import Condition, has_focus
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()
    typing = has_focus("DEFAULT_BUFFER")

    @keys.add("enter", filter=typing)
    def _send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if open_block(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=typing)
    def _break(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c", filter=typing & Condition(lambda: bool(get_app().current_buffer.text)))
    def _discard(event: KeyPressEvent) -> None:
        event.current_buffer.reset()

    return keys


def _earlier_prompts(earlier: Callable[[], Iterable[str]]) -> History:
    """prompt_toolkit's history: read from our database when first needed, never written to another file."""
    from prompt_toolkit import history

    class EarlierPrompts(history.History):
        def load_history_strings(self) -> Iterable[str]:
            return earlier()

        def store_string(self, string: str) -> None:
            """The conversation itself is what is stored."""

    return EarlierPrompts()


def pick(numbered: Sequence[object], answer: str) -> int | None:
    """The index that `answer`, a number from 1, chooses; None if it is none of them."""
    return int(answer) - 1 if answer.isdecimal() and 1 <= int(answer) <= len(numbered) else None
