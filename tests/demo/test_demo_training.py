"""What the training computes: Mixtral's forward pass, Muon's step, and the converter's rounding."""

import random
from pathlib import Path

import corpus
import pytest
import sentencepiece
import torch
from batches import ANY, batch, encode, hardest, read_by
from model import Layout, Shape, _by_expert, forward, orthogonal, rotary
from rounding import Rounding
from train import answer_losses
from weights import read

from quant.gguf import GGUFFile

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "demo" / "model"


@pytest.fixture(scope="module")
def flat() -> torch.Tensor:
    return read(MODEL, Shape())


def test_the_forward_pass_is_transformers(flat: torch.Tensor) -> None:
    from transformers import MixtralForCausalLM

    tokens = sentencepiece.SentencePieceProcessor(model_file=str(MODEL / "tokenizer.model"))
    talks = [corpus.dialogue(random.Random(n)) for n in range(6)]
    rows = [encode(tokens, {"system": t.system, "turns": t.turns}) for t in talks]
    rows.sort(key=lambda row: -len(row[0]))
    groups, mask, *_ = batch(rows, torch.device("cpu"))
    shape = Shape()
    weights = Layout(shape).views(flat)
    with torch.no_grad():
        x, _, shares = forward(weights, shape, groups, rotary(shape, torch.device("cpu")), mask)
        ours = (x @ weights["head"].T)[mask]
        model = MixtralForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
        theirs = torch.cat([model(torch.tensor([ids])).logits[0] for ids, *_ in rows])
    assert torch.allclose(ours, theirs, atol=2e-3)
    assert torch.allclose(shares.sum(1), torch.ones(shape.layers))


def test_choices_are_sorted_by_expert_and_padded() -> None:
    flat = torch.tensor([2, 0, 2, 2, 0, 5])
    order, ends = _by_expert(flat, experts=6, multiple=4)
    assert ends == [4, 4, 8, 8, 8, 12]
    assert order.tolist() == [1, 4, 6, 6, 0, 2, 3, 6, 5, 6, 6, 6]


def test_muons_step_points_to_the_nearest_orthogonal_matrix() -> None:
    g = torch.randn(11, 64, 96, generator=torch.Generator().manual_seed(1))  # more than fit at once
    made = orthogonal(g).float()
    u, _, v = torch.linalg.svd(g, full_matrices=False)
    cosine = torch.nn.functional.cosine_similarity(made.flatten(1), (u @ v).flatten(1))
    assert cosine.min() > 0.85  # three steps leave singular values between 0.2 and 1.9


def test_training_rounds_as_the_converter_does(flat: torch.Tensor) -> None:
    layout = Layout(Shape())
    rounded = torch.full_like(flat, torch.nan)
    middle = layout.total // 2 // 256 * 256
    rounding = Rounding(layout)
    rounding(flat, 0, middle, rounded)  # in two stretches, as two processes do
    rounding(flat, middle, layout.total, rounded)
    views = layout.views(rounded)
    with GGUFFile.open(ROOT / "localmoe" / "data" / "demo.gguf") as file:

        def held(name: str) -> torch.Tensor:
            tensor = file.tensors[name]
            return torch.from_numpy(tensor.format.decode(tensor.data))

        assert torch.equal(views["embed"], held("token_embd.weight"))
        assert torch.equal(views["head"], held("output.weight"))
        for layer in range(layout.shape.layers):
            block = f"blk.{layer}."
            assert torch.equal(views[f"{layer}.v"], held(block + "attn_v.weight"))
            assert torch.equal(views[f"{layer}.o"], held(block + "attn_output.weight"))
            assert torch.equal(views[f"{layer}.gate"], held(block + "ffn_gate_inp.weight"))
            gate, up, down = (held(f"{block}ffn_{part}_exps.weight") for part in ("gate", "up", "down"))
            for expert in range(layout.shape.experts):
                assert torch.equal(views[f"{layer}.w13.{expert}"], torch.cat([gate[expert], up[expert]]))
                assert torch.equal(views[f"{layer}.w2.{expert}"], down[expert])


def test_a_step_keeps_what_teaches_most_for_its_length_and_a_few_others() -> None:
    lengths = [10, 100, 1000, *[50] * 29]
    rows = [([0] * n, [], []) for n in lengths]
    losses = [1.0, 3.0, 20.0, *[0.5] * 29]  # per token: the first, then the second, then the third
    kept = hardest(rows, losses, 2)
    assert [row is mine for row, mine in zip(kept, (rows[0], rows[1]), strict=True)] == [True, True]
    kept = hardest(rows, losses, 2 * ANY)
    assert len({id(row) for row in kept}) == 2 * ANY
    assert sum(row is rows[n] for row in kept for n in range(3)) == 3
    random_ones = kept[-2:]
    assert all(row in rows[3:] for row in random_ones)
    flat = hardest(rows[3:], [float(n) for n in range(29)], ANY)  # one in ANY: the first drawn of those left
    assert flat[-1] is rows[3]


def test_what_a_rows_answers_cost_does_not_depend_on_its_neighbours(flat: torch.Tensor) -> None:
    tokens = sentencepiece.SentencePieceProcessor(model_file=str(MODEL / "tokenizer.model"))
    talks = [corpus.dialogue(random.Random(n)) for n in range(5)]
    rows = [encode(tokens, {"system": t.system, "turns": t.turns}) for t in talks]
    rows.sort(key=lambda row: -len(row[0]))
    shape = Shape()
    weights, tables = Layout(shape).views(flat), rotary(shape, torch.device("cpu"))
    together = answer_losses(weights, shape, rows, tables)
    alone = [answer_losses(weights, shape, [row], tables)[0] for row in rows]
    assert together == pytest.approx(alone, rel=1e-3, abs=1e-4)
    assert len(set(together)) == len(rows)


def test_readers_make_the_same_steps_each_time_and_in_order() -> None:
    def first(count: int) -> list[list[list[int]]]:
        steps = read_by(2, str(MODEL / "tokenizer.model"), 5, 1024, 3, 1)
        return [[row[0] for row in next(steps)] for _ in range(count)]

    made = first(3)
    assert [len(step) for step in made] == [4, 4, 4]  # three dialogues, one row to copy
    assert made[0] != made[1] != made[2] != made[0]
    assert first(3) == made


def test_a_gpus_batch_has_fewer_groups_and_the_same_answers() -> None:
    rows = [([1] * n, [False] + [True] * (n - 1), []) for n in (40, 36, 30, 24, 21, 12)]
    cpu, gpu = (batch(rows, torch.device(name)) for name in ("cpu", "meta"))
    assert [tuple(g.shape) for g in cpu[0]] == [(3, 40), (2, 24), (1, 12)]
    assert [tuple(g.shape) for g in gpu[0]] == [(5, 40), (1, 12)]
    assert len(cpu[3]) == len(gpu[3]) == sum(n - 1 for n in (40, 36, 30, 24, 21, 12))
