"""Where nothing can be drawn over: a terminal of the simplest kind."""

from __future__ import annotations

import os
import sys
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
