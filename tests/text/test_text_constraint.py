"""Which tokens may come: thoughts run free, the answer keeps to its form, and ends where it may end."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pytest

from localmoe.catalogue import find
from localmoe.text.constraint import Constraint, ConstraintError, Constraints, _Pieces
from localmoe.text.grammar import Grammar, GrammarError
from localmoe.text.tokenizer import Tokenizer, load_tokenizer
from quant.gguf import GGUFFile

SCHEMA = Grammar.from_json_schema(
    {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"],
     "additionalProperties": False}
)  # fmt: skip
YES = Grammar.from_text('root ::= "yes" | "no"')
EOS, OPEN, CLOSE, START, CHANNEL, MESSAGE, END = range(256, 263)
THINK = {"<think>": OPEN, "</think>": CLOSE}
HARMONY = {"<|start|>": START, "<|channel|>": CHANNEL, "<|message|>": MESSAGE, "<|end|>": END}


class Bytes:
    """Ids 0 … 255 are bytes, then EOS and markers; `markers` says which of those the vocabulary has."""

    vocab_size, bos_id = 263, None
    eos_id: int | None = EOS
    eos_ids = frozenset({EOS})

    def __init__(self, markers: Mapping[str, int] | None = None) -> None:
        self._markers = dict(markers or {})

    def encode(self, text: str, bos: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode()

    def token_bytes(self, token: int, first: bool = False) -> bytes:
        user_defined = {OPEN: b"<think>", CLOSE: b"</think>"}  # as in Qwen's vocabulary
        return bytes((token,)) if token < 256 else user_defined.get(token, b"")

    def is_control(self, token: int) -> bool:
        return token >= 256 and token not in (OPEN, CLOSE)

    def control_id(self, piece: str) -> int | None:
        return self._markers.get(piece)

    def markers(self) -> Mapping[str, int]:
        return self._markers


def write(constraint: Constraint, *parts: str | int) -> None:
    """Texts byte by byte, and markers; each must be allowed."""
    for token in [one for part in parts for one in ([part] if isinstance(part, int) else part.encode())]:
        assert token in constraint.allowed(), f"{token} of {parts}"
        constraint.accept(token)


def allowed(constraint: Constraint) -> set[int | str]:
    """Markers as ids, bytes as characters."""
    return {int(i) if i > 255 else chr(i) for i in constraint.allowed()}


def started(
    grammar: Grammar, markers: Mapping[str, int], prompt: Sequence[int] = (), **on: str
) -> Constraint:
    return Constraints(Bytes(markers)).start(grammar, list(prompt), **on)


def test_an_answer_keeps_to_its_schema_and_then_ends():
    constraint = started(SCHEMA, {})
    assert allowed(constraint) == {"{"}
    write(constraint, '{"name": "Zoë \\n 🦀"')
    assert not constraint.done
    assert {"}", " "} <= allowed(constraint)
    assert {",", "a", EOS}.isdisjoint(allowed(constraint))
    write(constraint, "}")
    assert constraint.done
    assert allowed(constraint) == {EOS}


def test_white_space_between_the_parts_is_bounded():
    constraint = started(SCHEMA, {})
    write(constraint, "{\n" + " " * 20)
    assert allowed(constraint) == {'"'}
    constraint = started(SCHEMA, {})
    write(constraint, "{ ")
    assert allowed(constraint) == {'"'}


def test_where_an_answer_may_go_on_it_may_also_end():
    constraint = started(Grammar.from_text("start: /[0-9]+/"), {})
    assert EOS not in allowed(constraint)
    write(constraint, "12")
    assert not constraint.done
    assert allowed(constraint) == {*"0123456789", EOS}
    write(constraint, EOS)
    assert constraint.done


def test_thoughts_come_first_where_the_vocabulary_has_them():
    constraint = started(YES, THINK)
    assert allowed(constraint) == {OPEN, "y", "n"}
    write(constraint, OPEN, "\nIs it? <think> no, {yes}\n")
    assert len(allowed(constraint)) > 128
    assert {EOS, OPEN}.isdisjoint(allowed(constraint))  # they must end, and an answer must come
    write(constraint, CLOSE)
    assert allowed(constraint) == {"\n", "y", "n"}
    write(constraint, "\n\n")
    assert allowed(constraint) == {"y", "n"}
    write(constraint, "yes")
    assert constraint.done


def test_a_prompt_may_have_opened_the_thoughts():
    constraint = started(YES, THINK, [1, OPEN, 10])
    write(constraint, "Hm", CLOSE, "\n\nno")
    assert constraint.done
    closed = started(YES, THINK, [1, OPEN, 10, 10, CLOSE, 10, 10])  # it shall not think
    assert allowed(closed) == {"y", "n"}
    write(closed, "no")
    assert closed.done


def test_an_answer_goes_on_where_it_stopped():
    within = started(YES, THINK, [1, OPEN, 10], whole="<think>\nH")
    write(within, "m", CLOSE, "yes")
    after = started(SCHEMA, THINK, [1], whole='<think>\nHm\n</think>\n\n{"na', answer='{"na')
    assert allowed(after) == {"m"}
    write(after, 'me":"Ada"}')
    assert after.done
    assert started(YES, {}, whole="yes", answer="yes").done
    with pytest.raises(GrammarError, match="the answer so far is not of the form"):
        started(SCHEMA, {}, whole="Well", answer="Well")


def test_harmony_thinks_in_its_channel_and_answers_in_the_final_one():
    prompt = [START, *b"user", MESSAGE, *b"hi", END, START, *b"assistant"]
    constraint = started(YES, HARMONY, prompt)
    assert allowed(constraint) == {CHANNEL}
    write(constraint, CHANNEL)
    assert allowed(constraint) == {"a", "f"}
    write(constraint, "analysis", MESSAGE, "Hm <b>")
    assert {END, "x"} <= allowed(constraint)
    assert {EOS, START}.isdisjoint(allowed(constraint))
    write(constraint, END)
    assert allowed(constraint) == {START}
    write(constraint, START, "assistant", CHANNEL, "final", MESSAGE)
    assert allowed(constraint) == {"y", "n"}
    write(constraint, "no")
    assert constraint.done


def test_harmony_goes_on_in_either_channel():
    asked = [START, *b"user", MESSAGE, *b"hi", END, START, *b"assistant"]
    thinking = started(YES, HARMONY, [*asked, CHANNEL, *b"analysis", MESSAGE, *b"H"], whole="<think>\nH")
    write(thinking, "m", END, START, "assistant", CHANNEL, "final", MESSAGE, "yes")
    assert thinking.done
    answering = started(SCHEMA, HARMONY, [*asked, CHANNEL, *b"final", MESSAGE, *b"{"], whole="{", answer="{")
    write(answering, '"name":"x"}')
    assert answering.done
    begun = started(YES, HARMONY, [*asked, CHANNEL, *b"final", MESSAGE])
    assert allowed(begun) == {"y", "n"}


def test_text_that_can_only_be_one_is_known():
    constraint = started(SCHEMA, {})
    written = ""
    while (token := constraint.forced()) is not None:
        written += chr(token)
        constraint.accept(token)
    assert written == "{"  # white space may follow
    write(constraint, '"')
    assert constraint.forced() == ord("n")


def test_what_is_not_allowed_and_what_can_never_be_are_errors():
    constraint = started(SCHEMA, {})
    with pytest.raises(ConstraintError, match="cannot be held to its form"):
        constraint.accept(ord("x"))


@pytest.mark.parametrize("markers", [{}, THINK])
@pytest.mark.parametrize(
    "form", [Grammar.from_json_schema({"$ref": "#"}), Grammar.from_text('start: start "a"')],
    ids=["schema", "lark"],
)  # fmt: skip
def test_a_form_that_no_text_has_is_refused_at_once(form, markers):
    """Not after the prompt was read; and where a model thinks, its thoughts would never end."""
    with pytest.raises(GrammarError, match="no text can follow"):
        started(form, markers)


def test_forms_of_many_keys_are_followed():
    keys = {f"key{i}": {"type": "integer"} for i in range(600)}
    constraint = started(Grammar.from_json_schema({"type": "object", "properties": keys}), {})
    write(constraint, '{"key7":1,"key599":2}')
    assert constraint.done


def test_a_long_text_that_must_come_is_computed_once():
    text = "x" * 5000
    constraint = started(Grammar.from_json_schema({"const": text}), {})
    written = []
    while (token := constraint.forced()) is not None:
        written.append(token)
        constraint.accept(token)
    assert bytes(written) == json.dumps(text).encode()


def test_a_token_beside_the_forced_one_is_refused_and_nothing_is_kept():
    constraint = started(Grammar.from_json_schema({"const": "ab"}), {})
    assert constraint.forced() == ord('"')
    with pytest.raises(ConstraintError):
        constraint.accept(ord("x"))
    assert constraint.forced() is None


def test_a_byte_that_no_piece_writes_ends_in_a_line():
    tokenizer = Bytes()
    tokenizer.token_bytes = lambda token, first=False: (  # type: ignore[method-assign]
        bytes((token,)) if token < 128 else b""
    )
    constraint = Constraints(tokenizer).start(Grammar.from_json_schema({"const": "é"}), [])
    write(constraint, '"')
    assert constraint.forced() is None
    with pytest.raises(ConstraintError, match="no text can follow"):
        constraint.allowed()


def test_a_vocabulary_without_an_end_is_refused():
    tokenizer = Bytes()
    tokenizer.eos_id = None
    with pytest.raises(GrammarError, match="no end-of-answer token"):
        Constraints(tokenizer).start(YES, [])


# SentencePiece, whose texts begin with a space


@pytest.fixture(scope="module")
def demo() -> Tokenizer:
    with GGUFFile.open(find("demo").path) as file:
        return load_tokenizer(file.metadata)


def test_the_space_before_a_text_is_allowed_at_its_start_only(demo):
    spaced = demo.encode("yes", bos=False)[0]
    assert demo.token_bytes(spaced).startswith(b" ")
    constraints = Constraints(demo)
    assert spaced in constraints.start(YES, [1]).allowed()
    assert spaced not in constraints.start(YES, [1], whole="", answer="").allowed()


def test_every_allowed_token_continues_a_text_of_that_form(demo):
    """Beside the definition: a token is allowed where its bytes go on with one of the two texts."""
    texts = [b" yes", b" no", b"yes", b"no"]
    pieces = [demo.token_bytes(token) for token in range(demo.vocab_size)]
    fits = [bool(piece) and any(text.startswith(piece) for text in texts) for piece in pieces]
    assert set(Constraints(demo).start(YES, [1]).allowed()) == set(np.flatnonzero(fits))


def test_a_grammar_of_single_characters_has_room_for_a_vocabulary(demo):
    """llguidance's own bound on the parser's items, 50,000 for one mask, is too low for it."""
    anywhere = Grammar.from_text("root ::= " + " | ".join(f'.* "{letter}" .*' for letter in "abcde"))
    assert len(Constraints(demo).start(anywhere, [1]).allowed()) > 1900


def test_texts_in_the_middle_of_others_are_written_byte_for_byte(demo):
    pieces, rng = _Pieces(demo), random.Random(5)
    letters = ['"name": ', "city", "{", "}", " ", "  ", "\n", "é", "🦀", "\x00", "The ", "capital", "\u2047"]
    for _ in range(300):
        text = "".join(rng.choices(letters, k=rng.randint(1, 6))).encode()
        ids = pieces(text)
        assert b"".join(demo.token_bytes(token) for token in ids) == text
        assert demo.encode("\n" + text.decode(), bos=False)[-len(ids) :] == ids  # as the vocabulary writes it
    assert pieces(b"\xff\xc3") == [pieces._ids[b"\xff"], pieces._ids[b"\xc3"]]
    assert pieces(b"") == []
