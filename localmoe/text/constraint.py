"""Which tokens may come next, so that an answer gets the form that a `Grammar` describes.

What a model thinks before it answers is not of that form: the thoughts and the markers around them are put
before the grammar, so that they run free and must end.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from localmoe.errors import LocalMoeError
from localmoe.text.grammar import Grammar, GrammarError, one_line
from localmoe.text.harmony import CHANNEL, END, MESSAGE, START, HarmonyStream, is_harmony
from localmoe.text.thinking import CLOSE, OPEN, Thoughts, Where, ends_with

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    from localmoe.text.tokenizer import Tokenizer

_SPECIAL = b"\xff"  # begins what llguidance takes for a special token; no UTF-8 does
_TEXT = "TEXT: /(.|\\n)*/"
ITEMS = 100_000  # that the parser may hold after a token: 2,000 is its own limit, some hundred optional keys


class ConstraintError(LocalMoeError):
    """A form cannot be followed any further."""


class Constraints:
    """A vocabulary made ready for llguidance, at the first use: a third of a second for 200,000 tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._made: LLTokenizer | None = None
        self._tried: Grammar | None = None  # the last one that some text is known to be of

    def start(
        self, grammar: Grammar, prompt: Sequence[int], *, whole: str | None = None, answer: str = ""
    ) -> Constraint:
        """For an answer to `prompt`. Where one goes on: `whole` is what the model wrote so far, thoughts and
        all (`Turn.whole`), and `answer` what of it is answer.

        Raises:
            GrammarError: no text is of that form, or `answer` does not begin one.
        """
        made = self._llguidance()
        self._try(grammar)
        before = _before(self._tokenizer, prompt, whole)
        entries = [{"lark_grammar": before}, {**json.loads(grammar.entry), "name": "answer"}]
        matcher = self._matcher(entries)
        if answer and not matcher.consume_tokens(made.greedy_tokenize(answer)):
            raise GrammarError(
                "the answer so far is not of the form that is asked for: ask again instead of going on, or "
                "ask for no form"
            )
        return Constraint(matcher, self._tokenizer.vocab_size)

    def _try(self, grammar: Grammar) -> None:
        """GrammarError where the form's first token cannot be told: before a prompt is evaluated for it."""
        if grammar == self._tried:
            return
        alone = Constraint(self._matcher([json.loads(grammar.entry)]), self._tokenizer.vocab_size)
        try:
            alone.forced()
            alone.allowed()
        except ConstraintError as error:
            raise GrammarError(str(error)) from error
        self._tried = grammar

    def _matcher(self, entries: Sequence[object]) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(max_items_in_row=ITEMS, step_max_items=10 * ITEMS)
        whole = json.dumps({"grammars": entries})
        matcher = LLMatcher(self._llguidance(), whole, log_level=0, limits=limits)
        if matcher.is_error():
            raise GrammarError(f"the grammar cannot be used: {_reason(matcher)}")
        return matcher

    def _llguidance(self) -> LLTokenizer:
        from llguidance import LLTokenizer, TokenizerWrapper

        if self._made is None:
            if self._tokenizer.eos_id is None:
                raise GrammarError("the model's vocabulary has no end-of-answer token, which a form needs")
            ends = [self._tokenizer.eos_id, *sorted(self._tokenizer.eos_ids - {self._tokenizer.eos_id})]
            self._made = LLTokenizer(TokenizerWrapper(_Pieces(self._tokenizer)), eos_token=ends)
        return self._made


class Constraint:
    """One answer on its way."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size
        self._ahead: list[int] = []  # what is known to come, the next one last

    @property
    def done(self) -> bool:
        """Whether the form is complete and nothing can follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def allowed(self) -> npt.NDArray[np.intp]:
        """The ids that may come next, ascending; ids that end the answer where it may end.

        Raises:
            ConstraintError: there are none, or the parser met one of its limits.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        ids = np.flatnonzero(np.unpackbits(bits, count=self._vocab_size, bitorder="little"))
        if self._matcher.is_error() or not len(ids):
            raise ConstraintError(f"the answer cannot be held to its form: {_reason(self._matcher)}")
        return ids

    def forced(self) -> int | None:
        """The next token where the form leaves only one text, in the vocabulary's own way of writing it."""
        if not self._ahead:
            self._ahead = self._matcher.compute_ff_tokens()[::-1]
        return self._ahead[-1] if self._ahead else None

    def accept(self, token: int) -> None:
        """One of `allowed` was chosen. Raises ConstraintError where it was not."""
        expected = self._ahead.pop() if self._ahead else token
        if expected != token:
            self._ahead.clear()
        if not self._matcher.consume_token(token):
            raise ConstraintError(f"the answer cannot be held to its form: {_reason(self._matcher)}")


