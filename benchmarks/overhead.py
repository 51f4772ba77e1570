"""What is not arithmetic: the time to a first token from the start of Python, decoding outside the kernels.

    python benchmarks/overhead.py FILE.gguf ... [--threads 2] [--json FILE]

The first token is that of a one-token prompt, in a process of its own, five times after one that does not
count: the file is in the page cache and the kernels are compiled by then. Outside the kernels is what passes
in decoding between one token's compiled program and the next one's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import localmoe
from localmoe.kernels.pool import Pool
from localmoe.kernels.program import Program
from localmoe.measure import prefill_seconds, random_ids

FIRST = """
import localmoe, sys
with localmoe.load(sys.argv[1], threads=int(sys.argv[2]), learn=False) as model:
    model.decoder().extend([1])
    print("there", flush=True)
"""
PROMPT, TOKENS = 512, 64


def first_token_seconds(file: Path, threads: int) -> float:
    """From the start of a process to its first token."""
    start = time.perf_counter()
    command = [sys.executable, "-c", FIRST, str(file), str(threads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline() if process.stdout else ""
        seconds = time.perf_counter() - start
    if line.strip() != "there" or process.returncode:
        raise RuntimeError(f"{file}: no first token, exit status {process.returncode}")
    return seconds


def decoding(file: Path, threads: int) -> tuple[float, float]:
    """Tokens per second, and the share of the time that is spent outside the kernels."""
    with localmoe.load(file, threads=threads, context=PROMPT + 2 * TOKENS, learn=False) as model:
        ids, decoder = random_ids(model, PROMPT + 2 * TOKENS), model.decoder()
        prefill_seconds(decoder, ids[:PROMPT])
        for token in ids[PROMPT : PROMPT + TOKENS]:
            decoder.extend([token])  # the first records the program
        run, inside = Program.run, []

        def timed(program: Program, pool: Pool) -> None:
            began = time.perf_counter()
            run(program, pool)
            inside.append(time.perf_counter() - began)

        with mock.patch.object(Program, "run", timed):
            start = time.perf_counter()
            for token in ids[PROMPT + TOKENS :]:
                decoder.extend([token])
            seconds = time.perf_counter() - start
    if len(inside) != TOKENS:
        raise RuntimeError(f"{file}: {len(inside)} programs ran for {TOKENS} tokens")
    return TOKENS / seconds, 1 - sum(inside) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for file in options.files:
        first = [first_token_seconds(file, options.threads) for _ in range(6)][1:]
        rate, outside = decoding(file, options.threads)
        row = {"file": file.stem, "first_token_s": sorted(first), "decode_tps": rate, "outside": outside}
        rows.append(row)
        print(
            f"{file.stem:<14} first token after {statistics.median(first):.2f} s "
            f"({min(first):.2f} to {max(first):.2f}); {rate:.1f} tokens/s, {outside:.1%} outside the kernels"
        )
    if options.json:
        report = {"date": time.strftime("%Y-%m-%d"), "threads": options.threads, "files": rows}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
