"""What was said, in short, in the model's own words: for a context that is full."""

from __future__ import annotations

from collections.abc import Sequence

from localmoe.chat.conversation import Turn
from localmoe.chat.paced import CancelledError, ChatModel, PacedDecoder
from localmoe.chat.pieces import apart
from localmoe.generate.loop import stream
from localmoe.generate.sampling import Sampling
from localmoe.text.thinking import Thoughts

_TOKENS = 160
_REQUEST = (
    "Sum up the following conversation in a few sentences. "
    "Keep names, numbers, decisions and open questions.\n\n"
)


def summarized(model: ChatModel, decoder: PacedDecoder, turns: Sequence[Turn], summary: str) -> str:
    """What `turns`, and the `summary` of those before, say. Raises CancelledError on Ctrl-C."""
    text = (summary + "\n" if summary else "") + "\n".join(f"{t.role}: {t.content}" for t in turns)
    ids = _prompt(model, text)
    while len(ids) > model.context - 2 * _TOKENS and len(text) > 1:
        text = text[len(text) - len(text) * 3 // 4 :]  # the latest part
        ids = _prompt(model, text)
    pieces = stream(
        decoder,
        model.tokenizer,
        ids,
        sampling=Sampling(temperature=0.0),
        max_tokens=_TOKENS,
        cancelled=decoder.cancelled,
    )
    told = "".join(answer for _, answer, _ in apart(pieces, Thoughts(model.tokenizer, ids))).strip()
    if decoder.cancelled():
        raise CancelledError
    return told


def _prompt(model: ChatModel, text: str) -> list[int]:
    return model.encode_chat([{"role": "user", "content": _REQUEST + text}], think=False)
