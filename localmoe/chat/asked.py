"""From settings to what generation takes: how tokens are chosen, and what form the answer shall have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localmoe.chat.attachments import read_attachment
from localmoe.errors import UsageError
from localmoe.generate.sampling import Sampling
from localmoe.settings import Settings

if TYPE_CHECKING:
    from localmoe.text.grammar import Grammar

FORMS = ("json_schema", "grammar")  # the settings that `grammar_of` reads


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
    text = read_attachment(file).text if file else schema
    try:
        return Grammar.from_json_schema(text) if schema else Grammar.from_text(text)
    except GrammarError as error:
        raise GrammarError(f"{file}: {error}") if file else error from None
