"""Which tensor gets which format: the mixtures that llama.cpp users know by name.

The rules are llama-quantize's for the supported architectures, dense and with experts, stated per tensor so
that a plan can be printed before anything is read. All experts of a tensor share one type, since they are
one tensor.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quant.blocks import FORMATS, block_format
from quant.errors import QuantError


@dataclass(frozen=True)
class Recipe:
    name: str
    base: str  # what a tensor gets that no rule singles out
    file_type: int  # GGUF's general.file_type


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("f32", "f32", 0),
        Recipe("f16", "f16", 1),
        Recipe("bf16", "bf16", 32),
        Recipe("q4_0", "q4_0", 2),
        Recipe("q4_1", "q4_1", 3),
        Recipe("q5_0", "q5_0", 8),
        Recipe("q5_1", "q5_1", 9),
        Recipe("q8_0", "q8_0", 7),
        Recipe("q4_k_s", "q4_k", 14),
        Recipe("q4_k_m", "q4_k", 15),
        Recipe("q5_k_s", "q5_k", 16),
        Recipe("q5_k_m", "q5_k", 17),
        Recipe("q6_k", "q6_k", 18),
        Recipe("mxfp4", "mxfp4", 38),
    )
}
_FALLBACK = {"q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}  # where a row is no multiple of 256
_UNQUANTIZED = ("f32", "f16", "bf16")


@dataclass(frozen=True)
class Model:
    """What the rules depend on."""

    layers: int
    experts: int = 0
    tied: bool = False  # the token embedding is the output matrix too
    importance: bool = False  # an importance matrix is given


@dataclass(frozen=True)
class Choice:
    type: str
    note: str = ""  # why it is not what the recipe says


def recipe_named(name: str) -> Recipe:
    """The recipe of that name, in any case; QuantError lists what there is."""
    try:
        return RECIPES[name.lower()]
    except KeyError:
        raise QuantError(f"unknown recipe {name!r}; there are {', '.join(RECIPES)}") from None


def default_recipe(architecture: str) -> Recipe:
    """What a model of that architecture gets where nothing is asked for."""
    return RECIPES["mxfp4" if architecture == "gpt-oss" else "q4_k_m"]


def parse_override(text: str) -> tuple[re.Pattern[str], str]:
    """"REGEX=TYPE", as `--tensor-type` takes it."""
    pattern, equals, kind = text.rpartition("=")
    if not equals or not pattern:
        raise QuantError(f"{text!r} is not of the form REGEX=TYPE, as in attn_v=q8_0")
    chosen = block_format(kind)
    if not chosen.writable:
        raise QuantError(f"{chosen.name} can be read, not written")
    try:
        return re.compile(pattern), chosen.name
    except re.error as error:
        raise QuantError(f"{pattern!r} is no regular expression: {error}") from None


def is_free(name: str, shape: Sequence[int]) -> bool:
    """May the type be chosen? Norms and the router stay f32: they are small, and every token passes them."""
    return (
        len(shape) > 1 and name.endswith(".weight") and "_norm." not in name and "ffn_gate_inp." not in name
    )


def choose(
    name: str,
    shape: Sequence[int],
    recipe: Recipe,
    model: Model,
    *,
    overrides: Sequence[tuple[re.Pattern[str], str]] = (),
    pure: bool = False,
) -> Choice:
    """The format of one tensor."""
    if not is_free(name, shape):
        return Choice("f32")
    for pattern, kind in overrides:
        if pattern.search(name):
            return _fitting(kind, shape, "--tensor-type")
    if pure or recipe.base in _UNQUANTIZED:
        return _fitting(recipe.base, shape)
    if recipe.base == "mxfp4":
        return _fitting("mxfp4" if len(shape) == 3 else "q8_0", shape)  # experts, and all else
    if name == "output.weight" or (model.tied and name == "token_embd.weight"):
        base = FORMATS[recipe.base]
        if recipe.base == "q8_0" or shape[-1] % base.block_size:
            return _fitting("q8_0", shape)
        return _fitting("q6_k", shape)
    return _fitting(_mixed(name, recipe, model), shape)


def _mixed(name: str, recipe: Recipe, model: Model) -> str:
    """The mixture's rules for one matrix of a layer."""
    eight = model.experts == 8
    part = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if part is None:
        return recipe.base
    layer, what = int(part[1]), part[2]
    more = more_bits(layer, model.layers)
    first_eighth = layer < model.layers // 8
    if eight and what in ("attn_k", "attn_v"):
        return "q8_0"  # eight experts share these small matrices: 128 MB buys much
    if what == "attn_v":
        if recipe.name in ("q4_k_m", "q5_k_m") and more:
            return "q6_k"
        if recipe.name == "q4_k_s" and layer < 4:
            return "q5_k"
    if what in ("ffn_down", "ffn_down_exps"):
        if recipe.name in ("q4_k_m", "q5_k_m") and more:
            return "q6_k"
        if recipe.name == "q4_k_s" and first_eighth:
            return "q5_k"
        if model.importance and first_eighth and recipe.name in ("q4_0", "q5_0"):
            return {"q4_0": "q4_1", "q5_0": "q5_1"}[recipe.name]
    if eight and what == "attn_output" and recipe.name in ("q4_k_s", "q4_k_m"):
        return "q5_k"
    return recipe.base


def more_bits(layer: int, layers: int) -> bool:
    """llama.cpp's rule for the layers that matter most: the first and last eighth, and every third
    between.
    """
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _fitting(kind: str, shape: Sequence[int], note: str = "") -> Choice:
    """The type, or what stands in for it where its blocks do not divide the rows."""
    cols = shape[-1]
    if cols % FORMATS[kind].block_size == 0:
        return Choice(kind, note)
    instead = _FALLBACK.get(kind, "f16")
    if cols % FORMATS[instead].block_size:
        instead = "f16"
    return Choice(instead, f"rows of {cols}: {instead} instead of {kind}")
