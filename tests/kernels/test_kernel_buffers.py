"""Working memory: where it starts."""

from __future__ import annotations

import numpy as np
import pytest

from localmoe.kernels.buffers import LINE, Block


@pytest.mark.parametrize("shape", [(1,), (3, 5), (7, 4096), (2, 1 << 20)])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_a_block_starts_with_a_cache_line(shape, kind):
    """At any size, small ones from the heap included: several, as one may start there by luck."""
    blocks = [Block.zeros(shape, kind) for _ in range(9)]
    for block in blocks:
        assert block.at % LINE == 0
        assert block.array.shape == shape
        assert block.array.dtype == kind
        assert not block.array.any()
