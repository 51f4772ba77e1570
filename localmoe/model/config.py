"""A model's shape, read from GGUF metadata and checked.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; all but the general ones begin with the
architecture's name. Mixtral, Mistral and Llama files all have the architecture `llama`; a Mixtral is one with
`expert_count`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from localmoe.model.rope import Yarn
from quant.errors import ModelFileError
from quant.families import FAMILIES, Family
from quant.gguf import GGUFFile

SUPPORTED = "Mixtral, Mistral, Llama, Qwen3 and gpt-oss"  # as messages name them


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Widths and counts of a transformer. `ffn` is one expert's inner width; `experts` is 0 for a dense
    model.
    """

    name: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_dim: int
    rope_base: float
    rope_scale: float  # positions are divided by this (linear scaling); 1 when there is none
    epsilon: float
    experts: int
    experts_used: int
    vocab: int
    context: int
    window: int  # sliding attention window, of the layers that have one (`window_of`); 0: none
    family: Family = FAMILIES["llama"]
    yarn: Yarn | None = None

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> ModelConfig:
        """As `from_metadata`; ModelFileError also where the vocabulary and its embedding differ in size."""
        return replace(cls.from_metadata(file.metadata, file.path), vocab=_vocabulary_size(file))

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], path: Path) -> ModelConfig:
        """All but `vocab`, which the tensors say. Raises ModelFileError for another architecture, missing or
        impossible metadata, and what is not supported; the message names it.
        """
        read = _Metadata(path, metadata)
        if read.architecture not in FAMILIES:
            raise read.error(
                f"the architecture {read.architecture!r} is not supported; supported: {SUPPORTED} files"
            )
        heads, hidden = read.count(".attention.head_count"), read.count(".embedding_length")
        family = FAMILIES[read.architecture]
        fewest = family.least_experts
        experts = read.count(".expert_count", least=fewest, default=None if fewest else 0)
        head_dim = read.count(".attention.key_length", default=max(1, hidden // heads))
        rope_scale, yarn = _rope_scaling(read, family)
        sliding = family.window_every > 1  # such files have always stated what others may leave out
        config = cls(
            name=read.text("general.name", default=path.stem),
            layers=read.count(".block_count"),
            hidden=hidden,
            ffn=read.count(f".{family.ffn}"),
            heads=heads,
            kv_heads=read.count(".attention.head_count_kv", default=heads),
            head_dim=head_dim,
            rope_dim=read.count(".rope.dimension_count", default=head_dim),
            rope_base=read.number(".rope.freq_base", default=None if sliding else 10000.0, above=1.0),
            rope_scale=rope_scale,
            epsilon=read.number(".attention.layer_norm_rms_epsilon"),
            experts=experts,
            experts_used=read.count(".expert_used_count", default=None if sliding else 2) if experts else 0,
            vocab=0,
            context=read.count(".context_length"),
            window=read.count(
                ".attention.sliding_window", least=int(sliding), default=None if sliding else 0
            ),
            family=family,
            yarn=yarn,
        )
        config._check(read)
        return config

    def _check(self, read: _Metadata) -> None:
        if self.heads % self.kv_heads:
            raise read.error(
                f"{self.heads} attention heads cannot share {self.kv_heads} KV heads; the metadata is damaged"
            )
        if self.experts_used > self.experts:
            raise read.error(
                f"it uses {self.experts_used} experts of {self.experts}; the metadata is damaged"
            )
        if self.head_dim % 16 or self.rope_dim % 2 or self.rope_dim > self.head_dim:
            raise read.error(
                f"heads of {self.head_dim} with {self.rope_dim} rotated are not supported "
                "(multiples of 16 are)"
            )
        if self.hidden % 32 or self.ffn % 32:
            raise read.error(f"widths {self.hidden} and {self.ffn} are not supported (multiples of 32 are)")
        if read.count(".attention.value_length", default=self.head_dim) != self.head_dim:
            raise read.error("values of another width than keys are not supported")
        if self.layers > 1024 or self.experts > 256 or self.experts_used > 32:
            raise read.error(
                f"{self.layers} layers of {self.experts} experts, {self.experts_used} per token, are beyond "
                "what is supported (1024, 256, 32)"
            )

    def window_of(self, layer: int) -> int:
        """The positions that a layer's attention sees; 0: all."""
        return 0 if layer % self.family.window_every else self.window

    @property
    def is_mixture(self) -> bool:
        return self.experts > 0

    def too_many(self, tokens: int, context: int) -> str:
        """The message where `tokens` are more than the `context` that the model was loaded with."""
        fits = tokens <= self.context
        advice = "raise --context" if fits else f"the model has no more than {self.context}"
        return f"{tokens} tokens do not fit in the context of {context}; {advice}"


class _Metadata:
    """Typed reads that name the key and the file when something is wrong. A key that begins with a dot is one
    of the architecture's.
    """

    def __init__(self, path: Path, metadata: Mapping[str, Any]) -> None:
        self.path, self.metadata = path, metadata
        self.architecture = ""
        self.architecture = self.text("general.architecture")

    def _full(self, key: str) -> str:
        return self.architecture + key if key.startswith(".") else key

    def error(self, problem: str) -> ModelFileError:
        return ModelFileError(f"{self.path}: {problem}")

    def _value(self, key: str, default: Any) -> Any:
        value = self.metadata.get(self._full(key), default)
        if value is None:
            raise self.wrong(key, "missing", "convert the model again")
        return value

    def wrong(self, key: str, problem: str, advice: str = "the file is damaged") -> ModelFileError:
        return self.error(f"the metadata key {self._full(key)} is {problem}; {advice}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, "not text", "convert the model again")
        return value

    def count(self, key: str, least: int = 1, default: int | None = None) -> int:
        value = self._value(key, default)
        if isinstance(value, list | np.ndarray):
            raise self.wrong(key, "a list", "one number for all layers is supported")
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
            raise self.wrong(key, f"{value!r:.40}, not a count of at least {least}")
        return value

    def number(self, key: str, default: float | None = None, above: float = 0.0) -> float:
        value = self.any_number(key, default)
        if not above < value < 1e12:
            raise self.wrong(key, f"{value!r:.40}, not a number above {above:g}")
        return value

    def any_number(self, key: str, default: float | None = None) -> float:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, f"{value!r:.40}, not a number")
        return float(value)


def _rope_scaling(read: _Metadata, family: Family) -> tuple[float, Yarn | None]:
    """What positions are divided by, how frequencies are stretched, by the keys that llama.cpp goes by."""
    kind = read.text(".rope.scaling.type", default="none")
    if kind == "none":
        return 1.0, None
    factor = read.number(".rope.scaling.factor", default=1.0)
    if kind == "linear":
        return factor, None
    if kind != "yarn":
        raise read.error(f"rotary scaling of type {kind!r} is not supported (none, linear and yarn are)")
    mixed = read.any_number(".rope.scaling.yarn_ext_factor", default=-1.0)
    if mixed >= 0 and mixed != 1:  # below 0: as if it were not there
        raise read.error(f"a YaRN of which a share of {mixed:g} counts is not supported")
    yarn = Yarn(
        factor=factor,
        original=read.count(".rope.scaling.original_context_length", default=read.count(".context_length")),
        truncates=family.yarn_truncates,
        attention=read.number(".rope.scaling.attn_factor", default=1.0),
        beta_fast=read.number(".rope.scaling.yarn_beta_fast", default=32.0),
        beta_slow=read.number(".rope.scaling.yarn_beta_slow", default=1.0),
    )
    return 1.0, yarn


def _vocabulary_size(file: GGUFFile) -> int:
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelFileError(f"{file.path}: the tensor token_embd.weight is missing; convert the model again")
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and len(tokens) != embedding.shape[0]:  # another type: the tokenizer says
        raise ModelFileError(
            f"{file.path}: {len(tokens)} tokens in the vocabulary but {embedding.shape[0]} rows in "
            "token_embd.weight;"
            " convert the model again"
        )
    return embedding.shape[0]
