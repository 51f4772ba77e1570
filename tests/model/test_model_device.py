"""Choosing a device: what is asked for is used or refused, and `auto` never fails."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any

import pytest

from localmoe.cli.main import run
from localmoe.errors import UsageError
from localmoe.model import device


def with_gpus(monkeypatch: pytest.MonkeyPatch, *capabilities: tuple[int, int], free: int = 8 << 30) -> None:
    """A driver, and GPUs of these compute capabilities with `free` bytes of free memory."""
    monkeypatch.setattr(device, "_DRIVER_FILES", ("/",))
    kept = [free]  # by torch, of a model that was closed
    cuda = SimpleNamespace(
        empty_cache=kept.clear,
        is_available=lambda: bool(capabilities),
        device_count=lambda: len(capabilities),
        get_device_capability=lambda number: capabilities[number],
        mem_get_info=lambda _device: (free - sum(kept), 2 * free),
    )
    monkeypatch.setitem(__import__("sys").modules, "torch", SimpleNamespace(cuda=cuda))


def test_without_a_driver_auto_is_the_cpu_and_torch_is_not_imported(monkeypatch):
    monkeypatch.setattr(device, "_DRIVER_FILES", ("/no/such/driver",))
    monkeypatch.setitem(__import__("sys").modules, "torch", None)  # importing it would raise
    assert device.choose_device("auto") == "cpu"
    with pytest.raises(UsageError, match="no NVIDIA driver"):
        device.choose_device("cuda")


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """What `chat --plan` says; its error, where it refuses."""
    code = run(["chat", "--plan", "--json", *arguments])
    output = capsys.readouterr()
    return json.loads(output.out) if code == 0 else {"code": code, "error": output.err}


def test_the_plan_is_for_the_device_that_would_be_chosen(tiny, tmp_path, monkeypatch, capsys):
    for name in ("LOCALMOE_DATA_DIR", "LOCALMOE_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    path = str(tiny("q4_k"))
    monkeypatch.setattr(device, "_DRIVER_FILES", ("/no/such/driver",))
    on_cpu = planned(capsys, path)
    assert on_cpu["gpu_bytes"] == 0
    assert planned(capsys, path, "--device", "cuda") | {"error": ""} == {"code": 2, "error": ""}
    with_gpus(monkeypatch, (9, 0))
    assert planned(capsys, path, "--device", "cpu") == on_cpu
    whole = planned(capsys, path)
    assert whole["resident_share"] == 1.0
    assert {item["place"] for item in whole["items"]} == {"GPU"}
    refused = planned(capsys, path, "--gpu-memory", "640MiB")
    assert refused["code"] == 2
    advised = re.search(r"set --gpu-memory (\S+) or more", refused["error"])[1]
    least = planned(capsys, path, "--gpu-memory", advised, "--ram", "1KiB")
    assert 0 < least["gpu_bytes"] < whole["gpu_bytes"]
    assert least["resident_share"] < 1
    in_file = [item for item in least["items"] if item["place"] == "file"]
    assert [item["what"] for item in in_file] == ["other experts"]
    monkeypatch.setattr("localmoe.model.gpu_plan.available_memory", lambda: in_file[0]["bytes"] // 2)
    by_itself = planned(capsys, path, "--gpu-memory", advised)  # without --ram: not more than what is free
    assert 0 < by_itself["ram_bytes"] < in_file[0]["bytes"] // 2


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
