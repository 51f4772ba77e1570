"""A whole model under a memory bound: the same bits, no more memory, no more reading than promised."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import localmoe
from localmoe.errors import UsageError
from localmoe.experts.layout import ExpertLayout
from localmoe.experts.pager import ReadError, read_into
from localmoe.experts.plan import smallest
from localmoe.experts.simulate import simulate
from localmoe.model import engine
from localmoe.model.config import ModelConfig
from localmoe.model.copies import with_own_copies
from localmoe.model.weights import bind
from quant.gguf import GGUFFile
from quant.parts import PartFiles

ROOT = Path(__file__).parents[2]
PROMPT = [1, *(3 + byte for byte in b"One line of text, long enough to reach every expert of every layer.")]


@pytest.fixture(autouse=True)
def _statistics_elsewhere(tmp_path, monkeypatch):
    from localmoe.experts import store

    monkeypatch.setattr(store, "default_directory", lambda: tmp_path / "statistics")


def bound(path, slots):
    """A bound under which about `slots` experts may stay."""
    with localmoe.load(path, context=320, threads=2) as model:
        needs = model.plan.needs
    return smallest(needs) + slots * max(each.slot_bytes for each in needs.layout.classes)


def continuation(model, count=200):
    """Logits of `count` decoded tokens after the prompt; drawn at random, since a random model soon goes in
    circles.
    """
    decoder = model.decoder()
    logits = [decoder.extend(PROMPT)]
    for token in np.random.default_rng(1).integers(3, 259, count).tolist():
        logits.append(decoder.extend([token]))
    return np.stack(logits), list(decoder.tokens)


def test_statistics_that_start_afresh_are_told_of(tiny_model, tmp_path):
    notices = []
    for damage in (False, True):
        for file in (tmp_path / "statistics").glob("*.npz"):
            file.write_bytes(b"damaged")
        with localmoe.load(tiny_model, context=320, threads=2, notice=notices.append) as model:
            model.decoder().extend(PROMPT)
        assert [str(tmp_path) in line and "ignored" in line for line in notices] == [True] * damage


def test_logits_are_the_same_to_the_last_bit_at_any_residency(tiny_model, tmp_path):
    with localmoe.load(tiny_model, context=320, threads=2) as mapped:
        assert not mapped.status()["paged"]
        expected, tokens = continuation(mapped)
        whole = mapped.logits(tokens)
    for slots in (0, 1, 3, 7, 13):
        shutil.rmtree(tmp_path / "statistics")  # a first start: the policy learns, and evicts
        with localmoe.load(tiny_model, context=320, threads=2, ram=bound(tiny_model, slots)) as model:
            status = model.status()
            assert status["paged"]
            assert status["slot_bytes"] + model.plan.needs.fixed <= bound(tiny_model, slots)
            np.testing.assert_array_equal(model.logits(tokens), whole)
            logits, ids = continuation(model)
            np.testing.assert_array_equal(logits, expected)
            assert ids == tokens
            status = model.status()
            expert_bytes = int(model.plan.needs.layout.expert_bytes.max())
            assert status["bytes_read"] <= status["misses"] * expert_bytes
            assert status["evictions"] > 0 or slots < 3
            assert 0 <= status["hit_rate"] < 1
            assert (status["hit_rate"] > 0) == (slots > 0)


def test_a_bound_below_the_smallest_is_refused_in_one_line(tiny_model):
    with pytest.raises(UsageError, match="use at least --ram") as caught:
        localmoe.load(tiny_model, context=320, threads=2, ram=bound(tiny_model, 0) - 100_000)
    assert "\n" not in str(caught.value)


def test_the_second_start_begins_with_the_statistics_of_the_first(tiny_model):
    ram = bound(tiny_model, 8)
    with localmoe.load(tiny_model, context=320, threads=2, ram=ram) as model:
        continuation(model, 60)
    with localmoe.load(tiny_model, context=320, threads=2, ram=ram) as model:
        model._engine.residency.settle()
        assert model.status()["resident_experts"] == sum(model.plan.slots)
        assert model._engine.residency.statistics.tokens == len(PROMPT) + 60


def test_a_file_that_is_used_where_it_is_mapped_is_mapped_in_huge_pages(tiny_model, monkeypatch):
    asked, bound_after = [], []
    monkeypatch.setattr(GGUFFile, "ask_for_huge_pages", lambda file: asked.append(file.path))
    monkeypatch.setattr(engine, "bind", lambda *these: bound_after.append(len(asked)) or bind(*these))
    with localmoe.load(tiny_model, context=320, threads=2):
        assert asked == [tiny_model]
        assert bound_after == [1]  # weights are looked at afterwards: small pages would stay small
    with localmoe.load(tiny_model, context=320, threads=2, ram=bound(tiny_model, 3)):
        assert len(asked) == 2  # `bound` loaded it too; under a bound, whole pages would be read for parts


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system takes no advice")
def test_what_every_token_needs_is_read_ahead_and_no_expert_with_it(tiny_model, monkeypatch):
    advised = set()

    def note(_handle, offset, size, _advice):
        advised.update(range(offset, offset + size))

    monkeypatch.setattr(os, "posix_fadvise", note)
    with localmoe.load(tiny_model, context=320, threads=2, ram=bound(tiny_model, 3)):
        pass
    needed, experts = set(), set()
    with GGUFFile.open(tiny_model) as file:
        for name, tensor in file.tensors.items():
            (experts if "_exps" in name else needed).update(
                range(tensor.offset, tensor.offset + tensor.nbytes)
            )
    assert advised == needed
    assert experts


def test_what_every_token_needs_is_copied_into_memory_that_the_kernel_cannot_drop(tiny_model):
    with GGUFFile.open(tiny_model) as file:
        config = ModelConfig.from_gguf(file)
        copied = with_own_copies(file, ExpertLayout.of(file, config.layers, config.experts))
        for name, tensor in file.tensors.items():
            copy = copied.tensors[name]
            assert (copy.address == tensor.address) == ("_exps" in name), "experts have slots of their own"
            assert (copy.offset, copy.shape, copy.type) == (tensor.offset, tensor.shape, tensor.type)
            np.testing.assert_array_equal(copy.data, tensor.data)
            assert "_exps" in name or copy.address % 64 == 0
    with localmoe.load(tiny_model, context=320, threads=2, ram=bound(tiny_model, 3)) as model:
        weights, mapped = model._engine.weights, model._file.tensors["output.weight"]
        start = mapped.address - mapped.offset
        for each in (weights.output, weights.embedding, *(layer.q for layer in weights.layers)):
            assert not start <= each.address < start + model._file.size


def test_a_file_that_is_shorter_than_it_was_is_an_error_that_says_so(tmp_path):
    file = tmp_path / "short.gguf"
    file.write_bytes(bytes(range(100)))
    whole, beyond = np.zeros(60, np.uint8), np.zeros(60, np.uint8)
    with pytest.raises(ReadError, match=r"short\.gguf: ends early"):
        read_into(PartFiles((file,)), [(30, whole), (50, beyond)])
    assert whole.tolist() == list(range(30, 90))


MEMORY = """
import json, sys
from pathlib import Path
import localmoe
from localmoe.experts import store

