"""Where the items of jobs begin to read, as threads that wait for them are told."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from kernel_rows import address

from localmoe.kernels.attention import keys_of
from localmoe.kernels.geometry import BLOCK, KV_F16, KV_F32, KV_Q8_0
from localmoe.kernels.starts import block_start, down_start, linear_start


def start_of(start, args, item):
    words = np.array([*args, *[0] * 20], np.int64)
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(start.address)(
        address(words), item
    )


def test_of_up_to_three_matrices_each_item_begins_with_a_row_of_its_own():
    """Address, rows, row bytes, type, block bytes, y, first item, rows per item, bias."""
    first, second, third = [1000, 64, 10], [5000, 8, 20], [9000, 32, 30]
    told = [[*first, 0, 0, 0, 0, 16, 0], [*second, 0, 0, 0, 4, 8, 0], [*third, 0, 0, 0, 5, 16, 0]]
    matrices = np.array(told, np.int64)
    found = [start_of(linear_start, (address(matrices), 3), item) for item in range(7)]
    assert found == [1000, 1160, 1320, 1480, 5000, 9000, 9480]
    assert start_of(linear_start, (address(matrices), 1), 3) == 1480


def test_of_chosen_experts_each_item_begins_in_its_down():
    chosen = np.array([2, 0], np.int32)
    table = np.array([[1, 2, 1000], [3, 4, 2000], [5, 6, 3000]], np.int64)
    args = (address(chosen), 3, address(table), 0, 0, 0, 0, 0, 0, 10, *[0] * 9, 8)  # 3 items of 8 rows each
    found = [start_of(down_start, args, item) for item in range(6)]
    assert found == [3000, 3080, 3160, 1000, 1080, 1160]


@pytest.mark.parametrize(("kind", "type_"), [(KV_F16, np.float16), (KV_F32, np.float32), (KV_Q8_0, np.int8)])
@pytest.mark.parametrize(("position", "window"), [(0, 0), (600, 0), (600, 300), (700, 256)])
def test_of_attention_each_item_begins_with_a_blocks_keys(kind, type_, position, window):
    heads, head_dim, context = 3, 32, 1024
    keys, step = np.zeros((heads, context // 16, head_dim, 16), type_), np.array([position], np.int64)
    args = (0, 0, address(step), 6, heads, head_dim, context, address(keys), 0, 0, 0, kind, 0, window)
    oldest = max(0, position - window + 1) // BLOCK if window else 0
    item = 0
    for head in range(heads):
        for block in range(oldest, position // BLOCK + 1):
            assert start_of(block_start, args, item) == address(keys[head, block * BLOCK // 16 :])
            item += 1


@pytest.mark.parametrize(("position", "window"), [(0, 0), (511, 0), (600, 0), (600, 300), (700, 256)])
def test_of_each_items_keys_as_many_bytes_are_asked_for_as_count(position, window):
    """None behind the last item."""
    heads, head_dim, context = 3, 32, 1024
    keys, step = np.zeros((heads, context // 16, head_dim, 16), np.float16), np.array([position], np.int64)
    args = (0, 0, address(step), 6, heads, head_dim, context, address(keys), 0, 0, 0, KV_F16, 0, window)
    words = np.array([*args, *[0] * 20], np.int64)
    oldest = max(0, position - window + 1) // BLOCK if window else 0
    blocks = position // BLOCK + 1 - oldest
    for item in range(heads * blocks):
        at, size = keys_of(address(words), item)
        assert at == start_of(block_start, args, item)
        block = oldest + item % blocks
        tiles = -(-min(BLOCK, position + 1 - block * BLOCK) // 16)
        assert size == tiles * keys[0, 0].nbytes
    for item in (heads * blocks, heads * blocks + 1):
        assert keys_of(address(words), item)[1] == 0
