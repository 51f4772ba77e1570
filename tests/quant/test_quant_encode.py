"""The compiled encoders: what they share with the specification, and how good they are."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from quant.blocks import FORMATS, dequantize
from quant.encode import quantize
from quant.encoders.finite import widened
from quant.errors import QuantError

PLAIN = ("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "mxfp4")
SEARCHED = ("iq4_nl", "q4_k", "q5_k", "q6_k")
WRITABLE = tuple(n for n, f in FORMATS.items() if f.writable)
WEIGHTED = tuple(n for n in WRITABLE if n not in ("f32", "f16", "bf16", "q8_0"))
# relative RMSE on normal weights: under ggml's 0.0763, 0.0714, 0.0362, 0.0178 by what the search is worth
REACHED = {"iq4_nl": 0.0762, "q4_k": 0.0707, "q5_k": 0.0348, "q6_k": 0.01765}
ROOT = Path(__file__).resolve().parents[2]
GGML = json.loads((ROOT / "tests" / "quant" / "data" / "ggml_errors.json").read_text())


def weights(rows: int = 64, cols: int = 1024, seed: int = 5) -> np.ndarray:
    return (0.02 * np.random.default_rng(seed).standard_normal((rows, cols))).astype(np.float32)


def awkward() -> np.ndarray:
    """Rows of zeros, of one value, of ties between +x and -x, of outliers, of tiny and of large weights."""
    x = weights(16)
    x[0], x[1], x[2], x[3] = 0, 0.3, -0.3, np.where(np.arange(1024) % 2, 0.25, -0.25)
    x[4, ::100], x[5], x[6] = 3, 1e-30, x[6] * 1e-6
    x[7], x[8], x[9, 5:] = x[7] * 1e5, np.abs(x[8]), 0
    x[10] = (weights(1).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return x


def relative_rmse(x: np.ndarray, name: str, importance: np.ndarray | None = None) -> float:
    error = dequantize(quantize(x, name, importance), name).astype(np.float64) - x
    return float(np.sqrt(np.mean(error**2) / np.mean(x.astype(np.float64) ** 2)))


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("make", [weights, awkward])
def test_formats_without_a_search_equal_the_specification(name, make):
    np.testing.assert_array_equal(quantize(make(), name), FORMATS[name].encode(make()))


@pytest.mark.parametrize("make", [weights, awkward])
def test_mxfp4_equals_the_specification_under_an_importance_too(make):
    importance = np.exp(np.random.default_rng(0).normal(size=1024)).astype(np.float32)
    x = np.ldexp(make(), np.arange(len(make()))[:, None] - 30)
    expected = FORMATS["mxfp4"].encode(x, importance)
    np.testing.assert_array_equal(quantize(x, "mxfp4", importance), expected)
    assert (expected != FORMATS["mxfp4"].encode(x)).any()


@pytest.mark.parametrize("name", SEARCHED)
def test_search_reaches_its_error_and_beats_the_plain_specification(name):
    x = weights()
    plain = FORMATS[name].decode(FORMATS[name].encode(x)) - x
    ours = relative_rmse(x, name)
    assert ours < REACHED[name]
    assert ours <= float(np.sqrt(np.mean(plain**2) / np.mean(x**2))) * 1.001


@pytest.fixture(scope="module")
def benchmark():
    """benchmarks/quantize.py, which has measured ggml's errors (--record) and says on which weights."""
    spec = importlib.util.spec_from_file_location("quantize_benchmark", ROOT / "benchmarks" / "quantize.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("case", sorted({key.split("/")[0] for key in GGML}))
def test_no_error_exceeds_ggmls_on_any_kind_of_weights(case, benchmark):
    name, _, weighted = case.partition(" ")
    importance = benchmark.column_importance(benchmark.RECORDED[1]) if weighted else None
    for data, x in benchmark.datasets(*benchmark.RECORDED).items():
        ours = benchmark.errors(quantize(x, name, importance), name, x, importance)
        for kind, theirs in GGML[f"{case}/{data}"].items():
            assert ours[kind] <= theirs * 1.0005, (data, kind)


@pytest.mark.parametrize("name", WRITABLE)
@pytest.mark.parametrize("weighted", [False, True])
def test_awkward_weights_keep_to_their_error(name, weighted):
    x = awkward()
    importance = np.linspace(0.5, 2, 1024, dtype=np.float32) if weighted else None
    decoded = dequantize(quantize(x, name, importance), name)
    assert np.isfinite(decoded).all()
    assert not decoded[0].any()
    scale = np.abs(x).max(axis=1, keepdims=True)
    worst = {"f32": 0, "f16": 1e-3, "bf16": 4e-3, "q8_0": 6e-3, "q6_k": 0.04, "q5_k": 0.09}.get(name, 0.18)
    worst = 0.26 if name == "mxfp4" else worst  # what is beyond its last level is cut off
    assert (np.abs(decoded - x) <= worst * scale + 1e-6).all()
    for row in (1, 2):  # one value throughout: only the rounding of scales is left, to powers of two in mxfp4
        np.testing.assert_allclose(decoded[row], x[row], rtol=0.2 if name == "mxfp4" else 4e-3)


@pytest.mark.parametrize("name", WEIGHTED)
def test_importance_moves_the_error_to_columns_that_matter_less(name):
    x = weights()
    importance = np.where(np.arange(1024) % 8 == 0, 100, 1).astype(np.float32)

    def error(importance_given):
        decoded = dequantize(quantize(x, name, importance_given), name)
        return float((importance * (decoded - x) ** 2).sum())

    assert error(importance) < (0.99 if name == "mxfp4" else 0.95) * error(None)  # it has two scales to try


@pytest.mark.parametrize("name", WRITABLE)
@pytest.mark.parametrize("weighted", [False, True])
def test_bytes_do_not_depend_on_threads_or_on_the_rows_beside(name, weighted):
    x = weights(37, 768)
    importance = np.random.default_rng(0).random(768).astype(np.float32) if weighted else None
    one = quantize(x, name, importance, threads=1)
    np.testing.assert_array_equal(quantize(x, name, importance, threads=3), one)
    alone = np.concatenate([quantize(row[None], name, importance) for row in x])
    np.testing.assert_array_equal(alone, one)


@pytest.mark.parametrize("name", WRITABLE)
def test_an_importance_of_nothing_but_zeros_counts_all_alike(name):
    x = weights(4)
    assert relative_rmse(x, name, np.zeros(1024)) < 0.12


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("size", [2.0**-149, 2.0**-73, 2.0**-60, 2.0**60, 2.0**127])
def test_only_ratios_of_importance_count(name, size):
    x = weights(4)
    x[1] *= 1e5
    importance = np.ones(1024, np.float32)
    expected = quantize(x, name, importance)
    np.testing.assert_array_equal(quantize(x, name, importance * np.float32(size)), expected)
    importance[:256] = size  # one block of columns that hardly matter, or are all that matters
    np.testing.assert_array_equal(quantize(x, name, importance), expected)


@pytest.mark.parametrize("name", WEIGHTED)
def test_any_spread_of_importance_leaves_weights_finite(name):
    spread = np.random.default_rng(0).permutation(np.geomspace(1e-38, 1e38, 1024)).astype(np.float32)
    for x in (weights(8), 1e5 * weights(8), 1e-9 * weights(8)):
        decoded = dequantize(quantize(x, name, spread), name)
        assert np.isfinite(decoded).all()
        assert np.abs(decoded).max() < 1.5 * np.abs(x).max() + 1e-6


@pytest.mark.parametrize("name", WEIGHTED)
def test_the_largest_weights_stay_finite_whatever_their_importance(name):
    x = np.random.default_rng(1).uniform(-65504, 65504, (64, 256)).astype(np.float32)
    x[::2, ::64] = -65504
    for seed in range(4):
        importance = np.random.default_rng(seed).exponential(size=256)
        assert np.isfinite(dequantize(quantize(x, name, importance), name)).all()


def test_shapes_are_kept():
    x = weights(6, 512)
    np.testing.assert_array_equal(quantize(x.reshape(2, 3, 512), "Q4_K").reshape(6, -1), quantize(x, "q4_k"))
    assert quantize(x[0], "q4_k").shape == (288,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e6])
