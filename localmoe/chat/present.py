"""An answer while it comes: on a terminal or in a pipe, with Ctrl-C that stops it and keeps what there is."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from localmoe.chat.output import Notices, Spinner, is_terminal
from localmoe.chat.session import Session
from localmoe.text.safe import SafeText

_THOUGHTS = 60  # characters of what a model thinks, the last ones, that are shown meanwhile


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """While the block runs, Ctrl-C makes the yielded function true; a second one raises KeyboardInterrupt."""
    pressed = threading.Event()

    def on_interrupt(_signal: int, _frame: object) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def orderly_end() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as an exception does, and then the process as they always do.

    So the terminal is as it was before, and what has been answered is saved.
    """
    received: list[int] = []

    def on_signal(number: int, _frame: object) -> None:
        received.append(number)
        if len(received) == 1:
            raise SystemExit(128 + number)  # an exception that event loops let through

    known = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [number for number in known if signal.getsignal(number) == signal.SIG_DFL]  # not under nohup
    for number in numbers:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        if received:
            os.kill(os.getpid(), received[0])


@contextmanager
def keyboard(echo: bool) -> Iterator[None]:
    """While the block runs, the terminal echoes keys, or not: then they wait unseen for the next prompt."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    import termios

    before = termios.tcgetattr(sys.stdin)
    wanted = termios.tcgetattr(sys.stdin)
    # NOFLSH: Ctrl-C must not throw away what was typed ahead
    wanted[3] = wanted[3] | termios.ECHO if echo else (wanted[3] | termios.NOFLSH) & ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, wanted)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def write_answer(session: Session, pieces: Iterable[str], notices: Notices) -> None:
    """Write `pieces` to stdout as they come: rendered on a terminal, plain otherwise; its last line ends.

    Notices that arise meanwhile are shown before the first word or after the last one.
    """
    notices.hold()
    try:
        with Spinner("thinking", notices.quiet) as spinner:

            def progress(done: int, total: int) -> None:
                spinner.text = f"reading the prompt, {done:,} of {total:,} tokens"

            def thought(text: str) -> None:
                spinner.text = f"thinking: {' '.join(text[-_THOUGHTS:].split())}"

            session.decoder.progress, session.thought = progress, thought

            def begin() -> None:
                spinner.stop()
                notices.release()
                notices.hold()

            shown = _when_first(pieces, begin)
            if is_terminal(sys.stdout) and session.settings.markdown:
                from localmoe.chat.render import AnswerView

                with AnswerView(session.settings.theme) as view:
                    for piece in shown:
                        view.feed(piece)
            else:
                _write_plain(shown)
    finally:
        notices.release()


def _when_first(pieces: Iterable[str], act: Callable[[], object]) -> Iterator[str]:
    """`pieces`; `act` is called before the first."""
    first = True
    for piece in pieces:
        if first:
            act()
        first = False
        yield piece


def _write_plain(pieces: Iterable[str]) -> None:
    cleaner, last = SafeText(), "\n"
    for piece in pieces:
        text = cleaner.feed(piece)
        if text:
            last = text[-1]
            sys.stdout.write(text)
            sys.stdout.flush()
    if last != "\n":
        print(flush=True)
