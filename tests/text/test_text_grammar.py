"""Schemas and grammars as users write them: what is taken, and what is refused in one line."""

from __future__ import annotations

import json

import pytest

from localmoe.text.grammar import Grammar, GrammarError


def test_a_schema_may_be_text_or_an_object():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert Grammar.from_json_schema(schema) == Grammar.from_json_schema(json.dumps(schema, indent=2))
    assert Grammar.from_json_schema({}) != Grammar.from_json_schema(schema)


@pytest.mark.parametrize(
    ("schema", "what"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ('{"a":' * 3000 + "1" + "}" * 3000, "nested too deeply"),
        ('{"items":' * 300 + "{}" + "}" * 300, "recursion limit"),
        ("[1]", "must be an object"),
        ("true", "must be an object"),
        ('{"type": "text"}', "Invalid type: text"),
        ('{"$ref": "#/$defs/none"}', "does not exist"),
        ('{"$ref": "https://example.org/schema.json"}', "not fetch"),  # nothing opens a network socket
        ('{"type": "array", "uniqueItems": true}', "uniqueItems"),  # not ignored: it would not hold
        ('{"type": "string", "pattern": "("}', "error: unclosed group"),
        (json.dumps({"$ref": "#/" + "x" * 10000}), "…"),
        (json.dumps({"anyOf": [{"$ref": "#/$defs/a"}] * 1001, "$defs": {"a": {}}}), "more than 1,000"),
        ('{"allOf": [{"type": "string"}, {"type": "integer"}]}', "nsatisfiable"),
    ],
)
def test_a_schema_that_cannot_be_used_is_one_line(schema, what):
    with pytest.raises(GrammarError, match=what) as caught:
        Grammar.from_json_schema(schema)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_an_object_that_holds_itself_is_no_schema():
    """It used to end the interpreter."""
    schema: dict[str, object] = {}
    schema["items"] = schema
    with pytest.raises(GrammarError, match="not JSON: Circular"):
        Grammar.from_json_schema(schema)


def test_a_grammar_may_be_gbnf_or_lark():
    gbnf = Grammar.from_text('root ::= "yes" | "no" # of llama.cpp\n')
    lark = Grammar.from_text('start: "yes" | "no"\n')
    assert "lark_grammar" in json.loads(gbnf.entry)
    assert json.loads(lark.entry)["lark_grammar"] == 'start: "yes" | "no"\n'


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "start"),
        ("\0", "cannot be used"),
        ("root ::= word", "word"),
        ('x ::= "b"\nroot := "a"', "line 2: expected ::= after"),
        ("start: word", 'unknown name: "word"'),
        ("start: /[/", "regex"),
        ("root ::= " + "(" * 5000 + '"a"' + ")" * 5000, "nested more than 100 deep"),
    ],
)
def test_a_grammar_that_cannot_be_used_is_one_line(text, what):
    with pytest.raises(GrammarError, match=what) as caught:
        Grammar.from_text(text)
    assert "\n" not in str(caught.value)
