"""Decoding one token on the GPU: quantized linear layers and the chosen experts' FFNs, read through
addresses.

An expert's work is described in device memory, written by the resolve kernel (`gpu_resolve`):

    source int64 [k]   where its bytes are: a slot in GPU memory, or pinned host memory read over the bus
    target int64 [k]   where they are to be read from for computing; other than `source`: they are copied
    there on the way rows   int32 [k]   how many of its FFN rows the GPU computes: all, none, or a share (the
    CPU has the others)

A program that finds source ≠ target first copies just the rows that it needs, 16 bytes per thread, and then
computes from the copy, which lies in the L2 cache: bytes cross the bus once, in wide requests, and the
arithmetic is the same whatever the residency.
"""

from __future__ import annotations

import triton
import triton.language as tl

from localmoe.kernels.gpu_dot import row_dots
from localmoe.kernels.gpu_elementwise import gated
from localmoe.kernels.gpu_formats import floats_at, pointer8
from localmoe.kernels.gpu_words import planar, plane_lift


@triton.jit
def _rows_of(
    KIND: tl.constexpr, address: tl.tensor, bias: tl.tensor, x: tl.tensor, y: tl.tensor, first: tl.tensor,
    rows: tl.tensor, COLS: tl.constexpr, ROW_BYTES: tl.constexpr,
    ALIGN: tl.constexpr, R: tl.constexpr, PIECE: tl.constexpr, PIECES: tl.constexpr,
    ADD: tl.constexpr,
) -> None:  # fmt: skip
    r = first + tl.arange(0, R)
    row = pointer8(address, ALIGN) + r.to(tl.int64) * ROW_BYTES
    value = row_dots(KIND, row, r < rows, x, COLS // PIECE, COLS, R, PIECES)
    if bias is not None:
        value += tl.load(floats_at(bias) + r, mask=r < rows, other=0.0)
    if ADD:
        value += tl.load(y + r, mask=r < rows, other=0.0)
    tl.store(y + r, value, mask=r < rows)


@triton.jit
def linear_kernel(
    x: tl.tensor, y: tl.tensor, address: tl.tensor, bias: tl.tensor, rows: tl.tensor, KIND: tl.constexpr,
    COLS: tl.constexpr, ROW_BYTES: tl.constexpr,
    ALIGN: tl.constexpr, R: tl.constexpr, PIECE: tl.constexpr, PIECES: tl.constexpr,
    ADD: tl.constexpr,
) -> None:  # fmt: skip
    """y[rows] (+)= W · x + bias; x in planes [cols], y natural [rows], both float32. `bias`: an address, as
    in all kernels here, or None.
    """
    _rows_of(KIND, address, bias, x, y, tl.program_id(0) * R, rows, COLS, ROW_BYTES, ALIGN, R, PIECE,
             PIECES, ADD)


@triton.jit
def qkv_kernel(
    x: tl.tensor, q: tl.tensor, k: tl.tensor, v: tl.tensor, q_address: tl.tensor, k_address: tl.tensor,
    v_address: tl.tensor, q_bias: tl.tensor, k_bias: tl.tensor, v_bias: tl.tensor,
    Q_ROWS: tl.constexpr, KV_ROWS: tl.constexpr, Q_KIND: tl.constexpr,
    K_KIND: tl.constexpr, V_KIND: tl.constexpr, Q_BYTES: tl.constexpr, K_BYTES: tl.constexpr,
    V_BYTES: tl.constexpr, Q_ALIGN: tl.constexpr, K_ALIGN: tl.constexpr, V_ALIGN: tl.constexpr,
    Q_PIECE: tl.constexpr, K_PIECE: tl.constexpr, V_PIECE: tl.constexpr, Q_PIECES: tl.constexpr,
    K_PIECES: tl.constexpr, V_PIECES: tl.constexpr, COLS: tl.constexpr, R: tl.constexpr,
) -> None:  # fmt: skip
    """Three `linear_kernel`s of the same x in one launch. Grid: the programs of k, of v, then of q."""
    of_kv: tl.constexpr = (KV_ROWS + R - 1) // R
    number = tl.program_id(0)
    if number < of_kv:
        _rows_of(K_KIND, k_address, k_bias, x, k, number * R, KV_ROWS, COLS, K_BYTES, K_ALIGN, R, K_PIECE,
                 K_PIECES, False)
    elif number < 2 * of_kv:
        _rows_of(V_KIND, v_address, v_bias, x, v, (number - of_kv) * R, KV_ROWS, COLS, V_BYTES, V_ALIGN, R,
                 V_PIECE, V_PIECES, False)
    else:
        _rows_of(Q_KIND, q_address, q_bias, x, q, (number - 2 * of_kv) * R, Q_ROWS, COLS, Q_BYTES, Q_ALIGN,
                 R, Q_PIECE, Q_PIECES, False)


@triton.jit
def copy_bytes(source: tl.tensor, target: tl.tensor, nbytes: tl.tensor, WIDTH: tl.constexpr,
               SPAN: tl.constexpr) -> None:
    """nbytes from one address to another, SPAN words of 4 (or, where rows are aligned to 2, halves of 2)
    bytes at a time.
    """
    kind: tl.constexpr = tl.int32 if WIDTH >= 4 else tl.int16
    size: tl.constexpr = 4 if WIDTH >= 4 else 2
    read = tl.multiple_of(source.to(tl.pointer_type(kind)), WIDTH)
    write = tl.multiple_of(target.to(tl.pointer_type(kind)), WIDTH)
    for first in range(0, nbytes // size, SPAN):
        at = first + tl.arange(0, SPAN)
        here = at < nbytes // size
        tl.store(write + at, tl.load(read + at, mask=here, other=0), mask=here)


@triton.jit
def _copy_rows(KIND: tl.constexpr, source: tl.tensor, target: tl.tensor, nbytes: tl.tensor,
               WIDTH: tl.constexpr, SPAN: tl.constexpr) -> None:
    """`copy_bytes` of an expert's rows. Those of MXFP4 may begin anywhere: all of each 16 bytes that hold
    some of them, which lie alike in source and target. Who copies the neighbours writes the same there.
    """
    if KIND == 39:
        over = source & 15
        copy_bytes(source - over, target - over, (nbytes + over + 15) // 16 * 16, 16, SPAN)
    else:
        copy_bytes(source, target, nbytes, WIDTH, SPAN)


@triton.jit
def gate_up_kernel(
    x: tl.tensor, hidden: tl.tensor, source: tl.tensor, target: tl.tensor, gpu_rows: tl.tensor,
    chosen: tl.tensor, gate_bias: tl.tensor, up_bias: tl.tensor, UP_START: tl.constexpr, KIND: tl.constexpr,
    COLS: tl.constexpr, FFN: tl.constexpr, ROW_BYTES: tl.constexpr, ALIGN: tl.constexpr, R: tl.constexpr,
    PIECE: tl.constexpr, PIECES: tl.constexpr, SPAN: tl.constexpr, PLANES: tl.constexpr,
    CLAMPED: tl.constexpr,
) -> None:  # fmt: skip
    """hidden[choice] = the gated unit of gate · x and up · x for R FFN rows of a chosen expert; hidden [k,
    PLANES]. Biases float32 [experts, ffn], of the experts int32 [k] in `chosen`; all None without.

    Grid (k, ceil(ffn / R)): the choices alternate, so that reads over the bus and from GPU memory overlap.
    """
    choice, first = tl.program_id(0), tl.program_id(1) * R
    limit = tl.load(gpu_rows + choice)
    if first < limit:
        come_from, base = tl.load(source + choice), tl.load(target + choice)
        start = first.to(tl.int64) * ROW_BYTES
        if come_from != base:
            size = tl.minimum(R, limit - first) * ROW_BYTES
            _copy_rows(KIND, come_from + start, base + start, size, ALIGN, SPAN)
            _copy_rows(KIND, come_from + UP_START + start, base + UP_START + start, size, ALIGN, SPAN)
            tl.debug_barrier()
        # One tile holds R gate rows and R up rows, so that activations are loaded once.
        both = tl.arange(0, 2 * R)
        r = first + both % R
        offset = r.to(tl.int64) * ROW_BYTES + (both // R).to(tl.int64) * UP_START
        row = pointer8(base, ALIGN) + tl.multiple_of(offset, ALIGN)
        values = row_dots(KIND, row, r < limit, x, COLS // PIECE, COLS, 2 * R, PIECES)
        pairs = tl.reshape(values, [2, R])
        which = tl.arange(0, 2)[:, None]
        gate = tl.sum(tl.where(which == 0, pairs, 0.0), 0)
        up = tl.sum(tl.where(which == 1, pairs, 0.0), 0)
        out = first + tl.arange(0, R)
        if gate_bias is not None:
            own = tl.load(chosen + choice).to(tl.int64) * FFN + out
            gate += tl.load(floats_at(gate_bias) + own, mask=out < limit, other=0.0)
            up += tl.load(floats_at(up_bias) + own, mask=out < limit, other=0.0)
        value = gated(gate, up, CLAMPED) * plane_lift(out)
        tl.store(hidden + choice * PLANES + planar(out, FFN), value, mask=out < limit)


@triton.jit
def down_kernel(
    hidden: tl.tensor, y: tl.tensor, weights: tl.tensor, source: tl.tensor, target: tl.tensor,
    gpu_rows: tl.tensor, chosen: tl.tensor, bias: tl.tensor, k: tl.tensor, DOWN_START: tl.constexpr,
    KIND: tl.constexpr, FFN: tl.constexpr, ROWS: tl.constexpr, ROW_BYTES: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_BYTES: tl.constexpr, R: tl.constexpr, CHOICES: tl.constexpr,
    PIECE: tl.constexpr, PIECES: tl.constexpr, SPAN: tl.constexpr, PLANES: tl.constexpr,
) -> None:  # fmt: skip
    """y[r] += sum over k choices, in router order, of weight * (down · hidden[choice] + bias); R rows of
    `ROWS` per program. `k` is no constant: unrolled, the choices would take each other's registers. `bias`
    float32 [experts, ROWS], added first, also that of experts that are the CPU's.
    """
    # rows that are copied together may be aligned for wider requests than one (630 bytes of Q6_K, say)
    together: tl.constexpr = 16 if ROWS % R == 0 and R * ROW_BYTES % 16 == 0 else ALIGN
    first = tl.program_id(0) * R
    r = first + tl.arange(0, R)
    value = tl.load(y + r, mask=r < ROWS, other=0.0)
    if bias is not None:
        choice = tl.arange(0, CHOICES)
        expert = tl.load(chosen + choice, mask=choice < k, other=0).to(tl.int64)
        own = floats_at(bias) + expert[:, None] * ROWS + r[None, :]
        added = tl.load(own, mask=(choice < k)[:, None] & (r < ROWS)[None, :], other=0.0)
        value += tl.sum(tl.load(weights + choice, mask=choice < k, other=0.0)[:, None] * added, 0)
    for choice in range(k):
        limit = tl.load(gpu_rows + choice)
        if limit > 0:
            come_from, base = tl.load(source + choice), tl.load(target + choice)
            if come_from != base:
                read, write = come_from + DOWN_START, base + DOWN_START
                start = first.to(tl.int64) * ROW_BYTES
                if limit == FFN:
                    size = tl.minimum(R, ROWS - first) * ROW_BYTES
                    _copy_rows(KIND, read + start, write + start, size, together, SPAN)
                # only the first columns of each row, in whole words: a row's bytes are a multiple of them
                else:
                    size = (limit // BLOCK * BLOCK_BYTES + ALIGN - 1) // ALIGN * ALIGN
                    for i in range(tl.minimum(R, ROWS - first)):
                        at = start + i * ROW_BYTES
                        _copy_rows(KIND, read + at, write + at, size, ALIGN, SPAN)
                tl.debug_barrier()
            # the hint goes to what was loaded: added to first, it would be lost
            row = pointer8(base, ALIGN) + DOWN_START + r.to(tl.int64) * ROW_BYTES
            x = tl.multiple_of(hidden + choice * PLANES, 16)
            out = row_dots(KIND, row, r < ROWS, x, limit // PIECE, FFN, R, PIECES)
            value += tl.load(weights + choice) * out
    tl.store(y + r, value, mask=r < ROWS)
