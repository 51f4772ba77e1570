"""Where nothing can be drawn over: a terminal of the simplest kind; and the terminal's state after a kill."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import termios
from pathlib import Path

import pytest
from terminal import Program

RUNNER = Path(__file__).with_name("fake_model.py")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LOCALMOE_")}
    places = {"PYTHONPATH": str(RUNNER.parents[2]), "LOCALMOE_DATA_DIR": str(tmp_path / "data")}
    return {**kept, **places, "LOCALMOE_CONFIG_DIR": str(tmp_path / "config"), "HOME": str(tmp_path)}


def test_questions_drafts_and_blocks(environment: dict[str, str], tmp_path: Path) -> None:
    file, run = tmp_path / "talk.jsonl", f"{sys.executable} {RUNNER} chat"
    with Program(["-c", f"import os; os.environ['TERM'] = 'dumb'; os.system('{run}')"], environment) as chat:
        chat.see("/help lists")
        chat.prompt()
        chat.say("hello")
        chat.say(f"/save {file}")
        for answer, kept in (("n", False), ("y", True)):
            file.write_text("")
            chat.type(f"/save {file}\r")
            chat.wait(lambda: chat.text().endswith("Replace it? [y/N]"))
            chat.type(answer + "\r")
            chat.see(f"[y/N] {answer}")
            chat.prompt()
            assert bool(file.read_text()) == kept
        chat.say("/undo")
        assert chat.text().endswith("to change or delete.\nhello\n>>>")
        chat.type('"""one\r')
        chat.wait(lambda: chat.text().endswith('"""one\n...'))
        chat.say('two"""')
        chat.see("You said: one\ntwo")
        assert b"\x1b" not in chat.received


def test_without_a_prompt_no_line_is_taken_for_an_answer(environment: dict[str, str], tmp_path: Path) -> None:
    file, run = tmp_path / "talk.jsonl", f"{sys.executable} {RUNNER} chat"
    file.write_text("kept")
    with Program(["-c", f"import os; os.system('{run} 2> {tmp_path}/errors')"], environment) as chat:
        chat.type(f"/save {file}\ry\r\x04")
        chat.see("You said: y")
        chat.end()
    assert file.read_text() == "kept"
    assert "Replace it? No: nobody can answer here." in (tmp_path / "errors").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("answering", [True, False])
def test_a_signal_leaves_the_terminal_as_it_was(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals, answering: bool
) -> None:
    with Program([str(RUNNER), "chat"], {**environment, "FAKE_DELAY": "0.02"}) as chat:
        child = chat._child
        before = termios.tcgetattr(child.child_fd)
        chat.see("/help lists")
        chat.prompt()
        if answering:
            chat.type("count\r")
            chat.see("0 1 2 3")
        child.kill(number)
        while chat.pump():
            pass
        assert termios.tcgetattr(child.child_fd) == before
        chat.end()
        assert child.signalstatus == number
    if answering:
        connection = sqlite3.connect(tmp_path / "data" / "history" / "history.db")
        query = "SELECT status, content FROM messages WHERE role = 'assistant'"
        ((status, content),) = connection.execute(query)
        connection.close()
        assert status == "interrupted"
        assert content.startswith("0 1 2 3")
