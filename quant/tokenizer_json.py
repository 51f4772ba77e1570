"""Reads byte-level BPE from a `tokenizer.json` of Hugging Face's tokenizers, and says it as GGUF does.

Tokens and merges stand in GPT-2's alphabet in both, where each of the 256 bytes is one printable character.
How a text is split before merging, GGUF says by a name: `tokenizer.ggml.pre`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quant.hyperparameters import Settings
from quant.sentencepiece_model import CONTROL, NORMAL, UNUSED, USER_DEFINED
from quant.tensor_files import read_json

_GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SPLITS: Mapping[str, tuple[str, tuple[str, ...]]] = {  # name: the pattern, the normalizers before it
    "qwen2": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ("NFC",),
    ),
    "llama-bpe": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        (),
    ),
    "tekken": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        (),
    ),
    "gpt-4o": (  # of o200k_base and o200k_harmony
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        (),
    ),
    "gpt-2": (_GPT_2, ()),
}
_ALPHABET = frozenset(map(chr, [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x144)]))


@dataclass(frozen=True)
class BytePairs:
    """A byte-level BPE tokenizer, its vocabulary filled up to the model's."""

    tokens: list[str]  # by id
    kinds: list[int]  # as GGUF numbers them
    merges: list[str]  # "a b", in order of rank
    pre: str
    first: str | None  # the control tokens that are put before and after a text
    last: str | None

    @classmethod
    def read(cls, path: Path, vocab_size: int) -> BytePairs:
        """ModelFileError where the file is of another kind, or does not hold together."""
        data = Settings(read_json(path), path)
        pre, vocabulary = _pre(data), _vocabulary(data)
        tokens, kinds = [f"[PAD{i}]" for i in range(vocab_size)], [UNUSED] * vocab_size

        def place(text: str, index: Any, kind: int) -> None:
            if type(index) is not int or not 0 <= index < vocab_size:
                raise data.error(f"the token {text!r:.40} has the id {index!r:.20}, outside of {vocab_size}")
            if kinds[index] != UNUSED:
                raise data.error(f"{tokens[index]!r:.40} and {text!r:.40} both have the id {index}")
            tokens[index], kinds[index] = text, kind

        added = dict(_added(data))
        for text, index in vocabulary.items():
            if text not in added:
                if not _ALPHABET.issuperset(text):
                    raise data.error(f"the token {text!r:.40} is not of byte-level BPE's alphabet")
                place(text, index, NORMAL)
        for text, (index, kind) in added.items():
            if vocabulary.get(text, index) != index:
                raise data.error(f"the token {text!r:.40} has two ids")
            place(text, index, kind)
        return cls(tokens, kinds, list(_merges(data, vocabulary)), pre, *_ends(data))


def _pre(data: Settings) -> str:
    """The name of the way in which text is split."""
    steps = _steps(data, "pre_tokenizer", "pretokenizers")
    bpe = data.part("model").get("type") in ("BPE", None)  # the oldest files do not say it
    if not bpe or not steps or steps[-1].get("type") != "ByteLevel":
        raise data.error("it is not of byte-level BPE, so the model's tokenizer.model is needed")
    *splits, byte_level = steps
    own = byte_level.get("use_regex", True)  # it splits by itself, as GPT-2 does
    pattern: Any = _GPT_2 if own and not splits else None
    if len(splits) == 1 and not own:
        how = tuple(splits[0].get(key) for key in ("type", "behavior", "invert"))
        if how in (("Split", "Isolated", False), ("Split", "Removed", True)):
            pattern = Settings(splits[0], data.path).part("pattern").get("Regex")
    normalizers = tuple(each.get("type") for each in _steps(data, "normalizer", "normalizers"))
    for name, known in SPLITS.items():
        if known == (pattern, normalizers) and not byte_level.get("add_prefix_space"):
            return name
    raise data.error(f"it splits text in another way than {', '.join(SPLITS)} do (by {pattern!r:.60})")


def _steps(data: Settings, key: str, several: str) -> list[dict[str, Any]]:
    """What a part of the tokenizer does, one after another: a sequence, one thing, or nothing."""
    part = data.part(key)
    if part.get("type") == "Sequence":
        return _objects(part, several)
    return [dict(part.values)] if part.values else []


def _vocabulary(data: Settings) -> Mapping[str, Any]:
    model = data.part("model")
    for unsupported in ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(unsupported):
            raise data.error(f"{unsupported} is {model.get(unsupported)!r:.40}, which is not supported")
    return model.part("vocab").values


def _added(data: Settings) -> Iterator[tuple[str, tuple[Any, int]]]:
    """(text, (id, kind)) of the tokens that are found in a text before it is split."""
    seen = set()
    for entry in _objects(data, "added_tokens"):
        text = entry.get("content")
        if not isinstance(text, str) or not text or text in seen:
            raise data.error(f"the added token {text!r:.40} is empty, no text, or there twice")
        seen.add(text)
        # as llama.cpp's converter: several models call control tokens ordinary ones
        control = entry.get("special") is True or (text.startswith("<|") and text.endswith("|>"))
        yield text, (entry.get("id"), CONTROL if control else USER_DEFINED)


def _merges(data: Settings, vocabulary: Mapping[str, Any]) -> Iterator[str]:
    merges = data.part("model").get("merges")
    if not isinstance(merges, list):
        raise data.error("it has no list of merges")
    for merge in merges:  # "a b", or ["a", "b"] since 2024
        pair = merge.split(" ") if isinstance(merge, str) else merge
        whole = isinstance(pair, list) and len(pair) == 2 and all(isinstance(p, str) for p in pair)
        if not whole or not all(p in vocabulary for p in (*pair, "".join(pair))) or " " in "".join(pair):
            raise data.error(f"the merge {merge!r:.60} is of pieces that are not in the vocabulary")
        yield " ".join(pair)


def _ends(data: Settings) -> tuple[str | None, str | None]:
    """The control tokens that a template puts before and after a text."""
    for processor in _steps(data, "post_processor", "processors"):
        if processor.get("type") == "TemplateProcessing":
            single = _objects(Settings(processor, data.path), "single")
            ends = [Settings(each, data.path).part("SpecialToken").get("id") for each in single]
            if len(ends) > 1:
                return ends[0], ends[-1]
    return None, None


def _objects(part: Settings, key: str) -> list[dict[str, Any]]:
    """A list of objects; empty when it is absent."""
    value = part.get(key) or []
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise part.error(f"{key} is no list of objects")
    return value
