"""Prompts token for token, what is prefilled, what is kept, and every way an answer can end."""

from __future__ import annotations

import re

import pytest
from fake_model import FakeModel, ThinkingTokenizer, encode_chat

from localmoe.chat import paced
from localmoe.chat.asked import sampling_of
from localmoe.chat.conversation import Conversation
from localmoe.chat.oneshot import answer_object
from localmoe.chat.session import Session
from localmoe.chat.window import ContextFullError
from localmoe.errors import UsageError
from localmoe.generate.sampling import Sampling
from localmoe.history.store import History


def said(*contents: str, system: str = "") -> list[int]:
    turns = [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(contents)]
    return encode_chat(([{"role": "system", "content": system}] if system else []) + turns)


def ask(session: Session, text: str) -> str:
    return "".join(session.ask(text))


@pytest.fixture
def thinking(model: FakeModel) -> FakeModel:
    """The model, which greets after a thought."""
    model.tokenizer = ThinkingTokenizer()
    model.answers["hi"] = "<think>\nA greeting.\n</think>\n\nHello!"
    return model


def saved(history: History) -> list[tuple[str, str, str]]:
    summary = history.latest()
    assert summary is not None
    return [(one.role, one.content, one.status) for one in history.path_to(summary.id, summary.head)]


def test_two_turns(session: Session, model: FakeModel, history: History) -> None:
    assert ask(session, "hi") == "You said: hi"
    assert ask(session, "again") == "You said: again"
    decoder = model.decoders[0]
    assert decoder.tokens == [*said("hi", "You said: hi", "again"), *b"You said: again"]
    assert session.answer is not None
    assert session.answer.finish_reason == "stop"
    # the second turn prefills the first answer's EOS, its own text and three markers: nothing else
    assert session.answer.prefilled_tokens == 1 + len("again") + 3
    assert saved(history) == [
        ("user", "hi", "complete"),
        ("assistant", "You said: hi", "complete"),
        ("user", "again", "complete"),
        ("assistant", "You said: again", "complete"),
    ]
    details = history.messages(session.conversation.id or "")[1].details
    assert details["model"] == "fake"
    assert details["identity"] == model.identity
    assert details["parameters"]["temperature"] == 0.0
    assert details["seed"] >= 0
    assert details["timings"]["decode_tps"] > 0


def test_thoughts_are_told_apart_kept_and_not_part_of_the_next_prompt(
    session: Session, thinking: FakeModel, history: History
) -> None:
    heard: list[str] = []
    session.thought = heard.append
    assert ask(session, "hi") == "Hello!"
    assert heard[-1] == "\nA greeting.\n"
    assert saved(history)[-1] == ("assistant", "Hello!", "complete")
    assert history.messages(session.conversation.id or "")[-1].details["thoughts"] == "\nA greeting.\n"
    ask(session, "again")
    assert session.decoder.tokens == [*said("hi", "Hello!", "again"), *b"You said: again"]
    assert "thoughts" not in session.conversation.turns[-1].details


def test_thoughts_are_those_of_their_own_answer(session: Session, thinking: FakeModel) -> None:
    text = ask(session, "hi")
    assert answer_object(session, text)["thoughts"] == "A greeting."
    text = "".join(session.ask("stopped", cancelled=lambda: True))  # then it stands on the one before again
    assert session.conversation.path()[-1].thoughts
    assert "thoughts" not in answer_object(session, text)


@pytest.mark.parametrize("thoughts", [5, None, ["a"], {"b": 1}])
def test_imported_thoughts_of_another_kind_are_none(session: Session, thoughts: object) -> None:
    session.conversation.add("user", "hi")
    session.conversation.add("assistant", "hello", thoughts=thoughts)
    assert session.conversation.path()[-1].whole == "hello"
    assert "".join(session.continue_answer()) == "aid: hi"  # where its script goes on after five bytes


def test_an_answer_that_goes_on_has_its_thoughts_before_it(session: Session, thinking: FakeModel) -> None:
    session.set(max_tokens=32)
    begun = ask(session, "hi")
    held = list(session.decoder.tokens)
    session.set(max_tokens=None)
    assert begun + "".join(session.continue_answer()) == "Hello!"
    assert session.decoder.tokens[: len(held)] == held
    assert session.answer is not None
    assert session.answer.prefilled_tokens <= 1


