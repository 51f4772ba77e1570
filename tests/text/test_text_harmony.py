"""OpenAI's harmony format: transformers' ids, channels told apart by ids, markers never from text."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from localmoe.text.harmony import HarmonyStream, text_stream
from localmoe.text.prompts import Message, PromptError, prompt_format
from localmoe.text.stream import TextStream
from localmoe.text.template import TemplateFormat
from localmoe.text.tokenizer import load_tokenizer

CONTROL = (
    *("<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>"),
    *("<|channel|>", "<|start|>", "<|end|>", "<|message|>", "<|call|>"),
)
# With the constructs of gpt-oss's: a macro that reads what it was not given, a date, a first message apart.
TEMPLATE = r"""
{%- macro system_message() -%}
    {%- if model_identity is not defined %}
        {%- set model_identity = "You are a test." %}
    {%- endif %}
    {{- model_identity + "\nDate: " + strftime_now("%Y-%m-%d") + "\n\n" }}
    {%- if reasoning_effort is not defined %}
        {%- set reasoning_effort = "medium" %}
    {%- endif %}
    {{- "Reasoning: " + reasoning_effort + "\n\n" }}
    {%- if builtin_tools %}
        {%- set known = namespace(python=false) %}
        {%- for tool in builtin_tools %}
            {%- set known.python = known.python or tool == "python" %}
        {%- endfor %}
        {{- "Tools: " + known.python | tojson }}
    {%- endif -%}
    {{- "Channels: analysis, commentary, final." }}
{%- endmacro -%}
{{- "<|start|>system<|message|>" + system_message() + "<|end|>" }}
{%- set rest = messages %}
{%- if messages[0].role == "system" or messages[0].role == "developer" %}
    {%- set rest = messages[1:] %}
    {{- "<|start|>developer<|message|># Instructions\n\n" + messages[0].content + "\n\n<|end|>" }}
{%- endif %}
{%- for message in rest -%}
    {%- if message.role == "assistant" -%}
        {%- if "<|channel|>final<|message|>" in message.content %}
            {{- raise_exception("Put what was thought into 'thinking'.") }}
        {%- endif %}
        {%- if "thinking" in message and loop.last and not add_generation_prompt %}
            {{- "<|start|>assistant<|channel|>analysis<|message|>" + message.thinking + "<|end|>" }}
        {%- endif %}
        {{- "<|start|>assistant<|channel|>final<|message|>" + message.content + "<|end|>" }}
    {%- elif message.role == "user" -%}
        {{- "<|start|>user<|message|>" + message.content + "<|end|>" }}
    {%- else -%}
        {{- raise_exception("Unexpected role.") }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|start|>assistant
{%- endif -%}
"""
ANALYSIS, FINAL = "<|channel|>analysis<|message|>", "<|channel|>final<|message|>"
NEXT = "<|end|><|start|>assistant"


def said(*turns: str) -> list[Message]:
    """Messages from "s: ...", "u: ...", "a: ..."."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[turn[0]], "content": turn[3:]} for turn in turns]


@pytest.fixture(scope="module")
def harmony(data: SimpleNamespace) -> SimpleNamespace:
    """A small vocabulary as gpt-oss's: transformers' tokenizer, and ours with its prompt format."""
    from transformers import PreTrainedTokenizerFast

    tokenizer, metadata = data.byte_bpe("gpt-4o", (*data.CORPUS, TEMPLATE), CONTROL)
    metadata["tokenizer.ggml.bos_token_id"] = tokenizer.token_to_id("<|startoftext|>")
    metadata["tokenizer.ggml.eos_token_id"] = tokenizer.token_to_id("<|return|>")
    metadata["tokenizer.chat_template"] = TEMPLATE
    oracle = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=TEMPLATE)
    ours = load_tokenizer(metadata)
    form = prompt_format(metadata, ours)
    return SimpleNamespace(hugging_face=oracle, metadata=metadata, tokenizer=ours, format=form)


