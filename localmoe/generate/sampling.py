"""From logits to the next token: penalties, filters, temperature, a draw.

Each step is a pure function of logits, float [tokens]. A filter says which of them stay, so that what comes
after it, and the draw, has only these to do with: of a vocabulary of 32,000, often a handful. Order as in
llama.cpp: penalties, top-k, top-p, min-p, temperature. A seed reproduces the draws exactly (NumPy's PCG64),
as far as the logits are reproduced.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from localmoe.generate.errors import GenerationError, SettingError

Logits = npt.NDArray[np.floating[Any]]
Kept = slice | npt.NDArray[np.intp]  # an index: the places that stay, in their order
ALL = slice(None)
COLDEST = 1e-20  # a temperature below cannot be told from it in float32; 0 would be no divisor


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


def top_k(logits: Logits, k: int) -> Kept:
    """The k largest logits; of equal ones at the border those with the lowest ids. 0 keeps all."""
    if k <= 0 or k >= len(logits):
        return ALL
    border = np.partition(logits, -k)[-k]
    kept = np.flatnonzero(logits >= border)
    spare = len(kept) - k
    return np.delete(kept, np.flatnonzero(logits[kept] == border)[-spare:]) if spare else kept


def top_p(logits: Logits, p: float) -> Kept:
    """The fewest most probable tokens whose probabilities reach p (Holtzman et al. 2019), at least one.

    Of equal logits at the border those with the lowest ids stay.
    """
    if p >= 1:
        return ALL
    weights = _weights(logits)
    total = float(weights.sum(dtype=np.float64))
    # Tokens below (1 - p) / vocab amount to less than 1 - p together: p is reached without them, unsorted.
    contenders = np.flatnonzero(weights >= total * (1 - p) / len(weights))
    reached = np.cumsum(np.sort(weights[contenders])[::-1].astype(np.float64))
    return contenders[top_k(logits[contenders], int(np.searchsorted(reached, p * total)) + 1)]


def min_p(logits: Logits, p: float) -> Kept:
    """The tokens at least p times as probable as the most probable one."""
    return np.flatnonzero(logits >= logits.max() + math.log(p)) if p > 0 else ALL


def scale_temperature(logits: Logits, temperature: float) -> Logits:
    """Sharpens (below 1) or flattens (above 1) the distribution; `temperature` > 0. The largest logit becomes
    0: divided by a temperature near nothing, others would become infinite.
    """
    if temperature == 1:
        return logits
    cooled: Logits = (logits - logits.max()) / np.asarray(max(temperature, COLDEST), logits.dtype)
    return cooled


def _weights(logits: Logits) -> Logits:
    """e to each logit, 1 for the largest: one new array, in the logits' type.

    The page faults of one as large as a vocabulary cost more than what is computed, and exp in float32 is
    several times as fast.
    """
    weights: Logits = logits - logits.max()
    return np.exp(weights, out=weights)


def probabilities(logits: Logits) -> npt.NDArray[np.float64]:
    """Softmax, float64 [tokens]."""
    weights = _weights(logits).astype(np.float64)
    weights /= weights.sum()
    return weights


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
        self._ids = np.arange(0)  # of the whole vocabulary

    def candidates(
        self, logits: Logits, allowed: npt.NDArray[np.intp] | None = None
    ) -> tuple[npt.NDArray[np.intp], Logits]:
        """The ids among which a token is drawn, ascending, and their logits then; `allowed`: only these."""
        s = self.sampling
        if len(self._ids) != len(logits):
            self._ids = np.arange(len(logits))
        ids, logits = self._ids, self._penalized(logits)
        if allowed is not None:
            ids, logits = allowed, logits[allowed]
        filters: tuple[tuple[Callable[[Logits, Any], Kept], float], ...] = (
            (top_k, s.top_k), (top_p, s.top_p), (min_p, s.min_p),
        )  # fmt: skip
        for stays, bound in filters:
            kept = stays(logits, bound)
            ids, logits = ids[kept], logits[kept]
        return ids, scale_temperature(logits, s.temperature)

    def choose(self, logits: Logits, allowed: npt.NDArray[np.intp] | None = None) -> int:
        """The next token's id, one of `allowed` (ascending; None: any), which from now on counts as seen.

        Raises:
            GenerationError: the logits are not numbers, as from damaged weights.
        """
        if not math.isfinite(float(logits.max())):
            raise GenerationError("the model's output is not a number: the file may be damaged")
        if self.sampling.temperature > 0:
            token = self._draw(*self.candidates(logits, allowed))
        elif allowed is None:
            token = int(self._penalized(logits).argmax())
        else:
            token = int(allowed[self._penalized(logits)[allowed].argmax()])
        return self.take(token)

    def take(self, token: int) -> int:
        """A token that no choice was asked for; it counts as seen."""
        self._seen.append(token)
        return token

    def _penalized(self, logits: Logits) -> Logits:
        s = self.sampling
        if not s.penalizes:
            return logits
        recent = self._seen if s.repeat_last_n < 0 else self._seen[-s.repeat_last_n :]
        return penalize(logits, recent, s.repeat_penalty, s.presence_penalty, s.frequency_penalty)

    def _draw(self, ids: npt.NDArray[np.intp], logits: Logits) -> int:
        cumulative = probabilities(logits)
        np.cumsum(cumulative, out=cumulative)  # by id: a draw does not hang on how a sort breaks ties
        below = min(self._random.random() * cumulative[-1], np.nextafter(cumulative[-1], 0))
        return int(ids[np.searchsorted(cumulative, below, side="right")])
