"""What can follow a slash command, for completion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from localmoe.catalogue import installed
from localmoe.chat.completion import Candidates
from localmoe.history.database import HistoryError
from localmoe.settings import FIELDS, shown

if TYPE_CHECKING:
    from localmoe.chat.repl import Repl


def candidates(repl: Repl) -> dict[str, Candidates]:
    """Kind of argument → its possible values with a note on each."""

    def commands() -> Iterable[tuple[str, str]]:
        from localmoe.chat.commands import COMMANDS

        return [(one.name, one.summary) for one in COMMANDS.values()]

    def settings() -> Iterable[tuple[str, str]]:
        now = repl.session.settings
        for name, about in FIELDS.items():
            if about.metadata["live"]:
                choices = about.metadata["choices"]
                yield f"{name} ", f"{shown(name, getattr(now, name))}: {about.metadata['summary']}"
                yield from ((f"{name} {choice}", "") for choice in choices)

    def models() -> Iterable[tuple[str, str]]:
        return [(name, str(one.path)) for name, one in installed().items()]

    def conversations() -> Iterable[tuple[str, str]]:
        history = repl.session.recorder.history
        try:
            return [(one.id, one.title) for one in history.conversations(limit=50)] if history else []
        except HistoryError:
            return []

    return {"command": commands, "setting": settings, "model": models, "conversation": conversations}
