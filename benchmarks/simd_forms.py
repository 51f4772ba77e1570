"""How much slower decoding is on a CPU with fewer instructions: one file, each form in turn.

    python benchmarks/simd_forms.py FILE.gguf [--rounds 3] [--json FILE]

Kernels are compiled for CPUs by name, so nothing that only this machine has slips in: Haswell stands for AVX2
without VNNI, Alder Lake for AVX-VNNI without AVX-512. Forms that this machine cannot run are left out. The
first round compiles and does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from localmoe.kernels.simd import available_forms

CPUS = {"avx512vnni": "cascadelake", "avxvnni": "alderlake", "avx2": "haswell"}


def decode_speed(file: Path, form: str, threads: int) -> float:
    """Tokens per second after a prefill of 64."""
    environment = {**os.environ, "NUMBA_CPU_NAME": CPUS[form], "NUMBA_CPU_FEATURES": ""}
    command = [sys.executable, "-m", "localmoe", "bench", str(file), "--threads", str(threads), "--json"]
    done = subprocess.run(
        [*command, "-p", "64", "-n", "48"], check=True, capture_output=True, text=True, env=environment
    )
    return float(json.loads(done.stdout)["decode_tps"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    forms = [form for form in CPUS if form in available_forms()]
    speeds: dict[str, list[float]] = {form: [] for form in forms}
    for turn in range(arguments.rounds + 1):
        for form in forms:
            speed = decode_speed(arguments.file, form, arguments.threads)
            if turn:
                speeds[form].append(speed)
    medians = {form: statistics.median(values) for form, values in speeds.items()}
    best = medians[forms[0]]
    for form, value in medians.items():
        print(f"{form:12} {value:8.1f} tok/s   {value / best:.2f} of {forms[0]}")
    if arguments.json:
        result: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "file": arguments.file.name}
        result |= {"threads": arguments.threads, "speeds": speeds, "medians": medians}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
