"""Statistics on disk: one small file per model, so that the second start begins warm.

A file is replaced whole by an atomic rename, so a killed process leaves the old one or the new one. Two
processes that serve the same model both contribute: saving re-reads the file under a lock, lets it decay by
the tokens seen here, and adds what was learned here since the last load or save. A file that cannot be read
is ignored, with a note.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from localmoe.archives import DamagedArchiveError, open_archive
from localmoe.experts.statistics import ONE, SHIFTS, TOKENS, ExpertStatistics, kept
from localmoe.settings import cache_directory

if sys.platform != "win32":
    import fcntl

_VERSION = 1
_LARGEST_FILE = 64 << 20


def default_directory() -> Path:
    """Where statistics live: `$LOCALMOE_CACHE_DIR` or the platform's cache directory, under `experts`."""
    return cache_directory() / "experts"


class _UnusableError(DamagedArchiveError):
    """What was read cannot be this model's statistics."""


class StatisticsStore:
    """The statistics of the model whose identity is `identity` (hexadecimal), in `directory`."""

    def __init__(self, identity: str, directory: Path | None = None) -> None:
        if not re.fullmatch(r"[0-9a-f]{8,128}", identity):
            raise ValueError(f"a model's identity is 8 to 128 hexadecimal digits, not {identity!r}")
        self.path = (directory or default_directory()) / f"{identity}.npz"
        self.note = ""
        """One line for stderr if the file could not be read or written, else empty."""
        self._base: ExpertStatistics | None = None  # as loaded or last saved: what is already in the file

    def load(self, layers: int, experts: int, chosen: int) -> ExpertStatistics:
        """The stored statistics, or fresh ones if there are none for this shape (then `note` may say why)."""
        statistics = self._read(layers, experts, chosen) or ExpertStatistics(layers, experts, chosen)
        self._base = statistics.snapshot()
        return statistics

    def save(self, statistics: ExpertStatistics) -> None:
        """Merge `statistics` into the file. A disk that refuses leaves a note: statistics are never worth a
        crash.
        """
        fresh = ExpertStatistics(statistics.layers, statistics.experts, statistics.chosen)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self.path.with_suffix(".lock")):
                on_disk = self._read(statistics.layers, statistics.experts, statistics.chosen)
                merged = merge(on_disk, self._base or fresh, statistics) if on_disk else statistics
                self._write(merged)
        except OSError as error:
            self.note = f"{self.path}: routing statistics not saved: {error.strerror or error}"
            return
        # From here on only what comes after this moment is ours to add, on top of what the file now holds.
        for name, array in merged.arrays().items():
            getattr(statistics, name)[:] = array
        self._base = statistics.snapshot()

    def _write(self, statistics: ExpertStatistics) -> None:
        image = io.BytesIO()
        arrays = {name: array for name, array in statistics.arrays().items() if name != "pending"}
        shape = np.array([_VERSION, statistics.layers, statistics.experts, statistics.chosen, *SHIFTS])
        np.savez(image, shape=shape, **arrays)  # type: ignore[arg-type]  # NumPy's stub takes **kwds for allow_pickle
        descriptor, partial = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.stem, suffix=".partial")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(image.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise

    def _read(self, layers: int, experts: int, chosen: int) -> ExpertStatistics | None:
        try:
            if self.path.stat().st_size > _LARGEST_FILE:
                raise _UnusableError("too large")
            with open_archive(io.BytesIO(self.path.read_bytes())) as archive:
                return _checked(dict(archive), layers, experts, chosen)
        except FileNotFoundError:
            return None
        except (OSError, DamagedArchiveError) as error:
            reason = str(error) if isinstance(error, _UnusableError) else "damaged"
            self.note = f"{self.path}: routing statistics ignored ({reason}); they start afresh"
            return None


def merge(on_disk: ExpertStatistics, base: ExpertStatistics, ours: ExpertStatistics) -> ExpertStatistics:
    """`on_disk` and then what `ours` saw since `base`: as if the tokens behind the file had come first.

    An average that held b at the base and holds o now has kept a share s of b and learned o - s·b; so the
    merged one is s·disk + (o - s·b). Totals and token counts add. Which memory predicts best is taken from
    `ours`.
    """
    merged = ours.snapshot()
    new_tokens = ours.tokens - base.tokens
    share = kept(base.tokens, ours.tokens)[:, None, None]  # [memories, 1, 1]
    moved = on_disk.estimates.astype(np.float64) - base.estimates
    merged.estimates[:] = np.clip(np.rint(ours.estimates + share * moved), 0, ONE).astype(np.int32)
    merged.totals[:] = on_disk.totals + (ours.totals - base.totals)
    merged.clock[TOKENS] = on_disk.tokens + new_tokens
    if not new_tokens:
        merged.evidence[:], merged.clock[:] = on_disk.evidence, on_disk.clock
    return merged


def _checked(
    archive: dict[str, NDArray[np.int64]], layers: int, experts: int, chosen: int
) -> ExpertStatistics:
    """The statistics in an archive; _UnusableError if they are not this model's or cannot be true."""
    expected = [_VERSION, layers, experts, chosen, *SHIFTS]
    if archive["shape"].tolist() != expected:
        raise _UnusableError("of another version or shape")
    statistics = ExpertStatistics(layers, experts, chosen)
    for name, array in statistics.arrays().items():
        if name == "pending":
            continue
        if archive[name].shape != array.shape or archive[name].dtype != array.dtype:
            raise _UnusableError(f"{name} has another shape")
        array[:] = archive[name]
    estimates, clock = statistics.estimates, statistics.clock
    if estimates.min() < 0 or estimates.max() > ONE or not np.isin(statistics.used, (0, 1)).all():
        raise _UnusableError("out of range")
    if min(statistics.totals.min(), statistics.evidence.min(initial=0, where=_SIGNED), clock.min()) < 0:
        raise _UnusableError("negative counts")
    if clock[1] >= len(SHIFTS) or abs(statistics.evidence).max() > 1 << 60:
        raise _UnusableError("out of range")
    return statistics


_SIGNED = np.array([[True], [False], [True], [True]])  # residuals alone may be negative


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` (on Windows none: there a merge may lose the other process's last
    tokens).
    """
    if sys.platform == "win32":
        yield
        return
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
