"""Slash commands that reach into earlier conversations."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

from localmoe.chat.attachments import Attachment
from localmoe.chat.conversation import Conversation
from localmoe.errors import UsageError
from localmoe.history.database import HistoryError
from localmoe.history.search import MARK_END, MARK_START, Hit, search
from localmoe.history.store import History, Summary
from localmoe.text.safe import safe

if TYPE_CHECKING:
    from localmoe.chat.repl import Repl

_PASSAGE = 1200  # characters of a recalled passage
_PASSAGES = 3


def _history(repl: Repl) -> History:
    history = repl.session.recorder.history
    if history is None:
        raise HistoryError("This chat runs without a history.")
    return history


def history(repl: Repl, argument: str) -> None:
    if argument and not re.fullmatch("[1-9][0-9]*", argument):
        raise UsageError("How many conversations to list must be a number from 1: /history 20")
    limit = int((argument or "15")[:9])  # what SQLite can count; nobody has more
    found = _history(repl).conversations(limit=limit)
    repl.notices.write("\n".join(map(summary_line, found)) or "There are no conversations yet.")


def summary_line(summary: Summary) -> str:
    """A conversation in a listing."""
    return f"{summary.id}  {when(summary.updated)}  {summary.messages:3} messages  {safe(summary.title)}"


def when(seconds: float) -> str:
    """A point in time as a listing shows it."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


def find(repl: Repl, argument: str) -> None:
    if not argument:
        raise UsageError("What to search for is missing: /search WORDS")
    hits = search(_history(repl), argument)
    repl.notices.write("\n".join(map(hit_line, hits)) or f"Nothing found for {argument!r}.")


def hit_line(hit: Hit) -> str:
    """A search result in a listing, without styling."""
    excerpt = " ".join(hit.excerpt.replace(MARK_START, "").replace(MARK_END, "").split())
    return f"{hit.conversation}  {when(hit.created)}  {hit.role}: {safe(excerpt)}"


def recall(repl: Repl, argument: str) -> None:
    """Passages are shown first; only if the user agrees do they go with the next prompt."""
    if not argument:
        raise UsageError("What to recall is missing: /recall WORDS")
    here = repl.session.conversation.id
    hits = search(_history(repl), argument, limit=_PASSAGES, every=True, without=here)
    hits = hits or search(_history(repl), argument, limit=_PASSAGES, every=False, without=here)
    if not hits:
        repl.notices.write(f"No earlier conversation mentions {argument!r}.")
        return
    passages = [passage(hit) for hit in hits]
    repl.notices.write("\n\n".join(f"{one.name}:\n{one.text}" for one in passages))
    if repl.reader.confirm("Use this in your next prompt?"):
        repl.attachments += passages
        repl.notices("It goes with your next prompt.")


def passage(hit: Hit) -> Attachment:
    """The part of a message around what was found."""
    text = hit.content
    if len(text) > _PASSAGE:
        first = hit.excerpt.split(MARK_START, 1)[-1].split(MARK_END, 1)[0]
        middle = max(text.find(first), 0)
        start = max(0, min(middle - _PASSAGE // 2, len(text) - _PASSAGE))
        text = ("…" if start else "") + text[start : start + _PASSAGE].strip()
        text += "…" if start + _PASSAGE < len(hit.content) else ""
    speaker = "you" if hit.role == "user" else "the assistant"
    return Attachment(f'From "{hit.title}" ({when(hit.created)}, {speaker})', text)


def resume(repl: Repl, argument: str) -> None:
    if not argument:
        history(repl, "")
        repl.notices("/resume ID goes on with one of them.")
        return
    stored = _history(repl)
    summary = stored.find(argument)
    repl.session.take_up(Conversation.from_history(summary, stored.messages(summary.id)))
    repl.attachments = []
    repl.show_last_exchange()