def test_an_answer_that_ends_in_its_thoughts_says_so(session: Session, thinking: FakeModel) -> None:
    told: list[str] = []
    session._notice = told.append
    session.set(max_tokens=12)
    assert ask(session, "hi") == ""
    assert "/set think off" in told[-1]
    assert session.conversation.turns[-1].details["thoughts"] == "\nA gr"
    session.set(max_tokens=None)
    assert "".join(session.continue_answer()) == "Hello!"  # from within its thoughts
    assert session.conversation.turns[-1].details["thoughts"] == "\nA greeting.\n"
    thinking.answers["yo"] = "<think>\nA greeting."
    session.set(stop=("greet",))
    assert ask(session, "yo") == ""
    assert "at a stop text" in told[-1]


def test_an_answer_stopped_within_its_thoughts_is_kept_and_goes_on(
    session: Session, thinking: FakeModel, history: History
) -> None:
    heard: list[str] = []
    session.thought = heard.append
    assert "".join(session.ask("hi", cancelled=lambda: len(heard) > 2)) == ""
    turn = session.conversation.head
    assert turn is not None
    assert (turn.role, turn.status, turn.content) == ("assistant", "interrupted", "")
    assert saved(history)[-1] == ("assistant", "", "interrupted")
    assert "".join(session.continue_answer()) == "Hello!"
    assert turn.details["thoughts"] == "\nA greeting.\n"


def test_whether_to_think_reaches_the_prompt_and_a_summary_is_made_without(
    session: Session, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[bool, str | None]] = []

    def encoded(messages, *, think, effort=None):  # type: ignore[no-untyped-def] # as the model's
        asked.append((think, effort))
        return encode_chat(messages)

    monkeypatch.setattr(model, "encode_chat", encoded)
    ask(session, "one")
    assert set(asked) == {(True, None)}
    asked.clear()
    session.set(think=False, effort="high")
    ask(session, "two")
    assert set(asked) == {(False, "high")}
    asked.clear()
    model.tokenizer = ThinkingTokenizer()
    model.script = lambda prompt: "<think>Well</think>All in short."
    session.set(think=True)
    assert session._summarize(session.conversation.path(), "") == "All in short."
    assert asked == [(False, None)]


@pytest.mark.parametrize(
    "window",
    [5, *({"context": 1000, **wrong} for wrong in ({"left_out": "x"}, {"left_out": 9}, {"summary": 3}))],
)
def test_an_imported_window_that_makes_no_sense_is_ignored(session: Session, window: object) -> None:
    session.conversation.add("user", "hi")
    session.conversation.add("assistant", "hello", window=window)
    assert ask(session, "again") == "You said: again"
    assert session.decoder.tokens == [*said("hi", "hello", "again"), *b"You said: again"]


def test_a_system_prompt_that_changes_keeps_the_common_prefix(session: Session, model: FakeModel) -> None:
    session.conversation.system = "abc"
    ask(session, "hi")
    session.conversation.system = "abd"
    ask(session, "yo")
    expected = said("hi", "You said: hi", "yo", system="abd")
    assert model.decoders[0].tokens == [*expected, *b"You said: yo"]
    assert session.answer is not None
    assert session.answer.prefilled_tokens == len(expected) - 4  # BOS, marker, "a", "b" were there


def test_regenerate_undo_and_branches(session: Session, model: FakeModel, history: History) -> None:
    ask(session, "one")
    model.answers["one"] = "another answer"
    assert "".join(session.regenerate()) == "another answer"
    assert saved(history)[-1][1] == "another answer"
    assert len(session.conversation.leaves()) == 2
    assert session.conversation.undo().content == "one"
    session.recorder.stand_on(session.conversation)
    assert saved(history) == []
    ask(session, "two")
    assert model.decoders[0].tokens == [*said("two"), *b"You said: two"]
    assert [leaf.content for leaf in session.conversation.leaves()] == [
        "You said: one",
        "another answer",
        "You said: two",
    ]
    assert len(history.messages(session.conversation.id or "")) == 5
    with pytest.raises(UsageError, match="nothing to undo"):
        [session.conversation.undo() for _ in range(9)]


def test_a_resumed_conversation_is_the_same(session: Session, model: FakeModel, history: History) -> None:
    session.conversation.system = "sys"
    ask(session, "one")
    "".join(session.regenerate())
    summary = history.find(session.conversation.id or "")
    again = Conversation.from_history(summary, history.messages(summary.id))
    assert [turn.content for turn in again.path()] == ["one", "You said: one"]
    assert (again.system, len(again.turns)) == ("sys", 3)
    resumed = Session(model, session.settings, again, session.recorder, print)
    assert ask(resumed, "two") == "You said: two"
    assert model.decoders[-1].tokens[:-15] == said("one", "You said: one", "two", system="sys")[:-2]
    assert len(history.conversations()) == 1


