"""The conversation in a real pseudo-terminal, with the scripted model: exact texts, long answers.

Keys, multi-line input, completion and colours are in `test_demo_*.py`, with the embedded model.
"""

from __future__ import annotations

import base64
import io
import os
import sqlite3
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_model import FakeModel
from terminal import Program

from localmoe.chat.output import Notices
from localmoe.chat.repl import Repl
from localmoe.chat.session import Session

RUNNER = Path(__file__).with_name("fake_model.py")
Start = Callable[..., Program]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def start(home: Path) -> Start:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LOCALMOE_")}
    for name in ("NO_COLOR", "VISUAL", "WAYLAND_DISPLAY", "DISPLAY"):
        kept.pop(name, None)

    def program(*arguments: str, rows: int = 24, **settings: str) -> Program:
        environment = {
            **kept,
            "PYTHONPATH": str(RUNNER.parents[2]),
            "LOCALMOE_DATA_DIR": str(home / "data"),
            "LOCALMOE_CONFIG_DIR": str(home / "config"),
            "HOME": str(home),
            **settings,
        }
        started = Program([str(RUNNER), "chat", *arguments], environment, rows)
        started.see("/help lists the commands")
        started.prompt()
        return started

    return program


def rows(home: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(home / "data" / "history" / "history.db")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_first_conversation(start: Start) -> None:
    with start() as chat:
        chat.say("hello")
        chat.see("You said: hello", "tok/s", "context 24/1,000", "experts 88 %")
        chat.say("long")
        text = chat.text()
        assert "Title\n\nSome words here.\n\n```python\ndef f(x):\n    return x + 1\n```\n\n • one" in text
        assert "**" not in text
        chat.say("/help")
        chat.see("/set [NAME [VALUE]]", "/recall WORDS", "Alt-Enter")
        chat.type("\x04")
        assert chat.end() == 0


def test_ctrl_c_keeps_the_partial_answer(start: Start, home: Path) -> None:
    with start(FAKE_DELAY="0.01") as chat:
        chat.type("count\r")
        chat.see("0 1 2 3 4")
        chat.type("\x03")
        chat.see("(stopped here; /continue goes on")
        chat.prompt()
        status, content = rows(home, "SELECT status, content FROM messages WHERE role = 'assistant'")[0]
        assert status == "interrupted"
        assert str(content).startswith("0 1 2 3 4")
        chat.type("/continue\r")
        chat.see("20 21 22")
        chat.type("\x03")
        chat.prompt()
        again = rows(home, "SELECT content FROM messages WHERE role = 'assistant'")
        assert len(again) == 1
        assert str(again[0][0]).startswith(str(content))


def test_commands_on_the_conversation(start: Start, home: Path) -> None:
    with start() as chat:
        chat.say("first")
        chat.say("second")
        chat.say("/regen")
        chat.type("/undo\r")
        # the prompt comes back, to be changed; the same words stand further up
        chat.wait(lambda: chat.text().split("\n")[-1].strip() == ">>> second")
        chat.type("\x15third\r")
        chat.see("You said: third")
        chat.prompt()
        chat.say("/continue")
        chat.see("the model added nothing to it")
        chat.say("/branch")
        chat.see("  1  4 turns  second", "  2  4 turns  second", "* 3  4 turns  third")
        chat.say("/branch 1")
        chat.say("/show")
        chat.see("exchanges     2, in 3 branches", "model         fake")
        chat.say("/system Talk like a pirate.")
        chat.say("/system")
        chat.see("Talk like a pirate.")
        chat.say("/set temperature 0.25")
        chat.see("temperature is now 0.25")
        chat.say("/set temprature 1")
        chat.see("did you mean 'temperature'?")
        chat.say("/set context 4096")
        chat.see("localmoe chat --context")
        chat.say("/stats")
        chat.see("found in the KV cache")
        chat.say("/new")
        chat.say("/show")
        chat.see("conversation  new (not saved)")
        chat.say("exit")
        chat.see("type /quit or press Ctrl-D")
        chat.say("/load nowhere.jsonl")
        chat.see("No such file or directory: nowhere.jsonl")
        chat.say("/model another")
        chat.see("fake answers from here on; context of 1,000 tokens.")
        chat.say("/frobnicate")
        chat.see("There is no command /frobnicate")
        chat.say("/history")
        chat.see("first")
        chat.type("/quit\r")
        assert chat.end() == 0
    system = rows(home, "SELECT system FROM conversations")
    assert system == [("Talk like a pirate.",)]
    assert len(rows(home, "SELECT 1 FROM messages")) == 7


def test_themes_are_those_that_exist(start: Start) -> None:
    with start(rows=40) as chat:
        chat.say("/set theme monkai")
        chat.see("did you mean 'monokai'?", "there are")
        chat.say("/set theme vim")
        chat.see("theme is now vim.")


def test_files_too_long_for_the_context_do_not_stay(start: Start, home: Path) -> None:
    (home / "long.txt").write_text("x" * 2000)
    (home / "half.txt").write_text("y" * 600)
    with start() as chat:  # a context of 1,000 tokens, a byte each
        chat.say(f"/file {home}/long.txt")
        chat.see("long.txt takes 2,0", "the context holds 1,000")
        chat.say(f"/file {home}/half.txt")
        chat.say("/file none")
        chat.see("Nothing is attached.")
        chat.say(f"/file {home}/half.txt")
        chat.say(f"/file {home}/half.txt")
        chat.type("read both\r")
        chat.see("the message alone takes", "no longer attached: half.txt, half.txt", ">>> read both")
        chat.type("\r")
        chat.see("You said: read both")


def test_files_copy_edit_save_load_export(start: Start, home: Path) -> None:
    editor = home / "editor"
    editor.write_text("#!/bin/sh\nprintf 'from the editor' >> \"$1\"\n")
    editor.chmod(editor.stat().st_mode | stat.S_IXUSR)
    (home / "notes.txt").write_text("content")
    (home / "picture.png").write_bytes(b"\x89PNG\0" * 100)
    with start(EDITOR=str(editor)) as chat:
        chat.say(f"/file {home}/picture.png")
        chat.see("(500 B)")
        chat.type(f"/file {home}/no")
        chat.see("notes.txt")  # in the menu
        chat.type("\t\r")
        chat.see("notes.txt goes with your next prompt")
        chat.prompt()
        chat.say("read it")
        chat.see("notes.txt:\n```\ncontent\n```\n\nread it")
        chat.say("long")
        chat.say("/copy")
        chat.see("Code block copied (26 characters)")
        code = base64.b64encode(b"def f(x):\n    return x + 1").decode()
        assert f"\x1b]52;c;{code}\x07".encode() in chat.received  # there is no desktop here
        chat.say("/edit")
        chat.see(">>> from the editor", "You said: from the editor")
        chat.say(f"/save {home}/talk.jsonl")
        chat.say(f"/export {home}/talk.md")
        chat.say("/export talk.doc")
        chat.see(".md, .json or .jsonl")
        chat.say("/new")
        chat.say(f"/load {home}/talk.jsonl")
        chat.see("3 exchanges")
        chat.type(f"/save {home}/talk.jsonl\r")
        chat.see("Replace it?")
        chat.type("n\r")
        chat.prompt()
    text = (home / "talk.md").read_text()
    assert "## User\n\nfrom the editor\n\n## Assistant\n\nYou said: from the editor" in text


def test_resume_search_and_recall(start: Start, home: Path) -> None:
    with start() as chat:
        chat.say("my cat is called Milo")
        chat.type("\x04")
        assert chat.end() == 0
    with start("-c") as chat:
        chat.see('Continuing "my cat is called Milo"', ">>> my cat is called Milo")
        chat.say("more")
        chat.say("/new")
        chat.say("/search milo")
        chat.see("user: my cat is called Milo")
        chat.say("/search nothing")
        chat.see("Nothing found for 'nothing'")
        chat.type("/recall cat\r")
        chat.see('From "my cat is called Milo"', "Use this in your next prompt?")
        chat.type("y\r")
        chat.see("It goes with your next prompt.")
        chat.prompt()
        chat.say("what is it called")
        chat.see("```\nmy cat is called Milo\n```")
        name = rows(home, "SELECT id FROM conversations ORDER BY created")[0][0]
        chat.say(f"/resume {name}")
        chat.see("2 exchanges")
        chat.type("\x12my cat")  # Ctrl-R finds prompts of other conversations
        chat.see("my cat is called Milo")
        chat.type("\x07\x03")
    assert len(rows(home, "SELECT 1 FROM conversations")) == 2


def test_no_input_ends_the_conversation(start: Start, home: Path) -> None:
    with start(rows=40) as chat:
        chat.say("hello")
        for keys, expected in (
            (b"/system caf\xe9", "System prompt set."),  # a byte of Latin-1
            (f"/save {home}/y.jsonl".encode(), "Written to"),
            (b"/search caf\xe9", "Nothing found for"),
            (b"/resume x\xe9", "no conversation has the id"),
            (b"/history 99999999999999999999", "messages  hello"),
            (b"/save ~nosuchuser/x", "~nosuchuser/x: no such home"),
            (b"\x1b[200~/file a\0b\x1b[201~", "holds a NUL"),
            (b"/system none", "System prompt removed."),
            (b"hi again", "You said: hi again"),
        ):
            chat.type(keys + b"\r")
            chat.see(expected)
            chat.prompt()


def test_an_error_inside_is_a_line(
    session: Session, model: FakeModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = model.script
    model.script = lambda prompt: answer(prompt) if prompt == "hello" else str(1 // 0)
    monkeypatch.setattr(sys, "stdin", io.StringIO("fail\nhello\n"))
    assert Repl(session, Notices(), []).run() == 0
    output = capsys.readouterr()
    assert output.out == "You said: hello\n"
    assert "(ZeroDivisionError: " in output.err


def test_no_history_and_a_damaged_one(start: Start, home: Path) -> None:
    with start("--no-history") as chat:
        chat.say("secret")
        chat.say("/history")
        chat.see("runs without a history")
    assert not (home / "data").exists()
    (home / "data" / "history").mkdir(parents=True)
    (home / "data" / "history" / "history.db").write_bytes(b"garbage " * 999)
    with start() as chat:
        chat.see("This conversation is not saved.")
        chat.say("hello")
        chat.see("You said: hello")


def test_a_long_answer_scrolls_whole(start: Start) -> None:
    with start(FAKE_CONTEXT="9000", rows=10) as chat:
        chat.say("count")
        told = chat.text().split("count\n", 1)[1].split(" tokens ·")[0].split()[:-1]
        assert told == [str(n) for n in range(1000)]


def test_notices_wait_for_the_end_of_the_answer(start: Start) -> None:
    with start(FAKE_CONTEXT="600") as chat:
        chat.say("count")
        chat.see("The answer reached the end of the context")
        assert chat.text().count("0 1 2 3 4 5") == 1  # nothing was drawn over or left behind
        assert chat.text().index("100 101") < chat.text().index("The answer reached")


def test_hostile_output(start: Start) -> None:
    with start() as chat:
        chat.say("hostile")
        chat.see("abcde")
        answer = chat.received.split(b"hostile")[-1]
        assert b"\x1b]" not in answer
        assert b"\xc2\x9b" not in answer


def test_redirected_in_a_terminal(start: Start, home: Path) -> None:
    """With stderr in a file there is no prompt and no spinner; with stdout in one, plain answers there."""
    places = {"PYTHONPATH": str(RUNNER.parents[2]), "LOCALMOE_DATA_DIR": str(home / "data")}
    environment = {**os.environ, **places}
    run = f"{sys.executable} {RUNNER} chat"
    with Program(["-c", f"import os; os.system('{run} 2> {home}/errors')"], environment) as chat:
        chat.pump(1.5)
        chat.type("hello\r")
        chat.see("You said: hello")
        assert ">>>" not in chat.text()
        chat.type("\x04")
        chat.end()
    with Program(["-c", f"import os; os.environ['TERM'] = 'dumb'; os.system('{run}')"], environment) as chat:
        chat.see("/help lists")
        chat.prompt()
        chat.say("hello")
        assert b"\x1b" not in chat.received
    assert "\x1b" not in (home / "errors").read_text()
    with Program(["-c", f"import os; os.system('{run} > {home}/answers')"], environment) as chat:
        chat.see("/help lists")
        chat.prompt()
        chat.say("long")
        chat.type("\x04")
        chat.end()
    answer = (home / "answers").read_text()
    assert answer.startswith("# Title\n\nSome *words* here.")
    assert "\x1b" not in answer
