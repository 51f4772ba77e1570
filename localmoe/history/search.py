"""Full-text search over all conversations."""

from __future__ import annotations

from dataclasses import dataclass

from localmoe.history.store import History

MARK_START, MARK_END = "\ue000", "\ue001"  # private-use characters around a match; the display styles them


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
