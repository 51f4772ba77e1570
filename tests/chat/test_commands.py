"""Slash commands called as the conversation calls them, with the scripted model and without a terminal."""

from __future__ import annotations

import pytest
from fake_model import FakeModel

from localmoe.chat import conversation_commands
from localmoe.chat.output import Notices
from localmoe.chat.repl import Repl
from localmoe.chat.session import Session
from localmoe.chat.window import ContextFullError
from localmoe.history.store import History


@pytest.fixture
def repl(session: Session) -> Repl:
    return Repl(session, Notices(), [])


def told(repl: Repl) -> list[str]:
    return [turn.content for turn in repl.session.conversation.path()]


def test_an_edited_prompt_that_does_not_fit_leaves_the_last_exchange(
    repl: Repl, model: FakeModel, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    repl.ask("one")
    repl.ask("two")
    before = told(repl)
    monkeypatch.setattr(conversation_commands, "edited", lambda text: text + "x" * model.context)
    with pytest.raises(ContextFullError):
        conversation_commands.edit(repl, "last")
    assert told(repl) == before == ["one", "You said: one", "two", "You said: two"]
    assert repl.draft == "two" + "x" * model.context
    summary = history.conversations()[0]
    assert [one.content for one in history.path_to(summary.id, summary.head)] == before
    monkeypatch.setattr(conversation_commands, "edited", lambda text: text + "!")
    conversation_commands.edit(repl, "last")
    assert told(repl) == ["one", "You said: one", "two!", "You said: two!"]
