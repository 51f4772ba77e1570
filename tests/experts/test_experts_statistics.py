"""The statistics learn what the router does, the same in NumPy and compiled."""

import ctypes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localmoe.experts.replay import token_task
from localmoe.experts.statistics import CHOICE, ONE, SHIFTS, ExpertStatistics, kept, shifts_at
from localmoe.experts.traces import generate_trace


def learn_slowly(statistics, routing):
    for token in routing:
        for layer, ids in enumerate(token):
            statistics.observe(layer, ids)
        statistics.end_token()


def learn_by_task(statistics, routing):
    """As a recorded pass does: the routing of each token in the same place."""
    run = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(token_task.address)
    place = np.zeros(routing.shape[1:], np.int32)
    words = np.array([place.ctypes.data, *statistics.addresses()], np.int64)
    for token in routing:
        place[:] = token
        run(words.ctypes.data, 0, 0)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 5), st.integers(2, 12), st.integers(1, 3), st.integers(0, 80), st.integers(0, 2**32 - 1)
)
def test_numpy_and_compiled_statistics_agree_to_the_last_bit(layers, experts, chosen, tokens, seed):
    chosen = min(chosen, experts)
    routing = generate_trace(tokens, layers, experts, chosen, skew=1.0, drift=20, seed=seed)
    slow, fast, by_task = (ExpertStatistics(layers, experts, chosen) for _ in range(3))
    learn_slowly(slow, routing)
    fast.observe_tokens(routing)
    learn_by_task(by_task, routing)
    for name, array in slow.arrays().items():
        np.testing.assert_array_equal(array, fast.arrays()[name], err_msg=name)
        np.testing.assert_array_equal(array, by_task.arrays()[name], err_msg=name)
    assert slow.tokens == tokens


def test_the_statistics_do_not_depend_on_how_tokens_are_grouped():
    routing = generate_trace(300, 4, seed=3)
    whole, parts = ExpertStatistics(4, 8, 2), ExpertStatistics(4, 8, 2)
    whole.observe_tokens(routing)
    for start in range(0, 300, 70):
        parts.observe_tokens(routing[start : start + 70])
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(array, parts.arrays()[name])
    np.testing.assert_array_equal(
        whole.totals, [np.bincount(routing[:, layer].ravel(), minlength=8) for layer in range(4)]
    )


def test_every_average_approaches_how_often_an_expert_is_chosen():
    routing = np.zeros((20_000, 1, 1), np.uint8)
    routing[::4] = 1  # expert 0 three times in four, expert 1 once
    statistics = ExpertStatistics(1, 4, 1)
    statistics.observe_tokens(routing)
    np.testing.assert_allclose(statistics.estimates[1:, 0, 0] / ONE, 0.75, atol=0.02)
    np.testing.assert_allclose(statistics.estimates[1:, 0, 2] / ONE, 0.0, atol=0.01)


def test_drifting_traffic_shortens_the_memory_and_steady_traffic_lengthens_it():
    statistics = ExpertStatistics(32, 8, 2)
    statistics.observe_tokens(generate_trace(3000, seed=1))
    assert statistics.half_life > 500
    statistics.observe_tokens(generate_trace(60, skew=1.5, seed=2))  # another topic
    assert statistics.half_life < 100
    statistics.observe_tokens(generate_trace(4000, seed=4))
    assert statistics.half_life > 500


def test_the_bonus_is_how_much_likelier_the_last_tokens_experts_are():
    without, repeating = ExpertStatistics(16, 8, 2), ExpertStatistics(16, 8, 2)
    without.observe_tokens(generate_trace(2000, 16, repeat=0.0, seed=5))
    repeating.observe_tokens(generate_trace(2000, 16, repeat=0.5, seed=5))
    bonus = lambda s: s.evidence[3, s.clock[CHOICE]] / ONE  # noqa: E731
    assert bonus(without) < 0.02
    assert 0.1 < bonus(repeating) < 0.25  # half of the tokens keep one of two: 0.25, less what is by chance


def test_kept_is_the_product_of_what_every_token_leaves():
    for start, end in ((0, 0), (0, 9), (3, 500), (4090, 4200), (5000, 5003)):
        product = np.ones(len(SHIFTS))
        for token in range(start, end):
            product *= 1 - 0.5 ** shifts_at(token).astype(float)
        np.testing.assert_allclose(kept(start, end), product, rtol=1e-9)


def test_routing_of_another_shape_is_refused():
    statistics = ExpertStatistics(4, 8, 2)
    with pytest.raises(ValueError, match="routing"):
        statistics.observe_tokens(np.zeros((5, 3, 2), np.uint8))
    with pytest.raises(ValueError, match="no such model"):
        ExpertStatistics(4, 2, 3)
