"""Conversations on disk, made with the embedded model in a pseudo-terminal."""

from __future__ import annotations

import json
import sqlite3

import pytest
from demo_chat import Demo

from localmoe.history.database import connect

pytestmark = pytest.mark.slow


def talk(demo: Demo, *prompts: str) -> None:
    with demo.chat() as chat:
        for prompt in prompts:
            chat.say(prompt)
        chat.type("\x04")
        assert chat.end() == 0


def test_what_is_kept(demo: Demo) -> None:
    talk(demo, "My name is Ada.", "What is 12 plus 30?")
    assert demo.database.stat().st_mode & 0o777 == 0o600
    assert demo.database.parent.stat().st_mode & 0o777 == 0o700
    assert demo.rows("PRAGMA journal_mode") == [("wal",)]
    first, second = demo.details()
    assert first["identity"] == second["identity"]
    assert first["parameters"]["temperature"] == 0.0
    assert {"seed", "timings"} <= set(first)
    assert second["prefilled_tokens"] < second["prompt_tokens"]
    parents = demo.rows("SELECT parent FROM messages ORDER BY id")
    assert parents == [(None,), (1,), (2,), (3,)]


def test_nothing_is_lost_by_undo_and_branches(demo: Demo) -> None:
    with demo.chat() as chat:
        chat.say("hello")
        chat.type("/undo\r")
        # the prompt comes back, to be changed; the same words stand further up
        chat.wait(lambda: chat.text().split("\n")[-1].strip() == ">>> hello")
        chat.type("\x15My name is Ada.\r")
        chat.see("Ada.", "tok/s")
        chat.prompt()
        chat.say("/regen")
        chat.say("/branch")
        chat.see("  1  2 turns  hello", "* 3  2 turns  My name is Ada.")
        chat.say("/branch 1")
        chat.see(">>> hello")
    assert len(demo.rows("SELECT 1 FROM messages")) == 5


def test_search_list_export_import_and_remove(demo: Demo) -> None:
    talk(demo, "My cat is called Milo.")
    talk(demo, "What is the capital of Kenya?")
    _, shown = demo.shell("localmoe history search nairobi")
    assert "assistant: The capital of Kenya is Nairobi." in shown
    _, shown = demo.shell("localmoe history list")
    assert "My cat is called Milo." in shown
    name = shown.split()[0]
    code, _ = demo.shell(
        f"localmoe history export {name} -o one.md && localmoe history export --all -o all.jsonl"
        f" && localmoe history export {name} -o one.json"
    )
    assert code == 0
    assert (demo.home / "one.md").read_text().count("## ") >= 2
    assert len((demo.home / "all.jsonl").read_text().splitlines()) == 2
    assert json.loads((demo.home / "one.json").read_text())
    code, shown = demo.shell(f"localmoe history rm {name}", keys="n\r")
    assert len(demo.rows("SELECT 1 FROM conversations")) == 2
    code, shown = demo.shell(f"localmoe history rm {name}", keys="y\r")
    assert (code, len(demo.rows("SELECT 1 FROM conversations"))) == (0, 1), shown
    code, shown = demo.shell("localmoe history import all.jsonl")
    assert code == 0, shown
    assert len(demo.rows("SELECT 1 FROM conversations")) >= 2


def test_no_history_leaves_no_trace(demo: Demo) -> None:
    with demo.chat("--no-history") as chat:
        chat.say("My name is Ada.")
        chat.say("/history")
        chat.see("runs without a history")
        chat.type("\x04")
        chat.end()
    assert not (demo.home / "data").exists()


@pytest.mark.parametrize(
    ("kind", "line"),
    [("corrupt", "damaged"), ("newer", "newer"), ("read-only", "permissions"), ("locked", "another")],
)
def test_a_history_that_cannot_be_used(demo: Demo, kind: str, line: str) -> None:
    connect(demo.database).close()
    lock = sqlite3.connect(demo.database, isolation_level=None)
    try:
        if kind == "corrupt":
            demo.database.write_bytes(b"garbage " * 999)
        elif kind == "newer":
            lock.execute("PRAGMA user_version = 99")
        elif kind == "locked":
            lock.execute("BEGIN EXCLUSIVE")
        else:
            demo.environment["LOCALMOE_DATA_DIR"] = "/proc/localmoe"  # where nobody, not even root, may write
        with demo.chat() as chat:
            chat.type("My name is Ada.\r")
            chat.see("Nice to meet you, Ada", "not saved", line)
            chat.prompt()
    finally:
        lock.close()


def test_twenty_start_at_once_on_a_fresh_machine(demo: Demo) -> None:
    one = 'localmoe chat -p "What is $n + 1?" > answer.$n 2>&1'
    code, shown = demo.shell(f"for n in $(seq 20); do {one} & done; wait; cat answer.*")
    assert code == 0
    assert len(demo.rows("SELECT 1 FROM conversations")) == 20, shown
    assert len(demo.rows("SELECT 1 FROM messages WHERE status = 'complete'")) == 40, shown
