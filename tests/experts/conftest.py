"""Small model files whose bytes say which expert they belong to."""

import ctypes

import numpy as np
import pytest

from localmoe.experts.layout import ExpertLayout
from quant.blocks import FORMATS
from quant.gguf import GGUFWriter
from quant.parts import PartFiles


class Experts:
    """A file of experts with known bytes: the oracle of the tests here."""

    def __init__(self, path, layers, experts, sizes, seed=0):
        """`sizes[layer]` are the bytes of gate, up and down in that layer."""
        self.path = path
        random = np.random.default_rng(seed)
        nbytes = np.array(sizes, np.int64)
        offsets = np.zeros((layers, experts, 3), np.int64)
        at, self.bytes, pieces = 32, {}, [bytes(32)]
        for layer in range(layers):
            for part in range(3):
                for expert in range(experts):
                    data = random.integers(0, 256, nbytes[layer, part], np.uint8).tobytes()
                    self.bytes[layer, expert, part] = data
                    offsets[layer, expert, part] = at
                    pieces.append(data)
                    at += len(data)
        self.image = np.frombuffer(b"".join(pieces), np.uint8)  # stands in for the mapped file
        path.write_bytes(self.image.tobytes())
        self.layout = ExpertLayout(PartFiles((path,)), offsets, offsets + self.image.ctypes.data, nbytes)

    def holds(self, layer, expert, addresses):
        """Whether the three addresses show exactly that expert, as a kernel would see it."""
        parts = [self.bytes[layer, expert, part] for part in range(3)]
        return all(
            ctypes.string_at(int(address), len(part)) == part
            for part, address in zip(parts, addresses, strict=True)
        )


@pytest.fixture
def make_experts(tmp_path):
    """make_experts(layers, experts, sizes=...) -> Experts; two size classes by default."""

    def make(layers=4, experts=8, sizes=None, seed=0):
        if sizes is None:
            sizes = [(1000, 1000, 900 if layer % 2 else 1400) for layer in range(layers)]
        return Experts(tmp_path / f"experts-{layers}-{experts}-{seed}.bin", layers, experts, sizes, seed)

    return make


def write_model(path, layers, hidden, ffn, down_types):
    """A random mixture of 8 experts, 2 per token, q8_0 (down: by layer), with a vocabulary of bytes."""
    random = np.random.default_rng(3)
    heads, experts = 2, 8
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocab = len(pieces)
    metadata = {
        "general.architecture": "llama", "general.name": path.stem, "llama.context_length": 512,
        "llama.embedding_length": hidden, "llama.block_count": layers, "llama.feed_forward_length": ffn,
        "llama.attention.head_count": heads, "llama.attention.head_count_kv": 1,
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.dimension_count": hidden // heads,
        "llama.expert_count": experts, "llama.expert_used_count": 2, "llama.vocab_size": vocab,
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": np.zeros(vocab, np.float32),
        "tokenizer.ggml.token_type": np.array([2, 3, 3] + [6] * 256, np.int32),
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
    }  # fmt: skip
    tensors = {"token_embd": (vocab, hidden), "output_norm": (hidden,), "output": (vocab, hidden)}
    for layer in range(layers):
        named = {
            "attn_norm": (hidden,), "attn_q": (hidden, hidden), "attn_k": (hidden // heads, hidden),
            "attn_v": (hidden // heads, hidden), "attn_output": (hidden, hidden), "ffn_norm": (hidden,),
            "ffn_gate_inp": (experts, hidden), "ffn_gate_exps": (experts, ffn, hidden),
            "ffn_up_exps": (experts, ffn, hidden), "ffn_down_exps": (experts, hidden, ffn),
        }  # fmt: skip
        tensors |= {f"blk.{layer}.{name}": shape for name, shape in named.items()}

    def type_of(name, shape):
        if len(shape) == 1 or "gate_inp" in name:
            return "f32"
        return down_types[int(name.split(".")[1]) % len(down_types)] if "ffn_down" in name else "q8_0"

    with GGUFWriter(path, metadata) as file:
        for name, shape in tensors.items():
            file.declare(f"{name}.weight", shape, type_of(name, shape))
        for name, shape in tensors.items():
            kind = type_of(name, shape)
            values = random.normal(1.0 if len(shape) == 1 else 0.0, 2.0 / shape[-1] ** 0.5, shape)
            rows = values.reshape(-1, shape[-1]).astype(np.float32)
            file.write(f"{name}.weight", FORMATS[kind].encode(rows).reshape(-1))
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Path of a model of 3 layers x 8 experts of two sizes, 0.4 MB."""
    return write_model(tmp_path_factory.mktemp("model") / "tiny.gguf", 3, 64, 64, ["q8_0", "q4_0"])


@pytest.fixture(scope="session")
def larger_model(tmp_path_factory):
    """Path of a model of 8 layers x 8 experts, 28 MB."""
    return write_model(tmp_path_factory.mktemp("model") / "larger.gguf", 8, 256, 512, ["q8_0"])
