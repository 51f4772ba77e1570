"""The loop over a decoder that is a function of its tokens: prefix reuse, and every way to end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from localmoe.generate.errors import ContextError, GenerationError
from localmoe.generate.loop import Answer, Piece, common_prefix, stream, texts
from localmoe.generate.sampling import Sampling, log_probabilities

EOS, BOS = 0, 1
GREEDY = Sampling(temperature=0)


class FakeTokenizer:
    """Ids 2 … 257 are bytes 0 … 255; 0 and 1 are control."""

    vocab_size = 258
    bos_id = BOS
    eos_id = EOS
    eos_ids = frozenset({EOS})

    def encode(self, text: str, bos: bool = True) -> list[int]:
        return [BOS] * bos + [byte + 2 for byte in text.encode()]

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token: int, first: bool = False) -> bytes:
        text = b"" if token < 2 else bytes((token - 2,))
        return text.removeprefix(b" ") if first else text

    def is_control(self, token: int) -> bool:
        return token < 2

    def control_id(self, piece: str) -> int | None:
        return None

    def markers(self) -> Mapping[str, int]:
        return {}


class FakeDecoder:
    """Says `script` after the prompt it was made for, then EOS; counts what it evaluates.

    Its logits hang on the whole sequence, so a cache that is out of step shows.
    """

    def __init__(self, script: str, prompt: Sequence[int], context: int = 1000) -> None:
        self.tokens: list[int] = []
        self.context = context
        self.evaluated: list[int] = []
        self.calls: list[int] = []
        self._said = [*prompt, *TOKENIZER.encode(script, bos=False), EOS]

    def rewind(self, length: int) -> None:
        assert 0 <= length <= len(self.tokens)
        del self.tokens[length:]

    def extend(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        assert ids
        assert len(self.tokens) + len(ids) <= self.context
        self.tokens += ids
        self.evaluated += ids
        self.calls.append(len(ids))
        logits = np.zeros(TOKENIZER.vocab_size, np.float32)
        at = len(self.tokens)
        on_script = self.tokens == self._said[:at] and at < len(self._said)
        logits[self._said[at] if on_script else ord("?") + 2] = 5
        return logits


TOKENIZER = FakeTokenizer()
PROMPT = TOKENIZER.encode("Say something.")


def run(
    script: str, prompt: Sequence[int] = PROMPT, **options: Any
) -> tuple[list[Piece], Answer, FakeDecoder]:
    """All pieces of an answer, which add up to what its last one says."""
    decoder = options.pop("decoder", None) or FakeDecoder(script, prompt, options.pop("context", 1000))
    pieces = list(stream(decoder, TOKENIZER, prompt, sampling=options.pop("sampling", GREEDY), **options))
    answer = pieces[-1].answer
    assert answer is not None
    assert all(piece.answer is None for piece in pieces[:-1])
    assert pieces[-1].token is None
    assert "".join(piece.text for piece in pieces) == answer.text
    assert tuple(piece.token for piece in pieces if piece.token is not None) == answer.ids
    assert answer.completion_tokens == len(answer.ids)
    return pieces, answer, decoder


def test_an_answer_from_start_to_end() -> None:
    pieces, answer, decoder = run("Hello, wörld! 🦭")
    assert answer.text == "Hello, wörld! 🦭"
    assert answer.finish_reason == "stop"
    assert answer.prompt_tokens == answer.prefilled_tokens == len(PROMPT)
    assert EOS not in answer.ids
    assert decoder.calls == [len(PROMPT)] + [1] * len(answer.ids), "one prefill, then one id at a time"
    assert decoder.tokens == [*PROMPT, *answer.ids], "all that was said is in the cache"
    assert [piece.text for piece in pieces[-5:]] == ["", "", "", "🦭", ""]


def test_the_first_piece_comes_right_after_the_prefill() -> None:
    decoder = FakeDecoder("abc", PROMPT)
    pieces = stream(decoder, TOKENIZER, PROMPT, sampling=GREEDY)
    assert decoder.calls == []
    assert next(pieces).text == "a"
    assert decoder.calls == [len(PROMPT)]


def test_the_next_turn_evaluates_only_what_is_new() -> None:
    _, answer, decoder = run("Hello")
    following = [*PROMPT, *answer.ids, EOS, *TOKENIZER.encode("More?", bos=False)]
    _, second, _ = run("", following, decoder=decoder)
    assert second.prompt_tokens == len(following)
    assert second.prefilled_tokens == 6, "EOS and the question"
    assert decoder.tokens[: len(following)] == following


def test_a_changed_prompt_reuses_what_comes_before_the_change() -> None:
    _, _, decoder = run("Hello")
    changed = [*PROMPT[:5], 99, *PROMPT[6:]]
    _, second, _ = run("", changed, decoder=decoder, max_tokens=1)
    assert second.prefilled_tokens == len(changed) - 5


def test_the_same_prompt_again_evaluates_its_last_id() -> None:
    _, first, decoder = run("Hello")
    _, second, _ = run("Hello", decoder=decoder)
    assert second.prefilled_tokens == 1
    assert second.text == first.text == "Hello"


def test_a_shorter_prompt_rewinds() -> None:
    _, _, decoder = run("Hello")
    _, second, _ = run("", PROMPT[:4], decoder=decoder, max_tokens=2)
    assert second.prefilled_tokens == 1
    assert decoder.tokens[:4] == PROMPT[:4]


def test_max_tokens() -> None:
    _, answer, decoder = run("Hello", max_tokens=3)
    assert (answer.text, answer.finish_reason) == ("Hel", "length")
    assert decoder.tokens == [*PROMPT, *answer.ids[:-1]], "the last id is left to whoever goes on"
    assert run("Hello", max_tokens=0)[1].ids == ()
    assert run("Hello", max_tokens=5)[1].finish_reason == "length"
    assert run("Hello", max_tokens=6)[1].finish_reason == "stop"


def test_a_character_cut_short_is_left_out() -> None:
    assert run("a🦭", max_tokens=3)[1].text == "a"
    assert run("a🦭", max_tokens=5)[1].text == "a🦭"
    assert run("a🦭", max_tokens=3, stop=["ab"])[1].text == "a"


def test_context_full() -> None:
    """The prompt fills all but two positions: three tokens can be chosen, the last needs no room."""
    _, answer, decoder = run("Hello", context=len(PROMPT) + 2)
    assert (answer.text, answer.finish_reason) == ("Hel", "context")
    assert len(decoder.tokens) == decoder.context
    assert run("Hello", context=len(PROMPT))[1].text == "H"


def test_a_prompt_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ContextError, match=f"{len(PROMPT)} tokens.*{len(PROMPT) - 1}"):
        run("Hello", context=len(PROMPT) - 1)
    with pytest.raises(ContextError, match="empty"):
        run("Hello", prompt=[])


def test_stop_strings_straddle_tokens() -> None:
    pieces, answer, decoder = run("Yes.\nUser: no", stop=["\nUser:"])
    assert (answer.text, answer.finish_reason) == ("Yes.", "stop")
    assert TOKENIZER.decode(answer.ids) == "Yes.\nUser:"
    assert [piece.text for piece in pieces][:4] == ["Y", "e", "s", "."]
    assert decoder.tokens == [*PROMPT, *answer.ids[:-1]]
    assert run("Yes.\nUse", stop=["\nUser:"])[1].text == "Yes.\nUse", "held back to the end, then given"


def test_ignore_eos_goes_on() -> None:
    _, answer, decoder = run("Hi", ignore_eos=True, max_tokens=5)
    assert answer.finish_reason == "length"
    assert answer.ids[2] == EOS
    assert answer.text == "Hi??"
    assert EOS in decoder.tokens


def test_cancelled_between_tokens() -> None:
    asked = iter([False, False, False, True])
    _, answer, decoder = run("Hello", cancelled=lambda: next(asked))
    assert (answer.text, answer.finish_reason) == ("Hel", "cancelled")
    assert decoder.tokens == [*PROMPT, *answer.ids[:-1]]
    _, nothing, _ = run("Hello", cancelled=lambda: True)
    assert (nothing.ids, nothing.finish_reason) == ((), "cancelled")


def test_closing_leaves_a_decoder_that_goes_on() -> None:
    decoder = FakeDecoder("Hello", PROMPT)
    pieces = stream(decoder, TOKENIZER, PROMPT, sampling=GREEDY)
    taken = [next(pieces), next(pieces)]
    pieces.close()
    assert "".join(piece.text for piece in taken) == "He"
    _, answer, _ = run("Hello", decoder=decoder)
    assert answer.text == "Hello"
    assert answer.prefilled_tokens == 1


def test_a_space_in_front_belongs_to_the_encoder_unless_the_answer_continues() -> None:
    assert run(" Hi there")[1].text == "Hi there"
    assert run(" Hi there", continues=True)[1].text == " Hi there"


def test_log_probabilities_are_the_models_own() -> None:
    pieces, answer, _ = run("ab", logprobs=3, sampling=Sampling(temperature=2.0, top_k=1, repeat_penalty=1.5))
    logits = np.zeros(TOKENIZER.vocab_size, np.float32)
    logits[ord("a") + 2] = 5
    expected = log_probabilities(logits)
    first = answer.logprobs[0]
    assert pieces[0].logprob == first
    assert first.token == ord("a") + 2
    assert math.isclose(first.logprob, expected.max(), rel_tol=1e-12)
    assert [token for token, _ in first.top] == [ord("a") + 2, 0, 1], "best first, equal ones by id"
    assert math.isclose(sum(math.exp(x) for x in expected), 1)
    assert run("ab")[1].logprobs == ()


def test_seeds_are_reported_and_reproduce() -> None:
    warm = Sampling(temperature=3.0)
    _, first, _ = run("Hello", sampling=warm, max_tokens=20)
    _, again, _ = run("Hello", sampling=Sampling(temperature=3.0, seed=first.seed), max_tokens=20)
    assert again.ids == first.ids
    assert again.seed == first.seed


def test_timings_add_up() -> None:
    _, answer, _ = run("Hello")
    times = answer.timings
    assert 0 < times["prefill_s"] <= times["first_token_s"]
    assert times["decode_s"] > 0
    assert math.isclose(times["prefill_tps"], len(PROMPT) / times["prefill_s"])
    assert math.isclose(times["decode_tps"], 4 / times["decode_s"])
    assert run("")[1].timings["decode_tps"] == 0


def test_the_callers_time_is_not_the_models() -> None:
    timings = None
    for piece in stream(FakeDecoder("Hello", PROMPT), TOKENIZER, PROMPT, sampling=GREEDY):
        time.sleep(0.05)
        timings = piece.answer.timings if piece.answer else None
    assert timings is not None
    assert 0 < timings["decode_s"] < 0.1


def test_output_that_is_no_number_is_an_error() -> None:
    class Broken(FakeDecoder):
        def extend(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
            return np.full_like(super().extend(ids), np.nan)

    with pytest.raises(GenerationError):
        run("", decoder=Broken("Hello", PROMPT))


def test_common_prefix() -> None:
    assert common_prefix([], [1]) == 0
    assert common_prefix([1, 2, 3], [1, 2]) == 2
    assert common_prefix([1, 2], [1, 3]) == 1


class ChannelTokenizer(FakeTokenizer):
    """Ids 258 ... are the control tokens of OpenAI's harmony format."""

    vocab_size = 262

    def token_bytes(self, token: int, first: bool = False) -> bytes:
        return b"" if self.is_control(token) else super().token_bytes(token, first)

    def is_control(self, token: int) -> bool:
        return token < 2 or token > 257

    def markers(self) -> Mapping[str, int]:
        return {"<|start|>": 258, "<|channel|>": 259, "<|message|>": 260, "<|end|>": 261}


