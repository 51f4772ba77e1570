"""KV states of conversations on disk, so that a resumed chat need not compute its prompt again.

One file per conversation, private like the history, beside it: losing it costs time only.
Whether a file fits the model is for the decoder to say; whatever is wrong with it, the prompt is computed
as if it were not there. All files together keep below a limit: the one used longest ago goes first.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from localmoe.errors import LocalMoeError
from localmoe.generate.loop import Decoder

_STALE_SECONDS = 600.0  # a state is written within seconds: a draft this old has lost its process


class SavableDecoder(Decoder, Protocol):
    """A decoder whose state can be written to a file."""

    def save(self, path: Path, identity: str) -> None:
        """Writes the state; a model of another `identity` will not take it."""

    def load(self, path: Path, identity: str) -> int:
        """Restores a state; the number of tokens it holds, 0 where it does not fit."""


class KVStore:
    """KV states under `directory`, at most `limit` bytes of them; 0 keeps none."""

    def __init__(self, directory: Path, limit: int) -> None:
        self._directory = directory
        self._limit = limit

    def _file(self, conversation: str) -> Path:
        return self._directory / f"{conversation}.kv"

    def save(self, conversation: str, decoder: SavableDecoder, identity: str) -> None:
        """Keep the decoder's state for `conversation`. What goes wrong is not worth a word: it is a cache."""
        if self._limit <= 0 or not decoder.tokens:
            return
        draft = self._directory / f"{conversation}.{os.getpid()}.partial"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._directory.chmod(0o700)
            self._drop_stale_drafts()
            os.close(os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
            decoder.save(draft, identity)
            draft.replace(self._file(conversation))
            self._prune()
        except (OSError, LocalMoeError):
            with suppress(OSError):
                draft.unlink()

    def restore(self, conversation: str, decoder: SavableDecoder, identity: str) -> int:
        """Bring back the state of `conversation`; the number of tokens, 0 if there is none that fits."""
        file = self._file(conversation)
        try:
            restored = decoder.load(file, identity) if file.exists() else 0
            if restored:
                os.utime(file)  # now it is the one used last
            return restored
        except (OSError, ValueError, LocalMoeError):
            return 0

    def forget(self, conversation: str) -> None:
        """Remove the state of a conversation that is removed, and drafts of it that a killed process left."""
        for file in self._directory.glob(f"{conversation}.*"):
            file.unlink(missing_ok=True)

    def _drop_stale_drafts(self) -> None:
        for draft in self._directory.glob("*.partial"):
            if draft.stat().st_mtime < time.time() - _STALE_SECONDS:
                draft.unlink(missing_ok=True)

    def _prune(self) -> None:
        """Remove states until the rest keeps below the limit."""
        files = sorted(self._directory.glob("*.kv"), key=lambda file: file.stat().st_mtime, reverse=True)
        total = 0
        for file in files:
            total += file.stat().st_size
            if total > self._limit:
                file.unlink(missing_ok=True)
