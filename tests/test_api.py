"""The public API: what a script gets from `import localmoe`."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
from pathlib import Path

import jsonschema
import numpy as np
import pytest

import localmoe
from localmoe.errors import ClosedError, LocalMoeError, UsageError

sys.path.insert(0, str(Path(__file__).parent / "model"))
from tiny_models import VOCAB, metadata, write_model

IDS = [1, 20, 77, 140, 261, 300, 33]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    out = tmp_path_factory.mktemp("api") / "tiny-api.gguf"
    return write_model(out, metadata(), {"": "q4_k", "ffn_down": "q6_k"})


@pytest.fixture(scope="module")
def model(path):
    with localmoe.load(path, threads=2) as loaded:
        yield loaded


def test_importing_it_computes_nothing():
    heavy = "{'numba', 'torch', 'llvmlite', 'sentencepiece', 'llguidance'}"
    script = f"import localmoe, sys; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = localmoe.lode


def test_a_model_says_what_it_is(model, path):
    assert model.name == "tiny-api"
    assert model.path == path
    assert model.context == 1024
    assert (model.config.layers, model.config.experts, model.config.experts_used) == (2, 4, 2)
    assert model.metadata["general.architecture"] == "llama"
    assert model.status()["device"] == "cpu"
    assert model.status()["bytes_per_token"] > 0


def test_identity_tells_models_apart_and_stays(model, path, tmp_path):
    with localmoe.load(path) as again:
        assert again.identity == model.identity
    other = write_model(tmp_path / "other.gguf", metadata(), {"": "q4_k", "ffn_down": "q6_k"}, seed=1)
    with localmoe.load(other) as different:
        assert different.identity != model.identity
    copy = tmp_path / "renamed.gguf"
    copy.write_bytes(path.read_bytes())
    with localmoe.load(str(copy)) as renamed:
        assert renamed.identity == model.identity
        assert renamed.name == "renamed"


def test_logits_have_a_row_for_each_id(model):
    logits = model.logits(IDS)
    assert logits.shape == (len(IDS), VOCAB)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(model.logits(np.array(IDS)), logits)
    np.testing.assert_array_equal(model.logits(IDS[:3]), logits[:3])


def test_generating_at_temperature_0_is_the_argmax_of_logits(model):
    got = list(model.generate_ids(IDS, max_tokens=12, temperature=0, ignore_eos=True))
    assert len(got) == 12
    expected = model.logits([*IDS, *got[:-1]])[len(IDS) - 1 :].argmax(1)
    assert got == expected.tolist()


def test_a_seed_reproduces_an_answer(model):
    def answer(seed):
        return list(model.generate_ids(IDS, max_tokens=20, temperature=1.5, seed=seed, ignore_eos=True))

    assert answer(7) == answer(7)
    assert answer(7) != answer(8)


def test_more_tokens_than_any_context_holds(model):
    with pytest.raises(UsageError, match=r"1025 tokens .* 1024; the model has no more"):
        model.logits([5] * 1025)


def test_text_is_generated_from_text_and_from_messages(model):
    pieces = list(model.generate("a b", max_tokens=5, temperature=0))
    again = list(model.generate([{"role": "user", "content": "a b"}], max_tokens=5, temperature=0))
    assert pieces == again
    assert all(isinstance(piece, str) and piece for piece in pieces)


def test_how_to_think_reaches_the_prompt_format(model, monkeypatch):
    asked = []

    def encode(messages, *, think, effort):
        asked.append((think, effort))
        return IDS

    monkeypatch.setattr(model.prompt_format, "encode", encode)
    assert model.encode_chat([{"role": "user", "content": "a"}], think=False, effort="high") == IDS
    list(model.generate("a", max_tokens=1, think=False, effort="low"))
    list(model.generate("a", max_tokens=1))
    assert asked == [(False, "high"), (False, "low"), (True, None)]


def test_generation_ends_with_the_context(path):
    with localmoe.load(path, threads=1, context=12) as small:
        assert len(list(small.generate_ids(IDS, temperature=0, ignore_eos=True))) == 12 - len(IDS) + 1
        with pytest.raises(UsageError, match="context of 12; raise --context"):
            small.logits(IDS * 2)
        with pytest.raises(LocalMoeError, match="context"):
            next(small.generate_ids(IDS * 2, max_tokens=1))
        with pytest.raises(LocalMoeError):
            next(small.generate_ids([], max_tokens=1))


def test_routing_is_what_each_token_chose(model):
    routing = model.routing(IDS)
    assert routing.shape == (len(IDS), 2, 2)
    assert routing.dtype == np.uint8
    assert routing.max() < 4
    assert (routing[:, :, 0] != routing[:, :, 1]).all()
    np.testing.assert_array_equal(model.routing(IDS[:4]), routing[:4])


def test_routing_is_of_its_own_pass_beside_other_threads(model):
    ids, stop = IDS * 10, threading.Event()
    expected, seen = model.routing(ids), []

    def decode():
        decoder = model.decoder()
        while not stop.is_set():
            decoder.rewind(0)
            decoder.extend([9, 8, 7])
            decoder.extend([5])

    threads = [threading.Thread(target=decode)]
    threads += [threading.Thread(target=lambda: seen.append(model.routing(ids))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads[1:]:
        thread.join()
    stop.set()
    threads[0].join()
    assert len(seen) == 6
    for routing in seen:
        np.testing.assert_array_equal(routing, expected)


def test_a_dense_model_routes_nothing(tmp_path):
    dense = write_model(tmp_path / "dense.gguf", metadata(expert_count=None, expert_used_count=None))
    with localmoe.load(dense, threads=1) as loaded:
        assert not loaded.config.is_mixture
        with pytest.raises(UsageError, match="no experts"):
            loaded.routing(IDS)


def test_a_conversation_keeps_its_own_state(model):
    whole = model.logits(IDS)
    first, second = model.decoder(), model.decoder()
    first.extend(IDS[:3])
    second.extend([5, 6])
    np.testing.assert_array_equal(first.extend(IDS[3:]), whole[-1])
    assert first.tokens == IDS
    assert second.tokens == [5, 6]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"device": "tpu"}, "--device tpu"),
        ({"device": "cuda:x"}, "--device cuda:x"),
        ({"threads": 0}, "--threads 0"),
        ({"threads": -1}, "--threads -1"),
        ({"context": 0}, "--context 0"),
        ({"context": 1025}, "--context 1025"),
        ({"kv_type": "q4_0"}, "kv-type q4_0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, reason, path):
    with pytest.raises(UsageError) as caught:
        localmoe.load(path, **arguments).decoder()
    assert reason in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_kv_cache_of_q8_0_needs_heads_of_32(tmp_path):
    narrow = metadata(head_count=16, head_count_kv=16, dimension_count=16)
    out = write_model(tmp_path / "narrow.gguf", narrow)
    with localmoe.load(out, threads=1) as loaded:
        assert np.isfinite(loaded.logits(IDS)).all()
    with pytest.raises(UsageError, match="multiple of 32"):
        localmoe.load(out, threads=1, kv_type="q8_0").decoder()


def test_a_decoder_keeps_its_model(path):
    """Otherwise the file's mapping would go, and with it the process."""
    code = (
        "import gc, sys, localmoe\n"
        "decoder = localmoe.load(sys.argv[1], threads=1, learn=False).decoder()\n"
        "gc.collect()\n"
        f"print(decoder.extend({IDS}).tobytes().hex())"
    )
    line = [sys.executable, "-c", code, str(path)]
    result = subprocess.run(line, capture_output=True, text=True, check=True)
    with localmoe.load(path, threads=1, learn=False) as loaded:
        assert result.stdout.strip() == loaded.decoder().extend(IDS).tobytes().hex()


