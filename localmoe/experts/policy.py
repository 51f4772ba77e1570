"""Which expert deserves a slot: pure functions of the routing statistics.

An expert's *score* is the probability that the next token chooses it, as the statistics see it: its decayed
frequency in the memory that predicts best at present, plus that memory's bonus if the last token used it.
When a chosen expert is not resident, the resident one of the lowest score is its victim, and gives way only
if the newcomer's score is higher by a margin: a quarter of the bonus (a bonus lasts one token, a slot longer)
and 1/64 (estimates are noisy, and each exchange costs a read). Where a slot is free there is no victim and
everything is admitted.

Integers only. A device kernel needs one reduction per miss: the least of `score << 16 | index` over the
residents of a slab that the layer under way does not use.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from localmoe.experts.statistics import BONUS, CHOICE, ONE, ExpertStatistics

MARGIN_SHIFT = 2
MARGIN = ONE >> 6
COPY_GAIN = ONE >> 3
"""A copy behind the decoding costs the bus what a miss costs: an exchange must gain this much to be worth
one (decision 066).
"""


def bonus(statistics: ExpertStatistics) -> int:
    """How much likelier than its average an expert is that the last token used, in units of 1/ONE."""
    return int(statistics.evidence[BONUS, statistics.clock[CHOICE]])


def scores(statistics: ExpertStatistics) -> NDArray[np.int64]:
    """The worth of every expert: int64 [layers, experts], in units of 1/ONE."""
    frequency: NDArray[np.int64] = statistics.estimates[statistics.clock[CHOICE]].astype(np.int64)
    return frequency + bonus(statistics) * statistics.used


def margin(statistics: ExpertStatistics) -> int:
    """By how much a newcomer's score must exceed its victim's."""
    return (bonus(statistics) >> MARGIN_SHIFT) + MARGIN


def victim(scores: NDArray[np.int64], candidates: NDArray[np.bool_]) -> int:
    """The flat index of the candidate of the lowest score (of equals the first), or -1 if there is none.

    Both arrays [layers, experts]; candidates are the residents of one slab, less those that the layer uses.
    """
    flat = np.flatnonzero(candidates)
    return int(flat[scores.ravel()[flat].argmin()]) if flat.size else -1


def admits(statistics: ExpertStatistics, newcomer: int, victim: int) -> bool:
    """Whether the expert of flat index `newcomer` is worth more than the resident `victim`."""
    worth = scores(statistics).ravel()
    return bool(worth[newcomer] > worth[victim] + margin(statistics))


def hottest(statistics: ExpertStatistics, candidates: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """Flat indices of the `count` candidates of the highest long-run worth, best first: what a warm start
    loads.

    The last token's bonus is left out: it belongs to a conversation that has ended.
    """
    frequency = statistics.estimates[statistics.clock[CHOICE]].astype(np.int64).ravel()
    flat = np.flatnonzero(candidates)
    return flat[np.argsort(-frequency[flat], kind="stable")[:count]]
