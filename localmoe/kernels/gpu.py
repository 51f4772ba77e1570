"""The GPU's arithmetic for one transformer: the same steps as `cpu.Cpu`, on torch tensors, by Triton kernels.

Two ways through each step: one token (matvecs on float32 activations in planes; everything that changes from
step to step
is read from device memory, so the whole step can be recorded as a CUDA graph) and many (matrix products in
bfloat16).
Matrices, norms and routers are given by their host addresses or arrays, as the file mapping has them; `place`
has put them
on the device before. On CPU tensors the same class runs in Triton's interpreter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from localmoe.errors import UsageError
from localmoe.kernels.gpu_attention import BLOCK
from localmoe.kernels.gpu_formats import GPU_TYPES
from localmoe.kernels.gpu_launch import Launcher
from localmoe.kernels.gpu_memory import upload
from localmoe.kernels.gpu_tiles import ROUTED_AT_ONCE, ExpertShape, Tiles
from localmoe.kernels.gpu_words import PLANE_LIFTS, planes_of
from localmoe.kernels.matrix import Heads, Matrix, Router

if TYPE_CHECKING:
    from localmoe.kernels.buffers import Shape

Floats = NDArray[np.float32]
Tensor = Any  # torch.Tensor
ALIGNMENT = 256


@dataclass(slots=True)
class GpuRows:
    """Activations of a chunk: float32 [chunk, cols]; for matrices, planes [cols] (one token) and bfloat16
    [chunk, cols].
    """

    cols: int
    values: Tensor
    planes: Tensor
    half: Tensor


@dataclass(slots=True)
class GpuCache:
    """One layer's keys and values on the device: see gpu_attention."""

    heads: int
    kv_heads: int
    head_dim: int
    context: int  # positions, whole blocks
    q8: bool
    keys: Tensor
    values: Tensor
    key_scales: Tensor
    value_scales: Tensor


@dataclass(frozen=True, slots=True)
class GpuRouter:
    """`matrix.Router` on the device."""

    weight: Tensor  # float32 [experts, hidden]
    bias: Tensor | None  # float32 [experts]


class GpuExperts(Protocol):
    """A layer's experts, wherever they are: `model.gpu_experts` has the implementation."""

    def decode(self, gpu: Gpu, x: GpuRows, h: GpuRows, router: GpuRouter) -> None:
        """x += the experts' output for one token."""

    def prefill(self, gpu: Gpu, x: GpuRows, h: GpuRows, router: GpuRouter) -> None:
        """x += the experts' output for many tokens."""


