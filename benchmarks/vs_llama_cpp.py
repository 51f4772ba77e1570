"""Ours beside llama.cpp on the same files, in one run: speed in alternating pairs, and agreement of logits.

    python benchmarks/vs_llama_cpp.py --peer PEER/bin/python [--models DIR] [FILE.gguf ...]

PEER is an environment with llama-cpp-python. Both sides load a file, warm up, and take turns five times on
the same random token ids; medians and ratios are printed and written to benchmarks/results/cpu.json.
llama.cpp runs with weight repacking on and off, and the better of the two, for prefill and for decode, is
what we are compared with. Run it on a machine that does nothing else.
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

import numpy as np
from peer_process import Peer

import localmoe
from localmoe.kernels.bandwidth import ReadProbe, read_bandwidth
from localmoe.kernels.cores import usable_cores
from localmoe.kernels.simd import FORM
from localmoe.measure import (
    Stretch,
    bytes_read,
    decode_rate,
    decode_stretches,
    prefill_seconds,
    random_ids,
    share_of_bandwidth,
)

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "cpu.json"
SYNTHETIC = {
    "3b-q2_k": ["--type", "q2_k"], "3b-q3_k": ["--type", "q3_k"], "3b-iq4_xs": ["--type", "iq4_xs"],
    "3b-q4_k": ["--type", "q4_k"], "3b-q5_k": ["--type", "q5_k"], "3b-q6_k": ["--type", "q6_k"],
    "3b-q4_0": ["--type", "q4_0"], "3b-q8_0": ["--type", "q8_0"], "3b-q4_k_m": ["--recipe", "q4_k_m"],
    "wide-q4_k_m": ["--recipe", "q4_k_m", "--hidden", "4096", "--ffn", "14336", "--layers", "2",
                    "--heads", "32", "--kv", "8"],
    "qwen-q4_k_m": ["--recipe", "q4_k_m", "--architecture", "qwen3moe", "--ffn", "768", "--experts", "128",
                    "--used", "8", "--heads", "32", "--head", "128", "--repeat"],  # 8 layers of Qwen3-30B-A3B
    "oss-mxfp4": ["--recipe", "mxfp4", "--architecture", "gpt-oss", "--hidden", "2880", "--ffn", "2880",
                  "--experts", "32", "--used", "4", "--heads", "64", "--head", "64", "--kv", "8",
                  "--repeat"],  # 8 layers of gpt-oss-20b
}  # fmt: skip


def measure_ours(
    model: localmoe.Model, ids: list[int], prompt: int, probe: ReadProbe
) -> tuple[dict[str, float], list[Stretch]]:
    """Rates in tokens/s, and the decoding in stretches, with the memory's rate around each."""
    decoder = model.decoder()
    prefill = prefill_seconds(decoder, ids[:prompt])
    stretches = decode_stretches(decoder, ids[prompt:], probe)
    return {"prefill": prompt / prefill, "decode": decode_rate(stretches)}, stretches


def drop_from_page_cache(file: Path) -> None:
    """Has both programs map the file as after a start of the system: Linux keeps what was written a moment
    ago, or was read by several at once, in smaller pieces than what one read, which costs either of them
    some per cent.
    """
    if hasattr(os, "posix_fadvise"):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def compare_speed(
    python: str, file: Path, prompt: int, generate: int, threads: int, pairs: int
) -> dict[str, Any]:
    """Medians of ours and of both of llama.cpp's settings, and the ratios pair by pair against the better
    one.
    """
    context = min(prompt + generate + 8, 32768)
    drop_from_page_cache(file)
    rows: dict[str, list[dict[str, float]]] = {"ours": [], "repack": [], "no_repack": []}
    stretches: list[Stretch] = []
    with localmoe.load(file, threads=threads, context=context, learn=False) as model:
        ids = random_ids(model, prompt + generate)
        read, probe = bytes_read(model, prompt, generate), ReadProbe(model.compute.pool)
        prefill_seconds(model.decoder(), ids[:prompt])  # reads the whole file, before anybody else does
        peers = {name: Peer(python, "speed", file, prompt=prompt, generate=generate, threads=threads,
                            repack=flag)
                 for name, flag in (("repack", 1), ("no_repack", 0))}  # fmt: skip
        try:
            for turn in range(pairs + 1):
                ours, decoded = measure_ours(model, ids, prompt, probe)
                rows["ours"].append(ours)
                stretches += decoded
                for name, peer in peers.items():
                    rows[name].append(peer.measure())
                if not turn:
                    rows, stretches = {name: [] for name in rows}, []  # the first was the warm-up
        finally:
            for peer in peers.values():
                peer.close()
    result: dict[str, Any] = {
        "file": file.stem, "threads": threads, "prompt": prompt, "generate": generate, "pairs": pairs
    }  # fmt: skip
    for what in ("prefill", "decode"):
        medians = {name: statistics.median(row[what] for row in rows[name]) for name in rows}
        better = max(("repack", "no_repack"), key=lambda name: medians[name])
        ratios = [mine[what] / theirs[what] for mine, theirs in zip(rows["ours"], rows[better], strict=True)]
        result[what] = {
            "ours": medians["ours"], "llama_cpp": medians[better], "llama_cpp_setting": better,
            "llama_cpp_default": medians["repack"], "ratio": statistics.median(ratios),
            "ratios": sorted(ratios),
        }  # fmt: skip
    result["read_gbps"] = read * result["decode"]["ours"] / 1e9
    result["memory_gbps"] = statistics.median(s.bandwidth for s in stretches)
    result["steady"] = f"steady in {sum(s.steady for s in stretches)} of {len(stretches)} stretches"
    result["share_of_bandwidth"] = share_of_bandwidth(stretches, read)
    result["stretches"] = [
        {"memory_gbps": round(s.bandwidth, 1), "steady": s.steady,
         "share": round(share_of_bandwidth([s], read), 3)} for s in stretches
    ]  # fmt: skip
    return result


