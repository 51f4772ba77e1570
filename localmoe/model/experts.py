"""The engine's end of expert residency: one object per layer that knows where its experts are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from localmoe.experts.residency import Residency
from localmoe.model.weights import ExpertTensors


class LayerExperts:
    """One layer's experts, wherever `residency` has them."""

    def __init__(self, layer: int, tensors: ExpertTensors, residency: Residency) -> None:
        self.gate, self.up, self.down = tensors.gate, tensors.up, tensors.down
        self._layer, self._residency = layer, residency

    @property
    def constant_table(self) -> int | None:
        """See `kernels.sources.ExpertSource`."""
        if self._residency.paged:
            return None
        return int(self._residency.table[self._layer].ctypes.data)

    def batches(
        self, chosen: NDArray[np.int32], computed: slice
    ) -> Iterator[tuple[NDArray[np.int32], int]]:
        """See `kernels.sources.ExpertSource`."""
        for active, table in self._residency.batches(self._layer, chosen, computed):
            yield active, int(table.ctypes.data)
