"""Small models in every layout that the converter reads, made of random weights; no torch needed."""

import json
import struct
from pathlib import Path

import numpy as np

from quant.blocks import FORMATS

VOCABULARY, HIDDEN, FFN, LAYERS, HEADS, KV_HEADS, EXPERTS, HEAD = 96, 256, 512, 2, 4, 2, 8, 64
SAFETENSORS = {"f32": "F32", "f16": "F16", "bf16": "BF16"}


def write_safetensors(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    """name -> (dtype, shape, bytes)."""
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    encoded = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for _, _, data in tensors.values():
            file.write(data)


def _field(number: int, value: int | bytes | float) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(value, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", value)
    key = _varint(number << 3 | (2 if isinstance(value, bytes) else 0))
    return key + (_varint(len(value)) + value if isinstance(value, bytes) else _varint(value))


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def piece(text: str, score: float, kind: int) -> bytes:
    """One more piece of a SentencePiece model."""
    return _field(1, _field(1, text.encode()) + _field(2, score) + _field(3, kind))


def sentencepiece_model(count: int = VOCABULARY, kind: int = 2) -> bytes:
    """A SentencePiece BPE model: unk, bos, eos, a few byte pieces, and words."""
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3)] + [(f"<0x{i:02X}>", 6) for i in range(8)]
    pieces += [(f"▁w{i}", 1) for i in range(count - len(pieces))]
    data = b""
    for i, (text, piece_kind) in enumerate(pieces):
        data += piece(text, float(-i), piece_kind)
    return data + _field(2, _field(3, kind) + _field(40, 0) + _field(41, 1) + _field(42, 2))


def hugging_face_weights(seed: int = 0, experts: int = EXPERTS) -> dict[str, np.ndarray]:
    """Random weights under transformers' names, experts apart."""
    rng = np.random.default_rng(seed)

    def matrix(*shape: int) -> np.ndarray:
        return (0.05 * rng.standard_normal(shape)).astype(np.float16).astype(np.float32)

    def norm() -> np.ndarray:
        return (1 + matrix(HIDDEN)).astype(np.float16).astype(np.float32)

    weights = {"model.embed_tokens.weight": matrix(VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        weights |= {
            at + "input_layernorm.weight": norm(),
            at + "post_attention_layernorm.weight": norm(),
            at + "self_attn.q_proj.weight": matrix(HEADS * HEAD, HIDDEN),
            at + "self_attn.k_proj.weight": matrix(KV_HEADS * HEAD, HIDDEN),
            at + "self_attn.v_proj.weight": matrix(KV_HEADS * HEAD, HIDDEN),
            at + "self_attn.o_proj.weight": matrix(HIDDEN, HEADS * HEAD),
        }
        if not experts:
            weights |= {at + f"mlp.{n}_proj.weight": matrix(FFN, HIDDEN) for n in ("gate", "up")}
            weights[at + "mlp.down_proj.weight"] = matrix(HIDDEN, FFN)
            continue
        weights[at + "block_sparse_moe.gate.weight"] = matrix(experts, HIDDEN)
        for expert in range(experts):
            name = f"{at}block_sparse_moe.experts.{expert}."
            weights |= {name + "w1.weight": matrix(FFN, HIDDEN), name + "w3.weight": matrix(FFN, HIDDEN)}
            weights[name + "w2.weight"] = matrix(HIDDEN, FFN)
    weights["model.norm.weight"] = norm()
    weights["lm_head.weight"] = matrix(VOCABULARY, HIDDEN)
    return weights


def config(experts: int = EXPERTS) -> dict:
    result = {
        "model_type": "mixtral" if experts else "mistral",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "hidden_act": "silu",
        "sliding_window": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if experts:
        result |= {"num_local_experts": experts, "num_experts_per_tok": 2}
    return result


def as_stored(
    weights: dict[str, np.ndarray], kind: str = "f16"
) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    encode = FORMATS[kind].encode
    return {n: (SAFETENSORS[kind], w.shape, encode(w.reshape(1, -1)).tobytes()) for n, w in weights.items()}


def write_hugging_face(
    directory: Path, weights: dict[str, np.ndarray] | None = None, kind: str = "f16", experts: int = EXPERTS
) -> Path:
    """A model in two shards with an index."""
    directory.mkdir(parents=True, exist_ok=True)
    stored = as_stored(hugging_face_weights(experts=experts) if weights is None else weights, kind)
    names, shards = list(stored), {}
    for i, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{i:05}-of-00002.safetensors"
        write_safetensors(directory / file, {n: stored[n] for n in part})
        shards |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": shards}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text(json.dumps(config(experts)))
    (directory / "tokenizer.model").write_bytes(sentencepiece_model())
    template = "{{ bos_token }}{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"
    settings = {"add_bos_token": True, "add_eos_token": False, "chat_template": template}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Query or key rows in GGUF's order, said independently of the converter."""
    head = len(weight) // heads
    result = np.empty_like(weight)
    for h in range(heads):
        for i in range(head // 2):
            result[h * head + 2 * i] = weight[h * head + i]
            result[h * head + 2 * i + 1] = weight[h * head + head // 2 + i]
    return result
