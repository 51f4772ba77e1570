"""Rows of every block type times activations, against NumPy; the same bits for any company."""

from __future__ import annotations

import kernel_reference as reference
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from kernel_rows import (
    FLOAT_TYPES,
    QUANTIZED,
    address,
    columns,
    decoded,
    dots,
    quantized_activations,
    random_blocks,
    row_dots,
    two_tiles,
)

from localmoe.kernels.dot_float import decode_row
from localmoe.kernels.geometry import LEVELS
from localmoe.kernels.matrix import KERNEL_TYPES
from quant.blocks import FORMATS

CASES = [(name, cols) for name in KERNEL_TYPES for cols in columns(name)]


def assert_close(got, expected, weights, x):
    """Within what float32 sums may lose: a share of the largest weight of a row times the activations' sum.

    One code that is off by one moves a result by about 1e-4 of that.
    """
    bound = np.abs(x).sum(1)[:, None] * np.abs(weights).max(1)[None]
    assert np.isfinite(got).all()
    np.testing.assert_array_less(np.abs(got - expected), 2e-6 * bound + 1e-30)


@pytest.mark.parametrize(("name", "cols"), CASES)
def test_dot_is_the_references(name, cols, rng):
    blocks, x = random_blocks(name, 5, cols, rng), rng.standard_normal((3, cols)).astype(np.float32)
    weights = decoded(name, blocks)
    seen = reference.as_int8(x) if name in QUANTIZED else x
    got = dots(name, blocks, quantized_activations(x), range(3))
    assert_close(got, reference.matvec(weights, seen), weights, x)


@pytest.mark.parametrize(("name", "cols"), CASES)
def test_exact_dot_keeps_activations_in_float(name, cols, rng):
    blocks, x = random_blocks(name, 4, cols, rng), rng.standard_normal((2, cols)).astype(np.float32)
    weights = decoded(name, blocks)
    got = dots(name, blocks, quantized_activations(x), range(2), exact=True)
    assert_close(got, reference.matvec(weights, x), weights, x)


@pytest.mark.parametrize(("name", "cols"), CASES)
def test_a_token_does_not_depend_on_its_company(name, cols, rng):
    blocks, x = random_blocks(name, 3, cols, rng), rng.standard_normal((9, cols)).astype(np.float32)
    a = quantized_activations(x)
    alone = np.concatenate([dots(name, blocks, a, [t]) for t in range(9)])
    for count in range(1, 10):
        index = rng.permutation(9)[:count]
        np.testing.assert_array_equal(row_dots(name, blocks, a, index), alone[index])


@pytest.mark.parametrize(("name", "cols"), CASES)
@pytest.mark.parametrize("exact", [False, True])
def test_sixteen_rows_at_once_give_the_bits_of_one(name, cols, exact, rng):
    """Whatever way is taken for few and many tokens, and where fewer than sixteen rows are left."""
    blocks, x = random_blocks(name, 16, cols, rng), rng.standard_normal((21, cols)).astype(np.float32)
    a = quantized_activations(x)
    alone = dots(name, blocks, a, range(21), exact)
    for count in (1, 2, 3, 5, 6, 7, 8, 9, 16, 21):
        index, rows = rng.permutation(21)[:count], int(rng.integers(1, 17))
        got = row_dots(name, blocks[:rows], a, index, exact)
        np.testing.assert_array_equal(got, alone[index, :rows])


@pytest.mark.parametrize(("name", "cols"), CASES)
@pytest.mark.parametrize("exact", [False, True])
def test_two_tiles_at_once_give_the_bits_of_each(name, cols, exact, rng):
    blocks, x = random_blocks(name, 32, cols, rng), rng.standard_normal((37, cols)).astype(np.float32)
    a = quantized_activations(x)
    for count in (1, 5, 6, 7, 8, 9, 21, 24, 37):
        index, first, second = rng.permutation(37)[:count], *(int(n) for n in rng.integers(1, 17, 2))
        one, other = blocks[:first], np.ascontiguousarray(blocks[16 : 16 + second])
        got = two_tiles(name, one, other, a, index, exact)
        np.testing.assert_array_equal(got[0], row_dots(name, one, a, index, exact))
        np.testing.assert_array_equal(got[1], row_dots(name, other, a, index, exact))


