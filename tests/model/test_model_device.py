"""Choosing a device: what is asked for is used or refused, and `auto` never fails."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from localmoe.errors import UsageError
from localmoe.model import device


def with_gpus(monkeypatch: pytest.MonkeyPatch, *capabilities: tuple[int, int]) -> None:
    """A driver, and GPUs of these compute capabilities."""
    monkeypatch.setattr(device, "_DRIVER_FILES", ("/",))
    cuda = SimpleNamespace(
        is_available=lambda: bool(capabilities),
        device_count=lambda: len(capabilities),
        get_device_capability=lambda number: capabilities[number],
    )
    monkeypatch.setitem(__import__("sys").modules, "torch", SimpleNamespace(cuda=cuda))


def test_without_a_driver_auto_is_the_cpu_and_torch_is_not_imported(monkeypatch):
    monkeypatch.setattr(device, "_DRIVER_FILES", ("/no/such/driver",))
    monkeypatch.setitem(__import__("sys").modules, "torch", None)  # importing it would raise
    assert device.choose_device("auto") == "cpu"
    with pytest.raises(UsageError, match="no NVIDIA driver"):
        device.choose_device("cuda")


def test_a_usable_gpu_is_taken(monkeypatch):
    with_gpus(monkeypatch, (8, 6), (9, 0))
    assert device.choose_device("auto") == "cuda:0"
    assert device.choose_device("cuda:1") == "cuda:1"
    assert device.choose_device("cpu") == "cpu"


def test_an_old_gpu_is_named_and_the_cpu_used(monkeypatch):
    with_gpus(monkeypatch, (7, 5))
    lines: list[str] = []
    assert device.choose_device("auto", lines.append) == "cpu"
    assert "7.5" in lines[0]
    with pytest.raises(UsageError, match=r"7\.5"):
        device.choose_device("cuda")


@pytest.mark.parametrize("asked", ["cuda:2", "cuda:999"])
def test_a_gpu_that_is_not_there_is_refused(monkeypatch, asked):
    with_gpus(monkeypatch, (8, 6), (9, 0))
    with pytest.raises(UsageError, match="2 GPUs"):
        device.choose_device(asked)


@pytest.mark.parametrize("asked", ["tpu", "cuda:", "cuda:x", "CUDA", "", "cuda:1000"])
def test_nonsense_is_refused(asked):
    with pytest.raises(UsageError, match="use auto, cpu"):
        device.choose_device(asked)
