"""`chat --dry-run`: the prompt as the model would get it. Only the model file's metadata is read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from localmoe.chat.conversation import Conversation
from localmoe.chat.output import DIM, Notices, to_json
from localmoe.chat.window import decided, fit, reserve
from localmoe.settings import Settings
from localmoe.text.safe import safe
from localmoe.text.tokenizer import Tokenizer


def show_prompt(
    path: Path, settings: Settings, conversation: Conversation, prompt: str, as_json: bool
) -> int:
    """Print what the model at `path` would be given next; returns the exit code."""
    from localmoe.model.config import ModelConfig
    from localmoe.runner import DEFAULT_CONTEXT
    from localmoe.text.prompts import prompt_format
    from localmoe.text.tokenizer import load_tokenizer
    from quant.parts import open_model

    with open_model(path) as file:
        context = settings.context or min(ModelConfig.from_gguf(file).context, DEFAULT_CONTEXT)
        tokenizer = load_tokenizer(file.metadata)
        encode = partial(
            prompt_format(file.metadata, tokenizer).encode, think=settings.think, effort=settings.effort
        )
    if prompt:
        conversation.add("user", prompt)
    turns = conversation.path()
    left_out, summary = decided(turns, context)
    window = fit(
        encode,
        conversation.system,
        turns,
        limit=context - reserve(context, settings.max_tokens),
        policy="stop" if settings.overflow == "stop" else "drop",  # a summary would take the model itself
        left_out=left_out,
        summary=summary,
    )
    text = visible(tokenizer, window.ids)
    if as_json:
        print(to_json({"prompt": text, "prompt_tokens": len(window.ids), "ids": window.ids}))
    else:
        print(safe(text))
        Notices.write(f"{len(window.ids):,} tokens", DIM)
    return 0


def visible(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of `ids` with control tokens as they are written in the vocabulary."""
    names = {token: piece for piece, token in tokenizer.markers().items()}
    parts: list[bytes] = []
    for token in ids:
        control = tokenizer.is_control(token)
        parts.append(names.get(token, "").encode() if control else tokenizer.token_bytes(token))
    return b"".join(parts).decode("utf-8", "replace")
