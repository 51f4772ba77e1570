"""A model's experts for `kernels.gpu.Gpu`: hot ones in slots on the device, the others pinned in RAM or in
the file.

Decoding follows the tables on the device without asking the host. Between steps the host fulfils wishes by
background copies (modes `cpu` and `split`, and experts that are only in the file), a few bytes per step.
Prefill goes expert by expert: each missing one is copied once per chunk while another is computed, into slots
that are still free or through transit slots; it evicts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localmoe.experts import policy
from localmoe.experts.layout import ExpertLayout
from localmoe.experts.statistics import ExpertStatistics
from localmoe.kernels.gpu import GpuRouter
from localmoe.kernels.gpu_resolve import HITS, MISSES, MOST_WISHES, WISHED
from localmoe.kernels.gpu_tiles import ExpertShape
from localmoe.model.gpu_copies import Arrival, Copies
from localmoe.model.gpu_expert_prefill import ExpertPass
from localmoe.model.gpu_host import HostExperts
from localmoe.model.gpu_tables import BACKGROUND, STREAM, DeviceTables

Tensor = Any  # torch.Tensor
MODES = ("stream", "cpu", "split")
SLICE = 256  # FFN rows that `split` does not divide: a block of a K-quant, of which down's columns are made
MOST_POLLS = 4_000_000  # looks of the GPU at the CPU's flag, a microsecond or more each: several seconds


@dataclass(slots=True)
class Admission:
    """An expert that is being copied into a slot behind the decoding."""

    layer: int
    expert: int
    slot: int
    coming: Future[Arrival]


class GpuResidency:
    """The experts of one model on one GPU. One decode step or prefill pass at a time."""

    def __init__(
        self, gpu: Any, layout: ExpertLayout, shapes: Sequence[ExpertShape], statistics: ExpertStatistics,
        slots: list[int],
        host: HostExperts, worker: Any = None, bytes_per_step: int | None = None,
    ) -> None:  # fmt: skip
        """`slots` per size class. `worker` is a handshake.Worker over `host.parts`; without one, every expert
        must be pinned, or have a slot that `warm` fills, and the mode is `stream`.
        """
        all_slots = sum(slots) == layout.layers * layout.experts
        if worker is None and not all_slots and not (host.home != 0).all():
            raise ValueError("experts that are only in the file are work for a CPU worker, and there is none")
        self.gpu, self.layout, self.shapes, self.host, self.worker = gpu, layout, shapes, host, worker
        self.k, self.ffn = statistics.chosen, shapes[0].gate.rows
        self.tables = DeviceTables(gpu, layout, statistics, slots, host.home, self.ffn)
        largest = max(c.slot_bytes for c in layout.classes)
        self.copies = Copies(gpu, host, largest)
        self.bytes_per_step = largest if bytes_per_step is None else bytes_per_step
        t = gpu.torch
        self._chosen = t.zeros((gpu.chunk, self.k), dtype=t.int32, device=gpu.device)
        self._weights = t.zeros((gpu.chunk, self.k), dtype=t.float32, device=gpu.device)
        self.epoch = t.zeros(1, dtype=t.int32, device=gpu.device)
        self._admissions: list[Admission] = []
        self._wishes_seen, self._misses_seen = 0, 0
        self.missed = 0  # experts that the last decode step missed
        self._pass = ExpertPass(gpu, layout, self.tables, self.copies, self.k)
        self._prefill_routing: list[NDArray[np.uint8]] = []
        self.mode, self.share = "stream", 1.0
        self.decoded = 0

    def layers(self) -> list[LayerExperts]:
        """One GpuExperts for each layer of the transformer."""
        return [LayerExperts(self, i) for i in range(self.layout.layers)]

    def set_mode(self, mode: str, share: float = 0.5) -> None:
        """`stream`, `cpu` or `split`; `share` of a miss's FFN rows, in whole slices, but not all of them, is
        the GPU's in `split`.
        """
        if mode not in MODES or (mode != "stream" and self.worker is None):
            raise ValueError(f"no mode {mode!r} here")
        split = min(max(1, round(share * self.ffn / SLICE)), (self.ffn - 1) // SLICE) * SLICE
        rows = {"stream": self.ffn, "cpu": 0, "split": split}[mode]
        self.mode, self.share = mode, rows / self.ffn
        self.tables.set_mode(STREAM if mode == "stream" else BACKGROUND, [rows] * (self.k + 1))

    # ------------------------------------------------------------ one token
    def decode(self, layer: int, x: Any, h: Any, router: GpuRouter) -> None:
        """Launches a layer's experts for one token. The same launches whatever the routing: they can be
        recorded.
        """
        gpu, t, shape = self.gpu, self.tables, self.shapes[layer]
        launch = gpu.launch
        work, chosen, weights = t.work, self._chosen[0], self._weights[0]
        self._route(h, router, 1)
        self._routed(layer, self._chosen[:1])
        launch.resolve(t, chosen, layer, work, self.ffn)
        if self.worker is not None:
            region = self.worker.region
            launch.post(region.address, self.epoch, h.values[0], chosen, work.rows, layer, self.ffn)
        launch.gate_up(h.planes, gpu.inner, shape, chosen, work.source, work.target, work.rows)
        launch.down(gpu.inner, x.values, weights, shape, chosen, work.source, work.target, work.rows)
        if self.worker is not None:
            launch.join(
                region.address, region.results, self.epoch, x.values[0], weights, work.rows, self.ffn,
                MOST_POLLS
            )

    def _route(self, h: Any, router: GpuRouter, tokens: int) -> None:
        gpu = self.gpu
        gpu.launch.route(
            h.values, h.planes, router.weight, router.bias, gpu.router_logits, self._chosen, self._weights,
            self.k, tokens,
        )  # fmt: skip

    def _routed(self, layer: int, chosen: Tensor) -> None:
        """A layer's router has chosen, int32 [tokens, k] on the device. Benchmarks put a recorded trace in
        its place.
        """

    def begin_step(self) -> None:
        """Before a decode step is launched: what has arrived is published; the worker wakes."""
        self._settle(wait=False)
        if self.worker is not None:
            self.worker.begin_step()

    def end_step(self) -> None:
        """After a decode step has ended on the device. Raises HandshakeError if the CPU's share was
        missed.
        """
        if self.worker is not None:
            self.worker.end_step()
        self.decoded += 1
        counters = self.tables.counters.cpu().numpy()
        wished, misses = int(counters[WISHED]), int(counters[MISSES])
        self.missed, self._misses_seen = misses - self._misses_seen, misses
        if wished != self._wishes_seen:
            self._fulfil(wished)

    def _fulfil(self, wished: int) -> None:
        """Starts copies for the step's best wishes, as far as its bytes go; what is left over will be wished
        again.
        """
        tables = self.tables
        first = max(self._wishes_seen, wished - MOST_WISHES)
        latest = tables.wishes.cpu().numpy()[np.arange(first, wished) % MOST_WISHES]
        self._wishes_seen = wished
        latest = latest[(latest[:, 2] >= policy.COPY_GAIN) | (latest[:, 1] < 0)]
        if not len(latest):
            return
        tables.pull()
        budget = self.bytes_per_step
        on_the_way = {(a.layer, a.expert) for a in self._admissions}
        for flat, victim, _ in latest[np.argsort(-latest[:, 2], kind="stable")].tolist():
            layer, expert = divmod(flat, self.layout.experts)
            if tables.slot_of_host[layer, expert] >= 0 or (layer, expert) in on_the_way:
                continue
            size = int(self.layout.expert_bytes[layer])
            slot = self._slot_for(layer, victim) if size <= budget else -1
            if slot < 0:
                continue
            budget -= size
            on_the_way.add((layer, expert))
            coming = self.copies.start_behind(layer, expert, tables.slot(layer, slot))
            self._admissions.append(Admission(layer, expert, slot, coming))

    def _slot_for(self, layer: int, victim: int) -> int:
        """A free slot, or that of the victim, which from now on is at home; -1 if it has left its slot
        meanwhile.
        """
        tables = self.tables
        if tables.free(layer):
            return tables.take_free(layer)
        if victim < 0:
            return -1
        victim_layer, victim_expert = divmod(victim, self.layout.experts)
        slot = int(tables.slot_of_host[victim_layer, victim_expert])
        if slot >= 0:
            tables.move(victim_layer, victim_expert, -1)
        return slot

    def _settle(self, wait: bool) -> None:
        """Publishes the experts that have arrived (or all, when waiting for them)."""
        left = []
        for admission in self._admissions:
            if wait or (admission.coming.done() and admission.coming.result().done()):
                arrival = admission.coming.result()
                if wait:
                    arrival.before_next(self.copies.compute_stream())
                self.tables.move(admission.layer, admission.expert, admission.slot)
            else:
                left.append(admission)
        self._admissions = left

    # ------------------------------------------------------------ many tokens
    def begin_prefill(self) -> None:
        """Before a pass of several tokens."""
        self._settle(wait=True)
        self.tables.pull()
        self._prefill_routing = []

    def prefill(self, layer: int, x: Any, h: Any, router: GpuRouter) -> None:
        """A layer's experts for many tokens: see gpu_expert_prefill."""
        tokens = self.gpu.tokens
        self._route(h, router, tokens)
        self._routed(layer, self._chosen[:tokens])
        chosen = self._chosen[:tokens].cpu().numpy()
        self._prefill_routing.append(chosen.astype(np.uint8))
        self._pass.run(layer, self.shapes[layer], chosen, self._weights[:tokens].contiguous(), x, h)

    def end_prefill(self) -> None:
        """After a pass of several tokens: its routing enters the statistics."""
        if len(self._prefill_routing) == self.layout.layers:
            self.tables.pull_statistics()
            self.tables.statistics.observe_tokens(np.stack(self._prefill_routing, axis=1))
            self.tables.push_statistics()

    # ------------------------------------------------------------ around it
    def warm(self) -> None:
        """Fills the slots with the experts that the statistics think most of. For the start, before any
        step.
        """
        tables = self.tables
        cold = tables.slot_of_host < 0
        for number, size_class in enumerate(self.layout.classes):
            of_class = np.zeros_like(cold)
            of_class[list(size_class.layers)] = True
            count = tables.slot_count[number] - int(tables.filled_host[number])
            for flat in policy.hottest(tables.statistics, cold & of_class, count).tolist():
                layer, expert = divmod(flat, self.layout.experts)
                slot = tables.take_free(layer)
                arrival = self.copies.start(layer, expert, tables.slot(layer, slot))
                arrival.before_next(self.copies.compute_stream())
                tables.move(layer, expert, slot)

    def status(self) -> dict[str, Any]:
        """Hit rate of decoding since the start (None before any), slots, bytes moved."""
        counters = self.tables.counters.cpu().numpy()
        looked_up = int(counters[HITS] + counters[MISSES])
        self.tables.pull()
        return {
            "mode": self.mode, "share": self.share, "hit_rate": int(counters[HITS]) / looked_up if looked_up
            else None,
            "hits": int(counters[HITS]), "misses": int(counters[MISSES]), "slot_bytes": self.tables.nbytes,
            "resident_experts": int((self.tables.slot_of_host >= 0).sum()),
            "experts": self.tables.slot_of_host.size,
            "bytes_copied": self.copies.bytes_copied,
        }  # fmt: skip

    def close(self) -> None:
        """Ends copies and the worker. The statistics are then in `tables.statistics`."""
        self._settle(wait=True)
        self.copies.close()
        if self.worker is not None:
            self.worker.close()
        self.tables.pull_statistics()


@dataclass(frozen=True, slots=True)
class LayerExperts:
    """One layer's view of the residency: what the transformer hands to `Gpu.add_experts`."""

    residency: GpuResidency
    layer: int

    def decode(self, gpu: Any, x: Any, h: Any, router: GpuRouter) -> None:
        self.residency.decode(self.layer, x, h, router)

    def prefill(self, gpu: Any, x: Any, h: Any, router: GpuRouter) -> None:
        self.residency.prefill(self.layer, x, h, router)
