"""The experts of a model whose weights stay where the file is mapped, and who listens to its routing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from localmoe.model.weights import ExpertTensors

Observer = Callable[[int, NDArray[np.int32]], None]  # (layer, chosen [tokens, k])


class MappedExperts:
    """One layer's experts, all of them in the mapped file: kernels follow the addresses and the system does
    the rest.
    """

    def __init__(self, layer: int, tensors: ExpertTensors, observers: list[Observer]) -> None:
        self.gate, self.up, self.down = tensors.gate, tensors.up, tensors.down
        self._layer, self._addresses, self._observers = layer, tensors.addresses, observers
        self._table = int(tensors.addresses.ctypes.data)

    def observe(self, chosen: NDArray[np.int32]) -> None:
        for observer in self._observers:
            observer(self._layer, chosen)

    def batches(self, used: NDArray[np.int32]) -> Iterator[tuple[NDArray[np.int32], int]]:
        yield used, self._table


class RoutingRecorder:
    """An observer that keeps every token's choices."""

    def __init__(self, layers: int) -> None:
        self._parts: list[list[NDArray[np.uint8]]] = [[] for _ in range(layers)]

    def __call__(self, layer: int, chosen: NDArray[np.int32]) -> None:
        self._parts[layer].append(chosen.astype(np.uint8))

    def routing(self) -> NDArray[np.uint8]:
        """uint8 [tokens, layers, k]: the experts of each token, in router order."""
        return np.stack([np.concatenate(parts) for parts in self._parts], axis=1)
