"""Prompt formats: a conversation to token ids, in the way the model was trained on.

Mistral's formats are built in (`mistral.py`) and token-identical with mistral-common; other models bring a
Jinja template (`template.py`). In all of them control tokens are inserted as ids and never parsed out of
anybody's text.

A last message of the assistant is left open, so that the model goes on with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from localmoe.text.errors import PromptError
from localmoe.text.tokenizer import Tokenizer

__all__ = ["Message", "PlainFormat", "PromptError", "PromptFormat", "prompt_format"]

# {"role": "system" | "user" | "assistant", "content": ...}; "thoughts", if known: those that an answer's
# content begins with, between their marks; "": none, all of it is answer.
Message = Mapping[str, str]


class PromptFormat(Protocol):
    """How a model reads a conversation."""

    @property
    def name(self) -> str:
        """A short name for listings: "mistral-v1", "template", "harmony", ..."""

    def encode(
        self, messages: Sequence[Message], *, think: bool = True, effort: str | None = None
    ) -> list[int]:
        """The ids of the conversation, from BOS, where there is one, to where the assistant's answer begins.

        `think`: whether a model that can think before it answers shall; `effort`: how hard ("low", "medium",
        "high"; None: as its template has it). Others do not ask.

        Raises:
            PromptError: no messages, an unknown role, or a conversation that the model's template refuses.
        """


class PlainFormat:
    """For models that were never taught turns: the texts, one after the other."""

    name = "plain"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(
        self, messages: Sequence[Message], *, think: bool = True, effort: str | None = None
    ) -> list[int]:
        checked(messages)
        return self._tokenizer.encode("\n\n".join(message["content"] for message in messages))


def checked(messages: Sequence[Message]) -> Sequence[Message]:
    """The messages, if there are any and each has a known role and text.

    Raises:
        PromptError: otherwise.
    """
    if not messages:
        raise PromptError("the conversation is empty: there is nothing to answer")
    for message in messages:
        if message.get("role") not in ("system", "user", "assistant"):
            raise PromptError(f"unknown role {message.get('role')!r}: use system, user or assistant")
        if not isinstance(message.get("content"), str):
            raise PromptError(f"the content of a {message['role']} message is not text")
    return messages


def prompt_format(metadata: Mapping[str, Any], tokenizer: Tokenizer) -> PromptFormat:
    """The format of the model that a GGUF file's metadata describes.

    Recognised by what the file holds, never by its name: Mistral's formats by their template and by whether
    the vocabulary has `[INST]` and `[SYSTEM_PROMPT]` as control tokens; any other template is run as it is,
    OpenAI's harmony by the control tokens of its channels.
    Without a template a SentencePiece vocabulary of 32,000 is Mistral's first, one with `[INST]` as a
    control token a later one.
    """
    from localmoe.text.mistral import mistral_format

    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, bytes):
        template = template.decode("utf-8", "replace")
    built_in = mistral_format(template, metadata.get("tokenizer.ggml.model") == "llama", tokenizer)
    if built_in is not None:
        return built_in
    if template:
        from localmoe.text.harmony import CHANNEL, is_harmony
        from localmoe.text.harmony_template import HarmonyFormat
        from localmoe.text.template import TemplateFormat

        in_channels = is_harmony(tokenizer) and CHANNEL in str(template)
        return (HarmonyFormat if in_channels else TemplateFormat)(str(template), tokenizer)
    return PlainFormat(tokenizer)
