"""Keeps the process that renders a chat template: starts it, bounds its time, ends it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from localmoe.text.errors import PromptError
from localmoe.text.safe import safe

_WORKER = Path(__file__).with_name("template_worker.py")
_START_SECONDS = 20.0  # a cold disk and a busy machine are no fault of the template


class TemplateRefusal(PromptError):
    """The template raised an exception of its own: it was not made for this conversation."""


class TemplateProcess:
    """Renders templates in a process that is started once and kept until this object goes."""

    def __init__(self, seconds: float = 3.0, spare_characters: int = 1 << 20) -> None:
        """`seconds` bounds one rendering, `spare_characters` its output (besides 4 times its input)."""
        self._seconds = seconds
        self._spare = spare_characters
        self._now = datetime.now().isoformat()  # one for all: a prompt must not change as a day ends
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._end: Callable[[], Any] = lambda: None  # ends the process; done by itself when this object goes
        self._fresh = True  # started, but has not answered yet
        self._start()  # now, so that Jinja is imported while the weights are loaded

    def render(self, template: str, values: Mapping[str, Any]) -> str:
        """The template's text for these values.

        Raises:
            TemplateRefusal: the template raised an exception.
            PromptError: it is no template, fails, or needs too much time, memory or output.
        """
        described = json.dumps(values)
        request = {
            "template": template,
            "values": values,
            "now": self._now,
            "seconds": self._seconds,
            "characters": 4 * len(described) + self._spare,
        }
        with self._lock:
            answer = self._exchange(json.dumps(request))
        if "text" in answer:
            return str(answer["text"])
        kind = TemplateRefusal if answer["refused"] else PromptError
        reason = " ".join(safe(answer["error"])[:300].split())
        raise kind(f"the model's chat template cannot be used for this conversation: {reason}")

    def _exchange(self, request: str) -> dict[str, Any]:
        """Sends a line, waits for a line; a process that does not answer in time is ended."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise PromptError("the process that renders the model's chat template could not be started")
        timer = threading.Timer(self._seconds + (_START_SECONDS if self._fresh else 0.0), process.kill)
        timer.daemon = True
        timer.start()
        began, line = perf_counter(), ""
        try:
            with suppress(OSError):
                process.stdin.write(request + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
        finally:  # also when interrupted: an answer left in the pipe would be taken for the next one
            timer.cancel()
            if not line:
                self._end()
        if not line:
            late = perf_counter() - began >= self._seconds
            reason = f"it did not end within {self._seconds:g} seconds" if late else "its process died"
            return {"error": reason, "refused": False}
        self._fresh = False
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _start(self) -> None:
        self._process, self._fresh = None, True
        with suppress(OSError):
            # -I -S: nothing of the environment or of site-packages runs; the worker gets this process's path.
            # A session of its own: Ctrl-C at the terminal is not meant for it.
            process = subprocess.Popen(
                [sys.executable or "python3", "-I", "-S", str(_WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
                start_new_session=True,
            )
            self._process = process
            self._end = weakref.finalize(self, _stop, process)
            if process.stdin is not None:
                process.stdin.write(json.dumps([entry for entry in sys.path if entry]) + "\n")
                process.stdin.flush()


def _stop(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # an unsent line is of no use to a process that has ended
                pipe.close()
