"""Where settings come from, and what they may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from localmoe.errors import UsageError
from localmoe.settings import FIELDS, Settings, data_directory, parse, resolve, shown


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("temperature", "0", 0.0),
        ("seed", "none", None),
        ("seed", "7", 7),
        ("status", "off", False),
        ("stop", "END", ("END",)),
        ("stop", ["a", "b"], ("a", "b")),
        ("ram", "1KiB", 1024),
        ("ram", 1024, 1024),
        ("ram", "8G", 8 << 30),
        ("kv_disk", "0", 0),
        ("stop", "none", ()),
        ("effort", "low", "low"),
        ("effort", "unset", None),
        ("system", "none", ""),
        ("device", "cuda:1", "cuda:1"),
    ],
)
def test_values(name: str, text: Any, value: Any) -> None:
    assert parse(name, text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("temperature", "warm"), ("temperature", "nan"), ("temperature", "inf"), ("top_p", "1.5"),
        ("seed", "-1"),
        ("overflow", "burst"), ("status", "maybe"), ("system", 3), ("device", "gpu"), ("threads", "0"),
        ("ram", "lots"), ("effort", "most"),
    ],
)  # fmt: skip
def test_what_cannot_be(name: str, text: Any) -> None:
    with pytest.raises(UsageError, match=name):
        parse(name, text)


def test_every_default_is_valid() -> None:
    for name, about in FIELDS.items():
        if about.default is not None:
            shown(name, about.default)
            assert parse(name, about.default) == about.default


def test_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALMOE_CONFIG_DIR", str(tmp_path))
    (tmp_path / "config.toml").write_text('top-k = 2\n[models."my model"]\ntop_k = 3\n')

    def top_k(flags: dict[str, Any], names: tuple[str, ...], environment: dict[str, str]) -> tuple[int, str]:
        resolved = resolve(flags, names, {"top_k": 1}, environment)
        return resolved.settings.top_k, resolved.origins["top_k"]

    variable = {"LOCALMOE_TOP_K": "4"}
    assert top_k({"top_k": 0}, ("my model",), variable) == (0, "flag")
    assert top_k({"top_k": None}, ("my model",), variable) == (4, "environment")
    assert top_k({}, ("my model",), {}) == (3, "config.toml [models.my model]")
    assert top_k({}, ("other",), {}) == (2, "config.toml")
    (tmp_path / "config.toml").unlink()
    assert top_k({}, (), {}) == (1, "catalogue")
    assert resolve({}, environment={}).settings == Settings()


def test_a_home_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALMOE_DATA_DIR", "~nosuchuser/data")
    with pytest.raises(UsageError, match="no such home"):
        data_directory()


@pytest.mark.parametrize("text", ["models = 3", "models = {demo = 3}", "top_k = [", "top_k = 'x'"])
def test_a_bad_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("LOCALMOE_CONFIG_DIR", str(tmp_path))
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(UsageError, match=r"config\.toml"):
        resolve({}, environment={})
