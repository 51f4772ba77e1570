"""Everything that needs a GPU, in one command of at most nine minutes:

    python benchmarks/gpu_suite.py [--part kernels|parity|speed|prefill|large]... [--out
    benchmarks/results/gpu.json]
    TRITON_INTERPRET=1 python benchmarks/gpu_suite.py --dry --out /tmp/dry.json       no GPU: proves that the
    script works

Needs torch, triton, numpy, numba, sentencepiece, safetensors, click and rich. Each part writes its results as
soon as it has
them. A part that fails is recorded with its error, and the others go on.

    kernels   every kernel against NumPy, in GPU memory and over the bus; matvec bandwidth, with tile
    alternatives; bus, CPU
    parity    a tiny Mixtral: logits beside the CPU's; 500 tokens at a quarter of the slots, in each mode
    speed     Mixtral 8x7B: tokens/s by budget and mode beside design section 6's formula and a static split
    by layers
    prefill   2,048 tokens with cold experts: share of the bus's bandwidth
    large     Mixtral 8x22B, as many layers as fit
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/gpu"), str(ROOT / "tests/model"), str(ROOT / "benchmarks")]

import gpu_synthetic as synthetic  # noqa: E402

from localmoe.kernels.gpu_launch import Launcher, Tiles  # noqa: E402
from localmoe.kernels.matrix import Matrix  # noqa: E402

PARTS = ("kernels", "parity", "speed", "prefill", "large")
GIB = 1 << 30


class Suite:
    def __init__(self, dry: bool, out: Path) -> None:
        self.dry, self.out, self.device = dry, out, "cpu" if dry else "cuda"
        self.results: dict[str, Any] = {
            "measured": not dry,
            "device": "interpreter" if dry else torch.cuda.get_device_name(),
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            "torch": torch.__version__,
        }
        self._models: dict[str, synthetic.Synthetic] = {}

    def note(self, part: str, name: str, value: Any) -> None:
        """Records and writes at once."""
        self.results.setdefault(part, {})[name] = value
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(self.results, indent=1) + "\n")
        print(f"{part}: {name}: {value}", flush=True)

    def model(self, size: synthetic.Size) -> synthetic.Synthetic:
        if size.name not in self._models:
            self._models = {size.name: synthetic.Synthetic(size, pin=not self.dry)}
        return self._models[size.name]

    def seconds(self, work: Any, repeats: int = 20) -> float:
        """Median seconds of `work()` on the device."""
        work()
        if self.dry:
            begin = time.perf_counter()
            work()
            return time.perf_counter() - begin
        times = []
        for _ in range(repeats):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        return statistics.median(times)

    # ------------------------------------------------------------ kernels
    def kernels(self) -> None:
        import kernel_checks

        names = ["norm_and_embed", "route"] if self.dry else None
        kernel_checks.run(self.device, names, lambda line: self.note("kernels", f"check {line.split(':')[0]}",
            "right"))
        self.bandwidths()
        # together far beyond the L2 cache
        hidden, ffn, copies = (256, 512, 2) if self.dry else (4096, 14336, 24)
        alternatives = [Tiles()] if self.dry else [
            replace(Tiles(), rows=r, warps=w, words=words) for r in (2, 4, 8) for w,
            words in ((4, 512), (8, 1024), (4, 256))
        ]  # fmt: skip
        for kind in ("q4_k", "q6_k"):
            for cols, rows in ((hidden, ffn), (ffn, hidden)):
                data = torch.from_numpy(synthetic.random_rows(rows, cols, kind,
                    np.random.default_rng(0))).to(self.device)
                many = data.repeat(copies, 1, 1)
                x, y = torch.randn(cols, device=self.device), torch.empty(rows, device=self.device)
                best = {}
                for tiles in alternatives:
                    launch = Launcher(self.dry, None if self.dry else tiles)
                    matrices = [Matrix(int(m.data_ptr()), rows, cols, kind) for m in many]

                    def work(launch: Launcher = launch, matrices: list[Matrix] = matrices, x: Any = x,
                        y: Any = y) -> None:
                        for m in matrices:
                            launch.linear(x, y, m)

                    took = self.seconds(self.graph(work))
                    best[f"rows {tiles.rows}, warps {tiles.warps}, words {tiles.words}"] = many.numel(
                        ) / took / 1e9
                self.note("kernels", f"matvec {kind} {rows}x{cols} GB/s",
                    {k: round(v, 1) for k, v in best.items()})

    def graph(self, work: Any) -> Any:
        """`work` as a recorded graph, so that launches cost nothing."""
        if self.dry:
            return work
        work()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        return graph.replay

    def bandwidths(self) -> dict[str, float]:
        """Bg, Bp, Bc, Bd of design section 6, GB/s."""
        found = self.results.get("bandwidth_GBps")
        if found:
            return dict(found)
        size = 1 << 20 if self.dry else GIB
        a = torch.empty(size, dtype=torch.uint8, device=self.device)
        b = torch.empty_like(a)
        host = torch.zeros(size, dtype=torch.uint8)
        host = host if self.dry else host.pin_memory()
        bg = 2 * size / self.seconds(lambda: b.copy_(a)) / 1e9
        bp = size / self.seconds(lambda: a.copy_(host, non_blocking=True)) / 1e9
        other = torch.zeros_like(host)
        begin = time.perf_counter()
        for _ in range(4):
            other.copy_(host)
        bd = 8 * size / (time.perf_counter() - begin) / 1e9
        bc = self.cpu_bandwidth()
        found = {k: round(v, 4) for k, v in (("Bg", bg), ("Bp", bp), ("Bc", bc), ("Bd", max(bd, bc)))}
        self.results["bandwidth_GBps"] = found
        self.note("kernels", "bandwidth GB/s", found)
        return found

    def cpu_bandwidth(self) -> float:
        """The CPU worker's rate on cold experts, asked as the GPU asks it."""
        from localmoe.kernels import handshake_layout as L

        model = self.model(synthetic.TINY if self.dry else synthetic.MIXTRAL_8X7B)
        s, residency = model.size, model.open(self.device, [0] * len(model.layout.classes), 1, 64).residency
        region = residency.worker.region
        header = np.ctypeslib.as_array((synthetic_int * 3).from_address(region.address + L.HEADER))
        ids, ranks = ((synthetic_int * 2).from_address(region.address + at) for at in (L.IDS, L.RANKS))
        moved, rounds = 0, 2 if self.dry else 3 * s.layers
        residency.worker.begin_step()
        begin = time.perf_counter()
        for turn in range(rounds):
            layer = turn % s.layers
            header[:] = layer, 2, 0
            ids[:], ranks[:] = [turn % s.experts, (turn + 1) % s.experts], [0, 1]
            region.set_flag(L.POSTED, turn + 1)
            while region.flag(L.DONE) != turn + 1 and time.perf_counter() - begin < 60:
                pass
            moved += 2 * int(model.layout.expert_bytes[layer])
        took = time.perf_counter() - begin
        residency.worker.end_step()
        residency.close()
        return moved / took / 1e9

    # ------------------------------------------------------------ parity
    def parity(self) -> None:
        import tempfile

        import model_parity

        with tempfile.TemporaryDirectory() as directory:
            case = model_parity.Case(directory)
            case.device = self.device
            steps = 2 if self.dry else 500
            ids = np.random.default_rng(9).integers(3, 320, steps + 2).tolist()
            wanted = case.reference(ids[:2], ids[2:12])
            resident, _ = case.run(ids[:2], ids[2:], prefill=False, context=steps + 12)
            count = min(len(wanted), len(resident) - 1)
            spread = np.abs(wanted).max()
            self.note("parity", "logits, greatest error beside the CPU's greatest", float(
                np.abs(resident[1 : 1 + count] - wanted[:count]).max() / spread))  # fmt: skip
            for mode in ("stream", "cpu", "split"):
                got, status = case.run(ids[:2], ids[2:], slots=2, mode=mode, prefill=False,
                    context=steps + 12)
                self.note("parity", f"{steps} tokens, {mode}", {
                    "same bits": bool(np.array_equal(got, resident)), "hit rate": status["hit_rate"],
                    "greatest error": float(np.abs(got - resident).max() / spread),
                    "same greedy choice": float((got.argmax(1) == resident.argmax(1)).mean()),
                })  # fmt: skip

    # ------------------------------------------------------------ speed
    def speed(self) -> None:
        if self.dry:
            self.table("speed", synthetic.TINY, {"little": [1, 1]}, 2, 1)
            return
        model = self.model(synthetic.MIXTRAL_8X7B)
        budgets = {f"{g} GiB": model.slots_for(g * GIB, 2048) for g in (8, 12, 16, 24)}
        budgets["unlimited"] = model.slots_for(1 << 60, 2048)
        self.table("speed", synthetic.MIXTRAL_8X7B, budgets, 40, 120)

    def table(self, part: str, size: synthetic.Size, budgets: dict[str, list[int]], steps: int,
        warm: int) -> None:
        model = self.model(size)
        for name, slots in budgets.items():
            share = sum(slots) / (size.layers * size.experts)
            modes = ["stream"] if share == 1.0 else ["static", "stream", "cpu", "split", "auto"]
            for mode in modes:
                runtime = model.open(self.device, slots, 1, 2048 if not self.dry else 256,
                                     0 if mode == "static" else None, spread=mode != "static")  # fmt: skip
                try:
                    self.note(part, f"{name}, {mode}", self.rate(runtime, model, mode, steps, warm, share))
                finally:
                    runtime.close()

    def rate(self, runtime: Any, model: Any, mode: str, steps: int, warm: int, share: float) -> dict[str,
        Any]:
        """Tokens/s of decoding, and beside the formula for the hit rate that was measured."""
        bands = self.bandwidths()
        if mode == "auto":
            from localmoe.model.gpu_auto import ModeChooser

            runtime.chooser = ModeChooser()
            runtime.residency.set_mode(runtime.chooser.current.mode)
        else:
            split = bands["Bp"] / (bands["Bp"] + bands["Bc"])
            runtime.residency.set_mode({"static": "cpu"}.get(mode, mode), split)
        decoder = runtime.decoder(256 if self.dry else 2048)
        for token in range(warm):
            decoder.extend([token % 300])
        before = runtime.residency.status()
        times = []
        for token in range(steps):
            begin = time.perf_counter()
            decoder.extend([token % 300])
            times.append(time.perf_counter() - begin)
        after = runtime.residency.status()
        hits, misses = after["hits"] - before["hits"], after["misses"] - before["misses"]
        rate, seconds = hits / max(1, hits + misses), statistics.median(times)
        actual = after["mode"]
        expected = formula(model, bands, rate, actual if mode != "static" else "static", share)
        return {
            "tokens_per_s": round(1 / seconds, 2), "hit_rate": round(rate, 3), "mode": actual,
            "resident": round(share, 3),
            "formula_tokens_per_s": round(1 / expected, 2),
            "measured_over_formula": round(expected / seconds, 3),
        }  # fmt: skip

    # ------------------------------------------------------------ prefill
    def prefill(self) -> None:
        size = synthetic.TINY if self.dry else synthetic.MIXTRAL_8X7B
        model, tokens = self.model(size), 24 if self.dry else 2048
        slots = [0] * len(model.layout.classes)
        runtime = model.open(self.device, slots, tokens, 256 if self.dry else 4096)
        try:
            decoder = runtime.decoder(256 if self.dry else 4096)
            ids = np.random.default_rng(2).integers(3, 300, tokens).tolist()
            decoder.extend(ids[: tokens // 2])  # compiles
            decoder.rewind(0)
            begin = time.perf_counter()
            decoder.extend(ids)
            took = time.perf_counter() - begin
            moved = model.layout.total_bytes
            self.note("prefill", f"{tokens} tokens, no expert resident", {
                "tokens_per_s": round(tokens / took, 1), "seconds": round(took, 3),
                "expert_GB": round(moved / 1e9, 2),
                "share_of_bus": round(moved / took / 1e9 / self.bandwidths()["Bp"], 3),
            })  # fmt: skip
        finally:
            runtime.close()

    def large(self) -> None:
        if self.dry:
            return
        # what a machine of 128 GB can pin beside everything else
        size = replace(synthetic.MIXTRAL_8X22B, layers=16)
        model = self.model(size)
        budgets = {"a third": [int(0.33 * len(c.layers) * size.experts) for c in model.layout.classes]}
        budgets["all"] = [len(c.layers) * size.experts for c in model.layout.classes]
        self.table("large", size, budgets, 40, 60)


synthetic_int = np.ctypeslib.as_ctypes_type(np.int32)


def formula(model: Any, bands: dict[str, float], hit_rate: float, mode: str, share: float) -> float:
    """Seconds per token by design section 6, for two experts per layer."""
    bg, bp, bc, bd = (bands[k] * 1e9 for k in ("Bg", "Bp", "Bc", "Bd"))
    layers = model.size.layers
    a = 2 * float(model.layout.expert_bytes.sum())
    d = float(sum(x.nbytes for x in model.kept)) - model.weights.embedding.nbytes
    if mode == "static":
        return d / bg + share * a / bg + (1 - share) * a / bc
    x = {"stream": bp, "cpu": bc, "split": min(bp + bc, bd)}[mode]
    e, m = a / 2 / layers, 1 - hit_rate
    odds = ((1 - m) ** 2, 2 * m * (1 - m), m * m)
    return d / bg + layers * sum(p * max((2 - k) * e / bg, k * e / x) for k, p in enumerate(odds))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS, help="only these (default: all)")
    parser.add_argument("--dry", action="store_true", help="tiny shapes in Triton's interpreter")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/gpu.json")
    given = parser.parse_args()
    if not given.dry and not torch.cuda.is_available():
        print("no CUDA device: use --dry with TRITON_INTERPRET=1 to try the script", file=sys.stderr)
        return 2
    suite, failed = Suite(given.dry, given.out), 0
    for part in given.part or PARTS:
        begin = time.perf_counter()
        try:
            getattr(suite, part)()
        except Exception as error:  # the other parts are worth having
            traceback.print_exc()
            suite.note(part, "error", f"{type(error).__name__}: {error}")
            failed += 1
        suite.note("seconds", part, round(time.perf_counter() - begin, 1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
