"""Each filter's exact probabilities, their order, draws that a seed reproduces, and their cost."""

from __future__ import annotations

import math
import time
import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localmoe.generate.errors import GenerationError, SettingError
from localmoe.generate.sampling import (
    Kept,
    Logits,
    Sampler,
    Sampling,
    log_probabilities,
    min_p,
    penalize,
    probabilities,
    scale_temperature,
    top_k,
    top_p,
)


def logits_of(*shares: int) -> Logits:
    """Logits whose softmax is these shares of their sum."""
    return np.log(np.array(shares, np.float64))


def shares_of(logits: Logits) -> list[Fraction]:
    return [Fraction(float(p)).limit_denominator(1000) for p in probabilities(logits)]


def shares_kept(logits: Logits, kept: Kept) -> list[Fraction]:
    """Of every token, those that do not stay at nothing."""
    rest = np.full(len(logits), -np.inf)
    rest[kept] = logits[kept]
    return shares_of(rest)


def fractions(*shares: int) -> list[Fraction]:
    return [Fraction(share, sum(shares)) for share in shares]


def test_softmax_is_exact() -> None:
    assert shares_of(logits_of(5, 3, 2)) == fractions(5, 3, 2)
    assert np.allclose(np.exp(log_probabilities(logits_of(5, 3, 2))), [0.5, 0.3, 0.2], atol=1e-15)
    assert probabilities(np.array([1e4, 0.0, -1e4], np.float32)).tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("k", "expected"),
    [(0, (4, 1, 4, 2)), (1, (1, 0, 0, 0)), (2, (1, 0, 1, 0)), (3, (4, 0, 4, 2)), (4, (4, 1, 4, 2))],
)
def test_top_k(k: int, expected: tuple[int, ...]) -> None:
    """Of the two that tie, the lower id comes first."""
    logits = logits_of(4, 1, 4, 2)
    assert shares_kept(logits, top_k(logits, k)) == fractions(*expected)


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.0, (0, 0, 1, 0)),
        (0.39, (0, 0, 1, 0)),
        (0.41, (0, 3, 4, 0)),
        (0.69, (0, 3, 4, 0)),
        (0.71, (2, 3, 4, 0)),
        (0.91, (2, 3, 4, 1)),
        (1.0, (2, 3, 4, 1)),
    ],
)
def test_top_p(p: float, expected: tuple[int, ...]) -> None:
    """The token that reaches p stays."""
    logits = logits_of(2, 3, 4, 1)
    assert shares_kept(logits, top_p(logits, p)) == fractions(*expected)


@pytest.mark.parametrize(
    ("p", "expected"), [(0.0, (2, 3, 4, 1)), (0.26, (2, 3, 4, 0)), (0.51, (0, 3, 4, 0)), (1.0, (0, 0, 1, 0))]
)
def test_min_p(p: float, expected: tuple[int, ...]) -> None:
    """Relative to the most probable token: 2/4, 3/4, 1, 1/4."""
    logits = logits_of(2, 3, 4, 1)
    assert shares_kept(logits, min_p(logits, p)) == fractions(*expected)


def test_temperature() -> None:
    """Probabilities are raised to 1/temperature."""
    assert shares_of(scale_temperature(logits_of(1, 2, 3), 0.5)) == fractions(1, 4, 9)
    assert shares_of(scale_temperature(logits_of(1, 4, 9), 2.0)) == fractions(1, 2, 3)
    assert shares_of(scale_temperature(logits_of(1, 2, 3), 1.0)) == fractions(1, 2, 3)


@pytest.mark.parametrize("temperature", [1e-300, 1e-38, 1e-9])
@pytest.mark.parametrize("filters", [{}, {"top_k": 3, "top_p": 0.95, "min_p": 0.05}])
def test_a_temperature_near_nothing_takes_the_most_probable(
    temperature: float, filters: dict[str, Any]
) -> None:
    sampler = Sampler(Sampling(temperature=temperature, **filters))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sampler.choose(np.array([-300.0, 41.0, 41.00001, -np.inf, 3.0], np.float32)) == 2


