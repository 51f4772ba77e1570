"""From the tensors of a GGUF file to the transformer's weights: every name, shape and type is checked,
nothing is copied.

Tensor names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Experts are one 3-D tensor per
projection (`blk.N.ffn_gate_exps.weight`) or, in files from before April 2024, one tensor each
(`blk.N.ffn_gate.E.weight`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from localmoe.kernels.matrix import KERNEL_TYPES, Heads, Matrix, Router
from localmoe.model.config import SUPPORTED, ModelConfig
from quant.errors import ModelFileError
from quant.gguf import GGUFFile, Tensor

Floats = NDArray[np.float32]
FLOAT_TYPES = ("f32", "f16", "bf16")
PROJECTIONS = ("gate", "up", "down")
# What may stand in a file beside the weights we use.
_IGNORED = re.compile(r"rope_freqs\.weight|blk\.\d+\.attn\.rope\.inv_freq|.*\.rope\.freqs")


@dataclass(frozen=True, slots=True)
class ExpertTensors:
    """One layer's experts in the file: gate, up, down of one expert, and where each expert's bytes are."""

    gate: Matrix
    up: Matrix
    down: Matrix
    addresses: NDArray[np.int64]  # [experts, 3] in the mapped file
    offsets: NDArray[np.int64]  # [experts, 3] from the start of the file

    @property
    def nbytes(self) -> int:
        """Bytes of one expert."""
        return self.gate.nbytes + self.up.nbytes + self.down.nbytes


@dataclass(frozen=True, slots=True)
class LayerWeights:
    attention_norm: Floats
    q: Matrix
    k: Matrix
    v: Matrix
    heads: Heads
    output: Matrix
    ffn_norm: Floats
    router: Router | None
    experts: ExpertTensors | None
    dense: tuple[Matrix, Matrix, Matrix] | None

    def floats(self) -> Iterator[Floats]:
        """Every array of the layer that is not a matrix; biases of matrices are not among them."""
        yield self.attention_norm
        yield from self.heads.norms or ()
        if self.heads.sinks is not None:
            yield self.heads.sinks
        yield self.ffn_norm
        if self.router is not None:
            yield self.router.weight
            if self.router.bias is not None:
                yield self.router.bias


@dataclass(frozen=True, slots=True)
class Weights:
    embedding: Matrix
    layers: list[LayerWeights]
    norm: Floats
    output: Matrix
    rope_factors: Floats | None  # [rope_dim / 2]: divides each frequency (Llama 3.1 files)


def bind(file: GGUFFile, config: ModelConfig) -> Weights:
    """Finds every weight of the model. Raises ModelFileError naming what is missing, misshapen or of another
    type.
    """
    return _bind(_Binder(file), config)


def check_tensors(file: GGUFFile, config: ModelConfig) -> None:
    """Raises as `bind` does, but looks at no weight: the tensors' names, shapes and types only."""
    _bind(_Checker(file), config)


def _bind(b: _Binder, c: ModelConfig) -> Weights:
    embedding = b.matrix("token_embd.weight", (c.vocab, c.hidden))
    tied = "output.weight" not in b.file.tensors
    weights = Weights(
        embedding=embedding,
        layers=[_layer(b, c, i) for i in range(c.layers)],
        norm=b.floats("output_norm.weight", (c.hidden,)),
        output=embedding if tied else b.matrix("output.weight", (c.vocab, c.hidden)),
        rope_factors=_rope_factors(b, c),
    )
    b.refuse_unknown()
    return weights


