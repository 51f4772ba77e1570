"""Random data that differ from run to run; the seed is in the report of a test that fails."""

from __future__ import annotations

import os

import numpy as np
import pytest


@pytest.fixture
def rng(record_property: object, capsys: pytest.CaptureFixture[str]) -> np.random.Generator:
    """A fresh generator; LOCALMOE_TEST_SEED repeats a run. pytest shows what is printed when a test fails."""
    seed = int(os.environ.get("LOCALMOE_TEST_SEED") or np.random.SeedSequence().generate_state(1)[0])
    print(f"LOCALMOE_TEST_SEED={seed}")
    return np.random.default_rng(seed)
