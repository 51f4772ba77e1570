"""Background copies without a GPU: of a step's wishes the best go first, and only those that pay."""

import numpy as np
import pytest
import torch

from localmoe.experts import policy
from localmoe.kernels.gpu_resolve import MISSES, WISHED


@pytest.fixture
def residency(tmp_path):
    """A tiny model's, with three slots, opened on CPU tensors: nothing here launches a kernel."""
    from model_parity import Case

    from localmoe.model.gpu_runtime import open_gpu

    case = Case(tmp_path)
    runtime = open_gpu(
        case.file, case.config, case.weights, device="cpu", context=64, threads=1, identity="0" * 16,
        gpu_memory=case.memory_for(3), mode="cpu", chunk=64, keep_statistics=False,
    )  # fmt: skip
    yield runtime.residency
    runtime.close()


def wish(residency, *wishes):
    """As the resolve kernel leaves them: newcomer and victim by flat index, and the gain."""
    tables = residency.tables
    first = int(tables.counters[WISHED])
    for number, entry in enumerate(wishes):
        tables.wishes[first + number] = torch.tensor(entry, dtype=torch.int32)
    tables.counters[WISHED] = first + len(wishes)
    residency.end_step()
    residency._settle(wait=True)
    return set(np.flatnonzero(tables.slot_of.numpy().reshape(-1) >= 0).tolist())


def of_one_class(residency):
    """Residents and others of the size class that has a slot, flat."""
    slot_of, layout = residency.tables.slot_of_host, residency.layout
    layer = int(np.argwhere(slot_of >= 0)[0, 0])
    same = np.equal(layout.class_of, layout.class_of[layer])[:, None] & np.ones_like(slot_of, bool)
    return np.flatnonzero((slot_of >= 0) & same).tolist(), np.flatnonzero((slot_of < 0) & same).tolist()


def test_the_best_wish_of_a_step_goes_first_and_the_budget_ends_it(residency):
    inside, outside = of_one_class(residency)
    good, better, victim = outside[0], outside[1], inside[0]
    before = set(inside)
    now = wish(residency, (better, victim, policy.COPY_GAIN * 2), (good, victim, policy.COPY_GAIN))
    assert better in now
    assert good not in now
    assert victim not in now
    assert before - {victim} <= now


def test_an_exchange_that_gains_too_little_is_not_made(residency):
    inside, outside = of_one_class(residency)
    copied = residency.copies.bytes_copied
    now = wish(residency, (outside[0], inside[0], policy.COPY_GAIN - 1))
    assert outside[0] not in now
    assert inside[0] in now
    assert residency.copies.bytes_copied == copied


def test_a_free_slot_is_taken_whatever_the_gain(residency):
    inside, outside = of_one_class(residency)
    layer, expert = divmod(inside[0], residency.layout.experts)
    tables, number = residency.tables, int(residency.layout.class_of[layer])
    tables.move(layer, expert, -1)
    tables.filled[number] -= 1
    assert outside[0] in wish(residency, (outside[0], -1, 1))


def test_a_step_tells_how_many_experts_it_missed(residency):
    """`auto` compares modes at the same number of misses."""
    told = []
    for misses in (3, 0, 2):
        residency.tables.counters[MISSES] += misses  # as the resolve kernel counts them
        residency.end_step()
        told.append(residency.missed)
    assert told == [3, 0, 2]


@pytest.mark.parametrize(("share", "rows"), [(0.05, 256), (0.5, 256), (0.95, 256)])
def test_split_leaves_both_engines_some_rows(residency, share, rows):
    residency.set_mode("split", share)
    assert residency.tables.share.tolist() == [rows] * 3
    assert residency.share == rows / residency.ffn == 0.5
