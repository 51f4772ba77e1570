"""Text made safe to print: everything a terminal would act on is taken out, also when it is split between
pieces.

Model output, metadata and file names may hold escape sequences that move the cursor, set the clipboard or
rewrite what was printed. `SafeText` reads text as a terminal does (the state machine of ECMA-48 / VT500
parsers) and lets only printable text, line feeds and tabs through. Removed with all of their bytes: escape
and control sequences (ESC, CSI), control strings (OSC, DCS, SOS, PM, APC) up to their terminator, other C0
and C1 controls, DEL, and the bidirectional embeddings, overrides and isolates. Lone surrogates, which no
output encoding can hold, become U+FFFD.

A control string that is never closed ends at the line feed, so that it cannot swallow the rest of an answer.
"""

from __future__ import annotations

import re
from enum import Enum, auto

_BIDIRECTIONAL = "\u202a-\u202e\u2066-\u2069"
_ACTIVE = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_BIDIRECTIONAL}\ud800-\udfff]")

_ESC, _BEL, _CAN, _SUB = "\x1b", "\x07", "\x18", "\x1a"
_STRING_OPENERS = "P]X^_"  # after ESC: DCS, OSC, SOS, PM, APC; their C1 forms are these + 0x40
_C1_STRING_OPENERS = frozenset(chr(ord(c) + 0x40) for c in _STRING_OPENERS)
_C1_CSI, _C1_ST = "\x9b", "\x9c"


class _State(Enum):
    GROUND = auto()  # ordinary text
    ESCAPE = auto()  # after ESC: intermediates, then one final character
    SEQUENCE = auto()  # after CSI: parameters and intermediates, then one final character
    STRING = auto()  # inside a control string
    STRING_ESCAPE = auto()  # ESC inside a control string: `\\` closes it, anything else begins a new sequence


class SafeText:
    """Feed pieces of text, get what is safe to print of them; the state carries over between pieces."""

    def __init__(self) -> None:
        self._state = _State.GROUND
        self._fresh_escape = False  # in ESCAPE: nothing but ESC was read yet

    def feed(self, text: str) -> str:
        """The part of `text` that may be printed."""
        if self._state is _State.GROUND and not _ACTIVE.search(text):
            return text
        return "".join([c for c in map(self._step, text) if c])

    def finish(self) -> str:
        """Ends the text and drops an unfinished sequence. Always "": printable text is never held back."""
        self._state = _State.GROUND
        return ""

    def _step(self, c: str) -> str:
        """What character `c` leaves in the text: itself, a stand-in, or nothing."""
        if self._state is _State.STRING or self._state is _State.STRING_ESCAPE:
            return self._in_string(c)
        if c == _ESC:
            self._state, self._fresh_escape = _State.ESCAPE, True
            return ""
        if "\x80" <= c <= "\x9f":
            self._c1(c)
            return ""
        if c < " " or c == "\x7f":  # a C0 control inside a sequence acts at once and the sequence goes on
            if c in (_CAN, _SUB):
                self._state = _State.GROUND
            return c if c in "\n\t" else ""
        if self._state is _State.ESCAPE and c <= "~":
            return self._in_escape(c)
        if self._state is _State.SEQUENCE and c <= "~":
            if c >= "@":
                self._state = _State.GROUND
            return ""
        self._state = _State.GROUND  # no sequence holds a character beyond ASCII: this is text again
        return _printable(c)

    def _in_escape(self, c: str) -> str:
        if self._fresh_escape and c == "[":
            self._state = _State.SEQUENCE
        elif self._fresh_escape and c in _STRING_OPENERS:
            self._state = _State.STRING
        elif c >= "0":  # final character; 0x20-0x2f are intermediates
            self._state = _State.GROUND
        self._fresh_escape = False
        return ""

    def _in_string(self, c: str) -> str:
        if self._state is _State.STRING_ESCAPE:
            if c == "\\":
                self._state = _State.GROUND
                return ""
            self._state, self._fresh_escape = _State.ESCAPE, True
            return self._step(c)
        if c == _ESC:
            self._state = _State.STRING_ESCAPE
        elif c == "\n":
            self._state = _State.GROUND
            return c
        elif c in (_BEL, _CAN, _SUB, _C1_ST):
            self._state = _State.GROUND
        elif c == _C1_CSI:
            self._state = _State.SEQUENCE
        return ""

    def _c1(self, c: str) -> None:
        if c == _C1_CSI:
            self._state = _State.SEQUENCE
        elif c in _C1_STRING_OPENERS:
            self._state = _State.STRING
        else:
            self._state = _State.GROUND


def _printable(c: str) -> str:
    if not _ACTIVE.match(c):
        return c
    return "\ufffd" if "\ud800" <= c <= "\udfff" else ""


def safe(text: str) -> str:
    """`text` without anything that a terminal would act on."""
    return SafeText().feed(text)