@pytest.mark.parametrize(
    ("stop", "thought", "text", "marked"),
    [
        ((), "Hm, user.", "A user.", "<think>Hm, user.</think>\n\nA user."),
        ("assistant", "Hm, user.", "A user.", "<think>Hm, user.</think>\n\nA user."),  # a header is no text
        (".A", "Hm, user.", "A user.", "<think>Hm, user.</think>\n\nA user."),  # nor do channels join
        ("us", "Hm, ", "", "<think>Hm, "),
        ("A user.\n", "Hm, user.", "A user.", "<think>Hm, user.</think>\n\nA user."),
    ],
)
def test_pieces_say_what_came_in_a_channel_of_thoughts(
    monkeypatch: pytest.MonkeyPatch, stop: str, thought: str, text: str, marked: str
) -> None:
    tokenizer = ChannelTokenizer()
    monkeypatch.setattr(f"{__name__}.TOKENIZER", tokenizer)
    analysis, final = ([259, *tokenizer.encode(name, bos=False), 260] for name in ("analysis", "final"))
    messages = (tokenizer.encode(words, bos=False) for words in ("Hm, user.", "assistant", "A user."))
    first, role, last = messages
    prompt = [*PROMPT, 258, *role]
    decoder = FakeDecoder("", prompt)
    decoder._said = [*prompt, *analysis, *first, 261, 258, *role, *final, *last, EOS]
    pieces, answer, _ = run("", prompt, decoder=decoder, stop=stop)
    assert "".join(piece.text for piece in pieces if piece.thought) == thought
    assert "".join(piece.text for piece in pieces if not piece.thought) == text
    assert "".join(texts(pieces)) == marked
    assert answer.finish_reason == "stop"