class _Pieces:
    """What llguidance wants to know of a vocabulary (the interface is `llguidance.TokenizerWrapper`'s)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        markers = tokenizer.markers()
        special = {token: piece for piece, token in markers.items() if tokenizer.is_control(token)}
        special |= {markers[piece]: piece for piece in (OPEN, CLOSE) if piece in markers}
        every = range(tokenizer.vocab_size)
        self.tokens = [
            _SPECIAL + special.get(token, f"<[{token}]>").encode()
            if token in special or tokenizer.is_control(token)
            else tokenizer.token_bytes(token)
            for token in every
        ]
        self.special_token_ids = [token for token in every if self.tokens[token].startswith(_SPECIAL)]
        self.eos_token_id, self.bos_token_id = tokenizer.eos_id, tokenizer.bos_id
        self._longest = max(map(len, self.tokens))
        self._ids = {piece: token for token, piece in reversed(list(enumerate(self.tokens)))}

    def __call__(self, text: bytes) -> list[int]:
        """The ids of a text in the middle of another: without the space that SentencePiece begins with."""
        ids = self._tokenizer.encode("\n" + text.decode("utf-8", "replace"), bos=False)
        length = 0
        for place in reversed(range(len(ids))):
            length += len(self.tokens[ids[place]])
            if length >= len(text):
                if b"".join(self.tokens[token] for token in ids[place:]) == text:
                    return ids[place:]
                break
        return self._greedy(text)

    def _greedy(self, text: bytes) -> list[int]:
        """Always the longest piece."""
        ids, at = list[int](), 0
        while at < len(text):
            lengths = range(min(self._longest, len(text) - at), 0, -1)
            length = next((n for n in lengths if text[at : at + n] in self._ids), None)
            if length is None:  # no piece writes this byte; the parser will find that it cannot go on
                break
            ids.append(self._ids[text[at : at + length]])
            at += length
        return ids


def _before(tokenizer: Tokenizer, prompt: Sequence[int], whole: str | None) -> str:
    """A grammar of what comes before `@answer` and of that, in Lark's syntax."""
    markers = tokenizer.markers()
    if is_harmony(tokenizer):
        channel, message, end, start = (f"<[{markers[name]}]>" for name in (CHANNEL, MESSAGE, END, START))
        again = f'{end} {start} "assistant"'
        thoughts = f'({channel} "analysis" {message} TEXT {again})* {channel} "final" {message}'
        latest = next((t for t in reversed(prompt) if t in (markers[START], markers[MESSAGE])), None)
        if latest != markers[MESSAGE]:
            return f"start: {thoughts} @answer\n{_TEXT}\n"
        if HarmonyStream(tokenizer, prompt, continues=whole is not None).thought:
            return f"start: TEXT {again} {thoughts} @answer\n{_TEXT}\n"
        return "start: @answer\n"
    space = '" "? ' if whole is None and _writes_a_space(tokenizer) else ""
    where, close = Thoughts(tokenizer, prompt, whole).where, markers.get(CLOSE)
    if where is Where.ANSWER or (close is not None and ends_with(tokenizer, prompt, close)):
        return f"start: {space}@answer\n"
    opened, closed = f"<[{markers[OPEN]}]>", f"<[{markers[CLOSE]}]>"
    gap = "GAP: /\\n{0,2}/"
    if where is Where.THOUGHTS:
        return f"start: TEXT {closed} GAP @answer\n{_TEXT}\n{gap}\n"
    return f"start: {space}({opened} TEXT {closed} GAP)? @answer\n{_TEXT}\n{gap}\n"


def _writes_a_space(tokenizer: Tokenizer) -> bool:
    """Whether the vocabulary puts a space before a text, as SentencePiece does."""
    ids = tokenizer.encode("a", bos=False)
    return bool(ids) and tokenizer.token_bytes(ids[0]).startswith(b" ")


def _reason(matcher: LLMatcher) -> str:
    told = matcher.get_error()
    return one_line(told) if told and "NoExtension" not in told else "no text can follow"
