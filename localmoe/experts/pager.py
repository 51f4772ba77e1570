"""Moves experts from the model file into memory.

The file is read with `preadv` straight into the slot, never through the mapping: pages of the file stay in
the kernel's cache and do not count as this process's memory. An expert's three parts are read by as many
threads at a time, since one thread copies from the page cache slower than the memory could deliver.

`Pager` fills slots in the background: the experts that a warm start wants, a few bytes per step so that
decoding does not wait for the disk.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from io import FileIO, RawIOBase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from localmoe.errors import LocalMoeError
from localmoe.experts.layout import ExpertLayout
from localmoe.experts.slots import ExpertSlots
from quant.parts import PartFiles

_AT_ONCE = 8 << 20  # bytes per system call: a cancelled or failing read is noticed in between
_ADVICE = 128 << 10  # bytes that the kernel takes of one advice: its window of read-ahead, by default
READERS = 3  # one per part
_REST = 0.25  # seconds without a step after which the pager reads as fast as it can


class ReadError(LocalMoeError):
    """The model file could not be read while the model was running."""


class ExpertFile:
    """Reads experts of one model; safe to use from several threads."""

    def __init__(self, layout: ExpertLayout) -> None:
        self.layout = layout
        self.bytes_read = 0
        self._lock = threading.Lock()
        with contextlib.ExitStack() as opened:
            self._files = [opened.enter_context(_opened(path)) for path in layout.files.paths]
            self._opened = opened.pop_all()
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="localmoe-read")

    def read(self, layer: int, expert: int, parts: Sequence[NDArray[np.uint8]]) -> Read:
        """The reading of an expert into `parts` (gate, up, down; of the layer's sizes), not yet begun."""
        offsets = self.layout.offsets[layer, expert].tolist()
        fills = [partial(self._fill, *each) for each in zip(parts, offsets, strict=True)]
        return Read(self._threads, fills)

    def close(self) -> None:
        """Wait for reads that have begun, then close what they read."""
        self._threads.shutdown(wait=True)
        self._opened.close()

    def _fill(self, part: NDArray[np.uint8], offset: int) -> None:
        """Read exactly `part` at `offset`."""
        number, start = self.layout.files.locate(offset)
        file = self._files[number]
        _advise(file, start, part.nbytes)
        _fill(part, start, partial(self._read_at, file), self.layout.files.paths[number])

    def _read_at(self, file: FileIO, target: memoryview, offset: int) -> int:
        if hasattr(os, "preadv"):
            count = os.preadv(file.fileno(), [target], offset)
        else:  # Windows: one position for all threads
            with self._lock:
                count = _read_from(file, target, offset)
        with self._lock:
            self.bytes_read += count
        return count


def _opened(path: Path) -> FileIO:
    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115  # closed by ExpertFile.close()
    except OSError as error:
        raise _unreadable(path, error) from error
    if hasattr(os, "posix_fadvise"):  # no guessing what comes next: beyond a part is another expert's
        with contextlib.suppress(OSError):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
    return file


def _unreadable(path: Path, error: OSError) -> ReadError:
    return ReadError(f"{path}: cannot be read: {error.strerror or error}")


def read_into(files: PartFiles, targets: Sequence[tuple[int, NDArray[np.uint8]]]) -> None:
    """Read each (offset, uint8 array) of a model's files, past the mapping. ReadError where that fails."""
    with contextlib.ExitStack() as opened:
        handles = [opened.enter_context(_opened(path)) for path in files.paths]
        for turn, (offset, part) in enumerate(targets):
            for ahead, asked in targets[turn + 1 : turn + 2] if turn else targets[:2]:
                number, start = files.locate(ahead)  # so that the disk always has the next one to work on
                _advise(handles[number], start, asked.nbytes)
            number, start = files.locate(offset)
            _fill(part, start, partial(_read_from, handles[number]), files.paths[number])


def _fill(
    part: NDArray[np.uint8], start: int, read_at: Callable[[memoryview, int], int], path: Path
) -> None:
    """Read exactly `part` at `start`; `read_at` reads some bytes at an offset and says how many."""
    done = 0
    try:
        while done < part.nbytes:
            count = read_at(part.data[done : done + _AT_ONCE], start + done)
            if count == 0:
                raise ReadError(f"{path}: ends early; was it replaced while the model ran?")
            done += count
    except OSError as error:
        raise _unreadable(path, error) from error


def _read_from(file: FileIO, target: memoryview, offset: int) -> int:
    file.seek(offset)
    return file.readinto(target) or 0


def _advise(file: RawIOBase, offset: int, size: int) -> None:
    """Have all of that range of `file` read: the disk is given more than one request to work on."""
    if not hasattr(os, "posix_fadvise"):
        return
    with contextlib.suppress(OSError):  # a file system that takes no advice reads all the same
        for start in range(offset, offset + size, _ADVICE):
            count = min(_ADVICE, offset + size - start)
            os.posix_fadvise(file.fileno(), start, count, os.POSIX_FADV_WILLNEED)


class Read:
    """An expert on its way into memory.

    Ctrl-C may break off any of the calls below. Its parts exist before a thread hears of them, so that
    `call_off`, called (again) until it returns, still knows of every write.
    """

    def __init__(self, threads: Executor, fills: Iterable[Callable[[], None]]) -> None:
        self._threads = threads
        self._parts = [(Future[None](), fill) for fill in fills]

    def start(self) -> Read:
        """Begin to read."""
        for part, fill in self._parts:
            self._threads.submit(_run, part, fill)
        return self

    def wait(self) -> None:
        """Return when every byte is there; ReadError (after all parts ended) if that failed."""
        failures = [part.exception() for part, _ in self._parts]  # waits for each
        for failure in failures:
            if failure is not None:
                raise failure

    def call_off(self) -> bool:
        """Begin no more parts and wait for those that have begun: after this nothing is written. True if
        every byte is there.
        """
        begun = [part for part, _ in self._parts if not part.cancel()]
        whole = [part.exception() is None for part in begun]  # waits for each
        return all(whole) and len(begun) == len(self._parts)


def _run(part: Future[None], fill: Callable[[], None]) -> None:
    if not part.set_running_or_notify_cancel():
        return
    try:
        fill()
    except BaseException as error:
        part.set_exception(error)
    else:
        part.set_result(None)


class Pager:
    """Fills free slots in the background with experts that were asked for, in that order.

    About `bytes_per_step` are read between two calls of `step`, and as fast as the file gives them once no
    step has begun for a while. An expert for which there is no free slot, or that has one by then, is passed
    over.
    """

    def __init__(self, slots: ExpertSlots, file: ExpertFile, bytes_per_step: int) -> None:
        self._slots, self._file = slots, file
        self._bytes_per_step = bytes_per_step
        self._wanted: deque[tuple[int, int]] = deque()
        self._allowance = bytes_per_step
        self._last_step = float("-inf")
        self._filling: tuple[int, int] | None = None
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self.bytes_read = 0
        self.failure: Exception | None = None

    def want(self, experts: Iterable[tuple[int, int]]) -> None:
        """Ask for experts (layer, expert), best first; the thread starts with the first that are asked
        for.
        """
        with self._changed:
            self._wanted.extend(experts)
            if self._thread is None and self._wanted and not self._closing:
                self._thread = threading.Thread(target=self._run, name="localmoe-pager", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def step(self) -> None:
        """A step begins: another `bytes_per_step` may be read."""
        with self._changed:
            self._allowance = self._bytes_per_step
            self._last_step = time.monotonic()
            self._changed.notify_all()

    def withdraw(self, layer: int, expert: int) -> None:
        """Do not load that expert: the caller will. Returns when a load of it under way has ended."""
        with self._changed:
            if (layer, expert) in self._wanted:
                self._wanted.remove((layer, expert))
            self._changed.wait_for(lambda: self._filling != (layer, expert))

    def drain(self) -> None:
        """Wait until all that was asked for is loaded or passed over."""
        with self._changed:
            self._changed.wait_for(lambda: not self._wanted and self._filling is None)

    def close(self) -> None:
        """Stop after the expert in hand."""
        with self._changed:
            self._closing = True
            self._wanted.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        def ready() -> bool:
            resting = time.monotonic() - self._last_step > _REST
            return self._closing or bool(self._wanted and (self._allowance > 0 or resting))

        while True:
            with self._changed:
                while not self._changed.wait_for(ready, timeout=_REST if self._wanted else None):
                    continue
                if self._closing:
                    return
                self._filling = self._wanted.popleft()
            try:
                size = self._load(*self._filling)
            except ReadError as error:
                self.failure, size = error, 0
            with self._changed:
                self.bytes_read += size
                self._allowance -= size
                self._filling = None
                if self.failure is not None:
                    self._wanted.clear()
                self._changed.notify_all()

    def _load(self, layer: int, expert: int) -> int:
        """Bytes read for that expert: 0 if it has a slot or gets none."""
        if self._slots.slot_of[layer, expert] >= 0:
            return 0
        slot = self._slots.take(int(self._slots.layout.class_of[layer]))
        if slot is None:
            return 0
        try:
            self._file.read(layer, expert, self._slots.parts(slot)).start().wait()
        except BaseException:
            self._slots.abandon(slot)
            raise
        self._slots.publish(slot, layer, expert)
        return int(self._slots.layout.expert_bytes[layer])
