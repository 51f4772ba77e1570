"""How long before their turn weights are asked for."""

from __future__ import annotations

import pytest

from localmoe.kernels.ahead import distances


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
