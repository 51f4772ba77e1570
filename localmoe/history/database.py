"""The history file: one SQLite database in WAL mode, mode 0600 in a 0700 directory, migrated under a lock.

Many processes may open it at once, also on a machine where it does not exist yet. Everything that can be
wrong with it becomes a `HistoryError` whose message says what to do; the chat then goes on unsaved.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from localmoe.errors import LocalMoeError

APPLICATION_ID = 0x4C4D6F45  # "LMoE": tells our file from any other SQLite database
BUSY_SECONDS = 5.0  # how long to wait for another process (it writes for milliseconds) before giving up

# One entry per schema version, in order; a released entry is never edited. `messages.parent` makes a tree: a
# conversation's `head` is the leaf it stands on, and what /undo or /branch leave behind stays reachable.
MIGRATIONS = (
    """
    CREATE TABLE conversations (
        id TEXT PRIMARY KEY, title TEXT NOT NULL, system TEXT NOT NULL, model TEXT NOT NULL,
        created REAL NOT NULL, updated REAL NOT NULL, head INTEGER REFERENCES messages(id) ON DELETE SET NULL
    ) STRICT;
    CREATE INDEX conversations_by_update ON conversations(updated);
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        conversation TEXT NOT NULL REFERENCES conversations(id) ON DELETE CASCADE,
        parent INTEGER REFERENCES messages(id) ON DELETE CASCADE,
        role TEXT NOT NULL CHECK (role IN ('user', 'assistant')),
        content TEXT NOT NULL,
        status TEXT NOT NULL CHECK (status IN ('complete', 'interrupted', 'streaming')),
        created REAL NOT NULL, updated REAL NOT NULL,
        details TEXT NOT NULL
    ) STRICT;
    CREATE INDEX messages_by_conversation ON messages(conversation, id);
    CREATE INDEX messages_by_parent ON messages(parent);
    CREATE INDEX messages_streaming ON messages(updated) WHERE status = 'streaming';
    CREATE VIRTUAL TABLE message_words USING fts5(
        content, content='messages', content_rowid='id', tokenize='unicode61 remove_diacritics 2'
    );
    CREATE TRIGGER words_on_insert AFTER INSERT ON messages WHEN new.status <> 'streaming' BEGIN
        INSERT INTO message_words(rowid, content) VALUES (new.id, new.content);
    END;
    CREATE TRIGGER words_on_finish AFTER UPDATE ON messages
        WHEN old.status = 'streaming' AND new.status <> 'streaming' BEGIN
        INSERT INTO message_words(rowid, content) VALUES (new.id, new.content);
    END;
    CREATE TRIGGER words_on_change AFTER UPDATE ON messages
        WHEN old.status <> 'streaming' AND new.status <> 'streaming' BEGIN
        INSERT INTO message_words(message_words, rowid, content) VALUES ('delete', old.id, old.content);
        INSERT INTO message_words(rowid, content) VALUES (new.id, new.content);
    END;
    CREATE TRIGGER words_on_continue AFTER UPDATE ON messages
        WHEN old.status <> 'streaming' AND new.status = 'streaming' BEGIN
        INSERT INTO message_words(message_words, rowid, content) VALUES ('delete', old.id, old.content);
    END;
    CREATE TRIGGER words_on_delete AFTER DELETE ON messages WHEN old.status <> 'streaming' BEGIN
        INSERT INTO message_words(message_words, rowid, content) VALUES ('delete', old.id, old.content);
    END;
    """,
)


class HistoryError(LocalMoeError):
    """The history cannot be used; the message says why and what to do about it."""


def explain(error: sqlite3.Error | OSError, path: Path) -> HistoryError:
    """What went wrong with the file at `path`, as one line for the user."""
    text = str(error).lower()
    if isinstance(error, OSError):
        reason = f"{error.strerror or error}; check the directory's permissions, or use --no-history"
    elif "locked" in text or "busy" in text:
        reason = "another process keeps it locked; close that process and try again"
    elif "readonly" in text or "read-only" in text or "unable to open" in text:
        reason = "it cannot be written; check its permissions and its directory's, or use --no-history"
    elif "malformed" in text or "not a database" in text or "disk image" in text:
        reason = "it is damaged; move it away to start a new one"
    elif "full" in text:
        reason = "the disk is full"
    else:
        reason = str(error)
    return HistoryError(f"history {path}: {reason}")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn SQLite's and the file system's errors inside the block into `HistoryError`."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise explain(error, path) from error


def connect(path: Path) -> sqlite3.Connection:
    """Open the database at `path`, creating or migrating it as needed.

    The connection may be used from several threads if the caller takes turns. Raises `HistoryError`.
    """
    with explained(path):
        _create_privately(path)
        connection = sqlite3.connect(
            path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA foreign_keys = ON")
            _migrate(connection, path)
            connection.execute("PRAGMA synchronous = NORMAL")  # in WAL mode: a kill loses nothing written
        except BaseException:
            connection.close()
            raise
    return connection


def _create_privately(path: Path) -> None:
    """Only the user may read conversations: SQLite gives the -wal and -shm files the database's own mode."""
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if path.parent.stat().st_mode & 0o077:
        path.parent.chmod(0o700)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """The schema version of an opened file. Raises `HistoryError` if it is not ours or too new.

    One statement, so one state of the file: between two, another process may create what the first missed.
    """
    application, version, tables = connection.execute(
        "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)"
        " FROM pragma_application_id, pragma_user_version"
    ).fetchone()
    if application != APPLICATION_ID and tables:
        raise HistoryError(f"history {path}: it is another program's database; move it away to start anew")
    if version > len(MIGRATIONS):
        raise HistoryError(
            f"history {path}: a newer localmoe wrote it (schema {version}, this one knows "
            f"{len(MIGRATIONS)}); update localmoe"
        )
    return int(version)


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    _version(connection, path)  # refuses a file that is not ours as it is, before anything in it changes
    _use_wal(connection)
    if _version(connection, path) == len(MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")  # the lock: of many processes one migrates, the rest wait here
    try:
        for number, script in enumerate(MIGRATIONS, start=1):
            if number > _version(connection, path):
                for statement in _statements(script):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL once. SQLite does not wait for others while it switches, so this does."""
    deadline = time.monotonic() + BUSY_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _statements(script: str) -> Iterator[str]:
    """`script` statement by statement (executescript would commit the transaction that is the lock)."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