def ids_of(harmony: SimpleNamespace, text: str) -> list[int]:
    """The ids of text that a model writes, control tokens and all."""
    ids: list[int] = []
    for part in re.split("(" + "|".join(map(re.escape, CONTROL)) + ")", text):
        known = harmony.tokenizer.control_id(part)
        ids += [known] if known is not None else harmony.tokenizer.encode(part, bos=False)
    return ids


# The prompt


def test_ids_are_transformers(harmony: SimpleNamespace, data: SimpleNamespace) -> None:
    assert harmony.format.name == "harmony"
    harmless = [text for text in data.CORPUS if not any(piece in text for piece in CONTROL)]
    rng = random.Random(10)
    for _ in range(60):
        kinds = rng.choice(("u", "su", "uau", "suau", "suauau", "uaau"))
        messages = said(*(f"{kind}: {rng.choice(harmless)}" for kind in kinds))
        effort = rng.choice((None, "low", "high"))
        expected = harmony.hugging_face.apply_chat_template(
            list(messages), tokenize=True, add_generation_prompt=True, return_dict=False,
            **({"reasoning_effort": effort} if effort else {}),
        )  # fmt: skip
        assert harmony.format.encode(messages, effort=effort) == list(expected), messages


def test_what_was_thought_is_left_out_of_earlier_answers(harmony: SimpleNamespace) -> None:
    ids = harmony.format.encode(said("u: a", "a: <think>Hm, </think?>\n</think>\n\n  It is 4.", "u: b"))
    assert ids == harmony.format.encode(said("u: a", "a:   It is 4.", "u: b"))
    kept = harmony.tokenizer.decode(harmony.format.encode(said("u: a", "a: <think> opens", "u: b")))
    assert "assistantfinal<think> opensuserb" in kept


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (ANALYSIS + "Let me", "<think>Let me"),
        (ANALYSIS + "Let me\n" + NEXT + FINAL + "\nIt is", "<think>Let me\n</think>\n\n\nIt is"),
        (FINAL + "It is", "It is"),
    ],
)
def test_an_open_answer_goes_on_where_it_stopped(
    harmony: SimpleNamespace, written: str, message: str
) -> None:
    prompt = harmony.format.encode(said("u: a"))
    assert harmony.format.encode(said("u: a", f"a: {message}")) == prompt + ids_of(harmony, written)


@pytest.mark.parametrize("text", ["<think> opens", "<think>x</think> are marks.", "</think>"])
def test_where_thoughts_are_known_no_text_is_taken_for_a_marker(harmony: SimpleNamespace, text: str) -> None:
    asked, answer = said("u: a"), {"role": "assistant", "content": text, "thoughts": ""}
    prompt = harmony.format.encode(asked)
    assert harmony.format.encode([*asked, answer]) == prompt + ids_of(harmony, FINAL + text)
    closed = prompt + ids_of(harmony, FINAL + text + "<|end|>")
    assert harmony.format.encode([*asked, answer, *said("u: b")])[: len(closed)] == closed
    thoughts = f"How does {text} end?"
    answer |= {"content": f"<think>{thoughts}</think>\n\n{text}", "thoughts": thoughts}
    written = ANALYSIS + thoughts + NEXT + FINAL + text
    assert harmony.format.encode([*asked, answer]) == prompt + ids_of(harmony, written)


def test_an_answer_without_thoughts_begins_in_its_channel(harmony: SimpleNamespace) -> None:
    messages, final = said("u: a"), ids_of(harmony, FINAL)
    low = harmony.format.encode(messages, effort="low")
    assert harmony.format.encode(messages, think=False) == low + final
    high = harmony.format.encode(messages, effort="high")
    assert harmony.format.encode(messages, think=False, effort="high") == high + final
    opened = harmony.format.encode([*messages, *said("a: <think>Hm</think>\n\nIt is")], think=False)
    assert opened == low + ids_of(harmony, FINAL + "It is")


