"""Experts on their way into memory: to a slot, where they stay, or through a transit slot, used once."""

from __future__ import annotations

import contextlib

import numpy as np
from numpy.typing import NDArray

from localmoe.experts.layout import ExpertLayout, SizeClass
from localmoe.experts.pager import ExpertFile, Read, ReadError, fill
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
    """One expert that is being read. Its reading begins here, and ends in `finish` or `settle`."""

    def __init__(
        self, file: ExpertFile, slots: ExpertSlots, transit: TransitSlots, layer: int, expert: int,
        slot: int | None, turn: int,
    ) -> None:  # fmt: skip
        """Read into `slot`, which is then published, or, if that is None, into the transit slot `turn`."""
        self._file, self._slots, self._slot, self._layer, self._expert = file, slots, slot, layer, expert
        self._done = False
        self._read: Read | None = None
        size_class = file.layout.classes[int(file.layout.class_of[layer])]
        if slot is None:
            self._parts, self._addresses = transit.place(size_class, turn)
        else:
            self._parts, self._addresses = slots.parts(slot), slots.addresses(slot)

    def start(self) -> Arrival:
        """Begin to read."""
        self._read = self._file.start(self._layer, self._expert, self._parts)
        return self

    def finish(self) -> NDArray[np.int64]:
        """Wait for the bytes, publish the slot, and return the addresses int64 [3]. ReadError if that
        fails.
        """
        self._done = True
        if self._slot is None:
            self._wait()
        else:
            fill(self._wait, self._slots, self._slot, self._layer, self._expert)
        return self._addresses

    def settle(self) -> None:
        """Finish if nobody has, whatever comes of it: after this nothing writes into the slot."""
        if not self._done:
            with contextlib.suppress(ReadError):
                self.finish()

    def _wait(self) -> None:
        if self._read is None:
            raise ReadError("the reading of an expert was called off")
        self._read.wait()
