"""Routing traces: recorded from a model, read back, or generated with a known kind of locality.

A trace is uint8 [tokens, layers, k]: which k experts the router chose, best first, for each token in each
layer. On disk it is an `.npz` with that array as `routing`.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from localmoe.archives import DamagedArchiveError, open_archive
from localmoe.errors import UsageError

REPEAT = 0.25
"""Generated traces keep one of the last token's experts with this probability and choose afresh otherwise: 65
% of tokens then share an expert with the one before, as in the middle layer of Mixtral (its paper, table 5;
46 % by chance)."""
SKEW = 0.5
"""Standard deviation of the experts' log-popularity in generated traces: at 0.5 the most popular of 8 experts
is chosen about four times as often as the least."""


class TraceRecorder:
    """Collects the routing of whole tokens and writes it as a trace."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.uint8]] = []

    def append(self, routing: NDArray[np.uint8]) -> None:
        """Add `routing` [tokens, layers, k], or [layers, k] for one token; copied."""
        if routing.size and int(routing.max()) > 255:
            raise ValueError("a trace numbers experts from 0 to 255")
        self._parts.append(np.array(routing if routing.ndim == 3 else routing[None], np.uint8))

    def routing(self) -> NDArray[np.uint8]:
        """All that was recorded, [tokens, layers, k]; [0, 0, 0] if nothing was."""
        return np.concatenate(self._parts) if self._parts else np.empty((0, 0, 0), np.uint8)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trace under `path` (as named, no suffix added): whole or not at all."""
        save_trace(path, self.routing())


def save_trace(path: str | os.PathLike[str], routing: NDArray[np.uint8]) -> None:
    """Write `routing` [tokens, layers, k] to `path`; UsageError if that cannot be written."""
    target = Path(path)
    try:
        descriptor, partial = tempfile.mkstemp(dir=target.parent, prefix=target.name, suffix=".partial")
        try:
            with os.fdopen(descriptor, "wb") as file:
                np.savez_compressed(file, routing=routing)
            os.replace(partial, target)
        except BaseException:
            os.unlink(partial)
            raise
    except OSError as error:
        raise UsageError(f"{target}: cannot write the trace: {error.strerror}") from error


def load_trace(path: str | os.PathLike[str], layers: int, experts: int) -> NDArray[np.uint8]:
    """The trace in `path`, checked against a model of `layers` x `experts`; UsageError says what does not
    fit.
    """
    try:
        with open_archive(Path(path)) as archive:
            routing: NDArray[np.uint8] = archive["routing"]
    except OSError as error:
        raise UsageError(f"{path}: cannot read the trace: {error.strerror or error}") from error
    except DamagedArchiveError as error:
        raise UsageError(f"{path}: not a trace: expected an .npz with an array named routing") from error
    if routing.ndim != 3 or routing.dtype != np.uint8 or not routing.size:
        raise UsageError(f"{path}: not a trace: routing must be uint8 [tokens, layers, k], and not empty")
    if routing.shape[1] != layers or int(routing.max()) >= experts:
        raise UsageError(
            f"{path}: a trace of {routing.shape[1]} layers and experts up to {int(routing.max())}, but the "
            f"model has {layers} layers of {experts} experts; record it with this model"
        )
    repeated = np.sort(routing, axis=2)
    if (repeated[:, :, 1:] == repeated[:, :, :-1]).any():
        raise UsageError(f"{path}: not a trace: a token names the same expert twice in one layer")
    return routing


def generate_trace(
    tokens: int,
    layers: int = 32,
    experts: int = 8,
    chosen: int = 2,
    *,
    repeat: float = REPEAT,
    skew: float = SKEW,
    drift: int | None = None,
    seed: int = 0,
) -> NDArray[np.uint8]:
    """A trace uint8 [tokens, layers, chosen] of independent layers.

    Each layer's experts have a log-normal popularity (`skew`). With probability `repeat` a token keeps one of
    the last token's experts, at random, and draws the others by popularity; otherwise it draws all. Every
    `drift` tokens all popularities are drawn anew.
    """
    random = np.random.default_rng(seed)
    routing = np.empty((tokens, layers, chosen), np.uint8)
    rows = np.arange(layers)
    for token in range(tokens):
        if token == 0 or (drift and token % drift == 0):
            popularity = random.normal(0.0, skew, (layers, experts))
        # The k largest of log-popularity + Gumbel noise are a draw of k without replacement.
        keys = popularity + random.gumbel(size=(layers, experts))
        if token:
            keeps = random.random(layers) < repeat
            kept = routing[token - 1, rows, random.integers(0, chosen, layers)]
            keys[rows[keeps], kept[keeps]] = np.inf
        routing[token] = np.argsort(-keys, axis=1)[:, :chosen]
    return routing


def repeat_share(routing: NDArray[np.uint8]) -> float:
    """The share of tokens, over all layers, that have at least one expert in common with the token before."""
    shared = (routing[1:, :, :, None] == routing[:-1, :, None, :]).any((2, 3))
    return float(shared.mean())
