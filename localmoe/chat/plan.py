"""Where a model's bytes go: weights every token needs, experts, KV cache; and whether they fit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from localmoe.chat.output import to_json
from localmoe.settings import Settings, format_size

_KV_BYTES = {"f16": 2.0, "q8_0": 34 / 32}


def plan(path: Path, settings: Settings) -> dict[str, Any]:
    """Bytes of each part of the model at `path`, and of RAM. Raises `ModelFileError`."""
    from localmoe.model.config import ModelConfig
    from quant.gguf import GGUFFile

    with GGUFFile.open(path) as file:
        config = ModelConfig.from_gguf(file)
        experts = sum(tensor.nbytes for name, tensor in file.tensors.items() if "_exps." in name)
        total = sum(tensor.nbytes for tensor in file.tensors.values())
    context = settings.context or min(config.context, 8192)
    per_position = 2 * config.layers * config.kv_heads * config.head_dim * _KV_BYTES[settings.kv_type]
    return {
        "model": config.name,
        "file_bytes": total,
        "expert_bytes": experts,
        "shared_bytes": total - experts,
        "experts": config.layers * config.experts,
        "expert_bytes_per_token": experts * config.experts_used // max(config.experts, 1),
        "context": context,
        "kv_bytes": int(context * per_position),
        "ram_available_bytes": available_ram(),
        "ram_limit_bytes": settings.ram,
        "gpu_limit_bytes": settings.gpu_memory,
    }


def available_ram() -> int | None:
    """Bytes of RAM that could be used now; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
        if "SC_PHYS_PAGES" in names:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return None


def plan_lines(facts: dict[str, Any]) -> list[str]:
    """`plan`'s facts for people."""
    size = format_size
    needed = facts["file_bytes"] + facts["kv_bytes"]
    available = facts["ram_limit_bytes"] or facts["ram_available_bytes"]
    lines = [
        f"{facts['model']}: {size(facts['file_bytes'])} of weights",
        f"  {size(facts['shared_bytes'])} used by every token",
    ]
    if facts["experts"]:
        each = size(facts["expert_bytes"] / facts["experts"])
        lines += [
            f"  {size(facts['expert_bytes'])} in {facts['experts']:,} experts of {each}",
            f"  {size(facts['expert_bytes_per_token'])} of experts read per token",
        ]
    lines.append(f"KV cache for {facts['context']:,} tokens: {size(facts['kv_bytes'])}")
    if available is not None:
        verdict = "it fits" if needed <= available else "cold experts stay in the file"
        limit = "--ram" if facts["ram_limit_bytes"] else "available RAM"
        lines.append(f"{limit}: {size(available)}, needed: {size(needed)}; {verdict}")
    return lines


def show_plan(path: Path, settings: Settings, as_json: bool) -> int:
    """Print the plan; returns the exit code."""
    facts = plan(path, settings)
    print(to_json(facts) if as_json else "\n".join(plan_lines(facts)))
    return 0
