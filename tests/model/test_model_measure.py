"""Perplexity and speed: figures that can be worked out by hand, and the keys that scripts rely on."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from tiny_models import VOCAB, metadata, write_model

import localmoe
from localmoe.cli.main import run
from localmoe.errors import UsageError
from localmoe.kernels.bandwidth import PROBED, ReadProbe
from localmoe.measure import (
    Stretch,
    bytes_read,
    decode_rate,
    decode_stretches,
    measure_quality,
    measure_speed,
    random_ids,
    read_probe,
    share_of_bandwidth,
    split_windows,
)
from localmoe.model.decoder import Decoder
from quant.families import FAMILIES


@pytest.fixture(scope="module")
def indifferent(tmp_path_factory):
    """A model whose logits are all zero: every token is as probable as any other."""
    path = tmp_path_factory.mktemp("measure") / "indifferent.gguf"

    def weight(name, shape):
        return np.zeros(shape, np.float32) if name == "output.weight" else None

    return write_model(path, metadata(block_count=1), weight=weight)


@pytest.fixture(scope="module")
def decided(tmp_path_factory):
    """A model that gives every next token the same distribution: logit 1 to the token "a", 0 to others."""
    path = tmp_path_factory.mktemp("measure") / "decided.gguf"

    def weight(name, shape):
        x = np.zeros(shape, np.float32)
        if name == "token_embd.weight":
            x[:, 0] = 16  # one coordinate in 256: normed to 16
        elif name == "output.weight":
            x[260, 0] = 1 / 16
        elif "norm" in name:
            x[:] = 1
        return x

    return write_model(path, metadata(block_count=1), weight=weight)


def test_perplexity_of_indifference_is_the_vocabularys_size(indifferent):
    with localmoe.load(indifferent, threads=1) as model:
        quality = measure_quality(model, "a b c d e f g " * 30, 32)
    assert quality.perplexity == pytest.approx(VOCAB, rel=1e-6)
    assert quality.standard_error == pytest.approx(0, abs=1e-3)
    assert quality.tokens > 100


def test_perplexity_and_divergence_of_a_known_distribution(indifferent, decided):
    """p(a) = e / (e + 319), p(other) = 1 / (e + 319); KL(uniform ‖ p) = ln((e + 319) / 320) - 1 / 320."""
    total = math.e + VOCAB - 1
    with localmoe.load(decided, threads=1) as model, localmoe.load(indifferent, threads=1) as base:
        one = model.logits([5, 9])
        np.testing.assert_allclose(one[:, 260], 1, rtol=1e-5)
        assert np.abs(np.delete(one, 260, 1)).max() == 0
        only_a = measure_quality(model, "a" * 40, 64)  # one window, scored whole; its first piece is "▁"
        expected = (40 * math.log(total / math.e) + math.log(total)) / 41
        assert only_a.perplexity == pytest.approx(math.exp(expected), rel=1e-4)
        against = measure_quality(model, "b" * 40, 64, base)
    assert against.base_perplexity == pytest.approx(VOCAB, rel=1e-6)
    assert against.perplexity == pytest.approx(total, rel=1e-4)
    assert against.kl_mean == pytest.approx(math.log(total / VOCAB) - 1 / VOCAB, rel=1e-3)
    assert against.kl_99 == pytest.approx(against.kl_mean, rel=1e-6)
    assert against.same_top == 0  # 260 against a tie, which argmax gives to token 0


def test_a_model_does_not_diverge_from_itself(tiny):
    with localmoe.load(tiny("q4_k"), threads=2) as model:
        quality = measure_quality(model, "the quick brown fox " * 20, 64, model)
    assert quality.perplexity == quality.base_perplexity
    assert quality.kl_mean == pytest.approx(0, abs=1e-12)
    assert quality.same_top == 1


def test_what_is_not_a_number_has_no_perplexity(indifferent, tmp_path, capsys):
    def weight(name, shape):
        return np.full(shape, np.nan, np.float32) if name == "output_norm.weight" else None

    path = write_model(tmp_path / "damaged.gguf", metadata(block_count=1), weight=weight)
    text = tmp_path / "text.txt"
    text.write_text("a b c d e f g")
    for arguments in ([str(path), str(text)], [str(indifferent), str(text), "--kl", str(path)]):
        assert run(["perplexity", *arguments]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err == "localmoe: damaged: its output is not a number: the file may be damaged\n"


def test_windows_cover_the_text_once_and_score_their_second_halves():
    ids = list(range(10, 40))
    windows = split_windows(ids, 1, 8)
    assert [w[0][0] for w in windows] == [1] * 4
    assert [i for w, _ in windows for i in w[1:]] == ids[:28]
    assert {(len(w), first) for w, first in windows} == {(8, 4)}
    without = split_windows(ids, None, 8)
    assert [i for w, _ in without for i in w] == ids[:24]


def test_a_short_text_is_scored_whole():
    assert split_windows([5, 6, 7], 1, 512) == [([1, 5, 6, 7], 1)]
    assert split_windows([5, 6, 7], None, 512) == [([5, 6, 7], 1)]
    assert split_windows([5], 1, 512) == [([1, 5], 1)]


@pytest.mark.parametrize(("ids", "bos", "window"), [([], 1, 8), ([5], None, 8), ([5, 6, 7], 1, 3)])
def test_what_cannot_be_scored_is_refused(ids, bos, window):
    with pytest.raises(UsageError):
        split_windows(ids, bos, window)


def test_random_ids_leave_out_control_tokens(tiny):
    with localmoe.load(tiny("q4_k"), threads=1) as model:
        ids = random_ids(model, 500)
    assert ids == random_ids(model, 500)
    assert min(ids) >= 3
    assert max(ids) < VOCAB


def test_every_repetition_has_tokens_of_its_own(tiny, monkeypatch):
    """Else a paged model would find the experts of the time before."""
    seen: list[tuple[int, ...]] = []
    extend = Decoder.extend

    def spied(decoder, ids):
        seen.append(tuple(ids))
        return extend(decoder, ids)

    monkeypatch.setattr(Decoder, "extend", spied)
    with localmoe.load(tiny("q4_k"), threads=1) as model:
        measure_speed(model, prompt=16, generated=2, repeats=3, load_s=0.1, first_token_s=0.1)
    prompts = [ids for ids in seen if len(ids) == 16]
    assert len(set(prompts)) == len(prompts) == 4


BENCH_KEYS = {
    "prefill_tps", "decode_tps", "load_s", "first_token_s", "bytes_per_token", "read_gbps", "machine_gbps",
    "peak_rss_bytes",
}  # fmt: skip


def test_bench_prints_the_keys_that_scripts_rely_on(tiny, capsys):
    sizes = ["-p", "16", "-n", "4", "-r", "2", "--threads", "2"]
    code = run(["bench", str(tiny("q4_k")), *sizes, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    report = json.loads(out)
    assert report.keys() >= BENCH_KEYS
    assert all(report[key] > 0 for key in BENCH_KEYS)
    assert report["read_gbps"] == pytest.approx(report["bytes_per_token"] * report["decode_tps"] / 1e9)
    assert report["first_token_s"] >= report["load_s"]
    low, high = report["decode_spread"]
    assert low <= report["decode_tps"] <= high


def test_peak_memory_is_the_models_not_the_probes(tiny):
    command = [sys.executable, "-m", "localmoe", "bench", str(tiny("q4_k")), "-p", "16", "-n", "2", "-r", "1"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert 0 < json.loads(done.stdout)["peak_rss_bytes"] < PROBED


@pytest.mark.parametrize("options", [[], ["--markdown"]])
def test_bench_prints_a_table(options, tiny, capsys):
    sizes = ["-p", "8", "-n", "2", "-r", "1", "--threads", "1"]
    assert run(["bench", str(tiny("dense")), *sizes, *options]) == 0
    out = capsys.readouterr().out
    assert "prefill 8" in out
    assert ("| decode 2 |" in out) == bool(options)
    assert "\x1b" not in out


def test_perplexity_prints_json(tiny, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("a quick brown fox " * 30)
    options = ["--window", "64", "--kl", str(tiny("float")), "--json"]
    assert run(["perplexity", str(tiny("q4_k")), str(text), *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["perplexity"] > 1
    assert report["kl_mean"] >= 0
    assert 0 <= report["same_top"] <= 1
    assert report["tokens"] > 0


def test_bytes_per_token_are_what_decoding_reads(tiny):
    """Everything but the embedding, and of each layer's experts those that a token is sent to."""
    from quant.gguf import GGUFFile

    for kind, share in (("q4_k", 2 / 4), ("dense", 1)):
        with GGUFFile.open(tiny(kind)) as file:
            experts = sum(t.nbytes for name, t in file.tensors.items() if "_exps" in name)
            rest = sum(t.nbytes for name, t in file.tensors.items() if "_exps" not in name)
            rest -= file.tensors["token_embd.weight"].nbytes + file.tensors["output_norm.weight"].nbytes
        with localmoe.load(tiny(kind), threads=1) as model:
            assert model.status()["bytes_per_token"] == pytest.approx(rest + share * experts, rel=1e-3)
            weights = model.status()["bytes_per_token"]
            held = model.status()["kv_bytes_per_position"]
            shape = model.config
            assert held == 2 * shape.layers * shape.kv_heads * shape.head_dim * 2  # keys, values; float16
            # a token that comes after 8 others reads those and its own; the next one more
            assert bytes_read(model, 8, 2) == weights + round(9.5 * held)


