"""`localmoe quantize`: weights to a GGUF file of 4- or 5-bit blocks."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from quant.convert import Progress, Result
    from quant.plan import Plan
    from quant.recipes import Recipe


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), help="The GGUF file to write.")
@click.option(
    "-t", "--type", "recipe", help="The mixture of types.  [default: q4_k_m; of gpt-oss mxfp4]"
)
@click.option("--imatrix", type=click.Path(path_type=Path), help="Weight errors by this importance matrix.")
@click.option("--tensor-type", "overrides", multiple=True, metavar="REGEX=TYPE", help="For some tensors.")
@click.option("--pure", is_flag=True, help="One type for all matrices, no mixture.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Default: all of the machine's.")
@click.option("--dry-run", is_flag=True, help="Show what would be written, and write nothing.")
@click.option("--restart", is_flag=True, help="Discard what an interrupted run has left, and begin again.")
@click.option("--force", is_flag=True, help="Replace OUT.gguf where it exists.")
@click.option("--allow-requantize", is_flag=True, help="Also from a file that is quantized already.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON.")
def quantize(
    source: Path,
    out: Path | None,
    recipe: str | None,
    imatrix: Path | None,
    overrides: tuple[str, ...],
    pure: bool,
    threads: int | None,
    dry_run: bool,
    restart: bool,
    force: bool,
    allow_requantize: bool,
    as_json: bool,
) -> None:
    """Convert SOURCE, a model's directory or a GGUF file, to a GGUF file of small blocks.

    Recipes: f32, f16, bf16, q8_0, q6_k, q5_k_m, q5_k_s, q5_1, q5_0, q4_k_m, q4_k_s, q4_1, q4_0, mxfp4.

    A run that was interrupted is gone on with by giving the same command again.
    """
    from localmoe.cli.main import version
    from quant.errors import QuantError
    from quant.recipes import default_recipe, parse_override, recipe_named

    try:
        asked = recipe_named(recipe) if recipe is not None else None
        patterns = [parse_override(text) for text in overrides]
    except QuantError as error:
        raise click.UsageError(str(error)) from None
    if out is None and not dry_run:
        raise click.UsageError("name the file to write with -o")

    from quant.imatrix import read_imatrix
    from quant.plan import make_plan
    from quant.sources import open_source

    opened = open_source(source)
    plan = make_plan(
        opened,
        asked or default_recipe(opened.architecture),
        overrides=patterns,
        pure=pure,
        allow_requantize=allow_requantize,
        importance=read_imatrix(imatrix) if imatrix else None,
        version=version(),
    )
    plan = replace(plan, remarks=(*_own_default(plan, asked), *_cannot_run(plan), *plan.remarks))
    if out is None or dry_run:
        click.echo(_dry_run(plan, threads, as_json))
        return

    from quant.convert import convert

    line = ProgressLine()
    start = time.monotonic()
    try:
        result = convert(plan, out, threads=threads, restart=restart, force=force, progress=line.show)
    finally:
        line.close()
        opened.close()
    click.echo(_summary(plan, result, time.monotonic() - start, as_json))


class ProgressLine:
    """One line on stderr, rewritten in place; nothing where stderr is no terminal."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.begun: tuple[float, int] | None = None  # when, and how much had been read before
        self.shown, self.width = 0.0, 0

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if self.begun is None:
            self.begun = now, progress.read
        if not self.live or (now - self.shown < 0.1 and progress.read < progress.total):
            return
        self.shown = now
        rate = (progress.read - self.begun[1]) / max(now - self.begun[0], 1e-3)
        left = (progress.total - progress.read) / rate if rate else 0
        text = (
            f"{progress.tensor + 1}/{progress.tensors} tensors  {progress.read / max(progress.total, 1):4.0%}"
            f"  {rate / 1e6:,.0f} MB/s  {int(left) // 60}:{int(left) % 60:02} left  {progress.name}"
        )
        print("\r" + text.ljust(self.width)[:110], end="", file=sys.stderr, flush=True)
        self.width = len(text)

    def close(self) -> None:
        if self.width:
            print("\r" + " " * min(self.width, 110) + "\r", end="", file=sys.stderr, flush=True)


