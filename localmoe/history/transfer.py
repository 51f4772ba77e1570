"""Conversations out of the history as Markdown, JSONL or JSON, and back in from JSONL.

A JSONL line is one conversation with its whole tree:
`{"localmoe": 1, "id", "title", "system", "model", "created", "updated", "head", "messages": [{"id", "parent",
"role", "content", "status", "created", "details"}, ...]}`. Import also takes lines of only
`{"messages": [{"role", "content"}, ...]}`, the form fine-tuning sets use.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from localmoe.errors import UsageError
from localmoe.history.store import History, Message, Status, Summary
from localmoe.text.strict_json import parse_json

Format = Literal["markdown", "jsonl", "json"]
FORMATS: Mapping[str, Format] = {"md": "markdown", "markdown": "markdown", "jsonl": "jsonl", "json": "json"}


def as_object(summary: Summary, messages: Sequence[Message]) -> dict[str, Any]:
    """One conversation with all of its branches as plain data."""
    return {
        "localmoe": 1,
        "id": summary.id,
        "title": summary.title,
        "system": summary.system,
        "model": summary.model,
        "created": summary.created,
        "updated": summary.updated,
        "head": summary.head,
        "messages": [
            {
                "id": one.id,
                "parent": one.parent,
                "role": one.role,
                "content": one.content,
                "status": one.status,
                "created": one.created,
                "details": dict(one.details),
            }
            for one in messages
        ],
    }


def as_markdown(summary: Summary, path: Sequence[Message]) -> str:
    """The branch a conversation stands on, to be read by people."""
    when = datetime.fromtimestamp(summary.created).astimezone().strftime("%Y-%m-%d %H:%M")
    origin = f"{when} · {summary.model or 'unknown model'} · {summary.id}"
    parts = [f"# {summary.title or summary.id}", origin]
    if summary.system:
        parts.append("## System\n\n" + summary.system)
    for message in path:
        marker = "" if message.status == "complete" else " (interrupted)"
        parts.append(f"## {message.role.capitalize()}{marker}\n\n{message.content}")
    return "\n\n".join(parts) + "\n"


def export(history: History, conversations: Iterable[Summary], form: Format) -> str:
    """`conversations` in `form`, as one text."""
    if form == "markdown":
        return "\n".join(as_markdown(one, history.path_to(one.id, one.head)) for one in conversations)
    objects = [as_object(one, history.messages(one.id)) for one in conversations]
    if form == "json":
        return json.dumps(objects, ensure_ascii=False, indent=2) + "\n"
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in objects)


def import_jsonl(history: History, lines: Iterable[str], source: str) -> list[str]:
    """Add each line's conversation under a new id; return those ids.

    Everything is checked before anything is written. Raises `UsageError` naming `source` and the line.
    """
    objects = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            objects.append(checked(line, f"{source}, line {number}"))
    with history.transaction():
        return [_add(history, one) for one in objects]


def checked(line: str, where: str) -> dict[str, Any]:
    """The conversation in a line of JSONL. Raises `UsageError` that begins with `where`."""
    try:
        data = parse_json(line)
    except ValueError as error:
        raise UsageError(f"{where}: not JSON ({error})") from error
    if not isinstance(data, dict) or not isinstance(data.get("messages"), list):
        raise UsageError(f"{where}: expected an object with a list `messages`")
    known: set[Any] = {None}
    for index, message in enumerate(data["messages"]):
        place = f"{where}, message {index + 1}"
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise UsageError(f"{place}: expected an object with a text `content`")
        role = message.get("role")
        if role not in ("user", "assistant") and not (index == 0 and role == "system"):
            raise UsageError(f"{place}: role must be user or assistant (or system, first), not {role!r}")
        if not _is_id(message.get("id")) or not _is_id(message.get("parent")):
            raise UsageError(f"{place}: `id` and `parent` must be whole numbers or texts")
        if message.get("status", "complete") not in ("complete", "interrupted", "streaming"):
            raise UsageError(f"{place}: unknown status {message['status']!r}")
        if message.get("parent") not in known:
            raise UsageError(f"{place}: its parent {message['parent']!r} does not come before it")
        if not isinstance(message.get("details", {}), dict) or not _is_time(message.get("created", 0.0)):
            raise UsageError(f"{place}: `details` must be an object and `created` a number of seconds")
        known.add(message.get("id"))
    if not _is_id(data.get("head")) or data.get("head") not in known:
        raise UsageError(f"{where}: `head` must be the id of one of its messages")
    if not all(_is_time(data.get(name, 0.0)) for name in ("created", "updated")):
        raise UsageError(f"{where}: `created` and `updated` must be numbers of seconds")
    for name in ("title", "system", "model"):
        if not isinstance(data.get(name, ""), str):
            raise UsageError(f"{where}: {name} must be text")
    return data


def _is_id(value: object) -> bool:
    return value is None or isinstance(value, int | str)


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e11


def _add(history: History, data: dict[str, Any]) -> str:
    messages = data["messages"]
    system = data.get("system", "")
    ids: dict[Any, int | None] = {None: None}
    if messages and messages[0]["role"] == "system":
        ids[messages[0].get("id")] = None  # what follows it is a first message
        system, messages = messages[0]["content"], messages[1:]
    title = data.get("title", "") or next((title_of(one["content"]) for one in messages), "")
    conversation = history.create(
        title=title, system=system, model=data.get("model", ""), created=data.get("created")
    )
    last: int | None = None
    for message in messages:
        parent = ids[message["parent"]] if "parent" in message else last
        status: Status = "complete" if message.get("status", "complete") == "complete" else "interrupted"
        last = history.add(
            conversation,
            parent,
            message["role"],
            message["content"],
            status=status,
            details=message.get("details"),
            created=message.get("created"),
        )
        ids[message.get("id")] = last
    history.set_head(conversation, ids[data["head"]] if "head" in data else last, updated=data.get("updated"))
    return conversation


def title_of(text: str, limit: int = 60) -> str:
    """A conversation's title from its first prompt: one line, cut at a word."""
    line = " ".join(text.split())
    if len(line) <= limit:
        return line
    return line[: limit - 1].rsplit(" ", 1)[0].rstrip(" ,.;:") + "…"


def write_whole(target: Path, text: str) -> None:
    """Writes a text file, all or nothing; UsageError where it cannot be."""
    draft = target.with_name(target.name + ".partial")
    try:
        draft.write_text(text, "utf-8", errors="replace")  # typed bytes that were no UTF-8 become "?"
        draft.replace(target)
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror or error}") from error
