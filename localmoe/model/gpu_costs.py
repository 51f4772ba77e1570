"""What a decode step costs in each setting, from steps that had different numbers of misses.

A step takes `fixed + per_miss * misses` seconds. How many experts a token misses is chance: of a median of
six steps it makes several per cent, more than lies between the settings that are to be compared. So all
steps of all settings are fitted together (ordinary least squares): what a token without a miss takes is the
same in each, and what a miss costs is not. Settings are then compared at the same number of misses.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

DISTURBED = 2.0  # a step of more than so many times its setting's median says nothing about the setting
FAR = 4.0  # nor does one so many median deviations from the fit

K = TypeVar("K", bound=Hashable)
Step = tuple[float, float]  # seconds, misses
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a step without a miss, and of each miss."""

    fixed: float
    per_miss: float

    def seconds(self, misses: float) -> float:
        """Of a step with so many misses."""
        return self.fixed + self.per_miss * misses

    def times(self, factor: float) -> Cost:
        return Cost(self.fixed * factor, self.per_miss * factor)


def fit_costs(steps: Mapping[K, Sequence[Step]]) -> dict[K, Cost]:
    """The cost of each setting from its steps (at least one each).

    Where steps do not tell both parts apart (as many misses in each, or too few steps) a step is as long as
    it has misses; where it has none, its median is all there is to say.
    """
    seconds = [np.array([s for s, _ in found]) for found in steps.values()]
    misses = [np.array([float(m) for _, m in found]) for found in steps.values()]
    calm = [s <= DISTURBED * np.median(s) for s in seconds]
    seconds = [s[c] for s, c in zip(seconds, calm, strict=True)]
    misses = [m[c] for m, c in zip(misses, calm, strict=True)]
    found = _fit(seconds, misses)
    if found is None:
        found = [_alone(s, m) for s, m in zip(seconds, misses, strict=True)]
    return dict(zip(steps, found, strict=True))


def _alone(seconds: Floats, misses: Floats) -> Cost:
    if misses.min() > 0:
        return Cost(0.0, float(np.median(seconds / misses)))
    return Cost(float(np.median(seconds)), 0.0)


def _fit(seconds: list[Floats], misses: list[Floats]) -> list[Cost] | None:
    """Least squares over all settings, once more without what lies far off; None if it makes no sense."""
    t, count = np.concatenate(seconds), len(seconds)
    columns = np.zeros((len(t), count + 1))  # one, then each setting's misses
    columns[:, 0] = 1.0
    setting = np.repeat(np.arange(count), [len(s) for s in seconds])
    columns[np.arange(len(t)), setting + 1] = np.concatenate(misses)
    keep = np.ones(len(t), bool)
    for _ in range(2):
        solution, _, rank, _ = np.linalg.lstsq(columns[keep], t[keep], rcond=1e-9)
        if rank <= count or solution[0] < 0 or (solution[1:] <= 0).any():
            return None
        off = np.abs(columns @ solution - t)
        near = off <= FAR * np.median(off)
        keep = near if near.any() else keep
    return [Cost(float(solution[0]), float(part)) for part in solution[1:]]
