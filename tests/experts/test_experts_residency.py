"""Paged experts: right bytes at any budget, bounded memory, and decisions that the simulator predicts."""

import ctypes
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localmoe.experts.pager import ExpertFile, ReadError
from localmoe.experts.residency import Residency
from localmoe.experts.simulate import simulate_budget
from localmoe.experts.statistics import ExpertStatistics
from localmoe.experts.store import StatisticsStore
from localmoe.experts.traces import generate_trace


def residency_of(experts, slots, chosen=2, **options):
    layout = experts.layout
    return Residency(layout, ExpertStatistics(layout.layers, layout.experts, chosen), slots, **options)


run_task = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)


def run_pass(residency, experts, routing):
    """A forward pass over `routing` [tokens, layers, k] that checks every byte it is shown."""
    with residency.step():
        for layer in range(routing.shape[1]):
            served = []
            for active, table in residency.batches(layer, routing[:, layer].astype(np.int32)):
                for expert in active.tolist():
                    assert experts.holds(layer, expert, table[expert]), (layer, expert)
                    served.append(expert)
            assert sorted(served) == sorted(set(routing[:, layer].ravel().tolist()))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    counts=st.tuples(st.integers(0, 16), st.integers(0, 16)),
    passes=st.lists(st.sampled_from([1, 1, 1, 1, 2, 9]), min_size=1, max_size=25),
    transit=st.integers(2, 4),
    seed=st.integers(0, 10**6),
)
def test_every_expert_is_served_whole_at_any_budget(make_experts, counts, passes, transit, seed):
    experts = make_experts()
    residency = residency_of(experts, counts, transit=transit)
    routing = generate_trace(sum(passes), 4, 8, 2, skew=1.0, drift=15, seed=seed)
    start = 0
    for tokens in passes:
        run_pass(residency, experts, routing[start : start + tokens])
        start += tokens
        resident = residency.slots.slot_of >= 0
        for number, size_class in enumerate(experts.layout.classes):
            in_use = int(resident[list(size_class.layers)].sum())
            assert in_use <= counts[number]
            assert in_use + residency.slots.free(number) == counts[number]  # none is lost
    counters = residency.counters
    assert counters.tokens == sum(passes)
    assert residency.bytes_read <= counters.misses * int(experts.layout.expert_bytes.max())
    alone = ExpertStatistics(4, 8, 2)
    alone.observe_tokens(routing)
    for name, array in alone.arrays().items():
        np.testing.assert_array_equal(array, residency.statistics.arrays()[name])
    residency.close()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.9, 1.0])
def test_decoding_hits_exactly_as_often_as_the_simulator_says(make_experts, share):
    experts = make_experts(layers=6, sizes=[(300, 300, 200)] * 6)
    routing = generate_trace(300, 6, 8, 2, skew=0.8, drift=100, seed=9)
    residency = residency_of(experts, [round(share * 48)])
    for token in routing:
        run_pass(residency, experts, token[None])
    predicted = simulate_budget(routing, 8, share)
    status = residency.status()
    assert status["hit_rate"] == pytest.approx(predicted.hit_rate["ours"], abs=1e-12)
    assert status["admissions"] == predicted.admissions
    assert residency.bytes_read == status["misses"] * 800
    assert status["paged_bytes_per_token"] * 300 == residency.bytes_read
    if 0 < share < 1:
        assert status["evictions"] > 0
    residency.close()


def test_prefill_fills_free_slots_over_all_layers_and_evicts_nothing(make_experts):
    experts = make_experts(layers=4, sizes=[(300, 300, 200)] * 4)
    residency = residency_of(experts, [12])
    run_pass(residency, experts, generate_trace(40, 4, seed=1))
    resident = residency.slots.slot_of >= 0
    assert resident.sum(1).tolist() == [3, 3, 3, 3]
    before = residency.counters.misses
    run_pass(residency, experts, generate_trace(40, 4, seed=2))
    np.testing.assert_array_equal(residency.slots.slot_of >= 0, resident)
    assert residency.counters.misses - before == 4 * 5  # each cold expert once
    assert residency.counters.evictions == 0
    residency.close()


def test_prefill_keeps_the_most_used(make_experts):
    experts = make_experts(layers=1, sizes=[(300, 300, 200)])
    residency = residency_of(experts, [2])
    routing = np.array([[[0, 5]], [[1, 5]], [[2, 6]], [[5, 6]], [[3, 6]]], np.uint8)
    run_pass(residency, experts, routing)
    assert np.flatnonzero(residency.slots.slot_of[0] >= 0).tolist() == [5, 6]
    residency.close()


