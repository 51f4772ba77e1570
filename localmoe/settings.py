"""Settings: what they are called, what they may be, and where their values come from.

A command-line flag wins over the environment (`LOCALMOE_TEMPERATURE=0`), that over the section of
`config.toml` for the model, that over its top level, that over what the catalogue recommends, that over the
default.

    temperature = 0.7
    [models.mixtral-8x7b]
    temperature = 0.4
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from localmoe.errors import UsageError
from localmoe.experts.sizes import format_size, parse_size
from localmoe.paths import expanded


class Kind(NamedTuple):
    """How a setting's text becomes its value; `read` raises ValueError."""

    read: Callable[[str], Any]
    expected: str


def _size(text: str) -> int:
    return 0 if text.strip() == "0" else parse_size(text)


def _finite(text: str) -> float:
    value = float(text)
    if not abs(value) < float("inf"):
        raise ValueError(text)
    return value


def _switch(text: str) -> bool:
    if text.lower() in ("on", "true", "yes", "1"):
        return True
    if text.lower() in ("off", "false", "no", "0"):
        return False
    raise ValueError(text)


NUMBER = Kind(_finite, "a number")
COUNT = Kind(int, "a whole number")
SIZE = Kind(_size, "a size such as 8GiB")
SWITCH = Kind(_switch, "on or off")
TEXT = Kind(str, "text")
TEXTS = Kind(lambda text: (text,), "a list of texts")


def _setting(
    default: Any,
    kind: Kind,
    summary: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
    live: bool = True,
) -> Any:
    """A field of `Settings`; not `live`: it takes effect only when a model is loaded or a chat starts."""
    about = {"kind": kind, "summary": summary, "low": low, "high": high, "choices": choices, "live": live}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Settings:
    """Every setting's value, typed."""

    model: str = _setting("demo", TEXT, "model when none is named: path, catalogue name, demo", live=False)
    system: str = _setting("", TEXT, "system prompt of new conversations")
    temperature: float = _setting(0.7, NUMBER, "0: the likeliest token; higher: more varied", low=0, high=5)
    top_k: int = _setting(0, COUNT, "choose among the k likeliest tokens (0: all)", low=0)
    top_p: float = _setting(0.95, NUMBER, "choose among the tokens that hold this share", low=0, high=1)
    min_p: float = _setting(0.05, NUMBER, "leave out tokens below this share of the top one's", low=0, high=1)
    repeat_penalty: float = _setting(1.0, NUMBER, "above 1: discourage recent tokens", low=0.1, high=5)
    presence_penalty: float = _setting(0.0, NUMBER, "discourage tokens that occurred", low=-5, high=5)
    frequency_penalty: float = _setting(0.0, NUMBER, "discourage tokens by their count", low=-5, high=5)
    repeat_last_n: int = _setting(64, COUNT, "how many tokens back the penalties look", low=0)
    seed: int | None = _setting(None, COUNT, "repeat an answer exactly (unset: a new seed each time)", low=0)
    max_tokens: int | None = _setting(None, COUNT, "longest answer in tokens (unset: what fits)", low=1)
    think: bool = _setting(True, SWITCH, "let a model that can think before it answers do so")
    effort: str | None = _setting(
        None, TEXT, "how hard a model thinks, where it can be told (unset: its format's own)",
        choices=("low", "medium", "high"),
    )  # fmt: skip
    stop: tuple[str, ...] = _setting((), TEXTS, "end the answer before this text")
    json_schema: str = _setting("", TEXT, "answer in JSON of this schema: a file, or {...} itself ({}: any)")
    grammar: str = _setting("", TEXT, "answer by the grammar in this file (GBNF, or Lark's syntax)")
    overflow: str = _setting(
        "drop", TEXT, "when the context is full: leave out, stop or sum up the oldest turns",
        choices=("drop", "stop", "summarize"),
    )  # fmt: skip
    context: int | None = _setting(None, COUNT, "context length in tokens", low=16, live=False)
    kv_type: str = _setting("f16", TEXT, "format of the KV cache", choices=("f16", "q8_0"), live=False)
    device: str = _setting("auto", TEXT, "auto, cpu, cuda or cuda:N", live=False)
    gpu_memory: int | None = _setting(None, SIZE, "most GPU memory to use", low=0, live=False)
    ram: int | None = _setting(None, SIZE, "most RAM for weights, KV cache and scratch", low=0, live=False)
    threads: int | None = _setting(None, COUNT, "CPU threads", low=1, high=4096, live=False)
    keys: str = _setting("emacs", TEXT, "editing keys", choices=("emacs", "vi"), live=False)
    status: bool = _setting(True, SWITCH, "a line with speed and context use after each answer")
    markdown: bool = _setting(True, SWITCH, "render Markdown on a terminal")
    theme: str = _setting("monokai", TEXT, "Pygments style of code blocks")
    kv_disk: int = _setting(2 * 2**30, SIZE, "disk space for saved KV states (0: none)", low=0, live=False)


RIVALS = {"json_schema": "grammar", "grammar": "json_schema"}  # the one that is said nearer at hand counts
FIELDS: Mapping[str, Field[Any]] = {one.name: one for one in fields(Settings)}


def canonical(name: str) -> str:
    """A setting's name as in `Settings`. Raises `UsageError` naming the nearest one."""
    wanted = name.strip().lower().replace("-", "_")
    if wanted not in FIELDS:
        hint = suggestion(wanted, FIELDS) or "; `localmoe config show` lists them"
        raise UsageError(f"no setting {name!r}{hint}")
    return wanted


