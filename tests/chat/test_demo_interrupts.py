"""Ctrl-C, Ctrl-D and kill -9, on the embedded model in a pseudo-terminal."""

from __future__ import annotations

import time

import pytest
from demo_chat import Demo

pytestmark = pytest.mark.slow
LONG = "Give me a tour."  # some 230 tokens


def test_ctrl_c_keeps_the_partial_answer(demo: Demo) -> None:
    with demo.chat(delay=0.02) as chat:
        chat.type(LONG + "\r")
        chat.see("A short tour")
        chat.type("\x03")
        chat.see("(stopped here; /continue goes on")
        chat.prompt()
        status, content = demo.rows("SELECT status, content FROM messages WHERE role = 'assistant'")[0]
        assert status == "interrupted"
        assert content.startswith("A short tour")
        chat.say("/continue")
        ((again, state),) = demo.rows("SELECT content, status FROM messages WHERE role = 'assistant'")
        assert (again.startswith(content), state) == (True, "complete")
        assert len(again) > len(content)


def test_ctrl_c_while_keys_wait(demo: Demo) -> None:
    with demo.chat(delay=0.02) as chat:
        chat.type(LONG + "\r")
        chat.see("A short tour")
        chat.type("next")
        chat.pump(0.5)
        chat.type("\x03")
        chat.see("(stopped here", ">>> next")
        assert chat.text().count("next") == 1


def test_ctrl_c_and_ctrl_d_at_the_prompt(demo: Demo) -> None:
    with demo.chat() as chat:
        chat.type("draft\x03")  # at a prompt with text in it: discards that
        chat.pump(0.3)
        chat.type("\x03")
        chat.see("Press Ctrl-C once more")
        chat.prompt()
        chat.type("\x03")
        assert chat.end() == 0
    with demo.chat() as chat:
        chat.type("\x04")
        assert chat.end() == 0


def test_kill_loses_at_most_the_last_second(demo: Demo) -> None:
    with demo.chat(delay=0.03) as chat:
        chat.type(LONG + "\r")
        chat.see("A short tour")
        early = time.monotonic()
        chat.see("**Look**")
        while time.monotonic() < early + 1.5:  # what is older than a second must be there then
            chat.pump(0.05)
        chat.kill()
    ((content,),) = demo.rows("SELECT content FROM messages WHERE role = 'assistant'")
    assert content.startswith("A short tour")
    with demo.chat("-c") as chat:
        chat.see(f'Continuing "{LONG}"', "A short tour")
