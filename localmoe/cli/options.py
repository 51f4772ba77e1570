"""Options that several commands share. They stay None when not given, so that settings can fill them in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])
option = click.option


def complete_model(
    _ctx: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of installed models, and files."""
    from localmoe.catalogue import installed

    names = [CompletionItem(name) for name in installed() if name.startswith(incomplete)]
    return [*names, CompletionItem(incomplete, type="file")]


def model_argument(*, required: bool = True) -> Callable[[F], F]:
    """The MODEL argument: a path, an installed name, or demo."""
    return click.argument("model", metavar="MODEL", required=required, shell_complete=complete_model)


def size(_ctx: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """A click callback: bytes of "8GiB"."""
    from localmoe.errors import UsageError
    from localmoe.experts.sizes import parse_size

    if value is None:
        return None
    try:
        return parse_size(value)
    except UsageError as error:
        raise click.BadParameter(str(error), param=parameter) from None


def _all(options: list[Callable[[F], F]]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def sampling_options(function: F) -> F:
    """How tokens are chosen and when an answer ends."""
    return _all(
        [
            option("--temperature", type=float, metavar="T", help="0: always the likeliest token."),
            option("--top-p", type=float, metavar="P", help="Keep the tokens that hold this share."),
            option("--top-k", type=int, metavar="K", help="Keep the K likeliest tokens; 0: all."),
            option("--min-p", type=float, metavar="P", help="Drop tokens below this share of the top one."),
            option("--repeat-penalty", type=float, metavar="X", help="Above 1: less repetition."),
            option("--presence-penalty", type=float, metavar="X", help="Discourage what occurred."),
            option("--frequency-penalty", type=float, metavar="X", help="The same, by how often."),
            option("--seed", type=int, metavar="N", help="Repeat an answer exactly."),
            option("-n", "--max-tokens", type=int, metavar="N", help="Longest answer, in tokens."),
            option("--stop", multiple=True, metavar="TEXT", help="End the answer before TEXT; repeatable."),
        ]
    )(function)


def model_options(function: F) -> F:
    """How a model is loaded."""
    return _all(
        [
            option("--context", type=int, metavar="N", help="Context length in tokens."),
            option("--kv-type", type=click.Choice(["f16", "q8_0"]), help="Format of the KV cache."),
            option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N."),
            option("--gpu-memory", callback=size, metavar="SIZE", help="Most GPU memory, like 8GiB."),
            option("--ram", callback=size, metavar="SIZE", help="Most RAM, like 32GiB."),
            option("--threads", type=int, metavar="N", help="CPU threads."),
        ]
    )(function)
