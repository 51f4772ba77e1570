"""Working memory: where it starts."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from kernel_rows import address, quantized_activations

from localmoe.kernels.buffers import LINE, Block, Rows
from localmoe.kernels.elementwise import quantize_row
from localmoe.kernels.orders import ORDERS, reorder


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


def test_a_row_that_comes_to_the_front_does_so_in_every_order(rng):
    """A lone token's activations lie in the orders of codes too (`orders`)."""
    x = rng.standard_normal((3, 512)).astype(np.float32)
    rows, expected = Rows(3, 512, True), quantized_activations(x[2:])
    for t in range(3):
        quantize_row(address(x[t]), 512, rows.q, rows.scales, rows.sums, t)
    rows.to_front(2)
    reorder(expected.memory, 0)
    size = (ORDERS + 1) * 512
    first = np.ctypeslib.as_array((ctypes.c_int8 * size).from_address(rows.q - ORDERS * 512))
    np.testing.assert_array_equal(first.reshape(-1, 512), expected.memory[-ORDERS - 1 :])
