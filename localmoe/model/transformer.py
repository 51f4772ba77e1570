"""A Mixtral on one page (Jiang et al. 2024, https://arxiv.org/abs/2401.04088); a Mistral or Llama is one
without experts, a Qwen3 (Qwen Team 2025, https://arxiv.org/abs/2505.09388) one whose heads are normed, a
gpt-oss (OpenAI 2025, https://arxiv.org/abs/2508.10925) one with biases and attention sinks.

What computes and where the weights are is behind two interfaces: `Compute` does the arithmetic, an
`ExpertSource` says where a layer's experts lie while they are computed. Neither shows here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from localmoe.kernels.matrix import Heads, Matrix, Router
from localmoe.kernels.sources import ExpertSource

Floats = NDArray[np.float32]


class Compute(Protocol):
    """Arithmetic on the activations of a chunk of tokens, which stay wherever the device keeps them."""

    chunk: int  # most tokens at once

    def embed(self, ids: Sequence[int], matrix: Matrix) -> Any: ...
    def norm(self, x: Any, weight: Floats) -> Any: ...
    def qkv(self, h: Any, q: Matrix, k: Matrix, v: Matrix) -> tuple[Any, Any, Any]: ...
    def attend(self, q: Any, k: Any, v: Any, cache: Any, position: int, heads: Heads) -> Any: ...
    def add_linear(self, x: Any, h: Any, matrix: Matrix) -> None: ...
    def add_experts(
        self, x: Any, h: Any, router: Router, source: ExpertSource, last_only: bool = False
    ) -> None: ...
    def add_dense(
        self, x: Any, h: Any, gate: Matrix, up: Matrix, down: Matrix, last_only: bool = False
    ) -> None: ...
    def last_logits(self, h: Any, output: Matrix) -> Floats: ...
    def all_logits(self, h: Any, output: Matrix) -> Floats: ...


@dataclass(frozen=True, slots=True)
class Layer:
    attention_norm: Floats  # [hidden]
    q: Matrix  # [heads * head_dim, hidden]
    k: Matrix  # [kv_heads * head_dim, hidden]
    v: Matrix  # [kv_heads * head_dim, hidden]
    heads: Heads
    output: Matrix  # [hidden, heads * head_dim]
    ffn_norm: Floats  # [hidden]
    router: Router | None  # None: a dense layer
    experts: ExpertSource | None  # gate, up [ffn, hidden] and down [hidden, ffn] of each expert
    dense: tuple[Matrix, Matrix, Matrix] | None  # gate, up, down of a dense layer


@dataclass(frozen=True, slots=True)
class Transformer:
    embedding: Matrix  # [vocab, hidden]
    layers: list[Layer]
    norm: Floats  # [hidden]
    output: Matrix  # [vocab, hidden]

    def forward(
        self, compute: Compute, ids: Sequence[int], position: int, cache: Sequence[Any],
        last_only: bool = False,
    ) -> Any:  # fmt: skip
        """Runs a chunk of tokens that begins at `position`; returns the final normed activations [tokens,
        hidden].

        last_only: nobody asks for more than the last token's logits, which the other tokens reach through
        attention alone; the last layer's FFN may leave them out.
        """
        x = compute.embed(ids, self.embedding)  # [tokens, hidden]
        for layer, layer_cache in zip(self.layers, cache, strict=True):
            h = compute.norm(x, layer.attention_norm)
            q, k, v = compute.qkv(
                h, layer.q, layer.k, layer.v
            )  # [tokens, heads * head_dim]; kv_heads for k and v
            attended = compute.attend(q, k, v, layer_cache, position, layer.heads)
            compute.add_linear(x, attended, layer.output)
            h = compute.norm(x, layer.ffn_norm)
            narrow = last_only and layer is self.layers[-1]
            if layer.router is not None and layer.experts is not None:
                compute.add_experts(x, h, layer.router, layer.experts, narrow)
            elif layer.dense is not None:
                compute.add_dense(x, h, *layer.dense, narrow)
        return compute.norm(x, self.norm)
