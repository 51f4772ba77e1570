"""The orders in which codes of 4 and 5 bits come out of their blocks, and int8 activations in each of them.

Rows read one after another (`dot_k_along`) meet activations that lie in the order of the codes. Whoever
quantizes a row of activations stores it in these orders too: a few stores for what thousands of rows of
weights meet. Only the first `LONE` rows of a buffer have them, which is where a lone token's are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from localmoe.kernels.ahead import ALONG
from localmoe.kernels.geometry import GROUP, SUMS
from localmoe.kernels.simd import store_i8x16
from quant.compiled import compiled

LONE = 8  # as many as most models choose experts for a token
SUB_BLOCKS, HALVES, ORDERS = 0, 1, 2  # Q4_K's and Q5_K's order, that of blocks of 32, how many orders
PART = 16  # activations that stay together
# Where each part of a group goes. Q4_K and Q5_K: sub-blocks of 32 as 0, 2, 1, 3, 4, 6, 5, 7. Blocks of 32:
# of four, the first half of each, then the second halves.
PLACES = np.array([[0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15],
                   [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]])  # fmt: skip


@compiled(forceinline=True)
def ordered(q: int, width: int, row: int, order: int) -> int:
    """Where a row below `LONE` lies in an order: before q, the address of the rows of `width` int8."""
    return int(q - (row * ORDERS + order + 1) * width)


@compiled(forceinline=True)
def store_part(v, q: int, width: int, row: int, group: int, part: int) -> None:
    """Stores 16 int8, a part of a row's group of 256, in every order that this CPU reads."""
    at = group * GROUP
    store_i8x16(q + row * width + at + part * PART, v)
    if ALONG and row < LONE:
        store_i8x16(ordered(q, width, row, SUB_BLOCKS) + at + PLACES[SUB_BLOCKS, part] * PART, v)
        store_i8x16(ordered(q, width, row, HALVES) + at + PLACES[HALVES, part] * PART, v)


def int8_rows(memory: NDArray[np.int8]) -> NDArray[np.int8]:
    """The rows of memory [`LONE * ORDERS` + rows, width]; what lies before them is for other orders."""
    return memory[LONE * ORDERS :]


def reorder(memory: NDArray[np.int8], row: int) -> None:
    """Writes a row below `LONE` of `int8_rows(memory)` in the other orders."""
    parts = int8_rows(memory)[row].reshape(-1, SUMS, PART)
    for order in range(ORDERS):
        other = memory[LONE * ORDERS - 1 - (row * ORDERS + order)].reshape(parts.shape)
        other[:, PLACES[order]] = parts
