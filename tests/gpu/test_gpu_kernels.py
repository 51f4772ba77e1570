"""The Triton kernels, interpreted: see kernel_checks.py."""

import pytest


@pytest.mark.parametrize(
    "name",
    ["norm_and_embed", "route", "append", "window", "embed_k_quants", "linear", "qkv", "linear_many"],
)
def test_kernels_agree_with_numpy(run_interpreted, name):
    assert f"{name}: right" in run_interpreted("kernel_checks.py", name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["experts", "experts_many", "expert_many", "attention"])
def test_larger_kernels_agree_with_numpy(run_interpreted, name):
    assert f"{name}: right" in run_interpreted("kernel_checks.py", name, timeout=280)


def test_device_and_host_decide_the_same_at_every_step(run_interpreted):
    told = run_interpreted("resolve_replay.py", "cpu", "25")
    assert told.count("hit") == 4  # few experts and many, in two modes
