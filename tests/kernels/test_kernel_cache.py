"""Where machine code is kept: another source, form or CPU means another directory; two may fill one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from quant.compiled import cache_directory
from quant.errors import VariableError

ROOT = Path(__file__).resolve().parents[2]
WHERE = "from quant.compiled import cache_directory; print(cache_directory())"
NORM = (
    "import numpy as np; from localmoe.kernels.elementwise import rms_norm\n"
    "x = np.arange(16, dtype=np.float32); a = x.ctypes.data; rms_norm(a, a, 16, 1e-5, a)\n"
    "print(x.tobytes().hex())"
)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of both packages that may be edited."""
    for name in ("localmoe", "quant"):
        skip = shutil.ignore_patterns("__pycache__", "*.gguf")
        shutil.copytree(ROOT / name, tmp_path / "copy" / name, ignore=skip)
    return tmp_path / "copy"


def environment(package: Path, **extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "LOCALMOE_SIMD"}
    return {**kept, "PYTHONPATH": str(package), "LOCALMOE_CACHE_DIR": str(package.parent / "cache"), **extra}


def output(package: Path, code: str, **extra: str) -> str:
    line = [sys.executable, "-c", code]
    result = subprocess.run(
        line, capture_output=True, text=True, check=True, cwd=package, env=environment(package, **extra)
    )
    return result.stdout.strip()


def test_a_home_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALMOE_CACHE_DIR", "~nosuchuser/cache")
    with pytest.raises(VariableError, match="LOCALMOE_CACHE_DIR=~nosuchuser/cache: no such home"):
        cache_directory.__wrapped__()


SOURCES = ("localmoe/kernels/simd.py", "localmoe/kernels/half.py", "quant/compiled.py")


@pytest.mark.parametrize("source", SOURCES)
def test_an_edited_kernel_source_means_another_directory(source, package):
    before = output(package, WHERE)
    assert Path(before).parent == package.parent / "cache"
    assert output(package, WHERE) == before
    with (package / source).open("a") as file:
        file.write("# edited\n")
    assert output(package, WHERE) != before


def test_another_source_file_means_the_same_directory(package):
    before = output(package, WHERE)
    with (package / "localmoe/errors.py").open("a") as file:
        file.write("# edited\n")
    assert output(package, WHERE) == before


def test_forms_and_cpus_have_directories_of_their_own(package):
    found = [
        output(package, WHERE, **extra)
        for extra in (
            {}, {"LOCALMOE_SIMD": "avx2"}, {"LOCALMOE_SIMD": "portable"}, {"NUMBA_CPU_NAME": "haswell"},
            {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2"},
        )
    ]  # fmt: skip
    assert len(set(found)) == len(found)


def test_an_edited_module_that_a_kernel_imports_gives_new_code(package):
    """numba alone would serve what it compiled before: `rms_norm` itself did not change."""
    before = output(package, NORM)
    assert output(package, NORM) == before
    simd = package / "localmoe/kernels/simd.py"
    source = simd.read_text()
    edited = source.replace("lambda b, x, y: b.fmul(x, y)", "lambda b, x, y: b.fadd(x, y)", 1)
    assert edited != source
    simd.write_text(edited)
    assert output(package, NORM) != before


def test_two_processes_may_fill_an_empty_cache_at_once(package):
    line, settings = [sys.executable, "-c", NORM], environment(package)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(line, cwd=package, env=settings, **pipes) for _ in range(2)]
    results = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert results[0][0] == results[1][0] == output(package, NORM) + "\n"


def test_a_cache_that_cannot_be_written_is_not_fatal(package):
    """A read-only home: kernels are compiled again each time, or the reason is said in one line."""
    blocked = package.parent / "file"
    blocked.write_text("not a directory")
    line = [sys.executable, "-c", NORM]
    result = subprocess.run(
        line, capture_output=True, text=True, check=False, cwd=package,
        env=environment(package, LOCALMOE_CACHE_DIR=str(blocked)),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-500:]
