"""What reading rows one after another shares, whatever their type: see `dot_k_along`."""

from __future__ import annotations

from localmoe.kernels.simd import fma, load_f32, store_f32x4
from quant.compiled import compiled

AT_ONCE = 4  # groups of 256 weights of a row, whose number must be a multiple of it


@compiled(forceinline=True)
def add_in_order(acc, values, scales: int, slot: int):
    """Adds four groups' values, each times its activations' scale, to a row's sum, one after the other.
    slot: 16 bytes that nobody else uses, through which lanes become numbers: shuffles are what is scarce.
    """
    store_f32x4(slot, values)
    acc = fma(load_f32(slot), load_f32(scales), acc)
    acc = fma(load_f32(slot + 4), load_f32(scales + 4), acc)
    acc = fma(load_f32(slot + 8), load_f32(scales + 8), acc)
    return fma(load_f32(slot + 12), load_f32(scales + 12), acc)