def test_cancelled_in_the_middle(session: Session, history: History) -> None:
    pieces = []
    for piece in session.ask("hello", cancelled=lambda: len(pieces) >= 4):
        pieces.append(piece)
    assert "".join(pieces) == "You "
    assert saved(history)[-1] == ("assistant", "You ", "interrupted")
    # the conversation goes on from what was said
    assert "".join(session.continue_answer()) == "said: hello"
    assert saved(history)[-1] == ("assistant", "You said: hello", "complete")
    assert session.answer is not None
    assert session.answer.prefilled_tokens <= 1


def test_cancelled_before_the_first_word(session: Session, history: History) -> None:
    ask(session, "first")
    assert list(session.ask("second", cancelled=lambda: True)) == []
    assert [turn.content for turn in session.conversation.path()] == ["first", "You said: first"]
    assert len(saved(history)) == 2


def test_regenerating_cancelled_before_the_first_word(session: Session, history: History) -> None:
    ask(session, "first")
    ask(session, "second")
    stood = session.conversation.head
    before = saved(history)
    assert list(session.regenerate(cancelled=lambda: True)) == []
    assert session.conversation.head is stood
    assert saved(history) == before


def test_cancelled_while_a_long_prompt_is_read(session: Session, model: FakeModel) -> None:
    model.context = 5000
    session.use(model)
    seen: list[tuple[int, int]] = []
    session.decoder.progress = lambda done, total: seen.append((done, total))
    assert list(session.ask("x" * 3000, cancelled=lambda: len(seen) == 2)) == []
    assert seen == [(512, 3004), (1024, 3004)]
    assert len(model.decoders[-1].tokens) == 1024
    assert ask(session, "x" * 600) == "You said: " + "x" * 600  # and nothing is out of step


def test_pieces_do_not_change_a_long_prompt(session: Session, model: FakeModel) -> None:
    model.context = 5000
    session.use(model)
    for length in (509, 510, 1021, 1022, 1600):
        ask(session, "y" * length)
    sizes = {len(ids) for ids in model.decoders[-1].extended}
    assert max(sizes) <= paced.PREFILL_CHUNK
    assert model.decoders[-1].tokens[-4:] == list(b"yyyy")


