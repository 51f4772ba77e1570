"""A model that thinks before it answers writes its thoughts first, between `<think>` and `</think>`: telling
them from the answer while it streams.

Qwen3 and others do; their prompt formats leave the thoughts of earlier answers out of a conversation. gpt-oss
thinks in a channel of its own (`harmony.py`), by which its thoughts are known before they come here.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

from localmoe.text.tokenizer import Tokenizer

OPEN, CLOSE = "<think>", "</think>"


class Where(Enum):
    """Where in an answer its text has come to."""

    BEFORE = auto()  # whether it thinks is not known yet
    THOUGHTS = auto()
    BETWEEN = auto()  # blank lines that belong to neither
    ANSWER = auto()


class Thoughts:
    """Splits one answer's text; all that `feed` and `finish` return together is all of it but the markers."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], continues: str | None = None) -> None:
        """`prompt`: some formats end theirs with the opening marker. `continues`: what the model wrote so far
        (`Turn.whole`), where the text goes on after it. Where the vocabulary has no such markers, all of the
        text is answer.
        """
        markers = tokenizer.markers()
        first, last = markers.get(OPEN), markers.get(CLOSE)
        self._held = ""  # what may be the beginning of a marker
        if first is None or last is None:
            self.where = Where.ANSWER
        elif continues is None:
            self.where = Where.THOUGHTS if ends_with(tokenizer, prompt, first) else Where.BEFORE
        else:  # the prompt may have closed them all the same: it shall not think
            within = continues.startswith(OPEN) and CLOSE not in continues
            latest = next((token for token in reversed(prompt) if token in (first, last)), first)
            self.where = Where.THOUGHTS if within and latest == first else Where.ANSWER

    def feed(self, text: str, known: bool = False) -> tuple[str, str]:
        """More of the text: what of it is thought, and what is answer. `known`: all of it is thought."""
        if known:
            return text, ""
        thought, self._held = "", self._held + text
        if self.where is Where.BEFORE:
            begun = self._held.lstrip()
            if OPEN.startswith(begun) and begun != OPEN:
                return "", ""
            self.where = Where.ANSWER
            if begun.startswith(OPEN):
                self.where, self._held = Where.THOUGHTS, begun.removeprefix(OPEN)
        if self.where is Where.THOUGHTS:
            thought, found, after = self._held.partition(CLOSE)
            if not found:
                kept = _open_end(thought)
                self._held = thought[len(thought) - kept :]
                return thought[: len(thought) - kept], ""
            self.where, self._held = Where.BETWEEN, after
        if self.where is Where.BETWEEN:
            self._held = self._held.lstrip("\n")
            if self._held:
                self.where = Where.ANSWER
        answer, self._held = self._held, ""
        return thought, answer

    def finish(self) -> tuple[str, str]:
        """What was held back, at the end of the text."""
        rest, self._held = self._held, ""
        return (rest, "") if self.where is Where.THOUGHTS else ("", rest)


def ends_with(tokenizer: Tokenizer, prompt: Sequence[int], marker: int) -> bool:
    """Whether the marker is the last of a prompt, but for white space."""
    for token in reversed(prompt):
        if token == marker:
            return True
        if tokenizer.is_control(token) or tokenizer.token_bytes(token).strip():
            return False
    return False


def _open_end(text: str) -> int:
    """How many characters at the end of `text` may begin a closing marker."""
    return next((n for n in range(len(CLOSE) - 1, 0, -1) if text.endswith(CLOSE[:n])), 0)
