"""What reaches the history when it fails for a while, or when another process removes the conversation."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_model import FakeModel

from localmoe.chat.conversation import Conversation
from localmoe.chat.kv_store import KVStore
from localmoe.chat.recorder import Recorder
from localmoe.chat.session import Session
from localmoe.history.database import HistoryError
from localmoe.history.store import History
from localmoe.settings import Settings


def ask(session: Session, text: str) -> str:
    return "".join(session.ask(text))


def saved(history: History) -> list[tuple[str, str]]:
    summary = history.latest()
    assert summary is not None
    return [(one.content, one.status) for one in history.path_to(summary.id, summary.head)]


def writable(history: History, yes: bool) -> None:
    history._connection.execute(f"PRAGMA query_only = {'OFF' if yes else 'ON'}")


def test_without_history_nothing_is_written(model: FakeModel) -> None:
    session = Session(model, Settings(temperature=0.0), Conversation(), Recorder(None, print), print)
    assert ask(session, "x") == "You said: x"
    assert session.conversation.id is None


def test_a_history_that_fails_is_reported_once_and_tried_again(
    session: Session, history: History, notices: list[str]
) -> None:
    ask(session, "x")
    writable(history, False)
    assert ask(session, "y") == "You said: y"
    assert ask(session, "z") == "You said: z"
    (warning,) = notices
    assert "cannot be written" in warning
    assert "Until it works again, this conversation is not saved." in warning
    assert len(saved(history)) == 2
    writable(history, True)
    ask(session, "w")
    told = [text for letter in "xyzw" for text in (letter, f"You said: {letter}")]
    assert saved(history) == [(text, "complete") for text in told]
    assert notices[1:] == ["The history works again; this conversation is saved."]


def test_a_first_prompt_that_is_not_written_leaves_no_ids(
    session: Session, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was rolled back must not be taken for written: its row may go to another conversation."""

    def full(*_arguments: object, **_options: object) -> int:
        raise HistoryError("the disk is full")

    monkeypatch.setattr(history, "add", full)
    ask(session, "x")
    assert history.conversations() == []
    assert session.conversation.id is None
    assert [turn.row for turn in session.conversation.turns] == [None, None]


def test_what_failed_in_the_middle_of_an_answer_is_written_in_the_end(
    session: Session, history: History, notices: list[str]
) -> None:
    pieces = session.ask("x")
    next(pieces)
    writable(history, False)
    "".join(pieces)
    assert saved(history)[-1] == ("", "streaming")
    session.keep()
    assert len(notices) == 1  # still not
    writable(history, True)
    session.take_up(Conversation())
    assert saved(history) == [("x", "complete"), ("You said: x", "complete")]


def test_a_step_back_while_the_history_fails_is_written_later(session: Session, history: History) -> None:
    ask(session, "x")
    ask(session, "y")
    writable(history, False)
    session.conversation.undo()
    session.recorder.stand_on(session.conversation)
    writable(history, True)
    session.keep()
    assert [text for text, _ in saved(history)] == ["x", "You said: x"]


@pytest.fixture
def kept(model: FakeModel, history: History, notices: list[str], tmp_path: Path) -> Session:
    recorder, states = Recorder(history, notices.append), KVStore(tmp_path / "kv", 10_000)
    return Session(
        model, Settings(temperature=0.0), Conversation(), recorder, notices.append, states=states
    )


def test_a_removed_conversation_that_goes_on_is_saved_again(
    kept: Session, history: History, notices: list[str]
) -> None:
    ask(kept, "x")
    before = kept.conversation.id or ""
    history.delete(before)
    ask(kept, "y")
    assert kept.conversation.id != before
    assert [text for text, _ in saved(history)] == ["x", "You said: x", "y", "You said: y"]
    (notice,) = notices
    assert f"`localmoe history rm {kept.conversation.id}`" in notice
    kept.take_up(Conversation())
    ask(kept, "z")
    assert len(history.conversations()) == 2


def test_of_a_removed_conversation_nothing_is_kept(kept: Session, history: History, tmp_path: Path) -> None:
    ask(kept, "x")
    history.delete(kept.conversation.id or "")
    kept.keep()
    assert not (tmp_path / "kv").exists()
    assert history.conversations() == []
