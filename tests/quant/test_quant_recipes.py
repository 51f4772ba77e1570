"""Recipes against what llama.cpp's llama_model_quantize gave each tensor (llama-cpp-python 0.3.36)."""

import json
from pathlib import Path

import pytest

from quant.errors import QuantError
from quant.recipes import Model, choose, parse_override, recipe_named

CASES = json.loads((Path(__file__).parent / "data" / "llama_quantize_types.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_gets_the_type_that_llama_quantize_gives_it(case):
    given = CASES[case]
    model = Model(given["layers"], given["experts"], given["tied"])
    assert len(given["types"]) == 26  # thirteen recipes, each also pure
    for label, types in given["types"].items():
        name, _, pure = label.partition(" ")
        ours = [
            choose(tensor, shape, recipe_named(name), model, pure=bool(pure)).type
            for tensor, shape in given["shapes"].items()
        ]
        assert " ".join(ours) == types, (case, label)


@pytest.mark.parametrize("name", ["Q4_K_M", "q4_k_m", "Q4_k_M"])
def test_names_are_understood_in_any_case(name):
    assert recipe_named(name).file_type == 15


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(QuantError, match=r"unknown recipe 'q3_k'; there are f32, f16, .*q6_k"):
        recipe_named("q3_k")


def kind(name, shape=(8, 512, 256), recipe="q4_k_m", **options):
    return choose(name, shape, recipe_named(recipe), Model(16, 8), **options)


def test_overrides_take_the_first_match_and_spare_norms_and_router():
    overrides = [parse_override("ffn_down=q8_0"), parse_override("ffn_.*_exps=Q5_K")]
    assert kind("blk.3.ffn_down_exps.weight", overrides=overrides).type == "q8_0"
    assert kind("blk.3.ffn_up_exps.weight", overrides=overrides).type == "q5_k"
    assert kind("blk.3.attn_q.weight", (256, 256), overrides=overrides).type == "q4_k"
    everything = [parse_override(".=q8_0")]
    assert kind("blk.3.attn_norm.weight", (256,), overrides=everything).type == "f32"
    assert kind("blk.3.ffn_gate_inp.weight", (8, 256), overrides=everything).type == "f32"


@pytest.mark.parametrize("text", ["q8_0", "=q8_0", "attn=q9", "attn=q2_k", "(=q8_0"])
def test_overrides_that_mean_nothing_are_refused(text):
    with pytest.raises(QuantError):
        parse_override(text)


def test_rows_that_blocks_do_not_divide_get_the_fallback_and_a_note():
    choice = kind("blk.3.ffn_up_exps.weight", (8, 512, 288))
    assert (choice.type, choice.note) == ("q5_0", "rows of 288: q5_0 instead of q4_k")
    assert kind("blk.3.attn_q.weight", (256, 100)).type == "f16"


def test_an_importance_matrix_spares_the_first_layers_of_q4_0_and_q5_0():
    for recipe, first in (("q4_0", "q4_1"), ("q5_0", "q5_1")):
        model = Model(16, 8, importance=True)
        types = [
            choose(f"blk.{i}.ffn_down_exps.weight", (8, 256, 512), recipe_named(recipe), model).type
            for i in range(3)
        ]
        assert types == [first, first, recipe]
