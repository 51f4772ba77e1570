"""Plans: what lives where, and what to say where nothing fits."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localmoe.errors import UsageError
from localmoe.experts.layout import ExpertLayout
from localmoe.experts.plan import Needs, available_memory, plan_beside_gpu, plan_cpu, smallest, spread
from localmoe.experts.residency import Residency
from localmoe.experts.sizes import parse_size
from localmoe.experts.statistics import ExpertStatistics
from quant.parts import PartFiles

GIB = 1 << 30


def mixtral(context=8192):
    """Mixtral 8x7B q4_k_m: half of the layers have a larger down projection."""
    gate, down4, down6 = 4096 * 14336 * 144 // 256, 14336 * 4096 * 144 // 256, 14336 * 4096 * 210 // 256
    nbytes = np.array([(gate, gate, down6 if layer % 2 else down4) for layer in range(32)], np.int64)
    offsets = np.zeros((32, 8, 3), np.int64)
    layout = ExpertLayout(PartFiles((Path("mixtral.gguf"),)), offsets, offsets, nbytes)
    return Needs("mixtral.gguf", 1_070_000_000, context * 32 * 8 * 128 * 2 * 2, 300 << 20, context, layout, 2)


def test_a_bound_is_spent_on_slots_and_not_exceeded():
    needs = mixtral()
    plan = plan_cpu(needs, 12 * GIB)
    assert 12 * GIB - 120e6 < plan.bytes_in("RAM") <= 12 * GIB
    low, high = plan.slots
    assert abs(low / 128 - high / 128) < 0.02
    in_file = needs.layout.total_bytes - sum(
        count * sum(each.parts) for each, count in zip(needs.layout.classes, plan.slots, strict=True)
    )
    assert plan.bytes_in("file") == in_file
    assert plan.share(plan.slots) == pytest.approx((low + high) / 256)
    assert any("expert slots" in line and "each" in line for line in plan.lines())
    assert plan.as_json()["ram_bytes"] == plan.bytes_in("RAM")


def test_what_is_planned_is_allocated(make_experts):
    experts = make_experts(layers=6, sizes=[(90_000, 90_000, 60_000 + 30_000 * (n % 2)) for n in range(6)])
    needs = Needs("small", 10_000, 5_000, 1_000, 512, experts.layout, 2)
    for ram in (smallest(needs), smallest(needs) + 500_000, 5_000_000, 9_000_000):
        plan = plan_cpu(needs, ram)
        residency = Residency(experts.layout, ExpertStatistics(6, 8, 2), plan.slots, plan.transit)
        allocated = residency.nbytes + needs.fixed
        assert allocated <= ram
        assert allocated == pytest.approx(plan.bytes_in("RAM"), rel=0.02)
        residency.close()


def test_without_a_bound_or_under_a_wide_one_the_file_is_mapped():
    needs = mixtral()
    for plan in (plan_cpu(needs), plan_cpu(needs, 64 * GIB), plan_cpu(needs, None, 64 * GIB)):
        assert plan.slots is None
        assert plan.bytes_in("RAM") == needs.fixed + needs.expert_bytes
        assert plan.note == ""


def test_a_file_larger_than_free_memory_gets_a_bound_of_its_own():
    plan = plan_cpu(mixtral(), None, 20 * GIB)
    assert plan.slots is not None
    assert plan.bytes_in("RAM") <= 17 * GIB
    assert "--ram" in plan.note
    assert f"{plan.share(plan.slots):.0%} of its experts stay" in plan.note
    assert "limits the speed" in plan.note
    assert "\n" not in plan.note


def test_a_bound_that_is_too_small_names_the_smallest_that_is_not():
    needs = mixtral()
    with pytest.raises(UsageError) as caught:
        plan_cpu(needs, GIB)
    message = str(caught.value)
    assert "\n" not in message
    advised = parse_size(re.search(r"at least --ram (\S+)$", message)[1])
    assert advised < smallest(needs) * 1.06
    assert plan_cpu(needs, advised).slots is not None
    with pytest.raises(UsageError):
        plan_cpu(needs, smallest(needs) - 1)


def test_a_dense_model_fits_or_does_not():
    needs = Needs("mistral", 4 * GIB, GIB, 1 << 20, 8192, None, 0)
    assert plan_cpu(needs, 6 * GIB).slots is None
    with pytest.raises(UsageError, match="at least --ram"):
        plan_cpu(needs, 5 * GIB)
    assert plan_beside_gpu(needs, (), 0, None).bytes_in("GPU") == needs.fixed


def test_beside_a_gpu_ram_holds_copies_and_the_file_the_rest():
    needs = mixtral()
    plan = plan_beside_gpu(needs, (40, 30), 1000, None)
    slots = sum(count * each.slot_bytes for each, count in zip(needs.layout.classes, (40, 30), strict=True))
    assert plan.bytes_in("GPU") == needs.fixed + 1000 + slots
    assert plan.share(plan.gpu_slots) == plan.as_json()["resident_share"] == 70 / 256
    assert plan.share(plan.slots) == 1.0
    assert plan.bytes_in("RAM") >= needs.expert_bytes
    assert plan.bytes_in("file") == 0
    tight = plan_beside_gpu(needs, (40, 30), 1000, 16 * GIB)
    assert 16 * GIB - 120e6 < tight.bytes_in("RAM") <= 16 * GIB
    assert any("by the CPU" in line for line in tight.lines())
    assert tight.bytes_in("file") > 0
    whole = plan_beside_gpu(needs, (128, 128), 1000, 0)
    assert (whole.bytes_in("RAM"), whole.bytes_in("file")) == (0, 0)


@given(st.integers(0, 40 * GIB))
def test_slots_never_exceed_the_bytes_they_may_take(nbytes):
    layout = mixtral().layout
    counts = spread(layout, nbytes)
    used = sum(count * each.slot_bytes for count, each in zip(counts, layout.classes, strict=True))
    assert used <= nbytes
    full = all(count == 128 for count in counts)
    assert full or nbytes - used < max(each.slot_bytes for each in layout.classes)


@pytest.mark.parametrize("needs", [mixtral(131072), replace(mixtral(131072), layout=None, chosen=0)])
def test_what_is_written_must_fit_into_memory_and_weights_need_not(needs):
    written = needs.kv_cache + needs.scratch + smallest(needs) - needs.fixed
    assert plan_cpu(needs, None, written).bytes_in("RAM") >= written
    with pytest.raises(UsageError, match=r"131072 needs 16.0 GiB of KV cache.*shorter --context") as caught:
        plan_cpu(needs, None, written - 1)
    assert ("on their way" in str(caught.value)) == (needs.layout is not None)
    assert plan_cpu(needs, 64 * GIB).slots is None  # whoever sets a bound knows better


def test_a_longer_context_leaves_fewer_slots():
    assert sum(plan_cpu(mixtral(32768), 12 * GIB).slots) < sum(plan_cpu(mixtral(1024), 12 * GIB).slots)


def test_the_machine_says_how_much_memory_is_free():
    assert available_memory() > 1 << 28
