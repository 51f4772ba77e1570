"""What is gpt-oss's own in Hugging Face's layout: its experts, in MXFP4 or as wide floats, and its YaRN.

Gate and up are one tensor whose rows alternate: gate's, up's, gate's... As published, a matrix is an array of
blocks, 16 bytes of two weights each, and one of the blocks' scales. Saved as floats, it is transposed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quant.block_format import pack_nibbles
from quant.hyperparameters import Settings
from quant.source_map import TensorMap
from quant.sources import Files, Matrix

_BLOCK, _BLOCK_BYTES = 32, 16  # weights, and bytes without the scale
_AT_ONCE = 1 << 20  # bytes of a transposed matrix
_WIDE = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
_YARN = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False}
_YARN_SUPPORTED = {
    "beta_fast": (32, None),
    "beta_slow": (1, None),
    "truncate": (False,),
    "partial_rotary_factor": (1, None),
}
_YARN_READ = ("rope_type", "type", "factor", "original_max_position_embeddings", "rope_theta")


@dataclass(frozen=True, kw_only=True)
class Packed(Matrix):
    """MXFP4 whose scales are an array of their own; `offset` is that of the first block's 16 bytes."""

    scales_path: Path
    scales_offset: int

    @property
    def paths(self) -> tuple[Path, ...]:
        return self.path, self.scales_path

    def read_bytes(self, files: Files, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Rows start..stop-1 as GGUF stores them: uint8 [stop - start, row_bytes].

        Both put two weights into a byte, 2i and 2i + 1 of a block here, i and i + 16 there.
        """
        count = self.cols // _BLOCK  # blocks of a row
        pairs = self._rows(files, self.path, self.offset, count * _BLOCK_BYTES, start, stop)
        scales = self._rows(files, self.scales_path, self.scales_offset, count, start, stop)
        out = np.empty((stop - start, count, 1 + _BLOCK_BYTES), np.uint8)
        out[:, :, 0] = scales
        levels = np.stack([pairs & np.uint8(15), pairs >> np.uint8(4)], axis=-1)
        out[:, :, 1:] = pack_nibbles(levels.reshape(stop - start, count, _BLOCK))
        return out.reshape(stop - start, -1)


@dataclass(frozen=True)
class Transposed(Matrix):
    """Wide floats of which the file has a row for each column here."""

    def read_bytes(self, files: Files, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Rows start..stop-1: uint8 [stop - start, row_bytes]."""
        item = self.row_bytes() // self.cols
        stride = self.rows * self.every * item  # bytes of a row in the file
        step = max(1, _AT_ONCE // stride)
        out = np.empty((stop - start, self.cols), f"u{item}")
        for at in range(0, self.cols, step):
            end = min(at + step, self.cols)
            data = files.read(self.path, self.offset + at * stride, (end - at) * stride)
            stored = data.view(out.dtype).reshape(end - at, self.rows, self.every)
            out[:, at:end] = stored[:, start:stop, self.first].T
        return out.view(np.uint8)


class GptOssMap(TensorMap):
    """Finds gpt-oss's experts; the rest is found by name."""

    def _parts(self, prefix: str, name: str, shape: tuple[int, ...]) -> tuple[Matrix, ...]:
        if "_exps." not in name:
            return super()._parts(prefix, name, shape)
        which = name.split("_")[1]
        own = "down_proj" if which == "down" else "gate_up_proj"
        every, first = (1, 0) if which == "down" else (2, ("gate", "up").index(which))
        stored = f"{prefix}mlp.experts.{own}"
        if name.endswith(".bias"):
            return (self._bias(stored + "_bias", shape, every, first),)
        if stored + "_blocks" in self.stored:
            return self._packed(stored, shape, every, first)
        return self._transposed(stored, shape, every, first)

    def _bias(self, name: str, shape: tuple[int, ...], every: int, first: int) -> Matrix:
        """All experts' biases, [experts, rows], as one column."""
        whole = self._matrix(name, (shape[0], shape[1] * every))
        count = shape[0] * shape[1]
        return Matrix(whole.path, whole.offset, count, 1, whole.dtype, every=every, first=first)

    def _packed(self, name: str, shape: tuple[int, ...], every: int, first: int) -> tuple[Matrix, ...]:
        experts, rows, cols = shape
        count = cols // _BLOCK
        blocks = self._found(name + "_blocks", (experts, rows * every, count, _BLOCK_BYTES), ("U8",))
        scales = self._found(name + "_scales", (experts, rows * every, count), ("U8",))
        return tuple(
            Packed(
                blocks.path, blocks.offset + i * rows * every * count * _BLOCK_BYTES, rows, cols, "mxfp4",
                every=every, first=first,
                scales_path=scales.path, scales_offset=scales.offset + i * rows * every * count,
            )
            for i in range(experts)
        )  # fmt: skip

    def _transposed(self, name: str, shape: tuple[int, ...], every: int, first: int) -> tuple[Matrix, ...]:
        experts, rows, cols = shape
        whole = self._found(name, (experts, cols, rows * every), _WIDE)
        step = whole.nbytes // experts
        return tuple(
            Transposed(whole.path, whole.offset + i * step, rows, cols, _WIDE[whole.dtype],
                every=every, first=first)
            for i in range(experts)
        )  # fmt: skip


def yarn(config: Settings) -> tuple[float, int]:
    """The factor and the first context; an error where it is scaled in another way than gpt-oss is, which is
    all that GGUF's readers take it for.
    """
    rope = config.part("rope_parameters" if config.get("rope_parameters") else "rope_scaling")
    if not rope.values:
        rope = Settings(_YARN, config.path)
    kind = rope.get("rope_type") or rope.get("type")
    if kind != "yarn":
        raise config.error(f"its rotary embedding is scaled by {kind!r:.40}, and only 'yarn' is supported")
    for key in rope.values:
        if key not in (*_YARN_READ, *_YARN_SUPPORTED) and rope.get(key) is not None:
            raise config.error(f"{key} of its rotary embedding is {rope.get(key)!r:.40}, not supported")
    for key, supported in _YARN_SUPPORTED.items():
        if rope.get(key) not in supported:
            found = "missing" if rope.get(key) is None else f"{rope.get(key)!r:.40}"
            raise config.error(
                f"{key} of its rotary embedding is {found}, and only {supported[0]!r} is supported"
            )
    factor = rope.number("factor")
    if factor < 1:
        raise config.error(f"factor is {factor:g}, less than 1")
    return factor, rope.integer("original_max_position_embeddings")


def check_layer_types(config: Settings) -> None:
    """An error unless layers see a window and everything by turns, beginning with a window."""
    found = config.get("layer_types")
    kinds = ("sliding_attention", "full_attention")
    layers = range(config.integer("num_hidden_layers", most=1 << 12))
    if found is not None and found != [kinds[layer % 2] for layer in layers]:
        raise config.error(
            f"layer_types are {found!r:.60}, and only {kinds[0]!r} and {kinds[1]!r} by turns are supported"
        )
