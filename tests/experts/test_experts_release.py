"""The release check of a model larger than memory, at a hundredth of its size: it runs, and memory holds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SIZE = ["--layers", "4", "--hidden", "1024", "--ffn", "4096", "--ram", "240MiB"]
LENGTH = ["--prompt", "4", "--tokens", "8", "--free-tokens", "1", "--disk-gb", "0.05"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_model_larger_than_its_bound_decodes_within_it(tmp_path):
    report = tmp_path / "report.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "release.py"), "residency", *SIZE, *LENGTH]
    command += ["--directory", str(tmp_path), "--json", str(report), "--note", "a test"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert report.exists(), done.stdout + done.stderr
    result = json.loads(report.read_text())
    bounded = result["bounded"]
    assert bounded["paged"]
    assert result["file_bytes"] > 240 << 20
    assert result["memory_held"], bounded
    assert 0 < bounded["hit_rate"] < 1
    assert 0 < bounded["missed_bytes_per_token"] < bounded["bytes_per_token"]
    assert result["predicted_tokens_per_s"] > 0  # how near it comes, a full-size run shows
    assert not result["without_ram"]["paged"]  # so small a file needs no bound
    assert str(tmp_path) not in report.read_text()
    assert list(tmp_path.iterdir()) == [report]
