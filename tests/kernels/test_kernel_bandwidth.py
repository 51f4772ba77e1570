"""The probe of the machine's bandwidth: it reads all of its memory, with the threads it is given."""

from __future__ import annotations

import numpy as np

from localmoe.kernels.bandwidth import _PIECE, ReadProbe
from localmoe.kernels.pool import Pool


def test_every_word_is_read() -> None:
    pool = Pool(2)
    probe = ReadProbe(pool, 4 * _PIECE)
    words = probe._memory.view(np.int32).reshape(4, -1)
    rng = np.random.default_rng(0)
    words[:] = rng.integers(-1000, 1000, words.shape)
    for _ in range(3):
        probe._sums[:] = 7  # poison
        assert probe.measure(1) > 0
        np.testing.assert_array_equal(probe._sums, words.sum(1, dtype=np.int64))
        words[rng.integers(4), rng.integers(words.shape[1])] += 1
    pool.close()


def test_the_bandwidth_is_of_all_passes(monkeypatch) -> None:
    times = iter([0.0, 2.0])
    monkeypatch.setattr("localmoe.kernels.bandwidth.time.perf_counter", lambda: next(times))
    pool = Pool(1)
    probe = ReadProbe(pool, 1)  # at least one piece
    assert probe.measure(3) == 3 * _PIECE / 2.0 / 1e9
    pool.close()
