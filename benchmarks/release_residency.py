"""A model larger than memory: does it decode at the rate that the disk explains? (`release.py residency`)

Makes a random q4_k_m file of Mixtral 8x7B's shape, measures the disk on that file with a cold page cache,
decodes under a bound on memory in a fresh process, and compares. Two predictions: one that takes every missed
byte from the disk, and one that counts what the kernel's page cache gave instead. Linux only: reads /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from math import comb
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import synthetic

import localmoe
from localmoe.experts.pager import READERS
from localmoe.experts.sizes import parse_size
from localmoe.experts.traces import TraceRecorder, repeat_share
from localmoe.measure import random_ids
from quant.gguf import GGUFFile

AT_ONCE = 8 << 20  # bytes per read
ADVICE = 128 << 10  # bytes of a range that the kernel is asked for in advance
SPARE = 8  # positions of a context beyond the ids
COMPUTE_LAYERS = 2  # of the model that tells how fast the arithmetic is
ROUTING = (
    "random weights and random tokens: no trained router. Uniform routing would hit as often as experts have "
    "slots (slots_share) and repeat an expert of the last token by chance alone (repeat_by_chance)"
)


def residency(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole check; `passed` says that memory held and that the prediction was within a quarter."""
    work = Path(arguments.directory) / f"localmoe-release-{os.getpid()}"
    work.mkdir(parents=True)
    try:
        file = arguments.file or make_model(work / "large.gguf", arguments, arguments.layers)
        small = make_model(work / "small.gguf", arguments, COMPUTE_LAYERS)
        part = largest_part(file)
        compute = decode(small, None, 64, 48, arguments.threads)
        before = disk_speed(file, part, arguments.disk_gb)
        print(f"disk: {before}", flush=True)
        bounded = decode(file, arguments.ram, arguments.prompt, arguments.tokens, arguments.threads)
        after = disk_speed(file, part, arguments.disk_gb)
        explained = explain(bounded, compute, before, after)
        print("\n".join(summary(bounded, explained)), flush=True)
        report = {
            "file_bytes": file.stat().st_size, "ram": arguments.ram, "routing": ROUTING,
            "bounded": bounded, "compute": compute, "disk_before": before, "disk_after": after, **explained,
        }  # fmt: skip
        if arguments.free_tokens:
            report["without_ram"] = decode(file, None, 0, arguments.free_tokens, arguments.threads)
            print("without --ram: " + "; ".join(report["without_ram"]["notices"]), flush=True)
        report["memory_held"] = bounded["peak_bytes"] <= parse_size(arguments.ram)
        report["explained"] = 0.75 <= explained["measured_to_predicted"] <= 1.25
        report["passed"] = report["memory_held"] and report["explained"]
        return report
    finally:
        shutil.rmtree(work, ignore_errors=True)


def make_model(path: Path, arguments: argparse.Namespace, layers: int) -> Path:
    """A random q4_k_m file of that many layers."""
    shape = ["--hidden", str(arguments.hidden), "--ffn", str(arguments.ffn), "--layers", str(layers)]
    options = [str(path), *shape, "--heads", "32", "--kv", "8", "--recipe", "q4_k_m", "--repeat"]
    start = time.monotonic()
    synthetic.write(path, synthetic.parser().parse_args(options))
    print(f"{path.stat().st_size / 1e9:.2f} GB written in {time.monotonic() - start:.0f} s", flush=True)
    return path