def suggestion(word: str, known: Mapping[str, Any]) -> str:
    """A half sentence with the entry of `known` nearest to `word`, or nothing."""
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def parse(name: str, value: object, where: str = "") -> Any:
    """`value` (text, or what TOML gives) as setting `name`'s type. Raises `UsageError`: what is expected."""
    about = FIELDS[name].metadata
    kind: Kind = about["kind"]
    prefix = f"{where}: " if where else ""
    if FIELDS[name].default is None and value in (None, "none", "unset", "auto", ""):
        return None
    if kind in (TEXT, TEXTS) and not about["choices"] and value == "none":
        return FIELDS[name].default
    try:
        if kind is TEXTS and isinstance(value, list | tuple):
            result: Any = tuple(str(one) for one in value)
        elif kind is TEXT and not isinstance(value, str):
            raise ValueError(value)
        else:
            result = kind.read(str(value))
    except (ValueError, UsageError):
        raise UsageError(f"{prefix}{name} must be {kind.expected}, not {value!r}") from None
    low, high = about["low"], about["high"]
    if (low is not None and result < low) or (high is not None and result > high):
        limits = f"between {low} and {high}" if high is not None else f"at least {low}"
        raise UsageError(f"{prefix}{name} must be {limits}, not {value!r}")
    if about["choices"] and result not in about["choices"]:
        raise UsageError(f"{prefix}{name} must be one of {', '.join(about['choices'])}, not {value!r}")
    if name == "device" and not re.fullmatch(r"auto|cpu|cuda(:\d+)?", result):
        raise UsageError(f"{prefix}device must be auto, cpu, cuda or cuda:N, not {value!r}")
    return result


def shown(name: str, value: Any) -> str:
    """A setting's value as a person would type it."""
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return "on" if value else "off"
    if FIELDS[name].metadata["kind"] is SIZE:
        return format_size(value)
    if isinstance(value, tuple):
        return ", ".join(repr(one) for one in value) or "none"
    return str(value) if value != "" else "none"


@dataclass(frozen=True)
class Resolved:
    """Settings with the origin of each value, and what was found wrong on the way."""

    settings: Settings
    origins: Mapping[str, str]
    warnings: tuple[str, ...]


def config_path() -> Path:
    """Where `config.toml` is looked for (`LOCALMOE_CONFIG_DIR` moves it)."""
    return _directory("LOCALMOE_CONFIG_DIR", "user_config_dir") / "config.toml"


def data_directory() -> Path:
    """Where the history and downloaded models live (`LOCALMOE_DATA_DIR` moves it)."""
    return _directory("LOCALMOE_DATA_DIR", "user_data_dir")


def cache_directory() -> Path:
    """Where what can be made again lives (`LOCALMOE_CACHE_DIR` moves it)."""
    return _directory("LOCALMOE_CACHE_DIR", "user_cache_dir")


def _directory(variable: str, function: str) -> Path:
    if os.environ.get(variable):
        return expanded(os.environ[variable])
    import platformdirs

    return Path(getattr(platformdirs, function)("localmoe", appauthor=False))


def read_config(path: Path) -> dict[str, Any]:
    """The parsed config file; empty if there is none. Raises `UsageError` for one that cannot be read."""
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {error}; correct it with `localmoe config edit`") from error


def check_config(path: Path) -> tuple[str, ...]:
    """The warnings about a config file. Raises `UsageError` for a value that cannot be, in any section."""
    sections = read_config(path).get("models")
    names = tuple(sections) if isinstance(sections, dict) else ()
    return resolve({}, names, environment={}, path=path).warnings


def resolve(
    flags: Mapping[str, Any],
    model_names: Sequence[str] = (),
    recommended: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    path: Path | None = None,
) -> Resolved:
    """The settings in force.

    `flags`: setting → value, None where not given; `model_names`: what the model may be called in
    `[models.X]`; `recommended`: the catalogue's values; `path`: another config file. Raises `UsageError` for
    a value that cannot be.
    """
    environment = os.environ if environment is None else environment
    path = config_path() if path is None else path
    config = read_config(path)
    sections = config.pop("models", {})
    if not isinstance(sections, dict) or not all(isinstance(one, dict) for one in sections.values()):
        raise UsageError(f"{path}: models must hold a section per model, like [models.demo]")
    values: dict[str, Any] = {}
    origins: dict[str, str] = dict.fromkeys(FIELDS, "default")
    warnings: list[str] = []

    def take(source: Mapping[str, Any], origin: str, where: str) -> None:
        for key, value in source.items():
            name = key.lower().replace("-", "_")
            if name not in FIELDS:
                warnings.append(f"{where}: unknown key {key!r}{suggestion(name, FIELDS)}")
            elif value is not None:
                values[name] = parse(name, value, where)
                rival = RIVALS.get(name, "")
                if values[name] and rival in values and origins[rival] != origin:
                    del values[rival]
                    origins[rival] = "default"
                origins[name] = origin

    take(recommended or {}, "catalogue", "models.toml")
    take(config, "config.toml", str(path))
    for name, section in sections.items():
        if name in model_names:
            take(section, f"config.toml [models.{name}]", f"{path} [models.{name}]")
        else:  # not for this model, but a misspelt key is worth telling now
            warnings += [
                f"{path} [models.{name}]: unknown key {key!r}{suggestion(key, FIELDS)}"
                for key in section
                if key.lower().replace("-", "_") not in FIELDS
            ]
    for name in FIELDS:
        if f"LOCALMOE_{name.upper()}" in environment:
            variable = f"LOCALMOE_{name.upper()}"
            take({name: environment[variable]}, "environment", variable)
    take({name: value for name, value in flags.items() if value not in (None, ())}, "flag", "")
    return Resolved(Settings(**values), origins, tuple(warnings))
