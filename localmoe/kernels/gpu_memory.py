"""Memory that the GPU can use: its own, and host memory that is pinned, so that copies run behind its work
and kernels
can read it over the bus.

Host memory is mapped by ourselves and then registered: torch's pinned allocator rounds up to powers of two,
which for
20 GB of experts would take 32.
"""

from __future__ import annotations

import mmap
import weakref
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localmoe.errors import LocalMoeError, UsageError

Tensor = Any  # torch.Tensor
PAGE = 4096
_MAPPED = 2  # cudaHostRegisterMapped


class GpuError(LocalMoeError):
    """The GPU or its driver refused something while running."""


class HostArena:
    """`nbytes` of zeroed host memory, page-aligned; pinned and readable by the GPU unless `pin` is false."""

    def __init__(self, nbytes: int, pin: bool) -> None:
        self.nbytes = -(-max(nbytes, 1) // PAGE) * PAGE
        self._map = mmap.mmap(-1, self.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # a kernel without them: then in small pages
            self._map.madvise(mmap.MADV_HUGEPAGE)
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        self.address = int(self.bytes.ctypes.data)
        if pin:
            _register(self.address, self.nbytes)
            self._unpin = weakref.finalize(self, _unregister, self.address, self._map)

    def tensor(self, start: int, nbytes: int) -> Tensor:
        """uint8 [nbytes] of the arena as a torch tensor that shares its memory."""
        import torch

        return torch.frombuffer(self._map, dtype=torch.uint8, count=nbytes, offset=start)


def _register(address: int, nbytes: int) -> None:
    import torch

    error = torch.cuda.cudart().cudaHostRegister(address, nbytes, _MAPPED)
    if int(error) != 0:
        raise UsageError(
            f"{nbytes / 2**30:.1f} GiB of memory could not be pinned for the GPU (CUDA error {int(error)}):"
            " lower --ram, or raise the limit on locked memory (ulimit -l)"
        )


def _unregister(address: int, _kept: mmap.mmap) -> None:
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.cudart().cudaHostUnregister(address)


def view_bytes(address: int, nbytes: int) -> NDArray[np.uint8]:
    """`nbytes` at an address of this process, as an array that does not own them."""
    import ctypes

    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))


def upload(address: int, nbytes: int, device: Any) -> Tensor:
    """A copy, uint8 [nbytes], on `device` of bytes that this process has at `address` (a mapped file,
    say).
    """
    import torch

    out = torch.empty(nbytes, dtype=torch.uint8, device=device)
    # a mapped file is read piece by piece: the page cache serves the next while one is copied
    step = 64 << 20
    source = view_bytes(address, nbytes)
    for at in range(0, nbytes, step):
        piece = np.array(source[at : at + step])  # torch does not take read-only memory
        out[at : at + step].copy_(torch.from_numpy(piece))
    return out


def free_bytes(device: Any) -> int:
    """Free memory of the device."""
    import torch

    torch.cuda.empty_cache()  # what a model that was closed had, which torch keeps for later
    free, _ = torch.cuda.mem_get_info(device)
    return int(free)
