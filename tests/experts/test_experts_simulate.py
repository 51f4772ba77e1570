"""The replays agree with brute force, and the policy stands beside the best of its rivals."""

import time
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localmoe.experts import policy
from localmoe.experts.simulate import SHARES, concentration, flat_accesses, simulate, simulate_budget
from localmoe.experts.statistics import ExpertStatistics
from localmoe.experts.traces import generate_trace, repeat_share


def lru(accesses, slots):
    order, hits = [], 0  # least recent first
    for expert in accesses:
        if expert in order:
            hits += 1
            order.remove(expert)
        elif len(order) >= slots:
            if not slots:
                continue
            order.pop(0)
        order.append(expert)
    return hits


def lfu(accesses, slots):
    resident, counts, last, hits = set(), {}, {}, 0
    for time_, expert in enumerate(accesses):
        counts[expert] = counts.get(expert, 0) + 1
        last[expert] = time_
        if expert in resident:
            hits += 1
            continue
        if len(resident) >= slots:
            if not slots:
                continue
            resident.remove(min(resident, key=lambda e: (counts[e], last[e])))
        resident.add(expert)
    return hits


def static(accesses, half, slots, total):
    counts = np.bincount(accesses[:half], minlength=total)
    members = set(sorted(range(total), key=lambda e: (-counts[e], e))[:slots])
    loaded, hits = set(), 0
    for expert in accesses:
        hits += expert in loaded
        if expert in members:
            loaded.add(expert)
    return hits


def optimum(accesses, slots):
    """The most hits any schedule can have, by trying every choice: admit or not, and whom to evict."""

    @cache
    def best(position, resident):
        if position == len(accesses):
            return 0
        expert = accesses[position]
        if expert in resident:
            return 1 + best(position + 1, resident)
        options = [resident]
        if len(resident) < slots:
            options.append(resident | {expert})
        elif slots:
            options += [resident - {out} | {expert} for out in resident]
        return max(best(position + 1, option) for option in options)

    return best(0, frozenset())


def ours(routing, experts, slots):
    """The policy as its module describes it, on the NumPy statistics."""
    _, layers, chosen = routing.shape
    statistics = ExpertStatistics(layers, experts, chosen)
    resident = np.zeros((layers, experts), bool)
    hits = 0
    for token in routing:
        for layer, ids in enumerate(token):
            statistics.observe(layer, ids)
            for expert in ids:
                if resident[layer, expert]:
                    hits += 1
                    continue
                if resident.sum() >= slots:
                    candidates = resident.copy()
                    candidates[layer, ids] = False
                    victim = policy.victim(policy.scores(statistics), candidates)
                    if victim < 0 or not policy.admits(statistics, layer * experts + int(expert), victim):
                        continue
                    resident.flat[victim] = False
                resident[layer, expert] = True
        statistics.end_token()
    return hits


traces = st.builds(
    generate_trace,
    st.integers(1, 40), st.integers(1, 3), st.integers(2, 5), st.integers(1, 2),
    skew=st.floats(0, 2), drift=st.sampled_from([None, 10]), seed=st.integers(0, 10**6),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(traces, st.floats(0, 1))
def test_replays_agree_with_brute_force(routing, share):
    tokens, layers, chosen = routing.shape
    experts = 5
    result = simulate_budget(routing, experts, share)
    slots = round(share * layers * experts)
    accesses = [
        layer * experts + int(expert)
        for token in routing for layer, ids in enumerate(token) for expert in ids
    ]  # fmt: skip
    hits = {name: round(rate * len(accesses)) for name, rate in result.hit_rate.items()}
    assert result.slots == slots
    assert hits["lru"] == lru(accesses, slots)
    assert hits["lfu"] == lfu(accesses, slots)
    assert hits["static"] == static(accesses, tokens // 2 * layers * chosen, slots, layers * experts)
    assert hits["ours"] == ours(routing, experts, slots)
    assert hits["belady"] >= max(hits.values())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=14), st.integers(0, 4))
def test_belady_is_the_true_optimum(accesses, slots):
    routing = np.array(accesses, np.uint8)[:, None, None]
    result = simulate_budget(routing, 5, slots / 5)
    assert round(result.hit_rate["belady"] * len(accesses)) == optimum(tuple(accesses), slots)


KINDS = {
    "stationary": {},
    "drifting": {"drift": 500},
    "skewed": {"skew": 0.8},
    "56 layers": {"layers": 56},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_policy_is_at_most_a_point_below_the_best_of_its_rivals(kind, seed):
    routing = generate_trace(3000, **{"layers": 32, **KINDS[kind]}, seed=seed)
    if kind == "stationary":
        assert repeat_share(routing) == pytest.approx(0.65, abs=0.02)
    for result in simulate(routing, 8):
        rivals = max(result.hit_rate[name] for name in ("lru", "lfu", "static"))
        assert result.hit_rate["ours"] >= rivals - 0.01, result
        assert result.hit_rate["belady"] >= result.hit_rate["ours"]
        if kind == "drifting":
            assert result.hit_rate["ours"] > rivals, result


def test_a_million_accesses_a_second():
    routing = generate_trace(500)
    simulate(routing[:10], 8, (0.5,))  # compiled
    start = time.perf_counter()
    simulate(routing, 8)
    replayed = routing.size * len(SHARES) * 5
    assert replayed / (time.perf_counter() - start) > 1e6


def test_concentration_is_what_the_hottest_take():
    counts = np.array([[50, 10, 10, 10], [10, 4, 3, 3]])
    assert concentration(counts, (0.125, 0.25, 1.0)) == [(0.125, 0.5), (0.25, 0.6), (1.0, 1.0)]
    assert concentration(np.zeros((2, 4), int), (0.5,)) == [(0.5, 0.0)]


def test_accesses_run_token_by_token_layer_by_layer():
    routing = np.array([[[1, 0], [2, 3]], [[3, 1], [0, 2]]], np.uint8)
    assert flat_accesses(routing, 4).tolist() == [1, 0, 6, 7, 3, 1, 4, 6]
