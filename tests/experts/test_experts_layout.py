"""Experts are found in files of either kind, and their classes told apart."""

import ctypes

import numpy as np
import pytest

from localmoe.experts.layout import ExpertLayout
from quant.errors import ModelFileError
from quant.gguf import GGUFFile, GGUFWriter

LAYERS, EXPERTS, FFN, HIDDEN = 3, 4, 64, 32


def write(path, merged=True, change=None):
    """A file of f16 experts, down in f32 in layer 1; returns each expert's bytes by (layer, expert, part)."""
    random = np.random.default_rng(5)
    shapes = {"gate": (FFN, HIDDEN), "up": (FFN, HIDDEN), "down": (HIDDEN, FFN)}
    wanted, content = {}, []
    writer = GGUFWriter(path, {"general.architecture": "llama"})
    for layer in range(LAYERS):
        for part, (name, shape) in enumerate(shapes.items()):
            kind = "f32" if (layer, name) == (1, "down") else "f16"
            data = [
                random.integers(0, 256, shape[0] * shape[1] * (4 if kind == "f32" else 2), np.uint8)
                for _ in range(EXPERTS)
            ]
            for expert in range(EXPERTS):
                wanted[layer, expert, part] = data[expert].tobytes()
            if merged:
                whole = np.concatenate(data)
                content.append((f"blk.{layer}.ffn_{name}_exps.weight", (EXPERTS, *shape), kind, whole))
            else:
                content += [
                    (f"blk.{layer}.ffn_{name}.{e}.weight", shape, kind, data[e]) for e in range(EXPERTS)
                ]
    content = change(content) if change else content
    with writer as file:
        for name, shape, kind, _ in content:
            file.declare(name, shape, kind)
        for name, _, _, data in content:
            file.write(name, data)
    return wanted


@pytest.mark.parametrize("merged", [True, False])
def test_every_expert_is_where_the_layout_says(tmp_path, merged):
    path = tmp_path / "model.gguf"
    wanted = write(path, merged)
    with GGUFFile.open(path) as file:
        layout = ExpertLayout.of(file, LAYERS, EXPERTS)
        image = path.read_bytes()
        for (layer, expert, part), data in wanted.items():
            assert layout.nbytes[layer, part] == len(data)
            start = layout.offsets[layer, expert, part]
            assert image[start : start + len(data)] == data
            assert ctypes.string_at(int(layout.addresses[layer, expert, part]), len(data)) == data
        assert layout.total_bytes == sum(map(len, wanted.values()))
    assert [size_class.layers for size_class in layout.classes] == [(0, 2), (1,)]
    assert layout.class_of.tolist() == [0, 1, 0]
    assert layout.classes[1].slot_bytes == -(-(2 * FFN * HIDDEN * 2 + FFN * HIDDEN * 4) // 4096) * 4096


def test_a_missing_expert_is_named(tmp_path):
    path = tmp_path / "model.gguf"
    write(path, False, lambda content: [each for each in content if each[0] != "blk.1.ffn_up.3.weight"])
    with GGUFFile.open(path) as file, pytest.raises(ModelFileError, match=r"blk\.1\.ffn_up\.3\.weight"):
        ExpertLayout.of(file, LAYERS, EXPERTS)


def test_another_number_of_experts_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    write(path)
    with GGUFFile.open(path) as file, pytest.raises(ModelFileError, match="not 5 experts"):
        ExpertLayout.of(file, LAYERS, 5)


def test_experts_of_different_sizes_in_one_layer_are_refused(tmp_path):
    path = tmp_path / "model.gguf"

    def uneven(content):
        return [
            (name, (FFN, HIDDEN * 2), kind, np.zeros(FFN * HIDDEN * 4, np.uint8)) if "gate.2" in name else
            (name, shape, kind, data)
            for name, shape, kind, data in content
        ]  # fmt: skip

    write(path, False, uneven)
    with GGUFFile.open(path) as file, pytest.raises(ModelFileError, match="differ in size"):
        ExpertLayout.of(file, LAYERS, EXPERTS)
