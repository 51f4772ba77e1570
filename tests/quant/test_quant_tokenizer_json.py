"""Byte-level BPE from tokenizer.json: what is written of it, and what is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
from tokenizer_models import CONTROL, PLAIN, TEXT, VOCABULARY, tokenizer_json, write_tokenizer
from tokenizers import Tokenizer

from localmoe.text.byte_bpe import PRE_TOKENIZERS
from localmoe.text.tokenizer import load_tokenizer
from quant.errors import ModelFileError
from quant.gguf import MAX_STRINGS
from quant.sources import open_source
from quant.tokenizer_files import tokenizer_metadata
from quant.tokenizer_json import SPLITS, BytePairs

KNOWN = sorted(SPLITS.keys() & PRE_TOKENIZERS.keys())


def metadata_of(directory, config=None, vocab_size=VOCABULARY):
    return tokenizer_metadata(directory, vocab_size, {} if config is None else config)


def changed(tmp_path, change, pre="qwen2"):
    """A directory whose tokenizer.json `change` has altered."""
    data = json.loads(tokenizer_json(pre))
    result = change(data)
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(data if result is None else result))
    return tmp_path


@pytest.mark.parametrize("pre", KNOWN)
def test_ids_are_those_of_the_tokenizers_library(tmp_path, pre):
    data = metadata_of(write_tokenizer(tmp_path, pre))
    assert data["tokenizer.ggml.pre"] == pre
    ours, theirs = load_tokenizer(data), Tokenizer.from_str(tokenizer_json(pre))
    for text in TEXT:
        assert ours.encode(text, bos=False) == theirs.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("pre", KNOWN)
def test_the_patterns_are_those_that_localmoe_splits_by(pre):
    assert SPLITS[pre][0] == PRE_TOKENIZERS[pre].pattern


@pytest.mark.parametrize("pre", SPLITS)
def test_the_way_of_splitting_is_recognized(tmp_path, pre):
    assert metadata_of(write_tokenizer(tmp_path, pre))["tokenizer.ggml.pre"] == pre


def test_tokens_kinds_and_padding(tmp_path):
    data = metadata_of(write_tokenizer(tmp_path))
    tokens, kinds = data["tokenizer.ggml.tokens"], data["tokenizer.ggml.token_type"]
    vocabulary = json.loads(tokenizer_json())["model"]["vocab"]
    assert tokens[:325] == sorted(vocabulary, key=vocabulary.get)
    assert tokens[325:] == [*CONTROL, *PLAIN, *(f"[PAD{i}]" for i in range(330, 400))]
    assert kinds.tolist() == [1] * 325 + [3] * 3 + [4] * 2 + [5] * 70
    assert kinds.dtype == np.int32


def test_ordinary_tokens_that_look_like_control_ones_are_such(tmp_path):
    """As llama.cpp's converter has it: Qwen's <|fim_prefix|> is not marked as special."""
    added = {"id": 330, "content": "<|fim_prefix|>", "special": False}
    directory = changed(tmp_path, lambda data: data["added_tokens"].append(added))
    assert metadata_of(directory)["tokenizer.ggml.token_type"][330] == 3


def test_an_added_token_may_be_in_the_vocabulary_too(tmp_path):
    def change(data):
        data["model"]["vocab"]["<|endoftext|>"] = 325

    assert metadata_of(changed(tmp_path, change))["tokenizer.ggml.token_type"][325] == 3


def test_merges_in_either_form(tmp_path):
    pairs = json.loads(tokenizer_json())["model"]["merges"]
    assert isinstance(pairs[0], list)
    expected = [" ".join(pair) for pair in pairs]
    (tmp_path / "a").mkdir()
    assert metadata_of(write_tokenizer(tmp_path / "a"))["tokenizer.ggml.merges"] == expected

    def change(data):
        data["model"]["merges"] = expected

    assert metadata_of(changed(tmp_path, change))["tokenizer.ggml.merges"] == expected


@pytest.mark.parametrize(
    ("settings", "config", "generation", "expected"),
    [
        ({}, {"bos_token_id": 325, "eos_token_id": 325}, {}, {"bos": 325, "eos": 327, "padding": 325}),
        ({"eos_token": None}, {"eos_token_id": 326}, {"eos_token_id": 325}, {"eos": 326, "padding": 325}),
        ({"eos_token": {"content": "<|im_start|>"}}, {"eos_token_id": 325}, {}, {"eos": 326, "padding": 325}),
        ({"eos_token": "unheard of"}, {}, {"eos_token_id": [327, 325]}, {"eos": 327, "padding": 325}),
        ({"eos_token": None, "pad_token": None}, {"eos_token_id": 400, "bos_token_id": True}, {}, {}),
        ({"unk_token": "<think>"}, {}, {}, {"unknown": 328, "eos": 327, "padding": 325}),
    ],
)
def test_special_ids_in_the_order_in_which_llama_cpps_converter_looks(
    tmp_path, settings, config, generation, expected
):
    directory = write_tokenizer(tmp_path, **settings)
    (directory / "generation_config.json").write_text(json.dumps(generation))
    data = metadata_of(directory, config)
    ids = {k.split(".")[2].removesuffix("_token_id"): v for k, v in data.items() if k.endswith("_token_id")}
    assert ids == expected


def llama_3(data):
    """The post-processor of Llama 3's tokenizer.json."""
    single = [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    template = {"type": "TemplateProcessing", "single": single, "pair": []}
    data["post_processor"] = {"type": "Sequence", "processors": [{"type": "ByteLevel"}, template]}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"bos_token": "<|im_start|>"}, True),
        ({"bos_token": "<|im_start|>", "add_bos_token": False}, False),
        ({"bos_token": "<|im_end|>"}, False),
        ({}, False),
        ({"add_bos_token": True, "bos_token": "<|im_end|>"}, True),
    ],
)
def test_whether_a_text_begins_with_bos(tmp_path, settings, expected):
    directory = changed(tmp_path, llama_3)
    told = json.loads((directory / "tokenizer_config.json").read_text())
    del told["add_bos_token"]
    (directory / "tokenizer_config.json").write_text(json.dumps(told | settings))
    data = metadata_of(directory)
    assert data["tokenizer.ggml.add_bos_token"] is expected
    assert data["tokenizer.ggml.add_eos_token"] is False


