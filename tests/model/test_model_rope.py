"""Rotary angles, stretched by YaRN, beside transformers'."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import metadata

from localmoe.model.config import ModelConfig
from localmoe.model.rope import rope_table

YARN = {
    "type": "yarn", "factor": 8.0, "original_context_length": 512, "context_length": 4096,
    "freq_base": 1e6,
}  # fmt: skip


def frequencies(table: np.ndarray, apart: bool) -> tuple[np.ndarray, np.ndarray]:
    """Of each pair, from the angle at position 1; and the length of (cos, sin)."""
    cos, sin = (table[1, 0], table[1, 1]) if apart else (table[1, :, 0], table[1, :, 1])
    return np.arctan2(sin.astype(np.float64), cos), np.hypot(cos, sin)


@pytest.mark.parametrize("architecture", ["llama", "qwen3moe", "gpt-oss"])
@pytest.mark.parametrize("changes", [{}, {"beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 0.8}])
def test_yarns_angles_are_transformers(architecture, changes, tmp_path):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    own = {"sliding_window": 128} if architecture == "gpt-oss" else {}
    values = metadata(architecture, key_length=64, expert_feed_forward_length=256, **YARN, **own)
    keys = {"beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow", "attention_factor": "attn_factor"}
    for name, value in changes.items():
        factor = 1 / (1 + 0.1 * np.log(8.0)) if name == "attention_factor" else 1.0  # GGUF's is multiplied
        values[f"{architecture}.rope.scaling.{keys[name]}"] = float(value * factor)
    config = ModelConfig.from_metadata(values, tmp_path)
    theirs = {
        "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512, "rope_theta": 1e6,
        "truncate": architecture != "gpt-oss", **changes,
    }  # fmt: skip
    made = LlamaConfig(
        hidden_size=256, num_attention_heads=4, head_dim=64, max_position_embeddings=4096,
        rope_parameters=theirs,
    )  # fmt: skip
    expected, magnitude = ROPE_INIT_FUNCTIONS["yarn"](made, "cpu")
    got, length = frequencies(rope_table(config, 2), apart=architecture != "llama")
    np.testing.assert_allclose(got, expected.numpy(), rtol=2e-6)
    np.testing.assert_allclose(length, magnitude, rtol=1e-6)
    # llama.cpp goes by neither of these
    values[f"{architecture}.rope.scaling.yarn_attn_factor"] = 0.5
    values[f"{architecture}.rope.scaling.yarn_ext_factor"] = -1.0
    same = ModelConfig.from_metadata(values, tmp_path)
    np.testing.assert_array_equal(rope_table(same, 9), rope_table(config, 9))
    far = rope_table(config, 4096)[-1].astype(np.float64)
    np.testing.assert_allclose((far**2).sum(-1 if architecture == "llama" else 0), magnitude**2, rtol=1e-5)


def test_no_factor_stretches_nothing(tmp_path):
    plain = metadata(context_length=4096, freq_base=1e6)
    config, stretched = (
        ModelConfig.from_metadata(values, tmp_path)
        for values in (plain, metadata(**{**YARN, "factor": 1.0, "original_context_length": 4096}))
    )
    np.testing.assert_array_equal(rope_table(stretched, 100), rope_table(config, 100))
