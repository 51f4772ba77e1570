"""`localmoe inspect`: what a GGUF file holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from quant.gguf import GGUFFile
    from quant.summary import TypeTotal

_SHOWN_ITEMS, _SHOWN_CHARACTERS = 6, 100


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--tensors", is_flag=True, help="List every tensor.")
@click.option("--check", is_flag=True, help="Read it all: do the metadata make sense, is every scale finite?")
@click.option("--json", "as_json", is_flag=True, help="As JSON, with nothing shortened.")
def inspect(file: Path, tensors: bool, check: bool, as_json: bool) -> None:
    """Show the metadata and the tensors of FILE, a GGUF file; of all parts, if it is one of several."""
    from quant.parts import open_model
    from quant.summary import by_type, weights_of

    with open_model(file) as opened:
        if check:
            _check(opened)
        totals = by_type((t.type, weights_of(t), t.nbytes) for t in opened.tensors.values())
        click.echo(_as_json(opened, totals) if as_json else _as_text(opened, totals, tensors))


def _check(file: GGUFFile) -> None:
    """ModelFileError where the model does not hold together."""
    from quant.source_gguf import open_gguf
    from quant.summary import check_scales

    open_gguf(file.path)
    for part in file.parts:
        check_scales(part)


def _as_json(file: GGUFFile, totals: list[TypeTotal]) -> str:
    report = {
        "path": str(file.path),
        "files": [{"path": str(part.path), "size": part.size} for part in file.parts],
        "version": file.version,
        "size": file.size,
        "metadata": {key: _plain(value) for key, value in file.metadata.items()},
        "types": [
            {
                "type": t.type,
                "tensors": t.tensors,
                "weights": t.weights,
                "bytes": t.bytes,
                "bits_per_weight": round(t.bits_per_weight, 4),
            }
            for t in totals
        ],
        "tensors": [
            {
                "name": t.name,
                "type": t.type,
                "shape": list(t.shape),
                "bytes": t.nbytes,
                "file": number,  # of "files"; offset: in that file
                "offset": t.offset,
            }
            for number, part in enumerate(file.parts)
            for t in part.tensors.values()
        ],
    }
    return json.dumps(report, indent=1)


def _plain(value: Any) -> Any:
    """NumPy arrays as lists; JSON has no NaN and no infinity, so those are given as text."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not float("-inf") < value < float("inf"):
        return str(value)
    return value


def _as_text(file: GGUFFile, totals: list[TypeTotal], tensors: bool) -> str:
    from quant.summary import TypeTotal

    where = f" in {len(file.parts)} files" if len(file.parts) > 1 else ""
    lines = [f"GGUF version {file.version}, {len(file.tensors)} tensors, {file.size / 1e9:.3f} GB{where}", ""]
    width = max(map(len, file.metadata), default=0)
    lines += [f"{key:{width}}  {_shown(value)}" for key, value in file.metadata.items()]
    whole = TypeTotal(
        "all", sum(t.tensors for t in totals), sum(t.weights for t in totals), sum(t.bytes for t in totals)
    )
    lines += ["", f"{'type':8}{'tensors':>8}{'weights':>18}{'MB':>12}{'bits/weight':>13}"]
    lines += [
        f"{t.type:8}{t.tensors:>8}{t.weights:>18,}{t.bytes / 1e6:>12,.1f}{t.bits_per_weight:>13.3f}"
        for t in [*totals, whole]
    ]
    if tensors:
        names = max(map(len, file.tensors), default=0)
        lines.append("")
        lines += [
            f"{t.name:{names}}  {t.type:7} {' x '.join(map(str, t.shape)):>22} {t.nbytes / 1e6:>10,.2f} MB"
            for t in file.tensors.values()
        ]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    """A metadata value on one line, without anything that a terminal would obey."""
    from quant.text import printable

    if isinstance(value, str):
        text = printable(value)
        cut = len(text) > _SHOWN_CHARACTERS
        return f"{text[:_SHOWN_CHARACTERS]}… ({len(value)} characters)" if cut else text
    if isinstance(value, list) or hasattr(value, "tolist"):
        first = ", ".join(repr(v) for v in _plain(value[:_SHOWN_ITEMS]))
        more = f", … ({len(value):,} in all)" if len(value) > _SHOWN_ITEMS else ""
        return f"[{first}{more}]"
    return str(value)