def test_the_second_start_begins_warm(make_experts, tmp_path):
    experts = make_experts(layers=4, sizes=[(300, 300, 200)] * 4)
    routing = generate_trace(400, 4, skew=1.5, seed=3)
    store = StatisticsStore("abcdef012345", tmp_path)
    first = Residency(experts.layout, store.load(4, 8, 2), [10], store=store)
    for token in routing[:300]:
        run_pass(first, experts, token[None])
    first.close()
    store = StatisticsStore("abcdef012345", tmp_path)
    second = Residency(experts.layout, store.load(4, 8, 2), [10], store=store)
    second.warm()
    second.settle()
    assert (second.slots.slot_of >= 0).sum() == 10
    assert second.bytes_read == 10 * 800
    for token in routing[300:]:
        run_pass(second, experts, token[None])
    cold = residency_of(experts, [10])
    for token in routing[300:]:
        run_pass(cold, experts, token[None])
    assert second.status()["hit_rate"] > cold.status()["hit_rate"]
    second.close()
    cold.close()


def test_passes_run_while_the_pager_loads(make_experts):
    """Warming up and decoding at once: the pager's and the pass's experts never get in each other's way."""
    experts = make_experts(layers=6, sizes=[(40_000, 40_000, 30_000)] * 6)
    routing = generate_trace(150, 6, skew=0.5, seed=4)
    for seed in range(4):
        residency = residency_of(experts, [30])
        residency.statistics.observe_tokens(generate_trace(100, 6, seed=seed))
        residency.warm()
        for token in routing[:40]:
            run_pass(residency, experts, token[None])
        run_pass(residency, experts, routing[40:])
        residency.settle()
        assert (residency.slots.slot_of >= 0).sum() + residency.slots.free(0) == 30
        residency.close()


def test_a_pass_waits_for_the_expert_that_the_pager_has_in_hand(make_experts, monkeypatch):
    experts = make_experts(layers=1, sizes=[(300, 300, 200)])
    residency = residency_of(experts, [4])
    residency.statistics.observe_tokens(np.array([[[5, 1]]] * 20, np.uint8))
    reading, proceed, read_at = threading.Event(), threading.Event(), ExpertFile._read_at

    def slow(*arguments):
        reading.set()
        assert proceed.wait(10)
        return read_at(*arguments)

    monkeypatch.setattr(ExpertFile, "_read_at", slow)
    residency.warm()
    assert reading.wait(10)  # expert 1 is in the pager's hands, 5 is next
    token = np.array([[[1, 5]]], np.uint8)
    thread = threading.Thread(target=run_pass, args=(residency, experts, token))
    thread.start()
    time.sleep(0.05)
    assert residency.counters.misses == 0  # not decided yet: the pass waits
    proceed.set()
    thread.join()
    residency.settle()
    assert residency.counters.hits == 1  # expert 1, which the pager brought; 5 was taken out of its hands
    assert residency.bytes_read == 4 * 800  # the two, and the two that the warm start loads next
    residency.close()


def test_mapped_experts_are_served_where_the_file_is(make_experts):
    experts = make_experts()
    residency = residency_of(experts, None)
    routing = generate_trace(30, 4, seed=6)
    lone = np.zeros((4, 2), np.int32)
    task, arguments = residency.job(int(lone.ctypes.data))
    words = np.array(arguments, np.int64)
    with residency.recording() as recorder:
        run_pass(residency, experts, routing[:20])
        for token in routing[20:28]:
            run_pass(residency, experts, token[None])
        for token in routing[28:]:
            lone[:] = token
            with residency.lock:
                run_task(task)(int(words.ctypes.data), 0, 0)
                residency.observed(lone)
    np.testing.assert_array_equal(residency.table, experts.layout.addresses)
    np.testing.assert_array_equal(recorder.routing(), routing)
    assert residency.statistics.tokens == 30
    assert (residency.nbytes, residency.bytes_read, residency.status()["hit_rate"]) == (0, 0, None)
    residency.close()


def interrupted(residency, routing, at):
    with residency.step():
        for layer in range(4):
            for number, _ in enumerate(residency.batches(layer, routing[:, layer])):
                if (layer, number) == at:
                    raise KeyboardInterrupt


