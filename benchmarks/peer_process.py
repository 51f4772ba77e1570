"""llama.cpp in a process of its own, measured on request: `llama_cpp_peer.py`'s `speed` and `grammar`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

PEER = Path(__file__).resolve().with_name("llama_cpp_peer.py")


class Peer:
    """It stays loaded between measurements, so that both sides can take turns."""

    def __init__(self, python: str, command: str, *files: Path, **options: int) -> None:
        """`python`: of an environment with llama-cpp-python; `options`: of the command."""
        given = [f"--{name}={value}" for name, value in options.items()]
        self._process = subprocess.Popen(
            [python, str(PEER), command, *map(str, files), *given],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def measure(self) -> dict[str, Any]:
        """What it answers to one request."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the peer has no pipes")
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
