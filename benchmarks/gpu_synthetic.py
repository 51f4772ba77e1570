"""Models of Mixtral's, Qwen3's and gpt-oss's shapes made in memory for GPU measurements: true shapes and
block types, one random expert repeated, and routing that follows a trace (`trace_of`), not the (meaningless)
router.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import comb
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import triton
import triton.language as tl

from localmoe.experts.layout import ExpertLayout
from localmoe.experts.statistics import ExpertStatistics
from localmoe.experts.traces import generate_trace
from localmoe.kernels.cores import usable_cores
from localmoe.kernels.gpu import Gpu
from localmoe.kernels.gpu_memory import HostArena
from localmoe.kernels.gpu_tiles import ExpertShape
from localmoe.kernels.handshake import PATIENCE, LayerFormats, Region, Worker
from localmoe.kernels.matrix import Heads, Matrix, Router
from localmoe.kernels.pool import Pool
from localmoe.model.gpu_experts import GpuResidency
from localmoe.model.gpu_plan import GpuPlan
from localmoe.model.gpu_runtime import GpuRuntime, _expert_shape, _place_all, _transformer
from localmoe.model.rope import rope_table
from localmoe.model.weights import LayerWeights, Weights
from quant.blocks import FORMATS
from quant.families import FAMILIES
from quant.parts import PartFiles
from quant.recipes import Model, choose, default_recipe

ALIGN = 256


@dataclass(frozen=True)
class Size:
    name: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: int
    vocab: int
    experts_used: int = 2
    architecture: str = "llama"
    window: int = 0


MIXTRAL_8X7B = Size("Mixtral 8x7B", 32, 4096, 14336, 32, 8, 128, 8, 32000)
MIXTRAL_8X22B = Size("Mixtral 8x22B", 56, 6144, 16384, 48, 8, 128, 8, 32768)
QWEN3_30B_A3B = Size("Qwen3-30B-A3B", 48, 2048, 768, 32, 4, 128, 128, 151936, 8, "qwen3moe")
GPT_OSS_20B = Size("gpt-oss-20b", 24, 2880, 2880, 64, 8, 64, 32, 201088, 4, "gpt-oss", 128)
GPT_OSS_120B = replace(GPT_OSS_20B, name="gpt-oss-120b", layers=36, experts=128)
TINY = Size("tiny", 2, 256, 512, 4, 2, 64, 4, 320)
TINY_QWEN3 = Size("tiny Qwen3", 1, 256, 512, 4, 1, 128, 40, 320, 5, "qwen3moe")
TINY_GPT_OSS = Size("tiny gpt-oss", 1, 160, 288, 4, 2, 64, 6, 320, 3, "gpt-oss", 16)
SHARED = 0.65  # of tokens that have an expert in common with the one before, in traces


def random_rows(rows: int, cols: int, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Valid blocks uint8 [rows, bytes]: random codes, small constant scales; repeated beyond 4 MB."""
    f = FORMATS[kind]
    count = rows * cols // f.block_size
    some = rng.integers(0, 256, (min(count, (4 << 20) // f.block_bytes), f.block_bytes), dtype=np.uint8)
    if kind == "mxfp4":
        some[:, 0] = 118  # 2**-10
    for at in f.halves:
        some[:, at : at + 2] = np.full(len(some), 1e-4 if kind == "q6_k" else 1e-3,
            np.float16).view(np.uint8).reshape(-1, 2)
    return np.resize(some, (count, f.block_bytes)).reshape(rows, -1)


class Synthetic:
    """Host side of a model: weights, layout, and all experts in one pinned arena. Built once, used with
    every budget.
    """

    def __init__(self, size: Size, pin: bool) -> None:
        self.size, rng = size, np.random.default_rng(1)
        self.kept: list[Any] = []
        self._placed: tuple[dict[int, Any], dict[int, Any]] | None = None
        s, family = size, FAMILIES[size.architecture]
        self.config: Any = SimpleNamespace(
            name=s.name, layers=s.layers, hidden=s.hidden, ffn=s.ffn, heads=s.heads, kv_heads=s.kv_heads,
            head_dim=s.head_dim,
            rope_dim=s.head_dim, rope_base=1e6, rope_scale=1.0, epsilon=1e-5, experts=s.experts,
            experts_used=s.experts_used, vocab=s.vocab,
            family=family, yarn=None, clamped=family.clamped,
        )  # fmt: skip
        self.shape: Any = SimpleNamespace(
            **{**vars(self.config), "rope_pairs": s.head_dim // 2, "rope_halves": not family.interleaved}
        )
        nbytes = np.zeros((s.layers, 3), np.int64)
        shapes = {"gate": (s.ffn, s.hidden), "up": (s.ffn, s.hidden), "down": (s.hidden, s.ffn)}
        matrices = [
            [self._expert_matrix(f"blk.{i}.ffn_{part}_exps", *x) for part, x in shapes.items()]
            for i in range(s.layers)
        ]
        for i, row in enumerate(matrices):
            nbytes[i] = [m.nbytes for m in row]
        zeros = np.zeros((s.layers, s.experts, 3), np.int64)
        self.layout = ExpertLayout(PartFiles((Path("synthetic"),)), zeros, zeros.copy(), nbytes)
        self.shapes = [
            ExpertShape(*row, self.layout.classes[int(self.layout.class_of[i])].starts) for i,
            row in enumerate(matrices)
        ]
        self.host = SyntheticHost(self.layout, self.shapes, rng, pin)
        self.weights = self._weights(rng, matrices)

    def _kind(self, name: str, *shape: int) -> str:
        """The type that the model's usual recipe (q4_k_m, mxfp4) gives a tensor."""
        model = Model(self.size.layers, self.size.experts)
        return choose(f"{name}.weight", shape, default_recipe(self.size.architecture), model).type

    def _expert_matrix(self, name: str, rows: int, cols: int) -> Matrix:
        kind, experts = self._kind(name, self.size.experts, rows, cols), self.size.experts
        return Matrix(0, rows, cols, kind, self._bias(experts, rows))

    def _bias(self, *shape: int) -> int:
        """The address of zeros, where the family has biases; else 0."""
        if not self.config.family.biased:
            return 0
        self.kept.append(np.zeros(shape, np.float32))
        return int(self.kept[-1].ctypes.data)

    def _weights(self, rng: np.random.Generator, experts: list[list[Matrix]]) -> Weights:
        s = self.size

        def matrix(name: str, rows: int, cols: int) -> Matrix:
            kind = self._kind(name, rows, cols)
            data = random_rows(rows, cols, kind, rng)
            self.kept.append(data)
            bias = self._bias(rows) if name.startswith("blk.") else 0
            return Matrix(int(data.ctypes.data), rows, cols, kind, bias)

        def floats(*shape: int) -> np.ndarray:
            return np.ones(shape, np.float32) if len(shape) == 1 else rng.standard_normal(shape).astype(
                np.float32)

        queries, keys = s.heads * s.head_dim, s.kv_heads * s.head_dim
        family = self.config.family

        def heads(layer: int) -> Heads:
            norms = (floats(s.head_dim), floats(s.head_dim)) if family.head_norms else None
            windowed = layer % family.window_every == 0
            return Heads(norms, floats(s.heads) if family.sinks else None, s.window if windowed else 0)

        layers = [
            LayerWeights(
                floats(s.hidden), matrix(f"blk.{i}.attn_q", queries, s.hidden),
                matrix(f"blk.{i}.attn_k", keys, s.hidden), matrix(f"blk.{i}.attn_v", keys, s.hidden),
                heads(i),
                matrix(f"blk.{i}.attn_output", s.hidden, queries), floats(s.hidden),
                Router(floats(s.experts, s.hidden), floats(s.experts) if family.biased else None), None, None,
            )
            for i in range(len(experts))
        ]  # fmt: skip
        embedding, output = (matrix(name, s.vocab, s.hidden) for name in ("token_embd", "output"))
        return Weights(embedding, layers, floats(s.hidden), output, None)

    def open(self, device: str, slots: list[int], chunk: int, context: int, bytes_per_step: int | None = None,
             spread: bool = True) -> GpuRuntime:  # fmt: skip
        """A runtime with so many slots per size class, in `stream`. `spread` false: whole layers, the first
        ones, as
        llama.cpp's --n-cpu-moe splits them (use it with mode `cpu` and no bytes per step: the *static*
        baseline)."""
        s = self.size
        gpu = Gpu(self.shape, device, chunk, rope_table(self.config, context))
        fresh = ExpertStatistics(s.layers, s.experts, s.experts_used)
        pool = Pool(max(1, usable_cores() - 1), PATIENCE)  # as open_gpu
        arena = HostArena(Region.nbytes_for(s.hidden, s.experts_used), device != "cpu")
        region = Region(arena.address, s.hidden, s.experts_used, arena)
        worker = Worker(region, pool, [LayerFormats(x.gate, x.up, x.down) for x in self.shapes],
            self.host.parts, s.ffn, self.config.clamped)
        self._share_placed(gpu)
        shapes = [_expert_shape(gpu, x, self.layout, i) for i, x in enumerate(self.shapes)]
        residency = TracedResidency(gpu, self.layout, shapes, fresh, slots, self.host, worker,
            bytes_per_step)
        if spread:
            residency.warm()
        else:
            for layer in range(s.layers):
                for expert in range(s.experts):
                    if residency.tables.free(layer) >= s.experts - expert:
                        slot = residency.tables.take_free(layer)
                        target = residency.tables.slot(layer, slot)
                        residency.copies.start(layer, expert, target).before_next(
                            residency.copies.compute_stream())
                        residency.tables.move(layer, expert, slot)
        plan = GpuPlan(0, 0, 0, 0, slots, residency.tables.nbytes, sum(slots) / (s.layers * s.experts))
        weights = replace(self.weights)
        return GpuRuntime(gpu, _transformer(weights, residency.layers()), self.config, residency, plan, None,
            pool)

    def _share_placed(self, gpu: Gpu) -> None:
        """Weights that every token needs are put on the device once for all budgets."""
        if self._placed is None:
            _place_all(gpu, self.weights)
            for i, shape in enumerate(self.shapes):
                _expert_shape(gpu, shape, self.layout, i)
            self._placed = dict(gpu._placed), dict(gpu._matrices)
        gpu._placed.update(self._placed[0])
        gpu._matrices.update(self._placed[1])

    def slots_for(self, budget: int, context: int) -> list[int]:
        """Slots per size class in `budget` bytes, after other weights, KV cache and 1 GiB for everything
        else.
        """
        s = self.size
        fixed = sum(d.nbytes
            for d in self.kept) + 4 * s.layers * s.kv_heads * context * s.head_dim + (1 << 30)
        counts = [len(c.layers) * s.experts for c in self.layout.classes]
        total = sum(c.slot_bytes * n for c, n in zip(self.layout.classes, counts, strict=True))
        share = min(1.0, max(0.0, (budget - fixed) / total))
        return [int(share * n) for n in counts]


class SyntheticHost:
    """Experts in pinned memory, with the attributes of gpu_host.HostExperts; every expert has memory of its
    own.
    """

    def __init__(self, layout: ExpertLayout, shapes: list[ExpertShape], rng: np.random.Generator,
        pin: bool) -> None:
        self.layout = layout
        sizes = [layout.classes[int(n)].slot_bytes for n in layout.class_of]
        self.arena = HostArena(sum(sizes) * layout.experts, pin)
        self.home = np.zeros((layout.layers, layout.experts), np.int64)
        self.parts = np.zeros((layout.layers, layout.experts, 3), np.int64)
        templates: dict[int, np.ndarray] = {}
        at = 0
        for layer, shape in enumerate(shapes):
            number = int(layout.class_of[layer])
            if number not in templates:
                templates[number] = np.zeros(sizes[layer], np.uint8)
                for start, m in zip(shape.starts, (shape.gate, shape.up, shape.down), strict=True):
                    templates[number][start : start + m.nbytes] = random_rows(m.rows, m.cols, m.type,
                        rng).reshape(-1)
            for expert in range(layout.experts):
                self.arena.bytes[at : at + sizes[layer]] = templates[number]
                self.home[layer, expert] = self.arena.address + at
                self.parts[layer, expert] = self.arena.address + at + np.array(shape.starts)
                at += sizes[layer]

    def start_of(self, layer: int, expert: int) -> int:
        return int(self.home[layer, expert]) - self.arena.address


@cache
def trace_of(layers: int, experts: int, chosen: int) -> np.ndarray:
    """uint8 [4096, layers, chosen], with Mixtral's locality (65 % of tokens share an expert with the one
    before, popularities as `generate_trace` has them).

    Of many experts, of whose popularity nothing is assumed, all are equally popular, and as many tokens share
    one: with probability `repeat` a token keeps one of the last token's, at random, and draws the others.
    """
    if chosen == 2:
        return generate_trace(4096, layers, experts, chosen, seed=3)
    by_chance = 1 - comb(experts - chosen, chosen) / comb(experts, chosen)
    repeat = max(0.0, (SHARED - by_chance) / (1 - by_chance))
    return generate_trace(4096, layers, experts, chosen, repeat=repeat, skew=0.0, seed=3)


@triton.jit
def follow_kernel(trace: tl.tensor, position: tl.tensor, chosen: tl.tensor, K: tl.constexpr) -> None:
    """chosen[token] = trace[position + token], K experts each."""
    token = tl.program_id(0)
    for c in tl.static_range(K):
        tl.store(chosen + token * K + c, tl.load(trace + (tl.load(position) + token) * K + c))


class TracedResidency(GpuResidency):
    """Routing follows a trace, by position."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        trace = trace_of(self.layout.layers, self.layout.experts, self.k)
        self._trace = self.gpu.to_device(np.ascontiguousarray(trace.transpose(1, 0, 2).astype(np.int32)))

    def shift_trace(self, tokens: int) -> None:
        """From here on position 0 is where `tokens` was."""
        self._trace.copy_(self._trace.roll(-tokens, 1))  # in place: recorded steps read it

    def _routed(self, layer: int, chosen: Any) -> None:
        tokens, k = chosen.shape
        follow_kernel[(tokens,)](self._trace[layer], self.gpu.position, chosen, K=k, num_warps=1)