def _rope_factors(b: _Binder, c: ModelConfig) -> Floats | None:
    name = "rope_freqs.weight"
    if name not in b.file.tensors:
        return None
    factors = b.floats(name, (c.rope_dim // 2,))
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise b.error(f"the tensor {name} holds divisors that are not above 0; convert the model again")
    return factors


def _layer(b: _Binder, c: ModelConfig, i: int) -> LayerWeights:
    at = f"blk.{i}."
    queries, keys = c.heads * c.head_dim, c.kv_heads * c.head_dim
    mixture, biased = c.is_mixture, c.family.biased
    return LayerWeights(
        attention_norm=b.floats(at + "attn_norm.weight", (c.hidden,)),
        q=b.matrix(at + "attn_q.weight", (queries, c.hidden), biased),
        k=b.matrix(at + "attn_k.weight", (keys, c.hidden), biased),
        v=b.matrix(at + "attn_v.weight", (keys, c.hidden), biased),
        heads=_heads(b, c, i, at),
        output=b.matrix(at + "attn_output.weight", (c.hidden, queries), biased),
        ffn_norm=b.floats(f"{at}{c.family.ffn_norm}.weight", (c.hidden,)),
        router=_router(b, c, at + "ffn_gate_inp") if mixture else None,
        experts=_experts(b, c, at) if mixture else None,
        dense=None if mixture else _dense(b, c, at),
    )


def _heads(b: _Binder, c: ModelConfig, layer: int, at: str) -> Heads:
    norms = None
    if c.family.head_norms:
        query, key = (b.floats(f"{at}attn_{which}_norm.weight", (c.head_dim,)) for which in "qk")
        norms = query, key
    sinks = b.floats(at + "attn_sinks.weight", (c.heads,)) if c.family.sinks else None
    return Heads(norms, sinks, c.window_of(layer))


def _router(b: _Binder, c: ModelConfig, name: str) -> Router:
    bias = b.floats(name + ".bias", (c.experts,)) if c.family.biased else None
    return Router(b.floats(name + ".weight", (c.experts, c.hidden)), bias)


def _ffn_shape(c: ModelConfig, projection: str) -> tuple[int, int]:
    return (c.hidden, c.ffn) if projection == "down" else (c.ffn, c.hidden)


def _dense(b: _Binder, c: ModelConfig, at: str) -> tuple[Matrix, Matrix, Matrix]:
    gate, up, down = (b.matrix(f"{at}ffn_{p}.weight", _ffn_shape(c, p)) for p in PROJECTIONS)
    return gate, up, down


def _experts(b: _Binder, c: ModelConfig, at: str) -> ExpertTensors:
    single, merged = f"{at}ffn_gate.0.weight", f"{at}ffn_gate_exps.weight"
    old = single in b.file.tensors and merged not in b.file.tensors
    matrices, addresses, offsets = [], [], []
    for projection in PROJECTIONS:
        shape = _ffn_shape(c, projection)
        if old:
            each = [
                b.tensor(f"{at}ffn_{projection}.{e}.weight", shape, KERNEL_TYPES) for e in range(c.experts)
            ]
            if len({t.type for t in each}) > 1:
                raise b.error(
                    f"the experts of {at}ffn_{projection} have different types; convert the model again"
                )
            addresses.append([t.address for t in each])
            offsets.append([t.offset for t in each])
            matrices.append(Matrix(each[0].address, *shape, each[0].type))
            continue
        whole = b.tensor(f"{at}ffn_{projection}_exps.weight", (c.experts, *shape), KERNEL_TYPES)
        bias = b.bias(f"{at}ffn_{projection}_exps", (c.experts, shape[0])) if c.family.biased else 0
        one = Matrix(whole.address, *shape, whole.type, bias)
        addresses.append([whole.address + e * one.nbytes for e in range(c.experts)])
        offsets.append([whole.offset + e * one.nbytes for e in range(c.experts)])
        matrices.append(one)
    gate, up, down = matrices
    return ExpertTensors(gate, up, down, _columns(addresses), _columns(offsets))


def _columns(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    return np.ascontiguousarray(np.array(rows, np.int64).T)


class _Binder:
    """Looks tensors up by name, checks them, and remembers which were used."""

    def __init__(self, file: GGUFFile) -> None:
        self.file, self.used = file, set[str]()

    def error(self, problem: str) -> ModelFileError:
        return ModelFileError(f"{self.file.path}: {problem}")

    def tensor(self, name: str, shape: tuple[int, ...], types: Sequence[str]) -> Tensor:
        found = self.file.tensors.get(name)
        if found is None:
            raise self.error(f"the tensor {name} is missing; convert the model again")
        if found.shape != shape:
            raise self.error(f"the tensor {name} has the shape {found.shape}, but the metadata says {shape}")
        if found.type not in types:
            raise self.error(
                f"the tensor {name} has the type {found.type}, which is not supported here: "
                f"{', '.join(types)} are"
            )
        self.used.add(name)
        return found

    def matrix(self, name: str, shape: tuple[int, int], biased: bool = False) -> Matrix:
        found = self.tensor(name, shape, KERNEL_TYPES)
        bias = self.bias(name.removesuffix(".weight"), shape[:1]) if biased else 0
        return Matrix(found.address, *shape, found.type, bias)

    def bias(self, name: str, shape: tuple[int, ...]) -> int:
        """The address of what is added to a matrix's products, which are read where the file shows them."""
        return self.tensor(name + ".bias", shape, ("f32",)).address

    def floats(self, name: str, shape: tuple[int, ...]) -> Floats:
        """A small tensor (a norm, a router), as float32."""
        found = self.tensor(name, shape, FLOAT_TYPES)
        rows = found.data.reshape(-1, found.data.shape[-1])
        return np.ascontiguousarray(found.format.decode(rows).reshape(shape), np.float32)

    def refuse_unknown(self) -> None:
        """A tensor that we would leave out (a bias, say) changes what the model computes: better to say
        so.
        """
        for name in self.file.tensors:
            if name not in self.used and not _IGNORED.fullmatch(name):
                raise self.error(
                    f"the tensor {name} is not part of a model that is supported ({SUPPORTED})"
                )


class _Checker(_Binder):
    """Decodes nothing."""

    def floats(self, name: str, shape: tuple[int, ...]) -> Floats:
        self.tensor(name, shape, FLOAT_TYPES)
        return np.zeros(0, np.float32)