def held():
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssFile", "RssShmem")) * 1024

store.default_directory = lambda: Path(sys.argv[4])

def use(model):
    decoder = model.decoder()
    decoder.extend([1, *range(3, 200)])
    for token in range(3, 60):
        decoder.extend([token])

with localmoe.load(sys.argv[1], context=320, threads=2) as model:
    use(model)  # every kernel is loaded
before = held()
with localmoe.load(sys.argv[2], context=320, threads=2, ram=int(sys.argv[3])) as model:
    use(model)
    print(json.dumps({"grown": held() - before, **model.status()}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_within_the_bound(tiny_model, larger_model, tmp_path):
    ram = bound(larger_model, 11)
    output = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tiny_model), str(larger_model), str(ram), str(tmp_path)],
        capture_output=True, text=True, check=True, cwd=ROOT,
    ).stdout  # fmt: skip
    status = json.loads(output)
    assert status["paged"]
    assert status["evictions"] > 0
    assert larger_model.stat().st_size > 2 * ram
    assert status["grown"] <= ram + (2 << 20)


def test_on_the_demo_models_own_routing_the_policy_is_within_a_point_of_the_best():
    lines = (ROOT / "demo" / "heldout.jsonl").read_text("utf-8").splitlines()[::4]
    with localmoe.load("demo") as model:
        conversations = [model.encode_chat(json.loads(line)["messages"]) for line in lines]
        routing = np.concatenate([model.routing(ids) for ids in conversations])
        experts = model.config.experts
    assert len(routing) > 1000
    for result in simulate(routing, experts):
        rivals = max(result.hit_rate[name] for name in ("lru", "lfu", "static"))
        assert result.hit_rate["ours"] >= rivals - 0.01, result
