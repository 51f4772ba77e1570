"""How much slower decoding gets when other processes keep cores busy; with --peer, beside llama.cpp.

    python benchmarks/busy_cores.py FILE.gguf [--peer PEER/bin/python] [--busy 0 1 2] [--json FILE]

A busy process does nothing but count, on the core that the system gives it. With as many threads as cores, a
fair share of what is left is cores / (cores + busy).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vs_llama_cpp import Peer

import localmoe
from localmoe.kernels.cores import usable_cores
from localmoe.measure import prefill_seconds, random_ids

PROMPT, GENERATE = 64, 48


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keeps as many cores busy."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        time.sleep(0.3)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def decode_speed(model: localmoe.Model, ids: list[int]) -> float:
    """Tokens per second after a prefill."""
    decoder = model.decoder()
    prefill_seconds(decoder, ids[:PROMPT])
    start = time.perf_counter()
    for token in ids[PROMPT:]:
        decoder.extend([token])
    return (len(ids) - PROMPT) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--peer", help="python of an environment with llama-cpp-python")
    parser.add_argument("--busy", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    speeds: dict[str, dict[int, list[float]]] = {}
    peer = None
    if arguments.peer:
        peer = Peer(arguments.peer, arguments.file, PROMPT, GENERATE, arguments.threads, 1)
    with localmoe.load(arguments.file, threads=arguments.threads, context=PROMPT + GENERATE + 8,
                       learn=False) as model:  # fmt: skip
        ids = random_ids(model, PROMPT + GENERATE)
        for turn in range(arguments.rounds + 1):
            for count in arguments.busy:
                with busy(count):
                    measured = {"ours": decode_speed(model, ids)}
                    if peer is not None:
                        measured["llama.cpp"] = peer.measure()["decode"]
                for name, speed in measured.items() if turn else ():  # the first round warms up
                    speeds.setdefault(name, {}).setdefault(count, []).append(speed)
    if peer is not None:
        peer.close()
    medians = {name: {n: statistics.median(of) for n, of in rows.items()} for name, rows in speeds.items()}
    for name, row in medians.items():
        alone = row[arguments.busy[0]]
        for count, speed in row.items():
            fair = arguments.threads / (arguments.threads + count)
            share = f"{speed / alone:.2f} (a fair share is {fair:.2f})"
            print(f"{name:<10} {count} busy {speed:8.1f} tok/s   {share}")
    if arguments.json:
        result: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "file": arguments.file.name}
        result |= {"threads": arguments.threads, "speeds": speeds, "medians": medians}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
