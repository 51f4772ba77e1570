"""How Triton matvec kernels read: a tile's codes, as words of 32 bits, and activations in planes.

A tile is [pieces, rows], pieces along the lanes, and everything in it has one layout: no exchange between
lanes until the sums of rows. Codes are loaded 16 bytes at a time where the format is aligned for it (Q4_K,
Q5_K), else 8 bytes at a time, shifted together where a block may begin between two words (Q4_0, Q5_0, Q3_K,
Q6_K, Q8_0), or word by word where blocks are aligned to no more (Q2_K, Q4_1).

Activations come in *planes* (`planar`): a word of four codes meets plane s with its byte s, and each plane
is cut again by which four of a piece's sixteen words a value belongs to, so that neighbouring lanes read
neighbouring 16 bytes. Plane s is multiplied by 2**(100 - 8 s) (`plane_lift`; `gpu_codes` says why), plane 3
as plane 2.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Which of two axes without neighbours goes along the lanes is the compiler's choice: the first until Triton
# 3.6, then the last. Pieces go there: a tile is [pieces, rows] or [rows, pieces].
_PIECES_FIRST = tl.constexpr(tuple(int(n) for n in triton.__version__.split(".")[:2]) < (3, 7))
PLANE_LIFTS = (2.0**100, 2.0**92, 2.0**84, 2.0**84)
DROP0, DROP1, DROP2 = tl.constexpr(2.0**-100), tl.constexpr(2.0**-92), tl.constexpr(2.0**-84)


def planes_of(cols: int) -> int:
    """Values that the planes of `cols` activations take: whole pieces of 64."""
    return -(-cols // 64) * 64


@triton.jit
def planar(i: tl.tensor, COLS: tl.constexpr) -> tl.tensor:
    """Where value i of COLS lies: planes [4 bytes, 4 quads of words, pieces of 64, 4 words]."""
    pieces: tl.constexpr = (COLS + 63) // 64
    return ((i % 4 * 4 + i // 16 % 4) * pieces + i // 64) * 4 + i // 4 % 4


@triton.jit
def plane_lift(i: tl.tensor) -> tl.tensor:
    """What value i is multiplied with in planes."""
    plane = i % 4
    return tl.where(plane == 0, 2.0**100, tl.where(plane == 1, 2.0**92, 2.0**84))


@triton.jit
def by_piece(value: tl.tensor) -> tl.tensor:
    """[pieces] as a tile's axis."""
    if _PIECES_FIRST:
        return value[:, None]
    else:
        return value[None, :]


@triton.jit
def by_row(value: tl.tensor) -> tl.tensor:
    """[rows] as a tile's axis."""
    if _PIECES_FIRST:
        return value[None, :]
    else:
        return value[:, None]


@triton.jit
def sum_pieces(tile: tl.tensor) -> tl.tensor:
    """A tile's sums [rows]."""
    if _PIECES_FIRST:
        return tl.sum(tile, 0)
    else:
        return tl.sum(tile, 1)


@triton.jit
def quad(row: tl.tensor, start: tl.tensor, mask: tl.tensor) -> tl.tensor:
    """Four neighbouring elements from `start` [pieces] of rows (pointers [rows]): four tensors [pieces,
    rows], by one load of 16 bytes where the alignment is known to allow it.

    Offsets are added to pointers of the loaded type: only so does the compiler see neighbours.
    """
    at = by_piece(start)[:, :, None] + tl.arange(0, 4)[None, None, :]
    inside = mask[:, :, None] & (tl.arange(0, 4) < 4)[None, None, :]
    value = tl.load(by_row(row)[:, :, None] + at, mask=inside, other=0)
    even, odd = tl.split(tl.reshape(value, [value.shape[0], value.shape[1], 2, 2]))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def _joined(low: tl.tensor, high: tl.tensor, shift: tl.tensor) -> tl.tensor:
    """32 of the 64 bits of two words, from bit `shift` on."""
    both = (high.to(tl.uint64) << 32) | low.to(tl.uint64)
    return (both >> shift).to(tl.uint32)


@triton.jit
def _near(row: tl.tensor, start: tl.tensor) -> tl.tensor:
    """For byte `start` [pieces] of rows (uint8 pointers [rows]), aligned to 2: pointers to the 8 bytes it
    lies in [pieces, rows], and how many bytes it lies behind their start.
    """
    at = by_row(row.to(tl.int64)) + by_piece(start)
    over = at & 7
    return (at - over).to(tl.pointer_type(tl.uint64)), over


