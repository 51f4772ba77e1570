"""`localmoe perplexity`: a model's quality on a text."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click


@click.command()
@click.argument("model")
@click.argument("text", metavar="TEXT", type=click.Path(path_type=Path))
@click.option("--kl", "base", metavar="BASE", help="Also compare with this model (the unquantized one, say).")
@click.option("--window", type=click.IntRange(4), default=512, show_default=True, help="Tokens in a window.")
@click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads [default: physical cores].")
@click.option(
    "--exact", is_flag=True, help="Keep activations in float32: slower, shows what int8 activations cost."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def perplexity(
    model: str, text: Path, base: str | None, window: int, threads: int | None, exact: bool, as_json: bool
) -> None:
    """Measure MODEL's perplexity on the file TEXT (- for standard input).

    Windows of the text are scored from their middle on, as llama.cpp's tool does, so figures compare. With
    --kl, also the divergence from BASE's distribution: the finer measure of what a conversion costs.
    """
    content = read_text(text)
    import localmoe
    from localmoe.errors import UsageError
    from localmoe.measure import measure_quality

    def notice(line: str) -> None:
        click.echo(line, err=True)

    loaded = localmoe.load(model, threads=threads, context=None, exact=exact, learn=False, notice=notice)
    other = localmoe.load(base, threads=threads, exact=exact, learn=False, notice=notice) if base else None
    if other is not None and other.config.vocab != loaded.config.vocab:
        raise UsageError(
            f"--kl {base}: its vocabulary has {other.config.vocab} tokens, {model}'s {loaded.config.vocab}"
        )
    window = min(window, loaded.context, other.context if other else window)
    watching = sys.stderr.isatty()

    def progress(done: int, total: int) -> None:
        if watching:
            click.echo(f"\r{done}/{total} windows", err=True, nl=done == total)

    quality = measure_quality(loaded, content, window, other, progress)
    if as_json:
        click.echo(json.dumps(quality.as_json()))
        return
    click.echo(
        f"perplexity {quality.perplexity:.4f} ± {quality.standard_error:.4f} over {quality.tokens} tokens"
    )
    if quality.base is not None:
        click.echo(f"{quality.base}: {quality.base_perplexity:.4f}")
        click.echo(
            f"KL divergence {quality.kl_mean:.6f} (99 % of tokens below {quality.kl_99:.6f}), "
            f"same first choice {quality.same_top:.2%}"
        )


def read_text(path: Path) -> str:
    """The text of a file, or of standard input for `-`. UsageError where it cannot be read."""
    from localmoe.errors import UsageError

    try:
        if str(path) == "-":
            return sys.stdin.read()
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UsageError(f"{path} cannot be read: {reason}") from None
