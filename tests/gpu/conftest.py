"""Shared by the GPU tests: small random experts and models."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quant.blocks import FORMATS

ROOT = Path(__file__).resolve().parents[2]


def random_rows(rng, rows, cols, kind, scale=1.0):
    """uint8 [rows, bytes] of normal weights in a block format."""
    return FORMATS[kind].encode((rng.standard_normal((rows, cols)) * scale).astype(np.float32))


@pytest.fixture
def run_interpreted():
    """Runs a script of this directory under Triton's interpreter, in a process of its own, and checks that
    it ends well.
    """

    def run(script, *arguments, timeout=240):
        environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(Path(__file__).parent / script), *arguments],
            env=environment, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    return run
