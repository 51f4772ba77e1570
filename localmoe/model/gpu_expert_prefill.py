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
        resident ones first, the others as they arrive: half of the transit slots' together, while the next
        half's are copied.
        """
        gpu = self.gpu
        flat = chosen.reshape(-1)
        order = np.argsort(flat.astype(np.uint8), kind="stable").astype(np.int32)  # bytes: by radix
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
        ahead = len(self.tables.staging_addresses)
        together = max(1, ahead // 2)
        for turn in range(min(ahead, len(misses))):
            arrivals.append(self._fetch(layer, misses[turn], targets[turn], self.copies.mark()))
        self._compute(h, shape, hits.tolist(), pairs)
        for first in range(0, len(misses), together):
            turns = range(first, min(first + together, len(misses)))
            for turn in turns:
                arrivals[turn].before_next(self.copies.compute_stream())
            self._compute(h, shape, [misses[turn] for turn in turns], pairs)
            used = self.copies.mark()  # an event: their transit slots have been computed with
            for turn in turns:
                if turn + ahead < len(misses):
                    arrivals.append(self._fetch(layer, misses[turn + ahead], targets[turn + ahead], used))
                if targets[turn] >= 0:
                    self.tables.move(layer, misses[turn], targets[turn])
        place = gpu.to_device(place_of)
        gpu.launch.combine(x.values, gpu.out_many, weights, place, shape.down.rows, self.k, len(chosen))

    def _targets(self, layer: int, misses: list[int]) -> tuple[list[int], NDArray[np.int64]]:
        """A free slot for some of the missing (this layer's share of the free ones), a transit slot, written
        as -1 - number, for the rest; and the address of every expert int64 [experts].
        """
        tables = self.tables
        slot_of = tables.slot_of_host[layer].astype(np.int64)
        in_slot = tables.slot_address(layer, 0) + slot_of * tables.sizes[int(self.layout.class_of[layer])]
        place = np.where(slot_of >= 0, in_slot, tables.home_host[layer])
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
        """The active experts' outputs: one by one those whose tokens are work for a whole GPU, all others
        together.
        """
        gpu, counts, tiles = self.gpu, np.diff(pairs.starts_host), self.gpu.launch.tiles
        most_few = max(tiles.tokens, tiles.alone // (3 * shape.gate.rows * shape.gate.cols))
        few = [e for e in active if counts[e] <= most_few]
        for expert in active:
            if expert not in few:
                own = slice(int(pairs.starts_host[expert]), int(pairs.starts_host[expert + 1]))
                gpu.launch.expert_many(
                    h.half, gpu.inner_many[own], gpu.out_many[own], shape, expert,
                    int(pairs.place_host[expert]), pairs.token_of[own], gpu.scratch,
                )  # fmt: skip
        if few:
            listed, most = gpu.to_device(np.array(few, np.int32)), int(counts[few].max())
            gpu.launch.gate_up_many(h.half, gpu.inner_many, shape, listed, pairs.place, pairs.starts,
                                    pairs.token_of, most)  # fmt: skip
            gpu.launch.down_many(gpu.inner_many, gpu.out_many, shape, listed, pairs.place, pairs.starts, most)
