"""What reading a model file must not pay for."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "numba", "sentencepiece", "transformers", "rich", "safetensors", "gguf")


@pytest.mark.parametrize(
    "statement",
    [
        "import quant",
        "import quant; quant.GGUFFile; quant.ModelFileError; quant.FORMATS; quant.dequantize",
        "import quant.sources, quant.plan, quant.recipes, quant.imatrix, quant.model_check, quant.summary",
        "import quant.source_hf, quant.source_gguf, quant.source_mistral",
        "import localmoe.cli.quantize, localmoe.cli.inspect",
    ],
)
def test_nothing_heavy_is_imported(statement):
    program = f"import sys; {statement}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_quant_imports_nothing_of_localmoe():
    modules = "quant.convert, quant.encode, quant.source_hf, quant.source_mistral, quant.source_gguf"
    program = f"import sys, {modules}; print([m for m in sys.modules if m.split('.')[0] == 'localmoe'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_names_are_refused_as_python_does():
    import quant

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = quant.nothing
    assert set(quant.__all__) >= {"quantize", "dequantize", "GGUFFile", "ModelFileError", "FORMATS"}
    for name in quant.__all__:
        assert getattr(quant, name) is not None
