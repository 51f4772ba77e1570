"""Run by itself, with a SIMD form in force: prints which it is, digests of results, what its code holds."""

from __future__ import annotations

import hashlib
import json
import sys

import numba
import numpy as np

from localmoe.kernels import dot, dot_blocks, dot_tile_amx, geometry, kv_append, simd
from localmoe.kernels.cpu import bits
from localmoe.kernels.elementwise import quantize_row, rms_norm, swiglu
from localmoe.kernels.orders import LONE, ORDERS, int8_rows
from quant.blocks import FORMATS

INSTRUCTIONS = ("vpdpbusd", "vpmaddubsw", "pmaddubsw", "zmm", "ymm", "{vex}")
QUANTIZED = (
    "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "iq4_xs",
    "mxfp4",
)  # fmt: skip


def address(array: np.ndarray) -> int:
    return int(array.ctypes.data)


def results() -> dict[str, str]:
    """Digests of dot products, norms and gates of fixed data, by name."""
    rng = np.random.default_rng(0)
    tokens, cols = 3, 768
    x = rng.standard_normal((tokens, cols)).astype(np.float32)
    q = int8_rows(np.zeros((LONE * ORDERS + tokens, cols), np.int8))
    scales = np.zeros((tokens, 3), np.float32)
    sums, index = np.zeros((tokens, 48), np.int16), np.tile(np.arange(tokens, dtype=np.int32), 9)
    for t in range(tokens):
        quantize_row(address(x[t]), cols, address(q), address(scales), address(sums), t)
    activations = (address(q), address(scales), address(sums), address(index))
    out = {"quantized": digest(q, scales, sums)}
    for name in QUANTIZED:
        blocks, kind = random_blocks(name, cols, rng), FORMATS[name]
        for count in (tokens, 2 * tokens):  # few tokens take another way than many
            y, scratch = np.zeros((count, 16), np.float32), np.zeros(1 << 16, np.uint8)
            dot.dot_rows(
                0, kind.ggml_type, address(blocks), blocks.shape[1], 8, cols, kind.block_bytes,
                address(geometry.LEVELS), address(x), *activations, count, address(y), address(scratch),
                0,
            )  # fmt: skip
            out[f"{name} {count}"] = digest(np.ascontiguousarray(y[:, :8]))
        for count in (6, 26):
            y, y4, scratch = (np.zeros(size, np.float32) for size in ((count, 16), (count, 16), 1 << 15))
            dot.dot_two(
                0, kind.ggml_type, address(blocks), 4, address(blocks[4]), 4, blocks.shape[1], cols,
                kind.block_bytes, address(geometry.LEVELS), address(x), *activations, count, address(y),
                address(y4), address(scratch), 0,
            )  # fmt: skip
            out[f"{name} two tiles, {count}"] = digest(np.hstack([y[:, :4], y4[:, :4]]))
    weight, normed = rng.standard_normal(cols).astype(np.float32), np.zeros(cols, np.float32)
    rms_norm(address(x[0]), address(weight), cols, 1e-5, address(normed))
    swiglu(address(x[1]), address(x[2]), cols)
    out |= {"rms_norm": digest(normed), "swiglu": digest(x[2]), "append": appended(rng)}
    return out | {"append, halves, normed": appended(rng, head_dim=64, pairs=29, halves=1, normed=True)}


def appended(
    rng: np.random.Generator, head_dim: int = 32, pairs: int = 13, halves: int = 0, normed: bool = False
) -> str:
    """Of a token's rotated q and k, and of a float16 KV cache to which it was appended."""
    heads, kv_heads, context = 4, 2, 256
    norm = rng.standard_normal(head_dim).astype(np.float32)
    norms = [address(norm) if normed else 0] * 2
    q, k, v = (rng.standard_normal((n, head_dim)).astype(np.float32) for n in (heads, kv_heads, kv_heads))
    table, step = rng.standard_normal((context, pairs, 2)).astype(np.float32), np.array([37])
    keys, values = (np.zeros((kv_heads, context, head_dim), np.float16) for _ in range(2))
    args = np.array([
        address(q), address(k), address(v), address(step), heads, kv_heads, head_dim, address(table), pairs,
        context, address(keys), 0, address(values), 0, geometry.KV_F16, halves, *norms, bits(1e-5), 0,
    ])  # fmt: skip
    kv_append.append_task.ctypes(address(args), 0, 0)
    assert np.count_nonzero(keys) == np.count_nonzero(values) == kv_heads * head_dim
    return digest(q, k, keys, values)


def random_blocks(name: str, cols: int, rng: np.random.Generator) -> np.ndarray:
    kind = FORMATS[name]
    blocks = rng.integers(0, 256, (8, cols // kind.block_size, kind.block_bytes), dtype=np.uint8)
    if name == "mxfp4":
        blocks[..., 0] = rng.integers(0, 125, blocks.shape[:2])  # subnormal too
        return blocks.reshape(8, -1)
    for at in kind.halves:
        scales = (rng.standard_normal(blocks.shape[:2]) * 0.01).astype(np.float16)
        blocks[..., at : at + 2] = scales[..., None].view(np.uint8)
    return blocks.reshape(8, -1)


def digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()


def assembly() -> dict[str, int]:
    """How often each instruction or register stands in the Q4_0 kernel, compiled here and now; `wide dots`:
    how many dot products are of whole AVX-512 registers. With AMX, `tile dots`: its products of matrices in
    the prefill of two tiles.
    """

    def quad_q4_0(r0, r1, r2, r3, cols, table, q, scales, sums, out, scratch):
        dot_blocks._quad(2, False, 8, False, r0, r1, r2, r3, cols, table, q, scales, sums, out, scratch)

    signature = "void(" + ", ".join(["int64"] * 11) + ")"
    settings = {"nogil": True, "boundscheck": False, "error_model": "numpy"}
    text = "".join(numba.njit(signature, **settings)(quad_q4_0).inspect_asm().values())
    wide = sum("vpdpbusd" in line and "zmm" in line for line in text.splitlines())
    found = {word: text.count(word) for word in INSTRUCTIONS} | {"wide dots": wide}
    if dot.AMX:

        def multiply(x, low, high, low2, high2, totals):
            dot_tile_amx._multiply(x, low, high, low2, high2, totals)

        signature = "void(" + ", ".join(["int64"] * 6) + ")"
        text = "".join(numba.njit(signature, **settings)(multiply).inspect_asm().values())
        found["tile dots"] = text.count("tdpb")
    return found


if __name__ == "__main__":
    report: dict[str, object] = {"form": simd.FORM, "assembly": assembly()}
    if "run" in sys.argv:
        report["results"] = results()
    print(json.dumps(report))
