"""`chat --dry-run`: the prompt, without the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

import localmoe
from localmoe.chat.conversation import Conversation
from localmoe.chat.dry_run import show_prompt
from localmoe.settings import Settings
from localmoe.text.prompts import Message

DEMO = Path(localmoe.__file__).parent / "data" / "demo.gguf"


def test_how_to_think_reaches_the_prompt_format(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[bool, str | None]] = []

    def encode(messages: Sequence[Message], *, think: bool = True, effort: str | None = None) -> list[int]:
        asked.append((think, effort))
        return [1]

    form = SimpleNamespace(encode=encode)
    monkeypatch.setattr("localmoe.text.prompts.prompt_format", lambda *_: form)
    assert show_prompt(DEMO, Settings(think=False, effort="high"), Conversation(), "hi", as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["ids"] == [1]
    assert set(asked) == {(False, "high")}
