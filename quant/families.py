"""What the architectures differ in; they share grouped queries, RMSNorm, gated units and rotary
positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """One of GGUF's architectures."""

    architecture: str  # its metadata keys begin with this
    interleaved: bool = False  # rotary pairs are coordinates 2i, 2i + 1 of a head; else i, i + half a head
    head_norms: bool = False  # each head of queries and keys passes an RMSNorm; its width is always stated
    ffn: str = "feed_forward_length"  # the key of an expert's inner width, or of a dense layer's
    ffn_norm: str = "ffn_norm"  # what the norm before the FFN is called
    biased: bool = False  # every projection, every expert and the router add a bias
    sinks: bool = False  # each head's softmax has one more score, which weighs no value
    clamped: bool = False  # the gated unit is (clamp(up) + 1) * min(gate) * sigmoid(1.702 gate), of +-7
    window_every: int = 1  # layers 0, n, 2n... have the sliding window, if there is one
    yarn_truncates: bool = True  # YaRN's bounds are rounded to whole coordinates
    least_experts: int = 0
    most_experts: int = 0

    def key(self, name: str) -> str:
        """A metadata key of this architecture."""
        return f"{self.architecture}.{name}"


FAMILIES: Mapping[str, Family] = {
    family.architecture: family
    for family in (
        Family("llama", interleaved=True, most_experts=1 << 12),
        Family("qwen3", head_norms=True),
        Family(
            "qwen3moe",
            head_norms=True,
            ffn="expert_feed_forward_length",
            least_experts=1,
            most_experts=1 << 12,
        ),
        Family(
            "gpt-oss",
            ffn="expert_feed_forward_length",
            ffn_norm="post_attention_norm",
            biased=True,
            sinks=True,
            clamped=True,
            window_every=2,
            yarn_truncates=False,
            least_experts=1,
            most_experts=1 << 12,
        ),
    )
}
