"""A model on a GPU: what lies where, and everything a decoder needs. `open_gpu` builds it from an open file.

Memory on the device, in this order: the weights that every token needs, the KV cache of the asked context,
buffers for a
chunk of prefill, transit slots; the rest are expert slots, the same share of every size class.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from localmoe.experts.layout import ExpertLayout
from localmoe.experts.store import StatisticsStore, default_directory
from localmoe.kernels.gpu import Gpu
from localmoe.kernels.gpu_memory import HostArena
from localmoe.kernels.gpu_tiles import ExpertShape
from localmoe.model.config import ModelConfig
from localmoe.model.gpu_auto import SETTINGS, ModeChooser, load_costs, save_costs
from localmoe.model.gpu_experts import SLICE, GpuResidency
from localmoe.model.gpu_host import HostExperts
from localmoe.model.gpu_plan import CHUNK, GpuPlan, budget_on, plan_gpu
from localmoe.model.transformer import Layer, Transformer
from localmoe.model.weights import ExpertTensors, LayerWeights, Weights
from quant.gguf import GGUFFile

KV_TYPES = ("f16", "q8_0")
CALIBRATION_S = 3.0


class GpuRuntime:
    """The pieces that decoders of one model share. Close it when done."""

    def __init__(
        self, gpu: Gpu, transformer: Transformer, config: ModelConfig, residency: GpuResidency | None,
        plan: GpuPlan, store: StatisticsStore | None, pool: Any,
    ) -> None:  # fmt: skip
        self.gpu, self.transformer, self.config = gpu, transformer, config
        self.residency, self.plan = residency, plan
        self.lock = threading.Lock()  # one pass at a time
        self.closed = False
        self._store, self._pool = store, pool
        self.chooser: ModeChooser | None = None
        self._costs_path: Path | None = None
        self._machine = ""

    @property
    def context(self) -> int:
        """The most positions of a conversation."""
        return int(self.gpu.rope.shape[0])

    def decoder(self, context: int | None = None, kv_type: str = "f16") -> Any:
        """A fresh KV cache, for one conversation of up to `context` positions (default, and at most: what the
        model was opened for).
        """
        from localmoe.model.decoder import checked_context
        from localmoe.model.gpu_decoder import GpuDecoder

        return GpuDecoder(self, checked_context(context, self.context), kv_type)

    def use_mode(self, mode: str, identity: str, share: float = 0.5) -> None:
        """`stream`, `cpu`, `split` or `auto`; auto calibrates now if this machine has not run this model
        before.
        """
        residency = self.residency
        if residency is None or residency.worker is None:
            return
        if mode != "auto":
            self.chooser = None
            residency.set_mode(mode, share)
            return
        self._machine = f"{self._device_name()}, {sum(self.plan.slots)} slots"
        self._costs_path = default_directory() / f"{identity}.modes.json"
        known = load_costs(self._costs_path, self._machine)
        self.chooser = ModeChooser(SETTINGS, known, slices=residency.ffn // SLICE)
        residency.set_mode(self.chooser.current.mode, self.chooser.current.share)
        if not self.chooser.settled:
            self._calibrate()

    def _calibrate(self) -> None:
        """Decodes tokens that nobody sees until every mode has been timed, or time is up; statistics stay as
        they were.
        """
        residency = self.residency
        if residency is None or self.chooser is None:
            return
        residency.tables.pull_statistics()
        before = residency.tables.statistics.snapshot()
        decoder = self.decoder(min(256, self.context))
        rng = np.random.default_rng(0)
        decoder.extend([int(rng.integers(self.config.vocab))])
        end = time.monotonic() + CALIBRATION_S
        while not self.chooser.settled and time.monotonic() < end and len(decoder.tokens) < decoder.context:
            decoder.extend([int(rng.integers(self.config.vocab))])
        for name, array in before.arrays().items():
            getattr(residency.tables.statistics, name)[:] = array
        residency.tables.push_statistics()

    def step_took(self, seconds: float) -> None:
        """A decode step's time, once the residency has ended it, for the choice of the mode."""
        if self.chooser is None or self.residency is None:
            return
        was_settled = self.chooser.settled
        if self.chooser.observe(seconds, self.residency.missed):
            self.residency.set_mode(self.chooser.current.mode, self.chooser.current.share)
        if self.chooser.settled and not was_settled and self._costs_path is not None:
            save_costs(self._costs_path, self._machine, self.chooser.costs)

    def _device_name(self) -> str:
        device = self.gpu.device
        return str(self.gpu.torch.cuda.get_device_name(device)) if device.type == "cuda" else "interpreter"

    def status(self) -> dict[str, Any]:
        """Device, memory, and the residency's own status."""
        return {
            "device": self._device_name(), "gpu_bytes": self.plan.total, "resident_share": self.plan.share,
            **(self.residency.status() if self.residency is not None else {}),
        }  # fmt: skip

    def close(self) -> None:
        """Saves the statistics, ends threads, frees the device's memory."""
        with self.lock:
            self.closed = True
            if self.residency is not None:
                self.residency.close()
                if self._store is not None and self.residency.tables.statistics.tokens:
                    self._store.save(self.residency.tables.statistics)
            if self._pool is not None:
                self._pool.close()
            self.gpu.close()


