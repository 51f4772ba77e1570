"""Copies of what every token needs, for a model whose experts do not all fit into memory.

Where a file is mapped its pages are the kernel's to drop, and it drops those that were not touched for a
while. Experts that are read from the file stream through the page cache by the gigabyte; a layer's attention
is touched once a token. So, where memory is as short as `--ram` says, the kernel drops exactly what each
token needs, and reads it again with as much around it as read-ahead takes. Memory of our own stays.
"""

from __future__ import annotations

import contextlib
import mmap
from dataclasses import replace

import numpy as np

from localmoe.experts.layout import ExpertLayout
from localmoe.experts.pager import read_into
from quant.gguf import GGUFFile

_ALIGNMENT = 64  # bytes: a cache line


def with_own_copies(file: GGUFFile, layout: ExpertLayout) -> GGUFFile:
    """The same model, its tensors other than experts in memory of this process; as long as the result lives,
    or anything that views them. ReadError where the file cannot be read.
    """
    experts = set(layout.offsets.ravel().tolist())
    others = [tensor for tensor in file.tensors.values() if tensor.offset not in experts]
    sizes = [-(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT for tensor in others]
    memory = _private(sum(sizes) + _ALIGNMENT)  # zeros follow the last one
    everything, targets, copies, at = np.frombuffer(memory, np.uint8), [], dict(file.tensors), 0
    for tensor, size in zip(others, sizes, strict=True):
        targets.append((tensor.offset, everything[at : at + tensor.nbytes]))
        copies[tensor.name] = replace(tensor, _map=memory, _begin=tensor.offset - at)
        at += size
    read_into(layout.files, targets)
    return replace(file, tensors=copies)


def _private(nbytes: int) -> mmap.mmap:
    """Zeros in memory of this process alone, in huge pages where the system has them."""
    if not hasattr(mmap, "MAP_PRIVATE"):  # Windows
        return mmap.mmap(-1, nbytes)
    memory = mmap.mmap(-1, nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
