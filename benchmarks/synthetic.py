"""Writes a random-weight GGUF of any size, shaped as a Mixtral, a Qwen3-MoE or a gpt-oss, for speed and
memory: its text means nothing.

    python benchmarks/synthetic.py OUT.gguf --hidden 2048 --ffn 7168 --layers 8 --type q4_k
    python benchmarks/synthetic.py OUT.gguf --hidden 4096 --ffn 14336 --layers 32 --heads 32 --kv 8 --recipe
    q4_k_m
    python benchmarks/synthetic.py OUT.gguf --architecture qwen3moe --ffn 768 --layers 48 --experts 128
    --used 8 --heads 32 --head 128 --kv 4 --recipe q4_k_m --repeat
    python benchmarks/synthetic.py OUT.gguf --architecture gpt-oss --hidden 2880 --ffn 2880 --layers 24
    --experts 32 --used 4 --heads 64 --head 64 --kv 8 --recipe mxfp4 --repeat

Blocks are drawn directly as valid ones, so a 28 GB file takes no 90 GB of floats; with `--repeat` large
matrices of one shape are the same rows, begun at different ones, and a file is written as fast as the disk
takes it. The defaults are a 3 B model.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from quant.blocks import FORMATS
from quant.families import FAMILIES
from quant.gguf_writer import GGUFWriter
from quant.recipes import more_bits

VOCABULARY = 32000
K_TYPES, WITH_MINIMUM = ("q4_k", "q5_k"), ("q4_1", "q5_1")
LEVELS = {"q4_0": 15, "q4_1": 15, "q5_0": 31, "q5_1": 31, "q8_0": 255, "q4_k": 15, "q5_k": 31, "q6_k": 63}


def random_blocks(rng: np.random.Generator, rows: int, cols: int, kind: str, deviation: float) -> np.ndarray:
    """uint8 [rows, bytes]: random blocks that decode to mean about 0 and about that deviation."""
    form = FORMATS[kind]
    if kind in ("f32", "f16"):
        values = rng.standard_normal((rows, cols), np.float32) * np.float32(deviation)
        return values.astype(np.float16 if kind == "f16" else np.float32).view(np.uint8)
    count = rows * cols // form.block_size
    blocks = rng.integers(0, 256, (count, form.block_bytes), dtype=np.uint8)
    if kind == "mxfp4":  # of its sixteen levels, doubled, the deviation is 5.9
        blocks[:, 0] = 128 + round(np.log2(deviation / 5.9))
        return blocks.reshape(rows, -1)

    def put(offset: int, value: float) -> None:
        blocks[:, offset : offset + 2] = np.full(count, value, np.float16).view(np.uint8).reshape(count, 2)

    if kind == "q3_k":  # scales of -32 to 31 and codes of -4 to 3, all as likely: 18.5 and 2.3 from zero
        put(108, deviation / 42.5)
        return blocks.reshape(rows, -1)
    if kind == "iq4_xs":  # scales likewise, and levels of 69
        put(0, deviation / (18.5 * 69))
        return blocks.reshape(rows, -1)
    if kind == "q2_k":  # a minimum of 1.5 scales, and of these 11.7
        blocks[:, :16] = rng.integers(8, 16, (count, 16), dtype=np.uint8) * 17
        put(80, deviation / (11.7 * 1.12))
        put(82, 1.5 * deviation / (11.7 * 1.12))
        return blocks.reshape(rows, -1)
    step = deviation / (LEVELS[kind] / np.sqrt(12))
    if kind in K_TYPES:
        scales = rng.integers(20, 44, (count, 8), dtype=np.uint8)  # scale and minimum share their 6 bits
        for j in range(4):
            blocks[:, 4 + j] = blocks[:, 8 + j] = scales[:, j] | ((scales[:, j + 4] >> 4) << 6)
            blocks[:, 12 + j] = (scales[:, j + 4] & 15) * 17
        put(0, step / 32)
        put(2, step / 32 * LEVELS[kind] / 2)
    elif kind == "q6_k":
        blocks[:, 192:208] = rng.integers(20, 44, (count, 16), dtype=np.uint8)
        put(208, step / 32)
    else:
        put(0, step)
        if kind in WITH_MINIMUM:
            put(2, -step * LEVELS[kind] / 2)
    return blocks.reshape(rows, -1)


def tokenizer() -> dict[str, Any]:
    """A SentencePiece vocabulary of the usual size: control tokens, bytes, then made-up words."""
    words = [f"▁w{i}" for i in range(VOCABULARY - 259)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *words],
        "tokenizer.ggml.scores": np.arange(0, -VOCABULARY, -1, dtype=np.float32),
        "tokenizer.ggml.token_type": np.array([2, 3, 3, *[6] * 256, *[1] * len(words)], np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
    }


def tensors(a: argparse.Namespace) -> Iterator[tuple[str, tuple[int, ...], str, float]]:
    """(name, shape, type, deviation) of every tensor."""
    head, narrow = head_of(a), 1 / np.sqrt(a.hidden)
    mixed, eight = a.recipe == "q4_k_m", a.experts == 8
    query, family = a.heads * head, FAMILIES[a.architecture]
    other = "q8_0" if a.recipe == "mxfp4" else a.type  # than experts
    own = "mxfp4" if a.recipe == "mxfp4" else a.type
    yield "token_embd.weight", (VOCABULARY, a.hidden), other, 1.0
    for i in range(a.layers):
        at = f"blk.{i}."
        down = "q6_k" if mixed and more_bits(i, a.layers) else own
        key = value = other
        if mixed:  # as `quant.recipes` mixes them
            key, value = ("q8_0", "q8_0") if eight else (a.type, down)
        yield at + "attn_norm.weight", (a.hidden,), "f32", 0.0
        yield f"{at}{family.ffn_norm}.weight", (a.hidden,), "f32", 0.0
        if family.sinks:
            yield at + "attn_sinks.weight", (a.heads,), "f32", 0.0
        if family.biased:
            for name, rows in (("q", query), ("k", a.kv * head), ("v", a.kv * head), ("output", a.hidden)):
                yield f"{at}attn_{name}.bias", (rows,), "f32", 0.0
            yield at + "ffn_gate_inp.bias", (a.experts,), "f32", 0.0
            for name, rows in (("gate", a.ffn), ("up", a.ffn), ("down", a.hidden)):
                yield f"{at}ffn_{name}_exps.bias", (a.experts, rows), "f32", 0.1
        if family.head_norms:
            yield at + "attn_q_norm.weight", (head,), "f32", 0.0
            yield at + "attn_k_norm.weight", (head,), "f32", 0.0
        yield at + "attn_q.weight", (query, a.hidden), other, narrow
        yield at + "attn_k.weight", (a.kv * head, a.hidden), key, narrow
        yield at + "attn_v.weight", (a.kv * head, a.hidden), value, narrow
        yield at + "attn_output.weight", (a.hidden, query), "q5_k" if mixed and eight else other, narrow
        yield at + "ffn_gate_inp.weight", (a.experts, a.hidden), "f32", 2 * narrow
        yield at + "ffn_gate_exps.weight", (a.experts, a.ffn, a.hidden), own, narrow
        yield at + "ffn_up_exps.weight", (a.experts, a.ffn, a.hidden), own, narrow
        yield at + "ffn_down_exps.weight", (a.experts, a.hidden, a.ffn), down, 1 / np.sqrt(a.ffn)
    yield "output_norm.weight", (a.hidden,), "f32", 0.0
    yield "output.weight", (VOCABULARY, a.hidden), other if a.recipe == "mxfp4" else "q6_k", narrow


def head_of(a: argparse.Namespace) -> int:
    """The width of a head."""
    return a.head or a.hidden // a.heads


class Drawing:
    """Random matrices, piece by piece; with `repeat`, large ones of one kind are drawn once and rotated."""

    def __init__(self, seed: int, repeat: bool) -> None:
        self._rng, self._repeat = np.random.default_rng(seed), repeat
        self._drawn: dict[tuple[int, int, str, float], np.ndarray] = {}

    def matrix(self, rows: int, cols: int, kind: str, deviation: float) -> Iterator[np.ndarray]:
        """The pieces of one matrix: each uint8, flat."""
        if not self._repeat or rows * cols < 1 << 20:  # a router's choices should differ from layer to layer
            yield random_blocks(self._rng, rows, cols, kind, deviation).reshape(-1)
            return
        key = rows, cols, kind, deviation
        if key not in self._drawn:
            self._drawn[key] = random_blocks(self._rng, rows, cols, kind, deviation)
        first = int(self._rng.integers(1, rows))
        yield self._drawn[key][first:].reshape(-1)
        yield self._drawn[key][:first].reshape(-1)


def write(out: Path, a: argparse.Namespace) -> None:
    """Writes the file expert by expert."""
    drawing, head = Drawing(a.seed, a.repeat), head_of(a)
    own = {
        "context_length": 32768, "embedding_length": a.hidden, "block_count": a.layers,
        "feed_forward_length": a.ffn, "expert_feed_forward_length": a.ffn, "attention.head_count": a.heads,
        "attention.head_count_kv": a.kv, "attention.key_length": head, "attention.value_length": head,
        "rope.freq_base": 1e6, "rope.dimension_count": head, "attention.layer_norm_rms_epsilon": 1e-5,
        "expert_count": a.experts, "expert_used_count": a.used, "vocab_size": VOCABULARY,
    }  # fmt: skip
    if a.architecture == "gpt-oss":
        own |= {
            "attention.sliding_window": 128, "rope.freq_base": 150000.0, "rope.scaling.type": "yarn",
            "rope.scaling.factor": 32.0, "rope.scaling.original_context_length": 4096,
        }  # fmt: skip
    metadata = {
        "general.architecture": a.architecture, "general.name": f"synthetic {out.stem}",
        **{f"{a.architecture}.{key}": value for key, value in own.items()}, **tokenizer(),
    }  # fmt: skip
    with GGUFWriter(out, metadata) as file:
        described = list(tensors(a))
        for name, shape, kind, _ in described:
            file.declare(name, shape, kind)
        for name, shape, kind, deviation in described:
            if len(shape) == 1:
                file.write(name, np.ones(shape, np.float32).view(np.uint8))
                continue
            for _ in range(shape[0] if len(shape) == 3 else 1):
                for piece in drawing.matrix(shape[-2], shape[-1], kind, deviation):
                    file.write(name, piece)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path)
    sizes = {
        "hidden": 2048, "ffn": 7168, "layers": 8, "experts": 8, "used": 2, "heads": 16, "head": 0, "kv": 4,
        "seed": 0,
    }  # fmt: skip
    for name, default in sizes.items():
        p.add_argument(f"--{name}", type=int, default=default)
    p.add_argument("--architecture", default="llama", choices=["llama", "qwen3moe", "gpt-oss"])
    other = ["q2_k", "q3_k", "iq4_xs", "mxfp4", "f16", "f32"]
    p.add_argument("--type", default="q4_k", choices=[*LEVELS, *other])
    p.add_argument("--recipe", choices=["q4_k_m", "mxfp4"], help="mix the types as that recipe does")
    p.add_argument("--repeat", action="store_true", help="draw large matrices once: much faster")
    return p


if __name__ == "__main__":
    arguments = parser().parse_args()
    write(arguments.out, arguments)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e9:.2f} GB")
