"""Answers of a form that is asked for: in a session, in its settings, in pipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_model import FakeModel, HarmonyModel

from localmoe.chat import model_commands
from localmoe.chat.asked import grammar_of
from localmoe.chat.conversation import Conversation
from localmoe.chat.oneshot import answer_lines
from localmoe.chat.output import Notices
from localmoe.chat.recorder import Recorder
from localmoe.chat.repl import Repl
from localmoe.chat.session import Session
from localmoe.cli.main import run
from localmoe.errors import UsageError
from localmoe.history.store import History
from localmoe.settings import Settings
from localmoe.text.grammar import GrammarError

SCHEMA = json.dumps({
    "type": "object", "properties": {"city": {"enum": ["Rome", "Turin"]}, "n": {"type": "integer"}},
    "required": ["city", "n"], "additionalProperties": False,
})  # fmt: skip
TURIN = '{"city": "Turin", "n": 7}'


@pytest.fixture
def model() -> FakeModel:
    return FakeModel({"where": TURIN, "well": "Well, {}"})


def ask(session: Session, text: str) -> str:
    return "".join(session.ask(text))


def test_what_the_model_would_say_anyway_is_not_changed(session: Session) -> None:
    session.set(json_schema=SCHEMA)
    assert ask(session, "where") == TURIN
    assert session.answer is not None
    assert session.answer.finish_reason == "stop"


def test_another_answer_is_held_to_the_form_and_the_next_prompt_sees_it(session: Session) -> None:
    session.set(json_schema=SCHEMA, max_tokens=60)
    text = ask(session, "well")
    assert text.split()[:2] == ["{", '"city"']
    session.set(json_schema="")
    assert ask(session, "again") == "You said: again"
    assert list(session.decoder.tokens) == [
        *session.model.encode_chat(
            [{"role": "user", "content": "well"}, {"role": "assistant", "content": text},
             {"role": "user", "content": "again"}]
        ), *b"You said: again",
    ]  # fmt: skip


@pytest.mark.parametrize("most", [1, 6, 12, 20])
def test_an_answer_goes_on_in_its_form(session: Session, most: int) -> None:
    session.set(json_schema=SCHEMA, max_tokens=most)
    assert ask(session, "where") == TURIN[:most]
    session.set(max_tokens=None)
    assert "".join(session.continue_answer()) == TURIN[most:]
    assert session.conversation.turns[-1].content == TURIN
    assert "".join(session.continue_answer()) == ""  # nothing can follow
    assert session.conversation.turns[-1].status == "complete"


def test_an_answer_without_the_form_cannot_go_on_in_it(session: Session, history: History) -> None:
    session.set(max_tokens=5)
    assert ask(session, "well") == "Well,"
    session.set(json_schema=SCHEMA, max_tokens=None)
    with pytest.raises(GrammarError, match="the answer so far is not of the form"):
        list(session.continue_answer())
    turn = session.conversation.turns[-1]
    assert (turn.content, turn.status) == ("Well,", "complete")
    session.set(json_schema="")
    assert "".join(session.continue_answer()) == " {}"


def test_regenerate_keeps_the_form(session: Session, model: FakeModel) -> None:
    session.set(json_schema=SCHEMA)
    ask(session, "where")
    model.answers["where"] = '{"city":"Rome","n":1}'
    assert "".join(session.regenerate()) == '{"city":"Rome","n":1}'


def test_a_form_that_cannot_be_used_changes_nothing(session: Session, tmp_path: Path) -> None:
    session.set(json_schema=SCHEMA)
    before = session.form
    for bad in ({"json_schema": "{"}, {"json_schema": str(tmp_path / "no.json")}, {"grammar": "x.gbnf"}):
        with pytest.raises(UsageError):
            session.set(temperature=1.0, **bad)
    assert (session.settings.json_schema, session.settings.temperature) == (SCHEMA, 0)
    assert session.form is before


def test_a_prompt_that_no_form_answers_is_taken_back(session: Session, model: FakeModel) -> None:
    session.set(json_schema=SCHEMA)
    model.tokenizer = type(model.tokenizer)()
    model.tokenizer.eos_id = None  # type: ignore[assignment] # a vocabulary without an end
    with pytest.raises(GrammarError, match="end-of-answer"):
        ask(session, "where")
    assert session.conversation.path() == []


def test_files_are_read_once(session: Session, tmp_path: Path) -> None:
    file = tmp_path / "city.json"
    file.write_text(SCHEMA)
    session.set(json_schema=str(file))
    file.unlink()
    assert ask(session, "where") == TURIN
    assert session.settings.json_schema == str(file)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"json_schema": "{}", "grammar": "x"}, "both say"),
        ({"json_schema": "missing.json"}, "cannot read missing.json"),
        ({"json_schema": '{"type": "text"}'}, "^the JSON schema cannot be used: Invalid type: text"),
        ({"json_schema": "bad.json"}, r"^bad\.json: the JSON schema cannot be used: Invalid type: text"),
        ({"grammar": "bad.json"}, r"^bad\.json: the grammar cannot be used"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    settings: dict[str, str], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text('{"type": "text"}')
    with pytest.raises(UsageError, match=what):
        grammar_of(Settings(**settings))


def test_harmonys_thoughts_are_free_and_its_answer_is_not(history: History, tmp_path: Path) -> None:
    (tmp_path / "yes.gbnf").write_text('root ::= "yes" | "no"')
    final = "<|channel|>final<|message|>"
    thought = "<|channel|>analysis<|message|>Hm {.<|end|><|start|>assistant" + final
    model = HarmonyModel({"a": thought + "yes", "b": thought + "Yes!", "c": "yes"})
    session = Session(model, Settings(temperature=0), Conversation(), Recorder(history, print), print)
    session.set(grammar=str(tmp_path / "yes.gbnf"))
    assert (ask(session, "a"), session.thoughts) == ("yes", "Hm {.")
    session.set(max_tokens=100)
    assert ask(session, "b") in ("yes", "no")
    assert session.thoughts == "Hm {."


# From the command line


def line(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["chat", "--no-history", "--temperature", "0", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, model: FakeModel) -> FakeModel:
    def load(*_arguments: Any, **_options: Any) -> FakeModel:
        model.closed = False
        return model

    monkeypatch.setattr("localmoe.load", load)
    return model


def test_options_and_the_environment(
    fake: FakeModel, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert line(capsys, "-p", "where", "--json-schema", SCHEMA) == (0, TURIN + "\n", "")
    (tmp_path / "turin.lark").write_text(r"start: /\{.*\}/")
    monkeypatch.setenv("LOCALMOE_GRAMMAR", str(tmp_path / "turin.lark"))
    assert line(capsys, "-p", "where") == (0, TURIN + "\n", "")
    code, out, err = line(capsys, "-p", "where", "--json-schema", "{}", "--grammar", "x.gbnf")
    assert (code, out) == (2, "")
    assert "both say what form" in err


def test_the_form_that_is_said_nearer_at_hand_counts(
    fake: FakeModel, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setenv("LOCALMOE_CONFIG_DIR", str(tmp_path))
    (tmp_path / "turin.lark").write_text(r"start: /\{.*\}/")
    (tmp_path / "config.toml").write_text(f"grammar = {json.dumps(str(tmp_path / 'turin.lark'))}\n")
    fake.answers["where"] = '"Rome"'
    assert line(capsys, "-p", "where", "--json-schema", '{"enum": ["Rome"]}') == (0, '"Rome"\n', "")
    monkeypatch.setenv("LOCALMOE_JSON_SCHEMA", '{"enum": ["Rome"]}')
    assert line(capsys, "-p", "where") == (0, '"Rome"\n', "")


def test_in_a_conversation_the_last_one_said_counts(session: Session, tmp_path: Path) -> None:
    repl = Repl(session, Notices(quiet=True), [])
    (tmp_path / "yes.gbnf").write_text('root ::= "yes" | "no"')
    model_commands.change(repl, f"grammar {tmp_path / 'yes.gbnf'}")
    model_commands.change(repl, r'json_schema {"enum": ["a\nb"]}')
    assert session.settings.grammar == ""
    assert ask(session, "where") == r'"a\nb"'
    model_commands.change(repl, "json_schema none")
    assert session.form is None


@pytest.mark.parametrize("option", ["--json-schema=", "--grammar= "])
def test_an_empty_form_is_a_mistake(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = line(capsys, "-p", "x", option)
    assert (code, out) == (2, "")
    assert "is empty; leave it out" in err


@pytest.mark.parametrize("instead", ["--plan", "--dry-run"])
def test_a_bad_form_is_told_where_nothing_is_answered(
    instead: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    code, _, err = line(capsys, "-p", "x", instead, "--json-schema", "true")
    assert code == 2
    assert "cannot read true" in err
    assert "begins with {" in err


def test_a_bad_form_is_found_before_the_model_is_loaded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("localmoe.load", lambda *_a, **_o: pytest.fail("loaded"))
    code, out, err = line(capsys, "-p", "x", "--json-schema", '{"type": "text"}')
    assert (code, out) == (2, "")
    assert err == "localmoe: the JSON schema cannot be used: Invalid type: text\n"


def test_every_line_of_a_batch_has_the_form(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    session.set(json_schema=SCHEMA, max_tokens=60)
    assert answer_lines(session, [b'"where"\n', b'"well"\n'], "") == 0
    first, second = (json.loads(one)["text"] for one in capsys.readouterr().out.splitlines())
    assert first == TURIN
    assert second.startswith("{")
