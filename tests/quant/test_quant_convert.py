"""The conversion: contents, resuming, refusals."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conversions import interrupted, planned

from quant.convert import convert
from quant.errors import ModelFileError
from quant.gguf import GGUFFile


def run_python(program, *arguments):
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=os.getcwd(),
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )


def test_file_holds_the_weights_experts_merged_and_rows_interleaved(mixtral, tmp_path, helpers):
    convert(planned(mixtral, "f32"), tmp_path / "m.gguf", threads=2)
    weights = helpers.hugging_face_weights()
    with GGUFFile.open(tmp_path / "m.gguf") as file:

        def stored(name):
            return file.tensors[name].format.decode(file.tensors[name].data).reshape(file.tensors[name].shape)

        np.testing.assert_array_equal(stored("token_embd.weight"), weights["model.embed_tokens.weight"])
        layer = "model.layers.1."
        for what, heads in (("q", helpers.HEADS), ("k", helpers.KV_HEADS)):
            expected = helpers.interleaved(weights[f"{layer}self_attn.{what}_proj.weight"], heads)
            np.testing.assert_array_equal(stored(f"blk.1.attn_{what}.weight"), expected)
        np.testing.assert_array_equal(
            stored("blk.1.attn_v.weight"), weights[layer + "self_attn.v_proj.weight"]
        )
        for what, theirs in (("gate", "w1"), ("down", "w2"), ("up", "w3")):
            experts = [weights[f"{layer}block_sparse_moe.experts.{e}.{theirs}.weight"] for e in range(8)]
            np.testing.assert_array_equal(stored(f"blk.1.ffn_{what}_exps.weight"), np.stack(experts))
        assert {t.type for t in file.tensors.values()} == {"f32"}


def test_metadata_are_those_of_llama_cpps_converter(mixtral, tmp_path):
    convert(planned(mixtral), tmp_path / "m.gguf", threads=2)
    with GGUFFile.open(tmp_path / "m.gguf") as file:
        data = file.metadata
        expected = {
            "general.architecture": "llama",
            "general.name": "tiny-mixtral",
            "general.file_type": 15,
            "general.quantization_version": 2,
            "llama.block_count": 2,
            "llama.context_length": 512,
            "llama.embedding_length": 256,
            "llama.feed_forward_length": 512,
            "llama.attention.head_count": 4,
            "llama.attention.head_count_kv": 2,
            "llama.rope.freq_base": 1e6,
            "llama.rope.dimension_count": 64,
            "llama.expert_count": 8,
            "llama.expert_used_count": 2,
            "llama.vocab_size": 96,
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.unknown_token_id": 0,
            "tokenizer.ggml.add_bos_token": True,
            "tokenizer.ggml.add_eos_token": False,
            "localmoe.source": "tiny-mixtral",
            "localmoe.recipe": "q4_k_m",
            "localmoe.version": "1.0",
        }
        assert {key: data.get(key) for key in expected} == expected
        assert data["tokenizer.chat_template"].startswith("{{ bos_token }}")
        assert data["tokenizer.ggml.tokens"][:4] == ["<unk>", "<s>", "</s>", "<0x00>"]
        np.testing.assert_array_equal(data["tokenizer.ggml.token_type"][:5], [2, 3, 3, 6, 6])
        np.testing.assert_array_equal(data["tokenizer.ggml.scores"][:3], [0, -1, -2])
        assert data["tokenizer.ggml.token_type"].dtype == np.int32
        types = {n: t.type for n, t in file.tensors.items()}
        assert types["blk.0.attn_k.weight"] == "q8_0"
        assert types["blk.0.attn_output.weight"] == "q5_k"
        assert types["blk.0.ffn_gate_inp.weight"] == types["output_norm.weight"] == "f32"


def test_gguf_reads_what_we_write(mixtral, tmp_path):
    from gguf import GGUFReader

    convert(planned(mixtral), tmp_path / "m.gguf", threads=2)
    theirs = GGUFReader(tmp_path / "m.gguf")
    with GGUFFile.open(tmp_path / "m.gguf") as ours:
        assert [t.name for t in theirs.tensors] == list(ours.tensors)
        for tensor in theirs.tensors:
            assert int(tensor.data_offset) == ours.tensors[tensor.name].offset
            assert int(tensor.n_bytes) == ours.tensors[tensor.name].nbytes


def test_bytes_do_not_depend_on_threads(mixtral, tmp_path):
    convert(planned(mixtral), tmp_path / "one.gguf", threads=1)
    convert(planned(mixtral), tmp_path / "three.gguf", threads=3)
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "three.gguf").read_bytes()


@pytest.mark.parametrize("tensor", [0, 1, 7, 22])
def test_an_interrupted_run_is_gone_on_with_and_ends_with_the_same_bytes(mixtral, tmp_path, tensor):
    out = tmp_path / "m.gguf"
    convert(planned(mixtral), tmp_path / "whole.gguf", threads=2)
    interrupted(planned(mixtral), out, tensor)
    assert not out.exists()
    assert (tmp_path / "m.gguf.partial").exists()
    result = convert(planned(mixtral), out, threads=2)
    assert result.resumed == tensor
    assert len(result.tensors) == 23
    assert out.read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf", "whole.gguf"]


def test_bytes_beyond_the_journal_and_a_torn_line_do_no_harm(mixtral, tmp_path):
    out, partial, journal = (tmp_path / f"m.gguf{e}" for e in ("", ".partial", ".journal"))
    convert(planned(mixtral), tmp_path / "whole.gguf", threads=2)
    interrupted(planned(mixtral), out, 9)
    with partial.open("ab") as file:
        file.write(b"rubbish" * 1000)
    with journal.open("ab") as file:
        file.write(b'{"tensor": "blk.1.at')
    assert convert(planned(mixtral), out, threads=2).resumed == 9
    assert out.read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_a_partial_file_shorter_than_its_journal_is_believed_only_as_far_as_it_goes(mixtral, tmp_path):
    out, partial = tmp_path / "m.gguf", tmp_path / "m.gguf.partial"
    convert(planned(mixtral), tmp_path / "whole.gguf", threads=2)
    interrupted(planned(mixtral), out, 9)
    plan = planned(mixtral)
    third = list(plan.writer(partial).layout.values())[3]
    os.truncate(partial, third.offset + third.nbytes - 1)
    assert convert(plan, out, threads=2).resumed == 3
    assert out.read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_a_changed_recipe_or_source_is_noticed(mixtral, tmp_path, helpers):
    source = helpers.write_hugging_face(tmp_path / "tiny-mixtral")
    out = tmp_path / "m.gguf"
    interrupted(planned(source), out, 5)
    with pytest.raises(ModelFileError, match=r"another recipe.*--restart"):
        convert(planned(source, "q5_k_m"), out)
    os.utime(source / "model-00001-of-00002.safetensors", (1, 1))
    with pytest.raises(ModelFileError, match="another source"):
        convert(planned(source), out)
    with pytest.raises(ModelFileError, match="another"):
        convert(planned(source, overrides=[]), out)
    assert (tmp_path / "m.gguf.partial").exists()
    assert convert(planned(source), out, threads=2, restart=True).resumed == 0


@pytest.mark.parametrize("moments", [3])
def test_kill_minus_nine_leaves_nothing_under_the_final_name(mixtral, tmp_path, moments):
    whole, out = tmp_path / "whole.gguf", tmp_path / "m.gguf"
    convert(planned(mixtral, "q8_0"), whole, threads=2)
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from quant.convert import convert\n"
        "from quant.plan import make_plan\n"
        "from quant.recipes import recipe_named\n"
        "from quant.sources import open_source\n"
        "plan = make_plan(open_source(sys.argv[1]), recipe_named('q8_0'), version='1.0')\n"
        "print('ready', flush=True)\n"
        "convert(plan, Path(sys.argv[2]), threads=2, progress=lambda p: time.sleep(0.01))\n"
    )
    for moment in range(moments):
        child = subprocess.Popen(
            [sys.executable, "-c", program, str(mixtral), str(out)],
            stdout=subprocess.PIPE,
            cwd=os.getcwd(),
            env=os.environ | {"PYTHONPATH": os.getcwd()},
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.05 + 0.15 * moment)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert not out.exists() or out.read_bytes() == whole.read_bytes()
    convert(planned(mixtral, "q8_0"), out, threads=2, force=True)
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number_is_named_and_nothing_is_written(tmp_path, helpers, value):
    weights = helpers.hugging_face_weights()
    weights["model.layers.1.block_sparse_moe.experts.3.w2.weight"][7, 11] = value
    source = helpers.write_hugging_face(tmp_path / "m", weights)
    named = r"'blk.1.ffn_down_exps.weight' holds -?(nan|inf) at \[3, 7, 11\]"
    with pytest.raises(ModelFileError, match=named):
        convert(planned(source), tmp_path / "m.gguf", threads=2)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_weight_too_large_for_sixteen_bits_is_refused_and_fits_in_f32(tmp_path, helpers):
    weights = helpers.hugging_face_weights()
    weights["lm_head.weight"][1, 2] = 1e5
    source = helpers.write_hugging_face(tmp_path / "m", weights, "f32")
    with pytest.raises(ModelFileError, match=r"'output.weight' holds 100000.0 at \[1, 2\], which f16 cannot"):
        convert(planned(source, "f16"), tmp_path / "m.gguf", threads=1)
    weights["lm_head.weight"][1, 2] = 1e30
    source = helpers.write_hugging_face(tmp_path / "m", weights, "f32")
    for kind in ("f32", "bf16"):
        done = convert(planned(source, kind), tmp_path / f"{kind}.gguf", threads=1).tensors[-1]
        assert done.square == pytest.approx(1e60)
        assert done.error < 1e55
    weights["lm_head.weight"][1, 2] = 3.4e38
    source = helpers.write_hugging_face(tmp_path / "m", weights, "f32")
    with pytest.raises(ModelFileError, match=r"holds 3\.\d+e\+38 at \[1, 2\], which bf16 cannot express"):
        convert(planned(source, "bf16"), tmp_path / "m.gguf", threads=1)


def test_a_file_of_weights_that_are_no_numbers_is_never_finished(mixtral, tmp_path, monkeypatch):
    monkeypatch.setattr("quant.convert.encode_rows", lambda x, name, importance, out: out.fill(255))
    with pytest.raises(ModelFileError, match=r"'token_embd.weight' as q4_k .* no numbers; choose another"):
        convert(planned(mixtral), tmp_path / "m.gguf", threads=1)
    assert not list(tmp_path.iterdir())


def test_requantizing_coarse_blocks_must_be_insisted_on(mixtral, tmp_path):
    convert(planned(mixtral, "q8_0"), tmp_path / "eight.gguf", threads=2)
    convert(planned(tmp_path / "eight.gguf", "q4_k_m"), tmp_path / "four.gguf", threads=2)
    with pytest.raises(ModelFileError, match=r"already q.*adds error to error.*--allow-requantize"):
        planned(tmp_path / "four.gguf", "q5_k_m")
    convert(planned(tmp_path / "four.gguf", "q5_0", allow_requantize=True), tmp_path / "five.gguf", threads=2)
    # blocks that already are what they shall be are copied, whatever they are
    convert(planned(tmp_path / "eight.gguf", "q8_0"), tmp_path / "again.gguf", threads=2)
    with GGUFFile.open(tmp_path / "eight.gguf") as a, GGUFFile.open(tmp_path / "again.gguf") as b:
        for name, tensor in a.tensors.items():
            np.testing.assert_array_equal(tensor.data, b.tensors[name].data)


def test_summary_errors_are_those_of_the_formats(mixtral, tmp_path):
    result = convert(planned(mixtral, "q4_k_s", pure=True), tmp_path / "m.gguf", threads=2)
    done = {d.name: d for d in result.tensors}["blk.0.ffn_up_exps.weight"]
    assert (done.error / done.square) ** 0.5 == pytest.approx(0.0704, abs=0.001)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_memory_stays_within_what_is_foretold_and_does_not_grow_with_the_model(mixtral, tmp_path):
    program = (
        "import dataclasses, sys\n"
        "from pathlib import Path\n"
        "from quant.convert import convert\n"
        "from quant.plan import make_plan\n"
        "from quant.recipes import recipe_named\n"
        "from quant.sources import open_source\n"
        "plan = make_plan(open_source(sys.argv[1]), recipe_named('f32'))\n"
        "experts = [p for p in plan.tensors if '_exps' in p.tensor.name]\n"
        "for times in (1, 8):\n"
        "    tensors = [dataclasses.replace(p, tensor=dataclasses.replace(p.tensor, name=f'{i}'))\n"
        "               for i, p in enumerate(experts * times)]\n"
        "    larger = dataclasses.replace(plan, tensors=tensors)\n"
        "    result = convert(larger, Path(sys.argv[2]), threads=2, force=True)\n"
        "    peak = Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]\n"
        "    print(result.size, int(peak) * 1024, larger.memory(2))\n"
    )
    child = run_python(program, mixtral, tmp_path / "m.gguf")
    assert child.returncode == 0, child.stderr
    small, large = (list(map(int, line.split())) for line in child.stdout.splitlines())
    (size, peak, _), (larger_size, larger_peak, foretold) = small, large
    assert larger_size - size > 150e6
    assert larger_peak - peak < 50e6
    assert larger_peak < foretold < 400e6


def test_quantize_command(mixtral, tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "localmoe", "quantize", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=os.getcwd(),
            env=os.environ | {"PYTHONPATH": os.getcwd()},
        )

    out = tmp_path / "m.gguf"
    dry = run(mixtral, "-t", "Q5_K_M", "--dry-run", "--json")
    assert dry.returncode == 0, dry.stderr
    report = json.loads(dry.stdout)
    assert len(report["tensors"]) == 23
    assert report["bytes"] == sum(t["bytes"] for t in report["tensors"])
    assert not list(tmp_path.iterdir())
    done = run(mixtral, "-o", out, "-t", "q4_k_m", "--tensor-type", "attn_q=q6_k", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout)["bytes"] == out.stat().st_size
    with GGUFFile.open(out) as file:
        assert file.tensors["blk.1.attn_q.weight"].type == "q6_k"
    for arguments, code, words in (
        ((mixtral, "-o", out), 2, "exists"),
        ((mixtral, "-o", tmp_path / "x.gguf", "-t", "q9"), 2, "unknown recipe 'q9'; there are"),
        ((mixtral,), 2, "name the file to write with -o"),
        ((tmp_path / "none", "-o", tmp_path / "x.gguf"), 2, "no such file"),
        ((mixtral, "-o", tmp_path / "x.gguf", "--tensor-type", "(=q8_0"), 2, "no regular expression"),
        ((mixtral, "--dry-run", "--tensor-type", "ffn_dwn=q6_k"), 2, "ffn_dwn=q6_k fits no matrix"),
        ((mixtral, "--dry-run", "--tensor-type", "ffn_gate_inp=q8_0"), 2, "fits no matrix whose type can"),
    ):
        result = run(*arguments)
        assert result.returncode == code
        assert words in result.stderr
        assert result.stderr.count("\n") == 1
