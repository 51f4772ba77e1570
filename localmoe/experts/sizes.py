"""Sizes of memory as people write them."""

from __future__ import annotations

import re

from localmoe.errors import UsageError

_UNITS = {
    "": 1, "b": 1,
    "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
}  # fmt: skip
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)\s*", re.ASCII | re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes in a size such as "8GiB", "12G" (both binary), "8000MB" (decimal), "0.5 gib" or "1048576"
    (bytes).

    UsageError, one line, if it is not one.
    """
    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise UsageError(f"{text!r} is not a size: write it like 8GiB, 12G (binary) or 8000MB (decimal)")
    if len(match[1]) > 24:
        raise UsageError(f"{text[:24]!r}... is not a size that any machine has")
    size = int(match[1]) * unit if match[1].isdigit() else round(float(match[1]) * unit)
    if size < 1 or size > 1 << 60:
        raise UsageError(f"{text!r} is not a size that any machine has")
    return size


def format_size(size: int) -> str:
    """`size` bytes with a binary unit: "7.50 GiB", "426 MiB", "512 B". Never rounded below what it is by over
    1 %.
    """
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if abs(size) >= unit:
            value = size / unit
            digits = 2 if value < 10 else 1 if value < 100 else 0
            return f"{value:.{digits}f} {name}"
    return f"{size} B"


def round_up_setting(size: int) -> str:
    """`size` bytes as a setting that is surely enough: up to the next 10th of a GiB, or whole MiB below 1
    GiB.
    """
    if size >= 1 << 30:
        tenths = -(-size * 10 // (1 << 30))
        return f"{tenths / 10:g}GiB"
    return f"{max(1, -(-size // (1 << 20)))}MiB"
