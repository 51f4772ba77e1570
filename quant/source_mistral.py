"""Models as Mistral publishes them: params.json and consolidated*.safetensors; rotary pairs are side by
side.
"""

from __future__ import annotations

from pathlib import Path

from quant.families import FAMILIES
from quant.hyperparameters import Settings, Sizes, check
from quant.source_map import Naming, TensorMap
from quant.sources import Files, Source
from quant.tensor_files import model_files, read_directory, read_json
from quant.tokenizer_files import tokenizer_metadata

_CONTEXT = 32768  # params.json does not say
NAMING = Naming(
    top={
        "token_embd.weight": "tok_embeddings.weight",
        "output_norm.weight": "norm.weight",
        "output.weight": "output.weight",
    },
    prefix="layers.{}.",
    layer={
        "attn_norm.weight": "attention_norm.weight",
        "ffn_norm.weight": "ffn_norm.weight",
        "attn_q.weight": "attention.wq.weight",
        "attn_k.weight": "attention.wk.weight",
        "attn_v.weight": "attention.wv.weight",
        "attn_output.weight": "attention.wo.weight",
        "ffn_gate.weight": "feed_forward.w1.weight",
        "ffn_up.weight": "feed_forward.w3.weight",
        "ffn_down.weight": "feed_forward.w2.weight",
    },
    moe=("feed_forward", "block_sparse_moe"),
    halves=False,
    scales=("qscale_weight", "_scale"),
    ignored=(".qscale_act", "rope.freqs"),
)


def open_mistral(directory: Path) -> Source:
    """A directory with params.json, a tokenizer and consolidated*.safetensors."""
    path = directory / "params.json"
    params = Settings(read_json(path), path)
    sizes = check(_sizes(params), path)
    files = Files()
    mapping = TensorMap(NAMING, read_directory(directory, "consolidated"), sizes, directory, files)
    try:
        tensors = mapping.tensors(tied=params.get("tied_embeddings") is True)
    except BaseException:
        files.close()
        raise
    metadata = sizes.metadata(directory.resolve().name)
    metadata |= tokenizer_metadata(directory, sizes.vocabulary, {})
    return Source(directory, "Mistral", metadata, tensors, model_files(directory), files)


def _sizes(params: Settings) -> Sizes:
    moe = params.part("moe")
    heads, hidden = params.integer("n_heads"), params.integer("dim")
    window = params.integer("sliding_window", 0, least=0)
    return Sizes(
        family=FAMILIES["llama"],
        vocabulary=params.integer("vocab_size"),
        hidden=hidden,
        layers=params.integer("n_layers", most=1 << 12),
        ffn=params.integer("hidden_dim"),
        heads=heads,
        kv_heads=params.integer("n_kv_heads", heads),
        head=params.integer("head_dim", max(1, hidden // heads)),
        context=params.integer("max_seq_len", params.integer("max_position_embeddings", _CONTEXT)),
        epsilon=params.number("norm_eps", 1e-5),
        rope_base=params.number("rope_theta", 1e4 if window else 1e6),  # as Mistral's own code assumes
        experts=moe.integer("num_experts", most=1 << 12) if moe.values else 0,
        used=moe.integer("num_experts_per_tok") if moe.values else 0,
        window=window,
    )
