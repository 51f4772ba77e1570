"""The models to chat with: a scripted one for exact tests (its tokens are bytes), and the embedded one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for fake_model, which test subprocesses use too

from demo_chat import Demo
from fake_model import FakeModel

from localmoe.chat.conversation import Conversation
from localmoe.chat.recorder import Recorder
from localmoe.chat.session import Session
from localmoe.history.store import History
from localmoe.settings import Settings


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    return Demo(tmp_path)


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    with History(tmp_path / "data" / "history" / "history.db") as opened:
        yield opened


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def session(model: FakeModel, history: History, notices: list[str]) -> Session:
    recorder = Recorder(history, notices.append)
    return Session(model, Settings(temperature=0.0), Conversation(), recorder, notices.append)
