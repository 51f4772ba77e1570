"""Checks before a release that are too large for the test suite; each prints what it found and can write
JSON.

    python benchmarks/release.py conversion --gb 20 --kills 10 --directory /big/disk [--json FILE]
    python benchmarks/release.py residency --ram 12GiB --directory /big/disk [--json FILE]

`conversion` makes a synthetic F16 Mixtral of that size, converts it to q4_k_m once without interruption and
once killed (SIGKILL) at random moments and given again after each, and compares the bytes. It reports the
peak resident memory beside its bound, and the throughput. Room is needed for the source and two outputs:
about 1.7 times its size. `residency` decodes a 28 GB model under a bound on memory, and explains the rate by
the disk and the hit rate (`release_residency.py`). `--note` goes into the JSON: say there what else ran on
the machine.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from release_residency import add_arguments

HIDDEN, FFN, HEADS, KV_HEADS, EXPERTS, VOCABULARY = 4096, 14336, 32, 8, 8, 512
LAYER_BYTES = 2 * (EXPERTS * 3 * HIDDEN * FFN + 2 * HIDDEN * HIDDEN + 2 * HIDDEN * 1024)
SHARD_BYTES = 5 << 30
POOL = 1 << 25  # random weights that all tensors are cut from, at different places
MEMORY_BOUND = 1_500_000_000  # and one expert's largest tensor, whatever the model's size


def make_source(directory: Path, gigabytes: float) -> None:
    """Write a Mixtral directory of about that size in F16."""
    directory.mkdir(parents=True)
    layers = max(1, round(gigabytes * 1e9 / LAYER_BYTES))
    ffn = FFN
    if gigabytes * 1e9 < LAYER_BYTES:  # less than one full layer: narrower experts
        ffn = max(256, int(FFN * gigabytes * 1e9 / LAYER_BYTES) // 256 * 256)
    rng = np.random.default_rng(0)
    pool = (0.02 * rng.standard_normal(POOL + (1 << 20), dtype=np.float32)).astype(np.float16)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(layers):
        at = f"model.layers.{layer}."
        shapes |= {at + f"{n}_layernorm.weight": (HIDDEN,) for n in ("input", "post_attention")}
        shapes |= {at + f"self_attn.{n}_proj.weight": (HIDDEN, HIDDEN) for n in "qo"}
        shapes |= {at + f"self_attn.{n}_proj.weight": (1024, HIDDEN) for n in "kv"}
        shapes[at + "block_sparse_moe.gate.weight"] = (EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            name = f"{at}block_sparse_moe.experts.{expert}."
            shapes |= {name + "w1.weight": (ffn, HIDDEN), name + "w3.weight": (ffn, HIDDEN)}
            shapes[name + "w2.weight"] = (HIDDEN, ffn)
    shapes |= {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}
    weight_map: dict[str, str] = {}
    shard: dict[str, tuple[int, ...]] = {}
    shards: list[dict[str, tuple[int, ...]]] = []
    for name, shape in shapes.items():
        shard[name] = shape
        if sum(2 * int(np.prod(s)) for s in shard.values()) > SHARD_BYTES:
            shards.append(shard)
            shard = {}
    shards += [shard] if shard else []
    for number, part in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        weight_map |= dict.fromkeys(part, file)
        _write_shard(directory / file, part, pool, number)
    config = {
        "model_type": "mixtral", "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": ffn,
        "num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
        "num_local_experts": EXPERTS, "num_experts_per_tok": 2, "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5, "rope_theta": 1e6,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (directory / "tokenizer.model").write_bytes(_tokenizer())


def _write_shard(path: Path, shapes: dict[str, tuple[int, ...]], pool: np.ndarray, seed: int) -> None:
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    encoded = json.dumps(header).encode()
    rng = random.Random(seed)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for shape in shapes.values():
            left = int(np.prod(shape))
            while left:
                start = rng.randrange(1 << 20)
                piece = pool[start : start + min(left, POOL)]
                file.write(piece.data)
                left -= len(piece)


def _tokenizer() -> bytes:
    """A SentencePiece model of words that mean nothing: fields of a protocol buffer."""

    def field(number: int, data: bytes) -> bytes:
        length = bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 127 | 128, len(data) >> 7])
        return bytes([number << 3 | 2]) + length + data

    kinds = {0: 2, 1: 3, 2: 3}
    pieces = [
        field(1, f"w{i}".encode()) + b"\x15" + struct.pack("<f", -i) + bytes([3 << 3, kinds.get(i, 1)])
        for i in range(VOCABULARY)
    ]
    return b"".join(field(1, p) for p in pieces) + field(2, bytes([3 << 3, 2]))


def digest(path: Path) -> str:
    """Of a file's contents, without reading it into memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def command(source: Path, out: Path, threads: int) -> list[str]:
    """The conversion as a user gives it."""
    program = [sys.executable, "-m", "localmoe", "quantize", str(source), "-o", str(out)]
    return [*program, "-t", "q4_k_m", "--threads", str(threads), "--json"]


