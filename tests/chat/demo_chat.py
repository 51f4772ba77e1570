"""Conversations with the embedded model in a real pseudo-terminal, each in a home of its own."""

from __future__ import annotations

import json
import os
import shlex
import sqlite3
import sys
from pathlib import Path
from typing import Any

from terminal import Program

ROOT = Path(__file__).resolve().parents[2]
RUNNER = Path(__file__).with_name("demo_runner.py")
FIRST = 150.0  # seconds: the kernels may have to be compiled first
ELSEWHERE = ("NO_COLOR", "EDITOR", "VISUAL", "WAYLAND_DISPLAY", "DISPLAY", "DEMO_DELAY")
SET = tuple(f"LOCALMOE_{name}" for name in ("DATA_DIR", "CONFIG_DIR", "MAX_TOKENS", "TEMPERATURE", "SEED"))


class Demo:
    """A new user's machine: `chat` starts a conversation, `shell` runs a line as one would type it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.config = home / "config" / "config.toml"
        self.database = home / "data" / "history" / "history.db"
        self.environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE + SET}
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling everything anew takes 0.2 s
        self.environment |= {
            "PYTHONPATH": str(ROOT),
            "LOCALMOE_DATA_DIR": str(home / "data"),
            "LOCALMOE_CONFIG_DIR": str(home / "config"),
            "HOME": str(home),
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),  # the kernels
        }

    def chat(self, *arguments: str, rows: int = 24, delay: float = 0.0, **settings: str) -> Program:
        """A conversation at its first prompt; `delay`: seconds that each token takes longer."""
        program = [str(RUNNER)] if delay else ["-m", "localmoe"]
        environment = {**self.environment, **settings, "DEMO_DELAY": str(delay)}
        started = Program([*program, "chat", *arguments], environment, rows)
        started.see("/help lists the commands", seconds=FIRST)
        started.prompt(FIRST)
        return started

    def shell(self, line: str, keys: str = "", **settings: str) -> tuple[int, str]:
        """Run `line` in a shell on a terminal, type `keys`; the exit code and all that could be read."""
        command = f'localmoe() {{ {shlex.quote(sys.executable)} {self._program(settings)} "$@"; }}; {line}'
        environment = {**self.environment, **settings}
        here = f"cd {shlex.quote(str(self.home))}; {command}"
        with Program(["-c", here], environment, 60, "/bin/bash") as it:
            if keys:
                it.see("[y/N]", seconds=FIRST)
                it.type(keys)
            code = it.end(FIRST)
            return code, it.text()

    def _program(self, settings: dict[str, str]) -> str:
        return shlex.quote(str(RUNNER)) if "DEMO_DELAY" in settings else "-m localmoe"

    def answer(self, arguments: str, text: str = "") -> dict[str, Any]:
        """The object of `localmoe chat --json ARGUMENTS`, with `text` on stdin; by way of a file, since a
        terminal breaks lines.
        """
        source = f"printf %s {shlex.quote(text)} |" if text else ""
        code, shown = self.shell(f"{source} localmoe chat --json {arguments} > answer.json")
        assert code == 0, shown
        return dict(json.loads((self.home / "answer.json").read_text()))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the history's database answers."""
        connection = sqlite3.connect(self.database)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    def said(self, role: str = "user") -> list[str]:
        """All messages of `role`, in order."""
        query = f"SELECT content FROM messages WHERE role = '{role}' ORDER BY id"
        return [text for (text,) in self.rows(query)]

    def details(self) -> list[dict[str, Any]]:
        """What is kept of each answer, in order."""
        found = self.rows("SELECT details FROM messages WHERE role = 'assistant' ORDER BY id")
        return [json.loads(row[0]) for row in found]