def test_penalties() -> None:
    logits = np.array([2.0, -2.0, 3.0, 1.0])
    recent = [0, 1, 1, 2, 0, 0]
    assert penalize(logits, recent, 2.0, 0.0, 0.0).tolist() == [1.0, -4.0, 1.5, 1.0]
    assert penalize(logits, recent, 1.0, 0.25, 0.0).tolist() == [1.75, -2.25, 2.75, 1.0]
    assert penalize(logits, recent, 1.0, 0.0, 0.5).tolist() == [0.5, -3.0, 2.5, 1.0]
    assert penalize(logits, recent, 2.0, 0.25, 0.5).tolist() == [-0.75, -5.25, 0.75, 1.0]
    assert penalize(logits, [], 2.0, 1.0, 1.0) is logits
    assert logits.tolist() == [2.0, -2.0, 3.0, 1.0], "the caller's logits stay as they are"


def naive(logits: Logits, s: Sampling) -> dict[int, float]:
    """Top-k, top-p, min-p and temperature as one would write them by hand, on a sorted list."""
    total = sum(math.exp(x) for x in logits)
    tokens = sorted(((math.exp(x) / total, -i) for i, x in enumerate(logits)), reverse=True)
    if s.top_k:
        tokens = tokens[: s.top_k]
    mass = sum(p for p, _ in tokens)
    if s.top_p < 1:
        kept, reached = [], 0.0
        for p, i in tokens:
            kept.append((p, i))
            reached += p / mass
            if reached >= s.top_p:
                break
        tokens = kept
    tokens = [(p, i) for p, i in tokens if p >= s.min_p * tokens[0][0] * (1 - 1e-12)]
    powered = {-i: p ** (1 / s.temperature) for p, i in tokens}
    return {i: p / sum(powered.values()) for i, p in powered.items()}


@given(
    st.lists(st.integers(-600, 600).map(lambda n: n / 100), min_size=1, max_size=600),
    st.integers(0, 50),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0.1, 3),
)
@settings(max_examples=300, deadline=None)
def test_the_steps_in_order(values: list[float], k: int, p: float, m: float, temperature: float) -> None:
    sampling = Sampling(temperature=temperature, top_k=k, top_p=p, min_p=m)
    logits = np.array(values)
    expected = naive(logits, sampling)
    ids, kept = Sampler(sampling).candidates(logits)
    actual = dict(zip(ids.tolist(), probabilities(kept).tolist(), strict=True))
    if not _near_border(logits, sampling):
        assert {i for i, x in actual.items() if x > 0} == {i for i, x in expected.items() if x > 0}
        assert all(abs(actual[i] - x) < 1e-9 for i, x in expected.items() if x > 0)


def _near_border(logits: Logits, s: Sampling) -> bool:
    """Whether rounding may decide which tokens stay: a cumulative sum or a ratio falls on the limit."""
    kept = np.sort(probabilities(logits[top_k(logits, s.top_k)]))[::-1]
    sums, ratios = np.cumsum(kept), kept / kept[0]
    return bool((abs(sums - s.top_p) < 1e-9).any() or (abs(ratios - s.min_p) < 1e-9).any())


def test_top_p_in_a_large_vocabulary() -> None:
    logits = np.random.default_rng(0).normal(0, 3, 32_000).astype(np.float32)
    for scale in (0.1, 1.0, 3.0):
        kept = np.zeros(len(logits), bool)
        kept[top_p(logits * np.float32(scale), 0.9)] = True
        p = probabilities(logits * np.float32(scale))
        assert p[kept].sum() >= 0.9
        assert p[kept].sum() - p[kept].min() < 0.9
        assert p[kept].min() >= p[~kept].max()


def test_greedy_takes_the_lowest_of_equals() -> None:
    sampler = Sampler(Sampling(temperature=0))
    assert sampler.choose(np.array([1.0, 3.0, 3.0, 2.0], np.float32)) == 1
    assert Sampler(Sampling(temperature=0, top_k=1, top_p=0.1)).choose(np.array([1.0, 3.0, 3.0])) == 1


