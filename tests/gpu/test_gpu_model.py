"""A whole tiny model through the GPU's code, interpreted: see model_parity.py."""

import pytest

SLOW = [pytest.param(case, marks=pytest.mark.slow) for case in ("dense", "qwen", "few_bits")]


@pytest.mark.parametrize("case", ["prefill", "gpt_oss", *SLOW])
def test_the_gpu_path_agrees_with_the_cpu(run_interpreted, tmp_path, case):
    assert f"{case}: right" in run_interpreted("model_parity.py", str(tmp_path), case)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", ["modes", "file_only", "many"])
def test_modes_agree_with_the_cpu(run_interpreted, tmp_path, case):
    assert f"{case}: right" in run_interpreted("model_parity.py", str(tmp_path), case, timeout=580)
