"""Renders chat templates in a process of its own: run as a script, never imported.

A model file's template is a program by a stranger. Jinja's immutable sandbox keeps it from reaching Python;
limits on time, memory and output, which only a process can have, keep it from hanging or filling the
machine. Requests and answers are JSON, one to a line; the first line is the parent's sys.path. Nothing of
localmoe is imported: this starts in the time that Jinja takes.

Request: {"template", "values", "now", "seconds", "characters"}, where `now` is the time in ISO 8601 that
templates are told. Answer: {"text"} or {"error", "refused"}, where `refused` says that the template itself
raised an exception (as they do for conversations they were not made for).
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Any, TextIO

_MEMORY = 512 << 20  # bytes of address space


class Refused(Exception):
    """The template called `raise_exception`."""


def main(requests: TextIO, answers: TextIO) -> None:
    """Answers requests until there are no more."""
    sys.path[:] = json.loads(requests.readline())
    _limit_resources()
    environment = _environment()
    for line in requests:
        request = json.loads(line)
        _set_alarm(request["seconds"])
        answer = _answer(environment, request)
        _set_alarm(0)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answer(environment: Any, request: dict[str, Any]) -> dict[str, Any]:
    from jinja2 import TemplateError

    environment.globals["strftime_now"] = datetime.fromisoformat(request["now"]).strftime
    try:
        text, size = [], 0
        for part in environment.from_string(request["template"]).generate(**request["values"]):
            size += len(part)
            if size > request["characters"]:
                return {"error": f"it writes more than {request['characters']} characters", "refused": False}
            text.append(part)
        return {"text": "".join(text)}
    except Refused as error:
        return {"error": str(error), "refused": True}
    except MemoryError:
        return {"error": "it needs too much memory", "refused": False}
    except RecursionError:
        return {"error": "it calls itself without end", "refused": False}
    except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return {"error": f"{type(error).__name__}: {error}", "refused": False}


def _environment() -> Any:
    """The environment that chat templates are written for: transformers' settings, filters and functions."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    return environment


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """Jinja's own filter escapes for HTML, which no prompt wants."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise_exception(message: str) -> None:
    raise Refused(message)


def _limit_resources() -> None:
    """Memory is bounded; no file can be written and no process started, whatever a template might find."""
    try:
        import resource
    except ImportError:  # Windows has none: there the parent's timer is the limit
        return
    for name, most in (("RLIMIT_AS", _MEMORY), ("RLIMIT_FSIZE", 0), ("RLIMIT_CORE", 0), ("RLIMIT_NPROC", 0)):
        kind = getattr(resource, name, None)
        if kind is None:
            continue
        try:
            hard = resource.getrlimit(kind)[1]
            limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (limit, limit))
        except (OSError, ValueError):
            continue  # macOS knows RLIMIT_AS but refuses to set it


def _set_alarm(seconds: float) -> None:
    """Ends this process after `seconds` even if the parent has gone; 0 calls that off."""
    import signal

    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


if __name__ == "__main__":
    main(sys.stdin, sys.stdout)