def test_a_window_limits_what_decoding_reads_of_the_cache(tiny):
    with localmoe.load(tiny("q4_k"), threads=1) as model:
        weights, held = model.status()["bytes_per_token"], model.status()["kv_bytes_per_position"]
        model.config = replace(model.config, window=4)
        assert bytes_read(model, 8, 2) == weights + 4 * held
        model.config = replace(model.config, family=FAMILIES["gpt-oss"])  # the first of two layers has it
        assert bytes_read(model, 8, 2) == weights + round((4 + 9.5) / 2 * held)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_the_machine_is_measured_by_the_models_threads_or_on_a_gpu_by_as_many(
    indifferent, monkeypatch, on_gpu
):
    with localmoe.load(indifferent, threads=2, learn=False) as model:
        pool = model.compute.pool
        if on_gpu:
            monkeypatch.setattr(model._engine, "compute", None)  # as `GpuEngine` has it
        with read_probe(model) as probe:
            assert (probe._pool is pool) != on_gpu
            assert probe._pool.threads == 2
            assert probe.measure(1) > 0
        monkeypatch.undo()


@pytest.mark.parametrize(("free", "read"), [(None, PROBED), (8 << 30, PROBED), (80 << 20, 20 << 20)])
def test_the_probe_takes_at_most_a_quarter_of_what_is_free(indifferent, monkeypatch, free, read):
    monkeypatch.setattr("localmoe.experts.plan.available_memory", lambda: free)
    with localmoe.load(indifferent, threads=1, learn=False) as model, read_probe(model) as probe:
        assert probe._memory.nbytes == read


