"""Weights as the demo's file will hold them, for the last part of the training.

Each tensor is encoded and decoded by this project's own converter in the type that its q4_k_m recipe gives
it, so that the model learns to live with exactly the rounding that ``localmoe quantize`` will do.
"""

import torch
from model import Layout
from torch import Tensor

from quant.blocks import dequantize
from quant.encode import quantize
from quant.recipes import Model, choose, recipe_named

RECIPE = "q4_k_m"
NAMES = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "w13": "ffn_gate_exps",
    "w2": "ffn_down_exps",
}


def gguf_name(name: str) -> str:
    """The tensor of the file that ``name``, of :class:`model.Layout`, becomes a part of."""
    if name in ("embed", "head"):
        return "token_embd.weight" if name == "embed" else "output.weight"
    layer, _, what = name.partition(".")
    kind = what.split(".")[0]
    return f"blk.{layer}.{NAMES[kind]}.weight" if kind in NAMES else f"{name}_norm.weight"  # kept as they are


class Rounding:
    """Rounds stretches of the flat buffer of weights."""

    def __init__(self, layout: Layout, threads: int = 1) -> None:
        self.threads = threads
        model, recipe = Model(layout.shape.layers, layout.shape.experts), recipe_named(RECIPE)
        self.spans: list[tuple[int, int, str]] = []  # start, end, type; neighbours of one type are joined
        for name, (at, count, size) in layout.entries.items():
            kind = choose(gguf_name(name), size, recipe, model).type
            if self.spans and self.spans[-1][2] == kind:
                self.spans[-1] = (self.spans[-1][0], at + count, kind)
            else:
                self.spans.append((at, at + count, kind))
        self.columns = layout.shape.hidden  # of every matrix, so that a stretch of whole rows stands alone

    def __call__(self, master: Tensor, start: int, end: int, out: Tensor) -> None:
        """Write float32 ``master[start:end]``, rounded, to ``out[start:end]``; both ends lie between rows."""
        for first, last, kind in self.spans:
            at, stop = max(first, start), min(last, end)
            if at >= stop:
                continue
            if kind == "f32":
                out[at:stop] = master[at:stop]
                continue
            exported = master[at:stop].bfloat16().float()
            rows = exported.cpu().numpy().reshape(-1, self.columns)
            rounded = dequantize(quantize(rows, kind, threads=self.threads), kind)
            out[at:stop] = torch.from_numpy(rounded.reshape(-1)).to(out.device)
