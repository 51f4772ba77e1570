"""Long conversations, recall, and the KV cache across turns and restarts, on the embedded model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
from demo_chat import Demo

import localmoe

pytestmark = pytest.mark.slow


def encoded(*messages: tuple[str, str]) -> list[int]:
    """Token ids of a message list in the embedded model's format, worked out beside the chat."""
    with localmoe.load("demo") as model:
        return model.encode_chat([{"role": role, "content": text} for role, text in messages])


def conversation(demo: Demo) -> Sequence[tuple[str, str]]:
    rows = demo.rows("SELECT role, content FROM messages ORDER BY id")
    return [(str(role), str(text)) for role, text in rows]


def test_the_oldest_turns_are_left_out_and_announced(demo: Demo) -> None:
    system = "Your name is Nora."
    small = ("--context", "160", "--max-tokens", "16")
    with demo.chat(*small, "-s", system) as chat:
        for number in range(7):
            chat.say(f"My lucky number is {number}.")
        chat.see("of the context is used")  # the warning at 80 %
        chat.see("The context is full: the model no longer sees the oldest")
        chat.type("\x04")
        chat.end()
    assert len(demo.said()) == 7  # on disk nothing is missing
    left_out = demo.details()[-1]["window"]["left_out"]
    assert left_out >= 2
    shown = demo.answer("-c --dry-run --context 160 --max-tokens 16 -p 'And now?'")
    turns = [*conversation(demo), ("user", "And now?")]
    prompts = [encoded(("system", system), *turns[start:]) for start in range(left_out, len(turns), 2)]
    free = 160 - 16  # what is left out goes until a quarter of this is free, and stays out from then on
    shorter = (ids for ids in prompts[1:] if len(ids) <= free * 0.75)
    assert shown["ids"] == (prompts[0] if len(prompts[0]) <= free else next(shorter))


def test_overflow_stop(demo: Demo) -> None:
    with demo.chat("--context", "128", "--max-tokens", "16", "--overflow", "stop") as chat:
        refused = "/new starts another one"

        def ended(answers: int) -> bool:
            return chat.shows(refused) or chat.text().count("tok/s") == answers

        for number in range(5):
            chat.type(f"My lucky number is {number}.\r")
            chat.wait(partial(ended, number + 1))
            if chat.shows(refused):
                break
            chat.prompt()
        chat.see("/new starts another one")
        assert len(demo.said()) < 5
        chat.wait(lambda: chat.text().split("\n")[-1].startswith(">>> My lucky"))
        chat.type("\x15")
        chat.say("/new")
        chat.say("hello")


def test_overflow_summarize(demo: Demo) -> None:
    with demo.chat("--context", "256", "--max-tokens", "16", "--overflow", "summarize") as chat:
        for number in range(11):
            chat.say(f"My lucky number is {number}.")
        chat.see("summary")
        chat.type("\x04")
        chat.end()
    window = next(one["window"] for one in reversed(demo.details()) if "window" in one)
    assert window["summary"]
    shown = demo.answer("-c --dry-run --context 256 --max-tokens 16 -p 'And now?'")
    assert window["summary"] in shown["prompt"]


def test_recall_is_shown_before_it_is_used(demo: Demo) -> None:
    with demo.chat() as chat:
        chat.say("My cat is called Milo.")
        chat.say("/new")
        chat.say("/recall nonsense")
        chat.see("No earlier conversation mentions")
        chat.type("/recall cat\r")
        chat.see('From "My cat is called Milo."', "Use this in your next prompt?")
        chat.type("y\r")
        chat.see("It goes with your next prompt.")
        chat.prompt()
        chat.say("What is my cat called?")
    asked = demo.said()[-1]
    assert asked.startswith('From "My cat is called Milo."')
    assert "```\nMy cat is called Milo.\n```" in asked
    details = demo.details()[-1]
    assert details["prompt_tokens"] == len(encoded(("user", asked)))


def test_the_state_comes_back_after_a_restart(demo: Demo) -> None:
    with demo.chat() as chat:
        chat.say("My name is Ada.")
        chat.say("What is 12 plus 30?")
        chat.type("\x04")
        chat.end()
    spoken = len(encoded(*conversation(demo)[:3]))
    with demo.chat("-c") as chat:
        chat.see('Continuing "My name is Ada."', ">>> What is 12 plus 30?")
        chat.say("What is my name?")
        chat.say("/stats")
        chat.see("found in the KV cache")
        chat.type("\x04")
        chat.end()
    last = demo.details()[-1]
    assert last["prompt_tokens"] == len(encoded(*conversation(demo)[:5]))
    assert last["prefilled_tokens"] <= last["prompt_tokens"] - spoken

    (state,) = (demo.database.parent / "kv").iterdir()

    def reused() -> int:
        told = demo.answer("-c -p Thanks. -n 8")
        return int(told["prompt_tokens"] - told["prefilled_tokens"])

    assert reused() > 20
    state.write_bytes(state.read_bytes()[:-100])
    assert reused() == 0
    assert reused() > 20
    state.unlink()
    assert reused() == 0


def test_a_system_prompt_that_changes_keeps_what_is_common(demo: Demo) -> None:
    with demo.chat() as chat:
        chat.say("My name is Ada.")
        chat.say("What is 12 plus 30?")
        chat.say("/regen")
        assert demo.details()[-1]["prefilled_tokens"] == 1  # the prompt was known but for its last token
        chat.say("/system Your name is Nora.")
        chat.say("/regen")
    last = demo.details()[-1]
    assert last["prompt_tokens"] - last["prefilled_tokens"] < 10  # v1 puts it into the first user turn


def test_states_keep_below_their_limit_and_the_longest_unused_goes(demo: Demo) -> None:
    demo.answer("-p 'My name is Ada.'")
    (first,) = (demo.database.parent / "kv").iterdir()
    size = first.stat().st_size
    assert first.stat().st_mode & 0o777 == 0o600
    demo.environment["LOCALMOE_KV_DISK"] = str(size * 5 // 2)
    for city in ("Turin", "Osaka"):  # states of much the same size: there is room for two
        demo.answer(f"-p 'I live in {city}.'")
    kept = set((demo.database.parent / "kv").iterdir())
    assert len(kept) == 2
    assert first not in kept
    demo.environment["LOCALMOE_KV_DISK"] = "0"
    told = demo.answer("-p hello")
    assert not any(told["conversation"] in file.name for file in (demo.database.parent / "kv").iterdir())
