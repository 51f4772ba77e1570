"""Slash commands called as the conversation calls them, with the scripted model and without a terminal."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_model import FakeDecoder, FakeModel, HarmonyModel, ThinkingTokenizer

from localmoe import catalogue
from localmoe.chat import conversation_commands, history_commands, model_commands, start
from localmoe.chat.asked import without_effect
from localmoe.chat.conversation import Conversation
from localmoe.chat.kv_store import KVStore
from localmoe.chat.output import Notices
from localmoe.chat.recorder import Recorder
from localmoe.chat.repl import Repl
from localmoe.chat.session import Session
from localmoe.chat.window import ContextFullError
from localmoe.errors import UsageError
from localmoe.history.store import History
from localmoe.settings import Resolved, Settings


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


Opens = Callable[..., list[str]]


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> Opens:
    """Has the next models to be opened be these, an error be raised, or a function called for the model; the
    list that is returned takes their names as they are asked for.
    """

    def prepare(*models: FakeModel | Exception | Callable[[], FakeModel]) -> list[str]:
        rest, asked = list(models), list[str]()

        def load_model(found: catalogue.Found, *_arguments: object, **_options: object) -> FakeModel:
            asked.append(found.name)
            made = rest.pop(0)
            if isinstance(made, Exception):
                raise made
            return made if isinstance(made, FakeModel) else made()

        monkeypatch.setattr(catalogue, "find", lambda name: catalogue.Found(name, Path(name), None))
        monkeypatch.setattr(start, "load_model", load_model)
        monkeypatch.setattr(start, "reference", lambda found: found.name)
        return asked

    return prepare


def test_the_model_that_was_switched_to_goes_with_the_conversation(
    repl: Repl, history: History, opens: Opens
) -> None:
    repl.ask("one")
    opens(FakeModel())
    model_commands.model(repl, "other")
    assert history.conversations()[0].model == "other"
    repl.session.use(FakeModel(), "third")  # as `localmoe chat third -c` does
    repl.ask("two")
    assert history.conversations()[0].model == "third"


def test_a_model_lets_go_of_its_memory_before_the_next_is_opened(opens: Opens) -> None:
    session = Session(FakeModel(), Settings(), Conversation(), Recorder(None, print), print)
    repl, first = Repl(session, Notices(), []), weakref.ref(session.model)
    gone: list[bool] = []

    def second() -> FakeModel:
        gone.append(first() is None)
        return FakeModel()

    opens(second)
    repl.ask("one")
    model_commands.model(repl, "other")
    assert gone == [True]


class Unusable(FakeModel):
    def decoder(self) -> FakeDecoder:
        raise UsageError("no such KV type")


def test_a_model_that_cannot_be_used_leaves_the_one_so_far(
    model: FakeModel, history: History, tmp_path: Path, opens: Opens
) -> None:
    states, recorder = KVStore(tmp_path / "kv", 1 << 20), Recorder(history, print)
    session = Session(model, Settings(), Conversation(), recorder, print, "first", states)
    repl = Repl(session, Notices(), [])
    repl.ask("one")
    told, unusable = list(session.decoder.tokens), Unusable()
    for failing, reason in ((UsageError("damaged"), "damaged"), (unusable, "no such KV type")):
        again = FakeModel()
        asked = opens(failing, again)
        with pytest.raises(UsageError, match=reason):
            model_commands.model(repl, "other")
        assert asked == ["other", "first"]
        assert session.model is again
        assert session.reference == history.conversations()[0].model == "first"
        assert session.decoder.tokens == told
    assert model.closed
    assert unusable.closed
    assert not again.closed
    repl.ask("two")
    assert len(session.conversation.path()) == 4


def test_where_no_model_can_be_opened_another_may_be(repl: Repl, model: FakeModel, opens: Opens) -> None:
    opens(UsageError("damaged"), UsageError("gone"))
    with pytest.raises(UsageError, match="gone"):
        model_commands.model(repl, "other")
    with pytest.raises(UsageError, match="fake could not be opened again; open a model with /model NAME"):
        repl.ask("one")
    assert repl.draft == "one"
    conversation_commands.new(repl, "")
    opens(FakeModel())
    model_commands.model(repl, "other")
    repl.ask("one")
    assert told(repl) == ["one", "You said: one"]
    repl.session.close()
    repl.session.close()


def test_the_model_that_answered_last_is_closed_at_the_end(
    model: FakeModel, opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = FakeModel()
    opens(model, last)

    def talk(session: Session, *_: object) -> int:
        model_commands.model(Repl(session, Notices(), []), "other")
        return 0

    found = catalogue.Found("first", Path("first"), None)
    monkeypatch.setattr(start, "_settings", lambda *_: (found, Resolved(Settings(), {}, ())))
    monkeypatch.setattr(start, "_talk", talk)
    options = dict.fromkeys(("go_on", "resume", "dry_run", "plan", "no_history", "logprobs", "system"))
    notices = Notices(quiet=True)
    assert start._run(None, options, notices, Recorder(None, notices), None, []) == 0
    assert model.closed
    assert last.closed


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


class Told(Notices):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def __call__(self, text: str) -> None:
        self.lines.append(text)


def test_a_setting_that_the_format_has_no_word_for_is_said_to_have_no_effect(session: Session) -> None:
    repl = Repl(session, told := Told(), [])
    model_commands.change(repl, "effort high")
    model_commands.change(repl, "think off")  # a vocabulary without thoughts: nothing is amiss
    none = "fake's prompt format cannot say how hard to think: effort has no effect."
    assert told.lines == ["effort is now high.", none, "think is now off.", none]
    model = HarmonyModel()
    session.use(model)
    assert without_effect(model, session.settings) == []
    thinking = FakeModel()
    thinking.tokenizer = ThinkingTokenizer()
    no_word = "fake's prompt format cannot ask for no thoughts: think has no effect."
    assert without_effect(thinking, Settings(think=False)) == [no_word]
    assert without_effect(thinking, Settings()) == []
