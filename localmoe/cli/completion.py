"""`localmoe completion`: scripts that make a shell complete commands, options and model names."""

from __future__ import annotations

import click

_WHERE = {
    "bash": 'eval "$(localmoe completion bash)"   # in ~/.bashrc',
    "zsh": 'eval "$(localmoe completion zsh)"   # in ~/.zshrc, after compinit',
    "fish": "localmoe completion fish > ~/.config/fish/completions/localmoe.fish",
}


@click.command(epilog="  \b\n" + "\n".join(_WHERE.values()))
@click.argument("shell", type=click.Choice(list(_WHERE)))
def completion(shell: str) -> None:
    """Print the completion script for SHELL (bash, zsh or fish)."""
    from click.shell_completion import get_completion_class

    from localmoe.cli.main import cli

    complete = get_completion_class(shell)
    if complete is not None:
        click.echo(complete(cli, {}, "localmoe", "_LOCALMOE_COMPLETE").source())
