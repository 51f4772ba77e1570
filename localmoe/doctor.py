"""Facts about this machine that decide how localmoe runs on it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from localmoe import catalogue
from localmoe.errors import LocalMoeError
from localmoe.experts.plan import available_memory
from localmoe.experts.sizes import format_size
from localmoe.settings import cache_directory, config_path, data_directory, resolve

_PACKAGES = ("torch", "triton", "numba", "numpy", "safetensors", "sentencepiece", "llguidance",
             "prompt_toolkit", "rich")  # fmt: skip


def examine() -> dict[str, Any]:
    """All facts, as plain data. `problems` lists what is wrong and what to do about it."""
    from localmoe.cli.main import version

    problems: list[str] = []
    facts: dict[str, Any] = {
        "localmoe": version(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(problems),
        "memory": {"total_bytes": _total_ram(), "available_bytes": available_memory()},
        "gpus": _gpus(problems),
        "packages": {name: _version_of(name) for name in _PACKAGES},
        "paths": _paths(),
        "models": {
            name: {"path": str(one.path), "bytes": one.size} for name, one in catalogue.installed().items()
        },
        "problems": problems,
    }
    problems += [f"{name} is not installed; pip install {name}" for name in _missing(facts["packages"])]
    if catalogue.DEMO not in facts["models"]:
        problems.append("the built-in demo model is missing; install localmoe again")
    _check_history(facts, problems)
    _check_config(problems)
    return facts


def _cpu(problems: list[str]) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": _cpu_name(), "threads": os.cpu_count()}
    if hasattr(os, "sched_getaffinity"):
        facts["usable_threads"] = len(os.sched_getaffinity(0))
    try:
        from localmoe.kernels.simd import FORM
        from quant.compiled import cpu_name

        facts |= {"simd": FORM, "llvm_name": cpu_name()}
    except (ImportError, LocalMoeError, ValueError) as error:
        problems.append(f"the CPU kernels cannot be used: {error}")
    return facts


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _total_ram() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _gpus(problems: list[str]) -> list[dict[str, Any]]:
    try:
        import torch
    except ImportError as error:
        problems.append(f"torch cannot be imported: {error}")
        return []
    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(index)
        usable = (about.major, about.minor) >= (8, 0)
        gpus.append(
            {
                "name": about.name,
                "bytes": about.total_memory,
                "capability": f"{about.major}.{about.minor}",
                "usable": usable,
            }
        )
        if not usable:
            problems.append(f"GPU {index} ({about.name}) is older than sm_80; the CPU is used instead")
    return gpus


def _version_of(package: str) -> str | None:
    try:
        return installed_version(package)
    except PackageNotFoundError:
        return None


def _missing(packages: Mapping[str, str | None]) -> list[str]:
    optional = {"triton"} if sys.platform != "linux" or platform.machine() != "x86_64" else set()
    return [name for name, version in packages.items() if version is None and name not in optional]


def _paths() -> dict[str, Any]:
    kernels = cache_directory()
    data = data_directory()
    existing = next((one for one in (data, *data.parents) if one.exists()), Path("/"))
    return {
        "config": str(config_path()),
        "data": str(data),
        "cache": str(kernels),
        "models": str(catalogue.models_directory()),
        "free_bytes": shutil.disk_usage(existing).free,
    }


def _check_history(facts: dict[str, Any], problems: list[str]) -> None:
    from localmoe.chat.start import history_path
    from localmoe.history.store import History

    facts["paths"]["history"] = str(history_path())
    if not history_path().exists():
        return
    try:
        with History(history_path()) as history:
            facts["conversations"] = len(history.conversations())
    except LocalMoeError as error:
        problems.append(str(error))


def _check_config(problems: list[str]) -> None:
    try:
        problems += resolve({}).warnings
    except LocalMoeError as error:
        problems.append(str(error))


def report(facts: Mapping[str, Any]) -> list[str]:
    """`examine`'s facts for people."""
    cpu, memory, paths = facts["cpu"], facts["memory"], facts["paths"]
    usable = cpu.get("usable_threads", cpu["threads"])
    kernels = cpu.get("simd", "none")
    lines = [
        f"localmoe    {facts['localmoe']}, Python {facts['python']}, {facts['platform']}",
        f"CPU         {cpu['name']}, {usable} of {cpu['threads']} threads, kernels {kernels}",
        f"RAM         {_size(memory['total_bytes'])}, {_size(memory['available_bytes'])} available",
    ]
    for gpu in facts["gpus"]:
        note = "" if gpu["usable"] else " (too old)"
        lines.append(f"GPU         {gpu['name']}, {_size(gpu['bytes'])}, sm {gpu['capability']}{note}")
    if not facts["gpus"]:
        lines.append("GPU         none that torch sees; models run on the CPU")
    versions = ", ".join(f"{name} {version or 'missing'}" for name, version in facts["packages"].items())
    lines += [
        f"packages    {versions}",
        f"config      {paths['config']}{'' if Path(paths['config']).exists() else ' (none yet)'}",
        f"history     {paths['history']} ({facts.get('conversations', 0)} conversations)",
        f"cache       {paths['cache']}",
        f"models      {paths['models']} ({_size(paths['free_bytes'])} free on that disk)",
    ]
    lines += [f"            {name}: {_size(one['bytes'])}" for name, one in facts["models"].items()]
    lines += [f"PROBLEM     {problem}" for problem in facts["problems"]] or ["problems    none found"]
    return lines


def _size(count: int | None) -> str:
    return "unknown" if count is None else format_size(count)
