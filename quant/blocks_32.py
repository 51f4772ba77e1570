"""Formats with one scale per 32 weights: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4.

Without an importance, Q4_0 ... Q8_0 encode as ggml's reference does, bit by bit (nearest level, scale from
the largest weight). With one, and for IQ4_NL, a search chooses the scale; MXFP4's is the better of two.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from quant.block_format import BlockFormat, Bytes, Floats, half, half_bytes, inverse, nibbles, pack_nibbles
from quant.search import affine, levels, spread_weight, symmetric

IQ4_LEVELS = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)  # not evenly spaced: close to the quantiles of a normal distribution
MXFP4_LEVELS = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)  # doubled
MXFP4_MIDDLES = (MXFP4_LEVELS[1:8] + MXFP4_LEVELS[:7]) / 2
MXFP4_LOWEST = -124  # the exponent that blocks of smaller weights are encoded with


def _fifth_bits(q: Bytes) -> Bytes:
    """uint8 [n, 32] -> bit 4 of each, packed into uint8 [n, 4]."""
    return np.packbits(q >> np.uint8(4) & np.uint8(1), axis=-1, bitorder="little")


def _with_fifth_bits(low: Bytes, high: Bytes) -> Bytes:
    """uint8 [n, 32] of four bits and their fifth bits uint8 [n, 4] -> uint8 [n, 32] of five bits."""
    return low | np.unpackbits(np.ascontiguousarray(high), axis=-1, bitorder="little") << np.uint8(4)


def _block_weight(x: Floats, importance: Floats) -> Floats:
    """Error weights of the 32-weight formats under an importance (sigma2 of the block, not of the row)."""
    return spread_weight(x, importance, (x * x).mean(axis=-1, keepdims=True, dtype=np.float32))


class _Symmetric(BlockFormat):
    """w = d * (q - half); d's sign puts the largest weight on level 0, the farthest from the middle."""

    block_size, halves = 32, (0,)
    half_range: ClassVar[int]

    def _quantize(self, x: Floats, importance: Floats | None) -> tuple[Floats, Bytes]:
        if importance is not None:
            d, q = symmetric(x, _block_weight(x, importance), self.half_range)
            return d, (q + self.half_range).astype(np.uint8)
        at = np.abs(x).argmax(axis=-1, keepdims=True)
        d = np.take_along_axis(x, at, axis=-1) / np.float32(-self.half_range)
        q = np.trunc(x * inverse(d) + np.float32(self.half_range + 0.5)).astype(np.uint8)
        return d, q.clip(0, 2 * self.half_range - 1)


class Q4_0(_Symmetric):
    name, ggml_type, block_bytes, half_range = "q4_0", 2, 18, 8

    def _decode_blocks(self, blocks: Bytes) -> Floats:
        return half(blocks[:, :2]) * (nibbles(blocks[:, 2:]).astype(np.float32) - np.float32(8))

    def _encode_blocks(self, x: Floats, importance: Floats | None) -> Bytes:
        d, q = self._quantize(x, importance)
        return np.concatenate([half_bytes(d), pack_nibbles(q)], axis=-1)


class Q5_0(_Symmetric):
    name, ggml_type, block_bytes, half_range = "q5_0", 6, 22, 16

    def _decode_blocks(self, blocks: Bytes) -> Floats:
        q = _with_fifth_bits(nibbles(blocks[:, 6:]), blocks[:, 2:6])
        return half(blocks[:, :2]) * (q.astype(np.float32) - np.float32(16))

    def _encode_blocks(self, x: Floats, importance: Floats | None) -> Bytes:
        d, q = self._quantize(x, importance)
        return np.concatenate([half_bytes(d), _fifth_bits(q), pack_nibbles(q)], axis=-1)


class _Affine(BlockFormat):
    """w = d * q + m."""

    block_size, halves = 32, (0, 2)
    top: ClassVar[int]

    def _quantize(self, x: Floats, importance: Floats | None) -> tuple[Floats, Floats, Bytes]:
        if importance is not None:
            d, m = affine(x, _block_weight(x, importance), self.top, floor=False)
            return d, m, levels(x, d, m, 0, self.top)
        m = x.min(axis=-1, keepdims=True)
        d = (x.max(axis=-1, keepdims=True) - m) / np.float32(self.top)
        q = np.trunc((x - m) * inverse(d) + np.float32(0.5)).astype(np.uint8)
        return d, m, q.clip(0, self.top)


class Q4_1(_Affine):
    name, ggml_type, block_bytes, top = "q4_1", 3, 20, 15

    def _decode_blocks(self, blocks: Bytes) -> Floats:
        return half(blocks[:, :2]) * nibbles(blocks[:, 4:]).astype(np.float32) + half(blocks[:, 2:4])

    def _encode_blocks(self, x: Floats, importance: Floats | None) -> Bytes:
        d, m, q = self._quantize(x, importance)
        return np.concatenate([half_bytes(d), half_bytes(m), pack_nibbles(q)], axis=-1)


