"""Experts in host memory: pinned, so that the GPU copies or reads them itself, as many as `--ram` or the free
memory allows; the rest stay in the mapped file, where only the CPU computes with them. Where every expert has
a slot on the GPU, none are pinned."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from localmoe.experts import policy
from localmoe.experts.layout import ExpertLayout
from localmoe.experts.statistics import ExpertStatistics
from localmoe.kernels.gpu_memory import HostArena, view_bytes


class HostExperts:
    """The pinned copies and where everything is.

    `home` int64 [layers, experts]: address of the pinned copy (gate, up, down at the size class's starts), or
    0.
    `parts` int64 [layers, experts, 3]: where the CPU finds gate, up and down: in the copy or in the mapped
    file.
    """

    def __init__(self, layout: ExpertLayout, statistics: ExpertStatistics, budget: int | None,
        pin: bool) -> None:
        """Copies the experts of the highest long-run worth, within `budget` bytes (None: all of them)."""
        self.layout = layout
        everything = np.ones((layout.layers, layout.experts), np.bool_)
        order = policy.hottest(statistics, everything, everything.size)
        chosen, total = [], 0
        for flat in order.tolist():
            size = layout.classes[int(layout.class_of[flat // layout.experts])].slot_bytes
            if budget is not None and total + size > budget:
                continue
            chosen.append((flat, total))
            total += size
        self.arena = HostArena(total, pin)
        self.home = np.zeros((layout.layers, layout.experts), np.int64)
        self.parts: NDArray[np.int64] = layout.addresses.copy()
        for flat, start in chosen:
            layer, expert = divmod(flat, layout.experts)
            self.fill(layer, expert, self.arena.bytes[start:])
            address = self.arena.address + start
            self.home[layer, expert] = address
            self.parts[layer, expert] = address + np.array(self._class(layer).starts)

    def _class(self, layer: int):  # type: ignore[no-untyped-def]  # SizeClass
        return self.layout.classes[int(self.layout.class_of[layer])]

    def fill(self, layer: int, expert: int, out: NDArray[np.uint8]) -> None:
        """Copies an expert from the file into `out` as it lies in a slot."""
        for part, start in enumerate(self._class(layer).starts):
            size = int(self.layout.nbytes[layer, part])
            out[start : start + size] = view_bytes(int(self.layout.addresses[layer, expert, part]), size)

    def start_of(self, layer: int, expert: int) -> int | None:
        """Where in the arena an expert begins, or None if it is only in the file."""
        home = int(self.home[layer, expert])
        return home - self.arena.address if home else None