def largest_part(path: Path) -> int:
    """Bytes of the largest matrix of one expert: what the runner reads at a time."""
    with GGUFFile.open(path) as file:
        return max(t.nbytes // t.shape[0] for t in file.tensors.values() if len(t.shape) == 3)


# -- the disk ------------------------------------------------------------------------------------------------


def disk_speed(path: Path, part: int, gigabytes: float) -> dict[str, float]:
    """Bytes/s of `path`'s disk with a cold page cache: from end to end, and in parts as the runner reads
    them; and of the page cache.
    """
    size, wanted = path.stat().st_size, int(gigabytes * 1e9)
    rng = random.Random(0)
    start = rng.randrange(max(1, size - wanted))
    whole = [(at, AT_ONCE) for at in range(start, min(start + wanted, size) - AT_ONCE, AT_ONCE)]
    places = rng.sample(range(size // part), min(size // part, max(READERS, wanted // part)))
    parts = [(place * part, part) for place in places]  # none twice: the second time it is in the cache
    with path.open("rb", buffering=0) as file:
        handle = file.fileno()
        drop_cache(handle)
        sequential = read_speed(handle, whole, 1)
        drop_cache(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)  # as the runner does
        scattered = read_speed(handle, parts, READERS)
        cached = parts[: max(READERS, (1 << 30) // part)]
        read_speed(handle, cached, READERS)
        again = read_speed(handle, cached, READERS)
        drop_cache(handle)
    return {"sequential": sequential, "random_parts": scattered, "part_bytes": part, "page_cache": again}


def drop_cache(handle: int) -> None:
    """Forget what the kernel holds of that file."""
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)


def read_speed(handle: int, places: Sequence[tuple[int, int]], threads: int) -> float:
    """Bytes/s at which `threads` threads read (offset, size) after (offset, size)."""
    own = threading.local()

    def read(place: tuple[int, int]) -> int:
        offset, size = place
        if not hasattr(own, "buffer"):
            own.buffer = memoryview(bytearray(AT_ONCE))
        for at in range(offset, offset + size, ADVICE):
            os.posix_fadvise(handle, at, min(ADVICE, offset + size - at), os.POSIX_FADV_WILLNEED)
        done = 0
        while done < size:
            done += os.preadv(handle, [own.buffer[: min(AT_ONCE, size - done)]], offset + done)
        return done

    start = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        total = sum(pool.map(read, places))
    return round(total / (time.monotonic() - start))


# -- decoding, in a process of its own -----------------------------------------------------------------------


def decode(path: Path, ram: str | None, prompt: int, tokens: int, threads: int | None) -> dict[str, Any]:
    """`measure` in a fresh process, so that its memory is its own."""
    options = {"prompt": prompt, "tokens": tokens, "ram": ram, "threads": threads}
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    root = Path(__file__).resolve().parent.parent
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, __file__, str(path), *given], stdout=subprocess.PIPE, check=True, env=environment
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure(
    path: Path, ram: str | None, prompt: int, tokens: int, threads: int | None, given: Path | None = None
) -> dict[str, Any]:
    """Prefills `prompt` random tokens and decodes `tokens` more; rates, hit rate, bytes, memory. Of a file of
    `given` ids the first are the prompt and all others decoded, with a context just long enough.
    """
    with localmoe.load("demo", threads=threads, learn=False) as model:  # imports and kernels take memory too
        model.decoder().extend(random_ids(model, 64))
        model.decoder().extend(random_ids(model, 1))
    base, notices = memory("RssAnon") + memory("RssFile"), list[str]()
    ids = [int(i) for i in np.load(given)] if given else []
    context, tokens = (len(ids) + SPARE, len(ids) - prompt) if given else (None, tokens)
    start = time.monotonic()
    with localmoe.load(
        path, ram=ram, threads=threads, context=context, learn=False, notice=notices.append
    ) as model:
        load_s, decoder = time.monotonic() - start, model.decoder()
        ids = ids or random_ids(model, prompt + tokens)
        prefill_s = timed(lambda: decoder.extend(ids[:prompt])) if prompt else 0.0
        disk, read = disk_bytes(), model.status().get("bytes_read", 0)
        residency = model._engine.residency
        with residency.recording() if residency else nullcontext(TraceRecorder()) as recorder:
            seconds = [timed(lambda token=token: decoder.extend([token])) for token in ids[prompt:]]  # type: ignore[misc]  # mypy cannot infer a lambda's default
        status, plan, trace = model.status(), model.plan, recorder.routing()
        return {
            "prompt_tokens": prompt, "prefill_s": round(prefill_s, 2), "load_s": round(load_s, 2),
            "tokens": tokens, "tokens_per_s": tokens / sum(seconds),
            "seconds_per_token": [round(each, 3) for each in seconds],
            "hit_rate": status["hit_rate"], "slots_share": plan.share(plan.slots),
            "repeat": repeat_share(trace) if len(trace) > 1 else None,
            "repeat_by_chance": repeat_by_chance(model.config.experts, model.config.experts_used),
            "bytes_per_token": status["bytes_per_token"],
            "missed_bytes_per_token": round(status["paged_bytes_per_token"]),
            "read_bytes_per_token": round((status["bytes_read"] - read) / tokens),
            "disk_bytes_per_token": round((disk_bytes() - disk) / tokens),
            "threads": model.threads, "simd": status["simd"], "paged": status["paged"],
            "evictions": status["evictions"], "notices": notices, "plan": plan.lines(),
            "planned_bytes": plan.bytes_in("RAM"), "peak_bytes": memory("VmHWM") - base,
            "anonymous_bytes": memory("RssAnon"), "file_bytes": memory("RssFile"),
            "imports_bytes": base,
        }  # fmt: skip


def repeat_by_chance(experts: int, chosen: int) -> float:
    """How often two independent draws of `chosen` experts share at least one."""
    return 1 - comb(experts - chosen, chosen) / comb(experts, chosen)


def timed(act: Callable[[], object]) -> float:
    """Seconds that it takes."""
    start = time.monotonic()
    act()
    return time.monotonic() - start


def memory(name: str) -> int:
    """Bytes that /proc tells of this process: RssAnon, RssFile, VmHWM (the most of both at a time)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def disk_bytes() -> int:
    """Bytes that this process caused to be read from a disk, not from the page cache."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["read_bytes"])


# -- what explains the rate ----------------------------------------------------------------------------------


def explain(
    bounded: dict[str, Any], compute: dict[str, Any], before: dict[str, float], after: dict[str, float]
) -> dict[str, Any]:
    """The rates that disk, hit rate and arithmetic predict, and what was measured over them."""
    disk, cache = ((before[name] + after[name]) / 2 for name in ("random_parts", "page_cache"))
    per_byte = median(compute["seconds_per_token"]) / compute["bytes_per_token"]  # all of it in memory
    arithmetic = bounded["bytes_per_token"] * per_byte
    missed = bounded["missed_bytes_per_token"]
    from_disk = min(missed, bounded["disk_bytes_per_token"])
    all_disk = 1 / (missed / disk + arithmetic)
    reading = from_disk / disk + (missed - from_disk) / cache
    with_cache = 1 / (reading + arithmetic)
    return {
        "disk_bytes_per_s": round(disk),
        "page_cache_bytes_per_s": round(cache),
        "compute_s_per_token": arithmetic,
        "page_cache_share_of_misses": 1 - from_disk / missed if missed else None,
        "predicted_if_all_from_disk": all_disk,
        "measured_to_all_from_disk": bounded["tokens_per_s"] / all_disk,
        "predicted_tokens_per_s": with_cache,
        "predicted_if_all_overlapped": 1 / max(reading, arithmetic),
        "measured_to_predicted": bounded["tokens_per_s"] / with_cache,
    }


def summary(bounded: dict[str, Any], explained: dict[str, Any]) -> list[str]:
    """For a person."""
    gigabytes = {name: bounded[f"{name}_bytes_per_token"] / 1e9 for name in ("missed", "disk")}
    return [
        f"{bounded['tokens_per_s']:.3f} tokens/s; hit rate {bounded['hit_rate']:.1%}, slots for "
        f"{bounded['slots_share']:.1%} of the experts",
        f"{bounded['repeat']:.0%} of the tokens repeat an expert of the last one, "
        f"{bounded['repeat_by_chance']:.0%} would by chance",
        f"per token: {gigabytes['missed']:.2f} GB missed, {gigabytes['disk']:.2f} GB of them from the disk "
        f"at {explained['disk_bytes_per_s'] / 1e9:.2f} GB/s, {explained['compute_s_per_token']:.2f} s of "
        "arithmetic",
        f"predicted {explained['predicted_tokens_per_s']:.3f} tokens/s: measured is "
        f"{explained['measured_to_predicted']:.2f} of that (of the rate if all came from the disk: "
        f"{explained['measured_to_all_from_disk']:.2f})",
        f"peak memory {bounded['peak_bytes'] / 2**30:.2f} GiB, planned {bounded['planned_bytes'] / 2**30:.2f}"
        f" GiB, beside the {bounded['imports_bytes'] / 2**20:.0f} MiB of imports",
    ]


def add_arguments(part: argparse.ArgumentParser) -> None:
    """The options of `release.py residency`."""
    part.add_argument("--file", type=Path, help="instead of making one")
    part.add_argument("--layers", type=int, default=32, help="of the file to make; 32 are 28 GB")
    part.add_argument("--hidden", type=int, default=4096)
    part.add_argument("--ffn", type=int, default=14336)
    part.add_argument("--ram", default="12GiB", help="the bound to decode under")
    part.add_argument("--prompt", type=int, default=16, help="tokens to prefill, which fills the slots")
    part.add_argument("--tokens", type=int, default=32, help="tokens to decode")
    part.add_argument("--free-tokens", type=int, default=2, help="tokens to decode without --ram; 0: none")
    part.add_argument("--disk-gb", type=float, default=4, help="how much to read to measure the disk")
    part.add_argument("--threads", type=int)
    part.set_defaults(run=residency)


def main() -> None:
    parser = argparse.ArgumentParser(description="One decoding run; `release.py residency` starts it.")
    parser.add_argument("file", type=Path)
    for name in ("prompt", "tokens", "threads"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--ram")
    parser.add_argument("--ids", type=Path, help=".npy: the prompt and the tokens to decode")
    a = parser.parse_args()
    print(json.dumps(measure(a.file, a.ram, a.prompt, a.tokens, a.threads, a.ids)))


if __name__ == "__main__":
    main()
