"""A real pseudo-terminal with a program in it, and an emulator that shows what a person would see."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType

import pexpect
import pyte

COLUMNS, ROWS = 80, 24


class Program:
    """A running program. `type` sends keys; `see` waits until the screen or its scrollback shows a text."""

    def __init__(
        self,
        arguments: list[str],
        environment: dict[str, str],
        rows: int = ROWS,
        program: str = sys.executable,
    ) -> None:
        self._screen = pyte.HistoryScreen(COLUMNS, rows, history=100000, ratio=1)
        self._stream = pyte.ByteStream(self._screen)
        self.received = b""
        # pyte does not answer the terminal queries of prompt_toolkit: tell it not to ask
        settings = {**environment, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self._child = pexpect.spawn(
            program, arguments, env=settings, dimensions=(rows, COLUMNS), timeout=None, echo=True
        )
        self._child.delaybeforesend = None

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is not None:
            print("\n".join(self.lines()))
        self._kill()
        self._child.close(force=True)

    def _kill(self, seconds: float = 10) -> None:
        """End the program and wait: pexpect gives a busy machine a tenth of a second."""
        end = time.monotonic() + seconds
        while self._child.isalive() and time.monotonic() < end:
            self._child.kill(signal.SIGKILL)
            time.sleep(0.02)

    def kill(self) -> None:
        """As `kill -9` does."""
        self._child.kill(signal.SIGKILL)
        self._kill()

    def pump(self, seconds: float = 0.05) -> bool:
        """Take in what the program wrote; false when it has ended."""
        try:
            data = self._child.read_nonblocking(65536, timeout=seconds)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.received += data
        self._stream.feed(data)
        return True

    def lines(self) -> list[str]:
        """Everything that can be read, scrollback first."""
        history = ["".join(row[column].data for column in range(COLUMNS)) for row in self._screen.history.top]
        return [line.rstrip() for line in [*history, *self._screen.display]]

    def screen(self) -> list[str]:
        """The rows that are shown now."""
        return [str(line).rstrip() for line in self._screen.display]

    def text(self) -> str:
        return "\n".join(self.lines()).rstrip()

    def wait(self, condition: Callable[[], bool], seconds: float = 40.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            alive = self.pump()
            if time.monotonic() > end or not (alive or condition()):
                raise AssertionError(f"not seen in {seconds} s")

    def shows(self, text: str) -> bool:
        """Whether `text` can be read, also broken between rows."""
        return text in self.text() or text in " ".join(self.text().split())

    def see(self, *texts: str, seconds: float = 40.0) -> None:
        """Wait until all of `texts` can be read."""
        for text in texts:
            try:
                self.wait(partial(self.shows, text), seconds)
            except AssertionError:
                raise AssertionError(f"{text!r} is not in:\n{self.text()}") from None

    def prompt(self, seconds: float = 40.0) -> None:
        """Wait for an empty prompt as the last line."""
        try:
            self.wait(lambda: self.text().split("\n")[-1].strip() == ">>>" and not self._more(), seconds)
        except AssertionError:
            raise AssertionError(f"no prompt at the end of:\n{self.text()}") from None

    def _more(self) -> bool:
        before = len(self.received)
        self.pump(0.15)
        return len(self.received) != before

    def type(self, keys: str | bytes) -> None:
        self._child.send(keys)

    def say(self, text: str) -> None:
        """Type a line, send it, wait for the next prompt."""
        self.type(text + "\r")
        self.see(text[:20])
        self.pump(0.3)
        self.prompt()

    def end(self, seconds: float = 40.0) -> int:
        """Wait for the end; the exit code."""
        limit = time.monotonic() + seconds
        while self.pump():
            if time.monotonic() > limit:
                raise AssertionError(f"still running:\n{self.text()}")
        self._child.close()
        return int(self._child.exitstatus if self._child.exitstatus is not None else -1)
