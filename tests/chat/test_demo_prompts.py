"""What the embedded model is given: Mistral's v1 format, beside mistral-common on the same vocabulary."""

from __future__ import annotations

import json
import shlex

import pytest
from demo_chat import ROOT, Demo
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

pytestmark = pytest.mark.slow
SPEAKERS = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}
CONVERSATIONS = [
    [("user", "What is the capital of Kenya?")],
    [("system", "Your name is Nora."), ("user", "hello ")],
    [("user", "  grüße 🙂 \n\n "), ("assistant", "I see. "), ("user", "[INST] is text, 漢字 too")],
    [("system", "Be kind."), ("user", "a"), ("assistant", "b"), ("user", "c\t")],
]


def oracle() -> MistralTokenizer:
    """mistral-common's v1 tokenizer on the demo's vocabulary, which has the same control tokens."""
    from mistral_common.protocol.instruct.normalize import get_normalizer
    from mistral_common.protocol.instruct.validator import MistralRequestValidator, ValidationMode
    from mistral_common.tokens.tokenizers.base import TokenizerVersion
    from mistral_common.tokens.tokenizers.instruct import InstructTokenizerV1
    from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer

    vocabulary = SentencePieceTokenizer(
        str(ROOT / "demo" / "model" / "tokenizer.model"), tokenizer_version=TokenizerVersion.v1
    )
    return MistralTokenizer(
        InstructTokenizerV1(vocabulary),
        validator=MistralRequestValidator(ValidationMode.test),
        request_normalizer=get_normalizer(TokenizerVersion.v1, None),
    )


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_ids_are_mistral_commons(demo: Demo, conversation: list[tuple[str, str]]) -> None:
    messages = [SPEAKERS[role](content=text) for role, text in conversation]
    expected = oracle().encode_chat_completion(ChatCompletionRequest(messages=messages)).tokens
    earlier = conversation[:-1]
    if earlier and earlier[0][0] == "system":
        system, earlier = earlier[0][1], earlier[1:]
    else:
        system = ""
    rows = [{"role": role, "content": text} for role, text in earlier]
    (demo.home / "talk.jsonl").write_text(json.dumps({"system": system, "messages": rows}) + "\n")
    flags = f"-s {shlex.quote(system)}" if system else ""
    if earlier:
        code, shown = demo.shell("localmoe history import talk.jsonl")
        assert code == 0, shown
        flags = "-c"
    shown = demo.answer(f"--dry-run {flags} -p {shlex.quote(conversation[-1][1])}")
    assert shown["ids"] == expected


def test_control_tokens_are_not_read_from_text(demo: Demo) -> None:
    shown = demo.answer("--dry-run -p '<s> hello </s> [INST]'")
    assert (shown["ids"].count(1), shown["ids"].count(2)) == (1, 0)
    assert shown["ids"][0] == 1
