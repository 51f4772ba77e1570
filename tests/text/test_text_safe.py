"""Nothing that a terminal acts on gets through, however it is split; ordinary text always does."""

from __future__ import annotations

import time
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localmoe.text.safe import SafeText, safe

BIDIRECTIONAL = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def dangerous(text: str) -> list[str]:
    """The characters of `text` that no output may hold, found by what Unicode says of them."""
    reordering = ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
    control = [c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]
    return control + [c for c in text if unicodedata.bidirectional(c) in reordering]


def fed(parts: list[str]) -> str:
    cleaner = SafeText()
    return "".join(cleaner.feed(part) for part in parts) + cleaner.finish()


harmless = st.characters(exclude_categories=["Cc", "Cs"], exclude_characters=BIDIRECTIONAL)
ordinary = st.text(harmless, max_size=8)
lines = st.builds(str.__add__, ordinary, st.sampled_from(["", "\n", "\t"]))
parameters = st.text("0123456789;:?<=>", max_size=6)
intermediates = st.text(" !\"#$%&'()*+,-./", max_size=2)
csi = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["\x1b[", "\x9b"]),
    parameters,
    intermediates,
    st.characters(min_codepoint=0x40, max_codepoint=0x7E),
)
payload = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=12)
control_string = st.builds(
    "{}{}{}".format,
    st.sampled_from(["\x1b]", "\x9d", "\x1bP", "\x90", "\x1bX", "\x98", "\x1b^", "\x9e", "\x1b_", "\x9f"]),
    payload,
    st.sampled_from(["\x07", "\x1b\\", "\x9c"]),
)
finals = [c for c in map(chr, range(0x30, 0x7F)) if c not in "P]X^_["]
short_escape = st.builds("\x1b{}{}".format, intermediates, st.sampled_from(finals))
controls = [*range(9), *range(11, 27), *range(28, 32), 127, *range(0x80, 0x90)]
single = st.sampled_from([chr(c) for c in controls])
escapes = st.one_of(csi, control_string, short_escape, single, st.sampled_from(list(BIDIRECTIONAL)))


@given(st.text(st.characters(), max_size=60), st.lists(st.integers(0, 60), max_size=5))
@settings(max_examples=400, deadline=None)
def test_no_text_in_no_split_leaves_anything_dangerous(text: str, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    assert dangerous(fed([text[a:b] for a, b in pairwise(edges)])) == []


@given(st.lists(st.tuples(lines, escapes), max_size=6), lines, st.data())
@settings(max_examples=400, deadline=None)
def test_whole_escapes_go_and_all_other_text_stays(
    parts: list[tuple[str, str]], last: str, data: st.DataObject
) -> None:
    """Not a byte of any escape remains and not a character of text is lost, under any split."""
    text = "".join(plain + escape for plain, escape in parts) + last
    expected = "".join(plain for plain, _ in parts) + last
    size = data.draw(st.integers(1, max(1, len(text))))
    assert fed([text[i : i + size] for i in range(0, len(text), size)]) == expected
    assert safe(text) == expected


@given(lines)
def test_ordinary_text_is_untouched(text: str) -> None:
    assert fed([text]) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x1b[31mred\x1b[0m b", "ared b"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]52;c;cm0gLXJmIC8=\x07done", "done"),
        ("\x1b]0;title\x1b[31mred", "red"),  # ESC ends the string and begins a sequence
        ("\x1bPq#0;2;0;0;0\x1b\\x", "x"),
        ("\x9b2Jx\x9d0;t\x9cy", "xy"),
        ("\x1b(Bx\x1bcy\x1b7z", "xyz"),
        ("1\r2\b3\a\x7f4", "1234"),
        ("\u202egpj.exe\u202c \u2067x\u2069", "gpj.exe x"),
        ("\u200fשלום\u200e \u061c", "\u200fשלום\u200e \u061c"),  # marks reorder nothing but their neighbours
        ("👩\u200d👧 e\u0301 \ufeff", "👩\u200d👧 e\u0301 \ufeff"),
        ("\x1b]never closed\nbut the next line is shown", "\nbut the next line is shown"),
        ("\x1b[12", ""),
        ("\x1b[1é", "é"),  # no sequence goes beyond ASCII
        ("\x1b\x1b[1mx", "x"),
        ("\x1b[3\n1mx", "\nx"),  # a line feed acts inside a sequence, which goes on
        ("\x1b[3\x181mx", "1mx"),  # CAN ends it
        ("\ud83d x", "\ufffd x"),
        ("[bold]markup[/bold] is text", "[bold]markup[/bold] is text"),
    ],
)
def test_what_terminals_know(text: str, expected: str) -> None:
    assert safe(text) == expected
    assert fed(list(text)) == expected


def test_finish_leaves_a_clean_state() -> None:
    cleaner = SafeText()
    assert cleaner.feed("a\x1b]0;never closed") == "a"
    assert cleaner.finish() == ""
    assert cleaner.feed("b") == "b"


def test_ordinary_text_costs_nothing() -> None:
    text = "An ordinary line of an answer, with äöü and 你好.\n" * 20_000
    began = time.perf_counter()
    assert safe(text) == text
    assert time.perf_counter() - began < 0.5
