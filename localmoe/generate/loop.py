"""The loop that turns a prompt into an answer: prefill what is new, then choose and evaluate token by
token.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict

import numpy as np
import numpy.typing as npt

from localmoe.generate.errors import ContextError
from localmoe.generate.sampling import Sampler, Sampling, log_probabilities
from localmoe.generate.stopping import StopStrings
from localmoe.text.constraint import Constraint
from localmoe.text.harmony import text_stream
from localmoe.text.thinking import CLOSE, OPEN

if TYPE_CHECKING:
    from localmoe.text.tokenizer import Tokenizer

FinishReason = Literal["stop", "length", "context", "cancelled"]


class Decoder(Protocol):
    """A model with a KV cache."""

    @property
    def tokens(self) -> Sequence[int]:
        """The ids whose keys and values are held, position by position."""

    @property
    def context(self) -> int:
        """The most positions it can hold."""

    def rewind(self, length: int) -> None:
        """Forgets the positions from `length` on."""

    def extend(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Evaluates `ids` after what is held; float32 [vocab]: the logits after the last of them."""


@dataclass(frozen=True)
class LogProb:
    """Natural logarithms of the model's own probabilities, before penalties, filters, temperature."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]  # the most probable ids with theirs, best first


class Timings(TypedDict):
    """Seconds, and tokens per second; a rate that nothing was measured for is 0."""

    prefill_s: float
    first_token_s: float  # from the call to the first token
    decode_s: float  # from the first token to the end, less what the caller took between pieces
    prefill_tps: float  # evaluated prompt tokens
    decode_tps: float  # tokens after the first


@dataclass(frozen=True)
class Answer:
    """What was generated, and how."""

    text: str  # thoughts and all, without the stop string
    ids: tuple[int, ...]  # every chosen token but the end-of-answer token
    finish_reason: FinishReason
    prompt_tokens: int
    prefilled_tokens: int  # prompt tokens that were evaluated; the rest was found in the KV cache
    completion_tokens: int  # the end-of-answer token not counted
    seed: int
    timings: Timings
    logprobs: tuple[LogProb, ...]


@dataclass(frozen=True)
class Piece:
    """One step of an answer. The last one has no token, the rest of the text, and the whole answer."""

    text: str  # "" while a character or a possible stop string is still open
    token: int | None = None
    logprob: LogProb | None = None
    answer: Answer | None = None
    thought: bool = False  # by its channel; thoughts that the text itself marks are for `Thoughts` to find


def stream(
    decoder: Decoder,
    tokenizer: Tokenizer,
    ids: Sequence[int],
    *,
    sampling: Sampling,
    max_tokens: int | None = None,
    stop: str | Sequence[str] = (),
    ignore_eos: bool = False,
    logprobs: int = 0,
    continues: bool = False,
    constraint: Constraint | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Generator[Piece, None, None]:
    """Answers the prompt `ids`: one Piece for each token, and a last one that holds the Answer; before it one
    with what a stop string held back, if the last one turns from thoughts to answer.

    The longest common prefix of `ids` and what the decoder holds is not evaluated again (but the last id
    always is). Between two pieces the decoder holds the prompt and all chosen tokens but the last (with a
    constraint, the last ones), so the caller may stop asking at any time, and the next turn finds everything
    in place.

    Args:
        max_tokens: the most tokens to choose; None: as many as the context holds.
        stop: a string or several that end the answer, also when they straddle tokens.
        ignore_eos: an end-of-answer token is a token like any other (its text is empty).
        logprobs: log-probabilities of each token and of this many most probable ones; 0 for none.
        continues: the answer goes on after text, so a space at its start is kept.
        constraint: what says which tokens may come. Where only one text can follow, its tokens are taken
            unasked and evaluated together (not with `logprobs`); where nothing can, the answer ends.
        cancelled: asked before each token; once true, the answer ends there.

    Raises:
        ContextError: no ids, or more than the context holds.
        GenerationError: the model's output is not a number.
        ConstraintError: the constraint met its limits.
    """
    began = perf_counter()
    if not ids:
        raise ContextError("the prompt is empty")
    if len(ids) > decoder.context:
        raise ContextError(
            f"the prompt has {len(ids)} tokens, the context {decoder.context}: shorten it, or raise --context"
        )
    sampler = Sampler(sampling, ids)
    text, stops = text_stream(tokenizer, ids, continues=continues), StopStrings(stop)
    pieces: list[str] = []
    chosen: list[int] = []
    waiting: list[int] = []  # the last of them, which the decoder has not evaluated
    scores: list[LogProb] = []

    reused = min(common_prefix(decoder.tokens, ids), len(ids) - 1)
    decoder.rewind(reused)
    logits = decoder.extend(ids[reused:])
    prefilled = first = perf_counter()
    caller = 0.0  # seconds that whoever takes the pieces spent on them

    while True:
        if cancelled is not None and cancelled():
            reason: FinishReason = "cancelled"
            break
        if max_tokens is not None and len(chosen) >= max_tokens:
            reason = "length"
            break
        if chosen and len(ids) + len(chosen) > decoder.context:
            reason = "context"
            break
        if constraint is not None and constraint.done:
            reason = "stop"
            break
        forced = None if constraint is None else constraint.forced()
        if waiting and (forced is None or logprobs):
            logits = decoder.extend(waiting)
            waiting.clear()
        if forced is not None:
            token = sampler.take(forced)
        else:
            token = sampler.choose(logits, None if constraint is None else constraint.allowed())
        if token in tokenizer.eos_ids and (constraint is not None or not ignore_eos):
            reason = "stop"
            break
        if constraint is not None:
            constraint.accept(token)
        score = _log_prob(logits, token, logprobs) if logprobs else None
        if not chosen:
            first = perf_counter()
        chosen.append(token)
        waiting.append(token)
        scores += [] if score is None else [score]
        thought = text.thought
        added = text.push(token)
        pieces.append(stops.push(added) if text.thought == thought else stops.finish())
        handed_over = perf_counter()
        yield Piece(pieces[-1], token, score, thought=thought)
        caller += perf_counter() - handed_over
        if stops.found is not None:
            reason = "stop"
            break

    thought, rest = text.thought, text.finish(cut=reason != "stop")
    if text.thought != thought and (held := stops.finish()):
        pieces.append(held)
        yield Piece(held, thought=thought)
    last = stops.push(rest) + stops.finish()
    pieces.append(last)
    decode_s = perf_counter() - first - caller
    yield Piece(
        last,
        thought=text.thought,
        answer=Answer(
            text="".join(pieces),
            ids=tuple(chosen),
            finish_reason=reason,
            prompt_tokens=len(ids),
            prefilled_tokens=len(ids) - reused,
            completion_tokens=len(chosen),
            seed=sampler.seed,
            timings=Timings(
                prefill_s=prefilled - began,
                first_token_s=first - began,
                decode_s=decode_s,
                prefill_tps=_rate(len(ids) - reused, prefilled - began),
                decode_tps=_rate(len(chosen) - 1, decode_s),
            ),
            logprobs=tuple(scores),
        ),
    )


def texts(pieces: Iterable[Piece]) -> Iterator[str]:
    """What the pieces say. What came in a channel of thoughts is marked as other models mark theirs."""
    thought = False
    for piece in pieces:
        if piece.text and piece.thought != thought:
            thought = piece.thought
            yield OPEN if thought else f"{CLOSE}\n\n"
        if piece.text:
            yield piece.text


def common_prefix(held: Sequence[int], ids: Sequence[int]) -> int:
    """How many ids at the start of both are the same."""
    length = min(len(held), len(ids))
    return next((i for i in range(length) if held[i] != ids[i]), length)


def _log_prob(logits: npt.NDArray[Any], token: int, top: int) -> LogProb:
    scores = log_probabilities(logits)
    best = np.argsort(-scores, kind="stable")[:top]
    return LogProb(token, float(scores[token]), tuple((int(i), float(scores[i])) for i in best))


def _rate(count: int, seconds: float) -> float:
    return count / seconds if count > 0 and seconds > 0 else 0.0