@triton.jit
def two_words(row: tl.tensor, start: tl.tensor, mask: tl.tensor) -> tl.tensor:
    """Two words from byte `start`, aligned to 2 bytes: from the 8 bytes around it and the next 8, which
    are read only where they hold some of them.
    """
    p, over = _near(row, start)
    a, b = tl.load(p, mask=mask, other=0), tl.load(p + 1, mask=mask & (over != 0), other=0)
    late, shift = (over & 4) != 0, ((over & 2) * 8).to(tl.uint64)
    w1, w2 = (a >> 32).to(tl.uint32), b.to(tl.uint32)
    v0, v1 = tl.where(late, w1, a.to(tl.uint32)), tl.where(late, w2, w1)
    v2 = tl.where(late, (b >> 32).to(tl.uint32), w2)
    return _joined(v0, v1, shift), _joined(v1, v2, shift)


@triton.jit
def four_words(row: tl.tensor, start: tl.tensor, mask: tl.tensor) -> tl.tensor:
    """Four words from byte `start`, aligned to 2 bytes: as `two_words`."""
    p, over = _near(row, start)
    a, b = tl.load(p, mask=mask, other=0), tl.load(p + 1, mask=mask, other=0)
    c = tl.load(p + 2, mask=mask & (over != 0), other=0)
    late, shift = (over & 4) != 0, ((over & 2) * 8).to(tl.uint64)
    w1, w2, w3, w4 = (a >> 32).to(tl.uint32), b.to(tl.uint32), (b >> 32).to(tl.uint32), c.to(tl.uint32)
    v0, v1, v2 = tl.where(late, w1, a.to(tl.uint32)), tl.where(late, w2, w1), tl.where(late, w3, w2)
    v3, v4 = tl.where(late, w4, w3), tl.where(late, (c >> 32).to(tl.uint32), w4)
    return _joined(v0, v1, shift), _joined(v1, v2, shift), _joined(v2, v3, shift), _joined(v3, v4, shift)


@triton.jit
def byte_and_words(row: tl.tensor, start: tl.tensor, mask: tl.tensor) -> tl.tensor:
    """Byte `start`, of any alignment, and the four words that follow it: from the 8 bytes around it and the
    next 16, which hold some of them wherever it is.
    """
    p, over = _near(row, start)
    a, b = tl.load(p, mask=mask, other=0), tl.load(p + 1, mask=mask, other=0)
    c = tl.load(p + 2, mask=mask, other=0)
    over = over.to(tl.uint32)
    late, shift = (over & 4) != 0, (over & 3) * 8
    w1, w2, w3, w4 = (a >> 32).to(tl.uint32), b.to(tl.uint32), (b >> 32).to(tl.uint32), c.to(tl.uint32)
    v0, v1, v2 = tl.where(late, w1, a.to(tl.uint32)), tl.where(late, w2, w1), tl.where(late, w3, w2)
    v3, v4 = tl.where(late, w4, w3), tl.where(late, (c >> 32).to(tl.uint32), w4)
    head, shift = (v0 >> shift) & 0xFF, (shift + 8).to(tl.uint64)
    first, second, third = _joined(v0, v1, shift), _joined(v1, v2, shift), _joined(v2, v3, shift)
    return head, first, second, third, _joined(v3, v4, shift)


@triton.jit
def _sum_of(s0: tl.tensor, s1: tl.tensor, s2: tl.tensor, s3: tl.tensor) -> tl.tensor:
    """The sum of activations, from sums of lifted ones by plane."""
    return s0 * DROP0 + s1 * DROP1 + (s2 + s3) * DROP2


@triton.jit
def x_quads(x: tl.tensor, at: tl.tensor, inside: tl.tensor, PLANE: tl.constexpr) -> tl.tensor:
    """16 activations, four from `at` of each plane, as sixteen tensors pieces by 1, and their sum."""
    one, here = x + tl.zeros([1], tl.int32), by_piece(inside)
    a0, a1, a2, a3 = quad(one, at, here)
    b0, b1, b2, b3 = quad(one + PLANE, at, here)
    c0, c1, c2, c3 = quad(one + 2 * PLANE, at, here)
    d0, d1, d2, d3 = quad(one + 3 * PLANE, at, here)
    ab = (a0 + a1) + (a2 + a3), (b0 + b1) + (b2 + b3)
    total = _sum_of(ab[0], ab[1], (c0 + c1) + (c2 + c3), (d0 + d1) + (d2 + d3))
    return a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3, total