def conversion(arguments: argparse.Namespace) -> dict[str, Any]:
    """Memory, throughput, and identical bytes after being killed."""
    work = Path(arguments.directory) / f"localmoe-release-{os.getpid()}"
    whole, killed = work / "whole.gguf", work / "killed.gguf"
    work.mkdir(parents=True)
    try:
        source = arguments.source or work / "source"
        if not arguments.source:
            make_source(source, arguments.gb)
        size = sum(path.stat().st_size for path in source.glob("*.safetensors"))
        print(f"source: {size / 1e9:.2f} GB", flush=True)
        start = time.monotonic()
        done = subprocess.run(command(source, whole, arguments.threads), stdout=subprocess.PIPE, check=True)
        seconds = time.monotonic() - start
        print(
            f"converted in {seconds:.1f} s: {size / 2 / seconds / 1e6:.0f} M weights/s,"
            f" {size / seconds / 1e6:.0f} MB/s",
            flush=True,
        )
        again = command(source, killed, arguments.threads)
        kills = kill_often(again, killed, whole.stat().st_size, arguments.kills, arguments.seed)
        last = subprocess.run(again, stdout=subprocess.PIPE, check=True)
        same = digest(killed) == digest(whole)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024  # the most of all runs
        bound = MEMORY_BOUND + 2 * HIDDEN * FFN
        print("identical bytes" if same else "FAILED: the bytes differ")
        print(f"peak memory {peak / 1e9:.2f} GB, bound {bound / 1e9:.2f} GB", flush=True)
        return {
            "source_bytes": size,
            "output_bytes": whole.stat().st_size,
            "threads": arguments.threads,
            "seconds": round(seconds, 1),
            "weights_per_s": round(size / 2 / seconds),
            "bytes_per_s": round(size / seconds),
            "peak_rss_bytes": peak,
            "memory_bound_bytes": bound,
            "bits_per_weight": json.loads(done.stdout)["bits_per_weight"],
            "kills": len(kills),
            "killed_at": kills,
            "resumed_tensors_at_last": json.loads(last.stdout)["resumed_tensors"],
            "identical": same,
            "passed": same and peak <= bound and len(kills) == arguments.kills,
        }
    finally:
        shutil.rmtree(work, ignore_errors=True)


def kill_often(command: list[str], out: Path, size: int, times: int, seed: int) -> list[dict[str, float]]:
    """Give the command `times` times, and kill it each time at a random moment of the conversion.

    A moment is a share of the output's `size`, so that all come while it runs, however fast the machine is.
    """
    rng = random.Random(seed)
    journal, kills = out.with_name(out.name + ".journal"), []
    for number, moment in enumerate(sorted(rng.uniform(0, 0.98) for _ in range(times)), 1):
        start = time.monotonic()
        written = kill_at(command, out, int(moment * size))
        if out.exists():
            raise SystemExit(f"FAILED: {out.name} has its final name before it was finished")
        recorded = max(0, len(journal.read_bytes().splitlines()) - 1) if journal.exists() else 0
        after = round(time.monotonic() - start, 1)
        kills.append({"after_s": after, "bytes_written": written, "tensors_recorded": recorded})
        print(f"kill {number} after {after} s: {written / 1e6:.0f} MB, {recorded} tensors", flush=True)
    return kills


def kill_at(command: list[str], out: Path, written: int) -> int:
    """Start the command and kill it once it has written so many bytes; how many there are then."""
    partial = out.with_name(out.name + ".partial")
    before = partial.stat() if partial.exists() else None
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        while child.poll() is None:
            now = partial.stat() if partial.exists() else None
            own = now is not None and (before is None or now.st_mtime_ns != before.st_mtime_ns)
            if own and now is not None and now.st_size >= written:
                child.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        else:
            raise SystemExit("FAILED: the conversion ended before it could be killed")
    return partial.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("conversion", help="memory bound, kill -9 and resume")
    part.add_argument("--gb", type=float, default=20, help="size of the F16 source")
    part.add_argument("--source", type=Path, help="instead of making one")
    part.add_argument("--kills", type=int, default=10)
    part.add_argument("--threads", type=int, default=2)
    part.add_argument("--seed", type=int, default=0, help="of the moments")
    part.set_defaults(run=conversion)
    add_arguments(parts.add_parser("residency", help="a model larger than memory"))
    for each in parts.choices.values():
        each.add_argument("--directory", default=".", help="where there is room")
        each.add_argument("--note", default="", help="for the JSON: what else the machine was doing")
        each.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    report = {"date": datetime.date.today().isoformat(), "machine": machine(), "note": arguments.note}
    report["command"] = f"python benchmarks/release.py {' '.join(_without_places(sys.argv[1:]))}"
    report |= arguments.run(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    if not report["passed"]:
        sys.exit(1)


def _without_places(given: list[str]) -> list[str]:
    """The command line less the options whose value is a path of this machine, or the note."""
    own = ("--directory", "--note", "--json", "--file", "--source")
    before = ["", *given[:-1]]
    return [
        word for word, last in zip(given, before, strict=True)
        if word.partition("=")[0] not in own and last not in own
    ]  # fmt: skip


def machine() -> str:
    """Processor, cores and memory, as far as the system tells."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{(names or [platform.machine()])[0]}, {os.cpu_count()} cores, {memory:.0f} GiB"


if __name__ == "__main__":
    main()
