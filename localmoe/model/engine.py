"""A model file made ready to compute: weights bound, experts placed, buffers and threads in place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from localmoe.experts.layout import ExpertLayout
from localmoe.experts.plan import Plan
from localmoe.experts.residency import Residency
from localmoe.experts.statistics import ExpertStatistics
from localmoe.experts.store import StatisticsStore
from localmoe.kernels.cpu import Cpu
from localmoe.kernels.simd import FORM
from localmoe.model.config import ModelConfig
from localmoe.model.copies import with_own_copies
from localmoe.model.decoder import Decoder, checked_context
from localmoe.model.experts import LayerExperts
from localmoe.model.kv_cache import KVCache
from localmoe.model.memory import CHUNK, shape_of
from localmoe.model.rope import rope_table
from localmoe.model.transformer import Layer, Transformer
from localmoe.model.weights import LayerWeights, Weights, bind
from quant.gguf import GGUFFile


class Engine:
    """The CPU engine. `plan` says which experts are held; `store`, where routing statistics are kept (or
    None).
    """

    def __init__(
        self,
        file: GGUFFile,
        config: ModelConfig,
        plan: Plan,
        threads: int,
        kv_type: str,
        exact: bool,
        store: StatisticsStore | None,
        compute: Callable[..., Cpu] | None = None,
    ) -> None:
        self.config, self.plan, self.threads, self.kv_type = config, plan, threads, kv_type
        context = plan.needs.context
        if plan.slots is not None and plan.needs.layout is not None:
            file = with_own_copies(file, plan.needs.layout)
        self.weights = bind(file, config)
        self._file = file  # keeps the memory of such copies, which weights know by address
        self.residency = _residency(plan, config, store)
        rope = rope_table(config, context, self.weights.rope_factors)
        shape = shape_of(config, file, exact)
        self.compute = (compute or Cpu)(shape, threads, min(CHUNK, context), rope, exact)
        layers = [self._layer(i, weights) for i, weights in enumerate(self.weights.layers)]
        self._transformer = Transformer(
            self.weights.embedding, layers, self.weights.norm, self.weights.output
        )
        self._lock = threading.Lock() if self.residency is None else self.residency.lock
        # One pass over a chunk of tokens; the passes of other threads wait.
        self.step = self._alone if self.residency is None else self.residency.step
        if self.residency is not None:
            self.residency.warm()

    def _layer(self, number: int, w: LayerWeights) -> Layer:
        experts = None
        if w.experts is not None and self.residency is not None:
            experts = LayerExperts(number, w.experts, self.residency)
        return Layer(
            w.attention_norm, w.q, w.k, w.v, w.heads, w.output, w.ffn_norm, w.router, experts, w.dense
        )  # fmt: skip

    def decoder(self, context: int | None = None) -> Decoder:
        """A fresh conversation of up to `context` positions (default, and at most: the plan's)."""
        cache = KVCache(self.config, checked_context(context, self.plan.needs.context), self.kv_type)
        return Decoder(
            self._transformer, self.config, self.compute, cache, self.step, self._lock, self.residency
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock:
            yield

    def status(self) -> dict[str, Any]:
        """Device, threads, SIMD form, bytes of weights per token, of keys and values per position, and what
        residency counts.
        """
        residency = self.residency.status() if self.residency is not None else {}
        own = {
            "device": "cpu",
            "threads": self.threads,
            "simd": FORM,
            "bytes_per_token": bytes_per_token(self.weights, self.config),
            "kv_bytes_per_position": KVCache.bytes_per_position(self.config, self.kv_type),
        }
        return {**own, **residency}

    def close(self) -> None:
        """Saves the statistics, ends the threads: after the pass that is running, if there is one."""
        with self._lock:
            self.compute.close()  # refuses later passes
        if self.residency is not None:
            self.residency.close()


def _residency(plan: Plan, config: ModelConfig, store: StatisticsStore | None) -> Residency | None:
    layout: ExpertLayout | None = plan.needs.layout
    if layout is None:
        return None
    shape = (config.layers, config.experts, config.experts_used)
    statistics = store.load(*shape) if store is not None else ExpertStatistics(*shape)
    return Residency(layout, statistics, plan.slots, plan.transit or None, store)


def bytes_per_token(weights: Weights, config: ModelConfig) -> int:
    """Bytes of weights that decoding one token reads: everything but the embedding, and the chosen
    experts.
    """
    total = weights.output.nbytes
    for layer in weights.layers:
        total += layer.q.nbytes + layer.k.nbytes + layer.v.nbytes + layer.output.nbytes
        total += sum(floats.nbytes for floats in layer.floats())
        if layer.experts is not None and layer.router is not None:
            total += config.experts_used * layer.experts.nbytes
        elif layer.dense is not None:
            total += sum(matrix.nbytes for matrix in layer.dense)
    return total
