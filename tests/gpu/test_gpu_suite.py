"""benchmarks/gpu_suite.py without a GPU: that the script works, and what it assumes of routing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from localmoe.experts.traces import repeat_share

ROOT = Path(__file__).resolve().parents[2]
MODES = ("static", "stream", "cpu", "split", "auto")


@pytest.fixture
def synthetic(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu_synthetic

    return gpu_synthetic


@pytest.mark.parametrize("experts", [(8, 2), (128, 8), (32, 4)])
def test_in_every_trace_two_of_three_tokens_share_an_expert_with_the_one_before(synthetic, experts):
    trace = synthetic.trace_of(32, *experts)
    assert repeat_share(trace) == pytest.approx(synthetic.SHARED, abs=0.01)
    counts = np.bincount(trace[:, 0].reshape(-1), minlength=experts[0]) / trace[:, 0].size * experts[0]
    assert (counts.max() < 1.3) == (experts[0] > 8), "many experts are equally popular"


@pytest.mark.slow
@pytest.mark.parametrize("part", ["qwen", "gpt-oss"])
def test_a_part_of_its_own_runs_and_keeps_what_the_file_has(part, tmp_path):
    out = tmp_path / "gpu.json"
    out.write_text(json.dumps({"date": "earlier", "speed": {"rates": 1}, part: {"run": "earlier"}}))
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/gpu_suite.py"), "--dry", "--part", part, "--out", str(out)],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    results = json.loads(out.read_text())
    assert (results["date"], results["speed"]) == ("earlier", {"rates": 1})
    assert results[part]["run"]["measured"] is False
    rates = results[part]["rates"]
    assert set(rates) == {f"little, {mode}" for mode in MODES}
    assert 0 < rates["little, split"]["GPU's share"] < 1
