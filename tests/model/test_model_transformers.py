"""Our logits beside transformers' on random Mixtral and Mistral models, converted by our converter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import (
    VOCAB,
    clear_sequence,
    converted,
    load_weights,
    metadata,
    save_pretrained,
    transformers_logits,
    transformers_model,
    write_model,
)

import localmoe

IDS = [int(i) for i in np.random.default_rng(3).integers(3, VOCAB, 48)]
RECIPES = (
    "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k",
)  # fmt: skip
KINDS = {"mixtral": {}, "mistral": {}, "windowed": {"sliding_window": 20}, "wide heads": {"head_dim": 96}}
MADE = {**KINDS, "deeper": {"num_hidden_layers": 3}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(model, directory) of a kind, made once."""
    made: dict[str, tuple[Any, Path]] = {}

    def get(kind: str) -> tuple[Any, Path]:
        if kind not in made:
            model = transformers_model("mistral" if kind == "mistral" else "mixtral", **MADE[kind])
            made[kind] = model, save_pretrained(model, tmp_path_factory.mktemp("saved"))
        return made[kind]

    return get


def agree(path: Path, expected: Any, tolerance: float) -> None:
    """Logits of IDS within `tolerance` of those expected, whole; and the same in pieces through the cache."""
    with localmoe.load(path, exact=True, threads=2) as ours:
        got, decoder = ours.logits(IDS), ours.decoder()
        pieces = [decoder.extend_all(IDS[at : at + 7]) for at in range(0, len(IDS), 7)]
    np.testing.assert_allclose(got, expected, atol=tolerance, rtol=0)
    np.testing.assert_array_equal(np.concatenate(pieces), got)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(kind, saved, tmp_path):
    """As F32, activations and KV cache in float32: whole, and in pieces through the cache."""
    model, directory = saved(kind)
    expected, _ = transformers_logits(model, IDS)
    agree(converted(directory, tmp_path / "m.gguf", "f32"), expected, 1e-4)


@pytest.mark.parametrize(
    ("kind", "types"),
    [("qwen3moe", {"": "q8_0", "ffn_down": "q6_k"}), ("qwen3", {"": "q8_0", "ffn_down": "q6_k"}),
     ("qwen3moe", {"": "q3_k", "ffn_down": "q2_k", "embd": "iq4_xs"})],
)  # fmt: skip
def test_logits_of_qwen3_are_those_of_transformers(kind, types, tmp_path):
    """Quantized weights which transformers gets dequantized; the routing of 40 experts is a job."""
    experts = {"expert_count": 40, "expert_used_count": 5, "expert_feed_forward_length": 256}
    if kind == "qwen3":
        experts = {"expert_count": None, "expert_used_count": None}
    values = metadata(kind, key_length=128, value_length=128, dimension_count=128, **experts)
    path = write_model(tmp_path / "m.gguf", values, types)
    model = transformers_model(kind)
    load_weights(model, path)
    expected, _ = transformers_logits(model, IDS)
    agree(path, expected, 2e-4)


GPT_OSS = {
    "expert_count": 8, "expert_used_count": 4, "expert_feed_forward_length": 288, "sliding_window": 20,
    "type": "yarn", "factor": 32.0, "original_context_length": 512, "freq_base": 150000.0,
    "context_length": 16384, "block_count": 3, "embedding_length": 352,
}  # fmt: skip


def test_logits_of_gpt_oss_are_those_of_transformers(tmp_path):
    """Biases, sinks, windows of every second layer, YaRN, clamped units; widths no multiples of 256.

    Beside the same model in float64, the float32 of both is about 6e-4 off.
    """
    values = metadata("gpt-oss", key_length=64, value_length=64, **GPT_OSS)
    path = write_model(tmp_path / "m.gguf", values, {"": "q8_0", "ffn_down": "q5_0"})
    model = transformers_model("gpt-oss", hidden_size=352, num_hidden_layers=3)
    load_weights(model, path)
    expected, _ = transformers_logits(model, IDS)
    agree(path, expected, 1e-3)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipes_weights_mean_the_same_to_both(recipe, saved, tmp_path):
    """transformers gets the weights that we dequantize; our activations stay in float."""
    model, directory = saved("mixtral")
    path = converted(directory, tmp_path / "m.gguf", recipe)
    load_weights(model, path)
    expected, _ = transformers_logits(model, IDS)
    with localmoe.load(path, exact=True, threads=2) as ours:
        np.testing.assert_allclose(ours.logits(IDS), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("kind", "recipe"), [*(("mixtral", r) for r in RECIPES), ("deeper", "q4_0"), ("deeper", "q4_k_m")]
)
def test_int8_activations_cost_little_where_routers_are_clear(kind, recipe, saved, tmp_path):
    """On tokens whose router margins exceed 0.05 in every layer, in sequences of such tokens only: at a
    near-tie, rounding may choose another expert, and what that token leaves in the cache reaches later ones.
    """
    model, directory = saved(kind)
    path = converted(directory, tmp_path / "m.gguf", recipe)
    load_weights(model, path)
    ids = clear_sequence(model, 24, np.random.default_rng(5))
    expected, margin = transformers_logits(model, ids)
    assert margin.min() > 0.05
    with localmoe.load(path, threads=2) as ours:
        errors = np.linalg.norm(ours.logits(ids) - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert errors.max() <= 2e-2
    assert errors.max() >= 1e-3 or recipe in ("f16", "bf16")  # activations were int8 indeed