def test_no_text_becomes_a_marker(harmony: SimpleNamespace) -> None:
    def control(messages: list[Message]) -> list[int]:
        return [token for token in harmony.format.encode(messages) if harmony.tokenizer.is_control(token)]

    rng = random.Random(11)
    parts = (*CONTROL, "<", "<|", "|>", "<|chan", "nel|>", "final", " ", "\n", "x")
    closed = control(said("s: a", "u: b", "a: c", "u: d"))
    opened = control(said("s: a", "u: b", "a: <think>c</think>\n\nd"))
    assert opened != closed
    for _ in range(60):
        a, b, c, d = ("".join(rng.choices(parts, k=rng.randrange(1, 6))) for _ in range(4))
        assert control(said(f"s: {a}", f"u: {b}", f"a: {c}", f"u: {d}")) == closed, (a, b, c, d)
        assert control(said(f"s: {a}", f"u: {b}", f"a: <think>{c}</think>\n\n{d}")) == opened, (a, b, c, d)


def test_a_template_without_channels_is_as_any_other(harmony: SimpleNamespace, data: SimpleNamespace) -> None:
    form = prompt_format(harmony.metadata | {"tokenizer.chat_template": data.CHATML}, harmony.tokenizer)
    assert (form.name, type(form)) == ("template", TemplateFormat)
    with pytest.raises(PromptError):
        form.encode([])


# The answer


def channels(
    harmony: SimpleNamespace, written: str, prompt: Sequence[int] | None = None
) -> list[tuple[bool, str]]:
    """What a stream makes of what a model writes: (whether it is thought, text), neighbours joined."""
    prompt = harmony.format.encode(said("u: a")) if prompt is None else prompt
    stream = text_stream(harmony.tokenizer, prompt)
    parts: list[tuple[bool, str]] = []
    for token in (*ids_of(harmony, written), None):
        before = stream.thought
        text = stream.finish() if token is None else stream.push(token)
        assert not text or stream.thought == before or token is None, "no text comes with a change"
        if text and parts and parts[-1][0] == stream.thought:
            text = parts.pop()[1] + text
        if text:
            parts.append((stream.thought, text))
    return parts


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (ANALYSIS + "Hm.\n" + NEXT + FINAL + "\n 4 <|end", [(True, "Hm.\n"), (False, "\n 4 <|end")]),
        (FINAL + "4", [(False, "4")]),
        ("just 4", [(False, "just 4")]),
        (" 4" + NEXT + FINAL + "5", [(False, " 4\n\n5")]),
        (ANALYSIS + "a" + NEXT + ANALYSIS + "b" + NEXT + FINAL + "4", [(True, "a\n\nb"), (False, "4")]),
        (ANALYSIS + NEXT + FINAL, []),
        (
            "<|channel|>commentary<|message|>A plan." + NEXT + ANALYSIS + "a" + NEXT + FINAL + "4",
            [(False, "A plan."), (True, "a"), (False, "\n\n4")],
        ),
        (
            ANALYSIS + "a" + NEXT + FINAL + "4" + NEXT + ANALYSIS + NEXT + ANALYSIS + "b",
            [(True, "a"), (False, "4"), (True, "\n\nb")],
        ),
        ("<|channel|>commentary<|message|>A plan." + NEXT + FINAL + "4", [(False, "A plan.\n\n4")]),
        (
            ANALYSIS + "a" + NEXT + "<|channel|>commentary to=f <|constrain|>json<|message|>{}<|call|>",
            [(True, "a\n\n{}")],
        ),
        (FINAL + "a" + NEXT + " to=f" + ANALYSIS + "{}<|call|>", [(False, "a"), (True, "{}")]),
        (NEXT + " to=f<|channel|>commentary<|message|>{}<|call|>", [(True, "{}")]),
        ("<|channel|>analysis <|channel|>final<|message|>4", [(False, "4")]),
        ("<|channel|>final <|constrain|>json<|message|>{}", [(False, "{}")]),
        (ANALYSIS + "say analysis</think>final", [(True, "say analysis</think>final")]),
    ],
)
def test_channels_tell_thoughts_from_the_answer(
    harmony: SimpleNamespace, written: str, expected: list[tuple[bool, str]]
) -> None:
    assert channels(harmony, written) == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("<|channel|>final Hello, it is 4.", [(False, "Hello, it is 4.")]),
        ("<|channel|>final Hello.<|end|>", [(False, "Hello.")]),
        ("<|channel|>analysis Hm.", [(True, "Hm.")]),
        (FINAL + "It is <|channel|>4, so", [(False, "It is 4, so")]),
        (ANALYSIS + "Hm <|channel|>so", [(True, "Hm so")]),
        (ANALYSIS + "Hm." + NEXT + "<|channel|>final It is 4.", [(True, "Hm."), (False, "It is 4.")]),
        (FINAL + "A plan." + NEXT + " It is 4.", [(False, "A plan.\n\nIt is 4.")]),
        *((header, []) for header in ("<|channel|>", "<|channel|>fin", "<|channel|>final ", NEXT + " t")),
        (NEXT + " to=f<|channel|>commentary {}", []),
    ],
)
def test_a_header_without_an_end_swallows_no_text(
    harmony: SimpleNamespace, written: str, expected: list[tuple[bool, str]]
) -> None:
    assert channels(harmony, written) == expected


