"""A model whose tokens are bytes and whose answers are scripted; slow on request.

`python fake_model.py ARGUMENTS` is the `localmoe` command with this model in place of every real one.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from localmoe.chat.dry_run import visible
from localmoe.text.constraint import Constraints
from localmoe.text.harmony_template import HarmonyFormat

BOS, EOS, SYSTEM, USER, ASSISTANT = 256, 257, 258, 259, 260
ROLES = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}


class ByteTokenizer:
    vocab_size = 261
    bos_id = BOS
    eos_id = EOS
    eos_ids = frozenset({EOS})

    def encode(self, text: str, bos: bool = True) -> list[int]:
        return [BOS] * bos + list(text.encode())

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(one for one in ids if one < 256).decode("utf-8", "replace")

    def token_bytes(self, token: int, first: bool = False) -> bytes:
        return bytes([token]) if token < 256 else b""

    def is_control(self, token: int) -> bool:
        return token >= 256

    def control_id(self, piece: str) -> int | None:
        return {"<s>": BOS, "</s>": EOS}.get(piece)

    def markers(self) -> Mapping[str, int]:
        return {"<s>": BOS, "</s>": EOS}


class ThinkingTokenizer(ByteTokenizer):
    """Of a vocabulary with the markers of thoughts; texts still hold them byte by byte."""

    def markers(self) -> Mapping[str, int]:
        return {"<think>": 300, "</think>": 301}


class HarmonyTokenizer(ByteTokenizer):
    """Of a vocabulary with the control tokens of OpenAI's harmony format."""

    vocab_size = 265
    pieces: Mapping[str, int] = {"<|start|>": 261, "<|channel|>": 262, "<|message|>": 263, "<|end|>": 264}

    def markers(self) -> Mapping[str, int]:
        return {**super().markers(), **self.pieces}

    def written(self, text: str) -> list[int]:
        """The ids of what a model writes, control tokens and all."""
        parts = re.split("(" + "|".join(map(re.escape, self.pieces)) + ")", text)
        return [i for part in parts for i in ([self.pieces[part]] if part in self.pieces else part.encode())]


def encode_chat(messages: Sequence[Mapping[str, str]]) -> list[int]:
    """BOS, then for each message its role's marker, its bytes, and EOS unless it is a last answer."""
    ids = [BOS]
    for message in messages:
        ids += [ROLES[message["role"]], *message["content"].encode(), EOS]
    return ids[:-1] if messages[-1]["role"] == "assistant" else [*ids, ASSISTANT]


class FakeDecoder:
    def __init__(self, model: FakeModel) -> None:
        self.tokens: list[int] = []
        self.context = model.context
        self.extended: list[list[int]] = []
        self._model = model

    def rewind(self, length: int) -> None:
        assert 0 <= length <= len(self.tokens)
        del self.tokens[length:]

    def extend(self, ids: Sequence[int]) -> np.ndarray:
        self.tokens += ids
        assert len(self.tokens) <= self.context
        self.extended.append(list(ids))
        if self._model.delay:
            time.sleep(self._model.delay)
        logits = np.zeros(self._model.tokenizer.vocab_size, np.float32)
        logits[self._model.next_token(self.tokens)] = 50.0
        return logits


    def save(self, path: Path, identity: str) -> None:
        path.write_text(json.dumps([identity, self.tokens]))

    def load(self, path: Path, identity: str) -> int:
        owner, tokens = json.loads(path.read_text())
        self.tokens = tokens if owner == identity else []
        return len(self.tokens)


