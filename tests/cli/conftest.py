from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Completed = subprocess.CompletedProcess[str]
Localmoe = Callable[..., Completed]

# Runs the command line where every network socket is refused; pairs of AF_UNIX sockets are no network.
_NO_NETWORK = """
import socket, sys
class NoNetwork(socket.socket):
    def __init__(self, family=-1, *arguments, **options):
        if family != socket.AF_UNIX and "fileno" not in options:
            raise OSError("network sockets are blocked")
        super().__init__(family, *arguments, **options)
    def connect(self, address):
        raise OSError("network sockets are blocked")
socket.socket = NoNetwork
from localmoe.cli.main import main
main()
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh user: nothing saved, nothing configured."""
    for name in list(os.environ):
        if name.startswith("LOCALMOE_") and name not in ("LOCALMOE_CACHE_DIR", "LOCALMOE_SIMD"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LOCALMOE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("LOCALMOE_CONFIG_DIR", str(tmp_path / "config"))
    return tmp_path


@pytest.fixture
def localmoe(home: Path) -> Localmoe:
    """Runs the command with redirected output and no network; neither output may hold an escape byte."""

    def run(*arguments: str, text: str = "", timeout: float = 120, **environment: str) -> Completed:
        result = subprocess.run(
            [sys.executable, "-c", _NO_NETWORK, *arguments],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            cwd=home,
            env={**os.environ, "PYTHONPATH": str(ROOT), "FORCE_COLOR": "1", "TERM": "xterm", **environment},
        )
        assert "\x1b" not in result.stdout + result.stderr
        assert "Traceback" not in result.stderr, result.stderr
        assert "sockets are blocked" not in result.stderr
        return result

    return run
