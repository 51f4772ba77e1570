"""`localmoe config`: the settings in force, and the file they can be put in."""

from __future__ import annotations

import sys
from pathlib import Path

import click

_TEMPLATE = """\
# Settings of localmoe. Flags and LOCALMOE_* variables win over what is set here.
# `localmoe config show` lists every setting with its value and where that comes from.
#
# temperature = 0.7
# system = "Answer briefly."
# keys = "vi"
#
# [models.mixtral-8x7b]
# temperature = 0.4
"""


@click.group()
def config() -> None:
    """Show or edit the settings."""


@config.command()
@click.argument("model", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object: setting → value and origin.")
def show(model: str | None, as_json: bool) -> None:
    """List every setting, its value and its origin; with MODEL, as they are for that model."""
    from dataclasses import asdict

    from localmoe.catalogue import entries
    from localmoe.chat.output import Notices, to_json
    from localmoe.settings import FIELDS, resolve, shown
    from localmoe.text.safe import safe

    entry = entries().get(model) if model else None
    resolved = resolve({}, (model,) if model else (), entry.settings if entry else None)
    for warning in resolved.warnings:
        Notices.write(warning)
    values = asdict(resolved.settings)
    if as_json:
        both = {name: {"value": value, "origin": resolved.origins[name]} for name, value in values.items()}
        click.echo(to_json(both))
        return
    for name, value in values.items():
        origin = resolved.origins[name]
        click.echo(safe(f"{name:18} {shown(name, value):14} {origin:12} {FIELDS[name].metadata['summary']}"))


@config.command()
def path() -> None:
    """Print where the config file is (or would be)."""
    from localmoe.settings import config_path

    click.echo(str(config_path()))


@config.command()
def edit() -> None:
    """Open the config file in $EDITOR; it is checked before it replaces the old one.

    What cannot be used is kept beside it, and the next edit goes on with that.
    """
    from localmoe.chat.conversation_commands import open_in_editor
    from localmoe.chat.output import Notices
    from localmoe.errors import UsageError
    from localmoe.settings import check_config, config_path

    if not sys.stdin.isatty():
        raise UsageError(f"there is no terminal to edit in; the file is {config_path()}")
    file = config_path()
    draft = file.with_name("config.draft.toml")
    before = _begin(file, draft)
    try:
        open_in_editor(draft)
    finally:
        unchanged = draft.read_bytes() == before
        if unchanged:
            draft.unlink()
    if unchanged:
        click.echo("Nothing was changed.", err=True)
        return
    try:
        check_config(draft)
    except UsageError as error:
        raise UsageError(f"not saved, but kept for the next `localmoe config edit`: {error}") from error
    draft.replace(file)
    for warning in check_config(file):
        Notices.write(warning)
    click.echo(f"Saved to {file}.", err=True)


def _begin(file: Path, draft: Path) -> bytes | None:
    """Makes `draft` what there is to edit, and returns it; None for an earlier draft that was kept."""
    from localmoe.chat.output import Notices

    if draft.exists():
        Notices.write(f"This goes on with {draft}, which could not be saved.")
        return None
    file.parent.mkdir(parents=True, exist_ok=True)
    text = file.read_text("utf-8-sig", errors="replace") if file.exists() else _TEMPLATE
    draft.write_text(text, "utf-8")
    return draft.read_bytes()
