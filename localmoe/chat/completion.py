"""Completion of slash commands and what follows them: settings, models, files, conversations."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

Candidates = Callable[[], Iterable[tuple[str, str]]]  # text and what is shown beside it


class CommandCompleter(Completer):
    """`commands`: name → (summary, kind of argument); `candidates`: kind → what it may be."""

    def __init__(self, commands: dict[str, tuple[str, str]], candidates: dict[str, Candidates]) -> None:
        self._commands = commands
        self._candidates = candidates

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, space, argument = text[1:].partition(" ")
        if not space:
            for command, (summary, _kind) in self._commands.items():
                if command.startswith(name):
                    yield Completion(command, -len(name), display=f"/{command}", display_meta=summary)
            return
        kind = self._commands.get(name, ("", ""))[1]
        if kind in ("model", "file"):
            yield from _paths(argument)
        if kind in self._candidates:
            for value, about in self._candidates[kind]():
                if value.startswith(argument):
                    yield Completion(value, -len(argument), display_meta=about)


def _paths(typed: str) -> Iterable[Completion]:
    """Files and directories that begin as typed."""
    directory, _, begin = typed.rpartition("/")
    base = Path(os.path.expanduser(directory or ("/" if typed.startswith("/") else ".")))
    try:
        names = sorted(os.scandir(base), key=lambda one: one.name)
    except (OSError, ValueError):  # ValueError: a NUL that was pasted
        return
    for one in names:
        if one.name.startswith(begin) and (begin or not one.name.startswith(".")):
            name = one.name + ("/" if one.is_dir() else "")
            if name.isprintable():
                yield Completion(name, -len(begin))