class Q5_1(_Affine):
    name, ggml_type, block_bytes, top = "q5_1", 7, 24, 31

    def _decode_blocks(self, blocks: Bytes) -> Floats:
        q = _with_fifth_bits(nibbles(blocks[:, 8:]), blocks[:, 4:8])
        return half(blocks[:, :2]) * q.astype(np.float32) + half(blocks[:, 2:4])

    def _encode_blocks(self, x: Floats, importance: Floats | None) -> Bytes:
        d, m, q = self._quantize(x, importance)
        return np.concatenate([half_bytes(d), half_bytes(m), _fifth_bits(q), pack_nibbles(q)], axis=-1)


class Q8_0(BlockFormat):
    name, ggml_type, block_size, block_bytes, halves = "q8_0", 8, 32, 34, (0,)

    def _decode_blocks(self, blocks: Bytes) -> Floats:
        return blocks[:, 2:].view(np.int8).astype(np.float32) * half(blocks[:, :2])

    def _encode_blocks(self, x: Floats, importance: Floats | None) -> Bytes:
        """Eight bits need no search: an importance changes nothing, as in ggml."""
        d = np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)
        exact = x * inverse(d)
        size = np.abs(exact)
        down = np.floor(size)
        q = np.copysign(down + (size - down >= np.float32(0.5)), exact)  # halves away from zero, as roundf
        return np.concatenate([half_bytes(d), q.astype(np.int8).view(np.uint8)], axis=-1)


class IQ4_NL(BlockFormat):
    """w = d * level[q], sixteen levels that are not evenly spaced."""

    name, ggml_type, block_size, block_bytes, halves = "iq4_nl", 20, 32, 18, (0,)

    def _decode_blocks(self, blocks: Bytes) -> Floats:
        return half(blocks[:, :2]) * IQ4_LEVELS[nibbles(blocks[:, 2:])]

    def _encode_blocks(self, x: Floats, importance: Floats | None) -> Bytes:
        weight = x * x if importance is None else _block_weight(x, importance)
        at = np.abs(x).argmax(axis=-1, keepdims=True)
        peak = np.take_along_axis(x, at, axis=-1)
        best, d = np.full_like(peak, -1), np.zeros_like(peak)
        for end in (IQ4_LEVELS[0], IQ4_LEVELS[-1]):  # which end the largest weight lands near
            for step in np.arange(-14, 15, 2, dtype=np.float32):
                q = iq4_nearest(x * ((end + step) * inverse(peak)))
                wxq = (weight * x * IQ4_LEVELS[q]).sum(axis=-1, keepdims=True)
                wqq = (weight * IQ4_LEVELS[q] ** 2).sum(axis=-1, keepdims=True)
                gain = wxq * wxq * inverse(wqq)
                d = np.where(gain > best, wxq * inverse(wqq), d)
                best = np.maximum(gain, best)
        return np.concatenate([half_bytes(d), pack_nibbles(iq4_nearest(x * inverse(d)))], axis=-1)


def iq4_nearest(x: Floats) -> Bytes:
    """The index of the level nearest to each x."""
    return np.searchsorted((IQ4_LEVELS[1:] + IQ4_LEVELS[:-1]) / 2, x).astype(np.uint8)


class MXFP4(BlockFormat):
    """w = 2^(e - 128) * level[q]: OCP's microscaling float.

    ggml's power is the one with which the largest weight is 8 to 16 levels: those beyond 12 are cut off. Here
    the next one is taken where its error is smaller.
    """

    name, ggml_type, block_size, block_bytes = "mxfp4", 39, 32, 17

    def _encode_blocks(self, x: Floats, importance: Floats | None) -> Bytes:
        size = np.abs(x)
        peak = size.max(axis=-1, keepdims=True)
        power = np.maximum(np.frexp(peak)[1] - 1, MXFP4_LOWEST)
        y = np.ldexp(size, -power)  # the largest from 1 to 2
        usual, larger = (self._levels(y * np.float32(n), importance) for n in (8, 4))
        up = larger[1] * np.float32(4) < usual[1]
        q = np.where(up, larger[0], usual[0])
        e = np.where(peak > 0, power + 125 + up, 0)
        codes = q + np.uint8(8) * ((x < 0) & (q > 0))
        return np.concatenate([e.astype(np.uint8), pack_nibbles(codes.astype(np.uint8))], axis=-1)

    @staticmethod
    def _levels(z: Floats, importance: Floats | None) -> tuple[Bytes, Floats]:
        """The levels nearest to z, of two the smaller, and the squared error [n, 1], added up as a tree."""
        q = np.searchsorted(MXFP4_MIDDLES, z).astype(np.uint8)
        off = MXFP4_LEVELS[q] - z
        error = off * off if importance is None else importance * (off * off)
        error = error[:, :16] + error[:, 16:]
        while error.shape[1] > 1:
            error = error[:, ::2] + error[:, 1::2]
        return q, error

    def _decode_blocks(self, blocks: Bytes) -> Floats:
        d = np.ldexp(np.float32(1), blocks[:, :1].astype(np.int32) - 128)  # levels are doubled
        return d.astype(np.float32) * MXFP4_LEVELS[nibbles(blocks[:, 1:])]

    def not_finite(self, blocks: Bytes) -> npt.NDArray[np.bool_]:
        """255 is the scale that is no number."""
        bad: npt.NDArray[np.bool_] = blocks[:, 0] == 255
        return bad
