"""Thoughts are told from the answer, however the text is cut into pieces."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from localmoe.text.thinking import CLOSE, OPEN, Thoughts

MARKERS = {OPEN: 7, CLOSE: 8}


def split(text: str, size: int, prompt=(), markers=MARKERS, continues=False) -> tuple[str, str]:
    thoughts = Thoughts(SimpleNamespace(markers=lambda: markers), list(prompt), continues)
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


def test_without_such_markers_and_in_an_answer_that_goes_on_all_is_answer():
    text = "<think>a</think>b"
    assert split(text, 3, markers={}) == ("", text)
    assert split(text, 3, prompt=[7], continues=True) == ("", text)
