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
from collections.abc import Mapping
from pathlib import Path

from quant.compiled import cache_directory

# Modules that compile much and import none that does, and how long that takes (seconds on a Zen 5; what
# matters is how they compare).
MODULES = {"dot_blocks": 5.2, "dot_tile_blocks": 3.3, "dot_float": 2.9, "dot_k": 2.2, "dot_tile": 2.0,
           "attention_block": 1.5, "kv_append": 1.3, "program": 1.2, "dot_xs": 0.6}  # fmt: skip
PAIR_SECONDS, AMX_SECONDS = 1.9, 1.5  # those that only some CPUs need
ALONG_SECONDS = (4.5, 4.3)  # likewise
CALLERS = {"tasks": 2.4, "tasks_experts": 2.4, "attention": 1.5}  # modules that call what those compiled
_CODE = """
import sys
sys.path[:] = {path!r}
from quant.compiled import link_module
for module in {modules!r}:
    link_module(module)
"""


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
    """Fills the cache with the machine code of MODULES and of those that this CPU adds, by so many processes.
    Where that would gain nothing, or Python cannot be started, it does nothing.
    """
    if processes < 2 or not _writable(cache_directory()) or not _is_python(sys.executable):
        return
    with contextlib.suppress(OSError):
        for modules in (MODULES | _this_cpus(), CALLERS):
            _compile(shares(modules, processes))


def _compile(dealt: list[list[str]]) -> None:
    """One process for each share; returns when all have ended."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for share in dealt:
            running.append(_start(share))
        for process in running:
            process.wait()
    finally:
        for process in running:
            process.kill()
            process.wait()


def shares(seconds: Mapping[str, float], processes: int) -> list[list[str]]:
    """Deals modules out to at most so many processes: the longest first, each to the one that has least to
    do.
    """
    dealt: list[list[str]] = [[] for _ in range(min(processes, len(seconds)))]
    for name in sorted(seconds, key=lambda name: -seconds[name]):
        min(dealt, key=lambda share: sum(seconds[one] for one in share)).append(name)
    return dealt


def _this_cpus() -> dict[str, float]:
    from localmoe.kernels.ahead import ALONG
    from localmoe.kernels.dot_tile_amx import AMX
    from localmoe.kernels.dot_tile_pair import PAIRED

    pair = {"dot_tile_pair": PAIR_SECONDS} if PAIRED else {}
    along = dict(zip(("dot_blocks_along", "dot_k_along"), ALONG_SECONDS, strict=True)) if ALONG else {}
    return pair | along | ({"dot_tile_amx": AMX_SECONDS} if AMX else {})


def _start(modules: list[str]) -> subprocess.Popen[bytes]:
    code = _CODE.format(path=sys.path, modules=[f"localmoe.kernels.{name}" for name in modules])
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