def write_llama(directory, helpers, pre):
    """A dense model with tokenizers of both kinds."""
    weights = helpers.hugging_face_weights(experts=0)
    rows = np.resize(weights["lm_head.weight"], (VOCABULARY, helpers.HIDDEN))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = rows
    helpers.write_hugging_face(directory, weights, experts=0)
    config = helpers.config(0) | {"vocab_size": VOCABULARY, "model_type": "llama"}
    (directory / "config.json").write_text(json.dumps(config))
    return write_tokenizer(directory, pre)


@pytest.mark.parametrize("pre", ["llama-bpe", "tekken"])
def test_a_llama_without_tokenizer_model(tmp_path, helpers, pre):
    """Llama 3 and Mistral Nemo have a tokenizer.json only; where both are there, SentencePiece's counts."""
    directory = write_llama(tmp_path / "m", helpers, pre)
    assert open_source(directory).metadata["tokenizer.ggml.model"] == "llama"
    (directory / "tokenizer.model").unlink()
    data = open_source(directory).metadata
    assert (data["tokenizer.ggml.model"], data["tokenizer.ggml.pre"]) == ("gpt2", pre)
    assert data["llama.vocab_size"] == len(data["tokenizer.ggml.tokens"]) == VOCABULARY
    assert data["tokenizer.ggml.eos_token_id"] == 327


def model(key, value):
    return lambda data: data["model"].__setitem__(key, value)


def vocabulary(token, index):
    return lambda data: data["model"]["vocab"].__setitem__(token, index)


def added(content, index, special=True):
    entry = {"id": index, "content": content, "special": special}
    return lambda data: data["added_tokens"].append(entry)


def merge_with_a_space(data):
    """Both pieces and what they make are known: as GGUF's "a b c", it would mean another merge."""
    for index, text in enumerate((" z", "q z"), 330):
        data["model"]["vocab"][text] = index
        data["added_tokens"].append({"id": index, "content": text, "special": False})
    data["model"]["merges"] = [["q", " z"]]


def split(key, value):
    return lambda data: data["pre_tokenizer"]["pretokenizers"][0].__setitem__(key, value)


