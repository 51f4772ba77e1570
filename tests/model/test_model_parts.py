"""A model in several files runs as the one file does, whichever part is named."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_models import split_model, write_model

import localmoe
from localmoe.cli.main import run
from localmoe.experts.plan import smallest
from localmoe.model.identity import identity
from localmoe.model.imatrix import collect, load_collecting
from quant.gguf import GGUFFile, GGUFWriter
from quant.parts import open_model

IDS = [1, *range(3, 90), 261, 300]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, 23 tensors; parts begin amid the experts of each."""
    return write_model(tmp_path_factory.mktemp("parts") / "m.gguf", types={"": "q4_k", "ffn_down": "q6_k"})


@pytest.fixture(scope="module")
def parts(whole: Path) -> list[Path]:
    return split_model(whole, 0, 9, 10, 18)  # the first without a tensor, as gguf-split can make it


@pytest.fixture(autouse=True)
def statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from localmoe.experts import store

    monkeypatch.setattr(store, "default_directory", lambda: tmp_path / "statistics")
    return tmp_path / "statistics"


def bound(path: Path, slots: int) -> int:
    """A bound under which about `slots` of the eight experts may stay."""
    with localmoe.load(path, context=128, threads=2) as model:
        needs = model.plan.needs
    assert needs.layout is not None
    return smallest(needs) + slots * max(each.slot_bytes for each in needs.layout.classes)


@pytest.mark.parametrize("slots", [None, 1, 3])
def test_the_same_logits_from_any_part(whole: Path, parts: list[Path], slots: int | None) -> None:
    with localmoe.load(whole, context=128, threads=2) as model:
        expected = model.logits(IDS)
    ram = None if slots is None else bound(whole, slots)
    for part in parts:
        with localmoe.load(part, context=128, threads=2, ram=ram) as model:
            assert model.status()["paged"] == (slots is not None)
            np.testing.assert_array_equal(model.logits(IDS), expected)
            assert (model.name, model.path) == ("m-parts", parts[0])


def test_a_tensor_per_expert_across_parts(whole: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.gguf"
    with GGUFFile.open(whole) as file, GGUFWriter(old, file.metadata) as out:
        pieces = {}
        for name, tensor in file.tensors.items():
            if name.endswith("_exps.weight"):
                stem = name.removesuffix("_exps.weight")
                pieces |= {f"{stem}.{e}.weight": (tensor.type, rows) for e, rows in enumerate(tensor.data)}
            else:
                pieces[name] = (tensor.type, tensor.data)
        shapes = {name: file.tensors[name].shape for name in pieces if name in file.tensors}
        for name, (kind, _) in pieces.items():
            out.declare(name, shapes.get(name, (256, 256)), kind)
        for name, (_, data) in pieces.items():
            out.write(name, data)
    first = split_model(old, 8, 13, 30)[0]
    with localmoe.load(whole, context=128, threads=2) as model:
        expected = model.logits(IDS)
    with localmoe.load(first, context=128, threads=2, ram=bound(whole, 2)) as model:
        np.testing.assert_array_equal(model.logits(IDS), expected)


def test_states_and_statistics_are_found_from_any_part(
    parts: list[Path], tmp_path: Path, statistics: Path
) -> None:
    for number, part in enumerate(parts):
        with localmoe.load(part, context=128, threads=2) as model:
            assert model._engine.residency is not None
            assert model._engine.residency.statistics.tokens == len(IDS) * number
            if number:
                assert model.decoder().load(tmp_path / "state.kv", model.identity) == len(IDS)
            decoder = model.decoder()
            decoder.extend(IDS)
            decoder.save(tmp_path / "state.kv", model.identity)
    assert len(list(statistics.glob("*.npz"))) == 1


def test_the_identity_of_one_file_stays_what_it_was(whole: Path) -> None:
    """States and statistics on disk are kept under it."""
    with open_model(whole) as model:
        data, start = whole.read_bytes(), model.data_offset
        span = len(data) - start - 4096
        samples = (data[at : at + 4096] for at in (start + span * i // 63 for i in range(64)))
        digest = hashlib.sha256(b"".join([b"%d" % len(data), data[:start], *samples])).hexdigest()
        assert identity(model) == digest[:32]


def test_every_part_tells_models_apart(whole: Path, tmp_path: Path) -> None:
    identities = set()
    for changed in (None, 0, 1, 2):
        parts = split_model(whole, 3, 15, stem=tmp_path / f"{changed}")
        if changed is not None:
            data = parts[changed].read_bytes()
            parts[changed].write_bytes(data[: -len(data) // 2] + bytes(len(data) - len(data) // 2))
        with open_model(parts[0]) as model:
            identities.add(identity(model))
    parts[1].write_bytes(parts[1].read_bytes().replace(b"attn_k", b"attn_x", 1))  # in its header
    with open_model(parts[0]) as model:
        identities.add(identity(model))
    assert len(identities) == 5


def test_an_importance_matrix_is_that_of_the_one_file(whole: Path, parts: list[Path]) -> None:
    made = []
    for path in (whole, parts[2]):
        with load_collecting(path, 2, lambda line: None) as model:
            made.append(collect(model, "abc def " * 20, 64).entries)
    assert made[0].keys() == made[1].keys()
    for name, entry in made[0].items():
        np.testing.assert_array_equal(entry.sums, made[1][name].sums)


def test_chat_in_a_pipe_on_the_second_part(whole: Path, parts: list[Path]) -> None:
    answers = []
    for path in (whole, parts[1]):
        command = [sys.executable, "-m", "localmoe", "chat", str(path), "--device", "cpu", "--no-history"]
        result = subprocess.run(
            [*command, "--temperature", "0", "--max-tokens", "9"],
            input="abc", capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        answers.append(result.stdout)
    assert answers[0].strip()
    assert answers[0] == answers[1]


def test_commands_take_any_part(
    parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def output(*arguments: str) -> str:
        assert run(list(arguments)) == 0
        return capsys.readouterr().out

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    text = tmp_path / "text"
    text.write_text("abc def ghi " * 9)
    second = str(parts[1])
    assert json.loads(output("bench", second, "-p", "8", "-n", "2", "-r", "1", "--json"))["decode_tps"] > 0
    assert json.loads(output("perplexity", second, str(text), "--json"))["perplexity"] > 0
    assert json.loads(output("experts", second, "--json"))["model"] == "m-parts"
    assert json.loads(output("chat", second, "-p", "abc", "--dry-run", "--json"))["prompt_tokens"] > 0
    assert "experts" in output("chat", second, "--plan", "--json")
    parts[2].rename(tmp_path / "away")
    try:
        for command in (["bench"], ["chat", "-p", "a", "--plan"], ["chat", "-p", "a"], ["experts"]):
            assert run([command[0], second, *command[1:]]) == 2
            error = capsys.readouterr().err
            assert error.count("\n") == 1
            assert f"{parts[2]}: no such file; all 5 parts" in error
    finally:
        (tmp_path / "away").rename(parts[2])