def test_closing_ends_the_threads(path):
    def workers():
        return sum(thread.name.startswith("localmoe-") for thread in threading.enumerate())

    gc.collect()
    before = workers()
    loaded = localmoe.load(path, threads=3)
    assert workers() == before + 2
    loaded.close()
    loaded.close()
    assert workers() == before


def test_an_answer_in_a_given_form():
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "ok": {"type": "boolean"}},
        "required": ["n", "ok"], "additionalProperties": False,
    }  # fmt: skip
    with localmoe.load("demo", learn=False) as model:
        for seed in range(5):
            asked = {"temperature": 2.0, "seed": seed}
            text = "".join(model.generate("Hi", json_schema=schema, **asked))
            jsonschema.validate(json.loads(text), schema)
            assert "".join(model.generate("Hi", grammar='root ::= "yes" | "no"', **asked)) in ("yes", "no")
        with pytest.raises(UsageError, match="both say what form"):
            list(model.generate("Hi", json_schema={}, grammar="start: /a/"))
        with pytest.raises(UsageError, match="the JSON schema is not JSON"):
            list(model.generate("Hi", json_schema="{"))


@pytest.mark.parametrize("ram", [None, "1GiB"])
def test_what_is_asked_of_a_closed_model_is_refused(path, ram):
    """In a process of its own, which used to die of it."""
    code = (
        "import sys, localmoe\n"
        "from localmoe.errors import ClosedError\n"
        "with localmoe.load(sys.argv[1], threads=2, ram=sys.argv[2] or None, learn=False) as model:\n"
        "    begun, unbegun = (model.generate_ids([1, 2, 3], ignore_eos=True) for _ in range(2))\n"
        "    decoder, prompted = model.decoder(), model.decoder()\n"
        "    next(begun), next(begun), decoder.extend([1]), prompted.extend([1, 2])\n"
        "for late in (lambda: next(begun), lambda: next(unbegun), lambda: decoder.extend([2]),\n"
        "             lambda: prompted.extend([3, 4]), lambda: model.logits([1])):\n"
        "    try:\n"
        "        print('answered', late())\n"
        "    except ClosedError as error:\n"
        "        print(error)\n"
    )
    line = [sys.executable, "-c", code, str(path), ram or ""]
    result = subprocess.run(line, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [str(ClosedError())] * 5


def test_a_refused_file_leaves_no_thread(tmp_path):
    gc.collect()
    before = threading.active_count()
    bad = write_model(tmp_path / "bad.gguf", metadata(), change=lambda t: t.pop("output_norm.weight"))
    with pytest.raises(Exception, match=r"output_norm\.weight is missing"):
        localmoe.load(bad, threads=3)
    assert threading.active_count() == before
