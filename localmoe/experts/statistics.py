"""What the router has been choosing: decayed frequencies per (layer, expert), and how well each memory
predicts.

Everything is integer arithmetic on a fixed point (`ONE` is probability 1), so that NumPy, the compiled replay
and a device kernel reach the same numbers to the last bit, and with them the same decisions (`policy.py`).

Five exponential averages of "was this expert chosen for this token" run side by side, with half-lives of
about 11, 44, 177, 710 and 2,839 tokens. Each is scored, token by token, by the squared error of what it
predicted for the token that came; the policy follows the one with the least recent error. A topic that drifts
makes a short memory win, steady traffic a long one: that is the whole of the adaptation. Beside each average
runs its *bonus*: how much likelier than its average an expert is when the last token used it, again measured
and not assumed.

The runner calls `observe(layer, ids)` layer by layer and `end_token()` (decode with paging, where the
decision follows the routing at once), or `observe_tokens(routing)` for whole tokens (prefill, nothing paged).
Not thread-safe: the compute thread owns it; others take `snapshot()`s under the caller's lock.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FRACTION_BITS = 24
ONE = 1 << FRACTION_BITS
SHIFTS = (4, 6, 8, 10, 12)
"""An average moves by 2**-shift of its error at each token: half-life = ln 2 · 2**shift tokens."""
ERROR_BITS = 8
"""Errors lose these low bits before they are squared, so that a sum over all experts fits 64 bits."""
LOSS_SHIFT = 6
BONUS_SHIFT = 7
BONUS_SCALE = 256
"""Per-token sums are multiplied by this before they are averaged, so that the averages keep fractions."""

LOSS, RESIDUAL, REPEATS, BONUS = range(4)
"""Rows of `ExpertStatistics.evidence`; the first three are also the rows of `pending`."""
TOKENS, CHOICE = range(2)
"""Places in `ExpertStatistics.clock`."""


class ExpertStatistics:
    """Routing statistics of one model.

    `estimates` int32 [memories, layers, experts]: the averages, in units of 1/ONE.
    `used` int32 [layers, experts]: 1 where the last token that passed this layer chose this expert.
    `totals` int64 [layers, experts]: how often each was ever chosen.
    `evidence` int64 [4, memories]: recent squared error, residual and number of repeated experts, and the
    bonus.
    `pending` int64 [3, memories]: the same three, of the token under way.
    `clock` int64 [2]: tokens ended; which memory the policy follows.
    """

    def __init__(self, layers: int, experts: int, chosen: int) -> None:
        """For a model whose router picks `chosen` of `experts` in each of `layers`."""
        if layers < 1 or not 1 <= chosen <= experts:
            raise ValueError(f"no such model: {layers} layers, {chosen} of {experts} experts")
        self.layers, self.experts, self.chosen = layers, experts, chosen
        self.estimates = np.full((len(SHIFTS), layers, experts), ONE * chosen // experts, np.int32)
        self.used = np.zeros((layers, experts), np.int32)
        self.totals = np.zeros((layers, experts), np.int64)
        self.evidence = np.zeros((4, len(SHIFTS)), np.int64)
        self.pending = np.zeros((3, len(SHIFTS)), np.int64)
        self.clock = np.zeros(2, np.int64)

    @property
    def tokens(self) -> int:
        """How many tokens have ended."""
        return int(self.clock[TOKENS])

    @property
    def half_life(self) -> float:
        """The half-life, in tokens, of the memory that predicts best at present."""
        return float(np.log(2) * (1 << SHIFTS[int(self.clock[CHOICE])]))

    def observe(self, layer: int, ids: ArrayLike) -> None:
        """One token passed `layer` and chose `ids` [k] there. The specification of replay.observe_row."""
        now = np.zeros(self.experts, np.int64)
        now[np.asarray(ids)] = ONE
        used = self.used[layer]
        errors = now - self.estimates[:, layer]  # [memories, experts]
        surprise = (errors - self.evidence[BONUS][:, None] * used) >> ERROR_BITS
        self.pending[LOSS] += (surprise * surprise).sum(1)
        self.pending[RESIDUAL] += (errors * used).sum(1)
        self.pending[REPEATS] += used.sum()
        self.estimates[:, layer] += (errors >> shifts_at(self.tokens)[:, None]).astype(np.int32)
        used[:] = now > 0
        self.totals[layer] += used

    def end_token(self) -> None:
        """The token has passed every layer: choose memory and bonus anew. The specification of
        replay.end_token.
        """
        evidence = self.evidence
        evidence[LOSS] += (self.pending[LOSS] - evidence[LOSS]) >> LOSS_SHIFT
        for row in (RESIDUAL, REPEATS):
            evidence[row] += (self.pending[row] * BONUS_SCALE - evidence[row]) >> BONUS_SHIFT
        evidence[BONUS] = np.maximum(evidence[RESIDUAL], 0) // np.maximum(evidence[REPEATS], 1)
        self.clock[CHOICE] = evidence[LOSS].argmin()
        self.clock[TOKENS] += 1
        self.pending[:] = 0

    def observe_tokens(self, routing: NDArray[np.uint8]) -> None:
        """Whole tokens: `routing` [tokens, layers, k], or [layers, k] for one. Compiled: about 2 µs per
        token.
        """
        from localmoe.experts import replay

        whole = routing if routing.ndim == 3 else routing[None]
        if whole.shape[1:] != (self.layers, self.chosen):
            raise ValueError(f"routing {routing.shape}, but {self.layers} layers choose {self.chosen} each")
        replay.observe_tokens(
            np.ascontiguousarray(whole, np.uint8),
            self.estimates, self.used, self.totals, self.evidence, self.pending, self.clock,
        )  # fmt: skip

    def addresses(self) -> tuple[int, ...]:
        """layers, experts, k, and where the arrays are and stay: what `replay.token_task` is given."""
        shape = (self.layers, self.experts, self.chosen)
        return (*shape, *(int(array.ctypes.data) for array in self.arrays().values()))

    def snapshot(self) -> ExpertStatistics:
        """An independent copy."""
        copy = ExpertStatistics(self.layers, self.experts, self.chosen)
        for name, array in self.arrays().items():
            getattr(copy, name)[:] = array
        return copy

    def arrays(self) -> dict[str, NDArray[np.int32] | NDArray[np.int64]]:
        """The arrays that make up the statistics, by attribute name; not copies."""
        names = ("estimates", "used", "totals", "evidence", "pending", "clock")
        return {name: getattr(self, name) for name in names}


def shifts_at(tokens: int) -> NDArray[np.int64]:
    """The shift of each memory for the token after `tokens`: early ones average over what there is."""
    return np.minimum(SHIFTS, (tokens + 1).bit_length()).astype(np.int64)


def kept(start: int, end: int) -> NDArray[np.float64]:
    """What share of its value at token `start` each memory still holds at token `end`: [memories]."""
    share = np.ones(len(SHIFTS))
    warm = 1 << max(SHIFTS)  # from here on the shifts no longer change
    for token in range(start, min(end, warm)):
        share *= 1.0 - 0.5 ** shifts_at(token)
    steady = max(0, end - max(start, warm))
    return share * (1.0 - 0.5 ** np.array(SHIFTS)) ** steady
