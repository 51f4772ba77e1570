"""A loaded model with a KV cache: tokens in, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localmoe.errors import UsageError
from localmoe.kernels.cpu import Shape
from localmoe.model.config import ModelConfig
from localmoe.model.kv_cache import KVCache
from localmoe.model.transformer import Compute, Transformer

Floats = NDArray[np.float32]


def rope_table(config: ModelConfig, context: int, factors: Floats | None = None) -> Floats:
    """cos and sin of every position's angles, float32 [context, rope_dim / 2, 2] (Su et al. 2021)."""
    inverse = config.rope_base ** (-np.arange(0, config.rope_dim, 2, dtype=np.float64) / config.rope_dim)
    if factors is not None:
        inverse = inverse / factors
    angles = np.arange(context)[:, None] / config.rope_scale * inverse  # [context, rope_dim / 2]
    return np.ascontiguousarray(np.stack([np.cos(angles), np.sin(angles)], -1), np.float32)


def shape_of(config: ModelConfig) -> Shape:
    c = config
    return Shape(
        hidden=c.hidden, heads=c.heads, kv_heads=c.kv_heads, head_dim=c.head_dim, ffn=c.ffn,
        experts=c.experts,
        experts_used=c.experts_used, vocab=c.vocab, rope_pairs=c.rope_dim // 2, epsilon=c.epsilon,
        window=c.window,
    )  # fmt: skip


class Decoder:
    """One conversation's state. `tokens` are those whose keys and values are held, position by position."""

    def __init__(
        self,
        transformer: Transformer,
        config: ModelConfig,
        compute: Compute,
        context: int,
        kv_type: str = "f16",
    ) -> None:
        self.context = context
        self.tokens: list[int] = []
        self._transformer, self._compute, self._vocab = transformer, compute, config.vocab
        self._cache = KVCache(config, context, kv_type)

    def rewind(self, length: int) -> None:
        """Forgets the positions from `length` on."""
        if not 0 <= length <= len(self.tokens):
            raise ValueError(f"cannot rewind {len(self.tokens)} positions to {length}")
        del self.tokens[length:]

    def extend(self, ids: Sequence[int]) -> Floats:
        """Appends ids (at least one); returns float32 [vocab] logits of what follows the last."""
        hidden = None
        for chunk in self._chunks(ids):
            hidden = self._forward(chunk)
        return self._compute.last_logits(hidden, self._transformer.output).copy()

    def extend_all(self, ids: Sequence[int]) -> Floats:
        """As `extend`, but the logits after every id: float32 [len(ids), vocab]."""
        parts = [
            self._compute.all_logits(self._forward(chunk), self._transformer.output)
            for chunk in self._chunks(ids)
        ]
        return np.concatenate(parts)

    def _chunks(self, ids: Sequence[int]) -> list[Sequence[int]]:
        if not len(ids):
            raise ValueError("no tokens to extend by")
        if len(self.tokens) + len(ids) > self.context:
            raise UsageError(
                f"{len(self.tokens) + len(ids)} tokens do not fit in the context of {self.context}; "
                "raise --context"
            )
        if min(ids) < 0 or max(ids) >= self._vocab:
            raise UsageError(f"a token id is outside the vocabulary of {self._vocab}")
        size = self._compute.chunk
        return [ids[at : at + size] for at in range(0, len(ids), size)]

    def _forward(self, chunk: Sequence[int]) -> Any:
        hidden = self._transformer.forward(self._compute, chunk, len(self.tokens), self._cache.layers)
        self.tokens.extend(int(i) for i in chunk)
        return hidden
