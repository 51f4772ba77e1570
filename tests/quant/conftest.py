"""Fixtures of the converter's tests."""

from pathlib import Path
from types import ModuleType

import pytest
import qwen_models
import source_models


@pytest.fixture(scope="session")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Mixtral directory in F16; not to be changed by tests."""
    return source_models.write_hugging_face(tmp_path_factory.mktemp("models") / "tiny-mixtral")


@pytest.fixture(scope="session")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dense Mistral directory in F16; not to be changed by tests."""
    return source_models.write_hugging_face(tmp_path_factory.mktemp("models") / "tiny-mistral", experts=0)


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 MoE directory in BF16; not to be changed by tests."""
    return qwen_models.write_qwen(tmp_path_factory.mktemp("models") / "tiny-qwen")


@pytest.fixture(scope="session")
def helpers() -> ModuleType:
    """`source_models`, for tests that make files of their own."""
    return source_models
