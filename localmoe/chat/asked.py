"""From settings to what generation takes: how tokens are chosen, what form the answer shall have, and which
settings the model cannot follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from localmoe.chat.attachments import read_attachment
from localmoe.chat.paced import ChatModel
from localmoe.errors import UsageError
from localmoe.generate.sampling import Sampling
from localmoe.settings import Settings
from localmoe.text.thinking import OPEN

if TYPE_CHECKING:
    from localmoe.text.grammar import Grammar


def sampling_of(settings: Settings) -> Sampling:
    """How tokens are chosen."""
    return Sampling(
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        min_p=settings.min_p,
        repeat_penalty=settings.repeat_penalty,
        presence_penalty=settings.presence_penalty,
        frequency_penalty=settings.frequency_penalty,
        repeat_last_n=settings.repeat_last_n,
        seed=settings.seed,
    )


def grammar_of(settings: Settings) -> Grammar | None:
    """What form answers shall have: None for any.

    Raises:
        UsageError: a file cannot be read, what it holds cannot be used, or two forms are asked for.
    """
    schema, grammar = settings.json_schema.strip(), settings.grammar.strip()
    if schema and grammar:
        raise UsageError("json_schema and grammar both say what form an answer has: leave one out")
    if not schema and not grammar:
        return None
    from localmoe.text.grammar import Grammar, GrammarError

    file = "" if schema.startswith("{") else schema or grammar
    try:
        text = read_attachment(file).text if file else schema
    except UsageError as error:
        hint = "; a schema itself begins with {" if schema else ""
        raise UsageError(f"{error}{hint}") from error
    try:
        return Grammar.from_json_schema(text) if schema else Grammar.from_text(text)
    except GrammarError as error:
        raise GrammarError(f"{file}: {error}") if file else error from None


def without_effect(model: ChatModel, settings: Settings) -> list[str]:
    """A line for each setting that the model's prompt format has no word for, though it matters."""
    prompt = [{"role": "user", "content": "?"}]
    lines = []
    if settings.effort is not None:
        low, high = (model.encode_chat(prompt, effort=level) for level in ("low", "high"))
        if low == high:
            lines.append(f"{model.name}'s prompt format cannot say how hard to think: effort has no effect.")
    if not settings.think and OPEN in model.tokenizer.markers():
        thinking, at_once = (model.encode_chat(prompt, think=think) for think in (True, False))
        if thinking == at_once:
            lines.append(f"{model.name}'s prompt format cannot ask for no thoughts: think has no effect.")
    return lines
