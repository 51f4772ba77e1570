"""The pieces of an answer on their way: until Ctrl-C, and thoughts told from the answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from localmoe.chat.paced import CancelledError
from localmoe.generate.loop import Answer, Piece
from localmoe.text.thinking import Thoughts


def until_cancelled(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """The pieces; none if Ctrl-C comes while the prompt is read."""
    with closing(pieces):  # type: ignore[type-var] # a generator, though typed as an iterator
        try:
            yield from pieces
        except CancelledError:
            return


def apart(pieces: Iterator[Piece], thoughts: Thoughts) -> Iterator[tuple[str, str, Answer | None]]:
    """What of each piece is thought, and what is answer; with the last piece, the whole Answer."""
    for piece in pieces:
        yield *thoughts.feed(piece.text, piece.thought), piece.answer
    yield *thoughts.finish(), None
