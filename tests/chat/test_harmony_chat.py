"""A conversation with a model that answers in harmony's channels, as gpt-oss does."""

from __future__ import annotations

import pytest
from fake_model import HarmonyModel

from localmoe.chat.conversation import Conversation
from localmoe.chat.oneshot import answer_object
from localmoe.chat.recorder import Recorder
from localmoe.chat.session import Session
from localmoe.history.store import History
from localmoe.settings import Settings

THOUGHTS = "A greeting. Close with </think>?"
ANALYSIS, FINAL = f"<|channel|>analysis<|message|>{THOUGHTS}", "<|channel|>final<|message|>Hello!"
WRITTEN = f"{ANALYSIS}<|end|><|start|>assistant{FINAL}"


@pytest.fixture
def session(history: History) -> Session:
    model = HarmonyModel({"hi": WRITTEN, "plain": "No channel.", "call": ANALYSIS})
    return Session(model, Settings(temperature=0), Conversation(), Recorder(history, print), print)


def ask(session: Session, text: str) -> str:
    return "".join(session.ask(text))


def test_thoughts_are_kept_apart_and_are_not_part_of_the_next_prompt(session: Session) -> None:
    heard: list[str] = []
    session.thought = heard.append
    text = ask(session, "hi")
    assert (text, heard[-1]) == ("Hello!", THOUGHTS)
    assert answer_object(session, text)["thoughts"] == THOUGHTS
    assert session.conversation.turns[-1].details["thoughts"] == THOUGHTS
    assert ask(session, "plain") == "No channel."
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello!"}]
    prompt = session.model.encode_chat([*said, {"role": "user", "content": "plain"}])
    assert list(session.decoder.tokens) == [*prompt, *b"No channel."]


@pytest.mark.parametrize("tokens", [9, 12, 40, 43, 50, 60, 65])
def test_an_answer_goes_on_where_it_was_cut(session: Session, tokens: int) -> None:
    """Within its thoughts, within a header, within its text."""
    whole = len(session.model.tokenizer.written(WRITTEN))
    session.set(max_tokens=tokens)
    begun = ask(session, "hi")
    assert tokens < whole
    assert session.answer is not None
    assert session.answer.finish_reason == "length"
    session.set(max_tokens=None)
    assert begun + "".join(session.continue_answer()) == "Hello!"
    assert session.conversation.turns[-1].thoughts == THOUGHTS
    assert session.answer.prefilled_tokens <= len("<|start|>assistant<|channel|>final")


def test_a_blank_line_parts_messages_of_one_kind(session: Session) -> None:
    """Also where one of the other kind came between."""
    plan = "<|channel|>commentary<|message|>A plan."
    session.model.answers |= {"hi": "<|end|><|start|>assistant".join((ANALYSIS, plan, ANALYSIS, FINAL))}
    assert ask(session, "hi") == "A plan.\n\nHello!"
    assert session.thoughts == f"{THOUGHTS}\n\n{THOUGHTS}"


def test_thoughts_are_kept_where_the_model_thinks_again_on_going_on(session: Session) -> None:
    session.set(max_tokens=len(session.model.tokenizer.written(WRITTEN)))
    session.model.answers["hi"] = "<|end|><|start|>assistant".join((WRITTEN, ANALYSIS, FINAL))
    assert ask(session, "hi") == "Hello!"
    session.set(max_tokens=None)
    assert "".join(session.continue_answer()) == "\n\nHello!"
    assert session.conversation.turns[-1].thoughts == session.thoughts == f"{THOUGHTS}\n\n{THOUGHTS}"


def test_an_answer_may_begin_with_the_marker_of_thoughts(session: Session) -> None:
    answer = "<think>x</think> are Qwen's marks."
    session.model.answers["hi"] = f"<|channel|>final<|message|>{answer}"
    session.set(max_tokens=40)
    begun = ask(session, "hi")
    session.set(max_tokens=None)
    assert begun + "".join(session.continue_answer()) == answer
    ask(session, "plain")
    assert answer in session.model.tokenizer.decode(session.window().ids)


def test_imported_answers_leave_their_thoughts_out(session: Session) -> None:
    session.conversation.add("user", "hi")
    session.conversation.add("assistant", "<think>Hm.</think>\n\nHello!")
    session.conversation.add("user", "plain")
    assert "Hm." not in session.model.tokenizer.decode(session.window().ids)


def test_an_answer_that_ends_within_its_thoughts_says_so(session: Session) -> None:
    told: list[str] = []
    session._notice = told.append
    assert ask(session, "call") == ""
    assert "by itself" in told[-1]


def test_without_thoughts_the_answer_begins_at_once(session: Session) -> None:
    session.model.answers |= {"hi": "<|channel|>final<|message|>At once."}
    session.set(think=False)
    assert ask(session, "hi") == "At once."
    assert not session.thoughts
    session.model.script = lambda prompt: "<|channel|>final<|message|>All in short."
    session.set(think=True)
    assert session._summarize(session.conversation.path(), "") == "All in short."
