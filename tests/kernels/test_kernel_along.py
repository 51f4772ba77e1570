"""Rows read one after another give the bits of rows read four at a time, on any CPU: only some read so."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_rows import QUANTIZED, address, quantized_activations, random_blocks, row_dots

from localmoe.kernels.ahead import ALONG
from localmoe.kernels.dot import reads_along
from localmoe.kernels.dot_blocks_along import rows_along_blocks
from localmoe.kernels.dot_float import F32
from localmoe.kernels.dot_k_along import rows_along_k
from localmoe.kernels.dot_k_pair import Q4_K, in_blocks_of_256
from localmoe.kernels.geometry import LEVELS, SUMS
from localmoe.kernels.orders import HALVES, LONE, ORDERS, PLACES, SUB_BLOCKS, int8_rows, reorder
from quant.blocks import FORMATS
from quant.compiled import compiled, link

link(rows_along_k, rows_along_blocks)


@compiled("void(" + ", ".join(["int64"] * 12) + ")")
def _along(kind, rows, row_bytes, count, cols, table, x, scales, sums, out, terms, then):
    if in_blocks_of_256(kind):
        rows_along_k(kind, rows, row_bytes, count, cols, table, x, scales, sums, out, terms, then)
    else:
        rows_along_blocks(kind, rows, row_bytes, count, cols, table, x, scales, sums, out, terms, then)


def in_order_of(name, memory, row):
    """A row's activations as a type meets them."""
    if name in ("q2_k", "q3_k", "q6_k", "q8_0"):
        return int8_rows(memory)[row]
    order = SUB_BLOCKS if name in ("q4_k", "q5_k") else HALVES
    return memory[LONE * ORDERS - 1 - (row * ORDERS + order)]


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("cols", [1024, 3072])
@pytest.mark.parametrize("rows", [1, 7, 16])
def test_rows_along_give_the_bits_of_four_at_a_time(name, cols, rows, rng):
    blocks = random_blocks(name, rows, cols, rng)
    a = quantized_activations(rng.standard_normal((3, cols)).astype(np.float32))
    reorder(a.memory, 2)
    # Two tokens at once are never read along; the poison behind the last four results must stay.
    expected = row_dots(name, blocks, a, [2, 1])[0]
    out, terms = np.full(20, 7, np.float32), np.full(cols // 64, np.nan, np.float32)
    _along(
        FORMATS[name].ggml_type, address(blocks), blocks.shape[1], rows, cols, address(LEVELS),
        address(in_order_of(name, a.memory, 2)), address(a.scales[2]), address(a.sums[2]), address(out),
        address(terms), 0,
    )  # fmt: skip
    assert a.sums.shape[1] == cols // 256 * SUMS
    assert np.array_equal(out[:rows].view(np.int32), expected.view(np.int32))
    assert (out[-(-rows // 4) * 4 :] == 7).all()


def test_only_a_lone_tokens_quantized_rows_of_whole_stretches_are_read_along():
    first, beyond = np.array([LONE - 1], np.int32), np.array([LONE], np.int32)
    assert bool(reads_along(0, Q4_K, 1024, address(first), 1)) == (ALONG > 0)
    for other in ((1, Q4_K, 1024, first, 1), (0, F32, 1024, first, 1), (0, Q4_K, 1280, first, 1),
                  (0, Q4_K, 1024, first, 2), (0, Q4_K, 1024, beyond, 1)):  # fmt: skip
        assert not reads_along(*other[:3], address(other[3]), other[4])


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_row_beyond_those_in_all_orders_has_the_same_bits(name, rng):
    blocks = random_blocks(name, 16, 1024, rng)
    a = quantized_activations(np.tile(rng.standard_normal(1024).astype(np.float32), (LONE + 2, 1)))
    near, beyond = row_dots(name, blocks, a, [LONE - 1]), row_dots(name, blocks, a, [LONE + 1])
    assert np.array_equal(near.view(np.int32), beyond.view(np.int32))


@pytest.mark.parametrize("cols", [512, 1024])
def test_activations_are_stored_in_the_orders_of_codes(cols, rng):
    """By whoever quantizes, where the CPU reads them; by `reorder` anywhere."""
    a = quantized_activations(rng.standard_normal((LONE + 2, cols)).astype(np.float32))
    stored = a.memory.copy()
    for row in range(LONE):
        reorder(a.memory, row)
        parts = a.q[row].reshape(-1, 16, 16)
        sub_blocks = in_order_of("q4_k", a.memory, row).reshape(-1, 8, 32)
        np.testing.assert_array_equal(sub_blocks[:, [0, 2, 1, 3, 4, 6, 5, 7]], parts.reshape(-1, 8, 32))
        halves = in_order_of("q4_0", a.memory, row).reshape(-1, 2, 2, 4, 16)
        np.testing.assert_array_equal(halves.swapaxes(2, 3).reshape(parts.shape), parts)
    if ALONG:
        np.testing.assert_array_equal(stored, a.memory)
    else:
        assert (stored[: LONE * ORDERS] == 85).all()  # nobody reads them
    np.testing.assert_array_equal(stored[LONE * ORDERS :], a.q)
    assert all(sorted(places) == list(range(16)) for places in PLACES)
