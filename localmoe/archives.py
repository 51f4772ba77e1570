"""NumPy archives (`.npz`) from disk: whatever is wrong with one is one kind of error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray


class DamagedArchiveError(ValueError):
    """The file is no archive, or is damaged, or does not hold what was looked for."""


@contextmanager
def open_archive(source: Path | BinaryIO) -> Iterator[Mapping[str, NDArray[Any]]]:
    """The arrays of an archive by name, each read when it is asked for.

    Raises:
        OSError: it cannot be read.
        DamagedArchiveError: anything else that opening it or the block raises, a missing name among it: of
            damaged bytes numpy, zipfile, the decompressors and Python's tokenizer raise what they like.
    """
    try:
        with np.load(source, allow_pickle=False) as archive:
            yield archive
    except (OSError, DamagedArchiveError):
        raise
    except Exception as error:
        raise DamagedArchiveError(str(error)) from error