def test_a_failure_in_the_middle_keeps_what_was_said(
    session: Session, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = iter(b"abc")

    def script(prompt: str) -> str:
        return chr(next(choices)) * 100

    session.model.script = script  # type: ignore[attr-defined] # the fake's
    with pytest.raises(RuntimeError):  # StopIteration in a generator
        ask(session, "q")
    assert saved(history)[-1] == ("assistant", "abc", "interrupted")


def test_stop_strings_and_length(session: Session) -> None:
    session.set(stop=("said",))
    assert ask(session, "x") == "You "
    session.set(stop=(), max_tokens=3)
    assert ask(session, "x") == "You"
    assert session.answer is not None
    assert session.answer.finish_reason == "length"


def test_settings_take_effect_at_once(session: Session) -> None:
    session.set(temperature=0.3, top_k=5, seed=11)
    assert sampling_of(session.settings) == Sampling(
        temperature=0.3, top_k=5, seed=11, top_p=0.95, min_p=0.05, repeat_last_n=64
    )


# Longer than the context. The fake's tokens are bytes, so lengths are exact: a message costs its bytes + 2.


def full_session(session: Session, model: FakeModel, overflow: str = "drop", context: int = 200) -> None:
    model.context = context
    session.use(model)
    session.set(overflow=overflow)
    model.script = lambda prompt: prompt.upper() if len(prompt) < 60 else "short"


def test_overflow_drop(session: Session, model: FakeModel, notices: list[str], history: History) -> None:
    full_session(session, model)  # 150 for the prompt, 112 after turns were left out
    session.conversation.system = "S"
    for text in ("a" * 20, "b" * 20, "c" * 20):
        ask(session, text)
    assert notices == []
    ask(session, "d" * 20)
    kept = said("b" * 20, "B" * 20, "c" * 20, "C" * 20, "d" * 20, system="S")
    assert len(kept) > 112
    kept = said("c" * 20, "C" * 20, "d" * 20, system="S")
    assert model.decoders[-1].tokens == [*kept, *b"D" * 20]
    assert notices[0].startswith("The context is full: the model no longer sees the oldest 2 exchanges (")
    assert f'("{"a" * 20}" to "{"b" * 20}"). The history keeps them.' in notices[0]
    ask(session, "e" * 5)  # what was left out stays out, so the prompt's beginning is still valid
    kept = said("c" * 20, "C" * 20, "d" * 20, "D" * 20, "e" * 5, system="S")
    assert model.decoders[-1].tokens == [*kept, *b"EEEEE"]
    assert session.answer is not None
    assert session.answer.prefilled_tokens == 9
    assert len(notices) == 1
    assert len(saved(history)) == 10  # all of it is still on disk


def test_overflow_is_remembered_when_resumed(session: Session, model: FakeModel, history: History) -> None:
    full_session(session, model)
    for text in ("a" * 30, "b" * 30, "c" * 30):
        ask(session, text)
    summary = history.find(session.conversation.id or "")
    conversation = Conversation.from_history(summary, history.messages(summary.id))
    again = Session(model, session.settings, conversation, session.recorder, print)
    assert again.window().left_out == session.window().left_out > 0


def test_overflow_stop(session: Session, model: FakeModel, history: History) -> None:
    full_session(session, model, "stop")
    for text in ("a" * 30, "b" * 30):
        ask(session, text)
    with pytest.raises(ContextFullError, match="/new starts another"):
        ask(session, "c" * 30)
    assert len(saved(history)) == 4
    assert len(session.conversation.turns) == 4


def test_overflow_summarize(session: Session, model: FakeModel, notices: list[str]) -> None:
    full_session(session, model, "summarize", context=600)
    model.script = lambda prompt: "sum of it" if prompt.startswith("Sum up") else prompt.upper()
    session.conversation.system = "S"
    for letter in "abcd":
        ask(session, letter * 60)
    assert model.decoders[-1].tokens[-1:] == list(b"D")
    head = "S\n\nWhat was said before, in short:\nsum of it"
    assert model.decoders[-1].tokens[1:3] == [258, ord("S")]
    ask(session, "e" * 60)
    kept = said("c" * 60, "C" * 60, "d" * 60, "D" * 60, "e" * 60, system=head)
    assert model.decoders[-1].tokens == [*kept, *b"E" * 60]
    assert notices[-1] == "It sees this summary instead: sum of it"
    ask(session, "f")  # the summary stays until the next overflow
    assert session.answer is not None
    assert session.answer.prefilled_tokens == 5


def test_cancelled_while_summing_up(session: Session, model: FakeModel) -> None:
    full_session(session, model, "summarize", context=600)
    for letter in "abcd":
        ask(session, letter * 55)
    pressed = list(session.ask("e" * 59, cancelled=lambda: True))
    assert pressed == []
    assert len(session.conversation.path()) == 8
    assert ask(session, "f" * 55)[:5] == "FFFFF"  # what was pressed then does not count now
    assert list(session.ask("g", cancelled=lambda: True)) == []
    assert "".join(session.regenerate())[:5] == "FFFFF"


def test_a_message_longer_than_the_context(session: Session, model: FakeModel) -> None:
    full_session(session, model)
    ask(session, "fits")
    with pytest.raises(ContextFullError, match=r"takes 203 tokens .* but only 150 fit"):
        ask(session, "x" * 199)
    assert len(session.conversation.turns) == 2
    assert ask(session, "still here") == "STILL HERE"


def test_the_meter_warns_once_at_80_percent(session: Session, model: FakeModel, notices: list[str]) -> None:
    full_session(session, model)
    session.set(max_tokens=10)
    ask(session, "a" * 70)
    assert notices == []
    model.script = lambda prompt: "z" * 9
    ask(session, "b" * 70)
    assert len(notices) == 1
    assert notices[0].startswith("81 % of the context is used (162 of 200 tokens)")
    ask(session, "c")
    assert len(notices) == 1


def test_an_answer_that_reaches_the_end_of_the_context(
    session: Session, model: FakeModel, notices: list[str]
) -> None:
    full_session(session, model)
    model.script = lambda prompt: "q" * 500 if prompt == "x" else "p" * 100
    ask(session, "w")
    answer = ask(session, "x")
    assert session.answer is not None
    assert session.answer.finish_reason == "context"
    assert len(answer) == 200 - len(said("w", "p" * 100, "x")) + 1
    assert "/continue makes room" in notices[-1]
    assert len("".join(session.continue_answer())) > 50


def test_an_answer_that_fills_the_context_alone_cannot_go_on(
    session: Session, model: FakeModel, notices: list[str]
) -> None:
    full_session(session, model)
    model.script = lambda prompt: "q" * 500
    ask(session, "x")
    reason = "the last exchange alone takes 201 tokens .* but only 150 fit; start with a larger --context"
    assert re.search(f"cannot go on: {reason}", notices[-1])
    with pytest.raises(ContextFullError, match=reason):
        list(session.continue_answer())
    session.conversation.undo()
    session.set(overflow="stop")
    ask(session, "x")
    assert "cannot go on: the conversation takes 201 tokens" in notices[-1]
