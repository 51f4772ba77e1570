"""Slash commands called as the conversation calls them, with the scripted model and without a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_model import FakeModel

from localmoe import catalogue
from localmoe.chat import conversation_commands, history_commands, model_commands, start
from localmoe.chat.output import Notices
from localmoe.chat.repl import Repl
from localmoe.chat.session import Session
from localmoe.chat.window import ContextFullError
from localmoe.errors import UsageError
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


def test_the_model_that_was_switched_to_goes_with_the_conversation(
    repl: Repl, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    repl.ask("one")
    monkeypatch.setattr(catalogue, "find", lambda name: catalogue.Found(name, Path(name), None))
    monkeypatch.setattr(start, "load_model", lambda *_arguments, **_options: FakeModel())
    monkeypatch.setattr(start, "reference", lambda found: found.name)
    model_commands.model(repl, "other")
    assert history.conversations()[0].model == "other"
    repl.session.use(FakeModel(), "third")  # as `localmoe chat third -c` does
    repl.ask("two")
    assert history.conversations()[0].model == "third"


def test_files_of_one_conversation_are_taken_up(repl: Repl, history: History, tmp_path: Path) -> None:
    repl.ask("one")
    conversation_commands.export(repl, str(tmp_path / "one.json"))
    text = (tmp_path / "one.json").read_text()
    (tmp_path / "list.json").write_text(f"[{text}]")  # as `localmoe history export` writes it
    (tmp_path / "two.json").write_text(f"[{text}, {text}]")
    for name in ("one.json", "list.json"):
        conversation_commands.new(repl, "")
        conversation_commands.load(repl, str(tmp_path / name))
        assert told(repl) == ["one", "You said: one"]
    assert len(history.conversations()) == 3
    with pytest.raises(UsageError, match="holds 2 conversations"):
        conversation_commands.load(repl, str(tmp_path / "two.json"))


def test_how_many_conversations_to_list(repl: Repl, capsys: pytest.CaptureFixture[str]) -> None:
    repl.ask("one")
    for right in ("", "1", "9" * 20):
        history_commands.history(repl, right)
        assert "2 messages  one" in capsys.readouterr().err
    for wrong in ("0", "-1", "x"):
        with pytest.raises(UsageError, match="a number from 1"):
            history_commands.history(repl, wrong)


def test_a_clipboard_tool_that_fails_or_hangs_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tool(name: str, script: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    for variable, value in (("WAYLAND_DISPLAY", "x"), ("DISPLAY", "x"), ("HOME", str(tmp_path))):
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(model_commands, "_CLIPBOARD_SECONDS", 0.3)
    tool("wl-copy", "exit 1")
    tool("xclip", "exec /bin/sleep 60")
    with pytest.raises(UsageError, match="There is no clipboard here"):
        model_commands.to_clipboard("text")
    tool("pbcopy", f"exec /bin/cat > {tmp_path}/copied")
    model_commands.to_clipboard("text")
    assert (tmp_path / "copied").read_text() == "text"
