"""JSON as its standard (RFC 8259) has it: Python's own reader takes more, and a deep text overflows it."""

from __future__ import annotations

import json
from math import isinf
from typing import Any, NoReturn


def parse_json(text: str) -> Any:
    """The value in a JSON text. Raises ValueError, also for NaN, infinities and what is nested too deeply."""
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise ValueError(f"{text} is too large a number")
    return value
