"""Templates as Qwen3's: transformers' ids, no thinking of earlier answers, markers never from text."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from localmoe.text.prompts import Message, PromptError, PromptFormat, prompt_format
from localmoe.text.template import TemplateFormat
from localmoe.text.template_process import TemplateProcess
from localmoe.text.tokenizer import Tokenizer, load_tokenizer

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
USER_DEFINED = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")

# With the constructs of Qwen3's: a search from the end, thinking that is split off, and left out of answers
# before the last question.
TEMPLATE = r"""
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\n\n' }}
    {%- endif %}
    {{- "# Tools\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools>\nCall one as <tool_call>\n{\"name\": <name>}\n</tool_call><|im_end|>\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string and not(
            message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is defined and message.reasoning_content is not none %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query and (loop.last or thought) %}
            {{- '<|im_start|>' + message.role + '\n<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}
            {{- content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
            {%- set arguments = call.function.arguments %}
            {{- arguments if arguments is string else arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' + content + '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- elif message.role != "system" %}
        {{- raise_exception('Unexpected message role.') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""
THOUGHT = "<think>\nLet me see: 2 + 2?\n</think>\n\n  It is 4.\n"


def said(*turns: str) -> list[Message]:
    """Messages from "s: ...", "u: ...", "a: ..."."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[turn[0]], "content": turn[3:]} for turn in turns]


@pytest.fixture(scope="module")
def qwen(data: SimpleNamespace) -> SimpleNamespace:
    """A small vocabulary as Qwen's: transformers' tokenizer, and ours with its prompt format."""
    from transformers import PreTrainedTokenizerFast

    tokenizer, metadata = data.byte_bpe("qwen2", (*data.CORPUS, THOUGHT), CONTROL, USER_DEFINED)
    metadata["tokenizer.ggml.eos_token_id"] = tokenizer.token_to_id("<|im_end|>")
    metadata["tokenizer.chat_template"] = TEMPLATE
    oracle = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=TEMPLATE)
    ours = load_tokenizer(metadata)
    return SimpleNamespace(hugging_face=oracle, tokenizer=ours, format=prompt_format(metadata, ours))


def test_ids_are_transformers(qwen: SimpleNamespace, data: SimpleNamespace) -> None:
    harmless = [text for text in data.CORPUS if not any(piece in text for piece in CONTROL)]
    answers = (*harmless, THOUGHT, "<think>\n\n</think>\n\nYes", "<think></think>")
    rng = random.Random(8)
    for _ in range(150):
        kinds = rng.choice(("u", "su", "uau", "suau", "suauau", "uaau", "usu"))
        messages = said(*(f"{k}: {rng.choice(answers if k == 'a' else harmless)}" for k in kinds))
        expected = qwen.hugging_face.apply_chat_template(
            list(messages), tokenize=True, add_generation_prompt=True, return_dict=False
        )
        assert qwen.format.encode(messages) == list(expected), messages


def test_what_was_thought_is_left_out_of_earlier_answers(qwen: SimpleNamespace) -> None:
    ids = qwen.format.encode(said("u: a", f"a: {THOUGHT}", "u: b"))
    assert "Let me see" not in qwen.tokenizer.decode(ids)
    assert ids == qwen.format.encode(said("u: a", "a:   It is 4.\n", "u: b"))


@pytest.mark.parametrize("text", ["Write </think> to close.", "It opens with <think> then.", "<think> opens"])
def test_an_answer_that_speaks_of_the_markers_keeps_its_text(qwen: SimpleNamespace, text: str) -> None:
    ids = qwen.format.encode(said("u: a", f"a: {text}", "u: b"))
    assert f"assistant\n{text}\nuser" in qwen.tokenizer.decode(ids)
    assert not {"<think>", "</think>"} & set(markers_in(qwen, ids))


def test_an_open_answer_goes_on_where_it_stopped(qwen: SimpleNamespace) -> None:
    """Also within its thinking: what the model has written follows the prompt that it answered."""
    prompt = qwen.format.encode(said("u: a"))
    for written in (THOUGHT, "<think>\nLet me", "Let me"):
        opened = qwen.format.encode(said("u: a", f"a: {written}"))
        assert opened == prompt + qwen.tokenizer.encode(written, bos=False)


def test_whether_to_think_is_told_to_the_template(qwen: SimpleNamespace) -> None:
    messages = said("u: a")
    prompt, closed = (qwen.format.encode(messages, think=think) for think in (True, False))
    assert closed == prompt + qwen.tokenizer.encode("<think>\n\n</think>\n\n", bos=False)
    opened = qwen.format.encode([*messages, *said(f"a: {THOUGHT}")], think=False)
    assert opened == closed + qwen.tokenizer.encode("  It is 4.\n", bos=False)


def test_a_template_may_open_the_thoughts_itself(qwen: SimpleNamespace) -> None:
    begun = "{{- '<|im_start|>assistant\\n"
    opening = TEMPLATE.replace(begun + "' }}", begun + "<think>\\n' }}")
    form = TemplateFormat(opening, qwen.tokenizer)
    prompt = form.encode(said("u: a"))
    assert prompt == qwen.format.encode(said("u: a")) + qwen.tokenizer.encode("<think>\n", bos=False)
    expected = prompt + qwen.tokenizer.encode(THOUGHT.removeprefix("<think>\n"), bos=False)
    assert form.encode(said("u: a", f"a: {THOUGHT}")) == expected
    expected = prompt + qwen.tokenizer.encode("</think>\n\nIt is", bos=False)
    assert form.encode(said("u: a", "a: It is")) == expected  # an answer that was given without


def markers_in(qwen: SimpleNamespace, ids: list[int]) -> list[str]:
    pieces = {token: piece for piece, token in qwen.tokenizer.markers().items()}
    return [pieces[token] for token in ids if token in pieces]


def markers(ours: Tokenizer, form: PromptFormat, messages: list[Message]) -> list[int]:
    return [token for token in form.encode(messages) if token in ours.markers().values()]


def test_no_text_of_the_user_becomes_a_marker(qwen: SimpleNamespace) -> None:
    """Nor does an answer's, but for what marks its thinking."""
    rng = random.Random(9)
    parts = (*CONTROL, *USER_DEFINED, "<", "<|", "|>", "<|im_", "end|>", "think>", "</", " ", "\n", "x")
    expected = markers(qwen.tokenizer, qwen.format, said("s: a", "u: b", "a: c", "u: d"))
    for _ in range(60):
        texts = ["".join(rng.choices(parts, k=rng.randrange(1, 6))) for _ in range(4)]
        texts[2] = texts[2].replace("<think>", "").replace("</think>", "")
        messages = said(*(f"{role}: {text}" for role, text in zip("suau", texts, strict=True)))
        assert markers(qwen.tokenizer, qwen.format, messages) == expected, texts
    answer = said("u: a", "a: <|im_<think>end|><|im_end|><tool_call></think><|im_<think>start|>", "u: b")
    harmless = said("u: a", "a: <think></think><think>", "u: b")
    assert markers(qwen.tokenizer, qwen.format, answer) == markers(qwen.tokenizer, qwen.format, harmless)


TOOL = {"type": "function", "function": {"name": "add", "parameters": {"a": {"type": "number"}, "é": "<b>"}}}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}


@pytest.mark.parametrize("options", [{}, {"tools": [TOOL]}, {"enable_thinking": False}])
def test_all_that_the_template_knows_is_rendered_as_by_transformers(
    qwen: SimpleNamespace, options: dict[str, Any]
) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be terse."},
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "4", "reasoning_content": "\nEasy.\n"},
        {"role": "user", "content": "And with a tool?"},
        {"role": "assistant", "content": None, "reasoning_content": "Add.", "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "4"},
        {"role": "tool", "content": "<4>"},
        {"role": "user", "content": "<tool_response>4</tool_response>"},
    ]
    values = {"messages": messages, "add_generation_prompt": True, "tools": None, **options}
    expected = qwen.hugging_face.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, **options
    )
    assert TemplateProcess().render(TEMPLATE, values) == expected
    with pytest.raises(PromptError, match="Unexpected message role"):
        TemplateProcess().render(TEMPLATE, {"messages": [{"role": "nobody"}]})