def compare_logits(python: str, file: Path, tokens: int = 64) -> dict[str, Any]:
    """Per-token correlation of the logits, and how often both choose the same token."""
    with tempfile.TemporaryDirectory() as folder:
        ids_file, out = Path(folder) / "ids.npy", Path(folder) / "out.npy"
        with localmoe.load(file, context=max(64, tokens), learn=False) as model:
            ids = [model.tokenizer.bos_id or 1, *random_ids(model, tokens - 1)]
            ours = model.logits(ids)
        np.save(ids_file, np.array(ids))
        subprocess.run(
            [python, str(HERE / "llama_cpp_peer.py"), "logits", str(file), str(ids_file), str(out)],
            check=True, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        theirs = np.load(out)
    correlation = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(ours, theirs, strict=True)])
    return {
        "median": float(np.median(correlation)), "p10": float(np.percentile(correlation, 10)),
        "same_argmax": float((ours.argmax(1) == theirs.argmax(1)).mean()), "tokens": tokens,
    }  # fmt: skip


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("files", nargs="*", type=Path, help="GGUF files [default: demo, synthetic]")
    p.add_argument("--peer", required=True, help="python of an environment with llama-cpp-python")
    p.add_argument("--models", type=Path, default=Path(tempfile.gettempdir()) / "localmoe-synthetic")
    p.add_argument("--only", nargs="*", help="names of synthetic models")
    p.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    p.add_argument("--prompts", nargs="*", type=int, default=[512, 2048])
    p.add_argument("--generate", type=int, default=32)
    p.add_argument("--pairs", type=int, default=5)
    p.add_argument("--no-logits", action="store_true")
    p.add_argument("--no-speed", action="store_true")
    p.add_argument("--append", action="store_true", help="add to the rows that the output file holds")
    p.add_argument("--out", type=Path, default=RESULTS)
    a = p.parse_args()
    machine = {
        "cpu": platform.processor() or platform.machine(), "simd": FORM, "cores": usable_cores(),
        "date": time.strftime("%Y-%m-%d"),
        "read_gbps": {str(n): round(read_bandwidth(n), 1) for n in a.threads},
    }  # fmt: skip
    report: dict[str, Any] = {"machine": machine, "speed": [], "logits": []}
    if a.append and a.out.exists():
        report = json.loads(a.out.read_text())
    for file in a.files or _default_files(a.models, a.only):
        if not a.no_logits:
            report["logits"].append({"file": file.stem, **compare_logits(a.peer, file)})
            print(json.dumps(report["logits"][-1]), flush=True)
        if a.no_speed:
            continue
        most = localmoe.load(file, learn=False)
        limit = most.config.context - a.generate - 8
        most.close()
        for threads in a.threads:
            for prompt in sorted({min(prompt, limit) for prompt in a.prompts}):
                row = compare_speed(a.peer, file, prompt, a.generate, threads, a.pairs)
                report["speed"].append(row)
                for what in ("prefill", "decode"):
                    r = row[what]
                    peer = f"llama.cpp {r['llama_cpp']:8.1f} ({r['llama_cpp_setting']})"
                    line = f"{file.stem:<14} {threads} threads {what:>8} {prompt:>5}: ours {r['ours']:8.1f}"
                    print(f"{line}  {peer}  ratio {r['ratio']:.2f}", flush=True)
                share = f"{row['share_of_bandwidth']:.2f} of the memory's {row['memory_gbps']:.0f} GB/s"
                print(f"{'':<14} decoding reads {share} ({row['steady']})", flush=True)
                save(a.out, report)
    save(a.out, report)
    if report["speed"]:
        plot(report["speed"], a.out.with_suffix(".png"))


def save(out: Path, report: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Ratios as bars, one group per file; a line where both are equal."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["file"] for row in rows))
    series = sorted({(what, row["threads"], row["prompt"]) for row in rows for what in ("decode", "prefill")})
    figure = Figure(figsize=(2.0 + 1.6 * len(names), 4.2), layout="constrained")
    axes, width = figure.subplots(), 0.84 / len(series)
    for n, (what, threads, prompt) in enumerate(series):
        found = {row["file"]: row[what]["ratio"] for row in rows
                 if (row["threads"], row["prompt"]) == (threads, prompt)}  # fmt: skip
        at = [names.index(name) + (n - len(series) / 2 + 0.5) * width for name in found]
        label = f"{what}, {prompt} tokens, {threads} thread{'s' if threads > 1 else ''}"
        axes.bar(at, list(found.values()), width, label=label)
    axes.axhline(1, color="black", linewidth=1)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("times llama.cpp's better setting")
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)


def _default_files(folder: Path, only: list[str] | None) -> list[Path]:
    """The demo model and the synthetic ones, written where they do not exist yet."""
    from localmoe.catalogue import demo_path

    folder.mkdir(parents=True, exist_ok=True)
    files = [] if only else [demo_path()]
    for name, options in SYNTHETIC.items():
        if only and name not in only:
            continue
        file = folder / f"{name}.gguf"
        if not file.exists():
            subprocess.run([sys.executable, str(HERE / "synthetic.py"), str(file), *options], check=True)
        files.append(file)
    return files


if __name__ == "__main__":
    main()
