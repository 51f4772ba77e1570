"""Answers of a given form: what a user may ask for, a JSON schema or a grammar, checked.

llguidance (https://github.com/guidance-ai/llguidance) parses both: a large part of JSON Schema 2020-12, and
context-free grammars in its variant of Lark's syntax. GBNF, llama.cpp's, is converted to that by `gbnf.py`.
Which tokens a form allows is for `constraint.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from localmoe.errors import UsageError
from localmoe.text.gbnf import MAX_CHARACTERS, MAX_RULES, GbnfError, to_lark
from localmoe.text.strict_json import parse_json

# Between JSON's parts: nothing, a space, or a new line and its indentation. A model that may write as much
# white space as it likes sometimes writes nothing else.
_WHITE_SPACE = r"( |\n{1,2}[ \t]{0,20})"

MOST_REFERENCES = 1000
LONGEST = 200  # characters of what llguidance says that are told

# Lark's literals, regular expressions and comments, and GBNF's. (GBNF's classes may hold a lone quote, but
# come after the first `::=`.) A missing end is taken as read: none is searched for again and again.
_QUOTED = re.compile(
    r'"(?:[^"\\]|\\.?)*(?:"|\Z)|/(?:[^/\\\n]|\\.?)+(?:/|$)|(?:#|//)[^\r\n]*', re.DOTALL | re.MULTILINE
)
_LARK_RULE = re.compile(r"^[ \t]*[?!]?\w+[^:\n]*:", re.MULTILINE)


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

        try:
            text = schema if isinstance(schema, str) else json.dumps(schema)  # circles and depth are refused
            read = parse_json(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise GrammarError(f"the JSON schema is not JSON: {error}") from error
        if not isinstance(read, dict):
            raise GrammarError("a JSON schema must be an object, such as {} or {\"type\": \"object\"}")
        if text.count('"$ref"') > MOST_REFERENCES:  # a chain of several thousand overflows the parser's stack
            raise GrammarError(f"the JSON schema has more than {MOST_REFERENCES:,} $ref")
        try:
            whole = LLMatcher.grammar_from_json_schema(
                read, defaults={"whitespace_pattern": _WHITE_SPACE}
            )
        except (TypeError, ValueError, RecursionError) as error:
            raise GrammarError(f"the JSON schema cannot be used: {one_line(str(error))}") from error
        return cls(_checked(json.loads(whole)["grammars"][0], "the JSON schema"))

    @classmethod
    def from_text(cls, text: str) -> Grammar:
        """What a grammar in GBNF (with a rule `root`) or in Lark's syntax (`start`) derives. Raises
        GrammarError.
        """
        if len(text) > MAX_CHARACTERS:
            raise GrammarError(f"the grammar cannot be used: it is longer than {MAX_CHARACTERS:,} characters")
        bare = _QUOTED.sub('""', text)
        if "::=" not in bare:
            _bound(bare)
            return cls(_checked({"lark_grammar": text}, "the grammar"))
        try:
            return cls(_checked({"lark_grammar": to_lark(text)}, "the grammar"))
        except GbnfError as error:
            raise GrammarError(f"the grammar cannot be used: {error}") from error


def _bound(bare: str) -> None:
    """Lark's rules and groups: llguidance follows them by recursion; thousands overflow its stack."""
    rules, groups = len(_LARK_RULE.findall(bare)), bare.count("(") + bare.count("[")
    if max(rules, groups) > MAX_RULES:
        raise GrammarError(f"the grammar cannot be used: it has more than {MAX_RULES:,} rules or groups")


def _checked(entry: Mapping[str, Any], what: str) -> str:
    from llguidance import LLMatcher

    whole = json.dumps({"grammars": [entry]})
    failed, messages = LLMatcher.validate_grammar_with_warnings(whole)
    if failed:
        raise GrammarError(f"{what} cannot be used: {one_line(messages[0])}")
    return json.dumps(entry)


def one_line(message: str) -> str:
    """The beginning of what llguidance says, and the last of its errors where it names several."""
    first, *rest = message.strip().splitlines() or ["it is not understood"]
    causes = [line.strip() for line in rest if line.strip().startswith("error:")]
    text = " ".join([first, *causes[-1:]])
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
