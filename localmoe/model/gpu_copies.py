"""Copies of experts to the device behind the kernels' back: a stream of its own, and events for what has
arrived.

On CPU tensors (Triton's interpreter) every copy is done at once.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from localmoe.kernels.gpu_memory import HostArena
from localmoe.model.gpu_host import HostExperts

Tensor = Any  # torch.Tensor


class Arrival:
    """An expert on its way to the device."""

    def __init__(self, event: Any) -> None:
        self._event = event

    def done(self) -> bool:
        return self._event is None or bool(self._event.query())

    def before_next(self, stream: Any) -> None:
        """What is launched on `stream` from here on waits for it."""
        if self._event is not None:
            stream.wait_event(self._event)


class Copies:
    """Starts copies from pinned memory, or from the file through one of two pinned buffers."""

    def __init__(self, gpu: Any, host: HostExperts, largest: int) -> None:
        self._gpu, self._host, self.bytes_copied = gpu, host, 0
        self.on_gpu = gpu.device.type == "cuda"
        self._stream: Any = gpu.torch.cuda.Stream(gpu.device) if self.on_gpu else None
        all_at_home = bool((host.home != 0).all())
        self._bounce = [HostArena(largest, self.on_gpu) for _ in range(0 if all_at_home else 2)]
        self._bounce_free: list[Any] = [None] * len(self._bounce)  # events: the buffer's last copy
        self._turn = 0
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="localmoe-gpu-read")

    def start(self, layer: int, expert: int, target: Tensor, after: Any = None) -> Arrival:
        """Begins to copy an expert into `target` uint8, once the event `after` has happened.

        An expert that is only in the file is first read into a pinned buffer, here and now.
        """
        size = self._host.layout.classes[int(self._host.layout.class_of[layer])].slot_bytes
        start = self._host.start_of(layer, expert)
        self.bytes_copied += size
        buffer = -1
        if start is not None:
            source = self._host.arena.tensor(start, size)
        else:
            buffer, self._turn = self._turn, 1 - self._turn
            if self._bounce_free[buffer] is not None:
                self._bounce_free[buffer].synchronize()
            self._host.fill(layer, expert, self._bounce[buffer].bytes)
            source = self._bounce[buffer].tensor(0, size)
        if not self.on_gpu:
            target[:size].copy_(source)
            return Arrival(None)
        cuda = self._gpu.torch.cuda
        with cuda.stream(self._stream):
            if after is not None:
                self._stream.wait_event(after)
            target[:size].copy_(source, non_blocking=True)
            event = cuda.Event()
            event.record(self._stream)
        if buffer >= 0:
            self._bounce_free[buffer] = event
        return Arrival(event)

    def start_behind(self, layer: int, expert: int, target: Tensor) -> Future[Arrival]:
        """As `start`, from a thread: reading the file does not hold up the caller. The target is idle by
        contract.
        """
        return self._reader.submit(self.start, layer, expert, target)

    def mark(self) -> Any:
        """An event at this point of the compute stream; None off the GPU."""
        if not self.on_gpu:
            return None
        event = self._gpu.torch.cuda.Event()
        event.record(self._gpu.torch.cuda.current_stream(self._gpu.device))
        return event

    def compute_stream(self) -> Any:
        return self._gpu.torch.cuda.current_stream(self._gpu.device) if self.on_gpu else None

    def close(self) -> None:
        self._reader.shutdown(wait=True)
        if self._stream is not None:
            self._stream.synchronize()
