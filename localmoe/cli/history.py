"""`localmoe history`: the saved conversations."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from localmoe.errors import UsageError

if TYPE_CHECKING:
    from localmoe.history.store import History, Summary


@click.group()
def history() -> None:
    """List, search, export and remove saved conversations."""


def _open() -> History:
    from localmoe.chat.start import history_path
    from localmoe.history.store import History

    return History(history_path())


def _object(summary: Summary) -> dict[str, object]:
    return {
        "id": summary.id,
        "title": summary.title,
        "model": summary.model,
        "created": summary.created,
        "updated": summary.updated,
        "messages": summary.messages,
    }


@history.command("list")
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def list_(limit: int, everything: bool, as_json: bool) -> None:
    """List conversations, the latest first."""
    from localmoe.chat.history_commands import summary_line
    from localmoe.chat.output import to_json

    with _open() as opened:
        found = opened.conversations(None if everything else limit)
    if as_json:
        click.echo(to_json([_object(one) for one in found]))
        return
    for one in found:
        click.echo(summary_line(one))
    if not found:
        click.echo("There are no conversations yet; `localmoe chat` starts one.", err=True)


@history.command()
@click.argument("conversation", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with all branches and details.")
def show(conversation: str, as_json: bool) -> None:
    """Show a conversation as Markdown."""
    from localmoe.chat.output import to_json
    from localmoe.history.transfer import as_markdown, as_object
    from localmoe.text.safe import safe

    with _open() as opened:
        summary = opened.find(conversation)
        if as_json:
            click.echo(to_json(as_object(summary, opened.messages(summary.id))))
        else:
            click.echo(safe(as_markdown(summary, opened.path_to(summary.id, summary.head))), nl=False)


@history.command()
@click.argument("words", nargs=-1, required=True)
@click.option("-n", "--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many.")
@click.option("--any", "any_word", is_flag=True, help="Any of the words instead of all.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def search(words: tuple[str, ...], limit: int, any_word: bool, as_json: bool) -> None:
    """Search all conversations for WORDS; a word also finds longer ones that begin with it."""
    from localmoe.chat.history_commands import hit_line
    from localmoe.chat.output import to_json
    from localmoe.history.search import search as find

    with _open() as opened:
        hits = find(opened, " ".join(words), limit=limit, every=not any_word)
    if as_json:
        names = ("conversation", "title", "message", "role", "created", "content")
        click.echo(to_json([{name: getattr(hit, name) for name in names} for hit in hits]))
        return
    for hit in hits:
        click.echo(hit_line(hit))
    if not hits:
        click.echo("Nothing found.", err=True)


@history.command()
@click.argument("conversations", metavar="[ID]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All conversations.")
@click.option("--format", "form", type=click.Choice(["md", "jsonl", "json"]), help="[default: by OUT, or md]")
@click.option("-o", "--output", metavar="OUT", help="File to write; stdout without it.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
def export(
    conversations: tuple[str, ...], everything: bool, form: str | None, output: str | None, force: bool
) -> None:
    """Write conversations as Markdown, JSONL or JSON. JSONL can be imported again."""
    from localmoe.history.transfer import FORMATS, write_whole
    from localmoe.history.transfer import export as text_of
    from localmoe.text.safe import safe

    if everything == bool(conversations):
        raise UsageError("name the conversations to export, or give --all")
    ending = Path(output).suffix.lstrip(".").lower() if output else ""
    wanted = form or (ending if ending in FORMATS else "md")
    with _open() as opened:
        found = opened.conversations() if everything else [opened.find(one) for one in conversations]
        text = text_of(opened, found, FORMATS[wanted])
    if output is None:
        click.echo(safe(text) if FORMATS[wanted] == "markdown" else text, nl=False)
        return
    target = Path(output)
    if target.exists() and not force:
        raise UsageError(f"{target} exists; --force replaces it")
    write_whole(target, text)
    click.echo(f"{len(found)} conversation{'' if len(found) == 1 else 's'} written to {target}", err=True)


@history.command("import")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
def import_(files: tuple[str, ...]) -> None:
    """Add conversations from JSONL files (of export, or lines with `messages`); - reads stdin."""
    from localmoe.chat.attachments import decoded
    from localmoe.history.transfer import import_jsonl

    with _open() as opened:
        for name in files:
            try:
                data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
            except OSError as error:
                raise UsageError(f"cannot read {name}: {error.strerror}") from error
            added = import_jsonl(opened, decoded(data, name).split("\n"), name)
            click.echo(f"{name}: {len(added)} conversations added", err=True)


@history.command()
@click.argument("conversations", metavar="[ID]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All conversations.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def rm(conversations: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Remove conversations for good."""
    from localmoe.chat.history_commands import summary_line
    from localmoe.chat.kv_store import KVStore
    from localmoe.chat.start import states_directory

    if everything == bool(conversations):
        raise UsageError("name the conversations to remove, or give --all")
    with _open() as opened:
        found = opened.conversations() if everything else [opened.find(one) for one in conversations]
        if not yes:
            confirm_removal([summary_line(one) for one in found])
        states = KVStore(states_directory(), 0)
        for one in found:
            opened.delete(one.id)
            states.forget(one.id)
    click.echo(f"{len(found)} conversation{'' if len(found) == 1 else 's'} removed", err=True)


def confirm_removal(lines: list[str]) -> None:
    """Show what would go and ask. Raises `UsageError` where nobody can answer, `click.Abort` for no."""
    if not sys.stdin.isatty() or not sys.stderr.isatty():
        raise UsageError("removing asks first, and nobody can answer here; give --yes")
    for line in lines:
        click.echo(line, err=True)
    click.confirm("Remove for good?", abort=True, err=True)
