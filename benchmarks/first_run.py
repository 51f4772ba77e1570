"""How long the first start takes, which compiles the kernels, and the second.

    python benchmarks/first_run.py [--processes 1 2] [--repeat 3] [--json FILE]

Each first start has an empty cache directory of its own and loads the demo model; imports are included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from localmoe.kernels.cores import usable_cores

LOAD = "import localmoe; localmoe.load('demo', threads={processes}, learn=False).close()"


def seconds(processes: int, cache: str) -> float:
    """Of one start."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", LOAD.format(processes=processes)], check=True,
        env={**os.environ, "LOCALMOE_CACHE_DIR": cache},
    )  # fmt: skip
    return time.perf_counter() - start


def measure(processes: int, repeat: int) -> dict[str, Any]:
    """Medians of `repeat` first starts, and of as many that find everything compiled."""
    first, later = [], []
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as cache:
            first.append(seconds(processes, cache))
            later.append(seconds(processes, cache))
    return {
        "processes": processes, "first_seconds": first, "later_seconds": later,
        "first": round(statistics.median(first), 1), "later": round(statistics.median(later), 2),
    }  # fmt: skip


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, usable_cores()])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for processes in sorted({*args.processes}):
        rows.append(measure(processes, args.repeat))
        print(f"{processes} at once: first start {rows[-1]['first']} s, later ones {rows[-1]['later']} s")
    if args.json:
        found = {"cpu": platform.processor() or platform.machine(), "cores": usable_cores(), "rows": rows}
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
