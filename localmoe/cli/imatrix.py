"""`localmoe imatrix`: which weights matter on a text, for `localmoe quantize --imatrix`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from localmoe.cli.options import model_argument


@click.command()
@model_argument()
@click.argument("text", metavar="TEXT", type=click.Path(path_type=Path))
@click.option("-o", "--output", "out", metavar="FILE", type=click.Path(path_type=Path), required=True,
              help="Where to write the matrix (GGUF, as llama.cpp's).")  # fmt: skip
@click.option("--window", type=click.IntRange(16), default=512, show_default=True, help="Tokens in a window.")
@click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads [default: physical cores].")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def imatrix(model: str, text: Path, out: Path, window: int, threads: int | None, force: bool) -> None:
    """Run MODEL over the file TEXT (- for standard input) and record how strongly each weight is driven.

    `localmoe quantize SOURCE -o OUT.gguf --imatrix FILE` then spends its precision where it matters. Use a
    text like those that the model will see, the longer the better; an expert that it never reaches is
    treated evenly, and named.
    """
    from localmoe.cli.perplexity import read_text
    from localmoe.errors import UsageError
    from quant.target import check_place

    content = read_text(text)
    check_place(out)
    if out.exists() and not force:
        raise UsageError(f"{out} exists; add --force to replace it")
    from localmoe.model.imatrix import collect, load_collecting, unreached

    def notice(line: str) -> None:
        click.echo(line, err=True)

    def progress(done: int, total: int) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r{done}/{total} windows", err=True, nl=done == total)

    with load_collecting(model, threads, notice) as loaded:
        importance = collect(loaded, content, min(window, loaded.context), progress)
    importance.datasets = [text.name]
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")  # no other file's name
    try:
        importance.write(partial)
        partial.replace(out)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)
    for line in unreached(importance):
        notice(line)
    notice(f"{out}: {len(importance.entries)} tensors, {importance.chunk_count} windows")
