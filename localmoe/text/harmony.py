"""OpenAI's harmony format, in which gpt-oss answers: messages in channels, told apart as their ids come.

    <|channel|>analysis<|message|>thoughts<|end|><|start|>assistant<|channel|>final<|message|>answer<|return|>

Channels begin with control tokens, which no text can imitate. `final` is answer, and so is what `commentary`
says to the user; `analysis` is thought, and so is the call of a tool, in whatever channel.
Source: "OpenAI harmony response format" in OpenAI's cookbook.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from localmoe.text.stream import TextStream
from localmoe.text.tokenizer import Tokenizer

START, CHANNEL, MESSAGE, END = "<|start|>", "<|channel|>", "<|message|>", "<|end|>"
_ROLE = "assistant"
_HEADER_WORDS = (_ROLE, "analysis", "commentary", "final", "to=")
_NAMED = re.compile(r"\A\s*(?:assistant|analysis|commentary|final)\b\s*")


def is_harmony(tokenizer: Tokenizer) -> bool:
    """Whether the vocabulary has the format's control tokens."""
    return {START, CHANNEL, MESSAGE, END} <= tokenizer.markers().keys()


class HarmonyStream(TextStream):
    """The text of an answer's messages without their headers, of one channel at a time (`thought`).

    Text that no header comes before is answer. A blank line parts a message from earlier ones of its kind.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], *, continues: bool = False) -> None:
        """`prompt`: it may have begun the answer, a message or a header, with which the answer goes on."""
        super().__init__(tokenizer, continues=continues)
        self._markers = {tokenizer.markers()[piece]: piece for piece in (START, CHANNEL, MESSAGE, END)}
        self._header: str | None = None  # of a message that begins, so far
        self._written: set[bool] = set()  # the kinds, by `thought`, that there is text of
        self._gap = ""  # before the message's first text
        self._go_on_from(prompt)

    def _go_on_from(self, prompt: Sequence[int]) -> None:
        """Stands where the prompt ends, after all messages of the answer that it begins. After the role
        alone, text may follow without any channel.
        """
        begun = len(prompt)
        for at in reversed(range(len(prompt))):
            if self._markers.get(prompt[at]) == START:
                role = prompt[at + 1 : at + 1 + len(_ROLE)]
                if not self._tokenizer.decode(role).startswith(_ROLE):
                    break
                begun = at
        for token in prompt[begun:]:
            self.push(token)
        if self._header is not None and CHANNEL not in self._header:
            self._header = None

    def push(self, token: int) -> str:
        """The text that this token completes. One that changes `thought` has none."""
        marker = self._markers.get(token)
        if marker == MESSAGE and self._header is not None:
            self._begin(self._header)
            return ""
        text = self._passed(super().push(token) if marker is None else super().finish())
        if marker == START:
            self._header = ""
        elif marker == CHANNEL:
            self._header = (self._header or "") + CHANNEL
        return text

    def finish(self, *, cut: bool = False) -> str:
        """What was held back: also what stands in a header without an end, but for what belongs to a header.
        It may change `thought`.
        """
        text = self._passed(super().finish(cut=cut))
        if self._header is None:
            return text
        header, self._header = self._header, None
        parts = header.split(CHANNEL)
        rests = [_NAMED.sub("", part) for part in parts]
        rests = [rest for rest in rests if not any(word.startswith(rest.strip()) for word in _HEADER_WORDS)]
        if not rests or " to=" in header:
            return ""
        if any(map(_NAMED.match, parts)):
            self._begin(header)
        return self._passed("".join(rests))

    def _passed(self, text: str) -> str:
        """Text of a message, which is passed on; a header's is kept."""
        if self._header is not None:
            self._header += text
            return ""
        if not text:
            return ""
        gap, self._gap = self._gap, ""
        self._written.add(self.thought)
        return gap + text

    def _begin(self, header: str) -> None:
        """A message begins."""
        channel = header.rpartition(CHANNEL)[2].split()
        self.thought = channel[:1] == ["analysis"] or " to=" in header
        self._gap = "\n\n" if self.thought in self._written else ""
        self._header = None


def text_stream(tokenizer: Tokenizer, prompt: Sequence[int], *, continues: bool = False) -> TextStream:
    """The stream for an answer to `prompt`, as the vocabulary wants it; `continues`: as in `TextStream`."""
    if is_harmony(tokenizer):
        return HarmonyStream(tokenizer, prompt, continues=continues)
    return TextStream(tokenizer, continues=continues)
