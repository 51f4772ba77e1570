"""How long before their turn weights are asked for."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_rows import address

from localmoe.kernels.ahead import ASKED, NEXT, NEXT_END, STEP, ask_ahead, distances
from quant.compiled import compiled


@pytest.mark.parametrize(
    ("cpu", "avx512", "ahead", "second_level"),
    [("znver5", True, 9216, False), ("znver5", False, 9216, False), ("sapphirerapids", True, 17408, True),
     ("znver4", True, 22528, True), ("znver4", False, 22528, True), ("znver3", False, 22528, True),
     ("haswell", False, 22528, True), ("apple-m1", False, 22528, True)],
)  # fmt: skip
def test_every_cpu_has_the_distances_measured_on_its_like(cpu, avx512, ahead, second_level):
    first, to_second_level, again = distances(cpu, avx512)
    assert (first, to_second_level) == (ahead, second_level)
    assert 0 <= again < first


@compiled("void(int64)")
def _ask(place):
    ask_ahead(place)


def test_what_comes_next_is_asked_for_step_by_step_to_its_end_and_no_further():
    place = np.zeros(4, np.int64)  # behind a ticket: where it begins, its end, how far it was asked for

    def asked(steps):
        for _ in range(steps):
            _ask(address(place))
        return int(place[ASKED // 8])

    assert asked(3) == 0  # nothing is known
    place[NEXT // 8], place[NEXT_END // 8] = 10**6, 10**6 + 3 * STEP + 100
    steps = [asked(1) - 10**6 for _ in range(6)]
    assert steps == [STEP, 2 * STEP, 3 * STEP, *[3 * STEP + 100] * 3]
    place[NEXT // 8], place[NEXT_END // 8] = 500, 500 + STEP  # another matrix
    assert asked(1) == 500 + STEP
    place[NEXT // 8], place[NEXT_END // 8] = 0, 0
    assert asked(2) == 500 + STEP
