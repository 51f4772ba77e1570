"""localmoe: run mixture-of-experts language models on the machine you own.

    import localmoe
    model = localmoe.load("demo")
    for piece in model.generate("What is the capital of France?"):
        print(piece, end="")

Importing this module is quick; what computes is imported by `load`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from localmoe.runner import Model, load

__all__ = ["Model", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'localmoe' has no attribute {name!r}")
    from localmoe import runner

    return getattr(runner, name)
