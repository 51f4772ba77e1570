"""The conversation in the terminal: read, answer or obey, repeat."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import closing
from importlib import import_module

from localmoe.chat.attachments import Attachment, with_attachments
from localmoe.chat.commands import COMMANDS, find_command
from localmoe.chat.line_reader import LineReader, PlainReader, TerminalReader
from localmoe.chat.output import RED, Notices, is_terminal, status_line
from localmoe.chat.present import interruptible, keyboard, write_answer
from localmoe.chat.session import Answering, Session
from localmoe.chat.window import ContextFullError
from localmoe.cli.main import message, version
from localmoe.history.database import HistoryError

# What newcomers type without the slash; the model would only guess.
_PLAIN_WORDS = {
    "exit": "To leave, type /quit or press Ctrl-D.",
    "quit": "To leave, type /quit or press Ctrl-D.",
    "help": "/help lists the commands.",
}
Ask = Callable[[Callable[[], bool]], Answering]


class Repl:
    """A conversation with a person. Answers go to stdout, everything else to stderr."""

    def __init__(self, session: Session, notices: Notices, attachments: list[Attachment]) -> None:
        self.session = session
        self.notices = notices
        self.attachments = attachments  # go with the next prompt
        self.draft = ""  # what the next prompt starts with
        self.leaving = False
        self.reader: LineReader = self._reader()

    def _reader(self) -> LineReader:
        if not is_terminal(sys.stderr) or not is_terminal(sys.stdin):
            return PlainReader()
        from localmoe.chat.completion import CommandCompleter
        from localmoe.chat.suggestions import candidates

        commands = {one.name: (one.summary, one.completes) for one in COMMANDS.values()}
        completer = CommandCompleter(commands, candidates(self))
        return TerminalReader(completer, self._earlier, vi=self.session.settings.keys == "vi")

    def _earlier(self) -> list[str]:
        history = self.session.recorder.history
        try:
            return history.recent_prompts() if history is not None else []
        except HistoryError:
            return []

    def run(self) -> int:
        """Talk until the user leaves; returns the exit code."""
        self._greet()
        # Rendering is needed with the first answer, but not before the user has typed something.
        threading.Thread(target=import_module, args=("localmoe.chat.render",), daemon=True).start()
        asked_to_leave = False
        while not self.leaving:
            try:
                draft, self.draft = self.draft, ""
                text = self.reader.read(draft)
            except EOFError:
                break
            except KeyboardInterrupt:
                if asked_to_leave:
                    break
                asked_to_leave = True
                self.notices("Press Ctrl-C once more to leave (Ctrl-D leaves at once).")
                continue
            asked_to_leave = False
            with keyboard(echo=False):
                self._obey_or_answer(text)
        return 0

    def _greet(self) -> None:
        model = self.session.model
        self.notices(
            f"localmoe {version()} · {model.name} · context of {model.context:,} tokens · "
            "/help lists the commands, Ctrl-D leaves"
        )
        if self.session.conversation.path():
            self.show_last_exchange()

    def show_last_exchange(self) -> None:
        """What was said last, as a reminder."""
        conversation = self.session.conversation
        path = conversation.path()
        count = sum(turn.role == "user" for turn in path)
        exchanges = f"{count} exchange{'' if count == 1 else 's'}"
        self.notices(f'Continuing "{conversation.title}" ({conversation.id or "unsaved"}, {exchanges}):')
        for turn in path[-2:]:
            lines = turn.content.strip().splitlines() or [""]
            shown = [*lines[:6], f"… {len(lines) - 6} more lines"] if len(lines) > 7 else lines
            text = "\n    ".join(shown)
            self.notices((">>> " if turn.role == "user" else "    ") + text)

    def _obey_or_answer(self, text: str) -> None:
        try:
            if text.startswith("/"):
                name, _, argument = text[1:].partition(" ")
                find_command(name).run(self, argument.strip())
            elif text.strip().lower() in _PLAIN_WORDS:
                self.notices(_PLAIN_WORDS[text.strip().lower()])
            elif text.strip():
                self.ask(text.strip("\n"))
        except KeyboardInterrupt:
            self.notices("Interrupted.")
        except Exception as error:  # also a bug must not take the conversation with it
            self.error(message(error) or f"This failed inside localmoe ({type(error).__name__}: {error}).")

    def error(self, text: str) -> None:
        """A line about something that did not work."""
        self.notices.write(text, RED)

    def ask(self, text: str) -> None:
        """Send a prompt, with what is attached, and show its answer."""
        attachments, self.attachments = self.attachments, []
        prompt = with_attachments(text, attachments)
        before, kept = self.session.conversation.head, attachments
        try:
            self.answer(lambda cancelled: self.session.ask(prompt, typed=text, cancelled=cancelled))
        except ContextFullError as error:
            if not attachments:
                raise
            kept = []  # else every next prompt would fail too
            names = ", ".join(one.name for one in attachments)
            raise ContextFullError(f"{error} (no longer attached: {names})") from error
        finally:
            if self.session.conversation.head is before:  # nothing came of it: neither prompt nor answer
                self.attachments = kept
                self.draft = text

    def answer(self, ask: Ask) -> None:
        """Show an answer as it comes; Ctrl-C stops it and keeps what there is."""
        session = self.session
        with interruptible() as cancelled, closing(ask(cancelled)) as pieces:
            write_answer(session, pieces, self.notices)
            stopped = cancelled()
        head = session.conversation.head
        if stopped and head is not None and head.status == "interrupted":
            self.notices("(stopped here; /continue goes on, /regen answers anew)")
        elif stopped:
            self.notices("(stopped before the first word)")
        self._show_status()

    def _show_status(self) -> None:
        session = self.session
        if session.answer is not None and session.settings.status:
            context = session.model.context
            self.notices(status_line(session.answer, session.used, context, session.model.status()))
