"""`chat --plan`: what would live where, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from localmoe.chat.output import to_json
from localmoe.settings import Settings
from localmoe.text.safe import safe


def show_plan(path: Path, settings: Settings, as_json: bool) -> int:
    """Print the plan for the model at `path`; returns the exit code."""
    from localmoe.model.config import ModelConfig
    from localmoe.runner import make_plan
    from quant.gguf import GGUFFile

    with GGUFFile.open(path) as file:
        config = ModelConfig.from_gguf(file)
        plan = make_plan(file, config, settings.context, settings.kv_type, settings.threads, settings.ram)
    print(to_json(plan.as_json()) if as_json else safe("\n".join(plan.lines())))
    return 0
