"""Rows read one after another give the bits of rows read four at a time, on any CPU: only some read so."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_rows import QUANTIZED, address, quantized_activations, random_blocks, row_dots

from localmoe.kernels.ahead import ALONG
from localmoe.kernels.dot import arranged, reads_along
from localmoe.kernels.dot_blocks_along import arrange_blocks, rows_along_blocks
from localmoe.kernels.dot_float import F32, Q4_K, Q5_K, Q6_K, Q8_0
from localmoe.kernels.dot_k_along import arrange_k, rows_along_k
from localmoe.kernels.geometry import IQ4_NL_TABLE, SUMS
from quant.blocks import FORMATS
from quant.compiled import compiled, link

link(rows_along_k, rows_along_blocks)


@compiled("void(" + ", ".join(["int64"] * 11) + ")")
def _along(kind, rows, row_bytes, count, cols, table, q, scales, sums, out, scratch):
    if kind in (Q4_K, Q5_K, Q6_K):
        arrange_k(q, cols, scratch)
        x = q if kind == Q6_K else scratch
        rows_along_k(kind, rows, row_bytes, count, cols, x, scales, sums, out, scratch + cols)
    else:
        arrange_blocks(q, cols, scratch)
        x = q if kind == Q8_0 else scratch
        rows_along_blocks(kind, rows, row_bytes, count, cols, table, x, scales, sums, out, scratch + cols)


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("cols", [1024, 3072])
@pytest.mark.parametrize("rows", [1, 7, 16])
def test_rows_along_give_the_bits_of_four_at_a_time(name, cols, rows, rng):
    blocks = random_blocks(name, rows, cols, rng)
    a = quantized_activations(rng.standard_normal((3, cols)).astype(np.float32))
    # Two tokens at once are never read along; the poison behind `rows` results must stay.
    expected = row_dots(name, blocks, a, [2, 1])[0]
    out, scratch = np.full(17, 7, np.float32), np.full(cols // 4 + 4, np.nan, np.float32)
    _along(
        FORMATS[name].ggml_type, address(blocks), blocks.shape[1], rows, cols, address(IQ4_NL_TABLE),
        address(a.q[2]), address(a.scales[2]), address(a.sums[2]), address(out), address(scratch),
    )  # fmt: skip
    assert a.sums.shape[1] == cols // 256 * SUMS
    assert np.array_equal(out[:rows].view(np.int32), expected.view(np.int32))
    assert (out[rows:] == 7).all()


def test_only_a_lone_tokens_quantized_rows_of_whole_stretches_are_read_along():
    assert bool(reads_along(0, Q4_K, 1024, 1)) == (ALONG > 0)
    for other in ((1, Q4_K, 1024, 1), (0, F32, 1024, 1), (0, Q4_K, 1280, 1), (0, Q4_K, 1024, 2)):
        assert not reads_along(*other)


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("tokens", [1, 2])
def test_activations_are_copied_only_for_who_meets_them_in_another_order(name, tokens, rng):
    q, index = rng.integers(-127, 128, (3, 1024), np.int8), np.array([2, 0], np.int32)
    scratch = np.full(1024, 85, np.int8)
    at = arranged(0, FORMATS[name].ggml_type, 1024, address(q), address(index), tokens, address(scratch))
    if not ALONG or tokens > 1:
        assert at == address(q)
    elif name in ("q6_k", "q8_0"):
        assert at == address(q[2])
    else:
        assert at == address(scratch)
        assert sorted(scratch[:256]) == sorted(q[2, :256])
    assert (scratch == 85).all() == (at != address(scratch))
