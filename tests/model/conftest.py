"""Small model files, written once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import metadata, write_model

import localmoe.kernels.cpu  # noqa: F401  # compiles on a first run, before the time of any test is taken

KINDS: dict[str, tuple[dict[str, Any], Any]] = {
    "float": ({}, "f32"),
    "q4_k": ({}, {"": "q4_k", "ffn_down": "q6_k", "attn_v": "q8_0"}),
    "small": ({}, {"": "q3_k", "ffn_down": "q2_k", "token_embd": "q2_k", "attn_output": "iq4_xs"}),
    "q4_0": ({"feed_forward_length": 288}, {"": "q4_0", "ffn_down": "q5_1", "attn_k": "q4_1"}),
    "dense": ({"expert_count": None, "expert_used_count": None}, {"": "q5_k", "ffn_up": "q5_0"}),
    "windowed": ({"sliding_window": 300}, "q8_0"),
    "qwen3": (
        {
            "architecture": "qwen3moe", "head_count": 4, "head_count_kv": 1, "expert_count": 40,
            "expert_used_count": 5, "expert_feed_forward_length": 256, "feed_forward_length": 1024,
            "dimension_count": 128, "key_length": 128, "value_length": 128,
        },
        {"": "q4_k", "ffn_down": "q6_k"},
    ),
    "gpt-oss": (
        {
            "architecture": "gpt-oss", "embedding_length": 352, "expert_count": 6, "expert_used_count": 4,
            "expert_feed_forward_length": 288, "key_length": 64, "value_length": 64, "sliding_window": 100,
            "type": "yarn", "factor": 4.0, "original_context_length": 256, "freq_base": 150000.0,
        },
        {"": "q8_0", "exps": "mxfp4"},
    ),
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The path of a model of one of the KINDS."""
    made: dict[str, Path] = {}

    def path(kind: str) -> Path:
        if kind not in made:
            changes, types = KINDS[kind]
            out = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
            made[kind] = write_model(out, metadata(**changes), types)
        return made[kind]

    return path