def byte_level(key, value):
    return lambda data: data["pre_tokenizer"]["pretokenizers"][-1].__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: [], "its JSON is not an object"),
        (lambda data: {}, "not of byte-level BPE, so the model's tokenizer.model is needed"),
        (model("type", "Unigram"), "not of byte-level BPE"),
        (lambda data: data.update(pre_tokenizer=None), "not of byte-level BPE"),
        (lambda data: data.update(pre_tokenizer=[]), r"pre_tokenizer is \[\], not an object"),
        (lambda data: data["pre_tokenizer"].update(pretokenizers=7), "pretokenizers is no list of objects"),
        (lambda data: data.update(model=["BPE"]), "model is .*, not an object"),
        (split("pattern", {"Regex": "."}), "way than qwen2, llama-bpe, tekken, gpt-4o, gpt-2 do .by '.'."),
        (split("pattern", {"String": " "}), "splits text in another way"),
        (split("pattern", {"Regex": [7]}), "splits text in another way"),
        (split("behavior", "MergedWithNext"), "splits text in another way"),
        (byte_level("add_prefix_space", True), "splits text in another way"),
        (byte_level("use_regex", True), "splits text in another way"),
        (lambda data: data.update(normalizer={"type": "NFKC"}), "splits text in another way"),
        (lambda data: data.update(normalizer=None), "splits text in another way"),  # Qwen's is NFC
        (model("byte_fallback", True), "byte_fallback is True"),
        (model("end_of_word_suffix", "</w>"), "end_of_word_suffix is '</w>'"),
        (model("vocab", ["a" * 1000]), r"vocab is .{60}, not an object"),
        (vocabulary("zz", 400), "the token 'zz' has the id 400, outside of 400"),
        (vocabulary("zz", -1), "the token 'zz' has the id -1"),
        (vocabulary("zz", 1e9), "the token 'zz' has the id 1000000000.0"),
        (vocabulary("zz", True), "the token 'zz' has the id True"),
        (vocabulary("zz", 7), "'(.|zz)' and '(.|zz)' both have the id 7"),
        (vocabulary("a b", 330), "the token 'a b' is not of byte-level BPE's alphabet"),
        (vocabulary("\x1b[2J", 330), r"the token '\\x1b\[2J' is not of"),
        (vocabulary("<|im_end|>", 330), r"the token '<\|im_end\|>' has two ids"),
        (added("<|more|>", 327), r"'<\|im_end\|>' and '<\|more\|>' both have the id 327"),
        (added("<|more|>", 400), r"'<\|more\|>' has the id 400, outside of 400"),
        (added("<|more|>", None), r"'<\|more\|>' has the id None"),
        (added("<|im_end|>", 330), r"the added token '<\|im_end\|>' is empty, no text, or there twice"),
        (added("", 330), "the added token '' is empty"),
        (added(None, 330), "the added token None is empty"),
        (lambda data: data.update(added_tokens={"<a>": 330}), "added_tokens is no list of objects"),
        (lambda data: data.update(added_tokens=["<a>"]), "added_tokens is no list of objects"),
        (model("merges", None), "it has no list of merges"),
        (model("merges", {"a": "b"}), "it has no list of merges"),
        (model("merges", ["e r", "zz e"]), "the merge 'zz e' is of pieces that are not in the vocabulary"),
        (model("merges", ["q z"]), "the merge 'q z' is of pieces"),  # both known, not what they make
        (model("merges", ["er"]), "the merge 'er' is of pieces"),
        (model("merges", ["e r r"]), "the merge 'e r r' is of pieces"),
        (model("merges", [["e", 7]]), r"the merge \['e', 7\] is of pieces"),
        (model("merges", [["e"]]), r"the merge \['e'\] is of pieces"),
        (model("merges", [7]), "the merge 7 is of pieces"),
        (merge_with_a_space, r"the merge \['q', ' z'\] is of pieces"),
        (model("merges", [["x" * 1000, "y"]]), "the merge .{60} is of pieces"),
        (lambda data: data.update(post_processor=7), "post_processor is 7, not an object"),
    ],
)  # fmt: skip
def test_what_is_damaged_or_unknown_is_refused_in_one_line(tmp_path, change, message):
    with pytest.raises(ModelFileError, match=rf"^{tmp_path}/tokenizer.json: .*{message}") as caught:
        metadata_of(changed(tmp_path, change))
    assert "\n" not in str(caught.value)


def test_a_vocabulary_larger_than_any_is_refused_before_it_is_made(tmp_path):
    with pytest.raises(ModelFileError, match="a vocabulary of 1048577 is larger than any model's"):
        metadata_of(write_tokenizer(tmp_path), vocab_size=MAX_STRINGS + 1)
    with pytest.raises(ModelFileError, match="69 merges are more than any model has"):
        metadata_of(write_tokenizer(tmp_path), vocab_size=MAX_STRINGS)


def test_a_key_that_occurs_twice_and_a_file_cut_short_are_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer_json().replace('"vocab":{', '"vocab":{"e":0,', 1))
    with pytest.raises(ModelFileError, match="a key occurs twice"):
        BytePairs.read(path, VOCABULARY)
    path.write_text(tokenizer_json()[:-100])
    with pytest.raises(ModelFileError, match="its JSON cannot be read"):
        BytePairs.read(path, VOCABULARY)


def test_a_damaged_tokenizer_ends_the_command_with_2(tmp_path, helpers):
    directory = changed(write_llama(tmp_path / "m", helpers, "llama-bpe"), model("merges", ["q z"]))
    (directory / "tokenizer.model").unlink()
    command = [sys.executable, "-m", "localmoe", "quantize", str(directory), "-o", str(tmp_path / "m.gguf")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "the merge 'q z' is of pieces" in done.stderr
    assert done.stderr.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