def test_weights_that_no_format_can_hold_are_named(bad):
    x = weights(600)
    x[517, 33] = bad
    with pytest.raises(QuantError, match=r"the weight at \[517, 33\] is .*, which q4_k cannot hold"):
        quantize(x, "q4_k")


@pytest.mark.parametrize("cols", [1, 15, 16, 33, 256])
def test_every_float16_is_widened_exactly(cols):
    halves = np.arange(1 << 16, dtype="<u2")[: (1 << 16) // cols * cols].reshape(-1, cols)
    with np.errstate(invalid="ignore"):
        expected = halves.view("<f2").astype(np.float32)
    np.testing.assert_array_equal(widened(halves.view(np.uint8)), expected)


def test_large_finite_weights_are_fine_in_f32_and_bf16():
    x = np.full((1, 256), 1e30, np.float32)
    assert dequantize(quantize(x, "f32"), "f32")[0, 0] == np.float32(1e30)
    np.testing.assert_allclose(dequantize(quantize(x, "bf16"), "bf16"), x, rtol=4e-3)
    x[0, 3] = np.float32(2.0**128 - 2.0**120)  # bfloat16's largest
    assert dequantize(quantize(x, "bf16"), "bf16")[0, 3] == x[0, 3]
    x[0, 3] = 3.4e38
    with pytest.raises(QuantError, match="bf16 cannot hold"):
        quantize(x, "bf16")
    assert quantize(x, "f32").view("<f4")[0, 3] == x[0, 3]
    x[0, 3] = np.inf
    with pytest.raises(QuantError, match="f32 cannot hold"):
        quantize(x, "f32")


@pytest.mark.parametrize(
    ("importance", "message"),
    [(np.ones(8), "has shape"), (np.full(1024, -1.0), "not negative"), (np.full(1024, np.nan), "finite")],
)
def test_a_wrong_importance_is_refused(importance, message):
    with pytest.raises(QuantError, match=message):
        quantize(weights(1), "q4_k", importance)


def test_a_format_that_is_only_read_is_refused():
    with pytest.raises(QuantError, match="can be read, not written"):
        quantize(weights(1), "q2_k")
