"""Thoughts are told from the answer, however the text is cut into pieces."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from localmoe.text.thinking import CLOSE, OPEN, Thoughts

MARKERS = {OPEN: 7, CLOSE: 8}


def split(text: str, size: int, prompt=(), markers=MARKERS, continues=None) -> tuple[str, str]:
    """Of a vocabulary where 3 is white space, 9 a control token and all else a word."""
    tokenizer = SimpleNamespace(
        markers=lambda: markers,
        is_control=lambda token: token == 9,
        token_bytes=lambda token: {3: b"\n", 9: b""}.get(token, b"word"),
    )
    thoughts = Thoughts(tokenizer, list(prompt), continues)
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    parts = [*map(thoughts.feed, pieces), thoughts.finish()]
    return "".join(thought for thought, _ in parts), "".join(answer for _, answer in parts)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 1000])
@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("<think>\nHm < 3 </thin\n</think>\n\nIt is 4.\n\n", "\nHm < 3 </thin\n", "It is 4.\n\n"),
        ("\n<think></think>\n\nYes </think>", "", "Yes </think>"),
        ("No <think>such</think> thing", "", "No <think>such</think> thing"),
        ("  plain", "", "  plain"),
        ("<thin", "", "<thin"),
        ("<think>", "", ""),
        ("<think>never done </thi", "never done </thi", ""),
        ("", "", ""),
    ],
)
def test_what_stands_between_the_markers_is_thought(text, thought, answer, size):
    assert split(text, size) == (thought, answer)


@pytest.mark.parametrize("size", [1, 4, 100])
def test_a_prompt_may_have_opened_them(size):
    text = "so\n</think>\n\nYes"
    assert split(text, size, prompt=[1, 8, 7, 3]) == ("so\n", "Yes")
    assert split(text, size, prompt=[1, 7, 3, 8, 3]) == ("", text)  # opened and closed: it shall not think
    assert split("<think>a</think>b", size, prompt=[1, 2]) == ("a", "b")


@pytest.mark.parametrize("prompt", [[7, 1, 9], [7, 3, 9, 3], [1, 7, 2, 3]])
def test_a_marker_in_what_was_said_before_opens_nothing(prompt):
    assert split("Yes.", 2, prompt) == ("", "Yes.")


def test_without_such_markers_and_in_an_answer_that_goes_on_all_is_answer():
    text = "<think>a</think>b"
    assert split(text, 3, markers={}) == ("", text)
    assert split(text, 3, prompt=[7, 1, 8, 1], continues="<think>a</think>b") == ("", text)
    assert split(text, 3, prompt=[7, 1, 1], continues="b") == ("", text)


def test_an_answer_that_was_cut_within_its_thoughts_goes_on_there():
    assert split("b</think>c", 2, prompt=[9, 7, 1], continues="<think>a") == ("b", "c")
    assert split("c", 2, prompt=[9, 7, 3, 8, 3], continues="<think>a") == ("", "c")  # told not to think
