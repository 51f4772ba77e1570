"""Conversations and their messages, read and written.

A conversation is a tree of user and assistant messages; its `head` is the message it stands on, and the path
from the root to the head is what the model sees. Moving the head (undo, branch) deletes nothing.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from localmoe.errors import UsageError
from localmoe.history.database import connect, explained

Role = Literal["user", "assistant"]
Status = Literal["complete", "interrupted", "streaming"]
_ID_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that are mistaken for one another
_STALE_SECONDS = 60.0  # a streaming answer is written every second: one this old has lost its process


@dataclass(frozen=True)
class Message:
    """One turn as it is stored. `details`: model, identity, parameters, seed, timings ... of an answer."""

    id: int
    parent: int | None
    role: Role
    content: str
    status: Status
    created: float
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Summary:
    """A conversation as a listing shows it; times are seconds since the epoch."""

    id: str
    title: str
    system: str
    model: str
    created: float
    updated: float
    head: int | None
    messages: int


class History:
    """The open history, for several threads and processes at once; every method may raise `HistoryError`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = connect(path)
        self._lock = threading.RLock()

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of the block's changes or none; inside another such block it is part of that one."""
        with self._lock, explained(self.path):
            nested = self._connection.in_transaction
            if nested:
                yield self._connection
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """The rows a SELECT gives."""
        with self._lock, explained(self.path):
            return self._connection.execute(query, tuple(map(_bindable, parameters))).fetchall()

    # Conversations

    def create(
        self, *, title: str = "", system: str = "", model: str = "", created: float | None = None
    ) -> str:
        """Start a conversation and return its id."""
        now = time.time() if created is None else created
        with self.transaction() as db:
            while True:
                name = "".join(secrets.choice(_ID_LETTERS) for _ in range(6))
                if not db.execute("SELECT 1 FROM conversations WHERE id = ?", (name,)).fetchone():
                    break
            db.execute(
                "INSERT INTO conversations (id, title, system, model, created, updated) VALUES (?,?,?,?,?,?)",
                (name, *map(_storable, (title, system, model)), now, now),
            )
        return name

    def change(
        self,
        conversation: str,
        *,
        title: str | None = None,
        system: str | None = None,
        model: str | None = None,
    ) -> None:
        """Set what is given."""
        given = {"title": title, "system": system, "model": model}
        with self.transaction() as db:
            for column, value in given.items():
                if value is not None:
                    row = (_storable(value), conversation)
                    db.execute(f"UPDATE conversations SET {column} = ? WHERE id = ?", row)

    def conversations(self, limit: int | None = None) -> list[Summary]:
        """The conversations, the latest first."""
        count = -1 if limit is None else limit
        return self._summaries("ORDER BY updated DESC, c.rowid DESC LIMIT ?", (count,))

    def latest(self) -> Summary | None:
        """The conversation that was changed last."""
        return next(iter(self.conversations(limit=1)), None)

    def has(self, conversation: str) -> bool:
        """Whether the conversation is there: another process may have removed it."""
        return bool(self.rows("SELECT 1 FROM conversations WHERE id = ?", (conversation,)))

    def find(self, prefix: str) -> Summary:
        """The conversation whose id starts with `prefix`. Raises `UsageError` for none or several."""
        pattern = escaped(prefix.lower()) + "%"
        found = self._summaries("WHERE id LIKE ? ESCAPE '\\' ORDER BY updated DESC", (pattern,))
        exact = [one for one in found if one.id == prefix]
        if len(exact or found) != 1 or not prefix:
            what = f"{len(found)} conversations begin with" if found else "no conversation has the id"
            raise UsageError(f"{what} {prefix!r}; `localmoe history list` shows them")
        return (exact or found)[0]

    def _summaries(self, clause: str, parameters: Sequence[Any]) -> list[Summary]:
        count = "(SELECT count(*) FROM messages WHERE conversation = c.id) AS messages"
        columns = "id, title, system, model, created, updated, head"
        rows = self.rows(f"SELECT {columns}, {count} FROM conversations AS c {clause}", parameters)
        return [Summary(**dict(row)) for row in rows]

    def delete(self, conversation: str) -> None:
        """Remove a conversation and all of its messages, also from the file's free pages."""
        with self._lock, explained(self.path):
            self._connection.execute("PRAGMA secure_delete = ON")
        with self.transaction() as db:
            db.execute("DELETE FROM conversations WHERE id = ?", (conversation,))
            # "delete" in a full-text index only marks: rewrite it so that the words are really gone
            db.execute("INSERT INTO message_words(message_words) VALUES ('optimize')")
        with self._lock, explained(self.path):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    # Messages

    def add(
        self,
        conversation: str,
        parent: int | None,
        role: Role,
        content: str,
        *,
        status: Status = "complete",
        details: Mapping[str, Any] | None = None,
        created: float | None = None,
    ) -> int:
        """Append a message under `parent` (None: a first message), move the head to it, return its id."""
        now = time.time() if created is None else created
        with self.transaction() as db:
            cursor = db.execute(
                "INSERT INTO messages"
                " (conversation, parent, role, content, status, created, updated, details)"
                " VALUES (?,?,?,?,?,?,?,?)",
                (
                    conversation,
                    parent,
                    role,
                    _storable(content),
                    status,
                    now,
                    now,
                    _as_json(details or {}),
                ),
            )
            identifier = int(cursor.lastrowid or 0)
            db.execute(
                "UPDATE conversations SET head = ?, updated = ? WHERE id = ?", (identifier, now, conversation)
            )
        return identifier

    def update(
        self, message: int, content: str, status: Status, details: Mapping[str, Any] | None = None
    ) -> None:
        """Replace a message's text and status, and its details where given."""
        now = time.time()
        with self.transaction() as db:
            encoded = None if details is None else _as_json(details)
            db.execute(
                "UPDATE messages SET content = ?, status = ?, updated = ?, details = coalesce(?, details)"
                " WHERE id = ?",
                (_storable(content), status, now, encoded, message),
            )
            db.execute(
                "UPDATE conversations SET updated = ?"
                " WHERE id = (SELECT conversation FROM messages WHERE id = ?)",
                (now, message),
            )

    def set_head(self, conversation: str, message: int | None, *, updated: float | None = None) -> None:
        """Make `message` (None: before the first) the one the conversation stands on."""
        with self.transaction() as db:
            db.execute(
                "UPDATE conversations SET head = ?, updated = ? WHERE id = ?",
                (message, time.time() if updated is None else updated, conversation),
            )

    def messages(self, conversation: str) -> list[Message]:
        """All messages of a conversation's tree, in the order they were written."""
        self.settle_stale()
        rows = self.rows(
            "SELECT id, parent, role, content, status, created, details FROM messages"
            " WHERE conversation = ? ORDER BY id",
            (conversation,),
        )
        return [Message(**{**dict(row), "details": json.loads(row["details"])}) for row in rows]

    def path_to(self, conversation: str, head: int | None) -> list[Message]:
        """The messages from the first to `head`."""
        by_id = {message.id: message for message in self.messages(conversation)}
        path: list[Message] = []
        while head is not None and head in by_id:
            path.append(by_id[head])
            head = by_id[head].parent
        return path[::-1]

    def recent_prompts(self, limit: int = 1000) -> list[str]:
        """What the user typed, over all conversations, the latest first, without repetitions."""
        rows = self.rows(
            "SELECT coalesce(iif(json_valid(details), json_extract(details, '$.typed'), NULL), content)"
            " AS typed FROM messages"
            " WHERE role = 'user' GROUP BY typed ORDER BY max(id) DESC LIMIT ?",
            (limit,),
        )
        return [str(row["typed"]) for row in rows]

    def settle_stale(self) -> None:
        """Mark answers whose process died while writing them as interrupted: then search finds them too."""
        stale = time.time() - _STALE_SECONDS
        query = "SELECT 1 FROM messages WHERE status = 'streaming' AND updated < ? LIMIT 1"
        if self.rows(query, (stale,)):
            with self.transaction() as db:
                db.execute(
                    "UPDATE messages SET status = 'interrupted' WHERE status = 'streaming' AND updated < ?",
                    (stale,),
                )


def escaped(text: str) -> str:
    """`text` as part of a pattern for LIKE ... ESCAPE '\\'."""
    return "".join(f"\\{c}" if c in "\\%_" else c for c in text)


def _as_json(details: Mapping[str, Any]) -> str:
    return _storable(json.dumps(dict(details), ensure_ascii=False))


def _bindable(value: Any) -> Any:
    """`value` as SQLite can take it: text in UTF-8, whole numbers in 64 bits."""
    if isinstance(value, int):
        return min(value, 2**63 - 1)
    return _storable(value) if isinstance(value, str) else value


def _storable(text: str) -> str:
    """`text` as UTF-8 can hold it: bytes of a command line or a paste that were none become "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")
