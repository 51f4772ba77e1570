"""The `localmoe` command: finds the subcommand, runs it, and turns errors into one line and an exit code.

Only click is imported here. A subcommand's module is imported when that subcommand runs or its own help is
asked for, so that `localmoe --help` and shell completion stay quick.
"""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from typing import NamedTuple, NoReturn

import click
from click.shell_completion import CompletionItem, shell_complete

from localmoe.errors import LocalMoeError


class Entry(NamedTuple):
    """Where a subcommand lives and what the overview says about it."""

    target: str
    summary: str


COMMANDS = {
    "chat": Entry("localmoe.cli.chat:chat", "Talk to a model, or answer one prompt and exit."),
    "quantize": Entry("localmoe.cli.quantize:quantize", "Convert weights to a 4- or 5-bit GGUF file."),
    "inspect": Entry("localmoe.cli.inspect:inspect", "Show what is inside a model file."),
    "bench": Entry("localmoe.cli.bench:bench", "Measure prefill and decode speed."),
    "perplexity": Entry("localmoe.cli.perplexity:perplexity", "Measure a model's quality on a text."),
    "imatrix": Entry("localmoe.cli.imatrix:imatrix", "Record which weights matter on a text, for quantize."),
    "experts": Entry("localmoe.cli.experts:experts", "Show which experts a model uses, or simulate caching."),
    "models": Entry("localmoe.cli.models:models", "List, download, import and verify models."),
    "history": Entry("localmoe.cli.history:history", "List, search and export saved conversations."),
    "config": Entry("localmoe.cli.config:config", "Show or edit the settings."),
    "doctor": Entry("localmoe.cli.doctor:doctor", "Show what localmoe found on this machine."),
    "completion": Entry("localmoe.cli.completion:completion", "Print a shell's completion script."),
}

# quant stands beside localmoe and knows no `LocalMoeError`: its errors are told by module and name, which
# spares importing quant to say that an option is misspelt.
_INPUT_ERRORS = {"quant.errors:ModelFileError", "quant.errors:VariableError"}
_OTHER_ERROR = "quant.errors:QuantError"


class LazyGroup(click.Group):
    """A click group that imports a subcommand's module when the subcommand is needed, not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, name = entry.target.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"no command {args[0]!r}{nearest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        return [
            CompletionItem(name, help=entry.summary)
            for name, entry in COMMANDS.items()
            if name.startswith(incomplete)
        ]


def nearest(word: str, known: object) -> str:
    """"; did you mean 'x'?" for the entry of `known` (an iterable of str) closest to `word`, or nothing."""
    from difflib import get_close_matches

    close = get_close_matches(word, list(known), n=1)  # type: ignore[call-overload] # any iterable of str
    return f"; did you mean {close[0]!r}?" if close else ""


def version() -> str:
    """The installed version, or the source tree's when localmoe is not installed."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("localmoe")
    except PackageNotFoundError:
        import tomllib
        from pathlib import Path

        project = Path(__file__).resolve().parents[2] / "pyproject.toml"
        return str(tomllib.loads(project.read_text("utf-8"))["project"]["version"])


def _print_version(ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        click.echo(f"localmoe {version()}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with `localmoe chat`: a small demo model is built in, nothing is downloaded.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version.",
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Run mixture-of-experts language models on the machine you own."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def one_line(text: str) -> str:
    """`text` on one line with nothing in it that a terminal would act on (file names may hold anything)."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _kinds(error: BaseException) -> set[str]:
    return {f"{kind.__module__}:{kind.__qualname__}" for kind in type(error).__mro__}


def exit_code(error: BaseException) -> int:
    """The exit code of the command line's contract: 1 failed while running, 2 usage or unusable input."""
    if isinstance(error, LocalMoeError | click.UsageError):
        return error.exit_code
    return 2 if _INPUT_ERRORS & _kinds(error) or isinstance(error, click.FileError) else 1


def message(error: BaseException) -> str | None:
    """The line for stderr, or None for an error that only a bug can cause (it keeps its traceback)."""
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx is not None else "localmoe"
        return one_line(f"{error.format_message().rstrip('.')} (see `{path} --help`)")
    if isinstance(error, click.ClickException):
        return one_line(error.format_message())
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename is not None else ""
        return one_line(f"{error.strerror or error}{where}")
    if isinstance(error, MemoryError):
        detail = str(error) or "no more detail"
        return one_line(f"out of memory ({detail}); a smaller --context or --ram may help")
    if isinstance(error, LocalMoeError) or _OTHER_ERROR in _kinds(error):
        return one_line(str(error))
    return None


def _execute(arguments: list[str]) -> int:
    """What click's own `main` does, less its handling of closed pipes and interrupts, which ends with 1."""
    instruction = os.environ.get("_LOCALMOE_COMPLETE")
    if instruction:
        return shell_complete(cli, {}, "localmoe", "_LOCALMOE_COMPLETE", instruction)
    try:
        with cli.make_context("localmoe", arguments) as ctx:
            result = cli.invoke(ctx)
    except click.exceptions.Exit as leave:
        result = leave.exit_code
    sys.stdout.flush()
    return result if isinstance(result, int) else 0


def _prepare_streams() -> None:
    """A stream that the caller closed (`<&-`) becomes an empty one; what is no UTF-8 stops none of them."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="replace")  # a file name need not be valid UTF-8


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; only a bug escapes as an exception."""
    _prepare_streams()
    try:
        return _execute(sys.argv[1:] if arguments is None else arguments)
    except BrokenPipeError:
        # The reader has what it wanted (`| head -1`). Python flushes stdout once more at exit: into nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, click.Abort):
        return 130
    except Exception as error:
        line = message(error)
        if line is None:
            raise
        print(f"localmoe: {line}", file=sys.stderr)
        return exit_code(error)


def main() -> NoReturn:
    """The `localmoe` script."""
    gc.set_threshold(200_000, 20, 100)  # imports make objects, not garbage: looking less often saves 0.1 s
    sys.exit(run())


if __name__ == "__main__":
    main()
