"""Weights as bytes: block formats, GGUF files and the converter.

    quant.quantize(x, "q4_k")           float32 [rows, cols] -> uint8 [rows, bytes]
    quant.dequantize(blocks, "q4_k")    and back
    quant.GGUFFile.open(path)           .metadata, .tensors[name] (.shape, .type, .data); ModelFileError

The names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quant.blocks import FORMATS as FORMATS
    from quant.blocks import dequantize as dequantize
    from quant.encode import quantize as quantize
    from quant.errors import ModelFileError as ModelFileError
    from quant.errors import QuantError as QuantError
    from quant.gguf import GGUFFile as GGUFFile

_WHERE = {
    "quantize": "quant.encode",
    "dequantize": "quant.blocks",
    "FORMATS": "quant.blocks",
    "GGUFFile": "quant.gguf",
    "ModelFileError": "quant.errors",
    "QuantError": "quant.errors",
}

__all__ = ["FORMATS", "GGUFFile", "ModelFileError", "QuantError", "dequantize", "quantize"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'quant' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
