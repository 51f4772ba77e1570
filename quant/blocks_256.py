"""Formats with two levels of scales over 256 weights: Q2_K ... Q6_K and IQ4_XS.

A super-block holds 8 sub-blocks of 32 (Q4_K, Q5_K, IQ4_XS) or 16 of 16 (Q2_K, Q3_K, Q6_K), each with a small
integer scale (and minimum), over one or two float16 values for all.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from quant.block_format import BlockFormat, Bytes, Floats, bits, half, half_bytes, inverse, nibbles
from quant.blocks_32 import IQ4_LEVELS
from quant.search import affine, levels, spread_weight, symmetric

_F = np.float32


class _Super(BlockFormat):
    block_size = 256


def unpack_scales(data: Bytes) -> tuple[Bytes, Bytes]:
    """The 12 bytes of eight 6-bit scales and eight 6-bit minimums [n, 12] -> uint8 [n, 8] twice.

    Bytes 0-3 and 4-7 hold the first four scales and minimums in their low six bits, and in their top two the
    top of the last four; bytes 8-11 hold the low four bits of those: a scale's in the low nibble.
    """
    a, b, c = data[:, 0:4], data[:, 4:8], data[:, 8:12]
    low, four, top = np.uint8(63), np.uint8(15), np.uint8(48)
    scales = np.concatenate([a & low, c & four | a >> np.uint8(2) & top], axis=-1)
    minimums = np.concatenate([b & low, c >> np.uint8(4) | b >> np.uint8(2) & top], axis=-1)
    return scales, minimums


def pack_scales(scales: Bytes, minimums: Bytes) -> Bytes:
    """The inverse of `unpack_scales`."""
    four = np.uint8(4)
    a = scales[:, :4] | (scales[:, 4:] >> four) << np.uint8(6)
    b = minimums[:, :4] | (minimums[:, 4:] >> four) << np.uint8(6)
    c = scales[:, 4:] & np.uint8(15) | minimums[:, 4:] << four
    return np.concatenate([a, b, c], axis=-1)


class _SuperAffine(_Super):
    """w = d * scale * q - dmin * minimum, per sub-block of 32."""

    halves = (0, 2)
    top: ClassVar[int]

    def _unscale(self, blocks: Bytes, q: Bytes) -> Floats:
        """q uint8 [n, 8, 32] -> float32 [n, 256]."""
        scales, minimums = unpack_scales(blocks[:, 4:16])
        d = half(blocks[:, 0:2]) * scales.astype(_F)
        m = half(blocks[:, 2:4]) * minimums.astype(_F)
        return (d[..., None] * q.astype(_F) - m[..., None]).reshape(-1, 256)

    def _quantize(self, x: Floats, importance: Floats | None) -> tuple[Bytes, Bytes]:
        """-> the first 16 bytes of each block [n, 16], and q uint8 [n, 8, 32]."""
        parts = x.reshape(-1, 8, 32)
        squares = (parts * parts).mean(axis=-1, keepdims=True, dtype=_F)
        if importance is None:
            weight = np.sqrt(squares) + np.abs(parts)
        else:
            sigma2 = 2 * squares.mean(axis=1, keepdims=True, dtype=_F)
            weight = spread_weight(parts, importance.reshape(-1, 8, 32), sigma2)
        scale, minimum = affine(parts, weight, self.top, floor=True)
        scale, minimum = scale[..., 0], -minimum[..., 0]
        d = (scale.max(axis=-1, keepdims=True) / _F(63)).astype(np.float16).astype(_F)
        dmin = (minimum.max(axis=-1, keepdims=True) / _F(63)).astype(np.float16).astype(_F)
        scales = np.clip(np.rint(scale * inverse(d)), 0, 63).astype(np.uint8)
        minimums = np.clip(np.rint(minimum * inverse(dmin)), 0, 63).astype(np.uint8)
        q = levels(parts, (d * scales)[..., None], -(dmin * minimums)[..., None], 0, self.top)
        return np.concatenate([half_bytes(d), half_bytes(dmin), pack_scales(scales, minimums)], axis=-1), q


def _pack_nibble_pairs(q: Bytes) -> Bytes:
    """[n, 8, 32] of four bits -> [n, 128]: each 32 bytes hold two neighbouring sub-blocks."""
    pairs = q.reshape(-1, 4, 2, 32)
    return (pairs[:, :, 0] & np.uint8(15) | pairs[:, :, 1] << np.uint8(4)).reshape(-1, 128)


def _nibble_pairs(data: Bytes) -> Bytes:
    """The inverse of `_pack_nibble_pairs`."""
    return bits(data.reshape(-1, 4, 32), 4).reshape(-1, 8, 32)


class Q4_K(_SuperAffine):
    name, ggml_type, block_bytes, top = "q4_k", 12, 144, 15

    def _decode_blocks(self, blocks: Bytes) -> Floats:
        return self._unscale(blocks, _nibble_pairs(blocks[:, 16:]))

    def _encode_blocks(self, x: Floats, importance: Floats | None) -> Bytes:
        head, q = self._quantize(x, importance)
        return np.concatenate([head, _pack_nibble_pairs(q)], axis=-1)


class Q5_K(_SuperAffine):
    name, ggml_type, block_bytes, top = "q5_k", 13, 176, 31

    def _decode_blocks(self, blocks: Bytes) -> Floats:
        fifth = bits(blocks[:, 16:48], 1)  # [n, 8, 32]: bit i of byte j belongs to weight j of sub-block i
        return self._unscale(blocks, _nibble_pairs(blocks[:, 48:]) | fifth << np.uint8(4))

    def _encode_blocks(self, x: Floats, importance: Floats | None) -> Bytes:
        head, q = self._quantize(x, importance)
        fifth = np.packbits(q >> np.uint8(4), axis=1, bitorder="little").reshape(-1, 32)
        return np.concatenate([head, fifth, _pack_nibble_pairs(q)], axis=-1)


class Q6_K(_Super):
    """w = d * scale * (q - 32), a signed 8-bit scale per 16."""

    name, ggml_type, block_bytes, halves = "q6_k", 14, 210, (208,)

    def _decode_blocks(self, blocks: Bytes) -> Floats:
        low = bits(blocks[:, :128].reshape(-1, 2, 64), 4).reshape(-1, 8, 32)
        high = bits(blocks[:, 128:192].reshape(-1, 2, 32), 2).reshape(-1, 8, 32)
        q = (low | high << np.uint8(4)).astype(_F) - _F(32)
        scales = blocks[:, 192:208].view(np.int8).astype(_F)
        d = half(blocks[:, 208:210]) * scales
        return (d[..., None] * q.reshape(-1, 16, 16)).reshape(-1, 256)

    def _encode_blocks(self, x: Floats, importance: Floats | None) -> Bytes:
        parts = x.reshape(-1, 16, 16)
        weight = parts * parts if importance is None else importance.reshape(-1, 16, 16)
        scale = symmetric(parts, weight, 32)[0][..., 0]  # [n, 16]
        at = np.abs(scale).argmax(axis=-1, keepdims=True)
        peak = np.take_along_axis(scale, at, axis=-1)
        d = (peak / _F(-128)).astype(np.float16).astype(_F)
        scales = np.clip(np.rint(scale * inverse(d)), -128, 127)
        q = levels(parts, (d * scales)[..., None], 0.0, -32, 31).reshape(-1, 2, 4, 32)
        low = (q[:, :, :2] & np.uint8(15) | q[:, :, 2:] << np.uint8(4)).reshape(-1, 128)
        high = (q >> np.uint8(4) << np.arange(0, 8, 2, dtype=np.uint8)[:, None]).sum(axis=2, dtype=np.uint8)
        return np.concatenate(
            [low, high.reshape(-1, 64), scales.astype(np.int8).view(np.uint8), half_bytes(d)], axis=-1
        )


class Q2_K(_Super):
    """w = d * scale * q - dmin * minimum, four bits each of scale and minimum per 16; read only."""

    name, ggml_type, block_bytes, halves, writable = "q2_k", 10, 84, (80, 82), False

    def _decode_blocks(self, blocks: Bytes) -> Floats:
        scales, q = blocks[:, :16], bits(blocks[:, 16:80].reshape(-1, 2, 32), 2).reshape(-1, 16, 16)
        d = half(blocks[:, 80:82]) * (scales & np.uint8(15)).astype(_F)
        m = half(blocks[:, 82:84]) * (scales >> np.uint8(4)).astype(_F)
        return (d[..., None] * q.astype(_F) - m[..., None]).reshape(-1, 256)


class Q3_K(_Super):
    """w = d * (scale - 32) * (q - 4), a 6-bit scale per 16; read only."""

    name, ggml_type, block_bytes, halves, writable = "q3_k", 11, 110, (108,), False

    def _decode_blocks(self, blocks: Bytes) -> Floats:
        third = bits(blocks[:, :32], 1).reshape(-1, 16, 16)
        low = bits(blocks[:, 32:96].reshape(-1, 2, 32), 2).reshape(-1, 16, 16)
        q = (low | third << np.uint8(2)).astype(_F) - _F(4)
        high = bits(blocks[:, 104:108], 2).reshape(-1, 16)  # the top two bits of the sixteen scales
        scales = (nibbles(blocks[:, 96:104]) | high << np.uint8(4)).astype(_F) - _F(32)
        weights: Floats = (half(blocks[:, 108:110]) * scales)[..., None] * q
        return weights.reshape(-1, 256)


class IQ4_XS(_Super):
    """w = d * (scale - 32) * level[q], a 6-bit scale per 32, IQ4_NL's levels; read only."""

    name, ggml_type, block_bytes, halves, writable = "iq4_xs", 23, 136, (0,), False

    def _decode_blocks(self, blocks: Bytes) -> Floats:
        high = np.ascontiguousarray(blocks[:, 2:4]).view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16) & 3
        low = bits(blocks[:, 4:8], 4).swapaxes(1, 2).reshape(-1, 8)  # neighbours share a byte
        scales = (low | high.astype(np.uint8) << np.uint8(4)).astype(_F) - _F(32)
        level = IQ4_LEVELS[bits(blocks[:, 8:].reshape(-1, 8, 16), 4).reshape(-1, 8, 32)]
        weights: Floats = (half(blocks[:, 0:2]) * scales)[..., None] * level
        return weights.reshape(-1, 256)
