"""The embedded model and its source are there, small enough, and fit together."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODEL, DATA = ROOT / "demo" / "model", ROOT / "localmoe" / "data"


def test_shards_are_all_there_and_small() -> None:
    index = json.loads((MODEL / "model.safetensors.index.json").read_text())
    shards = {MODEL / name for name in index["weight_map"].values()}
    assert shards == set(MODEL.glob("*.safetensors"))
    assert all(shard.stat().st_size <= 12_000_000 for shard in shards)
    assert sum(file.stat().st_size for file in MODEL.iterdir()) <= 28_000_000


def test_configuration_is_mixtrals() -> None:
    config = json.loads((MODEL / "config.json").read_text())
    assert config["architectures"] == ["MixtralForCausalLM"]
    assert (config["num_local_experts"], config["num_experts_per_tok"]) == (8, 2)
    assert config["max_position_embeddings"] >= 1024
    assert config["hidden_size"] % 256 == config["intermediate_size"] % 256 == 0


def test_embedded_model_is_small_and_has_a_card() -> None:
    assert 1_000_000 < (DATA / "demo.gguf").stat().st_size <= 10_000_000
    card = (DATA / "MODEL_CARD.md").read_text()
    assert "cannot" in card


def test_tokenizer_cuts_values_alike_everywhere() -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    tokens = sentencepiece.SentencePieceProcessor(model_file=str(MODEL / "tokenizer.model"))
    assert (tokens.unk_id(), tokens.bos_id(), tokens.eos_id()) == (0, 1, 2)
    assert tokens.vocab_size() == json.loads((MODEL / "config.json").read_text())["vocab_size"]
    for name in ("Milo", "Zanzibarro", "Queelkstad"):
        bare = tokens.encode(f'"{name}"', out_type=str)[1:-1]
        assert tokens.encode(f"is {name}.", out_type=str)[-1 - len(bare) : -1] == bare
    assert tokens.encode("[INST] hi [/INST]", out_type=str) == ["▁", "[INST]", "▁hi", "▁", "[/INST]"]


def test_embedded_model_speaks_the_trained_format() -> None:
    """The ids that the running model sees are those that training made."""
    import batches
    import sentencepiece

    import localmoe

    tokens = sentencepiece.SentencePieceProcessor(model_file=str(MODEL / "tokenizer.model"))
    turns = [["", "My name is Zoë.\nYes, really!", "Nice to meet you, Zoë!"], ["", "What's my name?", ""]]
    ids, _, spans = batches.encode(tokens, {"system": "Be kind.", "turns": turns})
    messages = [{"role": "system", "content": "Be kind."}]
    for _, user, reply in turns:
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]
    model = localmoe.load("demo")
    try:
        assert list(model.encode_chat(messages[:-1])) == ids[: spans[-1][1]]
    finally:
        model.close()
