"""The conversation in a real pseudo-terminal, on the embedded model."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from terminal import Program

from localmoe.chat.conversation import Conversation
from localmoe.chat.window import messages
from localmoe.history.store import History

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
FIRST = 120.0  # seconds: the kernels may have to be compiled first


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "EDITOR", "VISUAL")}
    places = {"LOCALMOE_DATA_DIR": str(home / "data"), "LOCALMOE_CONFIG_DIR": str(home / "config")}
    return {**kept, **places, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def start(environment: dict[str, str]) -> Callable[..., Program]:
    def program(*arguments: str) -> Program:
        started = Program(["-m", "localmoe", "chat", *arguments], environment)
        started.see("/help lists the commands", seconds=FIRST)
        started.prompt(FIRST)
        return started

    return program


def details(home: Path) -> list[dict[str, object]]:
    """What is kept of the answers, in order."""
    connection = sqlite3.connect(home / "data" / "history" / "history.db")
    try:
        query = "SELECT details FROM messages WHERE role = 'assistant' ORDER BY id"
        found = connection.execute(query).fetchall()
    finally:
        connection.close()
    return [json.loads(row[0]) for row in found]


def test_a_conversation_over_two_starts(start: Callable[..., Program], home: Path) -> None:
    with start() as chat:
        chat.see("demo · context of")
        chat.say("My name is Ada.")
        chat.see("tok/s")
        chat.say("What is 12 plus 30?")
        chat.type("\x04")
        assert chat.end() == 0
    first, second = details(home)
    assert first["identity"] == second["identity"]
    assert first["parameters"]["temperature"] == 0.0  # type: ignore[index] # a dict
    assert second["prefilled_tokens"] < second["prompt_tokens"]  # type: ignore[operator] # numbers
    with start("-c") as chat:
        chat.see('Continuing "My name is Ada."', ">>> What is 12 plus 30?")
        chat.say("What is my name?")
        chat.say("/stats")
        chat.see("found in the KV cache")
        chat.type("\x04")
        assert chat.end() == 0
    third = details(home)[2]
    # The state came back from disk: what was said before the restart is not computed again.
    assert third["prefilled_tokens"] <= third["prompt_tokens"] - second["prompt_tokens"]  # type: ignore[operator]


def test_a_state_that_is_gone_or_damaged_is_computed_again(environment: dict[str, str], home: Path) -> None:
    def follow_up() -> int:
        line = [sys.executable, "-m", "localmoe", "chat", "-c", "-p", "Thanks.", "--json", "-n", "8"]
        nothing = subprocess.DEVNULL
        result = subprocess.run(line, env=environment, stdin=nothing, capture_output=True, check=True)
        answer = json.loads(result.stdout)
        return int(answer["prompt_tokens"] - answer["prefilled_tokens"])

    (state,) = (home / "data" / "history" / "kv").iterdir()
    assert follow_up() > 20
    state.write_bytes(state.read_bytes()[:-100])
    assert follow_up() == 0
    assert follow_up() > 20
    state.unlink()
    assert follow_up() == 0


def test_the_prompt_is_the_canonical_encoding(environment: dict[str, str], home: Path) -> None:
    import localmoe

    with History(home / "data" / "history" / "history.db") as history:
        summary = history.latest()
        assert summary is not None
        conversation = Conversation.from_history(summary, history.messages(summary.id))
    conversation.add("user", "And now? ")
    line = [sys.executable, "-m", "localmoe", "chat", "-c", "-p", "And now? ", "--dry-run", "--json"]
    result = subprocess.run(line, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    shown = json.loads(result.stdout)
    model = localmoe.load("demo")
    try:
        assert shown["ids"] == model.encode_chat(messages("", conversation.path()))
        assert shown["ids"].count(model.tokenizer.bos_id) == 1
    finally:
        model.close()
    assert shown["prompt"].startswith("<s>")
    assert shown["prompt_tokens"] == len(shown["ids"])


def test_interrupt_continue_branch_undo(start: Callable[..., Program]) -> None:
    with start("--system", "Your name is Nora.") as chat:
        chat.say("/system")
        chat.see("Your name is Nora.")
        chat.say("hello")
        chat.say("/regen")
        chat.say("/branch")
        chat.see("* 2  2 turns  hello")
        chat.type("/undo\r")
        chat.see(">>> hello")
        chat.type("\x15")
        chat.say("/set max_tokens 3")
        chat.say("Tell me about localmoe.")
        chat.see("3 tokens")
        chat.say("/continue")
        chat.say("/plan")
        chat.see("KV cache")
        chat.type("\x04")
        assert chat.end() == 0


def test_long_conversations_leave_out_the_oldest(start: Callable[..., Program]) -> None:
    with start("--context", "128", "--max-tokens", "16", "--no-history") as chat:
        for number in range(8):
            chat.say(f"My lucky number is {number}, what is it?")
        chat.see("The context is full: the model no longer sees the oldest")
        chat.see("of the context is used")


def test_pipes(environment: dict[str, str]) -> None:
    flags = ["-p", "hello", "--json", "--seed", "1", "--temperature", "0.9"]
    line = [sys.executable, "-m", "localmoe", "chat", *flags]
    results = [
        subprocess.run(line, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=True)
        for _ in range(2)
    ]
    first, second = (json.loads(one.stdout) for one in results)
    assert first["text"] == second["text"]
    assert first["finish_reason"] in ("stop", "length", "context")
    assert b"\x1b" not in results[0].stdout + results[0].stderr
