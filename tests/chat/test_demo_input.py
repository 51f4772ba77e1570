"""What a person types, on the embedded model in a pseudo-terminal."""

from __future__ import annotations

import stat

import pytest
from demo_chat import Demo

pytestmark = pytest.mark.slow


def test_lines_blocks_and_pastes(demo: Demo) -> None:
    with demo.chat() as chat:
        chat.type('"""one\r')
        chat.see("...")
        chat.say('two"""')
        chat.type("three\x1b\r")  # Alt-Enter
        chat.see(">>> three\n...")
        chat.say("four")
        chat.type("\x1b[200~five\rsix\r\x1b[201~")  # a bracketed paste is not sent by its line ends
        chat.see("... six")
        chat.pump(0.3)
        assert len(demo.said()) == 2
        chat.say("seven")
        chat.say("漢字, grüße, 🙂!")
    assert demo.said() == ["one\ntwo", "three\nfour", "five\nsix\nseven", "漢字, grüße, 🙂!"]


def test_ctrl_r_finds_prompts_of_other_conversations(demo: Demo) -> None:
    with demo.chat() as chat:
        chat.say("What is the capital of Kenya?")
        chat.say("/new")
        chat.say("hello")
        chat.type("\x04")
        assert chat.end() == 0
    with demo.chat() as chat:
        chat.type("\x12capital")
        chat.see("What is the capital of Kenya?")
        chat.type("\r")  # takes it
        chat.pump(0.3)
        chat.type("\r")
        chat.see("Nairobi")
        chat.type("\x1b[A")  # the arrow up
        chat.see(">>> What is the capital of Kenya?")
    assert demo.said().count("What is the capital of Kenya?") == 2


def test_completion(demo: Demo) -> None:
    (demo.home / "notes.txt").write_text("My cat is called Milo.")
    with demo.chat() as chat:
        chat.type("/his")
        chat.see("the last conversations")  # the menu says what it does
        chat.type("\t\r")
        chat.see("There are no conversations yet.")
        chat.prompt()
        chat.type("/set temperat")
        chat.see("the likeliest token")
        chat.type("\t0.5\r")
        chat.see("temperature is now 0.5")
        chat.prompt()
        chat.type(f"/file {demo.home}/no")
        chat.see("notes.txt")
        chat.type("\t\r")
        chat.see("notes.txt goes with your next prompt")
        chat.prompt()
        chat.type("/model de")
        chat.see("demo.gguf")  # where the model is, beside its name
        chat.type("\t\r")
        chat.see("demo answers from here on")


def test_the_editor(demo: Demo) -> None:
    editor = demo.home / "editor"
    editor.write_text("#!/bin/sh\nprintf 'My name is\\nAda.' > \"$1\"\n")
    editor.chmod(editor.stat().st_mode | stat.S_IXUSR)
    with demo.chat(EDITOR=str(editor)) as chat:
        chat.say("/edit")
        chat.see(">>> My name is", "Ada")
        chat.say("/edit last")
    assert demo.said() == ["My name is\nAda.", "My name is\nAda."]


@pytest.mark.parametrize(
    ("keys", "typed"),
    [
        ("vi", "xhello\x1b0xA!\r"),  # Escape, to the line's start, delete, append
        ("emacs", "xhello\x01\x04\x05!\r"),  # Ctrl-A, Ctrl-D (delete: the line is not empty), Ctrl-E
    ],
)
def test_keys_from_the_configuration(demo: Demo, keys: str, typed: str) -> None:
    demo.config.parent.mkdir()
    demo.config.write_text(f'keys = "{keys}"\n')
    with demo.chat() as chat:
        chat.type(typed)
        chat.see("tok/s")
        chat.prompt()
    assert demo.said() == ["hello!"]
