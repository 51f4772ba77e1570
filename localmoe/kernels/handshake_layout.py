"""Where things are in the memory that the GPU and the CPU worker share: byte offsets, and values of its
flags.
"""

from __future__ import annotations

POSTED, DONE, FAILED, ACTIVE, HEADER, IDS, RANKS, ACTIVATIONS = 0, 128, 256, 320, 384, 512, 640, 1024
LAYER, MISSES, FIRST_ROW = range(3)  # int32 places in the header
WORKER_DEAD, WORKER_ENDED = 1, 2  # values of FAILED
MOST_CHOICES = 32


def results_start(hidden: int) -> int:
    """Where the results float32 [k, hidden] begin."""
    return -(-(ACTIVATIONS + hidden * 4) // 256) * 256
