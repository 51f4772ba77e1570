"""Four tokens times a panel of sixteen rows, step by step: four activations of each token, one broadcast,
meet four weights of every row.

With an instruction that adds four products to a 32-bit sum, each step is one of those. AVX2 has one that adds
two to a 16-bit sum, and one that widens: so products are added up as int16 for as many steps as cannot
overflow (a *run*), and widened once, by the instruction that multiplies by the scale. Both sums are exact.
"""

from __future__ import annotations

from localmoe.kernels.simd import (
    FORM,
    add_i32x16,
    load_i8x64,
    load_i32x16,
    mul_i32x16,
    splat_i32x16,
    zero_i32x16,
)
from localmoe.kernels.simd_dot import add_i16x32, dot_bytes, dot_levels, dot_pairs, multiply_pairs
from localmoe.kernels.simd_tile import as_i16x32, splat_4_bytes, twice_i16
from quant.compiled import compiled

IN_RUNS = FORM == "avx2"
# Steps whose sums of two products stay below 2**15, 2 * 127 * (15, 31 or 63) each; of codes of up to three
# bits as many as share a scale.
RUN_3, RUN_4, RUN_5, RUN_Q6 = 4, 8, 4, 2
LEVELS_RUN = 0  # weights of eight bits, as `dot_levels` takes them, are in no runs


@compiled(forceinline=True)
def _run4(panel: int, steps: int, q0: int, q1: int, q2: int, q3: int):
    """A run's sums of two products, for four tokens."""
    w = load_i8x64(panel)
    p0, p1 = multiply_pairs(w, splat_4_bytes(q0)), multiply_pairs(w, splat_4_bytes(q1))
    p2, p3 = multiply_pairs(w, splat_4_bytes(q2)), multiply_pairs(w, splat_4_bytes(q3))
    for k in range(1, steps):
        w = load_i8x64(panel + k * 64)
        p0 = add_i16x32(p0, multiply_pairs(w, splat_4_bytes(q0 + k * 4)))
        p1 = add_i16x32(p1, multiply_pairs(w, splat_4_bytes(q1 + k * 4)))
        p2 = add_i16x32(p2, multiply_pairs(w, splat_4_bytes(q2 + k * 4)))
        p3 = add_i16x32(p3, multiply_pairs(w, splat_4_bytes(q3 + k * 4)))
    return p0, p1, p2, p3


@compiled(forceinline=True)
def _in_runs(run: int, panel: int, steps: int, q0: int, q1: int, q2: int, q3: int, times, a0, a1, a2, a3):
    """Adds `times`, pairs of int16, times the dots of `steps` panel rows to four accumulators."""
    for k in range(0, steps, run):
        at = k * 4
        p0, p1, p2, p3 = _run4(panel + k * 64, run, q0 + at, q1 + at, q2 + at, q3 + at)
        a0, a1 = dot_pairs(a0, p0, times), dot_pairs(a1, p1, times)
        a2, a3 = dot_pairs(a2, p2, times), dot_pairs(a3, p3, times)
    return a0, a1, a2, a3


@compiled(forceinline=True)
def _by_step(wide: bool, panel: int, steps: int, q0: int, q1: int, q2: int, q3: int, a0, a1, a2, a3):
    """Adds the dots of `steps` panel rows to four accumulators (lanes: rows). wide: as for `level_dots4`."""
    for k in range(steps):
        w = load_i8x64(panel + k * 64)
        x0, x1 = splat_4_bytes(q0 + k * 4), splat_4_bytes(q1 + k * 4)
        x2, x3 = splat_4_bytes(q2 + k * 4), splat_4_bytes(q3 + k * 4)
        if wide:
            a0, a1 = dot_levels(a0, w, x0), dot_levels(a1, w, x1)
            a2, a3 = dot_levels(a2, w, x2), dot_levels(a3, w, x3)
        else:
            a0, a1 = dot_bytes(a0, w, x0), dot_bytes(a1, w, x1)
            a2, a3 = dot_bytes(a2, w, x2), dot_bytes(a3, w, x3)
    return a0, a1, a2, a3


@compiled(forceinline=True)
def scaled4(run: int, panel: int, steps: int, q0: int, q1: int, q2: int, q3: int, scales: int,
            s0, s1, s2, s3):  # fmt: skip
    """Adds the rows' scales (int32 [16]) times the dots of `steps` panel rows to four tokens' sums."""
    if IN_RUNS and run != LEVELS_RUN:
        pairs = twice_i16(load_i32x16(scales))
        return _in_runs(run, panel, steps, q0, q1, q2, q3, pairs, s0, s1, s2, s3)
    z = zero_i32x16()
    a0, a1, a2, a3 = _by_step(run == LEVELS_RUN, panel, steps, q0, q1, q2, q3, z, z, z, z)
    scale = load_i32x16(scales)
    s0, s1 = add_i32x16(s0, mul_i32x16(a0, scale)), add_i32x16(s1, mul_i32x16(a1, scale))
    return s0, s1, add_i32x16(s2, mul_i32x16(a2, scale)), add_i32x16(s3, mul_i32x16(a3, scale))


@compiled(forceinline=True)
def dots4(run: int, panel: int, q0: int, q1: int, q2: int, q3: int, a0, a1, a2, a3):
    """Adds the dots of a block's eight panel rows to four accumulators."""
    if IN_RUNS:
        one = as_i16x32(splat_i32x16(0x10001))
        return _in_runs(run, panel, 8, q0, q1, q2, q3, one, a0, a1, a2, a3)
    return _by_step(False, panel, 8, q0, q1, q2, q3, a0, a1, a2, a3)


@compiled(forceinline=True)
def level_dots4(panel: int, q0: int, q1: int, q2: int, q3: int, a0, a1, a2, a3):
    """The same for weights of eight bits, as `dot_levels` takes them."""
    return _by_step(True, panel, 8, q0, q1, q2, q3, a0, a1, a2, a3)
