"""What goes into a GPU's memory, decided before anything is placed; and the same for people, with the RAM."""

from __future__ import annotations

from dataclasses import dataclass, replace

from localmoe.errors import UsageError
from localmoe.experts.layout import ExpertLayout
from localmoe.experts.plan import OF_AVAILABLE, Needs, Plan, available_memory, plan_beside_gpu
from localmoe.experts.sizes import format_size, round_up_setting
from localmoe.kernels.gpu_memory import free_bytes
from localmoe.kernels.gpu_tiles import ROUTED_AT_ONCE
from localmoe.kernels.matrix import Matrix
from localmoe.model.config import ModelConfig
from localmoe.model.kv_cache import KVCache
from localmoe.model.weights import Weights, bind
from quant.gguf import GGUFFile

# for the CUDA context, compiled kernels and what others on the device allocate meanwhile
SET_ASIDE = 640 << 20
CHUNK = 2048  # tokens computed at once in prefill


def budget_on(device: str, gpu_memory: int | None) -> int:
    """Bytes that may be planned on `device`: of `gpu_memory`, or else of what is free there, less a reserve.

    On "cpu", which is Triton's interpreter, all that is asked for.
    """
    if device == "cpu":
        return gpu_memory or 1 << 40
    free = free_bytes(device)
    return min(gpu_memory or free, free) - SET_ASIDE


@dataclass(frozen=True, slots=True)
class GpuPlan:
    """Bytes on the device and slots per size class; `share` of all experts have a slot. `copies`: most bytes
    of RAM for pinned copies of experts (None: for all).
    """

    weights: int
    kv: int
    buffers: int
    transit: int
    slots: list[int]
    slot_bytes: int
    share: float
    copies: int | None = 0

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.buffers + self.transit + self.slot_bytes


def plan_gpu(
    config: ModelConfig, weights: Weights, layout: ExpertLayout | None, context: int, kv_type: str,
    chunk: int, budget: int, ram: int | None = None
) -> GpuPlan:
    """What fits into `budget` bytes of device memory, and copies into `ram` bytes (None: see `_for_copies`).
    UsageError, with the least setting that would do, if the device's memory is not enough.
    """
    c = config
    fixed = sum({m.address: m.nbytes for m in (weights.embedding, weights.output)}.values())
    fixed += weights.norm.nbytes
    for layer in weights.layers:
        matrices = layer.q, layer.k, layer.v, layer.output, *(layer.dense or ())
        fixed += sum(m.nbytes + _bias_bytes(m) for m in matrices)
        fixed += sum(a.nbytes for a in layer.floats())
        if (e := layer.experts) is not None:  # their biases are there, wherever they are
            fixed += c.experts * sum(_bias_bytes(m) for m in (e.gate, e.up, e.down))
    room = -(-context // 256) * 256
    kv = KVCache.bytes_for(c, context, kv_type)
    pairs = chunk * max(1, c.experts_used)
    attention, routed_apart = c.heads * c.head_dim, c.experts if c.experts > ROUTED_AT_ONCE else 0
    widths = 2 * c.hidden + 2 * (attention + c.kv_heads * c.head_dim) + routed_apart
    buffers = chunk * (4 * widths + 2 * (c.hidden + attention)) + pairs * (2 * c.ffn + 4
        * c.hidden) + 2 * c.hidden * max(c.ffn, c.hidden, attention)
    buffers += c.heads * (room // 256) * (c.head_dim + 2) * 4 + context * c.rope_dim * 4 + c.vocab * 4
    if layout is None:
        if fixed + kv + buffers > budget:
            raise UsageError(_too_small(fixed + kv + buffers, budget))
        return GpuPlan(fixed, kv, buffers, 0, [], 0, 1.0)
    sizes = [k.slot_bytes for k in layout.classes]
    counts = [len(k.layers) * layout.experts for k in layout.classes]
    transit = max(2, c.experts_used) * max(sizes)
    left = budget - fixed - kv - buffers - transit
    if left < 0:
        raise UsageError(_too_small(budget - left, budget))
    share = min(1.0, left / sum(s * n for s, n in zip(sizes, counts, strict=True)))
    slots = [int(share * n) for n in counts]
    return GpuPlan(fixed, kv, buffers, transit, slots, sum(s * n for s, n in zip(sizes, slots, strict=True)),
                   sum(slots) / sum(counts), 0 if slots == counts else _for_copies(ram))  # fmt: skip


def _bias_bytes(matrix: Matrix) -> int:
    return matrix.rows * 4 if matrix.bias else 0


def _for_copies(ram: int | None) -> int | None:
    """`GpuPlan.copies` where some experts have no slot. Pinned memory cannot be taken back, so without a
    bound some of what is free is left to other programs and to the file's cache.
    """
    free = available_memory()
    return ram if ram is not None or free is None else int(free * OF_AVAILABLE)


def _too_small(needed: int, budget: int) -> str:
    return (
        f"{format_size(budget + SET_ASIDE)} of GPU memory are too little for this model and context: set"
        f" --gpu-memory {round_up_setting(needed + SET_ASIDE)} or more, a shorter --context, --kv-type q8_0,"
        " or --device cpu"
    )


def described(plan: GpuPlan, needs: Needs) -> Plan:
    """`plan` for people."""
    there = replace(needs, weights=plan.weights, kv_cache=plan.kv, scratch=plan.buffers)
    return plan_beside_gpu(there, tuple(plan.slots), plan.transit, plan.copies)


def plan_for_gpu(
    file: GGUFFile, config: ModelConfig, needs: Needs, kv_type: str, *, device: str, gpu_memory: int | None,
    ram: int | None,
) -> Plan:  # fmt: skip
    """What `open_gpu` would put where. UsageError, as from there, if it does not fit."""
    chunk = min(CHUNK, needs.context)
    budget = budget_on(device, gpu_memory)
    plan = plan_gpu(config, bind(file, config), needs.layout, needs.context, kv_type, chunk, budget, ram)
    return described(plan, needs)