@pytest.mark.parametrize("name", QUANTIZED)
def test_largest_codes_and_activations_do_not_overflow(name, rng):
    cols = 768
    x = np.ones((2, cols), np.float32)
    x[1] = -1
    blocks = random_blocks(name, 3, cols, rng).reshape(3, -1, FORMATS[name].block_bytes)
    first, *_ = halves = FORMATS[name].halves or (0,)
    scales = slice(first, first + (1 if name == "mxfp4" else 2 * len(halves)))
    kept = blocks[..., scales].copy()
    blocks[0], blocks[1], blocks[2] = 0xFF, 0x7F, 0x80
    blocks[..., scales] = kept
    flat = blocks.reshape(3, -1)
    weights = decoded(name, flat)
    a = quantized_activations(x)
    assert_close(dots(name, flat, a, range(2)), reference.matvec(weights, x), weights, x)
    many = row_dots(name, flat, a, [0, 1] * 4)
    assert_close(many[:2], reference.matvec(weights, x), weights, x)
    for tile in two_tiles(name, flat, flat, a, [0, 1] * 13):
        assert_close(tile[:2], reference.matvec(weights, x), weights, x)


def test_every_power_that_scales_a_block_of_mxfp4_is_exact():
    """The two subnormal ones and the largest too, whether few tokens are multiplied or many."""
    blocks = np.zeros((256, 17), np.uint8)
    blocks[:, 0], blocks[:, 1] = np.arange(256), 1
    powers = decoded("mxfp4", blocks)[:, 0]
    assert (powers[0], powers[255]) == (2.0**-128, 2.0**127)
    x = np.zeros((1, 32), np.float32)
    x[0, :2] = 1, 127  # with this, their own scale is 1
    a = quantized_activations(x)
    for first in range(0, 256, 16):
        for tokens in (1, 6):
            got = row_dots("mxfp4", blocks[first : first + 16], a, [0] * tokens)
            np.testing.assert_array_equal(got, np.tile(powers[first : first + 16], (tokens, 1)))


@pytest.mark.parametrize("name", QUANTIZED)
def test_nothing_is_read_past_a_row(name, rng):
    """The bytes after a row belong to somebody else: they may be anything, and results stay."""
    for cols in columns(name):
        blocks, x = random_blocks(name, 1, cols, rng), rng.standard_normal((1, cols)).astype(np.float32)
        a = quantized_activations(x)
        results = []
        for filler in (0, 0x7E, 0xFF):
            room = np.full(blocks.size + 4096, filler, np.uint8)
            room[: blocks.size] = blocks[0]
            results.append(dots(name, room[None, : blocks.size], a, [0]))
        np.testing.assert_array_equal(results[1], results[0])
        np.testing.assert_array_equal(results[2], results[0])


@pytest.mark.parametrize("name", KERNEL_TYPES)
def test_decoded_rows_are_ggmls_to_the_bit(name, rng):
    kind = FORMATS[name]
    blocks = random_blocks(name, 6, 768, rng)
    if name not in FLOAT_TYPES:  # wild scales too: subnormal, huge, infinite
        blocks[2:] = rng.integers(0, 256, blocks[2:].shape, dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = dequantize(blocks, GGMLQuantizationType[name.upper()])
    got = np.full((6, 768), np.nan, np.float32)
    table = address(LEVELS)
    for row, out in zip(blocks, got, strict=True):
        decode_row(kind.ggml_type, address(row), 768, kind.block_bytes, table, address(out))
    same = (got.view(np.uint32) == expected.view(np.uint32)) | (np.isnan(got) & np.isnan(expected))
    assert same.all()
