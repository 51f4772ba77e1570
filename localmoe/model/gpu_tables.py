"""What decides residency on the device: the address table, slots, routing statistics, as tensors for the
resolve kernel.

The device's copy is the truth while tokens are decoded; the host reads it back (`pull`) where it must decide
something
itself, and writes single entries (`move`) between steps, never during one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localmoe.experts.layout import ExpertLayout
from localmoe.experts.statistics import ExpertStatistics
from localmoe.kernels.gpu_resolve import MOST_WISHES

Tensor = Any  # torch.Tensor
STREAM, BACKGROUND = 0, 1  # values of `mode`: admit in the same pass, or by copies of the host


@dataclass(slots=True)
class Work:
    """Where one layer's chosen experts are read from and to, and how many FFN rows the GPU computes: see
    gpu_matvec.
    """

    source: Tensor
    target: Tensor
    rows: Tensor


class DeviceTables:
    """The tensors of `gpu_resolve.resolve_kernel`, by its names, and the slabs they point into."""

    def __init__(
        self, gpu: Any, layout: ExpertLayout, statistics: ExpertStatistics, slots: list[int],
        home: NDArray[np.int64],
        ffn: int,
    ) -> None:  # fmt: skip
        """`slots` per size class; `home` int64 [layers, experts]: pinned addresses, 0 where there is none."""
        t, k = gpu.torch, statistics.chosen
        self._gpu, self.layout, self.statistics, self.ffn = gpu, layout, statistics, ffn
        sizes = [c.slot_bytes for c in layout.classes]
        self.slabs = [gpu.empty(max(1, n) * size, dtype=t.uint8) for n,
            size in zip(slots, sizes, strict=True)]
        self.transit_bytes = max(sizes)
        self.transit = gpu.empty(max(2, k) * self.transit_bytes, dtype=t.uint8)
        self.staging_addresses = [int(self.transit.data_ptr()) + i * self.transit_bytes for i in range(max(2,
            k))]
        self.home_host, self.slot_count, self.sizes = home, slots, sizes
        self.slot_of_host = np.full((layout.layers, layout.experts), -1, np.int32)
        self.filled_host = np.zeros(len(slots), np.int32)
        d = gpu.to_device
        self.address, self.home, self.slot_of = d(home.copy()), d(home), d(self.slot_of_host)
        self.class_of = d(layout.class_of.astype(np.int32))
        self.slot_base = d(np.array([s.data_ptr() for s in self.slabs], np.int64))
        self.slot_bytes, self.slots = d(np.array(sizes, np.int64)), d(np.array(slots, np.int32))
        self.filled = d(self.filled_host)
        self.staging = d(np.array(self.staging_addresses, np.int64))
        self.mode = d(np.zeros(1, np.int32))
        self.share = d(np.full(k + 1, ffn, np.int32))
        self.counters, self.wishes = d(np.zeros(8, np.int64)), d(np.zeros((MOST_WISHES, 3), np.int32))
        self.work = Work(d(np.zeros(k, np.int64)), d(np.zeros(k, np.int64)), d(np.zeros(k, np.int32)))
        names = ("estimates", "used", "totals", "evidence", "pending", "clock")
        self.estimates, self.used, self.totals, self.evidence, self.pending, self.clock = (
            d(getattr(statistics, name)) for name in names
        )

    @property
    def nbytes(self) -> int:
        """Bytes of slots on the device, transit slots included."""
        return int(sum(s.numel() for s in self.slabs) + self.transit.numel())

    def set_mode(self, mode: int, rows_by_misses: list[int]) -> None:
        """How misses are handled from the next step on; `rows_by_misses` [k + 1]: FFN rows of a miss that
        the GPU computes.
        """
        self.mode.fill_(mode)
        self.share.copy_(self._gpu.to_device(np.array(rows_by_misses, np.int32)))

    def slot(self, layer: int, slot: int) -> Tensor:
        """The bytes of a slot of the layer's size class."""
        number = int(self.layout.class_of[layer])
        size = self.sizes[number]
        return self.slabs[number][slot * size : (slot + 1) * size]

    def slot_address(self, layer: int, slot: int) -> int:
        number = int(self.layout.class_of[layer])
        return int(self.slabs[number].data_ptr()) + slot * self.sizes[number]

    def free(self, layer: int) -> int:
        """Slots of the layer's size class that were never filled."""
        number = int(self.layout.class_of[layer])
        return int(self.slot_count[number] - self.filled_host[number])

    def take_free(self, layer: int) -> int:
        """A free slot, which is then no longer free."""
        number = int(self.layout.class_of[layer])
        slot = int(self.filled_host[number])
        self.filled_host[number] += 1
        self.filled[number] = slot + 1
        return slot

    def move(self, layer: int, expert: int, slot: int) -> None:
        """The expert is in `slot` from the next step on, or, if that is -1, at home."""
        self.slot_of_host[layer, expert] = slot
        self.slot_of[layer, expert] = slot
        home = int(self.home_host[layer, expert])
        self.address[layer, expert] = self.slot_address(layer, slot) if slot >= 0 else home

    def pull(self) -> None:
        """Reads back which expert is in which slot."""
        self.slot_of_host[:] = self.slot_of.cpu().numpy()
        self.filled_host[:] = self.filled.cpu().numpy()

    def pull_statistics(self) -> None:
        """Reads the routing statistics back into `statistics`."""
        for name, array in self.statistics.arrays().items():
            array[:] = getattr(self, name).cpu().numpy()

    def push_statistics(self) -> None:
        """Writes `statistics` to the device, after the host has changed them."""
        for name, array in self.statistics.arrays().items():
            getattr(self, name).copy_(self._gpu.to_device(array))
