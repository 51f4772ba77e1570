"""Importance matrices as they are collected: named and shaped as the converter looks for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tiny_models import metadata, write_model

from localmoe.model.imatrix import collect, load_collecting
from quant.plan import make_plan
from quant.recipes import recipe_named
from quant.sources import open_source


def a_tensor_per_expert(shapes: dict[str, tuple[int, ...]]) -> None:
    """The layout of files of before April 2024."""
    for name in [n for n in shapes if "_exps" in n]:
        experts, *shape = shapes.pop(name)
        stem = name.removesuffix("_exps.weight")
        shapes.update({f"{stem}.{e}.weight": tuple(shape) for e in range(experts)})


def covers(path: Path) -> None:
    with load_collecting(path, 2, lambda line: None) as model:
        importance = collect(model, "a b c d e f g " * 20, 32)
    assert importance.entries["blk.0.ffn_gate_exps.weight"].sums.shape == (4, 256)
    assert importance.entries["blk.1.attn_output.weight"].sums.shape == (1, 256)
    per_token = sum(importance.entries["blk.0.ffn_down_exps.weight"].counts)
    assert per_token == 2 * sum(importance.entries["blk.0.attn_q.weight"].counts)
    source = open_source(path)
    assert make_plan(source, recipe_named("q4_0"), importance=importance).notes == []
    source.close()


def test_all_matrices_are_covered(tiny: Callable[[str], Path]) -> None:
    covers(tiny("float"))


def test_a_tensor_per_expert_is_covered_under_the_name_that_all_will_have(tmp_path: Path) -> None:
    covers(write_model(tmp_path / "old.gguf", metadata(), change=a_tensor_per_expert))
