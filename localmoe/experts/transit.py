"""Experts on their way into memory: to a slot, where they stay, or through a transit slot, used once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from localmoe.experts.layout import ExpertLayout, SizeClass
from localmoe.experts.pager import ExpertFile
from localmoe.experts.slots import ExpertSlots, Slab


class TransitSlots:
    """Room for `count` experts of any size class."""

    def __init__(self, layout: ExpertLayout, count: int) -> None:
        largest = max(size_class.slot_bytes for size_class in layout.classes)
        self.count = count
        # One part as large as the largest slot; each size class lies in it with its own starts.
        self._slab = Slab(SizeClass((0, 0, largest), ()), count)

    @property
    def nbytes(self) -> int:
        """Bytes of all transit slots."""
        return self._slab.nbytes

    def place(self, size_class: SizeClass, turn: int) -> tuple[list[NDArray[np.uint8]], NDArray[np.int64]]:
        """Views of the three parts of transit slot `turn` modulo `count`, and their addresses int64 [3]."""
        whole = self._slab.part(turn % self.count, 2)
        places = zip(size_class.starts, size_class.parts, strict=True)
        parts = [whole[start : start + size] for start, size in places]
        return parts, np.array(size_class.starts, np.int64) + int(whole.ctypes.data)


class Arrival:
    """One expert that is to be read: `start`, then `finish`; `settle` whenever that was broken off."""

    def __init__(
        self, file: ExpertFile, slots: ExpertSlots, transit: TransitSlots, layer: int, expert: int,
        slot: int | None, turn: int,
    ) -> None:  # fmt: skip
        """To be read into `slot`, which is then published, or, if that is None, into the transit slot
        `turn`.
        """
        self._slots, self._slot, self._layer, self._expert = slots, slot, layer, expert
        self._concluded = False
        size_class = file.layout.classes[int(file.layout.class_of[layer])]
        if slot is None:
            parts, self._addresses = transit.place(size_class, turn)
        else:
            parts, self._addresses = slots.parts(slot), slots.addresses(slot)
        self._read = file.read(layer, expert, parts)

    def start(self) -> None:
        """Begin to read."""
        self._read.start()

    def finish(self) -> NDArray[np.int64]:
        """Wait for the bytes, publish the slot, and return the addresses int64 [3]. ReadError if that fails;
        `settle` is still to come then, as after an interruption.
        """
        self._read.wait()
        self._conclude(whole=True)
        return self._addresses

    def settle(self) -> None:
        """Call off what has not begun and wait for the rest, unless that is over: after this nothing writes
        into the slot, which is published if all of the expert came, else given back. If Ctrl-C breaks the
        waiting off, call it again.
        """
        if not self._concluded:
            self._conclude(self._read.call_off())

    def _conclude(self, whole: bool) -> None:
        self._concluded = True  # before the rest: a slot given back twice would be taken from its next owner
        if self._slot is None:
            return
        if whole:
            self._slots.publish(self._slot, self._layer, self._expert)
        else:
            self._slots.abandon(self._slot)
