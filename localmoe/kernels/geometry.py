"""Sizes and signatures that buffers and kernels agree on. Importing this compiles nothing."""

from __future__ import annotations

import numpy as np

GROUP = 256  # activations that share a scale, and weights in a K-quant block
SUMS = GROUP // 16  # sums of activations that go with a group
TILE = 16  # weight rows that prefill multiplies at once; positions in a tile of keys
BLOCK = 256  # positions that attention merges at once
SCALED = 32  # dimensions that share a scale in a q8_0 KV cache
KV_F16, KV_Q8_0, KV_F32 = 0, 1, 2  # how a KV cache holds its numbers
TASK = "void(int64, int64, int64)"  # of the pool: the address of its arguments, the item, the worker

# Offsets in the scratch of one tile of weights: the panel, scales, minima (or offsets), d, dmin (or m); then
# the rows before transposing, a row's tail, and the terms of four tokens.
PANEL, SCALES, LOWS, D, M = 0, 4096, 5120, 6144, 6656
ROWS, ROW_SCALES, ROW_LOWS, TAIL, TERMS = 7168, 11264, 12288, 13312, 13824
TILE_BYTES = 13824 + 2048
# After two tiles' scratch, with AMX: panels of high bytes, sixteen tokens, their sums, the registers' shape.
HIGH_PANELS, AMX_TOKENS, AMX_TOTALS, AMX_CONFIG = 0, 8192, 12288, 16384
AMX_BYTES = 16384 + 64

# Levels that are not evenly spaced, made unsigned: IQ4_NL's plus 127 (ggml's kvalues_iq4nl), then MXFP4's
# plus 12 (kvalues_mxfp4).
_IQ4_NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int16) + 127
_MXFP4 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int16) + 12
LEVELS = np.concatenate([_IQ4_NL, _MXFP4]).astype(np.uint8)
MXFP4_AT = 16  # where those begin


def scratch_bytes(cols: int, tokens: int) -> int:
    """What `dot.dot_two` needs for one thread, a multiple of 64."""
    return -(-max(2 * TILE_BYTES + AMX_BYTES, (cols + tokens) * 4) // 64) * 64
