"""Collecting an importance matrix: how strongly each column of each weight matrix is driven by a text.

The forward pass runs with float32 activations; before each product its input's squares are added up, per
tensor and, for experts, per expert. llama.cpp's tool does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localmoe.errors import UsageError
from localmoe.kernels.buffers import Floats, Rows, Shape
from localmoe.kernels.cpu import Cpu
from localmoe.kernels.matrix import Matrix, Router
from localmoe.kernels.sources import ExpertSource
from localmoe.runner import Model
from quant.gguf import GGUFFile
from quant.imatrix import Importance, Statistics
from quant.source_gguf import merged_name


class CollectingCpu(Cpu):
    """The CPU's arithmetic, with sums of squares of every product's input. `names`: tensor by address."""

    def __init__(self, shape: Shape, threads: int, chunk: int, rope: Floats, names: dict[int, str]) -> None:
        super().__init__(shape, threads, chunk, rope, exact=True)
        self.names = names
        self.sums: dict[str, NDArray[np.float64]] = {}  # [experts or 1, cols]
        self.counts: dict[str, NDArray[np.float64]] = {}  # [experts or 1]

    def _add(self, matrix: Matrix, rows: Floats, expert: int = 0, experts: int = 1) -> None:
        name = self.names[matrix.address]
        if name not in self.sums:
            self.sums[name] = np.zeros((experts, rows.shape[1]))
            self.counts[name] = np.zeros(experts)
        self.sums[name][expert] += np.square(rows, dtype=np.float64).sum(0)
        self.counts[name][expert] += len(rows)

    def qkv(self, h: Rows, q: Matrix, k: Matrix, v: Matrix) -> tuple[Rows, Rows, Rows]:
        for matrix in (q, k, v):
            self._add(matrix, h.array[: self.tokens])
        return super().qkv(h, q, k, v)

    def add_linear(self, x: Rows, h: Rows, matrix: Matrix) -> None:
        self._add(matrix, h.array[: self.tokens])
        super().add_linear(x, h, matrix)

    def add_dense(
        self, x: Rows, h: Rows, gate: Matrix, up: Matrix, down: Matrix, last_only: bool = False
    ) -> None:
        """Of every token, whatever is asked for: all of them count."""
        super().add_dense(x, h, gate, up, down)
        for matrix, rows in ((gate, h), (up, h), (down, self.buffers.up)):
            self._add(matrix, rows.array[: self.tokens])

    def add_experts(
        self, x: Rows, h: Rows, router: Router, source: ExpertSource, last_only: bool = False
    ) -> None:
        """Of every token: see `add_dense`."""
        super().add_experts(x, h, router, source)
        b, experts = self.buffers, self.shape.experts
        starts = b.starts.array
        for expert in range(experts):
            pairs = slice(int(starts[expert]), int(starts[expert + 1]))  # of (token, expert), by expert
            tokens = h.array[b.token_of.array[pairs]]
            self._add(source.gate, tokens, expert, experts)
            self._add(source.up, tokens, expert, experts)
            self._add(source.down, b.inner.array[pairs], expert, experts)

    def last_logits(self, h: Rows, output: Matrix) -> Floats:
        self._add(output, h.array[: self.tokens])
        return super().last_logits(h, output)


def collect(
    model: Model, text: str, window: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> Importance:
    """The importance matrix of `model` on `text`, in windows of that many tokens, each begun with BOS.

    The model must have been loaded by `load_collecting`. UsageError for a text without tokens.
    """
    compute = model.compute
    if not isinstance(compute, CollectingCpu):
        raise TypeError("the model was not loaded to collect")
    ids = model.tokenizer.encode(text, bos=False)
    if not ids:
        raise UsageError("the text holds no tokens")
    head = model.tokenizer.encode("")  # BOS, where texts begin with one
    size = max(1, window - len(head))
    starts = range(0, len(ids), size)
    for done, at in enumerate(starts):
        model.decoder(window).extend([*head, *ids[at : at + size]])
        progress(done + 1, len(starts))
    entries = {
        name: Statistics(compute.sums[name].astype(np.float32), compute.counts[name].astype(np.float32))
        for name in compute.sums
    }
    return Importance(entries, chunk_count=len(starts), chunk_size=window)


def tensor_names(file: GGUFFile) -> dict[int, str]:
    """Which tensor begins at an address of the mapped file; of a tensor per expert, the one they make up."""
    return {tensor.address: merged_name(name) for name, tensor in file.tensors.items()}


def load_collecting(path: str | Path, threads: int | None, notice: Callable[[str], None]) -> Model:
    """A model that collects while it runs: see `collect`."""
    import localmoe

    def compute(file: GGUFFile) -> Callable[..., Any]:
        return lambda shape, threads, chunk, rope, exact: CollectingCpu(
            shape, threads, chunk, rope, tensor_names(file)
        )

    return localmoe.load(
        path, device="cpu", threads=threads, exact=True, learn=False, notice=notice, compute=compute
    )


def unreached(importance: Importance) -> Sequence[str]:
    """Lines about experts that the text never reached; they are quantized with uniform weights."""
    missed = {name: experts for name, experts in importance.unreached().items() if "ffn_gate_exps" in name}
    return [
        f"{name.split('.ffn')[0]}: the text never reached expert{'s' if len(experts) > 1 else ''} "
        + ", ".join(map(str, experts))
        for name, experts in missed.items()
    ]
