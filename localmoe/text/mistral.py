"""Mistral's instruct formats: v1 (Mixtral 8x7B), v3 (8x22B, Nemo) and v7 (Large 2411, Small 3).

Token-identical with mistral-common 1.13.1 for text conversations. What they have in common: neighbouring
messages of one role are joined by a blank line, an answer ends with EOS, there is one BOS. How they differ:

- v1: `[INST]` is ordinary text, encoded together with the message; system prompts stand before the first
  user text.
- v3: `[INST]` and `[/INST]` are control tokens; system prompts stand before the last user text; answers
  lose their trailing spaces.
- v7: as v3, but each system prompt stands where it was said, between control tokens of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from localmoe.text.errors import PromptError
from localmoe.text.prompts import Message, PromptFormat, checked
from localmoe.text.tokenizer import Tokenizer

_V1_VOCABULARY = 32_000  # pieces of Mistral's first SentencePiece model
# Templates that write [INST] but belong to other families, or to fine-tunes with turns of their own.
_FOREIGN = ("<<SYS>>", "<|", "<start_of_turn>", "### Instruction", "USER:")

Turn = tuple[str, str]  # role, text


class MistralV1:
    """`<s>[INST] system\\n\\nuser [/INST]answer</s>[INST] user [/INST]`, all but BOS and EOS ordinary text.
    """

    name = "mistral-v1"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bos, self._eos = _ends(tokenizer)

    def encode(
        self, messages: Sequence[Message], *, think: bool = True, effort: str | None = None
    ) -> list[int]:
        system, turns = _without_system(messages)
        ids, first = [self._bos], True
        for i, (role, text) in enumerate(turns):
            if role == "user":
                prefix = f"{system}\n\n" if system and first else ""
                ids += self._tokenizer.encode(f"[INST] {prefix}{text} [/INST]", bos=False)
                first = False
            else:
                ids += self._tokenizer.encode(text, bos=False)
                ids += [self._eos] if i + 1 < len(turns) else []
        return ids


class MistralV3:
    """`<s>[INST]user[/INST]answer</s>[INST]system\\n\\nuser[/INST]` with control tokens."""

    name = "mistral-v3"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bos, self._eos = _ends(tokenizer)
        self._begin, self._end = _control(tokenizer, "[INST]"), _control(tokenizer, "[/INST]")

    def encode(
        self, messages: Sequence[Message], *, think: bool = True, effort: str | None = None
    ) -> list[int]:
        system, turns = _without_system(messages)
        last_user = max(i for i, (role, _) in enumerate(turns) if role == "user")
        ids = [self._bos]
        for i, (role, text) in enumerate(turns):
            prefix = f"{system}\n\n" if system and i == last_user else ""
            ids += self._turn(role, prefix + text, is_last=i + 1 == len(turns))
        return ids

    def _turn(self, role: str, text: str, is_last: bool) -> list[int]:
        if role == "user":
            return [self._begin, *self._tokenizer.encode(text, bos=False), self._end]
        return self._tokenizer.encode(text.rstrip(" "), bos=False) + ([] if is_last else [self._eos])


class MistralV7(MistralV3):
    """As v3, with `[SYSTEM_PROMPT]system[/SYSTEM_PROMPT]` as a turn of its own."""

    name = "mistral-v7"

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self._begin_system = _control(tokenizer, "[SYSTEM_PROMPT]")
        self._end_system = _control(tokenizer, "[/SYSTEM_PROMPT]")

    def encode(
        self, messages: Sequence[Message], *, think: bool = True, effort: str | None = None
    ) -> list[int]:
        turns = _joined(messages)
        ids = [self._bos]
        for i, (role, text) in enumerate(turns):
            if role == "system":
                ids += [self._begin_system, *self._tokenizer.encode(text, bos=False), self._end_system]
            else:
                ids += self._turn(role, text, is_last=i + 1 == len(turns))
        return ids


def mistral_format(template: str | None, sentencepiece: bool, tokenizer: Tokenizer) -> PromptFormat | None:
    """The Mistral format that this template and vocabulary belong to, or None if they are somebody else's."""
    if template:
        if not ("[INST]" in template and "[/INST]" in template) or any(mark in template for mark in _FOREIGN):
            return None
    elif sentencepiece and tokenizer.vocab_size == _V1_VOCABULARY:
        return MistralV1(tokenizer)
    if not _has_control(tokenizer, "[INST]", "[/INST]"):
        return MistralV1(tokenizer) if template and sentencepiece else None
    if _has_control(tokenizer, "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]") and (
        not template or "[SYSTEM_PROMPT]" in template
    ):
        return MistralV7(tokenizer)
    return MistralV3(tokenizer)


def _has_control(tokenizer: Tokenizer, *pieces: str) -> bool:
    ids = [tokenizer.control_id(piece) for piece in pieces]
    return all(token is not None and tokenizer.is_control(token) for token in ids)


def _control(tokenizer: Tokenizer, piece: str) -> int:
    token = tokenizer.control_id(piece)
    if token is None:
        raise PromptError(f"the vocabulary has no control token {piece}, which the prompt format needs")
    return token


def _ends(tokenizer: Tokenizer) -> tuple[int, int]:
    """The ids of BOS and EOS."""
    if tokenizer.bos_id is None or tokenizer.eos_id is None:
        raise PromptError("tokenizer.ggml.bos_token_id and eos_token_id must be there for the prompt format")
    return tokenizer.bos_id, tokenizer.eos_id


def _joined(messages: Sequence[Message]) -> list[Turn]:
    """Neighbours of one role joined by a blank line (empty texts leave none); system prompts stay apart."""
    turns: list[Turn] = []
    for role, group in groupby(checked(messages), key=lambda message: message["role"]):
        texts = [message["content"] for message in group]
        texts = texts if role == "system" else [_blank_line_between(texts)]
        turns += [(role, text) for text in texts]
    return turns


def _without_system(messages: Sequence[Message]) -> tuple[str, list[Turn]]:
    """All system prompts as one text, and the turns without them, of which the first is the user's."""
    turns = _joined(messages)
    system = _blank_line_between([text for role, text in turns if role == "system"])
    others = [turn for turn in turns if turn[0] != "system"]
    return system, others if others and others[0][0] == "user" else [("user", ""), *others]


def _blank_line_between(texts: Sequence[str]) -> str:
    return "\n\n".join(text for text in texts if text)
