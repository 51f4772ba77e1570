"""Models small enough to test with: GGUF files with random weights, and what transformers makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.block_format import BlockFormat
from quant.blocks import FORMATS
from quant.families import FAMILIES
from quant.gguf import GGUFFile, GGUFWriter

VOCAB = 320
Floats = NDArray[np.float32]


def tokenizer(vocab: int = VOCAB) -> dict[str, Any]:
    """A SentencePiece vocabulary of bytes, letters and a few words."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *"abcdefghijklmnopqrstuvwxyz"]
    pieces += [f"▁w{i}" for i in range(vocab - len(pieces))]
    kinds = [2, 3, 3] + [6] * 256 + [1] * (vocab - 259)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": -np.arange(vocab, dtype=np.float32),
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def metadata(architecture: str = "llama", **changes: Any) -> dict[str, Any]:
    """A Mixtral's, of two layers; `changes` by the key's last part (`head_count=2`), None to leave it out."""
    a = architecture
    values: dict[str, Any] = {
        "general.architecture": a,
        "general.name": "tiny",
        f"{a}.block_count": 2,
        f"{a}.context_length": 1024,
        f"{a}.embedding_length": 256,
        f"{a}.feed_forward_length": 256,
        f"{a}.attention.head_count": 4,
        f"{a}.attention.head_count_kv": 2,
        f"{a}.rope.freq_base": 10000.0,
        f"{a}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{a}.rope.dimension_count": 64,
        f"{a}.expert_count": 4,
        f"{a}.expert_used_count": 2,
        **tokenizer(),
    }
    for name, value in changes.items():
        full = next((k for k in values if k.rpartition(".")[2] == name), None) or {
            "sliding_window": f"{a}.attention.sliding_window",
            "value_length": f"{a}.attention.value_length",
            "type": f"{a}.rope.scaling.type",
            "key_length": f"{a}.attention.key_length",
            "expert_feed_forward_length": f"{a}.expert_feed_forward_length",
            "factor": f"{a}.rope.scaling.factor",
            "original_context_length": f"{a}.rope.scaling.original_context_length",
        }.get(name, name)
        values[full] = value
    return {key: value for key, value in values.items() if value is not None}


