"""`chat --plan`: what would live where, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from localmoe.chat.output import Notices, to_json
from localmoe.settings import Settings
from localmoe.text.safe import safe


def show_plan(path: Path, settings: Settings, as_json: bool, notices: Notices) -> int:
    """Print the plan for the model at `path`, on the device that would be chosen; returns the exit code."""
    from localmoe.model.config import ModelConfig
    from localmoe.model.device import choose_device
    from localmoe.runner import make_plan
    from quant.parts import open_model

    device = choose_device(settings.device, notices)
    with open_model(path) as file:
        config = ModelConfig.from_gguf(file)
        plan = make_plan(
            file, config, settings.context, settings.kv_type, settings.threads, settings.ram,
            device=device, gpu_memory=settings.gpu_memory,
        )  # fmt: skip
    print(to_json(plan.as_json()) if as_json else safe("\n".join(plan.lines())))
    return 0
