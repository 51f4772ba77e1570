"""Stop strings end the text wherever the pieces are cut; nothing else is lost or delayed for good."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from localmoe.generate.stopping import StopStrings


def fed(stops: str | list[str], parts: list[str]) -> tuple[str, str | None]:
    watch = StopStrings(stops)
    text = "".join(watch.push(part) for part in parts) + watch.finish()
    return text, watch.found


def expected(stops: list[str], text: str) -> tuple[str, str | None]:
    """As if read character by character: what is complete first ends the text, of several the longest."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            found = max(complete, key=len)
            return text[: end - len(found)], found
    return text, None


@given(
    st.text("ab\n", max_size=30),
    st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
    st.integers(1, 30),
)
@settings(max_examples=600, deadline=None)
def test_the_same_end_however_the_text_comes(text: str, stops: list[str], size: int) -> None:
    parts = [text[i : i + size] for i in range(0, len(text), size)]
    assert fed(stops, parts) == expected(stops, text)


def test_only_what_may_become_a_stop_is_held_back() -> None:
    watch = StopStrings(["\nUser:", "###"])
    assert watch.push("Hello #") == "Hello "
    assert watch.push("1") == "#1"
    assert watch.push("\nUse") == ""
    assert watch.push("ful") == "\nUseful"
    assert watch.push("##") == ""
    assert watch.finish() == "##"


def test_of_two_that_end_together_the_longer_counts() -> None:
    assert fed(["end", "the end"], ["to the end."]) == ("to ", "the end")


def test_nothing_comes_after_a_stop() -> None:
    watch = StopStrings(["stop"])
    assert watch.push("a stop b") == "a "
    assert watch.found == "stop"
    assert watch.push("c") == ""
    assert watch.finish() == ""


def test_a_bare_text_is_one_stop_string() -> None:
    assert fed("Paris", ["The capital is ", "Paris."]) == ("The capital is ", "Paris")
    assert fed("", ["a"]) == ("a", None)


def test_no_stops_pass_everything_at_once() -> None:
    assert fed([], ["a", "b"]) == ("ab", None)
    assert fed(["", ""], ["a", "b"]) == ("ab", None)
