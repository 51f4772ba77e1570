"""Full-text search over all conversations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from localmoe.history.store import History, escaped

MARK_START, MARK_END = "\ue000", "\ue001"  # private-use characters around a match; the display styles them

# Thai, Lao, Burmese, Khmer, kana and Chinese characters: scripts that put no spaces between words. The index
# takes a whole sentence of theirs for one word, so what is inside it is looked for in the text itself.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
_BEFORE, _AROUND = 30, 120  # characters of an excerpt: before the first match, and in all


@dataclass(frozen=True)
class Hit:
    """A message that matches. `excerpt` holds the matched words between MARK_START and MARK_END."""

    conversation: str
    title: str
    message: int
    role: str
    created: float
    excerpt: str
    content: str


def match_expression(words: str, *, every: bool) -> str:
    """`words` as an FTS5 query: each a prefix; all of them, or any. None of it is taken as query syntax."""
    terms = ['"' + word.replace('"', '""') + '"*' for word in words.replace("\0", " ").split()]
    return (" " if every else " OR ").join(terms)


def search(
    history: History, words: str, *, limit: int = 20, every: bool = True, without: str | None = None
) -> list[Hit]:
    """The best messages for `words`, best first.

    `every`: a message must hold all words (otherwise any); `without`: a conversation to leave out.
    """
    history.settle_stale()
    expression = match_expression(words, every=every)
    if not expression:
        return []
    if _UNSPACED.search(words):
        return _search_texts(history, words, limit, every, without)
    rows = history.rows(
        "SELECT m.conversation, c.title, m.id AS message, m.role, m.created, m.content,"
        " snippet(message_words, 0, ?, ?, ' … ', 24) AS excerpt"
        " FROM message_words JOIN messages AS m ON m.id = message_words.rowid"
        " JOIN conversations AS c ON c.id = m.conversation"
        " WHERE message_words MATCH ? AND m.conversation IS NOT ?"
        " ORDER BY bm25(message_words), m.id DESC LIMIT ?",
        (MARK_START, MARK_END, expression, without, limit),
    )
    return [Hit(**dict(row)) for row in rows]


def _search_texts(
    history: History, words: str, limit: int, every: bool, without: str | None
) -> list[Hit]:
    """`search`, the latest first, where a word may be inside a sentence that has no spaces."""
    terms = words.replace("\0", " ").split()
    inside = [term for term in terms if _UNSPACED.search(term)]
    conditions = ["m.content LIKE ? ESCAPE '\\'" for _ in inside]
    parameters = [f"%{escaped(term)}%" for term in inside]
    indexed = match_expression(" ".join(term for term in terms if term not in inside), every=every)
    if indexed:
        conditions.append("m.id IN (SELECT rowid FROM message_words WHERE message_words MATCH ?)")
        parameters.append(indexed)
    rows = history.rows(
        "SELECT m.conversation, c.title, m.id AS message, m.role, m.created, m.content"
        " FROM messages AS m JOIN conversations AS c ON c.id = m.conversation"
        f" WHERE ({(' AND ' if every else ' OR ').join(conditions)})"
        " AND m.status <> 'streaming' AND m.conversation IS NOT ? ORDER BY m.id DESC LIMIT ?",
        (*parameters, without, limit),
    )
    return [Hit(**dict(row), excerpt=_excerpt(row["content"], terms)) for row in rows]


def _excerpt(content: str, terms: Sequence[str]) -> str:
    """The text around the first of `terms`, each of them marked."""
    pattern = re.compile("|".join(map(re.escape, sorted(terms, key=len, reverse=True))), re.IGNORECASE)
    first = pattern.search(content)
    start = max(0, first.start() - _BEFORE) if first else 0
    end = start + _AROUND
    marked = pattern.sub(lambda match: f"{MARK_START}{match[0]}{MARK_END}", content[start:end])
    return ("… " if start else "") + marked + (" …" if end < len(content) else "")
