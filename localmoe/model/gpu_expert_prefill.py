"""One layer's experts for many tokens on a GPU: each missing one is copied once, while another is
computed, into a slot that is still free or through a transit slot; nothing is evicted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localmoe.experts.layout import ExpertLayout
from localmoe.kernels.gpu_tiles import ExpertShape
from localmoe.model.gpu_copies import Arrival, Copies
from localmoe.model.gpu_tables import DeviceTables

Tensor = Any  # torch.Tensor


@dataclass(slots=True)
class Pairs:
    """A chunk's pairs of token and expert, sorted by expert: where each expert is (int64 [experts]), where
    its pairs start (int32 [experts + 1]), on the host and on the device, and their tokens (int32 [pairs]).
    """

    place_host: NDArray[np.int64]
    starts_host: NDArray[np.int32]
    place: Tensor
    starts: Tensor
    token_of: Tensor


class ExpertPass:
    """What a pass of many tokens needs of a `GpuResidency`."""

    def __init__(self, gpu: Any, layout: ExpertLayout, tables: DeviceTables, copies: Copies, k: int) -> None:
        self.gpu, self.layout, self.tables, self.copies, self.k = gpu, layout, tables, copies, k

    def run(
        self, layer: int, shape: ExpertShape, chosen: NDArray[np.int32], weights: Tensor, x: Any, h: Any
    ) -> None:
        """x += the outputs of the experts `chosen` int32 [tokens, k], with `weights` float32 [tokens, k]:
        resident ones first, the others one by one as they arrive.
        """
        gpu = self.gpu
        flat = chosen.reshape(-1)
        order = np.argsort(flat, kind="stable").astype(np.int32)
        counts = np.bincount(flat, minlength=self.layout.experts)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        place_of = np.empty_like(order)
        place_of[order] = np.arange(order.size, dtype=np.int32)
        resident = self.tables.slot_of_host[layer] >= 0
        hits = np.flatnonzero(counts * resident)
        misses = sorted(np.flatnonzero(counts * ~resident).tolist(), key=lambda e: -int(counts[e]))
        targets, place = self._targets(layer, misses)
        pairs = Pairs(
            place, starts, gpu.to_device(place), gpu.to_device(starts), gpu.to_device(order // self.k)
        )
        arrivals: list[Arrival] = []
        used: list[Any] = []  # events: the transit slot of the n-th miss has been computed with
        ahead = len(self.tables.staging_addresses)
        for turn in range(min(ahead, len(misses))):
            arrivals.append(self._fetch(layer, misses[turn], targets[turn], self.copies.mark()))
        self._compute(h, shape, hits.tolist(), pairs)
        for turn, expert in enumerate(misses):
            arrivals[turn].before_next(self.copies.compute_stream())
            self._compute(h, shape, [expert], pairs)
            used.append(self.copies.mark())
            if turn + ahead < len(misses):
                arrivals.append(self._fetch(layer, misses[turn + ahead], targets[turn + ahead], used[turn]))
            if targets[turn] >= 0:
                self.tables.move(layer, expert, targets[turn])
        place = gpu.to_device(place_of)
        gpu.launch.combine(x.values, gpu.out_many, weights, place, shape.down.rows, self.k, len(chosen))

    def _targets(self, layer: int, misses: list[int]) -> tuple[list[int], NDArray[np.int64]]:
        """A free slot for some of the missing (this layer's share of the free ones), a transit slot, written
        as -1 - number, for the rest; and the address of every expert int64 [experts].
        """
        tables = self.tables
        place = tables.home_host[layer].copy()
        for expert in np.flatnonzero(tables.slot_of_host[layer] >= 0):
            place[expert] = tables.slot_address(layer, int(tables.slot_of_host[layer, expert]))
        same = self.layout.classes[int(self.layout.class_of[layer])].layers
        share = -(-tables.free(layer) // sum(other >= layer for other in same))
        targets = []
        for turn, expert in enumerate(misses):
            if turn < share and tables.free(layer):
                targets.append(tables.take_free(layer))
                place[expert] = tables.slot_address(layer, targets[-1])
            else:
                number = turn % len(tables.staging_addresses)
                targets.append(-1 - number)
                place[expert] = tables.staging_addresses[number]
        return targets, place

    def _fetch(self, layer: int, expert: int, target: int, after: Any) -> Arrival:
        tables = self.tables
        if target >= 0:
            return self.copies.start(layer, expert, tables.slot(layer, target), after)
        at = (-1 - target) * tables.transit_bytes
        return self.copies.start(layer, expert, tables.transit[at : at + tables.transit_bytes], after)

    def _compute(self, h: Any, shape: ExpertShape, active: list[int], pairs: Pairs) -> None:
        """The active experts' outputs: one by one those of many tokens, all others together."""
        gpu, counts = self.gpu, np.diff(pairs.starts_host)
        few = [e for e in active if counts[e] <= gpu.launch.tiles.tokens]
        for expert in active:
            if expert not in few:
                own = slice(int(pairs.starts_host[expert]), int(pairs.starts_host[expert + 1]))
                gpu.launch.expert_many(
                    h.half, gpu.inner_many[own], gpu.out_many[own], shape, int(pairs.place_host[expert]),
                    pairs.token_of[own], gpu.scratch,
                )  # fmt: skip
        if few:
            listed, most = gpu.to_device(np.array(few, np.int32)), int(counts[few].max())
            gpu.launch.gate_up_many(h.half, gpu.inner_many, shape, listed, pairs.place, pairs.starts,
                                    pairs.token_of, most)  # fmt: skip
            gpu.launch.down_many(gpu.inner_many, gpu.out_many, shape, listed, pairs.place, pairs.starts, most)