def _own_default(plan: Plan, asked: Recipe | None) -> list[str]:
    """A note where no type was asked for, and the model has a default of its own."""
    if asked is not None or plan.recipe.name == "q4_k_m":
        return []
    return [f"type {plan.recipe.name}, as {plan.source.architecture} is published; -t chooses another"]


def _cannot_run(plan: Plan) -> list[str]:
    """A note where the file will be a sound one that localmoe does not run."""
    import numpy as np

    from localmoe.model.config import ModelConfig
    from quant.errors import ModelFileError

    plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in plan.metadata.items()}
    try:
        ModelConfig.from_metadata(plain, plan.source.path)
    except ModelFileError as error:
        return [f"localmoe cannot run this: {error}"]
    return []


def _dry_run(plan: Plan, threads: int | None, as_json: bool) -> str:
    import os

    memory = plan.memory(threads or os.cpu_count() or 1)
    bits = 8 * plan.nbytes / plan.weights
    if as_json:
        tensors = [
            {
                "name": p.tensor.name,
                "shape": list(p.tensor.shape),
                "from": p.tensor.dtype,
                "type": p.choice.type,
                "bytes": p.nbytes,
                "note": p.choice.note,
            }
            for p in plan.tensors
        ]
        report = {
            "recipe": plan.recipe.name,
            "tensors": tensors,
            "bytes": plan.nbytes,
            "bits_per_weight": round(bits, 4),
            "memory_bytes": memory,
            "notes": plan.notes,
        }
        return json.dumps(report, indent=1)
    width = max(len(p.tensor.name) for p in plan.tensors)
    lines = [
        f"{p.tensor.name:{width}}  {' x '.join(map(str, p.tensor.shape)):>22}  {p.tensor.dtype:>7} → "
        f"{p.choice.type:7} {p.nbytes / 1e6:>10,.2f} MB  {p.choice.note}".rstrip()
        for p in plan.tensors
    ]
    lines += [f"note: {remark}" for remark in plan.remarks]
    lines.append(
        f"{len(plan.tensors)} tensors, {plan.nbytes / 1e9:.2f} GB, {bits:.2f} bits per weight;"
        f" the conversion takes at most {memory / 1e9:.1f} GB of memory"
    )
    return "\n".join(lines)


def _summary(plan: Plan, result: Result, seconds: float, as_json: bool) -> str:
    from quant.summary import by_type

    totals = by_type((p.choice.type, p.tensor.size, p.nbytes) for p in plan.tensors)
    sums: dict[str, list[float]] = {}
    for planned, done in zip(plan.tensors, result.tensors, strict=True):
        entry = sums.setdefault(planned.choice.type, [0.0, 0.0])
        entry[0], entry[1] = entry[0] + done.error, entry[1] + done.square
    errors = {kind: (e / s) ** 0.5 if s else 0.0 for kind, (e, s) in sums.items()}
    bits = 8 * plan.nbytes / plan.weights
    if as_json:
        report = {
            "path": str(result.path),
            "source": plan.source.name,
            "recipe": plan.recipe.name,
            "bytes": result.size,
            "bits_per_weight": round(bits, 4),
            "seconds": round(seconds, 3),
            "resumed_tensors": result.resumed,
            "types": [
                {
                    "type": t.type,
                    "tensors": t.tensors,
                    "weights": t.weights,
                    "bytes": t.bytes,
                    "bits_per_weight": round(t.bits_per_weight, 4),
                    "relative_rmse": round(errors[t.type], 6),
                }
                for t in totals
            ],
            "notes": plan.notes,
        }
        return json.dumps(report, indent=1)
    lines = [f"{'type':8}{'tensors':>8}{'weights':>18}{'MB':>12}{'bits/weight':>13}{'relative RMSE':>15}"]
    lines += [
        f"{t.type:8}{t.tensors:>8}{t.weights:>18,}{t.bytes / 1e6:>12,.1f}{t.bits_per_weight:>13.3f}"
        f"{errors[t.type]:>15.5f}"
        for t in totals
    ]
    lines += [f"note: {note}" for note in plan.notes]
    gone_on = f", the first {result.resumed} tensors from an earlier run" if result.resumed else ""
    lines.append(
        f"{result.path}: {result.size / 1e9:.2f} GB, {bits:.2f} bits per weight, {seconds:.1f} s{gone_on}"
    )
    return "\n".join(lines)
