"""Token ids to text as they come: UTF-8 split between tokens is joined, the encoder's space prefix taken
off.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from localmoe.text.tokenizer import Tokenizer


class TextStream:
    """The text of a growing sequence: all of `push` and `finish` together are `tokenizer.decode`."""

    def __init__(self, tokenizer: Tokenizer, *, continues: bool = False) -> None:
        """`continues`: the ids go on after a text, so that a first space belongs to them."""
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._first = not continues
        self.thought = False  # whether the text is known to be thought, not answer (see `text/harmony.py`)

    def push(self, token: int) -> str:
        """The text that this token completes: "" while a character is still open."""
        added = self._tokenizer.token_bytes(token, self._first)
        if self._first and not self._tokenizer.is_control(token):
            self._first = False
        return self._decoder.decode(added)

    def finish(self, *, cut: bool = False) -> str:
        """What was held back: U+FFFD for a character that never became whole, but not if the text was `cut`
        short.
        """
        return "" if cut else self._decoder.decode(b"", final=True)


def decode(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """The text of a whole sequence of ids."""
    stream = TextStream(tokenizer)
    return "".join([stream.push(token) for token in ids]) + stream.finish()
