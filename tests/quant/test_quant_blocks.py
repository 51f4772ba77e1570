"""The NumPy specification of each format against gguf's reference."""

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize as reference_decode
from gguf.quants import quantize as reference_encode

from quant.blocks import BY_GGML_TYPE, FORMATS, block_format, dequantize, quantize
from quant.errors import QuantError

EXACT = ("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
# RMSE on N(0, 1)
SEARCHED = {"q4_k": 0.0725, "q5_k": 0.0365, "q6_k": 0.0185, "iq4_nl": 0.0765, "mxfp4": 0.1125}


def reference_type(name: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[name.upper()]


def sample(rows: int = 64, cols: int = 1024) -> np.ndarray:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((rows, cols)) * np.exp(3 * rng.standard_normal((rows, 1)))
    x[3], x[4], x[5, :32], x[7, ::64] = 0, 0.3, -1, 1e-30
    x[6] = rng.integers(-4, 5, cols)
    return x.astype(np.float32)


@pytest.mark.parametrize("name", FORMATS)
def test_geometry_is_ggmls(name):
    kind = FORMATS[name]
    assert gguf.GGML_QUANT_SIZES[reference_type(name)] == (kind.block_size, kind.block_bytes)
    assert BY_GGML_TYPE[int(reference_type(name))] is kind


@pytest.mark.parametrize("name", FORMATS)
def test_any_bytes_decode_bit_exactly(name):
    kind = FORMATS[name]
    blocks = np.random.default_rng(0).integers(0, 256, (64, kind.row_bytes(1024)), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = reference_decode(blocks, reference_type(name))
    decoded = kind.decode(blocks)
    same = (decoded.view(np.uint32) == expected.view(np.uint32)) | (np.isnan(decoded) & np.isnan(expected))
    assert same.all()


@pytest.mark.parametrize("name", EXACT)
def test_encoding_is_bit_exact(name):
    x = sample()
    with np.errstate(all="ignore"):
        expected = reference_encode(x, reference_type(name))
    np.testing.assert_array_equal(quantize(x, name), expected.view(np.uint8))


@pytest.mark.parametrize("name", SEARCHED)
def test_search_reaches_the_error_of_its_format(name):
    x = np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float32)
    decoded = dequantize(quantize(x, name), name)
    assert np.sqrt(np.mean((decoded - x) ** 2)) < SEARCHED[name]


def test_no_block_of_mxfp4_errs_more_than_ggmls_and_some_err_less():
    x = sample()
    with np.errstate(all="ignore"):
        theirs = reference_encode(x, reference_type("mxfp4"))

    def errors(encoded):
        return ((dequantize(encoded, "mxfp4").astype(np.float64) - x) ** 2).reshape(-1, 32).sum(axis=1)

    ours, ggmls = errors(quantize(x, "mxfp4")), errors(theirs)
    assert (ours <= ggmls * (1 + 1e-5)).all()
    assert (ours < 0.9 * ggmls).mean() > 0.1


@pytest.mark.parametrize("name", [n for n, f in FORMATS.items() if f.writable and f.block_size > 1])
def test_importance_moves_the_error_to_columns_that_matter_less(name):
    x = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    importance = np.where(np.arange(256) % 8 == 0, 100, 1).astype(np.float32)

    def error(encoded):
        return float((importance * (dequantize(encoded, name) - x) ** 2).sum())

    plain, weighted = error(quantize(x, name)), error(quantize(x, name, importance))
    less = 0.99 if name == "mxfp4" else 0.95  # it has two scales to try
    assert weighted == plain if name == "q8_0" else weighted < less * plain


@pytest.mark.parametrize("name", [n for n, f in FORMATS.items() if f.writable])
def test_zero_weights_stay_zero(name):
    x = np.zeros((2, 256), np.float32)
    assert not dequantize(quantize(x, name), name).any()
    assert not dequantize(quantize(x, name, np.ones(256, np.float32)), name).any()


def test_shapes_of_higher_rank_and_parts_of_rows_agree():
    x = sample(8, 512)
    whole = quantize(x.reshape(2, 4, 512), "q4_k")
    assert whole.shape == (2, 4, 288)
    by_row = np.concatenate([quantize(row[None], "q4_k") for row in x])
    np.testing.assert_array_equal(whole.reshape(8, 288), by_row)
    assert dequantize(whole, "Q4_K").shape == (2, 4, 512)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quantize(np.zeros((1, 100), np.float32), "q4_0"), "multiple of 32"),
        (lambda: dequantize(np.zeros((1, 100), np.uint8), "q4_k"), "multiple of 144"),
        (lambda: quantize(np.zeros((1, 256), np.float32), "q2_k"), "can be read, not written"),
        (lambda: quantize(np.zeros((1, 256), np.float32), "q4_0", np.ones(8, np.float32)), "importance"),
        (lambda: block_format("q9_9"), "unknown tensor type 'q9_9'; there are bf16"),
    ],
)
def test_misuse_is_refused(call, message):
    with pytest.raises(QuantError, match=message):
        call()
