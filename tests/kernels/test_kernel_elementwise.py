"""Normalisation, SwiGLU, exponentials and int8 activations against NumPy."""

from __future__ import annotations

import kernel_reference as reference
import numpy as np
import pytest
from kernel_rows import address, quantized_activations

from localmoe.kernels.elementwise import exp16, rms_norm, swiglu
from localmoe.kernels.simd import load_f32x16, store_f32x16
from quant.compiled import compiled


@compiled()
def _exponentials(x: int, n: int, out: int) -> None:
    for i in range(0, n * 4, 64):
        store_f32x16(out + i, exp16(load_f32x16(x + i)))


def test_exponential_is_within_two_ulps():
    x = np.linspace(-87, 88, 1 << 16).astype(np.float32)
    out = np.full_like(x, np.nan)
    _exponentials(address(x), x.size, address(out))
    expected = np.exp(x.astype(np.float64))
    assert (np.abs(out - expected) <= 2 * np.spacing(expected.astype(np.float32))).all()


def test_exponential_saturates_and_never_makes_nonsense():
    x = np.array([-np.inf, -1e30, -200, -88, 88, 89, 200, 1e30, np.inf, 0, -0.0, 1e-40] + [0] * 4, np.float32)
    out = np.full_like(x, np.nan)
    _exponentials(address(x), x.size, address(out))
    assert (out[:4] <= 2e-38).all()
    assert (out[:4] >= 0).all()
    assert (out[4:9] > 1e38).all()
    assert np.isfinite(out).all()
    assert (out[9:] == 1).all()


def test_the_exponential_of_what_is_not_a_number_is_none():
    x = np.array([np.nan, 1, -np.nan, 0] * 4, np.float32)
    out = np.zeros_like(x)
    _exponentials(address(x), x.size, address(out))
    np.testing.assert_array_equal(np.isnan(out), np.isnan(x))


@pytest.mark.parametrize("n", [16, 32, 256, 4096, 33, 47])
def test_rms_norm_is_the_papers(n, rng):
    x = (rng.standard_normal(n) * 10.0 ** rng.integers(-3, 3)).astype(np.float32)
    weight, out = rng.standard_normal(n).astype(np.float32), np.full(n, np.nan, np.float32)
    rms_norm(address(x), address(weight), n, 1e-5, address(out))
    np.testing.assert_allclose(out, reference.rms_norm(x, weight, 1e-5), rtol=3e-6, atol=1e-7)


@pytest.mark.parametrize("n", [16, 256, 288, 4096])
def test_swiglu_is_the_papers(n, rng):
    gate, up = (rng.standard_normal((2, n)) * 5).astype(np.float32)
    expected = reference.swiglu(gate.astype(np.float64), up.astype(np.float64))
    got = up.copy()
    swiglu(address(gate), address(got), n)
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1e-7)


def test_swiglu_of_large_gates_stays_finite():
    gate = np.array([-1e4, -100, -88, 88, 100, 1e4, 0, -0.0] * 2, np.float32)
    got = np.ones(16, np.float32)
    swiglu(address(gate), address(got), 16)
    np.testing.assert_allclose(got, np.maximum(gate, 0), atol=1e-30)


@pytest.mark.parametrize("cols", [16, 32, 256, 288, 608, 1024])
def test_int8_activations_are_the_references(cols, rng):
    x = (rng.standard_normal((4, cols)) * np.float32(10) ** rng.integers(-4, 5, (4, 1))).astype(np.float32)
    x[1] = 0
    x[2] = np.linspace(-1, 1, cols)  # -127 and 127 both occur
    a = quantized_activations(x)
    q, scales = reference.quantize_activations(x)
    np.testing.assert_array_equal(a.q, q.reshape(4, -1))
    np.testing.assert_array_equal(a.scales, scales)
    np.testing.assert_array_equal(a.sums, q.reshape(4, -1, 16).astype(np.int16).sum(-1))
    assert np.abs(a.q.astype(np.int64)).max() <= 127


def test_int8_activations_are_within_half_a_step(rng):
    x = rng.standard_normal((2, 512)).astype(np.float32)
    steps = np.repeat(reference.quantize_activations(x)[1], 256, axis=1)
    assert (np.abs(reference.as_int8(x) - x) <= 0.5001 * steps).all()


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 17, 200, 255])
def test_a_group_with_what_is_not_a_number_has_a_scale_that_is_none(value, at, rng):
    x = rng.standard_normal((2, 768)).astype(np.float32)
    x[1, 256 + at] = value
    scales = quantized_activations(x).scales
    np.testing.assert_array_equal(np.isfinite(scales), [[True] * 3, [True, False, True]])
