"""One conversation on the GPU: tokens in, logits out. A decode step is one recorded CUDA graph that ends at
the logits.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localmoe.errors import ClosedError, LocalMoeError, UsageError
from localmoe.model.decoder import checked_chunks
from localmoe.model.gpu_kv_file import load_state, save_state
from localmoe.model.gpu_runtime import KV_TYPES, GpuRuntime

Floats = NDArray[np.float32]


class GpuDecoder:
    """`tokens` are those whose keys and values are held, position by position: the same interface as
    `model.decoder`.
    """

    def __init__(self, runtime: GpuRuntime, context: int, kv_type: str = "f16") -> None:
        if kv_type not in KV_TYPES:
            raise UsageError(f"--kv-type {kv_type}: choose one of {', '.join(KV_TYPES)}")
        self.context = context
        self.tokens: list[int] = []
        self.model: object = None  # as `Decoder.model`
        self._runtime, self._gpu = runtime, runtime.gpu
        q8 = kv_type == "q8_0"
        self._caches: Any = [self._gpu.cache(context, q8) for _ in range(runtime.config.layers)]
        self._gpu.room_for_partials(self._caches[0].context)
        self._graph: Any = None
        self._steps = 0

    def rewind(self, length: int) -> None:
        """Forgets the positions from `length` on."""
        if not 0 <= length <= len(self.tokens):
            raise ValueError(f"cannot rewind {len(self.tokens)} positions to {length}")
        del self.tokens[length:]

    def extend(self, ids: Sequence[int]) -> Floats:
        """Appends ids (at least one); returns float32 [vocab] logits of what follows the last."""
        logits: Floats = np.zeros(0, np.float32)
        chunks = self._chunks(ids)
        for number, chunk in enumerate(chunks):
            logits = self._forward(chunk, "last" if number == len(chunks) - 1 else "none")
        return logits

    def extend_all(self, ids: Sequence[int]) -> Floats:
        """As `extend`, but the logits after every id: float32 [len(ids), vocab]."""
        return np.concatenate([self._forward(chunk, "all") for chunk in self._chunks(ids)])

    def save(self, path: Path, identity: str) -> None:
        """Writes this state to a file that only a model of the same `identity` takes. OSError if it fails."""
        with self._runtime.lock:
            save_state(path, self._caches, self.tokens, identity)

    def load(self, path: Path, identity: str) -> int:
        """Restores a state; how many tokens it holds, 0 (and nothing changed) where the file does not fit."""
        with self._runtime.lock:
            tokens = load_state(path, self._caches, self.context, identity)
        if tokens:
            self.tokens = tokens
        return len(tokens)

    def _chunks(self, ids: Sequence[int]) -> list[Sequence[int]]:
        config = self._runtime.config
        return checked_chunks(ids, len(self.tokens), self.context, config, self._gpu.chunk)

    def _forward(self, chunk: Sequence[int], wanted: str) -> Any:
        ids = [int(i) for i in chunk]
        with self._runtime.lock:
            if self._runtime.closed:
                raise ClosedError
            out = self._step(ids[0], wanted) if len(ids) == 1 else self._prefill(ids, wanted)
        self.tokens.extend(ids)
        return out

    def _prefill(self, ids: list[int], wanted: str) -> Any:
        runtime, gpu = self._runtime, self._gpu
        position = len(self.tokens)
        gpu.set_inputs(ids, position)
        if runtime.residency is not None:
            runtime.residency.begin_prefill()
        hidden = runtime.transformer.forward(gpu, ids, position, self._caches)
        output = runtime.transformer.output
        logits = None if wanted == "none" else (gpu.all_logits if wanted == "all"
            else gpu.last_logits)(hidden, output)
        if runtime.residency is not None:
            runtime.residency.end_prefill()
        return logits.copy() if logits is not None else None

    def _step(self, token: int, wanted: str) -> Floats:
        """Decodes one token: launches (or replays) the step, waits for its end, then lets the host do its
        part.
        """
        runtime, gpu = self._runtime, self._gpu
        began = time.perf_counter()
        gpu.set_inputs([token], len(self.tokens))
        if self._graph is None and self._steps and gpu.device.type == "cuda":
            self._graph = self._record()  # the step before has compiled and loaded every kernel
        if runtime.residency is not None:
            runtime.residency.begin_step()
        try:
            if self._graph is not None:
                self._graph.replay()
            else:
                self._launch(len(self.tokens))
            gpu.synchronize()
        except BaseException:  # Ctrl-C among them: every wait on the device is bounded, so this ends
            gpu.synchronize()
            with suppress(LocalMoeError):
                if runtime.residency is not None:
                    runtime.residency.end_step()
            raise
        if runtime.residency is not None:
            runtime.residency.end_step()
            runtime.step_took(time.perf_counter() - began)
        self._steps += 1
        logits: Floats = gpu.logits.cpu().numpy().copy()
        return logits[None] if wanted == "all" else logits

    def _launch(self, position: int) -> None:
        runtime, gpu = self._runtime, self._gpu
        hidden = runtime.transformer.forward(gpu, [0], position, self._caches)
        gpu.compute_logits(hidden, runtime.transformer.output)

    def _record(self) -> Any:
        gpu = self._gpu
        graph = gpu.torch.cuda.CUDAGraph()
        gpu.synchronize()
        gpu.recording = True
        try:
            # other threads may copy experts meanwhile
            with gpu.torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._launch(0)
        finally:
            gpu.recording = False
        return graph
