"""Replays a routing trace under a budget: what would have been a hit, by policy.

Accesses run token by token, layer by layer, in the trace's order within a layer. All layers share one pool of
round(share · layers · experts) slots, empty at the start. The policies:

  ours     policy.py on fresh statistics; an expert that the layer under way uses is never its victim
  lru      evicts the least recently used; admits every miss
  lfu      evicts the least often used so far, of equals the least recent; admits every miss
  static   keeps the most frequent set of the trace's first half, each loaded at its first use
  belady   knows the future: evicts what is needed last, bypasses what is needed even later: the bound
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from localmoe.experts.statistics import ExpertStatistics

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
POLICIES = ("ours", "lru", "lfu", "static", "belady")


@dataclass(frozen=True)
class BudgetResult:
    """Hit rates (0 to 1) by policy at one budget; `admissions` is how many experts our policy moved in."""

    budget: float
    slots: int
    hit_rate: dict[str, float]
    admissions: int

    def as_json(self) -> dict[str, object]:
        """As `localmoe experts --simulate --json` prints it."""
        return {"budget": self.budget, "slots": self.slots, "hit_rate": self.hit_rate}


def simulate(
    routing: NDArray[np.uint8], experts: int, shares: tuple[float, ...] = SHARES
) -> list[BudgetResult]:
    """Replay `routing` [tokens, layers, k] of a model with `experts` experts per layer at each budget."""
    return [simulate_budget(routing, experts, share) for share in shares]


def simulate_budget(routing: NDArray[np.uint8], experts: int, share: float) -> BudgetResult:
    """Replay `routing` under one budget, a share of all experts."""
    from localmoe.experts import replay

    tokens, layers, chosen = routing.shape
    total = layers * experts
    slots = round(share * total)
    routing = np.ascontiguousarray(routing)
    accesses = flat_accesses(routing, experts)
    first_half = tokens // 2 * layers * chosen
    fresh = ExpertStatistics(layers, experts, chosen)
    hits, admissions = replay.replay_ours(
        routing, slots, fresh.estimates, fresh.used, fresh.evidence, fresh.pending, fresh.clock
    )
    counts = {
        "ours": hits,
        "lru": replay.replay_lru(accesses, total, slots),
        "lfu": replay.replay_lfu(accesses, total, slots),
        "static": replay.replay_static(accesses, total, slots, first_half),
        "belady": replay.replay_belady(accesses, total, slots),
    }
    rates = {name: int(count) / max(1, accesses.size) for name, count in counts.items()}
    return BudgetResult(share, slots, rates, int(admissions))


def flat_accesses(routing: NDArray[np.uint8], experts: int) -> NDArray[np.int64]:
    """The accesses of a trace in order, as flat expert numbers layer · experts + expert: int64 [accesses]."""
    first = np.arange(routing.shape[1], dtype=np.int64)[None, :, None] * experts
    return (routing + first).reshape(-1)


def concentration(counts: NDArray[np.int64], shares: tuple[float, ...] = SHARES) -> list[tuple[float, float]]:
    """(share of all experts, share of the routing that the hottest such share takes), from counts per
    expert.
    """
    hottest = np.sort(counts.ravel())[::-1]
    total = max(1, int(hottest.sum()))
    return [(share, float(hottest[: round(share * hottest.size)].sum()) / total) for share in shares]
