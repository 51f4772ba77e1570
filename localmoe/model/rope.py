"""Rotary position embeddings: cos and sin of every position's angles (Su et al. 2021,
https://arxiv.org/abs/2104.09864), stretched where a model was extended to longer contexts (YaRN: Peng et al.
2023, https://arxiv.org/abs/2309.00071).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from localmoe.model.config import ModelConfig

Floats = NDArray[np.float32]
_PIECE = 4096  # positions


@dataclass(frozen=True, slots=True)
class Yarn:
    """How YaRN stretches frequencies: slow ones by `factor`, quick ones not at all.

    A coordinate that turns `beta_fast` times or more in `original` positions is quick, one that turns
    `beta_slow` times or less is slow; between these bounds, which may be rounded, it is a mixture.
    """

    factor: float
    original: int  # the context that the model was trained with first
    truncates: bool
    attention: float = 1.0  # cos and sin are multiplied by this and by 1 + 0.1 ln(factor)
    beta_fast: float = 32.0
    beta_slow: float = 1.0

    @property
    def magnitude(self) -> float:
        return self.attention * (1.0 + 0.1 * math.log(self.factor)) if self.factor > 1 else self.attention

    def stretched(self, inverse: NDArray[np.float64], base: float) -> NDArray[np.float64]:
        """The frequencies [rope_dim / 2] that take the place of `inverse`, those of rotary base `base`."""
        dims = 2 * len(inverse)

        def bound(turns: float) -> float:
            return dims * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(base))

        low, high = bound(self.beta_fast), bound(self.beta_slow)
        if self.truncates:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0.0), min(high, dims - 1.0)
        slow = np.clip((np.arange(len(inverse)) - low) / max(high - low, 1e-3), 0.0, 1.0)
        return inverse * (1.0 - slow) + inverse / self.factor * slow


def rope_table(config: ModelConfig, context: int, factors: Floats | None = None) -> Floats:
    """cos and sin of every position's angles: float32 [context, rope_dim / 2, 2], or, where pairs are halves
    apart, all cosines of a position before its sines: [context, 2, rope_dim / 2].
    """
    inverse = config.rope_base ** (-np.arange(0, config.rope_dim, 2, dtype=np.float64) / config.rope_dim)
    if factors is not None:
        inverse = inverse / factors
    if config.yarn is not None:
        inverse = config.yarn.stretched(inverse, config.rope_base)
    magnitude = config.yarn.magnitude if config.yarn is not None else 1.0
    apart = not config.family.interleaved
    table = np.empty((context, 2, len(inverse)) if apart else (context, len(inverse), 2), np.float32)
    cos, sin = (table[:, 0], table[:, 1]) if apart else (table[..., 0], table[..., 1])
    for start in range(0, context, _PIECE):  # in float64, all at once would take five times the table
        here = slice(start, min(start + _PIECE, context))
        angles = np.arange(here.start, here.stop)[:, None] / config.rope_scale * inverse
        cos[here], sin[here] = np.cos(angles) * magnitude, np.sin(angles) * magnitude
    return table
