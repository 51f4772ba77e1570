"""What reading rows one after another shares, whatever their type: see `dot_k_along`."""

from __future__ import annotations

from localmoe.kernels.simd import fma4, load_f32, load_f32x16, splat_f32x4, store_f32x4, zero_f32x4
from localmoe.kernels.simd_quad import first_of_each, fourth_of_each, second_of_each, third_of_each
from quant.compiled import compiled

AT_ONCE = 4  # groups of 256 weights of a row, whose number must be a multiple of it
ROWS = 4  # whose sums are made together


@compiled(forceinline=True)
def keep(terms: int, g: int, row: int, values) -> None:
    """Keeps what groups g to g + 3 of a row, one of four, are worth; terms: 16 bytes for each group."""
    store_f32x4(terms + g * 16 + row * 16, values)


@compiled(forceinline=True)
def sums_of_rows(terms: int, groups: int, scales: int):
    """Four rows' sums of what was kept, each group's times its activations' scale, group after group."""
    acc = zero_f32x4()
    for g in range(0, groups, AT_ONCE):
        v, s = load_f32x16(terms + g * 16), scales + g * 4
        acc = fma4(first_of_each(v), splat_f32x4(load_f32(s)), acc)
        acc = fma4(second_of_each(v), splat_f32x4(load_f32(s + 4)), acc)
        acc = fma4(third_of_each(v), splat_f32x4(load_f32(s + 8)), acc)
        acc = fma4(fourth_of_each(v), splat_f32x4(load_f32(s + 12)), acc)
    return acc
