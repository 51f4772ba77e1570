"""Models by name: the catalogue (`models.toml`), what is installed here, and which file a name means."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal

from localmoe.errors import UsageError
from localmoe.paths import expanded
from localmoe.settings import data_directory

DEMO = "demo"
ORIGINAL = "-safetensors"  # after a model's name: its original weights, which are converted, not run


@dataclass(frozen=True)
class Source:
    """Where a model's files can be downloaded: a Hugging Face repository and patterns of file names."""

    kind: Literal["gguf", "safetensors"]
    repo: str
    files: Sequence[str]
    size: int  # bytes, about


@dataclass(frozen=True)
class Entry:
    """A model the catalogue knows. `parameters` and `active` (per token) are in billions."""

    name: str
    title: str
    about: str
    licence: str
    architecture: str
    parameters: float
    active: float
    layers: int
    experts: int
    experts_used: int
    context: int
    sources: Sequence[Source] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Installed:
    """A model on this machine. `digests`: file name → sha256, if known; `managed`: pulled or copied by us."""

    name: str
    path: Path
    size: int
    managed: bool
    origin: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What a model argument means. `names`: all the names settings may use for it."""

    name: str
    path: Path
    entry: Entry | None

    @property
    def names(self) -> tuple[str, ...]:
        known = (self.name, self.path.stem, str(self.path), *((self.entry.name,) if self.entry else ()))
        return tuple(dict.fromkeys(known))


@cache
def entries() -> Mapping[str, Entry]:
    """The catalogue, by name."""
    here = Path(__file__).resolve()
    beside, above = here.with_name("models.toml"), here.parents[1] / "models.toml"
    data = tomllib.loads((beside if beside.exists() else above).read_text("utf-8"))
    return {
        name: Entry(
            name=name, **{**facts, "sources": tuple(Source(**one) for one in facts.get("sources", ()))}
        )
        for name, facts in data.items()
    }


def demo_path() -> Path:
    """The embedded model's file."""
    return Path(__file__).resolve().parent / "data" / "demo.gguf"


def models_directory() -> Path:
    """Where pulled models and the records of imported ones are kept."""
    return data_directory() / "models"


def installed() -> dict[str, Installed]:
    """The models on this machine, by name; unreadable records, and those whose file is gone, are left out."""
    found: dict[str, Installed] = {}
    if demo_path().exists():
        found[DEMO] = Installed(DEMO, demo_path(), demo_path().stat().st_size, False, "built in")
    for record in sorted(models_directory().glob("*.json")):
        try:
            data = json.loads(record.read_text("utf-8"))
            model = Installed(**{**data, "path": Path(data["path"])})
        except (OSError, ValueError, TypeError, KeyError):
            continue
        if model.path.exists():
            found[model.name] = model
    return found


def register(model: Installed) -> None:
    """Write `model`'s record; an earlier one of that name is replaced in one step."""
    directory = models_directory()
    directory.mkdir(parents=True, exist_ok=True)
    record = directory / f"{model.name}.json"
    draft = record.with_suffix(".partial")
    draft.write_text(json.dumps({**vars(model), "path": str(model.path)}, indent=2) + "\n", "utf-8")
    draft.replace(record)


def checked_name(name: str) -> str:
    """`name` if it can name a model. Raises `UsageError`."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) or name == DEMO:
        raise UsageError(f"{name!r} cannot name a model: use letters, digits, dots, dashes; not demo")
    return name


def conversion(name: str, directory: Path) -> str:
    """The commands that make a model of the original weights `name` in `directory`."""
    source, name = shlex.quote(str(directory)), name.removesuffix(ORIGINAL)
    if name in installed():
        name += "-q4_k_m"  # which quantize makes unless told otherwise
    return f"localmoe quantize {source} -o {name}.gguf && localmoe models import {name}.gguf"


def _not_converted(model: Installed) -> UsageError:
    how = conversion(model.name, model.path)
    return UsageError(f"{model.path} holds original weights, which must be converted first: {how}")


def find(model: str) -> Found:
    """The file that `model` (a path, an installed name, or demo) means; the first, of a model in parts.

    Raises `UsageError` for a name that is not on this machine, how to get it, or the nearest name; and for
    original weights, how to convert them.
    """
    here = installed()
    if model in here:
        if here[model].path.is_dir():
            raise _not_converted(here[model])
        return Found(model, here[model].path, entries().get(model))
    if model == DEMO:
        raise UsageError("this copy of localmoe holds no demo model; name a model file instead")
    path = expanded(model)
    if path.exists():
        from quant.parts import first_part, model_name

        path = first_part(path)
        return Found(model_name(path), path, None)
    if model + ORIGINAL in here:
        raise _not_converted(here[model + ORIGINAL])
    if model in entries():
        sources = entries()[model].sources
        size = f" ({sources[0].size / 1e9:.0f} GB)" if sources else ""
        raise UsageError(f"{model} is not on this machine; `localmoe models pull {model}` downloads it{size}")
    if path.suffix or len(path.parts) > 1:
        raise UsageError(f"no such file: {model}")
    if " " in model:
        raise UsageError(f"no model or file {model!r}; to ask something, write: localmoe chat -p TEXT")
    close = get_close_matches(model, [*here, *entries()], n=1)
    hint = f"did you mean {close[0]!r}?" if close else "`localmoe models list` shows what there is"
    raise UsageError(f"no model or file {model!r}; {hint}")
