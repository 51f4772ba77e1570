"""Answers of a given form: what a user may ask for, a JSON schema or a grammar, checked.

llguidance (https://github.com/guidance-ai/llguidance) parses both: a large part of JSON Schema 2020-12, and
context-free grammars in its variant of Lark's syntax. GBNF, llama.cpp's, is converted to that by its own
converter. Which tokens a form allows is for `constraint.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from localmoe.errors import UsageError
from localmoe.text.strict_json import parse_json

# Between JSON's parts: nothing, a space, or a new line and its indentation. A model that may write as much
# white space as it likes sometimes writes nothing else.
_WHITE_SPACE = r"( |\n{1,2}[ \t]{0,20})"


class GrammarError(UsageError):
    """A schema or grammar cannot be used, or the text so far is not of its form."""


@dataclass(frozen=True)
class Grammar:
    """The form of an answer. `entry` is one of llguidance's list of grammars, as JSON."""

    entry: str

    @classmethod
    def from_json_schema(cls, schema: str | Mapping[str, Any]) -> Grammar:
        """JSON that a schema describes; `{}`: any JSON. Raises GrammarError: what is wrong or unsupported."""
        from llguidance import LLMatcher

        if isinstance(schema, str):
            try:
                schema = parse_json(schema)
            except ValueError as error:
                raise GrammarError(f"the JSON schema is not JSON: {error}") from error
        if not isinstance(schema, Mapping):
            raise GrammarError("a JSON schema must be an object, such as {} or {\"type\": \"object\"}")
        try:
            whole = LLMatcher.grammar_from_json_schema(
                dict(schema), defaults={"whitespace_pattern": _WHITE_SPACE}
            )
        except (TypeError, ValueError, RecursionError) as error:
            raise GrammarError(f"the JSON schema cannot be used: {_first_line(str(error))}") from error
        return cls(_checked(json.loads(whole)["grammars"][0], "the JSON schema"))

    @classmethod
    def from_text(cls, text: str) -> Grammar:
        """What a grammar in GBNF (with a rule `root`) or in Lark's syntax (`start`) derives. Raises
        GrammarError.
        """
        from llguidance.gbnf_to_lark import any_to_lark

        try:
            lark = any_to_lark(text)
        except Exception as error:  # the converter names no class of its own for all that it raises
            raise GrammarError(f"the grammar cannot be used: {_first_line(str(error))}") from error
        return cls(_checked({"lark_grammar": lark}, "the grammar"))


def _checked(entry: Mapping[str, Any], what: str) -> str:
    from llguidance import LLMatcher

    whole = json.dumps({"grammars": [entry]})
    failed, messages = LLMatcher.validate_grammar_with_warnings(whole)
    if failed:
        raise GrammarError(f"{what} cannot be used: {_first_line(messages[0])}")
    return json.dumps(entry)


def _first_line(message: str) -> str:
    return message.strip().partition("\n")[0] or "it is not understood"