def test_a_share_is_the_median_of_stretches_in_which_the_memory_kept_its_rate():
    stretches = [
        Stretch(8, 0.1, before=40, after=40),  # 8 * 0.4 GB in 0.1 s: 32 of 40 GB/s
        Stretch(8, 0.08, before=50, after=50),  # 40 of 50
        Stretch(8, 0.08, before=42, after=38),  # half a GB/s beyond steady
        Stretch(4, 0.05, before=40, after=41),  # a shorter one: 32 of 40.49
    ]
    assert [s.steady for s in stretches] == [True, True, False, True]
    assert share_of_bandwidth(stretches, 400_000_000) == pytest.approx(0.8)
    assert share_of_bandwidth(stretches[2:3], 400_000_000) == pytest.approx(40 / (2 / (1 / 42 + 1 / 38)))
    assert decode_rate(stretches) == pytest.approx(28 / 0.31)


def test_every_token_is_in_one_stretch_and_the_cache_ends_with_them(indifferent):
    with localmoe.load(indifferent, threads=1, context=32, learn=False) as model:
        decoder, ids = model.decoder(), random_ids(model, 30)
        decoder.extend(ids[:9])
        stretches = decode_stretches(decoder, ids[9:], ReadProbe(model.compute.pool, 1 << 20))
        assert list(decoder.tokens) == ids
    assert [s.tokens for s in stretches] == [8, 8, 5]
    assert all(s.seconds > 0 and s.before > 0 for s in stretches)
    assert [s.after for s in stretches[:-1]] == [s.before for s in stretches[1:]]
