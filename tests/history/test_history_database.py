"""The database file: permissions, migrations, many processes, and everything that can be wrong with it."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from localmoe.history import database as base
from localmoe.history.database import HistoryError, connect, explain
from localmoe.history.store import History


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_private_files(history: History, database: Path) -> None:
    history.add(history.create(), None, "user", "secret")
    assert mode(database.parent) == 0o700
    files = sorted(database.parent.iterdir())
    assert [file.name for file in files] == ["history.db", "history.db-shm", "history.db-wal"]
    assert {mode(file) for file in files} == {0o600}


def test_loose_permissions_are_tightened(database: Path) -> None:
    database.parent.mkdir(parents=True, mode=0o755)
    database.touch(mode=0o644)
    connect(database).close()
    assert (mode(database.parent), mode(database)) == (0o700, 0o600)


def test_wal(database: Path) -> None:
    connection = connect(database)
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    connection.close()


def test_twenty_processes_start_at_once_on_a_fresh_machine(database: Path) -> None:
    script = (
        "import sys, pathlib\nfrom localmoe.history.store import History\nsys.stdin.read()\n"
        "h = History(pathlib.Path(sys.argv[1]))\nc = h.create(title=sys.argv[2])\n"
        "a = h.add(c, None, 'user', 'question ' + sys.argv[2])\nh.add(c, a, 'assistant', 'answer')\nh.close()"
    )
    line = [sys.executable, "-c", script, str(database)]
    processes = [
        subprocess.Popen([*line, str(number)], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for number in range(20)
    ]
    for process in processes:  # all are waiting for end of file: let them go together
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    results = [process.communicate(timeout=60)[1] for process in processes]
    assert results == [""] * 20
    with History(database) as history:
        assert sorted(one.title for one in history.conversations()) == sorted(map(str, range(20)))
        assert all(one.messages == 2 for one in history.conversations())


@pytest.mark.parametrize("moment", range(5))
def test_another_process_creates_it_while_this_one_looks(
    database: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    statements = 0

    def overtake(_statement: str) -> None:
        nonlocal statements
        statements += 1
        if statements == moment + 1:
            migrate(other, database)

    def overtaken(connection: sqlite3.Connection, path: Path) -> None:
        base._use_wal(connection)
        connection.set_trace_callback(overtake)  # called as each statement begins
        migrate(connection, path)

    migrate = base._migrate
    database.parent.mkdir(parents=True)
    other = sqlite3.connect(database, isolation_level=None)
    monkeypatch.setattr(base, "_migrate", overtaken)
    connect(database).close()
    other.close()
    assert statements > moment
    with History(database) as history:
        assert history.create()


def test_locked_by_another_process(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "BUSY_SECONDS", 0.1)
    with History(database) as history:
        other = sqlite3.connect(database, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(HistoryError, match="another process keeps it locked"):
            history.create()
        other.execute("ROLLBACK")
        other.close()
        history.create()  # and it works again afterwards


def test_locked_while_it_is_created(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "BUSY_SECONDS", 0.1)
    database.parent.mkdir(parents=True)
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(HistoryError, match="locked"):
        History(database)
    other.close()


def test_corrupt(database: Path) -> None:
    database.parent.mkdir(parents=True)
    database.write_bytes(b"this is not a database, it is a poem about one, long enough to have a header" * 20)
    with pytest.raises(HistoryError, match="damaged; move it away"):
        History(database)
    assert database.read_bytes().startswith(b"this is not a database")


def test_corrupt_inside(database: Path) -> None:
    with History(database) as history:
        conversation = history.create()
        for number in range(200):
            history.add(conversation, None, "user", f"{number} " * 200)
    with database.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * (database.stat().st_size - 8192))

    def read_all() -> None:
        with History(database) as history:
            for one in history.conversations():
                history.messages(one.id)

    with pytest.raises(HistoryError, match="damaged"):
        read_all()


def test_newer_version(database: Path) -> None:
    connection = connect(database)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(HistoryError, match="a newer localmoe wrote it"):
        History(database)


def test_another_programs_database(database: Path) -> None:
    database.parent.mkdir(parents=True)
    connection = sqlite3.connect(database)
    connection.execute("CREATE TABLE bookmarks (url)")
    connection.commit()
    connection.close()
    before = database.read_bytes()
    with pytest.raises(HistoryError, match="another program's"):
        History(database)
    assert database.read_bytes() == before


def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(HistoryError, match=r"history .*data/history/history.db: "):
        History(tmp_path / "data" / "history" / "history.db")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("attempt to write a readonly database", "cannot be written"),
        ("unable to open database file", "cannot be written"),
        ("database or disk is full", "the disk is full"),
        ("database disk image is malformed", "damaged"),
    ],
)
def test_lines_for_sqlite_errors(text: str, expected: str) -> None:
    assert expected in str(explain(sqlite3.OperationalError(text), Path("h.db")))


def test_a_failed_migration_leaves_nothing(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MIGRATIONS", ("CREATE TABLE one (x);\nCREATE TABLE one (x);\n",))
    with pytest.raises(HistoryError, match="already exists"):
        connect(database)
    monkeypatch.undo()
    connect(database).close()


def test_a_later_migration_runs_once(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(database).close()
    monkeypatch.setattr(base, "MIGRATIONS", (*base.MIGRATIONS, "CREATE TABLE later (x);\n"))
    for _ in range(2):
        connection = connect(database)
        assert connection.execute("SELECT count(*) FROM later").fetchone()[0] == 0
        assert connection.execute("PRAGMA user_version").fetchone()[0] == 2
        connection.close()
