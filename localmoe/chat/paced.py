"""What a chat needs of a model, and a decoder that stays responsive while it reads a long prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from localmoe.chat.kv_store import SavableDecoder
from localmoe.experts.plan import Plan
from localmoe.text.constraint import Constraints
from localmoe.text.tokenizer import Tokenizer

PREFILL_CHUNK = 512  # tokens between two looks at Ctrl-C


class ChatModel(Protocol):
    """What a chat needs of a model; `localmoe.Model` is one."""

    @property
    def name(self) -> str: ...
    @property
    def identity(self) -> str: ...
    @property
    def context(self) -> int: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def constraints(self) -> Constraints: ...
    def encode_chat(
        self, messages: Sequence[Mapping[str, str]], *, think: bool = True, effort: str | None = None
    ) -> list[int]: ...
    def decoder(self) -> SavableDecoder: ...
    @property
    def plan(self) -> Plan: ...
    def status(self) -> Mapping[str, Any]: ...
    def close(self) -> None: ...


class CancelledError(Exception):
    """The user pressed Ctrl-C while the prompt was being read."""


class PacedDecoder:
    """A decoder that reads long prompts piece by piece, so that Ctrl-C is heard and progress can be shown.

    Kernels are batch-invariant: the pieces change nothing in the result.
    """

    def __init__(self, decoder: SavableDecoder) -> None:
        self.inner = decoder
        self.cancelled: Callable[[], bool] = lambda: False
        self.progress: Callable[[int, int], None] = lambda done, total: None

    @property
    def tokens(self) -> Sequence[int]:
        return self.inner.tokens

    @property
    def context(self) -> int:
        return self.inner.context

    def rewind(self, length: int) -> None:
        self.inner.rewind(length)

    def extend(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        for start in range(0, len(ids) - PREFILL_CHUNK, PREFILL_CHUNK):
            self.inner.extend(ids[start : start + PREFILL_CHUNK])
            self.progress(start + PREFILL_CHUNK, len(ids))
            if self.cancelled():
                raise CancelledError
        last = (len(ids) - 1) // PREFILL_CHUNK * PREFILL_CHUNK
        return self.inner.extend(ids[last:])
