"""Does a GGUF file's metadata make sense, and do its tensors fit it? Asked before a model is converted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quant.errors import ModelFileError
from quant.families import FAMILIES, Family
from quant.hyperparameters import TOP, Settings, Sizes, check
from quant.tensor_files import show

_OPTIONAL = ("output.weight",)  # absent: the token embedding serves as output too
_EXTRA = ("rope_freqs.weight",)


def check_model(metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], path: Path) -> Sizes:
    """The model's sizes; ModelFileError names the metadata or tensor that is missing or contradicts them."""
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in FAMILIES:
        raise ModelFileError(
            f"{show(path)}: architecture {architecture!r} is not supported; {', '.join(FAMILIES)} are"
        )
    sizes = check(_sizes(FAMILIES[architecture], metadata, shapes, path), path)
    wanted = sizes.shapes()
    layer_names = [n for n in wanted if n not in TOP]
    expected = {n: wanted[n] for n in TOP}
    for layer in range(sizes.layers):
        expected |= {f"blk.{layer}.{n}": wanted[n] for n in layer_names}
    for name, shape in expected.items():
        if name not in shapes:
            if name in _OPTIONAL:
                continue
            raise ModelFileError(f"{show(path)}: tensor {name!r} is missing; the file is incomplete")
        if shapes[name] != shape:
            raise ModelFileError(
                f"{show(path)}: tensor {name!r} has the shape {list(shapes[name])}, the metadata want"
                f" {list(shape)}; it is damaged"
            )
    for name in shapes:
        if name not in expected and name not in _EXTRA:
            raise ModelFileError(
                f"{show(path)}: tensor {name!r} has no place in this architecture; the model cannot be used"
            )
    return sizes


def _sizes(
    family: Family, metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], path: Path
) -> Sizes:
    plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in metadata.items()}
    values, key = Settings(plain, path), family.key
    heads, hidden = values.integer(key("attention.head_count")), values.integer(key("embedding_length"))
    head = values.integer(key("attention.key_length"), max(1, hidden // heads))
    embedding = shapes.get("token_embd.weight", (0,))
    tokens = plain.get("tokenizer.ggml.tokens")
    vocabulary = values.integer(key("vocab_size"), len(tokens) if isinstance(tokens, list) else embedding[0])
    if isinstance(tokens, list) and len(tokens) != vocabulary:
        raise values.error(f"its tokenizer has {len(tokens)} tokens, its vocabulary {vocabulary}")
    if values.integer(key("attention.value_length"), head) != head:
        raise values.error("keys and values differ in width, which is not supported")
    fewest = family.least_experts
    experts = values.integer(
        key("expert_count"), None if fewest else 0, least=fewest, most=family.most_experts
    )
    return Sizes(
        family=family,
        vocabulary=vocabulary,
        hidden=hidden,
        layers=values.integer(key("block_count"), most=1 << 12),
        ffn=values.integer(key(family.ffn)),
        heads=heads,
        kv_heads=values.integer(key("attention.head_count_kv"), heads),
        head=head,
        context=values.integer(key("context_length")),
        epsilon=values.number(key("attention.layer_norm_rms_epsilon")),
        rope_base=values.number(key("rope.freq_base"), 1e4),
        experts=experts,
        used=values.integer(key("expert_used_count"), least=1) if experts else 0,
        window=_window(family, values),
        rotated=values.integer(key("rope.dimension_count"), head),
    )


def _window(family: Family, values: Settings) -> int:
    """Of a family whose layers have a window by turns, it must be stated."""
    by_turns, key = family.window_every > 1, family.key("attention.sliding_window")
    return values.integer(key, None if by_turns else 0, least=int(by_turns))
