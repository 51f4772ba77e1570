"""Sampling, stop strings and log-probabilities, on the embedded model."""

from __future__ import annotations

import math
import statistics

import pytest
from demo_chat import Demo

pytestmark = pytest.mark.slow
DRAGON = "-n 24 -p 'Tell me a story about a dragon.'"
WIDE = "--temperature 5 --top-p 1 --top-k 0 --min-p 0"  # the model is sure of itself
HOT = f"{WIDE} {DRAGON}"


def test_seeds_repeat_exactly(demo: Demo) -> None:
    unseeded = demo.answer(HOT)
    assert demo.answer(f"{HOT} --seed {unseeded['seed']}")["text"] == unseeded["text"]
    assert demo.answer(f"{HOT} --seed {unseeded['seed'] + 1}")["text"] != unseeded["text"]


def test_each_filter_alone_can_leave_only_the_likeliest(demo: Demo) -> None:
    greedy = demo.answer(f"--temperature 0 {DRAGON}")["text"]
    assert demo.answer(f"{HOT} --seed 9")["text"] != greedy
    for filter_ in ("--top-k 1", "--top-p 0.00001", "--min-p 1", "--temperature 0"):
        assert demo.answer(f"{HOT} {filter_} --seed 9")["text"] == greedy, filter_


def test_penalties_discourage_what_occurred(demo: Demo) -> None:
    line = f"{WIDE} --temperature 2 --logprobs 1 -n 60 -p 'Give me a tour.'"  # a text whose words come again

    def repeated(penalty: str) -> float:
        """The share of tokens that had occurred, as a mean over seeds: no one draw decides."""
        shares = []
        for seed in range(1, 5):
            tokens = [one["id"] for one in demo.answer(f"{line} --seed {seed} {penalty}")["logprobs"]]
            shares.append(1 - len(set(tokens)) / len(tokens))
        return statistics.fmean(shares)

    plain = repeated("")
    assert plain > 0.05
    for penalty in ("--repeat-penalty 5", "--presence-penalty 5", "--frequency-penalty 5"):
        assert repeated(penalty) < plain, penalty


def test_a_stop_string_may_straddle_tokens(demo: Demo) -> None:
    told = demo.answer("--temperature 0 -p 'What is the capital of Kenya?' --stop 'l of K'")
    assert (told["text"], told["finish_reason"]) == ("The capita", "stop")


def test_log_probabilities(demo: Demo) -> None:
    told = demo.answer("--temperature 0 --logprobs 3 -p 'What is the capital of Kenya?'")
    assert "".join(one["token"] for one in told["logprobs"]).strip() == told["text"]
    for one in told["logprobs"]:
        assert len(one["top"]) == 3
        assert one["logprob"] == pytest.approx(one["top"][0]["logprob"])  # greedy
        assert sum(math.exp(other["logprob"]) for other in one["top"]) <= 1 + 1e-6
