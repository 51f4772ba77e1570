"""From a checkpoint's tensors to GGUF's: names, shapes, experts apart or fused, scales of 8-bit floats."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from quant.errors import ModelFileError
from quant.hyperparameters import TOP, Sizes
from quant.sources import Files, Matrix, Scale, SourceTensor
from quant.tensor_files import ITEM_BYTES, Stored, show

DTYPES = {"F32": "f32", "F16": "f16", "BF16": "bf16", "F8_E4M3": "f8_e4m3"}


@dataclass(frozen=True)
class Naming:
    """How a kind of checkpoint names what GGUF names."""

    top: Mapping[str, str]
    prefix: str  # of a layer, with {} for its number
    layer: Mapping[str, str]
    moe: tuple[str, ...]  # where a layer's router and experts are
    halves: bool  # rotary pairs lie half a head apart, not side by side
    scales: tuple[str, ...]  # suffixes of an 8-bit float's scale, put for ".weight" or after it
    ignored: tuple[str, ...]  # endings of what is no weight
    experts: Mapping[str, str] = field(default_factory=lambda: {"gate": "w1", "up": "w3", "down": "w2"})
    fused: bool = False  # experts.gate_up_proj and experts.down_proj may stand for the experts


@dataclass
class TensorMap:
    """Finds each tensor that GGUF wants, and what is left over."""

    naming: Naming
    stored: Mapping[str, Stored]
    sizes: Sizes
    path: Path
    files: Files
    scale_block: tuple[int, int] = (128, 128)

    def tensors(self, tied: bool) -> list[SourceTensor]:
        """In the file's order: embedding, layers, norm, output."""
        self.used: set[str] = set()
        shapes, top = self.sizes.shapes(), self.naming.top
        result = [self._plain("token_embd.weight", shapes)]
        for layer in range(self.sizes.layers):
            result += self._layer(layer, shapes)
        result.append(self._plain("output_norm.weight", shapes))
        if tied:
            self.used.add(top["output.weight"])  # the same matrix, where it is stored twice
        else:
            result.append(self._plain("output.weight", shapes))
        left = sorted(n for n in self.stored if n not in self.used and not n.endswith(self.naming.ignored))
        if left:
            raise ModelFileError(
                f"{show(self.path)}: tensor {left[0]!r} ({len(left)} such) has no place in this architecture;"
                " the model cannot be converted"
            )
        return result

    def _plain(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> SourceTensor:
        return SourceTensor(name, shapes[name], (self._matrix(self.naming.top[name], shapes[name]),))

    def _layer(self, layer: int, shapes: Mapping[str, tuple[int, ...]]) -> list[SourceTensor]:
        prefix = self.naming.prefix.format(layer)
        return [
            SourceTensor(f"blk.{layer}.{name}", shape, self._parts(prefix, name, shape))
            for name, shape in shapes.items()
            if name not in TOP
        ]

    def _parts(self, prefix: str, name: str, shape: tuple[int, ...]) -> tuple[Matrix, ...]:
        """What one tensor of a layer consists of."""
        if name.endswith("_exps.weight"):
            return self._experts(prefix, name.split("_")[1], shape)
        if name in self.naming.layer:
            heads = {"attn_q.weight": self.sizes.heads, "attn_k.weight": self.sizes.kv_heads}
            reordered = self.naming.halves and self.sizes.family.interleaved
            halves = heads.get(name, 0) if reordered else 0
            return (self._matrix(prefix + self.naming.layer[name], shape, halves),)
        candidates = [f"{prefix}{moe}.gate.weight" for moe in self.naming.moe]  # of the router
        stored = next((n for n in candidates if n in self.stored), candidates[0])
        return (self._matrix(stored, shape),)

    def _experts(self, prefix: str, which: str, shape: tuple[int, ...]) -> tuple[Matrix, ...]:
        """One matrix per expert: tensors of their own, or rows of a fused one."""
        count, rows, cols = shape
        own = self.naming.experts[which]
        for moe in self.naming.moe:
            at = f"{prefix}{moe}.experts."
            fused = at + ("down_proj" if which == "down" else "gate_up_proj")
            if self.naming.fused and fused in self.stored:
                height = rows if which == "down" else 2 * rows  # gate above up
                if self.stored[fused].dtype == "F8_E4M3":
                    raise ModelFileError(
                        f"{show(self.stored[fused].path)}: {fused!r} holds 8-bit floats for all experts at"
                        " once, which is not supported; get the model with its experts apart"
                    )
                whole = self._matrix(fused, (count, height, cols))
                row = whole.row_bytes()
                begin = whole.offset + (rows * row if which == "up" else 0)
                offsets = range(begin, begin + count * height * row, height * row)
                return tuple(Matrix(whole.path, offset, rows, cols, whole.dtype) for offset in offsets)
        candidates = [f"{prefix}{moe}.experts.{{}}.{own}.weight" for moe in self.naming.moe]
        name = next((n for n in candidates if n.format(0) in self.stored), candidates[0])
        return tuple(self._matrix(name.format(i), (rows, cols)) for i in range(count))

    def _matrix(self, name: str, shape: tuple[int, ...], halves: int = 0) -> Matrix:
        tensor = self._found(name, shape, DTYPES)
        cols = shape[-1]
        rows = tensor.nbytes // (cols * ITEM_BYTES[tensor.dtype])
        scale = self._scale(name, rows, cols) if tensor.dtype == "F8_E4M3" else None
        return Matrix(tensor.path, tensor.offset, rows, cols, DTYPES[tensor.dtype], halves, scale)

    def _found(self, name: str, shape: tuple[int, ...], dtypes: Collection[str]) -> Stored:
        """A tensor of the checkpoint, of that shape and one of those types."""
        tensor = self.stored.get(name)
        if tensor is None:
            raise ModelFileError(f"{show(self.path)}: tensor {name!r} is missing; the model is incomplete")
        self.used.add(name)
        if tensor.shape != shape:
            raise ModelFileError(
                f"{show(tensor.path)}: tensor {name!r} has the shape {list(tensor.shape)}, the model's"
                f" configuration wants {list(shape)}; they do not belong together"
            )
        if tensor.dtype not in dtypes:
            raise ModelFileError(
                f"{show(tensor.path)}: tensor {name!r} is {tensor.dtype}; {', '.join(dtypes)} can be read"
            )
        return tensor

    def _scale(self, name: str, rows: int, cols: int) -> Scale:
        """Of an 8-bit float matrix: one number, one per row, or one per block of the configured size."""
        stem = name.removesuffix(".weight")
        candidates = [n for s in self.naming.scales for n in (name + s, stem + "." + s) if n in self.stored]
        if not candidates:
            raise ModelFileError(f"{show(self.path)}: {name!r} is 8-bit and its scale is missing")
        tensor = self.stored[candidates[0]]
        self.used.add(tensor.name)
        values, shape = self._vector(tensor), tensor.shape
        down, across = self.scale_block
        grid = (-(-rows // down), -(-cols // across))
        if values.size == 1:
            return Scale(values.reshape(1, 1), rows, cols)
        if shape in ((rows,), (rows, 1)):
            return Scale(values.reshape(-1, 1), 1, cols)
        if shape == grid:
            return Scale(values.reshape(grid), down, across)
        raise ModelFileError(
            f"{show(tensor.path)}: {tensor.name!r} {list(shape)} does not fit {name!r}: neither one scale,"
            f" nor {rows} of its rows, nor {list(grid)} of blocks of {down} x {across}; get the model again"
        )

    def _vector(self, tensor: Stored) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        if tensor.dtype not in ("F32", "F16", "BF16"):
            raise ModelFileError(f"{show(tensor.path)}: the scale {tensor.name!r} is {tensor.dtype}")
        count = tensor.nbytes // ITEM_BYTES[tensor.dtype]
        matrix = Matrix(tensor.path, tensor.offset, 1, count, DTYPES[tensor.dtype])
        return matrix.read(self.files, 0, 1).reshape(-1)