@pytest.mark.parametrize(("at", "count"), [((2, 1), 3), ((0, 0), 16)])
def test_a_pass_that_breaks_off_leaves_everything_usable(make_experts, at, count):
    experts = make_experts()
    residency = residency_of(experts, [count, count])
    routing = generate_trace(60, 4, seed=8)
    for start in range(0, 40, 10):
        with pytest.raises(KeyboardInterrupt):
            interrupted(residency, routing[start : start + 9], at)
        run_pass(residency, experts, routing[start + 9 : start + 10])
    assert residency.statistics.tokens == 4
    resident = residency.slots.slot_of >= 0
    for number, size_class in enumerate(experts.layout.classes):
        assert int(resident[list(size_class.layers)].sum()) + residency.slots.free(number) == count
    residency.close()


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal to a thread")
@pytest.mark.parametrize("interrupts", [1, 2])
@pytest.mark.parametrize(("tokens", "slots"), [(1, 1), (1, 0), (9, 1)])
def test_ctrl_c_within_a_read_leaves_no_late_bytes(make_experts, monkeypatch, tokens, slots, interrupts):
    experts = make_experts()
    residency = residency_of(experts, [slots, slots])
    proceed, ended, read_at, calls = threading.Event(), threading.Event(), ExpertFile._read_at, []

    def stalled(*arguments):
        calls.append(arguments)
        if len(calls) > 1:
            return read_at(*arguments)
        for _ in range(interrupts):  # the second one comes while the first waits for this read
            time.sleep(0.05)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        proceed.wait(0.2)
        count = read_at(*arguments)
        ended.set()
        return count

    monkeypatch.setattr(ExpertFile, "_read_at", stalled)
    routing = generate_trace(60, 4, seed=8)
    with pytest.raises(KeyboardInterrupt):
        run_pass(residency, experts, routing[:tokens])
    with residency.step():
        for active, table in residency.batches(0, routing[9:10, 0].astype(np.int32)):
            assert ended.is_set()
            assert all(experts.holds(0, expert, table[expert]) for expert in active.tolist())
    proceed.set()
    for token in routing[10:]:
        run_pass(residency, experts, token[None])
    resident = residency.slots.slot_of >= 0
    for number, size_class in enumerate(experts.layout.classes):
        assert int(resident[list(size_class.layers)].sum()) + residency.slots.free(number) == slots
    residency.close()


@pytest.mark.parametrize("tokens", [1, 20])
def test_a_file_that_ends_early_is_an_error_and_loses_no_slot(make_experts, tokens):
    experts = make_experts()
    residency = residency_of(experts, [4, 4])
    size = experts.path.stat().st_size
    with open(experts.path, "r+b") as file:
        file.truncate(size // 3)
    with pytest.raises(ReadError, match="ends early"):
        run_pass(residency, experts, generate_trace(tokens, 4, seed=10))
    experts.path.write_bytes(experts.image.tobytes())
    for token in generate_trace(10, 4, seed=12):
        run_pass(residency, experts, token[None])
    resident = residency.slots.slot_of >= 0
    for number, size_class in enumerate(experts.layout.classes):
        assert int(resident[list(size_class.layers)].sum()) + residency.slots.free(number) == 4
    residency.close()


@pytest.mark.parametrize("slots", [None, [0, 0], [6, 6]])
def test_tokens_that_nobody_computes_are_counted_but_not_read_for(make_experts, slots):
    experts = make_experts()
    residency = residency_of(experts, slots)
    routing = generate_trace(40, 4, seed=3)
    last = routing.shape[1] - 1
    with residency.step():
        for layer in range(last + 1):
            computed = slice(39, 40) if layer == last else slice(0, 40)
            served = [
                expert
                for active, _ in residency.batches(layer, routing[:, layer], computed)
                for expert in active.tolist()
            ]
            assert sorted(served) == np.unique(routing[computed, layer]).tolist()
    alone = ExpertStatistics(4, 8, 2)
    alone.observe_tokens(routing)
    for name, array in alone.arrays().items():
        np.testing.assert_array_equal(array, residency.statistics.arrays()[name])
    assert residency.counters.decode_tokens == 0
    if slots is not None:
        served_in_all = sum(len(np.unique(routing[:, layer])) for layer in range(last)) + 2
        assert residency.counters.hits + residency.counters.misses == served_in_all
    residency.close()


def test_too_few_transit_slots_are_refused(make_experts):
    with pytest.raises(ValueError, match="transit"):
        residency_of(make_experts(), [4, 4], transit=1)


MEMORY = """
import sys
from pathlib import Path
import numpy as np
from localmoe.experts.layout import ExpertLayout
from localmoe.experts.residency import Residency
from localmoe.experts.statistics import ExpertStatistics
from localmoe.experts.traces import generate_trace
from localmoe.experts import replay
from quant.parts import PartFiles

def held():
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssFile", "RssShmem")) * 1024

path, size = Path(sys.argv[1]), 1 << 20
offsets = np.arange(8 * 8 * 3, dtype=np.int64).reshape(8, 8, 3) * size
layout = ExpertLayout(PartFiles((path,)), offsets, np.zeros_like(offsets), np.full((8, 3), size, np.int64))
statistics = ExpertStatistics(8, 8, 2)
statistics.observe_tokens(generate_trace(2, 8))  # compiled
before = held()
residency = Residency(layout, statistics, [10])
for tokens in [30] + [1] * 60:
    routing = generate_trace(tokens, 8, seed=tokens)
    with residency.step():
        for layer in range(8):
            for active, table in residency.batches(layer, routing[:, layer].astype(np.int32)):
                pass
print(residency.nbytes, held() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_within_the_slots(tmp_path):
    path = tmp_path / "big.bin"
    with open(path, "wb") as file:
        file.truncate(192 << 20)
    output = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path)], check=True, capture_output=True, text=True,
        cwd=Path(__file__).parents[2],
    ).stdout.split()  # fmt: skip
    planned, grown = map(int, output)
    assert planned == 12 * (3 << 20)
    assert grown <= planned + (4 << 20)
