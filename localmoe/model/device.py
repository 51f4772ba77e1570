"""Which device to compute on: `--device auto|cpu|cuda[:N]`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from localmoe.errors import UsageError

LEAST_CAPABILITY = (8, 0)  # sm_80: the first with the instructions that the kernels are compiled for
_DRIVER_FILES = ("/dev/nvidiactl", "/dev/dxg")  # Linux; Linux under Windows


def choose_device(asked: str, notice: Callable[[str], None] = lambda line: None) -> str:
    """"cpu" or "cuda:N". `auto` takes a GPU where a usable one is found and says why where one is not usable.

    torch is imported only where a driver is present: it takes a second and a half.

    Raises:
        UsageError: no such device, or one that was named cannot be used.
    """
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d{1,3}))?", asked)
    if match is None:
        raise UsageError(f"--device {asked}: use auto, cpu, cuda or cuda:N")
    if asked == "cpu":
        return "cpu"
    number = int(match[1] or 0)
    if not any(Path(file).exists() for file in _DRIVER_FILES):
        problem = "no NVIDIA driver was found"
    else:
        problem = _problem_with(number)
    if not problem:
        return f"cuda:{number}"
    if asked == "auto":
        if "driver" not in problem:
            notice(f"The GPU is not used: {problem}. Running on the CPU.")
        return "cpu"
    raise UsageError(f"--device {asked} cannot be used: {problem}; use --device cpu")


def _problem_with(number: int) -> str:
    """Why GPU `number` cannot be used, or nothing."""
    import torch

    if not torch.cuda.is_available():
        return "torch sees no CUDA device (is it a CPU build of torch?)"
    if number >= torch.cuda.device_count():
        return f"there are {torch.cuda.device_count()} GPUs, numbered from 0"
    capability = torch.cuda.get_device_capability(number)
    if capability < LEAST_CAPABILITY:
        return f"its compute capability is {capability[0]}.{capability[1]}, and 8.0 or newer is needed"
    return ""
