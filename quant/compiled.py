"""Compiled kernels and where their machine code is kept.

numba's own cache key is the source file's time stamp and size. It misses the modules a kernel imports and the
globals it reads, so an edited SIMD module would go on serving stale machine code. Here the cache directory's
*name* holds a digest of every kernel source in both packages, of numba's and llvmlite's versions, of the CPU
and of the SIMD form: change any of them and the kernels are compiled anew, in a new directory.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from llvmlite import binding as llvm
from numba import types
from numba.core import sigutils, typing
from numba.core.registry import CPUDispatcher

from quant.errors import VariableError

_PACKAGES = Path(__file__).resolve().parent.parent
_KERNEL_SOURCES = (
    "quant/compiled.py", "quant/encode*.py", "quant/encoders/*.py", "localmoe/kernels/*.py",
    "localmoe/experts/replay.py", "localmoe/experts/policy.py", "localmoe/experts/statistics.py",
)  # fmt: skip


_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18


def simd_request() -> str:
    """The SIMD form that `LOCALMOE_SIMD` asks for, lower case; empty means the best this CPU has."""
    return os.environ.get("LOCALMOE_SIMD", "").strip().lower()


@cache
def cpu_name() -> str:
    """LLVM's name for the CPU that kernels are compiled for (`NUMBA_CPU_NAME` overrides the host's)."""
    return str(numba.config.CPU_NAME or llvm.get_host_cpu_name())


@cache
def amx_permitted() -> bool:
    """Whether the operating system lets this process use AMX's registers, for which it asks (Linux:
    https://docs.kernel.org/arch/x86/xstate.html). True also on a CPU that has none.
    """
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return False
    return bool(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0)


@cache
def cache_directory() -> Path:
    """The directory that holds this build's machine code, under the platform's cache directory.

    Raises `VariableError` where LOCALMOE_CACHE_DIR names the home directory of nobody.
    """
    digest = hashlib.sha256()
    for pattern in _KERNEL_SOURCES:
        for source in sorted(_PACKAGES.glob(pattern)):
            if source.name.startswith("gpu"):  # Triton's, which keeps a cache of its own
                continue
            digest.update(source.name.encode() + b"\0" + source.read_bytes())
    features = str(numba.config.CPU_FEATURES or "")
    permitted = "amx" if amx_permitted() else ""
    for part in (numba.__version__, llvmlite.__version__, cpu_name(), features, simd_request(), permitted):
        digest.update(part.encode() + b"\0")
    root = os.environ.get("LOCALMOE_CACHE_DIR")
    if not root:
        import platformdirs

        root = platformdirs.user_cache_dir("localmoe", appauthor=False)
    try:
        caches = Path(root).expanduser()
    except RuntimeError as error:
        raise VariableError(f"LOCALMOE_CACHE_DIR={root}: no such home directory is known") from error
    return caches / f"kernels-{digest.hexdigest()[:16]}"


def drop_old_caches(keep: int = 4) -> None:
    """Removes the machine code of earlier versions but for the newest few (other processes may use them).

    Call it when `cache_directory()` does not exist yet: that is when a version is new.
    """
    caches = cache_directory().parent.glob("kernels-*")
    by_age = sorted(caches, key=lambda path: path.stat().st_mtime, reverse=True)
    for path in by_age[keep:]:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _numba_cache_in(directory: Path) -> Iterator[None]:
    """numba reads its cache directory once, while it decorates: set it for just that long."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(directory)
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


def _call_from_python(self: Any, *arguments: Any) -> Any:
    """A function without wrappers has nothing that Python could call: a copy has."""
    if not hasattr(self, "for_python"):
        self.for_python = numba.njit(boundscheck=False, error_model="numpy")(self.py_func)
    return self.for_python(*arguments)


_Inlined = type("_Inlined", (CPUDispatcher,), {"__call__": _call_from_python})


def compiled(signature: Any = None, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` with the GIL released and machine code cached in `cache_directory()`.

    With a signature the kernel is compiled (or loaded) at import; without one, at its first call. With
    `forceinline` it has no machine code of its own to keep and is compiled without wrappers for Python, which
    took a third of the time that compiling takes: if Python does call it, it is compiled once more.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        settings = {"nogil": True, "cache": True, "boundscheck": False, "error_model": "numpy", **options}
        if options.get("forceinline"):
            settings |= {"cache": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        with _numba_cache_in(cache_directory()):
            decorator = numba.njit(signature, **settings) if signature else numba.njit(**settings)
            made = decorator(function)
        if options.get("forceinline"):
            made.__class__ = _Inlined
        return made

    return decorate


def compiled_callback(signature: Any, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.cfunc`, cached likewise: its `.address` can be called from any thread without the GIL."""

    def decorate(function: Callable[..., Any]) -> Any:
        settings = {"cache": True, "boundscheck": False, "error_model": "numpy", **options}
        with _numba_cache_in(cache_directory()):
            return numba.cfunc(signature, **settings)(function)

    return decorate


_parts: dict[str, Callable[[], Any]] = {}  # what makes each one's machine code
_linked: dict[str, Any] = {}  # what other machine code calls stays in memory


def compiled_once(signature: str = "") -> Callable[[Callable[..., Any]], Any]:
    """A function for other compiled code to call, whose machine code is in the process only once. numba puts
    a copy of each function into every kernel that calls it: of large ones that costs time to compile and to
    load (decoding is as fast either way). Cached as `compiled_callback`; not for Python.

    Without a signature it takes int64 only and returns nothing. It is compiled, or loaded, by `link`: before
    anything that calls it is.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        name = f"{function.__module__}.{function.__qualname__}"
        takes = ", ".join(["int64"] * function.__code__.co_argcount)
        _parts[name] = lambda: compiled_callback(signature or f"void({takes})")(function)
        arguments, returned = sigutils.normalize_signature(signature or f"void({takes})")
        return types.ExternalFunction(name, typing.signature(returned, *arguments))

    return decorate


def link(*parts: Any) -> None:
    """Makes functions of `compiled_once` callable for what is compiled from here on."""
    for name in (part.symbol for part in parts):
        if name not in _linked:
            _linked[name] = _parts[name]()
            llvm.add_symbol(name, _linked[name].address)


def link_module(module: str) -> None:
    """Imports a module and links what it makes with `compiled_once`: all of its machine code is cached."""
    found = vars(importlib.import_module(module)).values()
    made = [one for one in found if isinstance(one, types.ExternalFunction)]
    link(*(part for part in made if part.symbol.startswith(f"{module}.")))
