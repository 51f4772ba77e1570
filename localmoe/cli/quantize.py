"""`localmoe quantize`: weights to a GGUF file of 4- or 5-bit blocks."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), help="The GGUF file to write.")
@click.option("-t", "--type", "recipe", default="q4_k_m", show_default=True, help="The mixture of types.")
@click.option("--tensor-type", "overrides", multiple=True, metavar="REGEX=TYPE", help="For some tensors.")
@click.option("--pure", is_flag=True, help="One type for all matrices, no mixture.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Default: all of the machine's.")
@click.option("--force", is_flag=True, help="Replace OUT.gguf where it exists.")
@click.option("--allow-requantize", is_flag=True, help="Also from a file that is quantized already.")
def quantize(
    source: Path,
    out: Path | None,
    recipe: str,
    overrides: tuple[str, ...],
    pure: bool,
    threads: int | None,
    force: bool,
    allow_requantize: bool,
) -> None:
    """Convert SOURCE, a model's directory or a GGUF file, to a GGUF file of small blocks.

    Recipes: f32, f16, bf16, q8_0, q6_k, q5_k_m, q5_k_s, q5_1, q5_0, q4_k_m, q4_k_s, q4_1, q4_0.
    """
    from localmoe.cli.main import version
    from quant.convert import convert, plan
    from quant.errors import QuantError
    from quant.recipes import parse_override, recipe_named
    from quant.sources import open_source

    try:
        chosen, patterns = recipe_named(recipe), [parse_override(text) for text in overrides]
    except QuantError as error:
        raise click.UsageError(str(error)) from None
    if out is None:
        raise click.UsageError("name the file to write with -o")
    if out.exists() and not force:
        raise click.UsageError(f"{out} exists; choose another name, or replace it with --force")
    opened = open_source(source)
    planned = plan(
        opened, chosen, overrides=patterns, pure=pure, allow_requantize=allow_requantize, version=version()
    )
    from rich.console import Console
    from rich.progress import Progress

    total = sum(p.tensor.nbytes for p in planned.tensors)
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(out.name, total=total)
        convert(planned, out, threads=threads, progress=lambda _, nbytes: bar.advance(task, nbytes))
