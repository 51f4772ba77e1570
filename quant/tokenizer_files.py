"""The tokenizer and chat template of a model's directory, as GGUF metadata (`tokenizer.*`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quant.errors import ModelFileError
from quant.gguf import MAX_STRINGS
from quant.sentencepiece_model import CONTROL, UNKNOWN, UNUSED, USER_DEFINED, Vocabulary
from quant.tensor_files import read_json, show
from quant.tokenizer_json import BytePairs

MODEL_NAMES = ("tokenizer.model", "tokenizer.model.v3", "tokenizer.model.v2", "tokenizer.model.v1")
MAX_TEMPLATE_BYTES = 1 << 20
_NO_SCORE = -1000.0  # of pieces that text is never split into


def tokenizer_metadata(directory: Path, vocab_size: int, config: Mapping[str, Any]) -> dict[str, Any]:
    """GGUF's tokenizer keys; `config` may name the special ids (config.json does), else the tokenizer
    does.
    """
    settings = _optional_json(directory / "tokenizer_config.json")
    if vocab_size > MAX_STRINGS:
        raise ModelFileError(
            f"{show(directory)}: a vocabulary of {vocab_size} is larger than any model's; get it again"
        )
    path = next((directory / n for n in MODEL_NAMES if (directory / n).is_file()), None)
    if path is not None:
        metadata = _sentencepiece(path, vocab_size, config, settings)
    elif (directory / "tokenizer.json").exists():
        metadata = _byte_pairs(directory / "tokenizer.json", vocab_size, config, settings)
    else:
        tekken = (directory / "tekken.json").exists()
        found = "; tekken.json is of a kind that this program does not convert" if tekken else ""
        raise ModelFileError(
            f"{show(directory / 'tokenizer.model')}: no such file, nor a tokenizer.json{found}"
        )
    template = _chat_template(directory, settings)
    if template:
        metadata["tokenizer.chat_template"] = template
    return metadata


def _sentencepiece(
    path: Path, vocab_size: int, config: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    vocabulary, directory = Vocabulary.read(path), path.parent
    if len(vocabulary.pieces) > vocab_size:
        raise ModelFileError(
            f"{show(path)} has {len(vocabulary.pieces)} pieces, the model's vocabulary is {vocab_size};"
            " they do not belong together"
        )
    missing = range(len(vocabulary.pieces), vocab_size)
    tokens = vocabulary.pieces + [f"[PAD{i}]" for i in missing]
    scores = vocabulary.scores + [_NO_SCORE for _ in missing]
    kinds = vocabulary.kinds + [UNUSED for _ in missing]
    for index, text, special in _added_tokens(directory, settings):
        if not 0 <= index < vocab_size:
            raise ModelFileError(
                f"{show(directory)}: the added token {text!r} has the id {index}, outside the vocabulary"
            )
        if kinds[index] not in (UNKNOWN, CONTROL) or tokens[index] != text:
            tokens[index], scores[index] = text, _NO_SCORE
            kinds[index] = CONTROL if special else USER_DEFINED
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.array(scores, np.float32),
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
    }
    named = {"bos": vocabulary.bos, "eos": vocabulary.eos, "unknown": vocabulary.unknown}
    for what, fallback in named.items():
        chosen = _first_id(config.get(f"{what}_token_id"))
        if chosen is None:
            chosen = fallback
        if 0 <= chosen < vocab_size:
            metadata[f"tokenizer.ggml.{what}_token_id"] = chosen
    metadata["tokenizer.ggml.add_bos_token"] = settings.get("add_bos_token") is not False
    metadata["tokenizer.ggml.add_eos_token"] = settings.get("add_eos_token") is True
    prefix = settings.get("add_prefix_space")
    if not (prefix if isinstance(prefix, bool) else vocabulary.dummy_prefix):
        metadata["tokenizer.ggml.add_space_prefix"] = False
    return metadata


def _byte_pairs(
    path: Path, vocab_size: int, config: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    pairs = BytePairs.read(path, vocab_size)
    if vocab_size + len(pairs.merges) > MAX_STRINGS:
        raise ModelFileError(
            f"{show(path)}: {len(pairs.merges)} merges are more than any model has; get it again"
        )
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pairs.pre,
        "tokenizer.ggml.tokens": pairs.tokens,
        "tokenizer.ggml.token_type": np.array(pairs.kinds, np.int32),
        "tokenizer.ggml.merges": pairs.merges,
    }
    generation = _optional_json(path.parent / "generation_config.json")
    ids = {token: index for index, token in enumerate(pairs.tokens)}
    for theirs, name in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items():
        token = settings.get(f"{theirs}_token")
        text = token.get("content") if isinstance(token, dict) else token
        chosen = ids.get(text) if isinstance(text, str) else None
        for source in (config, generation):
            chosen = _first_id(source.get(f"{theirs}_token_id")) if chosen is None else chosen
        if chosen is not None and 0 <= chosen < vocab_size:
            metadata[f"tokenizer.ggml.{name}_token_id"] = chosen
    for what, token in {"bos": pairs.first, "eos": pairs.last}.items():
        told = settings.get(f"add_{what}_token")
        special = metadata.get(f"tokenizer.ggml.{what}_token_id")
        by_template = special is not None and pairs.tokens[special] == token
        metadata[f"tokenizer.ggml.add_{what}_token"] = told if isinstance(told, bool) else by_template
    return metadata


def _first_id(value: Any) -> int | None:
    """An id; of several ends of text the first, which is the usual one."""
    if isinstance(value, list) and value:
        value = value[0]
    return value if type(value) is int else None


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _added_tokens(directory: Path, settings: Mapping[str, Any]) -> list[tuple[int, str, bool]]:
    """(id, text, is it a control token) of what a fine-tune added to the vocabulary."""
    plain = _optional_json(directory / "added_tokens.json")
    added = [(index, text, False) for text, index in plain.items() if type(index) is int]
    decoder = settings.get("added_tokens_decoder")
    for index, entry in decoder.items() if isinstance(decoder, dict) else ():
        text = entry.get("content") if isinstance(entry, dict) else None
        if isinstance(text, str) and index.isascii() and index.isdigit() and len(index) < 10:
            added.append((int(index), text, entry.get("special") is True))
    return added


def _chat_template(directory: Path, settings: Mapping[str, Any]) -> str | None:
    """From tokenizer_config.json (one, or several by name), else from a file of its own."""
    template = settings.get("chat_template")
    if isinstance(template, list):
        defaults = [t for t in template if isinstance(t, dict) and t.get("name") == "default"]
        template = defaults[-1].get("template") if defaults else None
    if isinstance(template, str):
        return template
    path = directory / "chat_template.jinja"
    if path.is_file() and path.stat().st_size <= MAX_TEMPLATE_BYTES:
        try:
            return path.read_text("utf-8")
        except UnicodeDecodeError:
            raise ModelFileError(f"{show(path)} is not UTF-8; remove it or get it again") from None
    template = _optional_json(directory / "chat_template.json").get("chat_template")
    return template if isinstance(template, str) else None
