"""Slots never show a reader a wrong or half-filled expert, whatever the order of things."""

import random
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from localmoe.experts.layout import ExpertLayout
from localmoe.experts.slots import ExpertSlots
from quant.parts import PartFiles

LAYERS, EXPERTS = 3, 4
SIZES = [(100, 100, 60), (100, 100, 90), (100, 100, 60)]


def layout_of(sizes, experts, tmp_path=None):
    addresses = 1_000_000 + np.arange(len(sizes) * experts * 3, dtype=np.int64).reshape(-1, experts, 3) * 4096
    return ExpertLayout(PartFiles((tmp_path,)), addresses - 1_000_000, addresses, np.array(sizes, np.int64))


class SlotMachine(RuleBasedStateMachine):
    """Takes, publishes, abandons and evicts at random, with readers that enter and leave at random.

    The model: what every slot's bytes are, and what each reader may still look at.
    """

    def __init__(self):
        super().__init__()
        self.layout = layout_of(SIZES, EXPERTS)
        self.slots = ExpertSlots(self.layout, [2, 1])
        self.filling = {}  # slot -> size class
        self.content = {}  # address of a slot -> (layer, expert) whose bytes it holds
        self.readers = [self.slots.reader() for _ in range(2)]
        self.sees = [{}, {}]  # reader -> {(layer, expert): addresses it may follow}

    def look(self):
        """Every reader inside re-reads the table: all it ever saw since it entered stays in its hands."""
        for reader, sees in zip(self.readers, self.sees, strict=True):
            if reader.epoch >= 0:
                for layer in range(LAYERS):
                    for expert in range(EXPERTS):
                        sees.setdefault((layer, expert), set()).add(int(self.slots.table[layer, expert, 0]))

    @rule(size_class=st.integers(0, 1))
    def take(self, size_class):
        slot = self.slots.take(size_class)
        if slot is None:
            return
        address = int(self.slots.addresses(slot)[0])
        for sees in self.sees:
            for expert, addresses in sees.items():
                assert address not in addresses, f"a reader may still follow slot {slot} to {expert}"
        for part, size in zip(self.slots.parts(slot), self.layout.classes[size_class].parts, strict=True):
            assert part.nbytes == size
            part[:] = 0xEE  # half-filled from here on
        self.filling[slot] = size_class
        self.content.pop(address, None)

    @precondition(lambda self: self.filling)
    @rule(data=st.data())
    def publish(self, data):
        slot = data.draw(st.sampled_from(sorted(self.filling)))
        layers = self.layout.classes[self.filling[slot]].layers
        everyone = [(layer, expert) for layer in layers for expert in range(EXPERTS)]
        homeless = [each for each in everyone if self.slots.slot_of[each] < 0]
        layer, expert = data.draw(st.sampled_from(homeless))
        del self.filling[slot]
        self.content[int(self.slots.addresses(slot)[0])] = (layer, expert)
        self.slots.publish(slot, layer, expert)
        self.look()

    @precondition(lambda self: self.filling)
    @rule()
    def abandon(self):
        slot, _ = self.filling.popitem()
        self.slots.abandon(slot)

    @rule(layer=st.integers(0, LAYERS - 1), expert=st.integers(0, EXPERTS - 1))
    def evict(self, layer, expert):
        resident = self.slots.slot_of[layer, expert] >= 0
        self.look()
        assert self.slots.evict(layer, expert) == resident
        assert (self.slots.table[layer, expert] == self.layout.addresses[layer, expert]).all()

    @rule(which=st.integers(0, 1))
    def enter(self, which):
        self.readers[which].enter()
        self.sees[which] = {}
        self.look()

    @rule(which=st.integers(0, 1))
    def leave(self, which):
        self.readers[which].leave()
        self.sees[which] = {}

    @invariant()
    def all_that_is_visible_is_right(self):
        for layer in range(LAYERS):
            for expert in range(EXPERTS):
                address = int(self.slots.table[layer, expert, 0])
                if address != self.layout.addresses[layer, expert, 0]:
                    assert self.content[address] == (layer, expert)
        for sees in self.sees:
            for expert, addresses in sees.items():
                for address in addresses - {int(self.layout.addresses[expert][0])}:
                    assert self.content[address] == expert

    @invariant()
    def budgets_hold(self):
        for number, size_class in enumerate(self.layout.classes):
            resident = int((self.slots.slot_of[list(size_class.layers)] >= 0).sum())
            filling = sum(each == number for each in self.filling.values())
            assert resident + filling + self.slots.free(number) == self.slots.slabs[number].count


