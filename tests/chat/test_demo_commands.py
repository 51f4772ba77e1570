"""Every slash command, on the embedded model in a pseudo-terminal."""

from __future__ import annotations

import re

import pytest
from demo_chat import Demo
from terminal import Program

from localmoe.chat.commands import COMMANDS

pytestmark = pytest.mark.slow


class Noting:
    """A conversation that notes which commands were used."""

    def __init__(self, chat: Program) -> None:
        self.chat = chat
        self.used: set[str] = set()

    def say(self, text: str, *shown: str) -> None:
        self.used |= set(re.findall(r"^/(\w+)", text))
        self.chat.say(text)
        self.chat.see(*shown)

    def type(self, text: str, *shown: str) -> None:
        self.used |= set(re.findall(r"^/(\w+)", text))
        self.chat.type(text)
        self.chat.see(*shown)


def test_all_commands(demo: Demo) -> None:
    (demo.home / "notes.txt").write_text("My cat is called Milo.")
    (demo.home / "picture.png").write_bytes(b"\x89PNG\0" * 100)
    (demo.home / "large.txt").write_text("word " * 4000)
    with demo.chat(rows=50, EDITOR="true") as program:
        chat = Noting(program)
        chat.say("/help", "/set [NAME [VALUE]]", "/recall WORDS", "Alt-Enter")
        chat.say("/help undo", "/undo: step back before the last prompt")
        chat.say("/system Your name is Nora.", "System prompt set.")
        chat.say("/system", "Your name is Nora.")
        chat.say("Who are you?", "Nora")
        chat.say("/stats", "ended by        stop")
        chat.say("/plan", "KV cache")
        chat.say("/copy", "Answer copied")
        chat.say("/set", "temperature", "max_tokens")
        chat.say("/set temperature 0.9", "temperature is now 0.9.")
        chat.say("/set seed 5", "seed is now 5.")
        chat.say("/set temprature 1", "did you mean 'temperature'?")
        chat.say("/set context 4096", "localmoe chat --context")
        chat.say("/show", "temperature 0.9", "seed 5", "exchanges     1", "model         demo")
        chat.say("/regen")
        chat.say("/branch", "* 2  2 turns  Who are you?")
        chat.say("/branch 1", ">>> Who are you?")
        chat.say("/set temperature 0")
        chat.type("/undo\r", "Stepped back before your last prompt")
        # the same words stand further up: wait for those at the prompt
        program.wait(lambda: program.text().split("\n")[-1].strip() == ">>> Who are you?", 40)
        program.type("\x15")
        chat.say(f"/file {demo.home}/picture.png", "(500 B)")
        chat.say(f"/file {demo.home}/large.txt", "large.txt takes", "the context holds 2,048")
        chat.say(f"/file {demo.home}/notes.txt", "notes.txt goes with your next prompt")
        chat.say("What is my cat called?", "tok/s")
        chat.say("/set max_tokens 3")
        chat.say("Give me a tour.", "3 tokens")
        chat.say("/set max_tokens unset")
        chat.say("/thoughts", "came without thoughts")
        chat.say("/continue", "lists all commands")
        chat.say("/edit some text", ">>> some text")  # the editor leaves it as it is
        chat.say(f"/save {demo.home}/talk.jsonl", "Written to")
        chat.say(f"/export {demo.home}/talk.md", "Written to")
        chat.say("/export talk.doc", ".md, .json or .jsonl")
        chat.say("/clear")
        assert program.screen()[0].strip() == ">>>"
        chat.say("/new", "A new conversation.")
        chat.say("My name is Ada.")
        chat.type(f"/save {demo.home}/talk.jsonl\r", "Replace it?")
        program.type("n\r")
        program.prompt()
        chat.say(f"/load {demo.home}/talk.jsonl", "Continuing", "exchanges")
        chat.say("/history", "My name is Ada.")
        chat.say("/search milo", "My cat is called")
        chat.type("/recall Ada\r", "Use this in your next prompt?")
        program.type("n\r")
        program.prompt()
        chat.say("/resume", "/resume ID goes on with one of them.")
        (name,) = demo.rows("SELECT conversation FROM messages WHERE content = 'My name is Ada.'")[0]
        chat.say(f"/resume {name}", 'Continuing "My name is Ada."')
        chat.say("/model", "* demo")
        chat.say("/model demo", "demo answers from here on; context of 2,048 tokens.")
        chat.say("/model nonesuch.gguf", "no such file")
        chat.say("What is my name?", "Ada")
        chat.say("/frobnicate", "There is no command /frobnicate")
        chat.say("exit", "type /quit or press Ctrl-D")
        chat.type("/quit\r")
        assert program.end() == 0
    assert chat.used - {"frobnicate"} == set(COMMANDS)
    text = (demo.home / "talk.md").read_text()
    assert "notes.txt:\n```\nMy cat is called Milo.\n```\n\nWhat is my cat called?" in text
    assert "```python\nimport localmoe" in text


def test_settings_take_effect_at_once(demo: Demo) -> None:
    with demo.chat() as chat:
        chat.say("/set temperature 1.5")
        chat.say("/set seed 11")
        chat.say("/set top_k 40")
        chat.say("Tell me a story about a dragon.")
        chat.say("/set temperature 0")
        chat.say("/regen")
    first, second = demo.details()
    assert (first["parameters"]["temperature"], first["parameters"]["top_k"], first["seed"]) == (1.5, 40, 11)
    assert second["parameters"]["temperature"] == 0.0
