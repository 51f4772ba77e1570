"""The prompt format of a model that answers in harmony's channels (`harmony.py`), by its Jinja template.

Such templates leave out what was thought before earlier answers, and have no way to go on within an answer:
its messages are put after the prompt here, as the model wrote them. Nor can they ask for an answer without
thoughts: there the answer begins in its channel at once, after a prompt that asks for little effort.
"""

from __future__ import annotations

from typing import Any

from localmoe.text.harmony import CHANNEL, END, MESSAGE, START
from localmoe.text.prompts import Message
from localmoe.text.template import TemplateFormat
from localmoe.text.thinking import CLOSE, OPEN


class HarmonyFormat(TemplateFormat):
    """`TemplateFormat` whose answers hold their thoughts, if any, between `<think>` and `</think>`."""

    name = "harmony"

    def _asked(self, think: bool, effort: str | None) -> dict[str, Any]:
        return super()._asked(think, effort or (None if think else "low"))

    def _shielded(self, message: Message, word: str, is_open: bool = False) -> str:
        content = message["content"]
        if message["role"] == "assistant" and ("thoughts" in message or CLOSE in content):
            content = _apart(message)[1]
        return self._shield(content, word)

    def _begun(self, prompt: str, answer: Message | None, word: str, think: bool) -> str:
        thoughts, text = _apart(answer) if answer else ("", "")
        messages = []
        if thoughts and think:
            messages.append(f"{CHANNEL}analysis{MESSAGE}{self._shield(thoughts, word)}")
        if text or not think:
            messages.append(f"{CHANNEL}final{MESSAGE}{self._shield(text, word)}")
        return prompt + f"{END}{START}assistant".join(messages)


def _apart(message: Message) -> tuple[str, str]:
    """The thoughts and the answer; thoughts without an end are all there is yet.

    Where they are known (`Message`), no text is taken for a marker: they may speak of their own end, and an
    answer may begin with one.
    """
    content, known = message["content"], message.get("thoughts")
    begun = content.lstrip()
    if known == "" or not begun.startswith(OPEN):
        return "", content
    begun = begun.removeprefix(OPEN)
    if known is not None and begun.startswith(known):
        return known, begun.removeprefix(known).removeprefix(CLOSE).removeprefix("\n\n")
    thoughts, _, answer = begun.partition(CLOSE)
    return thoughts, answer.removeprefix("\n\n")
