"""Keeps a conversation on disk as it goes; when the history fails, says so once and lets the chat go on.

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
    def _tolerant(self) -> Iterator[History | None]:
        """The block's changes are written, or the history is given up for this session."""
        try:
            yield self.history
        except HistoryError as error:
            if self.history is not None:
                self.history = None
                self._warn(f"{error}. From here on this conversation is not saved.")

    def save(self, conversation: Conversation, turn: Turn, model: str) -> None:
        """Write a new turn, and the conversation itself with its first turn."""
        with self._tolerant() as history:
            if history is None:
                return
            with history.transaction():
                if conversation.id is None:
                    typed = str(turn.details.get("typed") or turn.content)
                    conversation.title = conversation.title or title_of(typed)
                    conversation.id = history.create(
                        title=conversation.title, system=conversation.system, model=model
                    )
                for one in turn.path():
                    if one.row is None:
                        parent = one.parent.row if one.parent is not None else None
                        one.row = history.add(
                            conversation.id,
                            parent,
                            one.role,
                            one.content,
                            status=one.status,
                            details=one.details,
                        )

    def update(self, turn: Turn) -> None:
        """Write a changed turn."""
        with self._tolerant() as history:
            if history is not None and turn.row is not None:
                history.update(turn.row, turn.content, turn.status, turn.details)

    def stand_on(self, conversation: Conversation) -> None:
        """Write where the conversation stands, and its system prompt."""
        with self._tolerant() as history:
            if history is None or conversation.id is None:
                return
            head = conversation.head
            history.set_head(conversation.id, head.row if head is not None else None)
            history.change(conversation.id, system=conversation.system)

    @contextmanager
    def answering(self, turn: Turn) -> Iterator[None]:
        """While the block lets `turn` grow, write it every half second, and once more when it ends."""
        done = threading.Event()

        def keep() -> None:
            written = turn.content
            while not done.wait(FLUSH_SECONDS):
                text = turn.content
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
