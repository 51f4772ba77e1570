from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from localmoe.history.store import History


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "data" / "history" / "history.db"


@pytest.fixture
def history(database: Path) -> Iterator[History]:
    with History(database) as opened:
        yield opened