def test_what_is_held_back_at_the_end_of_thoughts_is_thought(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = ChannelTokenizer()
    monkeypatch.setattr(f"{__name__}.TOKENIZER", tokenizer)
    analysis = [259, *tokenizer.encode("analysis", bos=False), 260]
    decoder = FakeDecoder("", PROMPT)
    decoder._said = [*PROMPT, *analysis, *tokenizer.encode("Hm.", bos=False), EOS]
    pieces, _, _ = run("", decoder=decoder, stop=".!")
    assert [(piece.text, piece.thought) for piece in pieces[-2:]] == [("", True), (".", True)]


@pytest.mark.parametrize("missing", [0, 3])
def test_an_answer_in_a_header_without_an_end(monkeypatch: pytest.MonkeyPatch, missing: int) -> None:
    tokenizer = ChannelTokenizer()
    monkeypatch.setattr(f"{__name__}.TOKENIZER", tokenizer)
    analysis, thoughts, role, final = (
        tokenizer.encode(words, bos=False) for words in ("analysis", "Hm.", "assistant", "final It is 4.")
    )
    written = [259, *analysis, 260, *thoughts, 261, 258, *role, 259, *final]
    decoder = FakeDecoder("", PROMPT)
    decoder._said = [*PROMPT, *written, EOS]
    pieces, _, _ = run(
        "", decoder=decoder, stop=".!", max_tokens=len(written) - missing if missing else None
    )
    shown = [(piece.text, piece.thought) for piece in pieces if piece.text]
    assert shown == [("H", True), ("m", True), (".", True), ("It is 4."[: 8 - missing], False)]
