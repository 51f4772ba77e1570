"""A model that thinks before it answers writes its thoughts first, between `<think>` and `</think>`: telling
them from the answer while it streams.

Qwen3 and others do; their prompt formats leave the thoughts of earlier answers out of a conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

from localmoe.text.tokenizer import Tokenizer

OPEN, CLOSE = "<think>", "</think>"


class _Where(Enum):
    BEFORE = auto()  # whether it thinks is not known yet
    THOUGHTS = auto()
    BETWEEN = auto()  # blank lines that belong to neither
    ANSWER = auto()


class Thoughts:
    """Splits one answer's text; all that `feed` and `finish` return together is all of it but the markers."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], continues: bool = False) -> None:
        """`prompt`: some formats end theirs with the opening marker. `continues`: the text goes on after an
        answer's; then, and where the vocabulary has no such markers, all of it is answer.
        """
        markers = tokenizer.markers()
        first, last = markers.get(OPEN), markers.get(CLOSE)
        self._held = ""  # what may be the beginning of a marker
        self._where = _Where.BEFORE
        if continues or first is None or last is None:
            self._where = _Where.ANSWER
        elif next((token for token in reversed(prompt) if token in (first, last)), last) == first:
            self._where = _Where.THOUGHTS

    def feed(self, text: str) -> tuple[str, str]:
        """More of the text: what of it is thought, and what is answer."""
        thought, self._held = "", self._held + text
        if self._where is _Where.BEFORE:
            begun = self._held.lstrip()
            if OPEN.startswith(begun):
                return "", ""
            self._where = _Where.ANSWER
            if begun.startswith(OPEN):
                self._where, self._held = _Where.THOUGHTS, begun.removeprefix(OPEN)
        if self._where is _Where.THOUGHTS:
            thought, found, after = self._held.partition(CLOSE)
            if not found:
                kept = _open_end(thought)
                self._held = thought[len(thought) - kept :]
                return thought[: len(thought) - kept], ""
            self._where, self._held = _Where.BETWEEN, after
        if self._where is _Where.BETWEEN:
            self._held = self._held.lstrip("\n")
            if self._held:
                self._where = _Where.ANSWER
        answer, self._held = self._held, ""
        return thought, answer

    def finish(self) -> tuple[str, str]:
        """What was held back, at the end of the text."""
        rest, self._held = self._held, ""
        return (rest, "") if self._where is _Where.THOUGHTS else ("", rest)


def _open_end(text: str) -> int:
    """How many characters at the end of `text` may begin a closing marker."""
    return next((n for n in range(len(CLOSE) - 1, 0, -1) if text.endswith(CLOSE[:n])), 0)
