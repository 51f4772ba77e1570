"""Which mode serves misses best on this machine: measured with real steps, and watched afterwards.

Every setting is tried for a few steps (of `split` those shares that the times of the others suggest); the
one of the least median time is kept. Then each window of steps is compared with what the runner-up took: a
setting that has become slower than that, in two windows running, is left for it.
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

TRIAL_SKIPPED, TRIAL_STEPS, WINDOW = 2, 6, 48
WORSE = 1.05  # a window must be slower than the alternative by this much to count


@dataclass(frozen=True, slots=True)
class Setting:
    """A mode, and for `split` the GPU's share of a miss's FFN rows."""

    mode: str
    share: float = 0.5


SETTINGS = (Setting("stream"), Setting("cpu"))
SPLIT_STEP, LEAST, MOST = 0.1, 0.1, 0.9  # between the shares that are tried, and their bounds


def splits_for(stream: float, cpu: float) -> list[Setting]:
    """`split` settings worth trying, from the seconds of a step in `stream` and in `cpu`: the share with
    which both engines would end together, and one step to each side.
    """
    middle = cpu / (stream + cpu)
    shares = {round(min(MOST, max(LEAST, middle + d)), 3) for d in (0.0, -SPLIT_STEP, SPLIT_STEP)}
    return [Setting("split", share) for share in sorted(shares, key=lambda s: abs(s - middle))]


def further(seconds: dict[Setting, float]) -> list[Setting]:
    """The next share to try, where the best split so far is the outermost to one side (RAM's bandwidth, which
    both engines share, moves the best away from where they would end together).
    """
    splits = sorted((s for s in seconds if s.mode == "split"), key=lambda s: s.share)
    best = min(splits, key=lambda s: seconds[s])
    if best == splits[0] and best.share - SPLIT_STEP >= LEAST:
        return [Setting("split", round(best.share - SPLIT_STEP, 3))]
    if best == splits[-1] and best.share + SPLIT_STEP <= MOST:
        return [Setting("split", round(best.share + SPLIT_STEP, 3))]
    return []


class ModeChooser:
    """Fed with every step's seconds, it says what to use for the next."""

    def __init__(self, settings: Sequence[Setting] = SETTINGS,
        remembered: dict[Setting, float] | None = None, splits: bool = False) -> None:
        """`remembered`: seconds per step of settings measured before; if it has all of them, no trial is
        needed. `splits`: after `stream` and `cpu`, splits between them are tried too.
        """
        if not settings:
            raise ValueError("no settings to choose from")
        known = remembered or {}
        self._splits = splits
        self.settings = (*settings, *(s for s in known if splits and s.mode == "split"))
        self.seconds: dict[Setting, float] = {s: t for s, t in known.items() if s in self.settings}
        self._extend()
        self._times: list[float] = []
        self._slow_windows = 0
        self.current = self._next_trial() or self._best()

    @property
    def settled(self) -> bool:
        """Whether every setting has been tried."""
        return len(self.seconds) == len(self.settings)

    def _extend(self) -> None:
        """Once everything so far has been timed: splits, or further ones."""
        if self._splits and self.settled:
            first = not any(s.mode == "split" for s in self.settings)
            more = splits_for(*(self.seconds[s] for s in SETTINGS)) if first else further(self.seconds)
            self.settings += tuple(more)

    def _next_trial(self) -> Setting | None:
        return next((s for s in self.settings if s not in self.seconds), None)

    def _best(self) -> Setting:
        return min(self.seconds, key=lambda s: self.seconds[s])

    def observe(self, seconds: float) -> bool:
        """One step took so long; returns whether `current` has changed."""
        self._times.append(seconds)
        if not self.settled:
            if len(self._times) < TRIAL_SKIPPED + TRIAL_STEPS:
                return False
            self.seconds[self.current] = statistics.median(self._times[TRIAL_SKIPPED:])
            self._extend()
            return self._use(self._next_trial() or self._best())
        if len(self._times) < WINDOW:
            return False
        now = self.seconds[self.current] = statistics.median(self._times)
        self._times = []
        others = [s for s in self.settings if s != self.current]
        runner_up = min(others, key=lambda s: self.seconds[s], default=self.current)
        self._slow_windows = self._slow_windows + 1 if now > self.seconds[runner_up] * WORSE else 0
        return self._use(runner_up) if self._slow_windows >= 2 else False

    def _use(self, setting: Setting) -> bool:
        changed = setting != self.current
        self.current, self._times, self._slow_windows = setting, [], 0
        return changed


def load_times(path: Path, machine: str) -> dict[Setting, float]:
    """What was measured on `machine` before; nothing if the file is missing, damaged or another machine's."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["machine"] != machine:
            return {}
        return {Setting(str(m), float(s)): float(t) for m, s, t in stored["seconds"] if 0 < float(t) < 1e4}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def save_times(path: Path, machine: str, seconds: dict[Setting, float]) -> None:
    """Keeps what was measured, whole or not at all; a disk that refuses is no reason to fail."""
    text = json.dumps({"machine": machine, "seconds": [[s.mode, s.share, t] for s, t in seconds.items()]})
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".partial")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(partial, path)