class Gpu:
    """Arithmetic on one device. `device` is "cuda", "cuda:N", or "cpu" under Triton's interpreter."""

    def __init__(self, shape: Shape, device: str, chunk: int, rope: Floats,
        tiles: Tiles | None = None) -> None:
        import torch

        self.torch: Any = torch
        s = self.shape = shape
        self.device, self.chunk = torch.device(device), chunk
        self.launch = Launcher(self.device.type == "cpu", tiles)
        self.rope = self.to_device(rope)
        self.tokens = 0
        self.recording = False  # inputs stay as they are: the step is being recorded
        self._placed: dict[int, Tensor] = {}
        self._matrices: dict[int, Matrix] = {}
        self._dense: dict[int, tuple[ExpertShape, tuple[Tensor, Tensor, Tensor]]] = {}
        attention, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
        self.ids = self.empty(chunk, dtype=torch.int32)
        self.position = torch.zeros(1, dtype=torch.int32, device=self.device)
        self.residual = self._rows(s.hidden, False)
        self.normed = self._rows(s.hidden, True)
        self.q, self.k, self.v = (self._rows(cols, False) for cols in (attention, kv, kv))
        self.attended = self._rows(attention, True)
        self.logits = self.empty(s.vocab)
        self.router_logits = self.empty(chunk, s.experts if s.experts > ROUTED_AT_ONCE else 0)
        pairs = chunk * max(1, s.experts_used)
        # one token: the experts' FFN activations, in planes
        self.inner = self.empty(max(1, s.experts_used), planes_of(s.ffn))
        self.inner_many = self.empty(pairs if chunk > 1 else 0, s.ffn, dtype=torch.bfloat16)
        self.out_many = self.empty(pairs if chunk > 1 else 0, s.hidden)
        # one expert's (or layer's) largest matrix in bfloat16
        widest = s.hidden * max(s.ffn, s.hidden, attention) if chunk > self.launch.tiles.tokens else 0
        self.scratch = self.empty(widest, dtype=torch.bfloat16)
        self._partial = self.empty(0)
        self._lifts = torch.tensor(PLANE_LIFTS, device=self.device)

    # ------------------------------------------------------------ memory
    def empty(self, *shape: int, dtype: Any = None) -> Tensor:
        return self.torch.empty(shape, dtype=dtype or self.torch.float32, device=self.device)

    def to_device(self, array: NDArray[Any]) -> Tensor:
        return self.torch.from_numpy(np.ascontiguousarray(array)).to(self.device, copy=True)

    def _rows(self, cols: int, for_matrices: bool) -> GpuRows:
        t = self.torch
        many = self.chunk if for_matrices and self.chunk > 1 else 0
        return GpuRows(cols, self.empty(self.chunk, cols), self.empty(planes_of(cols) if for_matrices else 0),
                       self.empty(many, cols, dtype=t.bfloat16))  # fmt: skip

    def place(self, matrix: Matrix) -> Matrix:
        """The matrix, with its bias, on the device (copied there the first time). Raises UsageError for a
        type without GPU kernels.
        """
        found = self._matrices.get(matrix.address)
        if found is None:
            if matrix.type not in GPU_TYPES:
                raise UsageError(f"weights of the type {matrix.type} run on the CPU only: use --device cpu")
            self._placed[matrix.address] = upload(matrix.address, matrix.nbytes, self.device)
            address = int(self._placed[matrix.address].data_ptr())
            found = self._matrices[matrix.address] = replace(self.place_bias(matrix), address=address)
        return found

    def place_bias(self, matrix: Matrix, experts: int = 1) -> Matrix:
        """The matrix where it is, its bias (those of so many experts) on the device (copied there the first
        time).
        """
        if not matrix.bias:
            return matrix
        if matrix.bias not in self._placed:
            self._placed[matrix.bias] = upload(matrix.bias, experts * matrix.rows * 4, self.device)
        return replace(matrix, bias=int(self._placed[matrix.bias].data_ptr()))

    def place_floats(self, array: Floats) -> Tensor:
        """A norm, a router, sinks on the device (copied there the first time)."""
        key = int(array.ctypes.data)
        if key not in self._placed:
            self._placed[key] = self.to_device(array)
        return self._placed[key]

    def cache(self, context: int, q8: bool) -> GpuCache:
        """An empty cache of one layer for `context` positions, rounded up to whole blocks."""
        s, t = self.shape, self.torch
        room = -(-context // BLOCK) * BLOCK
        size, scales = (s.kv_heads, room, s.head_dim), (s.kv_heads, room, s.head_dim // 32 if q8 else 0)
        kind = t.int8 if q8 else t.float16
        tensors = [t.zeros(size, dtype=kind, device=self.device) for _ in range(2)]
        tensors += [t.zeros(scales, dtype=t.float16, device=self.device) for _ in range(2)]
        return GpuCache(s.heads, s.kv_heads, s.head_dim, room, q8, *tensors)

    def room_for_partials(self, context: int) -> None:
        """Makes room for a decode step's attention over so many positions."""
        blocks = -(-context // BLOCK)
        if self._partial.numel() < self.shape.heads * blocks * (self.shape.head_dim + 2):
            self._partial = self.empty(self.shape.heads * blocks * (self.shape.head_dim + 2))

    def set_inputs(self, ids: Sequence[int], position: int) -> None:
        """The tokens and the first position of the pass that follows, written to device memory."""
        t = self.torch
        self.tokens = len(ids)
        self.ids[: self.tokens].copy_(t.tensor(list(ids), dtype=t.int32))
        self.position.fill_(position)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            self.torch.cuda.synchronize(self.device)

    # ------------------------------------------------------------ the steps of a layer
    def embed(self, ids: Sequence[int], matrix: Matrix) -> GpuRows:
        """The embeddings of the ids that `set_inputs` got: [tokens, hidden]."""
        if not self.recording and len(ids) != self.tokens:
            raise ValueError(f"set_inputs got {self.tokens} tokens, embed {len(ids)}")
        self.launch.embed(self.ids, self.residual.values, self.place(matrix), self.tokens)
        return self.residual

    def norm(self, x: GpuRows, weight: Floats) -> GpuRows:
        h = self.normed
        self.launch.norm(
            x.values, self.place_floats(weight), h.values, h.planes, h.half, self.shape.epsilon, self.tokens
        )
        return h

    def qkv(self, h: GpuRows, q: Matrix, k: Matrix, v: Matrix) -> tuple[GpuRows, GpuRows, GpuRows]:
        out = self.q, self.k, self.v
        if self.tokens == 1:
            placed = self.place(q), self.place(k), self.place(v)
            self.launch.qkv(h.planes, (self.q.values, self.k.values, self.v.values), placed)
            return out
        for matrix, rows in zip((q, k, v), out, strict=True):
            self._linear(h, matrix, rows.values)
        return out

    def _linear(self, h: GpuRows, matrix: Matrix, y: Tensor, add: bool = False) -> None:
        placed = self.place(matrix)
        if self.tokens == 1:
            self.launch.linear(h.planes, y, placed, add)
        else:
            self.launch.linear_many(h.half, y, placed, self.tokens, self.scratch, add)

    def attend(
        self, q: GpuRows, k: GpuRows, v: GpuRows, cache: Any, position: int, heads: Heads
    ) -> GpuRows:
        """Norms (where there are norms) and rotates q and k, appends k and v at the position that
        `set_inputs` got, attends. → [tokens, heads * head_dim]
        """
        s, out, norms, window = self.shape, self.attended, heads.norms, heads.window
        placed = (self.place_floats(norms[0]), self.place_floats(norms[1])) if norms else None
        sinks = self.place_floats(heads.sinks) if heads.sinks is not None else None
        self.launch.append(
            q.values, k.values, v.values, placed, s.epsilon, self.rope, s.rope_halves, cache, self.position,
            self.tokens,
        )  # fmt: skip
        scale = s.head_dim**-0.5
        if self.tokens == 1:
            self.room_for_partials(cache.context)
            blocks = cache.context // BLOCK if self.recording else position // BLOCK + 1
            self.launch.attend(q.values, out.planes, cache, self.position, self._partial, scale, window,
                sinks, blocks)
        else:
            self.launch.attend_many(q.values, out.half, cache, self.position, self.tokens, scale, window,
                sinks)
        return out

    def add_linear(self, x: GpuRows, h: GpuRows, matrix: Matrix) -> None:
        """x += matrix · h + its bias, token by token."""
        self._linear(h, matrix, x.values, add=True)

    def add_experts(
        self, x: GpuRows, h: GpuRows, router: Router, source: Any, last_only: bool = False
    ) -> None:
        """x += the weighted sum of the chosen experts' FFNs, in router order; `source` is a layer's
        GpuExperts. Every token's are computed, `last_only` or not.
        """
        run = source.decode if self.tokens == 1 else source.prefill
        bias = self.place_floats(router.bias) if router.bias is not None else None
        run(self, x, h, GpuRouter(self.place_floats(router.weight), bias))

    def add_dense(
        self, x: GpuRows, h: GpuRows, gate: Matrix, up: Matrix, down: Matrix, last_only: bool = False
    ) -> None:
        """x += down · (the gated unit of gate · h and up · h): one expert that every token uses. `last_only`
        as in `add_experts`.
        """
        shape, (where, rows, weight) = self._dense_layer(gate, up, down)
        if self.tokens == 1:
            self.launch.gate_up(h.planes, self.inner, shape, None, where, where, rows)
            self.launch.down(self.inner, x.values, weight, shape, None, where, where, rows)
            return
        t = self.torch
        order = t.arange(self.tokens, dtype=t.int32, device=self.device)
        if self.tokens > self.launch.tiles.tokens:
            address = int(self._placed[gate.address].data_ptr())
            self.launch.expert_many(
                h.half, self.inner_many, self.out_many, shape, 0, address, order, self.scratch
            )
        else:
            starts = t.tensor([0, self.tokens], dtype=t.int32, device=self.device)
            active = t.zeros(1, dtype=t.int32, device=self.device)
            self.launch.gate_up_many(
                h.half, self.inner_many, shape, active, where, starts, order, self.tokens
            )
            self.launch.down_many(self.inner_many, self.out_many, shape, active, where, starts, self.tokens)
        weights = t.ones(self.tokens, dtype=t.float32, device=self.device)
        self.launch.combine(x.values, self.out_many, weights, order, self.shape.hidden, 1, self.tokens)

    def _dense_layer(
        self, gate: Matrix, up: Matrix, down: Matrix
    ) -> tuple[ExpertShape, tuple[Tensor, Tensor, Tensor]]:
        found = self._dense.get(gate.address)
        if found is None:
            t = self.torch
            starts = (0, aligned(gate.nbytes), aligned(gate.nbytes) + aligned(up.nbytes))
            shape = ExpertShape(gate, up, down, starts, self.shape.clamped)
            store = self.empty(shape.nbytes, dtype=t.uint8)
            for start, m in zip(starts, (gate, up, down), strict=True):
                if m.type not in GPU_TYPES:
                    raise UsageError(f"weights of the type {m.type} run on the CPU only: use --device cpu")
                store[start : start + m.nbytes].copy_(upload(m.address, m.nbytes, self.device))
            self._placed[gate.address] = store
            where = t.tensor([int(store.data_ptr())], dtype=t.int64, device=self.device)
            rows = t.full((1,), gate.rows, dtype=t.int32, device=self.device)
            found = self._dense[gate.address] = shape, (where, rows, t.ones(1, device=self.device))
        return found

    def last_logits(self, h: GpuRows, output: Matrix) -> Floats:
        """float32 [vocab] of the chunk's last token."""
        self.compute_logits(h, output)
        return self.logits.cpu().numpy()  # type: ignore[no-any-return]  # torch is Any here

    def compute_logits(self, h: GpuRows, output: Matrix) -> None:
        """The last token's logits into `self.logits`, on the device."""
        if self.tokens > 1:
            last = h.values[self.tokens - 1]
            whole = self.torch.nn.functional.pad(last, (0, h.planes.numel() - last.numel()))
            pieces = whole.view(-1, 4, 4, 4) * self._lifts  # [pieces, quads, words, bytes]
            h.planes.copy_(pieces.permute(3, 1, 0, 2).reshape(-1))
        self.launch.linear(h.planes, self.logits, self.place(output))

    def all_logits(self, h: GpuRows, output: Matrix) -> Floats:
        """float32 [tokens, vocab]"""
        if self.tokens == 1:
            return self.last_logits(h, output)[None]
        y = self.empty(self.tokens, output.rows)
        self.launch.linear_many(h.half, y, self.place(output), self.tokens, self.scratch)
        return y.cpu().numpy()  # type: ignore[no-any-return]  # torch is Any here

    def close(self) -> None:
        """Lets go of the weights."""
        self._placed.clear()
        self._matrices.clear()
        self._dense.clear()


def aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
