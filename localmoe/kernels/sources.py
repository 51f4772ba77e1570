"""What the CPU's arithmetic asks of whoever keeps the bytes: one layer's KV cache, one layer's experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from localmoe.kernels.matrix import Matrix


class LayerCache(Protocol):
    """One layer of a KV cache, in the layout of `kernels.attention`."""

    @property
    def context(self) -> int: ...
    @property
    def kind(self) -> int:
        """KV_F16, KV_Q8_0 or KV_F32 of `kernels.attention`"""

    @property
    def addresses(self) -> tuple[int, int, int, int]:
        """keys, key scales, values, value scales"""


class ExpertSource(Protocol):
    """Where a layer's experts are while they are computed."""

    gate: Matrix  # type and shape of every expert's gate; its address is not used
    up: Matrix
    down: Matrix

    @property
    def constant_table(self) -> int | None:
        """The address of int64 [experts, 3], where every expert is for good; None if experts move."""

    def batches(
        self, chosen: NDArray[np.int32], computed: slice
    ) -> Iterator[tuple[NDArray[np.int32], int]]:
        """The experts that `chosen` [tokens, k] names for the tokens `computed`, each once, some at a time,
        with the address of int64 [experts, 3]: where each one's gate, up and down are until the next batch
        is asked for.
        """
