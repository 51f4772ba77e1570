"""The `localmoe` command as it is, but with a model that waits `DEMO_DELAY` seconds before each token.

    python demo_runner.py ARGUMENTS

The embedded model answers within milliseconds; who wants to press Ctrl-C in the middle needs longer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any


def main() -> None:
    from localmoe.cli.main import main as command
    from localmoe.model.decoder import Decoder

    delay, extend = float(os.environ.get("DEMO_DELAY", "0")), Decoder.extend

    def later(self: Decoder, ids: Sequence[int]) -> Any:
        time.sleep(delay)
        return extend(self, ids)

    if delay:
        Decoder.extend = later  # type: ignore[method-assign] # that is what this file is for
    command()


if __name__ == "__main__":
    main()
