"""Decoding a model file that is larger than the memory both programs may use: localmoe beside llama.cpp.

    python benchmarks/larger_than_memory.py --peer PEER/bin/python [--memory 12GiB] [--file FILE.gguf]

PEER is an environment with llama-cpp-python. Both sides read the same random token ids, in turns, each time
in a fresh process, with the file dropped from the page cache before. Each process is in a control group that
bounds its memory, pages of the file in the cache included (`memory_group.py`), so that neither uses the rest
of the machine's RAM as a cache in secret.

localmoe gets `--ram` as a user would give it: the bound less `BESIDE`, for what is not weights, KV cache or
scratch: Python and its imports, and the pages of the file that pass through the cache on their way into a
slot. `--ram auto` leaves it to localmoe, which then sees the group's bound by itself.
llama.cpp maps the file, its default, and takes as many of its pages as the bound allows; loading asks the
kernel for all of them once (`load`), so its prompt does not start cold. Its weight repacking is off: that
copies weights into memory of its own, which cannot be larger than the bound, and neither can `--no-mmap`.

Without `--file` the model has Mixtral 8x7B's shape and random weights (28.4 GB). No trained router chooses
its experts; what is known of their locality is in `release_residency.ROUTING` and in the rows. Run it on a
machine that does nothing else. Prints a table and writes every run to `--out`. Linux only.

The table: rates over all decoded tokens and over the second half of them, the median of a token's seconds,
what reading the prompt and loading took, hits in localmoe's slots, bytes from the disk per token, by page
faults too, and how long the disk needs for them at the rate that it has outside the group, measured before
and after; and the most memory that the group held, which the page cache brings to the bound on both sides.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from memory_group import drop_file, memory_group
from release import machine
from release_residency import ROUTING, decode, disk_speed, largest_part, make_model

from localmoe.catalogue import demo_path
from localmoe.errors import LocalMoeError, UsageError
from localmoe.experts.sizes import format_size, parse_size
from localmoe.kernels.cores import usable_cores
from localmoe.model.config import ModelConfig
from quant.gguf import GGUFFile

HERE = Path(__file__).resolve().parent
BESIDE = 512 << 20  # of the bound, bytes that --ram leaves for imports and for pages on their way
LEFT = 0.005  # of the file, that may stay in the page cache when a run begins
SIDES = ("localmoe", "llama.cpp")
RATES = {"all": "tokens_per_s", "second half": "second_half_tokens_per_s"}


def ram_for(bound: int, asked: str | None) -> str | None:
    """The `--ram` of localmoe under a bound of that many bytes; None: it is not given. UsageError where the
    bound leaves nothing.
    """
    if asked is not None:
        return None if asked == "auto" else asked
    if bound <= BESIDE:
        raise UsageError(f"--memory {format_size(bound)}: give more than {format_size(BESIDE)}")
    return f"{bound - BESIDE}"


def check(file: Path, bound: int, peer: str) -> None:
    """UsageError unless there is something to compare."""
    if not file.is_file():
        raise UsageError(f"{file}: no such file")
    if file.stat().st_size <= bound:
        raise UsageError(f"{file}: is not larger than --memory {format_size(bound)}; give a smaller bound")
    try:
        done = subprocess.run([peer, "-c", "import llama_cpp"], capture_output=True, check=False)
    except OSError as error:
        raise UsageError(f"--peer {peer}: {error.strerror}") from error
    if done.returncode:
        raise UsageError(f"--peer {peer}: it has no llama-cpp-python")


def draw_ids(file: Path, count: int, seed: int = 0) -> np.ndarray:
    """int64 [count]: token ids drawn uniformly, control tokens at the vocabulary's start left out."""
    with GGUFFile.open(file) as opened:
        vocab = ModelConfig.from_gguf(opened).vocab
    return np.random.default_rng(seed).integers(min(300, vocab // 4), vocab, count)


def commands(a: argparse.Namespace, file: Path, ids: Path, ram: str | None) -> dict[str, list[str]]:
    """What each side runs."""
    length = ["--prompt", str(a.prompt), "--threads", str(a.threads)]
    bounded = ["--ram", ram] if ram else []
    ours = [sys.executable, str(HERE / "release_residency.py"), str(file), "--ids", str(ids)]
    theirs = [a.peer, str(HERE / "llama_cpp_peer.py"), "tokens", str(file), str(ids)]
    return {SIDES[0]: [*ours, *length, *bounded], SIDES[1]: [*theirs, *length]}


def run(command: Sequence[str], file: Path, bound: int) -> dict[str, Any]:
    """One side's run, from a cold page cache, within the bound. UsageError where the file stays cached."""
    left = drop_file(file)
    if left > LEFT * file.stat().st_size:
        raise UsageError(f"{file}: {format_size(left)} of it stay cached; end the programs that use it")
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    start = time.monotonic()
    with memory_group(bound) as group:
        row: dict[str, Any] = json.loads(group.run(command, environment))
        row["group_peak_bytes"] = group.peak()
    row |= {"cached_before_bytes": left, "process_s": round(time.monotonic() - start, 1)}
    return row | rates(row["seconds_per_token"])


def rates(seconds: Sequence[float]) -> dict[str, float]:
    """Tokens per second over all decoded tokens and over the second half of them, when what can be warm is,
    and the median of a token's seconds.
    """
    half = seconds[len(seconds) // 2 :]
    return {
        "tokens_per_s": len(seconds) / sum(seconds),
        "second_half_tokens_per_s": len(half) / sum(half),
        "median_s": statistics.median(seconds),
    }


def compare(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians of both sides' rates, and of the ratios pair by pair: above 1, localmoe is faster."""
    of = {side: [row for row in rows if row["side"] == side] for side in SIDES}
    result: dict[str, Any] = {}
    for name, key in RATES.items():
        ratios = [mine[key] / theirs[key] for mine, theirs in zip(*of.values(), strict=True)]
        medians = {side: statistics.median(row[key] for row in of[side]) for side in SIDES}
        result[name] = {**medians, "ratio": statistics.median(ratios), "ratios": sorted(ratios)}
    return result


def table(rows: Sequence[dict[str, Any]], disk: float) -> list[str]:
    """The runs for a person; `disk` is its rate in bytes/s, for parts as large as localmoe reads."""
    lines = [
        f"{'':<12}{'tok/s':>7}{'2nd half':>10}{'median':>9}{'prompt':>9}{'load':>8}{'hits':>7}"
        f"{'disk/token':>12}{'at its rate':>13}{'peak':>11}"
    ]
    for row in rows:
        read, hits = row["disk_bytes_per_token"], row.get("hit_rate")
        peak = row["group_peak_bytes"]
        lines.append(
            f"{row['side']:<12}{row['tokens_per_s']:>7.2f}{row['second_half_tokens_per_s']:>10.2f}"
            f"{row['median_s']:>7.2f} s{row['prefill_s']:>7.1f} s{row['load_s']:>6.1f} s"
            f"{'' if hits is None else f'{hits:.0%}':>7}{read / 1e9:>9.2f} GB{read / disk:>11.2f} s"
            f"{'unknown' if peak is None else format_size(peak):>11}"
        )
    return lines


def measure(a: argparse.Namespace) -> dict[str, Any]:
    """All runs, and what they come to."""
    bound = parse_size(a.memory)
    ram, file = ram_for(bound, a.ram), a.file or synthetic_file(a.models, a.layers)
    check(file, bound, a.peer)
    rows: list[dict[str, Any]] = []
    with memory_group(bound):
        pass  # where that is not allowed, say so now
    with tempfile.TemporaryDirectory() as folder:
        ids = Path(folder) / "ids.npy"
        np.save(ids, draw_ids(file, a.prompt + a.tokens))
        decode(demo_path(), None, 4, 2, a.threads)  # compiles the kernels, which takes memory too
        part = largest_part(file)
        before = disk_speed(file, part, a.disk_gb)
        given = commands(a, file, ids, ram)
        for pair in range(a.pairs):
            for side in SIDES:
                rows.append({"side": side, "pair": pair, **run(given[side], file, bound)})
                shown = table(rows[-1:], before["random_parts"])
                print("\n".join(shown if len(rows) == 1 else shown[1:]), flush=True)
        after = disk_speed(file, part, a.disk_gb)
    return {
        "file": file.stem, "file_bytes": file.stat().st_size, "memory": a.memory, "memory_bytes": bound,
        "ram": ram or "auto", "threads": a.threads, "prompt": a.prompt, "tokens": a.tokens, "pairs": a.pairs,
        "routing": "as the file's router chooses" if a.file else ROUTING,
        "read_ahead_kb": read_ahead_kb(file), "disk_before": before, "disk_after": after,
        **compare(rows), "runs": rows,
    }  # fmt: skip


def read_ahead_kb(file: Path) -> int | None:
    """How much the kernel reads around a page that a mapping misses (KiB), which llama.cpp's rate depends on;
    128 is Linux's own choice. None where it does not say.
    """
    device = file.stat().st_dev
    told = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    return int(told.read_text()) if told.exists() else None


def synthetic_file(folder: Path, layers: int) -> Path:
    """A random q4_k_m file of Mixtral 8x7B's width; written where it does not exist yet."""
    name = "8x7b-q4_k_m.gguf" if layers == 32 else f"8x7b-{layers}-layers-q4_k_m.gguf"
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        make_model(partial, argparse.Namespace(hidden=4096, ffn=14336), layers)
        partial.rename(path)
    return path


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peer", required=True, help="python of an environment with llama-cpp-python")
    p.add_argument("--memory", default="12GiB", help="what each side may use, page cache included")
    p.add_argument("--ram", help="localmoe's --ram, or auto [default: the bound less 512 MiB]")
    p.add_argument("--file", type=Path, help="instead of a synthetic one")
    p.add_argument("--models", type=Path, default=Path(tempfile.gettempdir()) / "localmoe-synthetic")
    p.add_argument("--layers", type=int, default=32, help="of the synthetic file; 32 are 28 GB")
    p.add_argument("--prompt", type=int, default=16, help="tokens that are read at once")
    p.add_argument("--tokens", type=int, default=24, help="tokens that are decoded one by one")
    p.add_argument("--pairs", type=int, default=2)
    p.add_argument("--threads", type=int, default=usable_cores())
    p.add_argument("--disk-gb", type=float, default=4, help="how much to read to measure the disk")
    p.add_argument("--note", default="", help="for the JSON: what else the machine was doing")
    p.add_argument("--out", type=Path, default=HERE / "results" / "larger_than_memory.json")
    return p


def main() -> None:
    a = parser().parse_args()
    for name in ("prompt", "pairs", "threads", "layers"):
        if getattr(a, name) < 1:
            parser().error(f"--{name}: give 1 or more")
    if a.tokens < 2:
        parser().error("--tokens: give 2 or more")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # removes the group too
    try:
        result = measure(a)
    except LocalMoeError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    own = ("memory", "prompt", "tokens", "pairs", "threads")
    options = " ".join(f"--{name} {getattr(a, name)}" for name in own) + (f" --ram {a.ram}" if a.ram else "")
    report = {
        "date": time.strftime("%Y-%m-%d"), "machine": machine(), "note": a.note,
        "command": f"python benchmarks/larger_than_memory.py --peer PEER {options}", **result,
    }  # fmt: skip
    a.out.parent.mkdir(parents=True, exist_ok=True)
    a.out.write_text(json.dumps(report, indent=1) + "\n")
    for name in RATES:
        one = result[name]
        both = ", ".join(f"{side} {one[side]:.2f} tok/s" for side in SIDES)
        print(f"{name:<12} {both}: ratio {one['ratio']:.2f} of {[round(each, 2) for each in one['ratios']]}")


if __name__ == "__main__":
    main()
