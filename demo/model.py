"""The demo model: Mixtral's architecture in plain PyTorch, written for training on few CPU cores.

All weights live in one flat buffer (:class:`Layout`), so that two processes can share weights and gradients
without copying. The expert and attention matrices come first: Muon updates them, AdamW the rest.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

MULTIPLE = 32  # an expert's tokens are padded to a multiple of this


@dataclass(frozen=True)
class Shape:
    vocab: int = 2048
    hidden: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    ffn: int = 256
    experts: int = 8
    top_k: int = 2
    theta: float = 10000.0
    eps: float = 1e-5
    context: int = 2048


class Layout:
    """Where each tensor lies in the flat buffer. ``square`` matrices of [256, 256], then ``half`` ones of
    [128, 256].
    """

    def __init__(self, shape: Shape) -> None:
        self.shape, self.entries, self.total = shape, {}, 0
        s = shape
        layers = range(s.layers)
        for i in layers:
            for e in range(s.experts):
                self._add(f"{i}.w13.{e}", (2 * s.ffn, s.hidden))  # gate, then up
                self._add(f"{i}.w2.{e}", (s.hidden, s.ffn))
            self._add(f"{i}.q", (s.heads * s.head_dim, s.hidden))
            self._add(f"{i}.o", (s.hidden, s.heads * s.head_dim))
        self.squares = self.total
        for i in layers:
            self._add(f"{i}.k", (s.kv_heads * s.head_dim, s.hidden))
            self._add(f"{i}.v", (s.kv_heads * s.head_dim, s.hidden))
        self.matrices = self.total
        self._add("embed", (s.vocab, s.hidden))
        self._add("head", (s.vocab, s.hidden))
        for i in layers:
            self._add(f"{i}.gate", (s.experts, s.hidden))
            self._add(f"{i}.norm1", (s.hidden,))
            self._add(f"{i}.norm2", (s.hidden,))
        self._add("norm", (s.hidden,))

    def _add(self, name: str, size: tuple[int, ...]) -> None:
        count = 1
        for n in size:
            count *= n
        self.entries[name] = (self.total, count, size)
        self.total += count

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The named tensors inside ``flat``."""
        return {name: flat[at : at + count].view(size) for name, (at, count, size) in self.entries.items()}

    def initialise(self, seed: int) -> Tensor:
        """Fresh float32 weights."""
        flat = torch.empty(self.total)
        generator = torch.Generator().manual_seed(seed)
        for name, view in self.views(flat).items():
            if "norm" in name:
                view.fill_(1.0)
            else:
                out = name.split(".")[1:2] in (["o"], ["w2"])
                view.normal_(
                    0.0,
                    0.02 if name in ("embed", "head") or "gate" in name else 0.04 * (0.4 if out else 1),
                    generator=generator,
                )
        return flat


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square normalisation; the sum of squares in float32."""
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return x * torch.rsqrt(scale * scale / x.shape[-1] + eps).to(x.dtype) * weight


def rotary(shape: Shape, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [context, head_dim], in Hugging Face's order (rotate half)."""
    half = torch.arange(0, shape.head_dim, 2, device=device).float() / shape.head_dim
    angle = torch.arange(shape.context, device=device).float()[:, None] / shape.theta**half
    return torch.cat([angle, angle], 1).cos(), torch.cat([angle, angle], 1).sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def forward(
    w: dict[str, Tensor], shape: Shape, groups: list[Tensor], tables: tuple[Tensor, Tensor], mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states of several groups of equally long rows, flattened to [tokens, hidden].

    ``groups`` are int64 [rows, length]; ``mask`` bool [tokens] is False for padding. Also returns the
    load-balancing loss and the share of choices per expert [layers, experts].
    """
    s = shape
    x = w["embed"].index_select(0, torch.cat([g.reshape(-1) for g in groups]))
    dtype = x.dtype
    balance, shares = torch.zeros((), device=x.device), []
    cos, sin = tables[0].to(dtype), tables[1].to(dtype)
    longest = max(g.shape[1] for g in groups)
    future = torch.full((longest, longest), float("-inf"), device=x.device, dtype=dtype).triu(1)
    for i in range(s.layers):
        h = norm(x, w[f"{i}.norm1"], s.eps)
        q, k, v = h @ w[f"{i}.q"].T, h @ w[f"{i}.k"].T, h @ w[f"{i}.v"].T
        q = q * s.head_dim**-0.5
        out, at = [], 0
        for g in groups:
            rows, length = g.shape
            part = slice(at, at + rows * length)
            at = part.stop
            turn = cos[:length, None], sin[:length, None]
            qg = _rotate(q[part].view(rows, length, s.heads, s.head_dim), *turn)
            kg = _rotate(k[part].view(rows, length, s.kv_heads, s.head_dim), *turn).permute(0, 2, 3, 1)
            vg = v[part].view(rows, length, s.kv_heads, s.head_dim).transpose(1, 2)
            share = s.heads // s.kv_heads  # heads that share a key head stand below one another
            qg = qg.view(rows, length, s.kv_heads, share, s.head_dim).permute(0, 2, 3, 1, 4)
            score = qg.reshape(rows, s.kv_heads, share * length, s.head_dim) @ kg
            score = score + future[:length, :length].repeat(share, 1)
            mixed = (torch.softmax(score, -1) @ vg).view(rows, s.kv_heads, share, length, s.head_dim)
            out.append(mixed.permute(0, 3, 1, 2, 4).reshape(rows * length, s.heads * s.head_dim))
        x = x + torch.cat(out) @ w[f"{i}.o"].T
        h = norm(x, w[f"{i}.norm2"], s.eps)
        logits = (h @ w[f"{i}.gate"].T).float()  # [tokens, experts]
        top, chosen = logits.topk(s.top_k, -1)
        weight = torch.softmax(top, -1).to(dtype)
        count = torch.bincount(chosen[mask].reshape(-1), minlength=s.experts).float()
        share_of = count / count.sum()
        balance = balance + s.experts * (share_of * torch.softmax(logits[mask], -1).mean(0)).sum()
        shares.append(share_of.detach())
        flat = chosen.reshape(-1)
        order, ends = _by_expert(flat, s.experts)
        source = (order // s.top_k).clamp(max=len(h) - 1)
        gathered, parts, start = h.index_select(0, source), [], 0
        for e, end in enumerate(ends):
            a, b = (gathered[start:end] @ w[f"{i}.w13.{e}"].T).chunk(2, -1)
            parts.append((functional.silu(a) * b) @ w[f"{i}.w2.{e}"].T)
            start = end
        spare = weight.new_zeros(s.top_k)  # what the padding weighs
        y = torch.cat(parts) * torch.cat([weight.reshape(-1), spare])[order][:, None]
        x = x.index_add(0, source, y)
    return norm(x, w["norm"], s.eps), balance / s.layers, torch.stack(shares)


def _by_expert(flat: Tensor, experts: int, multiple: int = MULTIPLE) -> tuple[Tensor, list[int]]:
    """The choices sorted by expert, each one's padded with ``len(flat)`` to a multiple; where each one ends.

    Few different sizes let oneDNN reuse the kernels that it generates for each shape.
    """
    counts = torch.bincount(flat, minlength=experts)
    padded = (counts + multiple - 1) // multiple * multiple
    ends = padded.cumsum(0)
    order = flat.new_full((int(ends[-1]),), len(flat))
    chosen = flat.argsort(stable=True)
    shift = (ends - padded) - (counts.cumsum(0) - counts)
    order[torch.arange(len(flat), device=flat.device) + shift[flat[chosen]]] = chosen
    return order, ends.tolist()


NEWTON_SCHULZ = (
    (8.2872, -23.5959, 17.3004),
    (4.1071, -2.9478, 0.5448),
    (3.9487, -2.9089, 0.5518),
)  # Polar Express, 2505.16932


def orthogonal(g: Tensor, at_once: int = 8) -> Tensor:
    """Muon's step: roughly the nearest orthogonal matrices to ``g`` [matrices, rows <= cols, cols], by
    Newton-Schulz, in the numbers of ``g`` (bfloat16 is enough). Few matrices at once stay in the cache.
    """
    out = torch.empty_like(g)
    for at in range(0, len(g), at_once):
        x = g[at : at + at_once]
        x = x / (x.float().norm(dim=(-2, -1), keepdim=True) * 1.01 + 1e-8).to(x.dtype)
        for a, b, c in NEWTON_SCHULZ:
            y = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(y, y, y, beta=b, alpha=c), x, beta=a)
        out[at : at + at_once] = x
    return out
