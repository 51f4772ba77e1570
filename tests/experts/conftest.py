"""Small model files whose bytes say which expert they belong to."""

import ctypes

import numpy as np
import pytest

from localmoe.experts.layout import ExpertLayout


class Experts:
    """A file of experts with known bytes: the oracle of the tests here."""

    def __init__(self, path, layers, experts, sizes, seed=0):
        """`sizes[layer]` are the bytes of gate, up and down in that layer."""
        self.path = path
        random = np.random.default_rng(seed)
        nbytes = np.array(sizes, np.int64)
        offsets = np.zeros((layers, experts, 3), np.int64)
        at, self.bytes, pieces = 32, {}, [bytes(32)]
        for layer in range(layers):
            for part in range(3):
                for expert in range(experts):
                    data = random.integers(0, 256, nbytes[layer, part], np.uint8).tobytes()
                    self.bytes[layer, expert, part] = data
                    offsets[layer, expert, part] = at
                    pieces.append(data)
                    at += len(data)
        self.image = np.frombuffer(b"".join(pieces), np.uint8)  # stands in for the mapped file
        path.write_bytes(self.image.tobytes())
        self.layout = ExpertLayout(path, offsets, offsets + self.image.ctypes.data, nbytes)

    def holds(self, layer, expert, addresses):
        """Whether the three addresses show exactly that expert, as a kernel would see it."""
        parts = [self.bytes[layer, expert, part] for part in range(3)]
        return all(
            ctypes.string_at(int(address), len(part)) == part
            for part, address in zip(parts, addresses, strict=True)
        )


@pytest.fixture
def make_experts(tmp_path):
    """make_experts(layers, experts, sizes=...) -> Experts; two size classes by default."""

    def make(layers=4, experts=8, sizes=None, seed=0):
        if sizes is None:
            sizes = [(1000, 1000, 900 if layer % 2 else 1400) for layer in range(layers)]
        return Experts(tmp_path / f"experts-{layers}-{experts}-{seed}.bin", layers, experts, sizes, seed)

    return make
