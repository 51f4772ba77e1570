"""A conversation in memory: a tree of turns, and the turn one stands on.

What the model sees is the path from the first turn to `head`. Undo and branch move the head; nothing is
removed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from localmoe.errors import UsageError
from localmoe.history.store import Message as StoredMessage
from localmoe.history.store import Role, Status, Summary
from localmoe.text.thinking import CLOSE, OPEN


@dataclass(eq=False)
class Turn:
    """One message. `row` is its id in the history, once saved there."""

    role: Role
    content: str
    parent: Turn | None = None
    status: Status = "complete"
    details: dict[str, Any] = field(default_factory=dict)
    row: int | None = None

    @property
    def whole(self) -> str:
        """The content, and before an answer's the thoughts, in their marks: without an end, where it was
        stopped within them.
        """
        closed = f"{CLOSE}\n\n{self.content}" if self.content else ""
        return f"{OPEN}{self.thoughts}{closed}" if self.thoughts else self.content

    @property
    def thoughts(self) -> str:
        """What the model thought before this answer; "" where it did not."""
        thoughts = self.details.get("thoughts")  # of an imported conversation anything
        return thoughts if isinstance(thoughts, str) else ""

    def path(self) -> list[Turn]:
        """The turns from the first to this one."""
        path: list[Turn] = []
        turn: Turn | None = self
        while turn is not None:
            path.append(turn)
            turn = turn.parent
        return path[::-1]


class Conversation:
    """Turns, the head, and what belongs to the whole: system prompt, title, id in the history."""

    def __init__(self, system: str = "") -> None:
        self.system = system
        self.title = ""
        self.id: str | None = None
        self.turns: list[Turn] = []
        self.head: Turn | None = None

    @classmethod
    def from_history(cls, summary: Summary, messages: Sequence[StoredMessage]) -> Conversation:
        """The conversation that was saved, standing where it stood."""
        conversation = cls(summary.system)
        conversation.title, conversation.id = summary.title, summary.id
        by_row: dict[int, Turn] = {}
        for one in messages:
            parent = by_row.get(one.parent) if one.parent is not None else None
            # no process writes this answer any more, or this one could not take it up
            status: Status = "interrupted" if one.status == "streaming" else one.status
            turn = Turn(one.role, one.content, parent, status, dict(one.details), one.id)
            by_row[one.id] = turn
            conversation.turns.append(turn)
        conversation.head = by_row.get(summary.head) if summary.head is not None else None
        return conversation

    @classmethod
    def from_object(cls, data: Mapping[str, Any]) -> Conversation:
        """The conversation in `data`, as `history.transfer.checked` gives it; not saved yet."""
        conversation = cls(data.get("system", ""))
        conversation.title = data.get("title", "")
        by_id: dict[Any, Turn | None] = {None: None}
        for one in data["messages"]:
            if one["role"] == "system":
                conversation.system = one["content"]
                by_id[one.get("id")] = None  # what follows it is a first turn
                continue
            parent = by_id[one["parent"]] if "parent" in one else conversation.head
            status: Status = "complete" if one.get("status", "complete") == "complete" else "interrupted"
            turn = Turn(one["role"], one["content"], parent, status, dict(one.get("details", {})))
            by_id[one.get("id")] = turn
            conversation.turns.append(turn)
            conversation.head = turn
        if "head" in data:
            conversation.head = by_id[data["head"]]
        return conversation

    def snapshot(self, model: str) -> tuple[Summary, list[StoredMessage]]:
        """The conversation as the history would give it, with ids from 1; also one that is not saved."""
        now = time.time()
        number = {turn: place for place, turn in enumerate(self.turns, start=1)}
        head = number[self.head] if self.head is not None else None
        summary = Summary(
            self.id or "unsaved", self.title, self.system, model, now, now, head, len(self.turns)
        )
        stored = [
            StoredMessage(
                id=number[turn],
                parent=number[turn.parent] if turn.parent is not None else None,
                role=turn.role,
                content=turn.content,
                status=turn.status,
                created=now,
                details=turn.details,
            )
            for turn in self.turns
        ]
        return summary, stored

    def add(self, role: Role, content: str, *, status: Status = "complete", **details: Any) -> Turn:
        """Append a turn after the head and stand on it."""
        turn = Turn(role, content, self.head, status, details)
        self.turns.append(turn)
        self.head = turn
        return turn

    def path(self) -> list[Turn]:
        """The turns from the first to the head."""
        return self.head.path() if self.head is not None else []

    def last(self, role: Role) -> Turn | None:
        """The last turn of `role` on the path."""
        return next((turn for turn in reversed(self.path()) if turn.role == role), None)

    def undo(self) -> Turn:
        """Step back before the last prompt and return it. Raises `UsageError` if there is none."""
        prompt = self.last("user")
        if prompt is None:
            raise UsageError("there is nothing to undo")
        self.head = prompt.parent
        return prompt

    def leaves(self) -> list[Turn]:
        """The last turn of every branch, in the order the branches were made."""
        parents = {turn.parent for turn in self.turns}
        return [turn for turn in self.turns if turn not in parents]