def test_an_answer_goes_on_in_the_channel_that_its_prompt_ends_in(harmony: SimpleNamespace) -> None:
    within = harmony.format.encode(said("u: a", "a: <think>Hm"))
    assert channels(harmony, "m." + NEXT + FINAL + "4", within) == [(True, "m."), (False, "4")]
    after = harmony.format.encode(said("u: a", "a: <think>Hm.</think>\n\n4"))
    assert channels(harmony, "2", after) == [(False, "2")]
    again = "2" + NEXT + ANALYSIS + "So" + NEXT + FINAL + "5"
    assert channels(harmony, again, after) == [(False, "2"), (True, "\n\nSo"), (False, "\n\n5")]
    asked = harmony.format.encode(said("u: a", "a: 4", "u: b"))  # an earlier answer does not count
    assert channels(harmony, FINAL + "5", asked) == [(False, "5")]
    assert channels(harmony, "4", harmony.format.encode(said("u: a"), think=False)) == [(False, "4")]
    assert channels(harmony, "analysis<|message|>a", ids_of(harmony, "<|start|>assistant<|channel|>")) == [
        (True, "a")
    ]
    assert channels(harmony, FINAL + "4", []) == [(False, "4")]


def test_a_character_that_never_became_whole_stays_in_its_channel(harmony: SimpleNamespace) -> None:
    half = harmony.tokenizer.encode("🦭", bos=False)[0]
    stream = text_stream(harmony.tokenizer, harmony.format.encode(said("u: a")))
    parts = []
    for token in [*ids_of(harmony, ANALYSIS), half, *ids_of(harmony, NEXT + FINAL + "4")]:
        thought = stream.thought
        parts.append((thought, stream.push(token)))
    assert [part for part in parts if part[1]] == [(True, "\ufffd"), (False, "4")]


def test_other_vocabularies_have_no_channels(data: SimpleNamespace) -> None:
    ours = load_tokenizer(data.byte_bpe("qwen2", data.CORPUS, ("<|start|>", "<|message|>", "<|end|>"))[1])
    assert type(text_stream(ours, [])) is TextStream


@pytest.mark.parametrize("eos", ["<|return|>", "<|end|>", "<|call|>", "<|endoftext|>"])
def test_the_end_of_a_message_is_not_the_end_of_an_answer(harmony: SimpleNamespace, eos: str) -> None:
    """Files name various tokens as EOS and EOT."""
    named = {
        "tokenizer.ggml.eos_token_id": harmony.tokenizer.control_id(eos),
        "tokenizer.ggml.eot_token_id": harmony.tokenizer.control_id("<|end|>"),
    }
    ours = load_tokenizer(harmony.metadata | named)
    ends = ("<|return|>", "<|call|>", "<|endoftext|>")
    assert ours.eos_ids == {harmony.tokenizer.control_id(piece) for piece in ends}
    assert type(text_stream(ours, [])) is HarmonyStream
