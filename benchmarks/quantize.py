"""Our encoders beside ggml's, in one run: speed, errors, peak memory.

    python benchmarks/quantize.py --ggml /path/to/llama_cpp/lib/libggml-base.so [--threads 2] [--json FILE]
    python benchmarks/quantize.py --whole F16.gguf --llama-python /path/to/python    # whole conversions

Speeds are paired: for each type the two encoders alternate on the same weights, and the ratio of the medians
is printed, so a busy machine disturbs both alike. Errors are ours over ggml's: plain RMSE, and the weighted
error that ggml minimises (default weights, and under an importance); 1.000 means equal, less is better.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from quant.blocks import FORMATS
from quant.encode import quantize

TYPES = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "mxfp4", "q4_k", "q5_k", "q6_k")
COLS = 4096
RECORDED = (32, 2048)  # rows and columns of what --record measures


def ggml_encoder(path: Path) -> Callable[..., np.ndarray]:
    """ggml_quantize_chunk on a matrix, its rows divided among threads."""
    library = ctypes.CDLL(str(path))
    call = library.ggml_quantize_chunk
    call.restype = ctypes.c_size_t
    integers, pointer = [ctypes.c_int64] * 3, ctypes.c_void_p
    call.argtypes = [ctypes.c_int, pointer, pointer, *integers, pointer]
    library.ggml_quantize_init.argtypes = [ctypes.c_int]

    def encode(
        x: np.ndarray, name: str, importance: np.ndarray | None = None, threads: int = 1
    ) -> np.ndarray:
        kind = FORMATS[name]
        library.ggml_quantize_init(kind.ggml_type)
        out = np.empty((len(x), kind.row_bytes(x.shape[1])), np.uint8)
        weights = None if importance is None else importance.ctypes.data
        step = -(-len(x) // (4 * threads))

        def rows(at: int) -> None:
            count = min(step, len(x) - at)
            call(kind.ggml_type, x.ctypes.data, out.ctypes.data, at * x.shape[1], count, x.shape[1], weights)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(rows, range(0, len(x), step)))
        return out

    return encode


def datasets(rows: int, cols: int) -> dict[str, np.ndarray]:
    """The kinds of weights that the encoders must do well on."""
    rng = np.random.default_rng(0)
    outliers = np.where(rng.random(cols) < 0.01, 8, 1)
    return {
        "normal": (0.02 * rng.standard_normal((rows, cols))).astype(np.float32),
        "heavy tails": (0.02 * rng.standard_t(3, (rows, cols))).astype(np.float32),
        "outlier columns": (0.02 * rng.standard_normal((rows, cols)) * outliers).astype(np.float32),
        "laplace": (0.02 * rng.laplace(size=(rows, cols))).astype(np.float32),
        "uniform": (0.02 * rng.uniform(-1, 1, (rows, cols))).astype(np.float32),
        "shifted": (0.02 * rng.standard_normal((rows, cols)) + 0.03).astype(np.float32),
        "bfloat16": FORMATS["bf16"].decode(FORMATS["bf16"].encode(0.02 * rng.standard_normal((rows, cols)))),
        "constant": np.repeat(rng.uniform(-1, 1, rows), cols).reshape(rows, cols).astype(np.float32),
        "zero": np.zeros((rows, cols), np.float32),
    }


def column_importance(cols: int) -> np.ndarray:
    """Columns that differ in importance as those of trained models do, by a few times."""
    return np.exp(np.random.default_rng(9).normal(size=cols)).astype(np.float32)


def error_weights(x: np.ndarray, name: str, importance: np.ndarray | None) -> np.ndarray:
    """How ggml weights squared errors of this type."""
    x = x.astype(np.float64)
    if name in ("q4_k", "q5_k"):
        parts = x.reshape(-1, 8, 32)
        squares = parts * parts
        if importance is None:
            return (np.sqrt(squares.mean(-1, keepdims=True)) + np.abs(parts)).reshape(x.shape)
        spread = np.sqrt(2 * squares.mean((1, 2), keepdims=True) + squares).reshape(x.shape)
        return importance * spread
    if importance is None:
        return x * x if name in ("q6_k", "iq4_nl") else np.ones_like(x)
    if name in ("q6_k", "q8_0"):
        return np.broadcast_to(importance, x.shape)
    mean = (x * x).mean(-1, keepdims=True)
    if name == "iq4_nl":
        mean = 2 * np.repeat((x * x).reshape(len(x), -1, 32).mean(-1), 32, axis=-1)
    return importance * np.sqrt(mean + x * x)


def errors(encoded: np.ndarray, name: str, x: np.ndarray, importance: np.ndarray | None) -> dict[str, float]:
    """Roots of sums of squared errors: plain, as ggml weights them, and by importance if there is one."""
    kinds = {"rmse": np.ones(1), "weighted": error_weights(x, name, importance)}
    if importance is not None:
        kinds["importance"] = importance
    squares = (FORMATS[name].decode(encoded).astype(np.float64) - x) ** 2
    return {kind: float(np.sqrt((weight * squares).sum())) for kind, weight in kinds.items()}


def compare_errors(
    ggml: Callable[..., np.ndarray], name: str, x: np.ndarray, importance: Any
) -> dict[str, float]:
    """Ours over ggml's."""
    ours = errors(quantize(x, name, importance), name, x, importance)
    theirs = errors(ggml(x, name, importance), name, x, importance)
    return {k: 1.0 if ours[k] == v else ours[k] / v if v else float("inf") for k, v in theirs.items()}


