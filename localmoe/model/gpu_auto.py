"""Which mode serves misses best on this machine: measured with real steps, and watched afterwards.

Every setting is tried for a few steps (of `split` those shares that the costs of the others suggest), and
all are compared at the same number of misses (`gpu_costs`). Then each window of steps is compared with what
the runner-up would have taken: a setting that has become slower than that, in two windows running, is left
for it.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from localmoe.model.gpu_costs import Cost, Step, fit_costs

# A trial: at least so many steps, more of short ones. All of them together fit into a calibration of 3 s.
TRIAL_SKIPPED, TRIAL_STEPS, TRIAL_MOST, TRIAL_S, WINDOW = 2, 6, 24, 0.25, 48
WORSE = 1.05  # a window must be slower than the alternative by this much to count


@dataclass(frozen=True, slots=True)
class Setting:
    """A mode, and for `split` the GPU's share of a miss's FFN rows."""

    mode: str
    share: float = 0.5


SETTINGS = (Setting("stream"), Setting("cpu"))
SPLIT_STEP, LEAST, MOST = 0.1, 0.1, 0.9  # between the shares that are tried, and their bounds


def step_for(slices: int) -> float:
    """Between the shares that are tried of an FFN of so many slices of rows, in which it is split."""
    return max(SPLIT_STEP, 1 / slices)


def split_at(share: float, slices: int) -> Setting:
    """The `split` setting nearest to a share: of few slices, some of them, but not all."""
    share = min(MOST, max(LEAST, share))
    if step_for(slices) == SPLIT_STEP:
        return Setting("split", round(share, 3))
    return Setting("split", min(slices - 1, max(1, round(share * slices))) / slices)


def splits_for(stream: float, cpu: float, slices: int) -> list[Setting]:
    """`split` settings worth trying, from the seconds of a miss in `stream` and in `cpu`: the share with
    which both engines would end together, and one step to each side.
    """
    middle, step = cpu / (stream + cpu), step_for(slices)
    found = dict.fromkeys(split_at(middle + d, slices) for d in (0.0, -step, step))
    return sorted(found, key=lambda s: abs(s.share - middle))


def further(seconds: dict[Setting, float], slices: int) -> list[Setting]:
    """The next share to try, where the best split so far is the outermost to one side (RAM's bandwidth, which
    both engines share, moves the best away from where they would end together).
    """
    splits = sorted((s for s in seconds if s.mode == "split"), key=lambda s: s.share)
    best, step = min(splits, key=lambda s: seconds[s]), step_for(slices)
    if best == splits[0] and best.share - step >= LEAST:
        return [split_at(best.share - step, slices)]
    if best == splits[-1] and best.share + step <= MOST:
        return [split_at(best.share + step, slices)]
    return []


class ModeChooser:
    """Fed with every step's seconds and misses, it says what to use for the next."""

    def __init__(self, settings: Sequence[Setting] = SETTINGS,
        remembered: dict[Setting, Cost] | None = None, slices: int = 0) -> None:
        """`remembered`: costs of settings measured before; if it has all of them, no trial is needed.
        `slices`, where there are several: after `stream` and `cpu`, splits of an expert's FFN between them
        are tried too.
        """
        if not settings:
            raise ValueError("no settings to choose from")
        known = remembered or {}
        self._slices = slices if slices > 1 else 0
        self.settings = (*settings, *(s for s in known if self._slices and s.mode == "split"))
        self.costs: dict[Setting, Cost] = {s: c for s, c in known.items() if s in self.settings}
        self._tried: dict[Setting, list[Step]] = {}
        self._misses = 1.0  # of a step: where settings are compared
        self._extend()
        self._steps: list[Step] = []
        self._slow_windows = 0
        self.current = self._next_trial() or self._best()

    @property
    def settled(self) -> bool:
        """Whether every setting has been tried."""
        return len(self.costs) == len(self.settings)

    @property
    def seconds(self) -> dict[Setting, float]:
        """What a step takes in each setting, at the same number of misses."""
        return {setting: cost.seconds(self._misses) for setting, cost in self.costs.items()}

    def _extend(self) -> None:
        """Once everything so far has been timed: splits, or further ones."""
        if self._slices and self.settled:
            first = not any(s.mode == "split" for s in self.settings)
            more = self._first_splits() if first else further(self.seconds, self._slices)
            self.settings += tuple(more)

    def _first_splits(self) -> list[Setting]:
        stream, cpu = (self.costs[s] for s in SETTINGS)
        if stream.per_miss > 0 and cpu.per_miss > 0:
            return splits_for(stream.per_miss, cpu.per_miss, self._slices)
        return splits_for(stream.seconds(self._misses), cpu.seconds(self._misses), self._slices)

    def _next_trial(self) -> Setting | None:
        return next((s for s in self.settings if s not in self.costs), None)

    def _best(self) -> Setting:
        seconds = self.seconds
        return min(seconds, key=lambda s: seconds[s])

    def observe(self, seconds: float, misses: int = 0) -> bool:
        """One step took so long and missed so many experts; returns whether `current` has changed."""
        self._steps.append((seconds, misses))
        if not self.settled:
            return self._trial()
        if len(self._steps) < WINDOW:
            return False
        return self._watch()

    def _trial(self) -> bool:
        steps = self._steps[TRIAL_SKIPPED:]
        long_enough = sum(s for s, _ in steps) >= TRIAL_S or len(steps) >= TRIAL_MOST
        if len(steps) < TRIAL_STEPS or not long_enough:
            return False
        self._tried[self.current] = steps
        self._misses = statistics.mean(m for found in self._tried.values() for _, m in found)
        self.costs |= fit_costs(self._tried)
        self._extend()
        return self._use(self._next_trial() or self._best())

    def _watch(self) -> bool:
        """Compares a window of steps with what the runner-up would have taken for its misses."""
        now = statistics.median(s for s, _ in self._steps)
        self._misses = statistics.median(m for _, m in self._steps)
        self._steps = []
        cost = self.costs[self.current]
        self.costs[self.current] = cost.times(now / cost.seconds(self._misses))
        seconds = self.seconds
        others = [s for s in self.settings if s != self.current]
        runner_up = min(others, key=lambda s: seconds[s], default=self.current)
        self._slow_windows = self._slow_windows + 1 if now > seconds[runner_up] * WORSE else 0
        return self._use(runner_up) if self._slow_windows >= 2 else False

    def _use(self, setting: Setting) -> bool:
        changed = setting != self.current
        self.current, self._steps, self._slow_windows = setting, [], 0
        return changed


def load_costs(path: Path, machine: str) -> dict[Setting, Cost]:
    """What was measured on `machine` before; nothing if the file is missing, damaged or another machine's."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["machine"] != machine:
            return {}
        rows = [(Setting(str(m), float(s)), Cost(float(f), float(p))) for m, s, f, p in stored["costs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {s: c for s, c in rows if c.fixed >= 0 and c.per_miss >= 0 and 0 < c.seconds(1) < 1e4}


def save_costs(path: Path, machine: str, costs: dict[Setting, Cost]) -> None:
    """Keeps what was measured, whole or not at all; a disk that refuses is no reason to fail."""
    rows = [[s.mode, s.share, c.fixed, c.per_miss] for s, c in costs.items()]
    text = json.dumps({"machine": machine, "costs": rows})
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".partial")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(partial, path)
