"""A loaded model with a KV cache: tokens in, logits out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from localmoe.errors import UsageError
from localmoe.kernels.program import Job, Program
from localmoe.model.config import ModelConfig
from localmoe.model.kv_cache import KVCache
from localmoe.model.kv_file import load_state, save_state
from localmoe.model.transformer import Compute, Transformer

Floats = NDArray[np.float32]


def checked_context(asked: int | None, most: int) -> int:
    """The positions of a conversation: `asked`, or by default `most`, where the rotary table ends. UsageError
    beyond.
    """
    if asked is not None and not 1 <= asked <= most:
        raise UsageError(f"a conversation of {asked} positions: the model was loaded with {most}")
    return asked or most


def checked_chunks(
    ids: Sequence[int], held: int, context: int, config: ModelConfig, size: int
) -> list[Sequence[int]]:
    """`ids` in chunks of at most `size`. Raises `UsageError` if they do not fit after `held` others."""
    if not len(ids):
        raise ValueError("no tokens to extend by")
    if held + len(ids) > context:
        raise UsageError(config.too_many(held + len(ids), context))
    if min(ids) < 0 or max(ids) >= config.vocab:
        raise UsageError(f"a token id is outside the vocabulary of {config.vocab}")
    return [ids[at : at + size] for at in range(0, len(ids), size)]


class RecordingCompute(Compute, Protocol):
    """Arithmetic that can run a lone token's pass again from a recording: see `kernels.cpu.Cpu`."""

    def record(
        self, forward: Callable[[], object], layers: int, last: Callable[[int], Job] | None = None
    ) -> Program | None: ...
    def replay(self, program: Program, token: int, position: int) -> Floats: ...


class TokenObserver(Protocol):
    """What learns from the routing of lone tokens."""

    def job(self, routing: int) -> Job:
        """The last job of a recorded pass: learns from int32 [layers, k] at the address `routing`."""

    def observed(self, routing: NDArray[np.int32]) -> None:
        """Told after each pass that ended with such a job."""


MOST_READ = 64  # tokens, by which nearly every expert has been chosen: of 8 by 2, all but one in 10**8


class Decoder:
    """One conversation's state. `tokens` are those whose keys and values are held, position by position."""

    def __init__(
        self,
        transformer: Transformer,
        config: ModelConfig,
        compute: RecordingCompute,
        cache: KVCache,
        step: Callable[[], AbstractContextManager[None]],
        lock: AbstractContextManager[Any],
        observer: TokenObserver | None = None,
    ) -> None:
        """step: entered for each pass over a chunk of tokens; passes of other decoders wait. lock: all that a
        recorded pass of a lone token enters instead. observer: hears of its routing; no `ExpertSource` does.
        """
        self.context = cache.context
        self.tokens: list[int] = []
        self.model: object = None  # what must live as long: weights are read from its mapped file
        self.most_read: Callable[[], None] | None = None  # told once that most weights have been read
        self._transformer, self._compute, self._cache, self._step = transformer, compute, cache, step
        self._lock, self._observer, self._config, self._vocab = lock, observer, config, config.vocab
        self._program: Program | None = None  # one token's pass, as soon as one was asked for
        self._recorded = False

    def rewind(self, length: int) -> None:
        """Forgets the positions from `length` on."""
        if not 0 <= length <= len(self.tokens):
            raise ValueError(f"cannot rewind {len(self.tokens)} positions to {length}")
        del self.tokens[length:]

    def extend(self, ids: Sequence[int]) -> Floats:
        """Appends ids (at least one); returns float32 [vocab] logits of what follows the last."""
        if len(ids) == 1 and 0 <= ids[0] < self._vocab and len(self.tokens) < self.context:
            with self._lock:
                program = self._own_program()
                if program is not None:
                    return self._replay(program, int(ids[0]))
        logits = np.zeros(0, np.float32)
        chunks = self._chunks(ids)
        for chunk in chunks:
            with self._step():
                hidden = self._forward(chunk, last_only=True)
                if chunk is chunks[-1]:
                    logits = self._compute.last_logits(hidden, self._transformer.output).copy()
        return logits

    def extend_all(self, ids: Sequence[int]) -> Floats:
        """As `extend`, but the logits after every id: float32 [len(ids), vocab]."""
        parts = []
        for chunk in self._chunks(ids):
            with self._step():
                parts.append(self._compute.all_logits(self._forward(chunk), self._transformer.output))
        return np.concatenate(parts)

    def save(self, path: Path, identity: str) -> None:
        """Writes this state to a file that only a model of the same `identity` takes. OSError if it fails."""
        save_state(path, self._cache, self.tokens, identity)

    def load(self, path: Path, identity: str) -> int:
        """Restores a state; how many tokens it holds, 0 (and nothing changed) where the file does not fit."""
        tokens = load_state(path, self._cache, identity)
        if tokens:
            self.tokens = tokens
        return len(tokens)

    def _chunks(self, ids: Sequence[int]) -> list[Sequence[int]]:
        return checked_chunks(ids, len(self.tokens), self.context, self._config, self._compute.chunk)

    def _own_program(self) -> Program | None:
        """One token's pass over this cache, recorded when it is first asked for; None if it cannot be."""
        if not self._recorded:
            self._recorded = True
            job = self._observer.job if self._observer is not None else None
            self._program = self._compute.record(self._pass_of_one, len(self._cache.layers), job)
        return self._program

    def _pass_of_one(self) -> None:
        hidden = self._transformer.forward(self._compute, [0], 0, self._cache.layers)
        self._compute.last_logits(hidden, self._transformer.output)

    def _replay(self, program: Program, token: int) -> Floats:
        logits = self._compute.replay(program, token, len(self.tokens)).copy()
        if self._observer is not None:
            self._observer.observed(program.routing)
        self._append([token])
        return logits

    def _append(self, ids: Sequence[int]) -> None:
        self.tokens.extend(int(i) for i in ids)
        if self.most_read is not None and len(self.tokens) >= MOST_READ:
            self.most_read()
            self.most_read = None

    def _forward(self, chunk: Sequence[int], last_only: bool = False) -> Any:
        hidden = self._transformer.forward(
            self._compute, chunk, len(self.tokens), self._cache.layers, last_only
        )
        self._append(chunk)
        return hidden
