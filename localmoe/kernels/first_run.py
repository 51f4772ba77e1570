"""The first run: the large kernels are compiled by several processes, which leave their machine code in the
cache.

numba compiles one function after the other, most of it in Python, so threads would not help. A process that
fails has cost time and nothing else: what it should have left is compiled by the one that needs it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from quant.compiled import cache_directory

# Modules that compile much and import none that does, those that take longest first.
MODULES = ("dot_blocks", "dot_tile_blocks", "dot_float", "attention_block", "dot_k", "dot_tile", "program",
           "kv_append")  # fmt: skip
_CODE = "import sys; sys.path[:] = {path!r}; from quant.compiled import link_module; link_module({module!r})"
_POLL_SECONDS = 0.02


def _done() -> Path:
    return cache_directory() / "complete"


def is_first_run() -> bool:
    """Whether the kernels were never compiled to the end for this version, CPU and SIMD form."""
    return not _done().exists()


def end_first_run() -> None:
    """Remembers that everything is compiled. A cache that cannot be written is left alone."""
    with contextlib.suppress(OSError):
        _done().touch()


def compile_modules(processes: int) -> None:
    """Fills the cache with the machine code of MODULES and of those that this CPU adds, by so many processes
    at once. Where that would gain nothing, or Python cannot be started, it does nothing.
    """
    if processes < 2 or not _writable(cache_directory()) or not _is_python(sys.executable):
        return
    waiting, running = [*MODULES, *_this_cpus()], list[subprocess.Popen[bytes]]()
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                running.append(_start(waiting.pop(0)))
            time.sleep(_POLL_SECONDS)
            running = [process for process in running if process.poll() is None]
    except OSError:
        return
    finally:
        for process in running:
            process.kill()
            process.wait()


def _this_cpus() -> list[str]:
    from localmoe.kernels.dot_tile_amx import AMX
    from localmoe.kernels.dot_tile_pair import PAIRED

    return ["dot_tile_pair"] * PAIRED + ["dot_tile_amx"] * AMX


def _start(module: str) -> subprocess.Popen[bytes]:
    code = _CODE.format(path=sys.path, module=f"localmoe.kernels.{module}")
    nothing = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, "-c", code], stdin=nothing, stdout=nothing, stderr=nothing)


def _writable(directory: Path) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK)


def _is_python(executable: str) -> bool:
    """A program that embeds Python, or was frozen from it, is not to be started a second time."""
    return not getattr(sys, "frozen", False) and Path(executable or "").stem.lower().startswith("python")
