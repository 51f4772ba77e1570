"""`localmoe models`: the catalogue, and the models on this machine."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from localmoe.cli.options import complete_model
from localmoe.errors import LocalMoeError, UsageError
from localmoe.paths import expanded

if TYPE_CHECKING:
    from localmoe.catalogue import Entry, Installed, Source
    from localmoe.download import Progress


@click.group()
def models() -> None:
    """List, download, import, verify and remove models."""


@models.command("list")
@click.option("--installed", "only_installed", is_flag=True, help="Only what is on this machine.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def list_(only_installed: bool, as_json: bool) -> None:
    """List the models that are known by name, and which of them are on this machine."""
    from localmoe.catalogue import entries, installed
    from localmoe.chat.output import to_json
    from localmoe.experts.sizes import format_size
    from localmoe.text.safe import safe

    here, known = installed(), entries()
    names = [*here, *(name for name in known if name not in here and not only_installed)]
    if as_json:
        click.echo(to_json([_facts(name, known.get(name), here.get(name)) for name in names]))
        return
    for name in names:
        state = format_size(here[name].size) if name in here else "not here"
        about = known[name].about if name in known else safe(str(here[name].path))
        click.echo(f"{name:24} {state:>10}  {about}")


def _facts(name: str, entry: Entry | None, here: Installed | None) -> dict[str, object]:
    facts: dict[str, object] = {"name": name, "installed": here is not None}
    if here is not None:
        facts |= {"path": str(here.path), "bytes": here.size, "origin": here.origin}
    if entry is not None:
        facts |= {
            "title": entry.title,
            "about": entry.about,
            "licence": entry.licence,
            "architecture": entry.architecture,
            "parameters": entry.parameters,
            "active": entry.active,
            "layers": entry.layers,
            "experts": entry.experts,
            "experts_used": entry.experts_used,
            "context": entry.context,
            "sources": [{"kind": one.kind, "repo": one.repo, "bytes": one.size} for one in entry.sources],
        }
    return facts


@models.command()
@click.argument("name", shell_complete=complete_model)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show(name: str, as_json: bool) -> None:
    """Show what is known about a model."""
    from localmoe.catalogue import entries, find, installed
    from localmoe.chat.output import to_json
    from localmoe.experts.sizes import format_size
    from localmoe.text.safe import safe

    entry, here = entries().get(name), installed().get(name)
    if entry is None and here is None:
        find(name)  # its error says what is near
        raise UsageError(f"{name} is a file, not a known model; `localmoe inspect {name}` looks into it")
    if as_json:
        click.echo(to_json(_facts(name, entry, here)))
        return
    if entry is not None:
        click.echo(f"{entry.title} ({entry.licence}): {entry.about}")
        experts = f", {entry.experts} experts, {entry.experts_used} per token" if entry.experts else ""
        click.echo(f"{entry.parameters:g} billion weights, {entry.active:g} used per token; "
                   f"{entry.layers} layers{experts}; context {entry.context:,}")  # fmt: skip
        for source in entry.sources:
            click.echo(f"{source.kind:12} {format_size(source.size):>10}  {source.repo}")
    if here is not None:
        click.echo(f"{'here':12} {format_size(here.size):>10}  {safe(str(here.path))}")


@models.command()
@click.argument("name")
@click.option("--source", "kind", type=click.Choice(["gguf", "safetensors"]), help="[default: gguf, if any]")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def pull(name: str, kind: str | None, quiet: bool) -> None:
    """Download a model of the catalogue. An interrupted download goes on where it stopped.

    The original weights (safetensors), which `localmoe quantize` converts, are kept as NAME-safetensors.
    """
    from localmoe.catalogue import ORIGINAL, Installed, conversion, entries, models_directory, register
    from localmoe.download import DownloadError, download, remote_files
    from localmoe.experts.sizes import format_size
    from quant.parts import missing_parts

    source = _source(name, kind)
    commit, files = remote_files(source.repo, source.files)
    total = sum(one.size for one in files)
    licence = entries()[name].licence
    click.echo(f"{source.repo}: {len(files)} files, {format_size(total)}, {licence}", err=True)
    original = source.kind == "safetensors"
    lacking = [] if original else missing_parts([Path(one.path).name for one in files])
    if lacking:
        raise DownloadError(f"{source.repo} lacks {lacking[0]}, a part of the model; it may have changed")
    kept = name + ORIGINAL if original else name
    directory = models_directory() / kept
    download(source.repo, commit, files, directory, progress_line(quiet))
    path = directory if original else directory / min(one.path for one in files)  # the first part
    digests = {one.path: one.sha256 for one in files if one.sha256}
    register(Installed(kept, path, total, True, f"{source.repo}@{commit}", digests))
    if original:
        click.echo(f"Next: {conversion(kept, path)}", err=True)
    click.echo(str(path))


def _source(name: str, kind: str | None) -> Source:
    from localmoe.catalogue import entries

    entry = entries().get(name)
    if entry is None:
        from localmoe.settings import suggestion

        raise UsageError(f"the catalogue has no model {name!r}{suggestion(name, entries())}")
    fitting = [one for one in entry.sources if kind in (None, one.kind)]
    if not fitting:
        has = ", ".join(one.kind for one in entry.sources) or "none: it is built in"
        raise UsageError(f"{name} cannot be downloaded as {kind or 'a file'}; its sources: {has}")
    return fitting[0]


def progress_line(quiet: bool) -> Progress:
    """Shows how far a long read is, on one line of stderr; nothing where that is no terminal."""
    from localmoe.chat.output import is_terminal
    from localmoe.experts.sizes import format_size
    from localmoe.text.safe import safe

    shown = is_terminal(sys.stderr) and not quiet
    began = last = time.monotonic()

    def progress(name: str, done: int, size: int) -> None:
        nonlocal last
        now = time.monotonic()
        if shown and (now - last > 0.2 or done == size):
            last = now
            rate = format_size(round(done / max(now - began, 1e-3)))
            share = f"{format_size(done)} of {format_size(size)} ({100 * done // max(size, 1)} %)"
            end = "\n" if done == size else ""
            sys.stderr.write(f"\r\x1b[K{safe(name)}: {share}, {rate}/s{end}")
            sys.stderr.flush()

    return progress


@models.command("import")
@click.argument("file", metavar="FILE.gguf")
@click.option("--name", metavar="NAME", help="[default: the file's name]")
@click.option("--copy", "copied", is_flag=True, help="Copy the files instead of noting where they are.")
def import_(file: str, name: str | None, copied: bool) -> None:
    """Make a GGUF file known by a name; all parts, if it is one of several."""
    from localmoe.catalogue import Installed, checked_name, installed, models_directory, register
    from localmoe.download import sha256_of
    from quant.parts import model_name, open_model

    with open_model(expanded(file)) as model:  # raises for a file that is none
        sources = [part.path for part in model.parts]
    wanted = checked_name(name or model_name(sources[0]))
    there = installed().get(wanted)
    if there is not None and there.path.resolve() != sources[0].resolve():
        raise UsageError(f"there is a model {wanted} already ({there.path}); choose another --name")
    if copied:
        targets = [models_directory() / wanted / source.name for source in sources]
        _copy(sources, targets)
    elif len(sources) == 1:
        targets = [sources[0].resolve()]
    else:  # links to parts stay what they are: it is by their names that the parts are told
        targets = [source.parent.resolve() / source.name for source in sources]
    digests = {target.name: sha256_of(target, progress_line(False)) for target in targets}
    size = sum(target.stat().st_size for target in targets)
    register(Installed(wanted, targets[0], size, copied, "imported", digests))
    more = f", in {len(targets)} parts" if len(targets) > 1 else ""
    click.echo(f"{wanted} is {targets[0]}{more}", err=True)


def _copy(sources: Sequence[Path], targets: Sequence[Path]) -> None:
    """All of them or nothing: what a copy leaves that was cut short, `models rm` would not find."""
    drafts = [target.with_name(target.name + ".partial") for target in targets]
    directory = targets[0].parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for source, draft in zip(sources, drafts, strict=True):
            shutil.copyfile(source, draft)
        for draft, target in zip(drafts, targets, strict=True):
            draft.replace(target)
    except OSError as error:
        why = f"{sources[0]} cannot be copied to {directory}: {error.strerror}"
        raise UsageError(f"{why}; make room there, or import it without --copy") from None
    finally:
        with suppress(OSError):
            for draft in drafts:
                draft.unlink(missing_ok=True)
            directory.rmdir()  # unless there is a model in it


@models.command()
@click.argument("name", shell_complete=complete_model)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def verify(name: str, as_json: bool) -> None:
    """Check a model's files against their digests, and that they can be read."""
    from localmoe.catalogue import find, installed
    from localmoe.chat.output import to_json
    from localmoe.download import sha256_of
    from quant.parts import open_model

    model = installed().get(name)
    path = model.path if model is not None else find(name).path
    results = {}
    for file, expected in (model.digests if model is not None else {}).items():
        file = file if path.is_dir() else Path(file).name  # without its folder in the repository
        at = (path if path.is_dir() else path.parent) / file
        actual = sha256_of(at, progress_line(as_json)) if at.is_file() else ""
        results[file] = "good" if actual == expected else "damaged" if actual else "missing"
    bad = [file for file, result in results.items() if result in ("damaged", "missing")]
    if path.is_file() and not bad:
        with open_model(path) as opened:
            for part in opened.parts:
                results.setdefault(part.path.name, "readable; no digest is known")
    click.echo(to_json({"name": name, "files": results, "good": not bad}) if as_json else
               "\n".join(f"{file}: {result}" for file, result in results.items()))  # fmt: skip
    if bad:
        raise LocalMoeError(f"{name}: {', '.join(bad)} cannot be used; pull or import it again")


@models.command()
@click.argument("name", shell_complete=complete_model)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def rm(name: str, yes: bool) -> None:
    """Remove a model: downloaded or copied files, or only the name of a file elsewhere."""
    from localmoe.catalogue import DEMO, installed, models_directory
    from localmoe.cli.history import confirm_removal

    model = installed().get(name)
    if name == DEMO:
        raise UsageError("the demo model is part of localmoe and stays")
    if model is None:
        raise UsageError(f"there is no model {name!r} here; see `localmoe models list --installed`")
    own = models_directory() / name
    if not yes:
        what = f"{own} and all in it" if model.managed else f"the name only: {model.path} stays"
        confirm_removal([f"{name}: {what}"])
    (models_directory() / f"{name}.json").unlink()
    if model.managed and own.is_dir():
        shutil.rmtree(own)
    click.echo(f"{name} removed", err=True)