def open_gpu(
    file: GGUFFile, config: ModelConfig, weights: Weights, *, device: str, context: int, threads: int,
    identity: str,
    kv_type: str = "f16", gpu_memory: int | None = None, ram: int | None = None, mode: str = "auto",
    chunk: int = CHUNK,
    keep_statistics: bool = True,
) -> GpuRuntime:  # fmt: skip
    """Puts the model on `device` ("cuda", "cuda:N"; "cpu" under Triton's interpreter).

    Args:
        gpu_memory: most bytes of device memory to use; default: what is free, less a reserve.
        ram: most bytes of pinned host memory for experts; default: of what is free, as `gpu_plan` says.
        mode: "auto", "stream", "cpu" or "split".
        identity: names the files of what is learned about this model.

    Raises:
        UsageError: the settings cannot be met; the message says which would do.
    """
    from localmoe.kernels.handshake import PATIENCE, LayerFormats, Region, Worker
    from localmoe.kernels.pool import Pool
    from localmoe.model.memory import shape_of
    from localmoe.model.rope import rope_table

    on_gpu = device != "cpu"
    chunk = min(chunk, context)
    layout = ExpertLayout.of(file, config.layers, config.experts) if config.is_mixture else None
    budget = budget_on(device, gpu_memory)
    plan = plan_gpu(config, weights, layout, context, kv_type, chunk, budget, ram)
    gpu = Gpu(shape_of(config, file), device, chunk, rope_table(config, context, weights.rope_factors))
    _place_all(gpu, weights)
    if layout is None:
        return GpuRuntime(gpu, _transformer(weights, [None] * config.layers), config, None, plan, None, None)
    store = StatisticsStore(identity) if keep_statistics else None
    statistics = (store or StatisticsStore("0" * 8)).load(config.layers, config.experts, config.experts_used)
    host = HostExperts(layout, statistics, plan.copies, on_gpu)
    experts = [_experts_of(layer, i) for i, layer in enumerate(weights.layers)]
    shapes = [_expert_shape(gpu, e, layout, i) for i, e in enumerate(experts)]
    pool, worker = None, None
    if plan.share < 1:
        pool = Pool(max(1, threads - 1), PATIENCE)  # the thread that waits for the GPU keeps a core busy
        arena = HostArena(Region.nbytes_for(config.hidden, config.experts_used), on_gpu)
        region = Region(arena.address, config.hidden, config.experts_used, arena)
        formats = [LayerFormats(e.gate, e.up, e.down) for e in experts]
        worker = Worker(region, pool, formats, host.parts, config.ffn, gpu.shape.clamped)
    residency = GpuResidency(gpu, layout, shapes, statistics, plan.slots, host, worker)
    residency.warm()
    runtime = GpuRuntime(gpu, _transformer(weights, residency.layers()), config, residency, plan, store, pool)
    runtime.use_mode(mode, identity)
    return runtime


def _place_all(gpu: Gpu, weights: Weights) -> None:
    """Copies everything that every token needs to the device now, so that nothing is allocated later."""
    gpu.place(weights.embedding)
    gpu.place(weights.output)
    gpu.place_floats(weights.norm)
    for layer in weights.layers:
        for matrix in (layer.q, layer.k, layer.v, layer.output):
            gpu.place(matrix)
        for array in layer.floats():
            gpu.place_floats(array)


def _experts_of(layer: LayerWeights, number: int) -> ExpertTensors:
    if layer.experts is None:
        raise ValueError(f"layer {number} has no experts")
    return layer.experts


def _expert_shape(gpu: Gpu, experts: ExpertTensors, layout: ExpertLayout, number: int) -> ExpertShape:
    """How a layer's experts lie in a slot; their biases are on the device from now on."""
    gate, up, down = (gpu.place_bias(m, layout.experts) for m in (experts.gate, experts.up, experts.down))
    starts = layout.classes[int(layout.class_of[number])].starts
    return ExpertShape(gate, up, down, starts, gpu.shape.clamped)


def _transformer(weights: Weights, experts: list[Any]) -> Transformer:
    layers = [
        Layer(
            w.attention_norm, w.q, w.k, w.v, w.heads, w.output, w.ffn_norm, w.router, source, w.dense
        )
        for w, source in zip(weights.layers, experts, strict=True)
    ]
    return Transformer(weights.embedding, layers, weights.norm, weights.output)
