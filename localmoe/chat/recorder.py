"""Keeps a conversation on disk as it goes; when the history fails, says so once and lets the chat go on.

The next prompt tries again, and writes all that is missing then.

An answer in progress is written by a thread of its own every half second, so that killing the process loses
at most the last second of it, also when single tokens take long.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from localmoe.chat.conversation import Conversation, Turn
from localmoe.history.database import HistoryError
from localmoe.history.store import History
from localmoe.history.transfer import title_of

FLUSH_SECONDS = 0.5


class Recorder:
    """Writes turns of conversations to the history; `history` is None when nothing is to be kept."""

    def __init__(self, history: History | None, warn: Callable[[str], None]) -> None:
        self.history = history
        self._warn = warn
        self._behind = False  # a write failed: the history lacks what came since

    @classmethod
    def open(cls, path: Path, warn: Callable[[str], None]) -> Recorder:
        """With the history at `path`; with none, and a warning, if that cannot be opened."""
        try:
            return cls(History(path), warn)
        except HistoryError as error:
            warn(f"{error}. This conversation is not saved.")
            return cls(None, warn)

    def close(self) -> None:
        if self.history is not None:
            self.history.close()

    @contextmanager
    def _tolerant(self, *, retry: bool = False) -> Iterator[History | None]:
        """The block's changes are written, or the user is told, once, that they are not.

        After a failure only a block with `retry` gets the history: while another process keeps that locked,
        each try takes five seconds.
        """
        try:
            yield self.history if retry or not self._behind else None
        except HistoryError as error:
            if not self._behind:
                self._warn(f"{error}. Until it works again, this conversation is not saved.")
            self._behind = True

    def save(self, conversation: Conversation, model: str, *, retry: bool = False) -> None:
        """Write the turns that the history lacks, where the conversation stands, and `model`, which answers.

        A conversation that is not there, or that another process removed, is written whole, under a new id.
        """
        with self._tolerant(retry=retry) as history:
            if history is None or not conversation.turns:
                return
            before = conversation.id
            with history.transaction():
                if before is not None and history.has(before):
                    name = before
                    rows = {turn: turn.row for turn in conversation.turns if turn.row is not None}
                else:
                    conversation.title = conversation.title or _title(conversation.turns[0])
                    name, rows = history.create(title=conversation.title), {}
                self._write(history, name, conversation.turns, rows)
                history.set_head(name, rows[conversation.head] if conversation.head is not None else None)
                history.change(name, system=conversation.system, model=model)
            conversation.id = name  # not before it is committed
            for turn, row in rows.items():
                turn.row = row
            if before not in (None, name):
                self._warn(
                    "Another process removed this conversation from the history. It goes on, and is saved "
                    f"again, as {name}; `localmoe history rm {name}` removes it."
                )
            if self._behind:
                self._behind = False
                self._warn("The history works again; this conversation is saved.")

    def _write(self, history: History, name: str, turns: list[Turn], rows: dict[Turn, int]) -> None:
        """Add those of `turns` that have no row yet to the history and to `rows`."""
        for turn in turns:  # parents come before their children
            if turn not in rows:
                parent = rows[turn.parent] if turn.parent is not None else None
                rows[turn] = history.add(
                    name, parent, turn.role, turn.content, status=turn.status, details=turn.details
                )
            elif self._behind:  # its row may be older than the turn
                history.update(rows[turn], turn.content, turn.status, turn.details)

    def catch_up(self, conversation: Conversation, model: str) -> None:
        """Write what is missing since the history failed, if it did."""
        if self._behind:
            self.save(conversation, model, retry=True)

    def holds(self, conversation: Conversation) -> bool:
        """Whether the conversation is saved, and no other process has removed it."""
        found = False
        with self._tolerant() as history:
            if history is not None and conversation.id is not None:
                found = history.has(conversation.id)
        return found

    def update(self, turn: Turn) -> None:
        """Write a changed turn."""
        with self._tolerant() as history:
            if history is not None and turn.row is not None:
                history.update(turn.row, turn.content, turn.status, turn.details)

    def stand_on(self, conversation: Conversation, model: str | None = None) -> None:
        """Write where the conversation stands, its system prompt, and, if given, which model answers now."""
        with self._tolerant() as history:
            if history is None or conversation.id is None:
                return
            head = conversation.head
            history.set_head(conversation.id, head.row if head is not None else None)
            history.change(conversation.id, system=conversation.system, model=model)

    @contextmanager
    def answering(self, turn: Turn) -> Iterator[None]:
        """While the block lets `turn` grow, write it every half second, and once more when it ends."""
        done = threading.Event()

        def keep() -> None:
            written = turn.whole
            while not done.wait(FLUSH_SECONDS):
                text = turn.whole
                if text != written:
                    self.update(turn)
                    written = text

        if self.history is None:
            yield
            return
        thread = threading.Thread(target=keep, name="history", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.update(turn)


def _title(prompt: Turn) -> str:
    return title_of(str(prompt.details.get("typed") or prompt.content))
