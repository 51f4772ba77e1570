"""Byte-level BPE tokenizers trained by the tokenizers library, in a model's directory."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from quant.tokenizer_json import SPLITS

TEXT = (
    "The router chooses 8 of 128 experts, isn't it? WE'LL see 12345 cafés;\r\n\r\n  def f(x):\n\treturn x\n",
    "Der Weg führt über 2024 Brücken. Привет, мир! 你好，世界。 😀👍🏽 e\u0301 \u00a0  … a/b//c\n\n\n",
)
CONTROL, PLAIN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), ("<think>", "</think>")
VOCABULARY = 400
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


@cache
def tokenizer_json(pre: str = "qwen2") -> str:
    """A tokenizer.json of 330 tokens that splits text as `pre` says, control tokens last."""
    pattern, normalizer = SPLITS[pre]
    tokenizer = Tokenizer(models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizers.NFC()
    if pre == "gpt-2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=325, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in CONTROL])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in PLAIN])
    return tokenizer.to_str()


def write_tokenizer(directory: Path, pre: str = "qwen2", **settings: Any) -> Path:
    """tokenizer.json and tokenizer_config.json, as Qwen publishes them but for `settings`."""
    (directory / "tokenizer.json").write_text(tokenizer_json(pre))
    told = {
        "add_bos_token": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(told | settings))
    return directory
