"""Measuring a loaded model: speed (`localmoe bench`) and quality (`localmoe perplexity`)."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from localmoe.errors import UsageError
from localmoe.generate.errors import GenerationError
from localmoe.runner import Model

if TYPE_CHECKING:
    from localmoe.generate.loop import Decoder
    from localmoe.kernels.bandwidth import ReadProbe
    from localmoe.kernels.cpu import Cpu


STRETCH = 8  # tokens between two measurements of the memory
STEADY = 0.1  # by how much, at most, these two differ where a share of the memory's rate means something


@dataclass(frozen=True)
class Speed:
    """Medians over the repetitions, with the spread; rates in tokens/s, bandwidths in GB/s (10⁹ bytes)."""

    model: str
    threads: int
    simd: str
    prompt_tokens: int
    generated_tokens: int
    prefill_tps: float
    prefill_spread: tuple[float, float]
    decode_tps: float  # at the depth that the prefill left
    decode_spread: tuple[float, float]
    load_s: float
    first_token_s: float  # from the start of the load to the first token of an answer to a one-token prompt
    bytes_per_token: int  # weights, and the keys and values of the positions before
    read_gbps: float  # bytes_per_token * decode_tps
    machine_gbps: float  # read bandwidth, measured around every few tokens of the decoding
    share_of_machine: float  # see `share_of_bandwidth`
    peak_rss_bytes: int
    hit_rate: float | None = None  # of experts in slots, where they are paged
    paged_bytes_per_token: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_speed(
    model: Model, prompt: int, generated: int, repeats: int, load_s: float, first_token_s: float
) -> Speed:
    """Prefills `prompt` random tokens and decodes `generated` more, `repeats` times after one warm-up: others
    each time, or a model whose experts are paged would find those of the time before.
    """
    if prompt + generated > model.context:
        raise UsageError(model.config.too_many(prompt + generated, model.context))
    warm, *drawn = (random_ids(model, prompt + generated, seed) for seed in range(1 + repeats))
    decoder = model.decoder()
    prefill_seconds(decoder, warm[:prompt])
    for token in warm[prompt:]:
        decoder.extend([token])
    peak = peak_rss()  # before the probe takes memory of its own
    prefill, decoded = [], []
    with read_probe(model) as probe:
        for ids in drawn:
            prefill.append(prompt / prefill_seconds(decoder, ids[:prompt]))
            decoded.append(decode_stretches(decoder, ids[prompt:], probe))
    decode, stretches = [decode_rate(one) for one in decoded], [s for one in decoded for s in one]
    status, decode_tps = model.status(), statistics.median(decode)
    read = bytes_read(model, prompt, generated)
    return Speed(
        model=model.name, threads=model.threads, simd=status["simd"], prompt_tokens=prompt,
        generated_tokens=generated,
        prefill_tps=statistics.median(prefill), prefill_spread=(min(prefill), max(prefill)),
        decode_tps=decode_tps, decode_spread=(min(decode), max(decode)),
        load_s=load_s, first_token_s=first_token_s, bytes_per_token=read, read_gbps=read * decode_tps / 1e9,
        machine_gbps=statistics.median(s.bandwidth for s in stretches),
        share_of_machine=share_of_bandwidth(stretches, read),
        peak_rss_bytes=peak,
        hit_rate=status.get("hit_rate"), paged_bytes_per_token=float(status.get("paged_bytes_per_token", 0)),
    )  # fmt: skip


@contextmanager
def read_probe(model: Model) -> Iterator[ReadProbe]:
    """A probe that reads with the model's own threads; where a GPU computes, with as many others."""
    from localmoe.experts.plan import available_memory
    from localmoe.kernels.bandwidth import PROBED, ReadProbe
    from localmoe.kernels.pool import Pool

    free = available_memory()
    compute: Cpu | None = model.compute
    pool = compute.pool if compute is not None else Pool(model.threads)
    try:
        yield ReadProbe(pool, PROBED if free is None else min(PROBED, free // 4))
    finally:
        if compute is None:
            pool.close()


def bytes_read(model: Model, prompt: int, generated: int) -> int:
    """Bytes that decoding a token reads, as a mean over `generated` tokens after `prompt` others: weights,
    and the keys and values of the positions that it attends to.
    """
    status, config = model.status(), model.config
    windows = [config.window_of(layer) or config.context for layer in range(config.layers)]
    ends = range(prompt + 1, prompt + generated + 1)
    positions = statistics.fmean(min(end, window) for end in ends for window in windows)
    return int(status["bytes_per_token"]) + round(positions * int(status["kv_bytes_per_position"]))


def prefill_seconds(decoder: Decoder, ids: Sequence[int]) -> float:
    """How long it takes to read `ids` into an empty KV cache."""
    decoder.rewind(0)
    start = time.perf_counter()
    decoder.extend(ids)
    return time.perf_counter() - start


@dataclass(frozen=True)
class Stretch:
    """A few tokens decoded one by one."""

    tokens: int
    seconds: float
    before: float  # the machine's read bandwidth just before them, in GB/s
    after: float

    @property
    def bandwidth(self) -> float:
        """The mean of both: of the time that a byte took."""
        return statistics.harmonic_mean((self.before, self.after))

    @property
    def steady(self) -> bool:
        """Whether the memory was as fast after the tokens as before: on shared machines its rate jumps."""
        return abs(self.before - self.after) <= STEADY * min(self.before, self.after)


def decode_stretches(decoder: Decoder, ids: Sequence[int], probe: ReadProbe) -> list[Stretch]:
    """Reads `ids` one by one, `STRETCH` at a time, and measures the memory before and after each stretch."""
    stretches, before = [], probe.measure(1)
    for first in range(0, len(ids), STRETCH):
        again = list(decoder.tokens[-STRETCH:])  # not those to be timed, whose experts may need paging
        decoder.rewind(len(decoder.tokens) - len(again))
        for token in again:  # brings back what the probe drove out of the caches
            decoder.extend([token])
        timed = ids[first : first + STRETCH]
        start = time.perf_counter()
        for token in timed:
            decoder.extend([token])
        seconds, after = time.perf_counter() - start, probe.measure(1)
        stretches.append(Stretch(len(timed), seconds, before, after))
        before = after
    return stretches


def decode_rate(stretches: Sequence[Stretch]) -> float:
    """Tokens per second."""
    return sum(s.tokens for s in stretches) / sum(s.seconds for s in stretches)


def share_of_bandwidth(stretches: Sequence[Stretch], bytes_per_token: int) -> float:
    """What decoding read of the machine's bandwidth at the time: the median over the stretches, those alone
    in which the memory kept its rate (over all, if it never did).
    """
    steady = [s for s in stretches if s.steady] or stretches
    return statistics.median(bytes_per_token * s.tokens / s.seconds / 1e9 / s.bandwidth for s in steady)


def random_ids(model: Model, count: int, seed: int = 0) -> list[int]:
    """Token ids drawn uniformly from the vocabulary, control tokens at its start left out."""
    low = min(300, model.config.vocab // 4)
    return [int(i) for i in np.random.default_rng(seed).integers(low, model.config.vocab, count)]


def peak_rss() -> int:
    """The most memory this process has held, in bytes."""
    try:  # Linux's getrusage also counts what the process that started this one held
        with Path("/proc/self/status").open() as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows has no such call
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass(frozen=True)
class Quality:
    """Perplexity of a text; with a base model, how far the distribution moved from the base's."""

    model: str
    tokens: int  # scored
    perplexity: float
    standard_error: float  # of the perplexity, from the spread over tokens
    base: str | None = None
    base_perplexity: float | None = None
    kl_mean: float | None = None  # KL(base ‖ model), nats per token
    kl_99: float | None = None
    same_top: float | None = None  # share of tokens with the same most probable next token

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_quality(
    model: Model,
    text: str,
    window: int,
    base: Model | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Quality:
    """Perplexity as llama.cpp's tool defines it: windows of the text, each begun with BOS where the model
    adds one, their second halves scored.

    A text shorter than one window is scored whole. Raises UsageError for a text of fewer than two tokens,
    GenerationError where a model's output is not a number.
    """
    head = model.tokenizer.encode("")
    windows = split_windows(model.tokenizer.encode(text, bos=False), head[0] if head else None, window)
    losses: list[NDArray[np.float64]] = []
    base_losses: list[NDArray[np.float64]] = []
    divergences: list[NDArray[np.float64]] = []
    same: list[NDArray[np.bool_]] = []
    for done, (ids, first) in enumerate(windows):
        targets = np.array(ids[first:])
        scores = _scores(model, ids, first)
        losses.append(-scores[np.arange(len(targets)), targets])
        if base is not None:
            theirs = _scores(base, ids, first)
            base_losses.append(-theirs[np.arange(len(targets)), targets])
            divergences.append((np.exp(theirs) * (theirs - scores)).sum(1))
            same.append(theirs.argmax(1) == scores.argmax(1))
        if progress is not None:
            progress(done + 1, len(windows))
    loss = np.concatenate(losses)
    perplexity = float(np.exp(loss.mean()))
    error = perplexity * float(loss.std(ddof=1) / np.sqrt(len(loss))) if len(loss) > 1 else 0.0
    if base is None:
        return Quality(model.name, len(loss), perplexity, error)
    kl = np.concatenate(divergences)
    return Quality(
        model.name, len(loss), perplexity, error, base.name,
        float(np.exp(np.concatenate(base_losses).mean())),
        float(kl.mean()), float(np.quantile(kl, 0.99)), float(np.concatenate(same).mean()),
    )  # fmt: skip


def split_windows(ids: Sequence[int], bos: int | None, window: int) -> list[tuple[list[int], int]]:
    """Windows of ids, each with the position of its first scored id."""
    head = [] if bos is None else [bos]
    size = window - len(head)
    if window < 4:
        raise UsageError(f"a window of {window} tokens is too short; give at least 4")
    if len(ids) + len(head) < 2:
        raise UsageError("the text is too short to score: it needs two tokens at least")
    if len(ids) <= size:
        return [(head + list(ids), max(1, len(head)))]
    starts = range(0, len(ids) - size + 1, size)
    return [(head + list(ids[at : at + size]), window // 2) for at in starts]


def _scores(model: Model, ids: Sequence[int], first: int) -> NDArray[np.float64]:
    """[scored, vocab]: the logarithms of the probabilities of each id from position `first` on."""
    x = model.logits(ids)[first - 1 : -1].astype(np.float64)
    if not np.isfinite(x).all():
        raise GenerationError(f"{model.name}: its output is not a number: the file may be damaged")
    x -= x.max(1, keepdims=True)
    x -= np.log(np.exp(x).sum(1, keepdims=True))
    return x
