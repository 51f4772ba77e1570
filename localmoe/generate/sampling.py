"""From logits to the next token: penalties, filters, temperature, a draw.

Each step is a pure function from logits to logits, float [vocab]; what a filter rules out becomes -inf.
They are applied in llama.cpp's default order: penalties, top-k, top-p, min-p, temperature. A seed
reproduces the draws exactly (NumPy's PCG64), as far as the logits are reproduced.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from localmoe.generate.errors import GenerationError, SettingError

Logits = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. The defaults switch everything off but temperature.

    Raises:
        SettingError: a value outside its range.
    """

    temperature: float = 0.7  # 0 takes the most probable token
    top_k: int = 0  # keep the k most probable; 0: all
    top_p: float = 1.0  # keep the most probable that together reach p
    min_p: float = 0.0  # keep those at least p times as probable as the first
    repeat_penalty: float = 1.0  # divides positive logits of recent tokens, multiplies negative ones
    presence_penalty: float = 0.0  # taken once from the logit of a recent token
    frequency_penalty: float = 0.0  # taken from it for each time it occurs
    repeat_last_n: int = 64  # how many tokens, prompt included, count as recent; -1: all of them
    seed: int | None = None  # None draws one

    def __post_init__(self) -> None:
        _within("temperature", self.temperature, 0)
        _within("top_k", self.top_k, 0)
        _within("top_p", self.top_p, 0, 1)
        _within("min_p", self.min_p, 0, 1)
        _within("repeat_penalty", self.repeat_penalty, 1e-3)
        _within("presence_penalty", self.presence_penalty, -100, 100)
        _within("frequency_penalty", self.frequency_penalty, -100, 100)
        _within("repeat_last_n", self.repeat_last_n, -1)
        if self.seed is not None:
            _within("seed", self.seed, 0)

    @property
    def penalizes(self) -> bool:
        """Whether recent tokens change the choice at all."""
        penalties = (self.repeat_penalty - 1, self.presence_penalty, self.frequency_penalty)
        return self.repeat_last_n != 0 and any(penalties)


def _within(name: str, value: float, low: float, high: float = math.inf) -> None:
    if not (low <= value <= high and math.isfinite(value)):
        bounds = f"{low:g} to {high:g}" if math.isfinite(high) else f"{low:g} or more"
        raise SettingError(f"{name} is {value}: it must be {bounds}")


def penalize(
    logits: Logits, recent: Sequence[int], repeat: float, presence: float, frequency: float
) -> Logits:
    """Makes recent tokens less likely (`repeat`: Keskar et al. 2019; the others as OpenAI defines them)."""
    if not len(recent):
        return logits
    tokens, counts = np.unique(np.asarray(recent, np.int64), return_counts=True)
    seen = logits[tokens]
    seen = np.where(seen > 0, seen / repeat, seen * repeat)
    changed = logits.copy()
    changed[tokens] = seen - counts * frequency - presence
    return changed


def keep_top_k(logits: Logits, k: int) -> Logits:
    """Keeps the k largest logits; of equal ones at the border those with the lowest ids. 0 keeps all."""
    alive = logits[logits > -np.inf]
    if k <= 0 or k >= len(alive):
        return logits
    border = np.partition(alive, -k)[-k]
    kept = logits > border
    ties = np.flatnonzero(logits == border)
    kept[ties[: k - int(np.count_nonzero(kept))]] = True
    return _only(logits, kept)


def keep_top_p(logits: Logits, p: float) -> Logits:
    """Keeps the fewest most probable tokens whose probabilities reach p (Holtzman et al. 2019), at least one.

    Of equal logits at the border those with the lowest ids stay.
    """
    if p >= 1:
        return logits
    probability = probabilities(logits)
    # Tokens below (1 - p) / vocab amount to less than 1 - p together: p is reached without them, unsorted.
    contenders = probability[probability >= (1 - p) / len(probability)]
    reached = np.cumsum(np.sort(contenders)[::-1])
    return keep_top_k(logits, int(np.searchsorted(reached, p)) + 1)


def keep_min_p(logits: Logits, p: float) -> Logits:
    """Keeps tokens at least p times as probable as the most probable one."""
    if p <= 0:
        return logits
    return _only(logits, logits >= logits.max() + math.log(p))


def scale_temperature(logits: Logits, temperature: float) -> Logits:
    """Sharpens (below 1) or flattens (above 1) the distribution; `temperature` > 0."""
    return logits if temperature == 1 else logits / np.asarray(temperature, logits.dtype)


def _only(logits: Logits, kept: npt.NDArray[np.bool_]) -> Logits:
    return np.where(kept, logits, np.asarray(-np.inf, logits.dtype))


def probabilities(logits: Logits) -> npt.NDArray[np.float64]:
    """Softmax, float64 [vocab]."""
    weights = np.exp(logits - logits.max()).astype(np.float64)  # exp in float32 is several times as fast
    return np.asarray(weights / weights.sum())


def log_probabilities(logits: Logits) -> npt.NDArray[np.float64]:
    """Log-softmax, float64 [vocab]."""
    shifted = logits.astype(np.float64) - float(logits.max())
    return np.asarray(shifted - math.log(float(np.exp(shifted).sum())))


class Sampler:
    """Chooses tokens one after the other; remembers the recent ones and the state of the random generator."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int] = ()) -> None:
        """`prompt`: the ids before the first choice, which count as recent for the penalties."""
        self.sampling = sampling
        self.seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
        self._random = np.random.Generator(np.random.PCG64(self.seed))
        self._seen = list(prompt)

    def distribution(self, logits: Logits) -> Logits:
        """The logits that a token is drawn from; for temperature 0 only the penalties are applied."""
        s = self.sampling
        if s.penalizes:
            recent = self._seen if s.repeat_last_n < 0 else self._seen[-s.repeat_last_n :]
            logits = penalize(logits, recent, s.repeat_penalty, s.presence_penalty, s.frequency_penalty)
        if s.temperature == 0:
            return logits
        logits = keep_top_k(logits, s.top_k)
        logits = keep_top_p(logits, s.top_p)
        logits = keep_min_p(logits, s.min_p)
        return scale_temperature(logits, s.temperature)

    def choose(self, logits: Logits) -> int:
        """The next token's id, which from now on counts as seen.

        Raises:
            GenerationError: the logits are not numbers, as from damaged weights.
        """
        if not math.isfinite(float(logits.max())):
            raise GenerationError("the model's output is not a number: the file may be damaged")
        logits = self.distribution(logits)
        token = int(logits.argmax()) if self.sampling.temperature == 0 else self._draw(logits)
        self._seen.append(token)
        return token

    def _draw(self, logits: Logits) -> int:
        candidates = np.flatnonzero(logits > -np.inf)  # by id: a draw does not hang on how a sort breaks ties
        cumulative = np.cumsum(probabilities(logits[candidates]))
        at = np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right")
        return int(candidates[min(int(at), len(candidates) - 1)])
