"""A model's sizes as its makers write them (config.json, params.json), checked, and as GGUF metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quant.errors import ModelFileError
from quant.families import Family
from quant.tensor_files import show

TOP = ("token_embd.weight", "output_norm.weight", "output.weight")  # what is of no layer


@dataclass(frozen=True)
class Sizes:
    """What both the tensors' shapes and the metadata follow from."""

    family: Family
    vocabulary: int
    hidden: int
    layers: int
    ffn: int  # inner width of one expert, or of a dense layer
    heads: int
    kv_heads: int
    head: int  # width of one
    context: int
    epsilon: float
    rope_base: float
    experts: int = 0  # 0: dense
    used: int = 0
    dense_ffn: int = 0  # the width of dense layers, where it has a key of its own; there are none
    window: int = 0  # 0: no sliding window
    rotated: int = 0  # coordinates of a head that positions rotate; 0: all
    yarn: tuple[float, int] | None = None  # the factor, and the context that the model was trained with first

    def metadata(self, name: str) -> dict[str, Any]:
        """GGUF's keys, as llama.cpp's converter writes them; it leaves out a Qwen's `vocab_size` and
        `rope.dimension_count`, which follow from others.
        """
        own: dict[str, Any] = {
            "block_count": self.layers,
            "context_length": self.context,
            "embedding_length": self.hidden,
            "feed_forward_length": self.dense_ffn,
            self.family.ffn: self.ffn,
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv_heads,
            "rope.freq_base": float(self.rope_base),
            "attention.layer_norm_rms_epsilon": float(self.epsilon),
            "vocab_size": self.vocabulary,
            "rope.dimension_count": self.rotated or self.head,
        }
        if self.family.head_norms or self.head * self.heads != self.hidden:
            own["attention.key_length"] = own["attention.value_length"] = self.head
        if self.experts:
            own["expert_count"] = self.experts
            own["expert_used_count"] = self.used
        if 0 < self.window < self.context or self.family.window_every > 1:
            own["attention.sliding_window"] = self.window
        if self.yarn:
            factor, original = self.yarn
            own |= {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": float(factor),
                "rope.scaling.original_context_length": original,
            }
        general = {
            "general.architecture": self.family.architecture,
            "general.type": "model",
            "general.name": name,
        }
        return general | {self.family.key(k): value for k, value in own.items()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor by its GGUF name, "blk.N." left out of the layers' own."""
        query, key = self.heads * self.head, self.kv_heads * self.head
        shapes: dict[str, tuple[int, ...]] = {
            "token_embd.weight": (self.vocabulary, self.hidden),
            "output_norm.weight": (self.hidden,),
            "output.weight": (self.vocabulary, self.hidden),
            "attn_norm.weight": (self.hidden,),
            "attn_q.weight": (query, self.hidden),
            "attn_k.weight": (key, self.hidden),
            "attn_v.weight": (key, self.hidden),
            "attn_output.weight": (self.hidden, query),
            f"{self.family.ffn_norm}.weight": (self.hidden,),
        }
        if self.family.head_norms:
            shapes |= {"attn_q_norm.weight": (self.head,), "attn_k_norm.weight": (self.head,)}
        if self.family.sinks:
            shapes["attn_sinks.weight"] = (self.heads,)
        shapes |= self._ffn_shapes()
        if self.family.biased:
            for name in [n for n, s in shapes.items() if len(s) > 1 and n not in TOP]:
                shapes[name.removesuffix("weight") + "bias"] = shapes[name][:-1]
        return shapes

    def _ffn_shapes(self) -> dict[str, tuple[int, ...]]:
        up, down = (self.ffn, self.hidden), (self.hidden, self.ffn)
        if not self.experts:
            return {"ffn_gate.weight": up, "ffn_up.weight": up, "ffn_down.weight": down}
        return {
            "ffn_gate_inp.weight": (self.experts, self.hidden),
            "ffn_gate_exps.weight": (self.experts, *up),
            "ffn_up_exps.weight": (self.experts, *up),
            "ffn_down_exps.weight": (self.experts, *down),
        }


class Settings:
    """A JSON object whose values are checked as they are taken; errors name the file and the key."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self.values, self.path = values, path

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def integer(self, key: str, default: int | None = None, least: int = 1, most: int = 1 << 31) -> int:
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or not least <= value <= most:
            raise self.error(f"{key} is {value!r:.60}, not a whole number from {least} to {most}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
            raise self.error(f"{key} is {value!r:.60}, not a positive number")
        return float(value)

    def part(self, key: str) -> Settings:
        """A nested object; empty when it is absent."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise self.error(f"{key} is {value!r:.60}, not an object")
        return Settings(value or {}, self.path)

    def error(self, problem: str) -> ModelFileError:
        return ModelFileError(f"{show(self.path)}: {problem}; the model cannot be converted")


def check(sizes: Sizes, path: Path) -> Sizes:
    """The sizes, or an error where they contradict each other."""
    problem, rotated = None, sizes.rotated or sizes.head
    if sizes.heads % sizes.kv_heads:
        problem = f"{sizes.heads} heads do not share {sizes.kv_heads} key-value heads evenly"
    elif rotated % 2 or rotated > sizes.head:
        problem = f"{rotated} coordinates of heads of {sizes.head} cannot be rotated in pairs"
    elif sizes.used > sizes.experts:
        problem = f"{sizes.used} experts are used of {sizes.experts}"
    if problem:
        raise ModelFileError(f"{show(path)}: {problem}; the model cannot be converted")
    return sizes
