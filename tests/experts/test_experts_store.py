"""Statistics on disk survive crashes, other processes and damage."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from localmoe.experts.statistics import ExpertStatistics
from localmoe.experts.store import StatisticsStore
from localmoe.experts.traces import generate_trace

IDENTITY = "0123456789abcdef"
ROUTING = generate_trace(600, 4, seed=11)


def store_in(directory):
    return StatisticsStore(IDENTITY, directory)


def test_what_is_saved_is_loaded(tmp_path):
    store = store_in(tmp_path)
    statistics = store.load(4, 8, 2)
    assert (statistics.tokens, store.note) == (0, "")
    statistics.observe_tokens(ROUTING)
    store.save(statistics)
    again = store_in(tmp_path)
    loaded = again.load(4, 8, 2)
    for name, array in statistics.arrays().items():
        np.testing.assert_array_equal(array, loaded.arrays()[name])
    assert again.note == ""
    assert not list(tmp_path.glob("*.partial"))


def test_saving_again_and_again_counts_everything_once(tmp_path):
    store = store_in(tmp_path)
    statistics = store.load(4, 8, 2)
    for start in range(0, 600, 100):
        statistics.observe_tokens(ROUTING[start : start + 100])
        store.save(statistics)
        store.save(statistics)
    alone = ExpertStatistics(4, 8, 2)
    alone.observe_tokens(ROUTING)
    loaded = store_in(tmp_path).load(4, 8, 2)
    np.testing.assert_array_equal(loaded.totals, alone.totals)
    np.testing.assert_array_equal(loaded.estimates, alone.estimates)
    assert loaded.tokens == 600


def test_two_processes_that_end_one_after_the_other_both_count(tmp_path):
    earlier = store_in(tmp_path)
    common = earlier.load(4, 8, 2)
    common.observe_tokens(ROUTING[:200])
    earlier.save(common)
    first, second = store_in(tmp_path), store_in(tmp_path)
    one, other = first.load(4, 8, 2), second.load(4, 8, 2)
    one.observe_tokens(ROUTING[200:400])
    other.observe_tokens(ROUTING[400:])
    first.save(one)
    second.save(other)
    merged = store_in(tmp_path).load(4, 8, 2)
    sequential = ExpertStatistics(4, 8, 2)
    sequential.observe_tokens(ROUTING)  # the file, then the one that saved first, then the other
    np.testing.assert_array_equal(merged.totals, sequential.totals)
    assert merged.tokens == 600
    error = np.abs(merged.estimates.astype(int) - sequential.estimates) / (1 << 24)
    assert error[:3].max() < 1e-6  # rounding
    assert error.max() < 0.05  # the longest memories still fill: the other process thought itself younger


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: os.urandom(len(data)),
        lambda data: data[:400] + bytes(200) + data[600:],
        lambda data: b"\x93NUMPY" + data,
    ],
)
def test_a_damaged_file_is_ignored_with_a_note_and_replaced(tmp_path, damage):
    store = store_in(tmp_path)
    statistics = store.load(4, 8, 2)
    statistics.observe_tokens(ROUTING[:50])
    store.save(statistics)
    store.path.write_bytes(damage(store.path.read_bytes()))
    again = store_in(tmp_path)
    fresh = again.load(4, 8, 2)
    assert fresh.tokens == 0
    assert str(store.path) in again.note
    assert "\n" not in again.note
    fresh.observe_tokens(ROUTING[:7])
    again.save(fresh)
    assert store_in(tmp_path).load(4, 8, 2).tokens == 7


def test_statistics_of_another_shape_are_ignored(tmp_path):
    store = store_in(tmp_path)
    statistics = store.load(4, 8, 2)
    statistics.observe_tokens(ROUTING[:50])
    store.save(statistics)
    other = store_in(tmp_path)
    assert other.load(6, 8, 2).tokens == 0
    assert "shape" in other.note


@pytest.mark.parametrize("field", ["estimates", "used", "clock", "totals"])
def test_statistics_that_cannot_be_true_are_ignored(tmp_path, field):
    store = store_in(tmp_path)
    statistics = store.load(4, 8, 2)
    statistics.arrays()[field].flat[-1] = -5
    store.save(statistics)
    again = store_in(tmp_path)
    assert again.load(4, 8, 2).totals.sum() == 0
    assert again.note


def test_a_directory_that_cannot_be_written_is_a_note_not_a_crash(tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = store_in(tmp_path / "file")
    statistics = ExpertStatistics(4, 8, 2)
    store.save(statistics)
    assert "not saved" in store.note


def test_an_identity_cannot_name_another_place(tmp_path):
    with pytest.raises(ValueError, match="hexadecimal"):
        StatisticsStore("../../etc/passwd", tmp_path)


SAVER = """
import sys
from pathlib import Path
from localmoe.experts.store import StatisticsStore
store = StatisticsStore(sys.argv[1], Path(sys.argv[2]))
statistics = store.load(4, 8, 2)
while True:
    for layer in range(4):
        statistics.observe(layer, [0, 1])
    statistics.end_token()
    store.save(statistics)
    print(statistics.tokens, flush=True)
"""


def test_kill_9_loses_nothing_that_was_saved(tmp_path):
    saved = 0
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVER, IDENTITY, str(tmp_path)],
            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert int(process.stdout.readline()) == saved + 1
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().split()
        process.wait()
        saved = int(lines[-1]) if lines else saved + 1
        store = store_in(tmp_path)
        tokens = store.load(4, 8, 2).tokens
        assert store.note == ""
        assert tokens >= saved
        saved = tokens
    assert saved > 4