TestSlotMachine = SlotMachine.TestCase
TestSlotMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_reader_threads_see_whole_experts_only(make_experts):
    """Real threads: one turns slots over as fast as it can, three follow the table meanwhile."""
    experts = make_experts(layers=2, experts=6, sizes=[(3000, 3000, 2000)] * 2)
    slots = ExpertSlots(experts.layout, [4])
    stop, wrong, seen = threading.Event(), [], [0, 0, 0]

    def follow(number):
        reader, dice = slots.reader(), random.Random(number)
        while not stop.is_set():
            reader.enter()
            layer, expert = dice.randrange(2), dice.randrange(6)
            addresses = slots.table[layer, expert].copy()
            time.sleep(dice.random() * 1e-4)  # the kernel works on it
            if not experts.holds(layer, expert, addresses):
                wrong.append((layer, expert))
            seen[number] += int(addresses[0] != experts.layout.addresses[layer, expert, 0])
            reader.leave()
        slots.forget(reader)

    threads = [threading.Thread(target=follow, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    dice = random.Random(7)
    turnovers, deadline = 0, time.monotonic() + 2.0
    while time.monotonic() < deadline:
        layer, expert = dice.randrange(2), dice.randrange(6)
        if slots.slot_of[layer, expert] >= 0:
            continue
        slot = slots.take(0)
        if slot is None:
            resident = np.argwhere(slots.slot_of >= 0)
            if len(resident):
                slots.evict(*resident[dice.randrange(len(resident))].tolist())
            continue
        for part, target in enumerate(slots.parts(slot)):
            target[:] = 0
            target[:] = np.frombuffer(experts.bytes[layer, expert, part], np.uint8)
        slots.publish(slot, layer, expert)
        turnovers += 1
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert turnovers > 100
    assert min(seen) > 10


def test_a_retired_slot_waits_for_the_readers_that_may_know_it():
    slots = ExpertSlots(layout_of([(64, 64, 64)], 4), [1])
    early, late = slots.reader(), slots.reader()
    slots.publish(slots.take(0), 0, 0)
    early.enter()
    slots.evict(0, 0)
    late.enter()
    assert slots.take(0) is None
    early.enter()  # done with what it saw; what it sees from here on is the file's
    slot = slots.take(0)
    assert slot is not None  # `late` entered after the eviction
    slots.publish(slot, 0, 1)
    assert slots.owner(slot) == (0, 1)


def test_slots_are_aligned_and_disjoint():
    layout = layout_of([(100, 130, 60), (5000, 70, 64)], 4)
    slots = ExpertSlots(layout, [3, 2])
    ranges = []
    for number, count in enumerate((3, 2)):
        for _ in range(count):
            slot = slots.take(number)
            for address, size in zip(slots.addresses(slot), layout.classes[number].parts, strict=True):
                assert address % 64 == 0
                ranges.append((int(address), int(address) + size))
        assert slots.take(number) is None
    ranges.sort()
    assert all(end <= start for (_, end), (start, _) in pairwise(ranges))
    assert slots.nbytes == 3 * 4096 + 2 * 8192


def test_misuse_is_noticed():
    slots = ExpertSlots(layout_of([(64, 64, 64)], 4), [2])
    slot = slots.take(0)
    slots.publish(slot, 0, 0)
    with pytest.raises(RuntimeError, match="state"):
        slots.publish(slot, 0, 1)
    with pytest.raises(RuntimeError, match="state"):
        slots.parts(slot)
    with pytest.raises(RuntimeError, match="already"):
        slots.publish(slots.take(0), 0, 0)
    with pytest.raises(ValueError, match="sizes"):
        ExpertSlots(layout_of([(64, 64, 64)], 4), [1, 1])
