"""The prompt format of a model that brings its own Jinja chat template.

The template runs in a sandboxed process (`template_process.py`). Its text is then split at the control
tokens that the template wrote, which become ids, while the same characters in anybody's message stay text.
To tell them apart, messages go into the template with an unguessable word inserted into every control token
they contain, and at an edge where one could arise from the template's text and the message's together. The
word leaves again before encoding.

What marks the thoughts at the beginning of an answer, `<think>` and `</think>`, is left as it is where these
are no control tokens: templates find by them what the model thought, and leave that out of earlier answers.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from localmoe.text.prompts import Message, checked
from localmoe.text.template_process import TemplateProcess, TemplateRefusal
from localmoe.text.thinking import CLOSE, OPEN
from localmoe.text.tokenizer import Tokenizer


class TemplateFormat:
    """Renders the conversation with the model's template, then encodes text and control tokens apart."""

    name = "template"

    def __init__(self, template: str, tokenizer: Tokenizer) -> None:
        self._template = template
        self._tokenizer = tokenizer
        self._renderer = TemplateProcess()
        # Control tokens, and those user-defined pieces that the template itself writes.
        self._markers = {
            piece: token
            for piece, token in tokenizer.markers().items()
            if len(piece) > 1 and (tokenizer.is_control(token) or piece in template)
        }
        any_marker = _any_of(self._markers)
        self._marker = re.compile(f"({any_marker})")
        self._marker_start = re.compile(f"(?={any_marker})")
        user_defined = [piece for piece, token in self._markers.items() if not tokenizer.is_control(token)]
        self._found_in_text = re.compile(_any_of(user_defined))  # by `encode`, as all user-defined pieces are
        self._thinks = {OPEN, CLOSE} <= set(user_defined)
        self._tails = {c for piece in self._markers for c in piece[1:]}
        self._heads = {c for piece in self._markers for c in piece[:-1]}
        pieces = {token: piece for piece, token in tokenizer.markers().items()}
        self._values: dict[str, Any] = {
            "bos_token": "" if tokenizer.bos_id is None else pieces.get(tokenizer.bos_id, ""),
            "eos_token": "" if tokenizer.eos_id is None else pieces.get(tokenizer.eos_id, ""),
            "tools": None,
            "documents": None,
        }

    def encode(
        self, messages: Sequence[Message], *, think: bool = True, effort: str | None = None
    ) -> list[int]:
        checked(messages)
        try:
            return self._encode(messages, think, effort)
        except TemplateRefusal:
            plainer = _without_system(messages)
            if plainer == [dict(message) for message in messages]:
                raise
            return self._encode(plainer, think, effort)  # many know no system prompts or two turns of a role

    def _encode(self, messages: Sequence[Message], think: bool, effort: str | None) -> list[int]:
        word, closed = _unguessable(), list(messages)
        opened = closed.pop() if messages[-1]["role"] == "assistant" else None
        shielded = [{"role": m["role"], "content": self._shielded(m, word)} for m in closed]
        values = {"messages": shielded, "add_generation_prompt": True, **self._asked(think, effort)}
        prompt = self._renderer.render(self._template, {**self._values, **values})
        return self._one_bos(self._ids(self._begun(prompt, opened, word, think), word))

    def _asked(self, think: bool, effort: str | None) -> dict[str, Any]:
        """What templates are told of thinking, under the names that they know it by."""
        return {"enable_thinking": think} | ({"reasoning_effort": effort} if effort else {})

    def _begun(self, prompt: str, answer: Message | None, word: str, think: bool) -> str:
        """The prompt, and the beginning of the answer to it, if there is one."""
        return _joined(prompt, self._shielded(answer, word, is_open=True)) if answer else prompt

    def _shielded(self, message: Message, word: str, is_open: bool = False) -> str:
        """A message's text without any control token, but with what marks the thoughts before an answer; an
        answer that goes on may be within them.
        """
        content = message["content"]
        begun = content.lstrip()
        if message["role"] != "assistant" or not self._thinks or not begun.startswith(OPEN):
            return self._shield(content, word)
        thought, close, rest = begun.removeprefix(OPEN).partition(CLOSE)
        if not close and not is_open:
            return self._shield(content, word)
        return OPEN + self._shield(thought, word) + close + self._shield(rest, word)

    def _shield(self, content: str, word: str) -> str:
        """`content` without any control token: `word` stands inside each, and where one could arise."""
        inside = [match.start() + 1 for match in self._marker_start.finditer(content)]
        inner = content.strip()
        if inner:
            start = content.index(inner)
            inside += [start] if inner[0] in self._tails else []
            inside += [start + len(inner)] if inner[-1] in self._heads else []
        edges = [0, *sorted(set(inside)), len(content)]
        return word.join(content[a:b] for a, b in pairwise(edges))

    def _ids(self, text: str, word: str) -> list[int]:
        ids: list[int] = []
        for i, part in enumerate(self._marker.split(text)):  # every second part is a control token
            if i % 2:
                ids.append(self._markers[part])
                continue
            plain = part.replace(word, "")
            # Where a marker would be found again, the text is encoded in the parts that the word makes.
            for run in part.split(word) if self._found_in_text.search(plain) else [plain]:
                ids += self._tokenizer.encode(run, bos=False) if run else []
        return ids

    def _one_bos(self, ids: list[int]) -> list[int]:
        bos = self._tokenizer.bos_id
        start = 0
        while bos is not None and start < len(ids) and ids[start] == bos:
            start += 1
        return [bos, *ids[start:]] if bos is not None and start else self._tokenizer.encode("") + ids


def _joined(prompt: str, answer: str) -> str:
    """A prompt and the answer that goes on after it; the prompt may have opened or closed its thoughts."""
    end = prompt.rstrip()
    if answer.startswith(OPEN) and end.endswith(OPEN):
        return prompt + answer.removeprefix(OPEN).lstrip("\n")
    if answer.startswith(OPEN) and end.endswith(CLOSE):
        return prompt + answer.partition(CLOSE)[2].lstrip("\n")
    if answer and end.endswith(OPEN):  # it was given without thoughts
        return f"{prompt}{CLOSE}\n\n{answer}"
    return prompt + answer


def _any_of(words: Iterable[str]) -> str:
    """A pattern for any of the words, the longest first; a look at the letter spares trying them all."""
    longest_first = sorted(words, key=len, reverse=True)
    if not longest_first:
        return "(?!)"
    letters = "".join(sorted({re.escape(word[0]) for word in longest_first}))
    return f"(?=[{letters}])(?:{'|'.join(map(re.escape, longest_first))})"


def _unguessable() -> str:
    """A word of eight private-use characters, 128 random bits: nobody can have written it into a message."""
    return "".join(chr(0xF0000 + secrets.randbelow(0xFFFE)) for _ in range(8))


def _without_system(messages: Sequence[Message]) -> list[dict[str, str]]:
    """System prompts before the next user text, and neighbours of one role joined, by a blank line."""
    turns: list[dict[str, str]] = []
    for message in messages:
        role = "user" if message["role"] == "system" else message["role"]
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += "\n\n" + message["content"]
        else:
            turns.append({**message, "role": role})
    return turns


