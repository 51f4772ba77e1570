"""Answers of random models under a constraint, judged by the jsonschema package."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import jsonschema
import numpy as np
import numpy.typing as npt
import pytest
from test_generate_loop import EOS, TOKENIZER

from localmoe.generate.loop import Answer, stream
from localmoe.generate.sampling import Sampling
from localmoe.text.constraint import Constraints
from localmoe.text.grammar import Grammar

PROMPT = TOKENIZER.encode("make JSON")
SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer",
     "minimum": 3, "maximum": 120}}, "required": ["name", "age"], "additionalProperties": False},
    {"type": "array", "items": {"enum": ["red", "green", 3, None]}, "minItems": 2, "maxItems": 4},
    {"anyOf": [{"const": {"a": "b"}}, {"type": "array", "maxItems": 2, "items": {"$ref": "#/$defs/pair"}}],
     "$defs": {"pair": {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "string", "pattern":
     "^[a-c]{1,3}$"}], "minItems": 2, "maxItems": 2}}},
    {"type": "object", "properties": {"when": {"type": "string", "format": "date"}, "deep": {"type": "object",
     "properties": {"x": {"type": "number", "minimum": -1, "maximum": 1}}, "required": ["x"],
     "additionalProperties": False}}, "required": ["when", "deep"], "additionalProperties": False},
]  # fmt: skip


class RandomDecoder:
    """Logits that hang on the whole sequence, so that one evaluated out of step shows."""

    def __init__(self, seed: int, context: int = 2000) -> None:
        self.tokens: list[int] = []
        self.context, self._seed = context, seed
        self.calls: list[int] = []

    def rewind(self, length: int) -> None:
        del self.tokens[length:]

    def extend(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        self.tokens += ids
        assert len(self.tokens) <= self.context
        self.calls.append(len(ids))
        rng = np.random.default_rng([self._seed, *self.tokens])
        return rng.normal(0, 4, TOKENIZER.vocab_size).astype(np.float32)


def answered(decoder: RandomDecoder, form: Grammar, **options: Any) -> Answer:
    constraint = Constraints(TOKENIZER).start(form, PROMPT)
    options = {"sampling": Sampling(temperature=1, seed=3), **options}
    *_, last = stream(decoder, TOKENIZER, PROMPT, constraint=constraint, **options)
    assert last.answer is not None
    return last.answer


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_random_models_answers_are_valid(schema, temperature):
    form = Grammar.from_json_schema(schema)
    texts = set()
    for seed in range(12):
        answer = answered(RandomDecoder(seed), form, sampling=Sampling(temperature=temperature, seed=seed))
        assert answer.finish_reason == "stop"
        jsonschema.validate(json.loads(answer.text), schema)
        texts.add(answer.text)
    assert len(texts) > 4  # the model chose, not the parser


def test_what_was_forced_is_evaluated_together_and_changes_nothing():
    form = Grammar.from_json_schema(SCHEMAS[0])
    together, apart = RandomDecoder(1), RandomDecoder(1)
    fast, slow = answered(together, form), answered(apart, form, logprobs=1)
    assert fast.ids == slow.ids
    assert len(slow.logprobs) == len(slow.ids)
    assert set(apart.calls[1:]) == {1}
    assert max(together.calls[1:]) >= len('name"')
    assert len(together.calls) < len(apart.calls) - 4
    assert together.tokens == [*PROMPT, *fast.ids][: len(together.tokens)]


def test_the_answer_ends_where_its_form_does():
    decoder = RandomDecoder(2)
    answer = answered(decoder, Grammar.from_text('root ::= "yes" | "no"'))
    assert answer.text in ("yes", "no")
    assert EOS not in answer.ids
    assert answer.completion_tokens == len(answer.ids) == len(answer.text)
    assert decoder.calls == [len(PROMPT)]  # the rest of either word is forced


def test_an_end_that_is_chosen_ends_it():
    digits = Grammar.from_text("start: /[0-9]+/")
    ends = [answered(RandomDecoder(seed), digits, ignore_eos=True) for seed in range(10)]
    assert all(re.fullmatch("[0-9]+", end.text) and end.finish_reason == "stop" for end in ends)
    assert len({len(end.text) for end in ends}) > 2


@pytest.mark.parametrize("most", [1, 5, 9])
def test_a_cut_answer_is_the_beginning_of_the_whole(most):
    form = Grammar.from_json_schema(SCHEMAS[0])
    whole, cut = answered(RandomDecoder(1), form), answered(RandomDecoder(1), form, max_tokens=most)
    assert (cut.ids, cut.finish_reason) == (whole.ids[:most], "length")


def test_the_context_is_never_exceeded():
    form = Grammar.from_json_schema(SCHEMAS[0])
    whole = answered(RandomDecoder(1), form)
    for room in range(8):
        answer = answered(RandomDecoder(1, context=len(PROMPT) + room), form)
        assert (answer.ids, answer.finish_reason) == (whole.ids[: room + 1], "context")