class FakeModel:
    """Answers `answers[prompt]` where there is one, else "You said: " and the prompt."""

    name = "fake"
    identity = "f" * 16
    tokenizer = ByteTokenizer()

    def __init__(
        self, answers: Mapping[str, str] | None = None, context: int = 1000, delay: float = 0.0
    ) -> None:
        self.answers = dict(answers or {})
        self.context = context
        self.delay = delay
        self.closed = False
        self.decoders: list[FakeDecoder] = []
        self.script: Callable[[str], str] = lambda prompt: self.answers.get(prompt, f"You said: {prompt}")

    def encode_chat(
        self, messages: Sequence[Mapping[str, str]], *, think: bool = True, effort: str | None = None
    ) -> list[int]:
        return encode_chat(messages)

    @property
    def constraints(self) -> Constraints:
        return Constraints(self.tokenizer)

    def decoder(self) -> FakeDecoder:
        self.decoders.append(FakeDecoder(self))
        return self.decoders[-1]

    def next_token(self, tokens: Sequence[int]) -> int:
        if ASSISTANT not in tokens:
            return EOS  # in the middle of a prompt
        place = max(i for i, one in enumerate(tokens) if one == ASSISTANT)
        start = max(i for i, one in enumerate(tokens[:place]) if one == USER)
        prompt = bytes(tokens[start + 1 : place - 1]).decode()
        rest = self.script(prompt).encode()[len(tokens) - place - 1 :]
        return rest[0] if rest else EOS

    @property
    def plan(self) -> Any:
        return SimpleNamespace(lines=lambda: ["experts  RAM  1.00 MiB"])

    def status(self) -> dict[str, Any]:
        return {"hit_rate": 0.875, "bytes_per_token": 1000}

    def close(self) -> None:
        self.closed = True


class HarmonyModel(FakeModel):
    """Answers in channels, with what its script writes after `<|start|>assistant`."""

    tokenizer = HarmonyTokenizer()
    template = (
        "{% if reasoning_effort %}<|start|>system<|message|>{{ reasoning_effort }}<|end|>{% endif %}"
        "{% for m in messages %}<|start|>{{ m.role }}"
        "{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>{{ m.content }}<|end|>"
        "{% endfor %}<|start|>assistant"
    )

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._format = HarmonyFormat(self.template, self.tokenizer)

    def encode_chat(
        self, messages: Sequence[Mapping[str, str]], *, think: bool = True, effort: str | None = None
    ) -> list[int]:
        return self._format.encode(messages, think=think, effort=effort)

    def next_token(self, tokens: Sequence[int]) -> int:
        _, _, asked = visible(self.tokenizer, tokens).rpartition("<|start|>user<|message|>")
        prompt, _, written = asked.partition("<|end|><|start|>assistant")
        answer = self.script(prompt)
        rest = self.tokenizer.written(answer.removeprefix(written)) if answer.startswith(written) else []
        return rest[0] if rest else EOS


CODE = "```python\ndef f(x):\n    return x + 1\n```\n\n"
LONG = "# Title\n\nSome *words* here.\n\n" + CODE + "- one\n- two\n\nEnd."
HOSTILE = "a\x1b]0;title\x07b\x1b[31mc\x9b1md\u202ee"


def main() -> None:
    import localmoe
    from localmoe import catalogue
    from localmoe.cli.main import main as command

    delay = float(os.environ.get("FAKE_DELAY", "0"))
    context = int(os.environ.get("FAKE_CONTEXT", "1000"))
    count = " ".join(map(str, range(1000)))
    answers = {"long": LONG, "count": count, "hostile": HOSTILE, "ponder": "<think>\nHm.\n</think>\n\nYes."}
    thought = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    answers["channels"] = thought + "<|channel|>final<|message|>Yes."
    if os.environ.get("FAKE_THINKS"):
        FakeModel.tokenizer = ThinkingTokenizer()
    kind = HarmonyModel if os.environ.get("FAKE_HARMONY") else FakeModel
    catalogue.find = lambda model: catalogue.Found("fake", Path(__file__), None)
    localmoe.load = lambda *_arguments, **_options: kind(answers, context, delay)  # type: ignore[attr-defined]
    command()


if __name__ == "__main__":
    main()