def shapes(values: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of a model with this metadata, by name."""
    a = values["general.architecture"]
    family = FAMILIES.get(a, FAMILIES["llama"])
    hidden, experts = values[f"{a}.embedding_length"], values.get(f"{a}.expert_count", 0)
    heads, kv_heads = values[f"{a}.attention.head_count"], values[f"{a}.attention.head_count_kv"]
    head = values.get(f"{a}.attention.key_length", values[f"{a}.rope.dimension_count"])
    ffn = values.get(f"{a}.expert_feed_forward_length", values[f"{a}.feed_forward_length"])
    vocab = len(values["tokenizer.ggml.tokens"])
    result: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocab, hidden)}
    for i in range(values[f"{a}.block_count"]):
        layer: dict[str, tuple[int, ...]] = {
            "attn_norm": (hidden,),
            "attn_q": (heads * head, hidden),
            "attn_k": (kv_heads * head, hidden),
            "attn_v": (kv_heads * head, hidden),
            "attn_output": (hidden, heads * head),
            family.ffn_norm: (hidden,),
        }
        if family.head_norms:
            layer |= {"attn_q_norm": (head,), "attn_k_norm": (head,)}
        if family.sinks:
            layer["attn_sinks"] = (heads,)
        own = {"gate": (ffn, hidden), "up": (ffn, hidden), "down": (hidden, ffn)}
        if experts:
            layer["ffn_gate_inp"] = (experts, hidden)
            layer |= {f"ffn_{name}_exps": (experts, *shape) for name, shape in own.items()}
        else:
            layer |= {f"ffn_{name}": shape for name, shape in own.items()}
        result |= {f"blk.{i}.{name}.weight": shape for name, shape in layer.items()}
        if family.biased:
            biased = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_inp")
            result |= {f"blk.{i}.{name}.bias": layer[name][:1] for name in biased}
            result |= {f"blk.{i}.ffn_{name}_exps.bias": (experts, shape[0]) for name, shape in own.items()}
    return result | {"output_norm.weight": (hidden,), "output.weight": (vocab, hidden)}


def write_model(
    path: Path,
    values: Mapping[str, Any] | None = None,
    types: Mapping[str, str] | str = "f32",
    seed: int = 0,
    weight: Callable[[str, tuple[int, ...]], Floats | None] = lambda name, shape: None,
    change: Callable[[dict[str, tuple[int, ...]]], Any] = lambda shapes: None,
) -> Path:
    """Writes a model of random weights.

    types: one for all matrices, or by a part of the tensor's name ("" for the others); norms and routers are
    f32 unless named. weight: a tensor's values instead of random ones. change: alters the shapes declared.
    """
    values = metadata() if values is None else values
    declared, rng = shapes(values), np.random.default_rng(seed)
    change(declared)
    with GGUFWriter(path, values) as file:
        for name, shape in declared.items():
            file.declare(name, shape, kind_of(name, shape, types))
        for name, shape in declared.items():
            x = weight(name, shape)
            if x is None:
                spread = 1.5 if "ffn_gate_inp" in name or "embd" in name else 3.0
                x = rng.standard_normal(shape) * spread / np.sqrt(shape[-1])
                x = (1 + 0.1 * x if "norm" in name else x).astype(np.float32)
            file.write(name, rows_of(FORMATS[kind_of(name, shape, types)], x.reshape(-1, shape[-1]), rng))
    return path


def rows_of(kind: BlockFormat, x: Floats, rng: np.random.Generator) -> NDArray[np.uint8]:
    """x in that format; random blocks of as large weights where it can only be read."""
    if kind.writable:
        return kind.encode(x)
    blocks = rng.integers(0, 256, (x.size // kind.block_size, kind.block_bytes), dtype=np.uint8)
    for place, factor in zip(kind.halves, (1.0, 1.5), strict=False):  # Q2_K's minima, to be around zero
        blocks[:, place : place + 2] = np.full(len(blocks), factor, np.float16)[:, None].view(np.uint8)
    spread = kind.decode(blocks).std()
    for place, factor in zip(kind.halves, (1.0, 1.5), strict=False):
        scale = np.full(len(blocks), factor * x.std() / spread, np.float16)
        blocks[:, place : place + 2] = scale[:, None].view(np.uint8)
    return blocks.reshape(len(x), -1)


def split_model(path: Path, *starts: int, stem: Path | None = None) -> list[Path]:
    """Writes the model at `path` once more, in parts as llama.cpp's gguf-split does: a further one begins at
    each of `starts`, numbers of tensors. `stem`: where, and the beginning of their names.
    """
    stem = stem or path.with_name(f"{path.stem}-parts")
    count = len(starts) + 1
    parts = [stem.with_name(f"{stem.name}-{i + 1:05}-of-{count:05}.gguf") for i in range(count)]
    with GGUFFile.open(path) as whole:
        tensors = list(whole.tensors.values())
        for i, (part, first, end) in enumerate(zip(parts, (0, *starts), (*starts, None), strict=True)):
            own = {
                "split.no": np.uint16(i),
                "split.count": np.uint16(count),
                "split.tensors.count": np.int32(len(tensors)),
            }
            with GGUFWriter(part, {**whole.metadata, **own} if i == 0 else own) as file:
                for tensor in tensors[first:end]:
                    file.declare(tensor.name, tensor.shape, tensor.type)
                for tensor in tensors[first:end]:
                    file.write(tensor.name, tensor.data)
    return parts


def kind_of(name: str, shape: Sequence[int], types: Mapping[str, str] | str) -> str:
    small = len(shape) == 1 or "ffn_gate_inp" in name or name.endswith("bias")
    if isinstance(types, str):
        return "f32" if small else types
    bias = name.endswith("bias")
    named = [kind for part, kind in types.items() if part and part in name and part.endswith("bias") == bias]
    return named[0] if named else "f32" if small else types.get("", "f32")


# ---------------------------------------------------------------- beside transformers
def transformers_model(kind: str, **changes: Any) -> Any:
    """A random "mixtral", "mistral", "qwen3moe", "qwen3" or "gpt-oss" in float32."""
    import torch
    from transformers import (
        GptOssConfig,
        GptOssForCausalLM,
        MistralConfig,
        MistralForCausalLM,
        MixtralConfig,
        MixtralForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
        Qwen3MoeConfig,
        Qwen3MoeForCausalLM,
    )  # fmt: skip

    torch.manual_seed(0)
    common: dict[str, Any] = {
        "vocab_size": VOCAB, "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "initializer_range": 0.02, "rms_norm_eps": 1e-5, "attn_implementation": "eager",
        "sliding_window": None, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
    }  # fmt: skip
    if kind == "mixtral":
        config = MixtralConfig(**{**common, "num_local_experts": 8, "num_experts_per_tok": 2, **changes})
        model = MixtralForCausalLM(config)
    elif kind == "qwen3moe":
        own = {"num_experts": 40, "num_experts_per_tok": 5, "moe_intermediate_size": 256, "head_dim": 128}
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**{**common, **own, "norm_topk_prob": True, **changes}))
    elif kind == "gpt-oss":
        own = {
            "num_local_experts": 8, "num_experts_per_tok": 4, "head_dim": 64, "sliding_window": 20,
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0, "beta_fast": 32.0,
                "beta_slow": 1.0, "truncate": False, "original_max_position_embeddings": 512,
            },
            "max_position_embeddings": 16384, "intermediate_size": 288,
        }  # fmt: skip
        model = GptOssForCausalLM(GptOssConfig(**{**common, **own, **changes}))
    elif kind == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**{**common, "head_dim": 128, **changes}))
    else:
        model = MistralForCausalLM(MistralConfig(**{**common, **changes}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            if "bias" in name or "sinks" in name:
                parameter.copy_(torch.randn_like(parameter))
    return model.eval()


def save_pretrained(model: Any, directory: Path) -> Path:
    """The directory that the converter reads: config.json, safetensors, tokenizer.model."""
    import io

    import sentencepiece

    model.save_pretrained(directory)
    out = io.BytesIO()
    words = [f"{a}{b}{c} the of" for a in "abcdefgh" for b in "aeiou" for c in "lmnrst"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words), model_writer=out, vocab_size=VOCAB - 20, model_type="bpe",
        byte_fallback=True, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    (directory / "tokenizer.model").write_bytes(out.getvalue())
    return directory


def converted(directory: Path, out: Path, recipe: str) -> Path:
    """The GGUF file that `localmoe quantize` makes of the directory."""
    from localmoe.cli.main import run

    code = run(["quantize", str(directory), "-o", str(out), "-t", recipe, "--threads", "1"])
    assert code == 0
    return out


def load_weights(model: Any, path: Path) -> None:
    """Gives a transformers model the weights of a GGUF file, dequantized."""
    import torch

    config = model.config
    head = config.hidden_size // config.num_attention_heads
    state = model.state_dict()
    with GGUFFile.open(path) as file:
        family = FAMILIES[file.metadata["general.architecture"]]

        def values(name: str) -> Floats:
            tensor = file.tensors[name]
            return tensor.format.decode(tensor.data.reshape(-1, tensor.data.shape[-1])).reshape(tensor.shape)

        def halves(x: Floats, heads: int) -> Floats:
            """Rows (2i, 2i + 1) of a head to (i, i + half), as transformers rotates them."""
            if not family.interleaved:
                return x
            return x.reshape(heads, head // 2, 2, -1).swapaxes(1, 2).reshape(x.shape)

        new = {
            "model.embed_tokens.weight": values("token_embd.weight"),
            "model.norm.weight": values("output_norm.weight"),
            "lm_head.weight": values("output.weight"),
        }
        for i in range(config.num_hidden_layers):
            here, there = f"blk.{i}.", f"model.layers.{i}."
            new[there + "input_layernorm.weight"] = values(here + "attn_norm.weight")
            new[there + "post_attention_layernorm.weight"] = values(f"{here}{family.ffn_norm}.weight")
            attention = there + "self_attn."
            for name, heads in (("q", config.num_attention_heads), ("k", config.num_key_value_heads)):
                new[f"{attention}{name}_proj.weight"] = halves(values(f"{here}attn_{name}.weight"), heads)
                if family.head_norms:
                    new[f"{attention}{name}_norm.weight"] = values(f"{here}attn_{name}_norm.weight")
            new[attention + "v_proj.weight"] = values(here + "attn_v.weight")
            new[attention + "o_proj.weight"] = values(here + "attn_output.weight")
            if family.biased:
                for p in "qkvo":
                    stored = here + ("attn_output" if p == "o" else f"attn_{p}")
                    new[f"{attention}{p}_proj.bias"] = values(stored + ".bias")
                new[attention + "sinks"] = values(here + "attn_sinks.weight")
                new |= gpt_oss_experts(here, there + "mlp.", values)
            elif f"{here}ffn_gate_inp.weight" in file.tensors:
                gate, up, down = (values(f"{here}ffn_{p}_exps.weight") for p in ("gate", "up", "down"))
                new[there + "mlp.gate.weight"] = values(here + "ffn_gate_inp.weight")
                new[there + "mlp.experts.gate_up_proj"] = np.concatenate([gate, up], axis=1)
                new[there + "mlp.experts.down_proj"] = down
            else:
                for p in ("gate", "up", "down"):
                    new[f"{there}mlp.{p}_proj.weight"] = values(f"{here}ffn_{p}.weight")
    assert new.keys() == state.keys()
    model.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in new.items()})


def gpt_oss_experts(here: str, there: str, values: Callable[[str], Floats]) -> dict[str, Floats]:
    """transformers' tensors of a layer's router and experts: columns of gate and up alternate."""
    gate, up, down = ({kind: values(f"{here}ffn_{p}_exps.{kind}") for kind in ("weight", "bias")}
                      for p in ("gate", "up", "down"))  # fmt: skip
    both = {kind: np.stack([gate[kind], up[kind]], 2).reshape(len(up[kind]), -1, *up[kind].shape[2:])
            for kind in up}  # fmt: skip
    return {
        there + "router.weight": values(here + "ffn_gate_inp.weight"),
        there + "router.bias": values(here + "ffn_gate_inp.bias"),
        there + "experts.gate_up_proj": both["weight"].swapaxes(1, 2),
        there + "experts.gate_up_proj_bias": both["bias"],
        there + "experts.down_proj": down["weight"].swapaxes(1, 2),
        there + "experts.down_proj_bias": down["bias"],
    }


def transformers_logits(model: Any, ids: Sequence[int]) -> tuple[Floats, Floats]:
    """Logits [tokens, vocab], and the least margin of any router for each token: k-th logit over the next."""
    import torch

    margins: list[Floats] = []

    def watch(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        logits = inputs[0].reshape(-1, inputs[0].shape[-1]) @ module.weight.T
        scores = logits.sort(dim=-1, descending=True).values
        k = model.config.num_experts_per_tok
        margins.append((scores[:, k - 1] - scores[:, k]).numpy())

    routers = [m for name, m in model.named_modules() if name.endswith("mlp.gate")]
    handles = [router.register_forward_hook(watch) for router in routers]
    with torch.no_grad():
        logits = model(torch.tensor([list(ids)])).logits[0].float().numpy()
    for handle in handles:
        handle.remove()
    return logits, np.min(margins, axis=0) if margins else np.full(len(ids), np.inf, np.float32)


def clear_sequence(model: Any, length: int, rng: np.random.Generator, margin: float = 0.05) -> list[int]:
    """Token ids, each drawn among those whose routers all decide by more than `margin`, given those before.

    So no token of the sequence is near a tie, and none finds in the cache what a near-tie left there.
    """
    import torch

    ids: list[int] = []
    while len(ids) < length:
        candidates = rng.choice(np.arange(3, VOCAB), 24, replace=False)
        with torch.no_grad():
            routed = model(torch.tensor([[*ids, int(c)] for c in candidates]), output_router_logits=True)
        least = np.full(len(candidates), np.inf)
        for logits in routed.router_logits:  # [candidates * positions, experts] of a layer
            last = logits.reshape(len(candidates), len(ids) + 1, -1)[:, -1].sort(descending=True).values
            k = model.config.num_experts_per_tok
            least = np.minimum(least, (last[:, k - 1] - last[:, k]).numpy())
        ids.append(int(candidates[least.argmax() if least.max() <= margin else (least > margin).argmax()]))
    return ids
