"""The release check of the conversion at a twentieth of its size: memory, kill -9, the same bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_gigabyte_converts_within_the_memory_bound_and_survives_being_killed(tmp_path):
    root = Path(__file__).resolve().parents[2]
    report = tmp_path / "report.json"
    command = [sys.executable, str(root / "benchmarks" / "release.py"), "conversion", "--gb", "1"]
    command += ["--kills", "10", "--directory", str(tmp_path), "--json", str(report)]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(report.read_text())
    assert result["identical"]
    assert result["peak_rss_bytes"] < 1.5e9
    assert not [p for p in tmp_path.iterdir() if p != report]