def test_draws_follow_the_distribution() -> None:
    """Pearson's statistic of 20,000 draws over 4 outcomes: below 16.3 with probability .999."""
    expected = np.array([0.5, 0.0, 0.3, 0.15, 0.05])
    with np.errstate(divide="ignore"):
        logits = np.log(expected)
    sampler = Sampler(Sampling(temperature=1.0, seed=7))
    counts = np.bincount([sampler.choose(logits) for _ in range(20_000)], minlength=5)
    assert counts[1] == 0
    alive = expected > 0
    assert ((counts[alive] - 20_000 * expected[alive]) ** 2 / (20_000 * expected[alive])).sum() < 16.3


class AlmostOne:
    """A generator of the largest number that NumPy's draws."""

    def random(self) -> float:
        return 1 - 2**-53


@pytest.mark.parametrize("top", [0.3, 1e-9, 7.0])
def test_the_last_draw_falls_on_a_token_that_is_possible(top: float) -> None:
    sampler = Sampler(Sampling(temperature=1.0))
    sampler._random = AlmostOne()  # type: ignore[assignment]  # a draw that no seed is known for
    assert sampler.choose(np.array([0.0, top, -np.inf], np.float32)) == 1


def test_seeds_reproduce() -> None:
    logits = np.random.default_rng(0).normal(0, 2, 500).astype(np.float32)

    def draws(seed: int | None) -> tuple[int, list[int]]:
        sampler = Sampler(Sampling(temperature=1.0, top_p=0.95, seed=seed))
        return sampler.seed, [sampler.choose(logits) for _ in range(30)]

    assert draws(123) == draws(123)
    assert draws(123) != draws(124)
    seed, drawn = draws(None)
    assert draws(seed) == (seed, drawn), "a seed that was drawn is reported and reproduces"
    assert draws(None)[0] != seed
    assert draws(123)[1][:8] == [270, 47, 143, 116, 101, 390, 442, 195], "on every machine and version"


def test_recent_tokens_are_those_of_prompt_and_answer() -> None:
    logits = np.array([3.0, 2.9, 2.8, 0.0])
    once = Sampling(temperature=0, presence_penalty=1.0)
    sampler = Sampler(once, prompt=[0])
    assert [sampler.choose(logits) for _ in range(3)] == [1, 2, 0]
    window = Sampler(Sampling(temperature=0, presence_penalty=1.0, repeat_last_n=1), prompt=[0])
    assert [window.choose(logits) for _ in range(4)] == [1, 0, 1, 0]
    off = Sampler(Sampling(temperature=0, presence_penalty=1.0, repeat_last_n=0), prompt=[0])
    assert [off.choose(logits) for _ in range(3)] == [0, 0, 0]
    unbounded = Sampling(temperature=0, presence_penalty=1.0, repeat_last_n=-1)
    everything = Sampler(unbounded, prompt=[0] + [3] * 100)
    assert everything.choose(logits) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_output_that_is_no_number_is_named(bad: float) -> None:
    with pytest.raises(GenerationError, match="not a number"):
        Sampler(Sampling()).choose(np.array([1.0, bad, 2.0], np.float32))


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": -1},
        {"top_p": 1.5},
        {"top_p": -0.1},
        {"min_p": 2.0},
        {"repeat_penalty": 0.0},
        {"presence_penalty": 1e9},
        {"frequency_penalty": math.nan},
        {"repeat_last_n": -2},
        {"seed": -1},
    ],
)
def test_settings_out_of_range_are_named(setting: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(setting))):
        Sampling(**setting)


def test_choosing_is_fast() -> None:
    """Of 32,000 tokens: 0.01 ms greedy, 0.1 ms with every step; of one core."""
    logits = np.random.default_rng(0).normal(0, 3, 32_000).astype(np.float32)
    everything = Sampling(top_k=40, top_p=0.95, min_p=0.05, repeat_penalty=1.1)
    greedy, nucleus = Sampling(temperature=0), Sampling(top_p=0.95)
    for sampling, limit in ((greedy, 0.3e-3), (everything, 0.6e-3), (nucleus, 1.5e-3)):
        sampler = Sampler(sampling)
        seconds = []
        for _ in range(40):
            began = time.process_time()
            sampler.choose(logits)
            seconds.append(time.process_time() - began)
        assert min(seconds) < limit, sampling
