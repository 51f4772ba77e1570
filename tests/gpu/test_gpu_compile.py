"""Every kernel compiles offline for every architecture, and the matvec kernels keep to their registers."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

# Halves that take equally long, for two processes: compiling is one thread's work.
TYPES = "q4_0,q4_1,q5_0,q5_1,q8_0,q3_k,f16", "q2_k,q4_k,q5_k,q6_k,mxfp4,bf16,f32"


def compile_for(arches, types, *flags):
    script = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), arches, types, *flags],
        capture_output=True, text=True, timeout=1500, check=False, env={"PYTHONPATH": str(script.parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_all_kernels_compile_for_a_consumer_card():
    out = compile_for("86", "q4_k")
    assert "resolve_kernel sm_86" in out
    assert "0 spill, 0 exchange" in out


@pytest.mark.parametrize(("kind", "kernels"), [("q6_k", 9), ("mxfp4", 13)])
def test_the_matvecs_of_a_type_do_not_spill(kind, kernels):
    assert f"{kernels} compiled, 0 spill, 0 exchange" in compile_for("89", kind, "--matvec")


@pytest.mark.slow
@pytest.mark.timeout(1600)
@pytest.mark.parametrize("arch", ["80", "86", "89", "90", "120"])
def test_every_kernel_compiles_for_every_type(arch):
    with ThreadPoolExecutor(2) as pool:
        for out in pool.map(partial(compile_for, arch), TYPES):
            assert "0 spill, 0 exchange" in out
