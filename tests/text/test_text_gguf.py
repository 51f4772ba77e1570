"""Tokenizer and format from a GGUF file, as its reader hands the metadata over."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np

from localmoe.text.prompts import prompt_format
from localmoe.text.tokenizer import load_tokenizer
from quant.gguf import GGUFFile


def write(path: Path, metadata: dict[str, object], template: str | None) -> None:
    """A model file by llama.cpp's own package."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(str(metadata["tokenizer.ggml.model"]))
    if "tokenizer.ggml.pre" in metadata:
        writer.add_tokenizer_pre(str(metadata["tokenizer.ggml.pre"]))
    writer.add_token_list(metadata["tokenizer.ggml.tokens"])
    if "tokenizer.ggml.scores" in metadata:
        writer.add_token_scores(list(map(float, metadata["tokenizer.ggml.scores"])))
    writer.add_token_types(list(map(int, metadata["tokenizer.ggml.token_type"])))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if template is not None:
        writer.add_chat_template(template)
    writer.add_tensor("token_embd.weight", np.zeros((1, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_sentencepiece_from_a_file(tmp_path: Path, data: SimpleNamespace) -> None:
    metadata = data.sentencepiece_metadata(data.V1)
    write(tmp_path / "v1.gguf", metadata, data.V1_TEMPLATE)
    with GGUFFile.open(tmp_path / "v1.gguf") as file:
        tokenizer = load_tokenizer(file.metadata)
        form = prompt_format(file.metadata, tokenizer)
    expected = load_tokenizer(metadata)
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_ids) == (32_000, 1, {2})
    for text in data.CORPUS:
        assert tokenizer.encode(text) == expected.encode(text)
    assert form.name == "mistral-v1"
    assert form.encode([{"role": "user", "content": "Hi"}]) == expected.encode("[INST] Hi [/INST]")


def test_tekken_from_a_file(tmp_path: Path, tekken: SimpleNamespace) -> None:
    write(tmp_path / "tekken.gguf", tekken.metadata, None)
    with GGUFFile.open(tmp_path / "tekken.gguf") as file:
        tokenizer = load_tokenizer(file.metadata)
    assert tokenizer.encode("Hello, 世界 😀") == tekken.raw.encode("Hello, 世界 😀", bos=True, eos=False)