def record(ggml: Callable[..., np.ndarray], path: Path) -> None:
    """ggml's errors on small matrices, for the test suite to hold ours against."""
    importance = column_importance(RECORDED[1])
    result = {
        f"{name}{label}/{data}": errors(ggml(x, name, weight), name, x, weight)
        for name in TYPES
        for label, weight in (("", None), (" +imatrix", importance))
        for data, x in datasets(*RECORDED).items()
    }
    path.write_text(json.dumps(result, indent=0) + "\n")


def compare_speed(
    ggml: Callable[..., np.ndarray], name: str, x: np.ndarray, importance: Any, threads: int, pairs: int
) -> dict[str, float]:
    """Million weights per second of both, alternating."""
    ours: list[float] = []
    theirs: list[float] = []
    quantize(x[:64], name, importance, threads=threads)  # compiles the kernel
    for _ in range(pairs):
        for times, encode in ((ours, quantize), (theirs, ggml)):
            start = time.perf_counter()
            encode(x, name, importance, threads=threads)
            times.append(time.perf_counter() - start)
    speed = [x.size / statistics.median(times) / 1e6 for times in (ours, theirs)]
    return {"ours": speed[0], "ggml": speed[1], "ratio": speed[0] / speed[1]}


LLAMA_QUANTIZE = """
import ctypes, sys, llama_cpp
params = llama_cpp.llama_model_quantize_default_params()
params.ftype, params.nthread = 15, int(sys.argv[3])
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(params)))
"""


def compare_whole(source: Path, python: str, threads: int, pairs: int) -> dict[str, Any]:
    """Seconds of both programs for a whole file to q4_k_m, alternating; each includes its start.

    The processor's seconds are the fairer ones on a machine that others use too.
    """
    seconds: dict[str, list[float]] = {"ours": [], "llama": [], "ours, CPU": [], "llama, CPU": []}
    with tempfile.TemporaryDirectory(dir=source.resolve().parent) as directory:
        out = Path(directory) / "out.gguf"
        end = [str(source), str(out), str(threads)]
        ours = [sys.executable, "-m", "localmoe", "quantize", str(source), "-o", str(out), "--force"]
        ours += ["--threads", str(threads)]
        commands = {"ours": ours, "llama": [python, "-c", LLAMA_QUANTIZE, *end]}
        for turn in range(pairs + 1):  # the first compiles our kernels and reads the source into memory
            for name, command in commands.items():
                start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
                subprocess.run(command, check=True, capture_output=True)
                if turn:
                    seconds[name].append(time.perf_counter() - start)
                    after = resource.getrusage(resource.RUSAGE_CHILDREN)
                    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                    seconds[name + ", CPU"].append(used)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for kind in ("", ", CPU"):
        ours_s, llama_s = medians["ours" + kind], medians["llama" + kind]
        print(
            f"whole file to q4_k_m{kind}: {ours_s:.1f} s, llama_model_quantize {llama_s:.1f} s:"
            f" {llama_s / ours_s:.2f} times as fast"
        )
    return {"source_bytes": source.stat().st_size, "seconds": seconds, "medians": medians}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ggml", type=Path, help="libggml-base.so; default: that of an installed llama_cpp")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--whole", type=Path, metavar="F16.gguf", help="compare whole conversions of it")
    parser.add_argument("--llama-python", default=sys.executable, help="a Python with llama_cpp, for --whole")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--record", type=Path, help="write ggml's errors for the test suite, and stop")
    arguments = parser.parse_args()
    if arguments.whole:
        whole = compare_whole(arguments.whole, arguments.llama_python, arguments.threads, arguments.pairs)
        if arguments.json:
            arguments.json.write_text(json.dumps(whole, indent=1) + "\n")
        return
    path = arguments.ggml
    if path is None:
        found = importlib.util.find_spec("llama_cpp")
        if found is None or found.origin is None:
            sys.exit("llama_cpp is not installed: say where libggml-base.so is, with --ggml")
        path = Path(found.origin).parent / "lib" / "libggml-base.so"
    ggml = ggml_encoder(path)
    if arguments.record:
        record(ggml, arguments.record)
        return
    importance = column_importance(COLS)
    report: dict[str, Any] = {"threads": arguments.threads, "types": {}}
    for name in arguments.types.split(","):
        rng = np.random.default_rng(1)
        x = (0.02 * rng.standard_normal((arguments.rows, COLS))).astype(np.float32)
        entry: dict[str, Any] = {"errors": {}}
        for label, weight in (("", None), (" +imatrix", importance)):
            entry["speed" + label] = speed = compare_speed(
                ggml, name, x, weight, arguments.threads, arguments.pairs
            )
            print(
                f"{name + label:16} {speed['ours']:8.1f} M weights/s, ggml {speed['ggml']:7.1f}:"
                f" {speed['ratio']:6.2f} times as fast"
            )
            for data, weights in datasets(128, COLS).items():
                ratios = compare_errors(ggml, name, weights, weight)
                entry["errors"][data + label] = ratios
                worse = "  WORSE" if max(ratios.values()) > 1.0005 else ""
                print(
                    f"    {data:16}", "  ".join(f"{k} {v:.4f}" for k, v in ratios.items()) + worse, flush=True
                )
        report["types"][name] = entry
    report["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak memory {report['peak_rss_bytes'] / 1e9:.2f} GB (the matrices and both encoders' results)")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
