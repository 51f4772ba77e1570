"""Slots: equal pieces of anonymous memory that hold experts, and the table that says where each expert is.

`table[layer, expert]` holds three addresses (gate, up, down), and is all that a kernel knows about residency.
A reader may look at it at any time, without a lock; what it finds stays true until it says that it is done:

    reader = slots.reader()
    reader.enter()          # from here on, no slot changes whose address the table showed since
    ... = slots.table[layer, expert]
    reader.leave()          # nothing found above is used any more

A slot goes through four states. FREE: nobody's. FILLING: `take` gave it to someone who writes into it; no
table entry leads to it. READY: `publish` has put its address into the table. RETIRED: `evict` has put the
file's address back, and the slot waits until every reader that may have seen its address has left; then it is
FREE. This is reclamation by epochs: an eviction begins a new epoch, and a slot retired at its beginning is
free when each reader under way entered in it or later. Nobody ever waits for a reader: `take` gives a slot or
says that there is none.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from localmoe.experts.layout import SLOT_ALIGNMENT, ExpertLayout, SizeClass

FREE, FILLING, READY, RETIRED = range(4)
_OUTSIDE = -1


class Slab:
    """`count` slots of one size class in private anonymous memory, which is taken as slots are first
    filled.
    """

    def __init__(self, size_class: SizeClass, count: int) -> None:
        self.size_class, self.count = size_class, count
        self.nbytes = size_class.slot_bytes * count
        memory = np.empty(self.nbytes + SLOT_ALIGNMENT, np.uint8)  # its own mapping, in huge pages if any
        self.address = -(-int(memory.ctypes.data) // SLOT_ALIGNMENT) * SLOT_ALIGNMENT
        self._bytes = memory[self.address - int(memory.ctypes.data) :][: self.nbytes]

    def part(self, index: int, part: int) -> NDArray[np.uint8]:
        """The bytes of one part (0 gate, 1 up, 2 down) of slot `index`: a writable view uint8 [nbytes]."""
        start = index * self.size_class.slot_bytes + self.size_class.starts[part]
        return self._bytes[start : start + self.size_class.parts[part]]

    def addresses(self, index: int) -> NDArray[np.int64]:
        """Where the parts of slot `index` are: int64 [3]."""
        return np.array(self.size_class.starts, np.int64) + self.address + index * self.size_class.slot_bytes


class Reader:
    """One thread that reads slots. Enters and leaves; entering again leaves what it held before."""

    def __init__(self, slots: ExpertSlots) -> None:
        self._slots = slots
        self.epoch = _OUTSIDE

    def enter(self) -> None:
        """From now on, what the table shows stays in place for this reader."""
        self._slots.enter(self)

    def leave(self) -> None:
        """Nothing that the table has shown is used any more."""
        self.epoch = _OUTSIDE


class ExpertSlots:
    """The slots of one model: a slab per size class, the address table, and who is where.

    `table` int64 [layers, experts, 3]: addresses to use now. `home` likewise: those in the mapped file.
    `slot_of` int64 [layers, experts]: number of the slot that an expert occupies, -1 if none. Slots are
    numbered through all slabs. All methods may be called from any thread; only table and home are read
    without the lock.
    """

    def __init__(self, layout: ExpertLayout, counts: Sequence[int]) -> None:
        """`counts`: how many slots each of `layout.classes` gets."""
        if len(counts) != len(layout.classes) or min(counts) < 0:
            raise ValueError(f"{counts} slots for {len(layout.classes)} sizes of expert")
        self.layout = layout
        self.home = layout.addresses
        self.table = layout.addresses.copy()
        self.slot_of = np.full((layout.layers, layout.experts), -1, np.int64)
        self.slabs = [Slab(*each) for each in zip(layout.classes, counts, strict=True)]
        self._first = np.concatenate([[0], np.cumsum([slab.count for slab in self.slabs])]).astype(int)
        self._state = [FREE] * int(self._first[-1])
        self._owner: list[tuple[int, int] | None] = [None] * len(self._state)
        self._free = [
            deque(range(start, end)) for start, end in zip(self._first[:-1], self._first[1:], strict=True)
        ]
        self._retired: list[tuple[int, int]] = []  # (epoch from which on no reader knows it, slot)
        self._epoch = 0
        self._readers: list[Reader] = []
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of all slabs."""
        return sum(slab.nbytes for slab in self.slabs)

    def reader(self) -> Reader:
        """A new reader; its thread enters and leaves through it."""
        reader = Reader(self)
        with self._lock:
            self._readers.append(reader)
        return reader

    def enter(self, reader: Reader) -> None:
        """See Reader.enter."""
        with self._lock:
            reader.epoch = self._epoch

    def forget(self, reader: Reader) -> None:
        """The reader's thread ends."""
        with self._lock:
            self._readers.remove(reader)

    def take(self, size_class: int) -> int | None:
        """A free slot of that class, now FILLING and the caller's to write into; None if there is none
        now.
        """
        with self._lock:
            self._reclaim()
            if not self._free[size_class]:
                return None
            slot = self._free[size_class].popleft()
            self._state[slot] = FILLING
            return slot

    def parts(self, slot: int) -> list[NDArray[np.uint8]]:
        """Views of the three parts of a slot that the caller is filling."""
        self._must_be(slot, FILLING)
        slab, index = self._place(slot)
        return [slab.part(index, part) for part in range(3)]

    def addresses(self, slot: int) -> NDArray[np.int64]:
        """Where the three parts of a slot are: int64 [3]."""
        slab, index = self._place(slot)
        return slab.addresses(index)

    def publish(self, slot: int, layer: int, expert: int) -> None:
        """The slot now holds that expert whole: the table leads to it from here on."""
        with self._lock:
            self._must_be(slot, FILLING)
            if self.slot_of[layer, expert] >= 0:
                raise RuntimeError(f"expert {expert} of layer {layer} already has a slot")
            self._state[slot], self._owner[slot] = READY, (layer, expert)
            self.slot_of[layer, expert] = slot
            self.table[layer, expert] = self.addresses(slot)

    def abandon(self, slot: int) -> None:
        """Give back a slot that could not be filled."""
        with self._lock:
            self._must_be(slot, FILLING)
            self._release(slot)

    def evict(self, layer: int, expert: int) -> bool:
        """Lead the table back to the file and retire the expert's slot; False if it has none."""
        with self._lock:
            slot = int(self.slot_of[layer, expert])
            if slot < 0:
                return False
            self._must_be(slot, READY)
            self.table[layer, expert] = self.home[layer, expert]
            self.slot_of[layer, expert] = -1
            self._epoch += 1  # who enters from here on finds the file's address
            self._state[slot], self._owner[slot] = RETIRED, None
            self._retired.append((self._epoch, slot))
            return True

    def free(self, size_class: int) -> int:
        """How many slots of that class are free or would be, once all readers have left."""
        with self._lock:
            self._reclaim()
            waiting = sum(self._class_of(slot) == size_class for _, slot in self._retired)
            return len(self._free[size_class]) + waiting

    def owner(self, slot: int) -> tuple[int, int] | None:
        """(layer, expert) of a READY slot, else None."""
        return self._owner[slot]

    def _reclaim(self) -> None:
        inside = [reader.epoch for reader in self._readers if reader.epoch != _OUTSIDE]
        oldest = min(inside, default=self._epoch)
        unseen = [slot for epoch, slot in self._retired if epoch <= oldest]
        # Off the list first: interrupted in between, a slot may be lost, but none is given away twice.
        self._retired = [(epoch, slot) for epoch, slot in self._retired if epoch > oldest]
        for slot in unseen:
            self._release(slot)

    def _release(self, slot: int) -> None:
        self._state[slot] = FREE
        self._free[self._class_of(slot)].append(slot)

    def _class_of(self, slot: int) -> int:
        return int(np.searchsorted(self._first, slot, side="right")) - 1

    def _place(self, slot: int) -> tuple[Slab, int]:
        number = self._class_of(slot)
        return self.slabs[number], slot - int(self._first[number])

    def _must_be(self, slot: int, state: int) -> None:
        if self._state[slot] != state:
            raise RuntimeError(f"slot {slot} is in state {self._state[slot]}, not {state}")
