"""Everything that needs a GPU, in one command of at most nine minutes:

    python benchmarks/gpu_suite.py [--part NAME]... [--layers N] [--out benchmarks/results/gpu.json]
    TRITON_INTERPRET=1 python benchmarks/gpu_suite.py --dry --out /tmp/dry.json       no GPU: proves that the
    script works

Needs torch, triton, numpy, numba, sentencepiece, safetensors, click and rich. Each part writes its results as
soon as it has them. A part that fails is recorded with its error, and the others go on.

    kernels   every kernel against NumPy, in GPU memory and over the bus (processes side by side); then
              bandwidths of GPU memory, bus and CPU, and of matvecs with other tiles
    parity    a tiny Mixtral: logits beside the CPU's; 500 tokens at a quarter of the slots, in each mode
    speed     Mixtral 8x7B: tokens/s by budget and mode beside design section 6's formula and a static split
              by layers
    profile   where a decoded token's time goes, by kernel, all experts resident
    prefill   2,048 tokens with cold experts: share of the bus's bandwidth; and with all resident
    large     Mixtral 8x22B, as many layers as fit
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/gpu"), str(ROOT / "tests/model"), str(ROOT / "benchmarks")]

# folders of its own: what was learned before would change the measurement
for name in ("LOCALMOE_CACHE_DIR", "LOCALMOE_DATA_DIR", "LOCALMOE_CONFIG_DIR"):
    os.environ.setdefault(name, tempfile.mkdtemp(prefix="localmoe-gpu-suite-"))

import gpu_synthetic as synthetic  # noqa: E402

from localmoe.kernels.gpu_launch import ExpertShape, Launcher, Tiles  # noqa: E402
from localmoe.kernels.matrix import Matrix  # noqa: E402

PARTS = ("kernels", "speed", "prefill", "profile", "parity", "large")
GIB, BUDGETS = 1 << 30, [24, 12, 16, 8]
CHECKS = ROOT / "tests/gpu/kernel_checks.py"
MOST_BG = 2e12  # bytes/s: beyond any consumer card's memory; formula and roofline take no more
SHAPES = ((4096, 14336), (14336, 4096))  # columns and rows of Mixtral 8x7B's expert matrices


class Suite:
    def __init__(self, dry: bool, out: Path, layers: int | None, budgets: list[int]) -> None:
        self.dry, self.out, self.device = dry, out, "cpu" if dry else "cuda"
        self.budgets, self.began = budgets, time.perf_counter()
        self.mixtral = replace(synthetic.MIXTRAL_8X7B, layers=layers or synthetic.MIXTRAL_8X7B.layers)
        self.results: dict[str, Any] = {
            "measured": not dry,
            "device": "interpreter" if dry else torch.cuda.get_device_name(),
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            "torch": torch.__version__, "layers": self.mixtral.layers, "cores": os.cpu_count(),
        }
        self._models: dict[str, synthetic.Synthetic] = {}

    def note(self, part: str, name: str, value: Any) -> None:
        """Records and writes at once."""
        self.results.setdefault(part, {})[name] = value
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(self.results, indent=1) + "\n")
        print(f"{time.perf_counter() - self.began:.0f} s: {part}: {name}: {value}", flush=True)

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
        checks = self.start_checks()
        self.model(synthetic.TINY if self.dry else self.mixtral)  # meanwhile
        for name, process in checks.items():
            said, _ = process.communicate(timeout=280)
            right = process.returncode == 0
            self.note("kernels", f"check {name}", "right" if right else said[-600:])
        self.bandwidths()
        for kind in ("q4_k", "q6_k"):
            for cols, rows in [(256, 512)] if self.dry else SHAPES:
                self.note("kernels", f"matvec {kind} {rows}x{cols} GB/s", self.matvec(kind, rows, cols))
            self.note("kernels", f"experts with {kind} down GB/s", self.experts(kind))

    def start_checks(self) -> dict[str, subprocess.Popen[str]]:
        """A process per check of tests/gpu/kernel_checks.py, and one for each set of tiles, which leaves its
        compiled kernels in Triton's cache."""
        import kernel_checks

        names = ["norm_and_embed", "route"] if self.dry else list(kernel_checks.CHECKS)
        commands = {name: [str(CHECKS), f"--device={self.device}", name] for name in names}
        if not self.dry:
            commands |= {f"tiles {i}": [__file__, f"--compile={i}"] for i in range(len(ALTERNATIVES))}
        return {
            name: subprocess.Popen(
                [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            for name, command in commands.items()
        }  # fmt: skip

    def matvec(self, kind: str, rows: int, cols: int) -> dict[str, float]:
        """GB/s of weights by tiles, over many matrices: together far beyond the L2 cache."""
        copies = 2 if self.dry else 24
        data = torch.from_numpy(synthetic.random_rows(rows, cols, kind, np.random.default_rng(0)))
        many = data.to(self.device).repeat(copies, 1, 1)
        x, y = torch.randn(cols, device=self.device), torch.empty(rows, device=self.device)
        matrices = [Matrix(int(m.data_ptr()), rows, cols, kind) for m in many]
        rates = {}
        for tiles in [None] if self.dry else ALTERNATIVES:
            launch = Launcher(self.dry, tiles)

            def work(launch: Launcher = launch) -> None:
                for m in matrices:
                    launch.linear(x, y, m)

            name = f"rows {tiles.rows}, warps {tiles.linear_warps}" if tiles else "interpreted"
            rates[name] = round(many.numel() / self.seconds(self.graph(work)) / 1e9, 1)
        return rates

    def experts(self, down: str) -> dict[str, float]:
        """GB/s of the two kernels of resident experts by tiles: gate and up in q4_k, down in `down`."""
        (cols, ffn), count = ((256, 512), 2) if self.dry else (SHAPES[0], 12)
        shape = expert_shape(cols, ffn, down)
        slots = torch.randint(0, 256, (count, shape.nbytes), dtype=torch.uint8, device=self.device)
        slots &= 0x3B  # no scale that is infinite or not a number
        address = torch.tensor([int(s.data_ptr()) for s in slots], device=self.device)
        rows = torch.full((2,), ffn, dtype=torch.int32, device=self.device)
        x, y = torch.randn(cols, device=self.device), torch.zeros(cols, device=self.device)
        inner, weights = torch.randn(2, ffn, device=self.device), torch.full((2,), 0.5, device=self.device)
        rates = {}
        for tiles in [None] if self.dry else ALTERNATIVES:
            launch = Launcher(self.dry, tiles)

            def gate_up(launch: Launcher = launch) -> None:
                for i in range(0, count, 2):
                    launch.gate_up(x, inner, shape, address[i : i + 2], address[i : i + 2], rows)

            def downs(launch: Launcher = launch) -> None:
                for i in range(0, count, 2):
                    launch.down(inner, y, weights, shape, address[i : i + 2], address[i : i + 2], rows)

            name = f"rows {tiles.rows}, warps {tiles.linear_warps}" if tiles else "interpreted"
            for part, work, nbytes in (
                ("gate and up", gate_up, shape.gate.nbytes + shape.up.nbytes), ("down", downs, shape.down.nbytes)
            ):  # fmt: skip
                took = self.seconds(self.graph(work))
                rates[f"{part}, {name}"] = round(count * nbytes / took / 1e9, 1)
        return rates

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

    def bandwidths(self, again: bool = False) -> dict[str, float]:
        """Bg, Bp, Bc, Bd of design section 6, GB/s. `again`: measured anew, and the best of both times counts
        (just after a large model was made, a virtual machine's RAM is slower for a while).
        """
        found = self.results.get("bandwidth_GBps", {})
        if found and not again:
            return dict(found)
        size = 1 << 20 if self.dry else GIB
        a = torch.empty(size, dtype=torch.uint8, device=self.device)
        b = torch.empty_like(a)
        host = torch.zeros(size, dtype=torch.uint8)
        host = host if self.dry else host.pin_memory()
        bg = 2 * size / self.seconds(lambda: b.copy_(a)) / 1e9
        bp = size / self.seconds(lambda: a.copy_(host, non_blocking=True), 8) / 1e9
        bc, bd = self.cpu_bandwidths(a, host)
        now = {"Bg": bg, "Bp": bp, "Bc": bc, "Bd": bd}
        found = {k: round(max(v, found.get(k, 0.0)), 4) for k, v in now.items()}
        self.results["bandwidth_GBps"] = found
        self.note("kernels", "bandwidth GB/s", found)
        return found

    def cpu_bandwidths(self, device: Any, host: Any) -> tuple[float, float]:
        """Bc, the CPU worker's rate on cold experts, asked as the GPU asks it; and Bd, what worker and bus
        read from RAM together.
        """
        from localmoe.kernels import handshake_layout as L

        model = self.model(synthetic.TINY if self.dry else self.mixtral)
        s, residency = model.size, model.open(self.device, [0] * len(model.layout.classes), 1, 64).residency
        region = residency.worker.region
        header = np.ctypeslib.as_array((synthetic_int * 3).from_address(region.address + L.HEADER))
        ids, ranks = ((synthetic_int * 2).from_address(region.address + at) for at in (L.IDS, L.RANKS))
        turns = 0

        def work(rounds: int) -> tuple[int, float]:
            nonlocal turns
            residency.worker.begin_step()  # wakes whoever sleeps
            moved, begin = 0, time.perf_counter()
            for _ in range(rounds):
                layer, turns = turns % s.layers, turns + 1
                header[:] = layer, 2, 0
                ids[:], ranks[:] = [turns % s.experts, (turns + 1) % s.experts], [0, 1]
                region.set_flag(L.POSTED, turns)
                while region.flag(L.DONE) != turns and time.perf_counter() - begin < 60:
                    time.sleep(2e-5)  # a busy loop here would take a core from the worker
                moved += 2 * int(model.layout.expert_bytes[layer])
            return moved, time.perf_counter() - begin

        # the best of several stretches: other work of the machine passes
        rounds, stretches = (2, 1) if self.dry else (24, 8)
        bc = max(moved / took / 1e9 for moved, took in (work(rounds) for _ in range(stretches)))
        bd = 0.0
        for _ in range(stretches):
            events = [] if self.dry else [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            if events:
                events[0].record()
                for _ in range(4):  # about as long as the worker's part
                    device.copy_(host, non_blocking=True)
                events[1].record()
            moved, took = work(rounds)
            if events:
                events[1].synchronize()
            bus = 4 * host.numel() / events[0].elapsed_time(events[1]) * 1e3 if events else 0.0
            bd = max(bd, (moved / took + bus) / 1e9)
        residency.worker.end_step()
        residency.close()
        return bc, bd

    # ------------------------------------------------------------ parity
    def parity(self) -> None:
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
                    "median error": float(np.median(np.abs(got - resident).max(1)) / spread),
                    "same greedy choice": float((got.argmax(1) == resident.argmax(1)).mean()),
                })  # fmt: skip

    # ------------------------------------------------------------ speed
    def speed(self) -> None:
        if self.dry:
            self.table("speed", synthetic.TINY, {"little": [1, 1]}, 2, 1)
            return
        model = self.model(self.mixtral)
        part = self.mixtral.layers / synthetic.MIXTRAL_8X7B.layers  # of the model, and so of the budgets
        budgets = {"unlimited": model.slots_for(1 << 60, 2048)}
        budgets |= {f"{g} GiB": model.slots_for(int(g * part * GIB), 2048) for g in self.budgets}
        self.table("speed", self.mixtral, budgets, 24, 56)

    def table(self, part: str, size: synthetic.Size, budgets: dict[str, list[int]], steps: int,
        warm: int) -> None:
        """Tokens/s by budget and mode; then, with bandwidths measured once more, the formula beside them."""
        model, rows = self.model(size), {}
        for name, slots in budgets.items():
            share = sum(slots) / (size.layers * size.experts)
            for mode in ["stream"] if share == 1.0 else ["static", "stream", "cpu", "split", "auto"]:
                runtime = model.open(self.device, slots, 1, 2048 if not self.dry else 256,
                                     0 if mode == "static" else None, spread=mode != "static")  # fmt: skip
                try:
                    before = {"static": 8, "auto": warm + 40}.get(mode, warm)
                    rows[f"{name}, {mode}"] = found = self.rate(runtime, mode, steps, 1 if self.dry else before)
                    print(f"{part}: {name}, {mode}: {found}", flush=True)
                finally:
                    runtime.close()
                    del runtime
                    gc.collect()  # its slots, before the next one's
            self.judge(part, model, rows, self.bandwidths())
        self.judge(part, model, rows, self.bandwidths(again=True))

    def judge(self, part: str, model: Any, rows: dict[str, Any], bands: dict[str, float]) -> None:
        """Adds the formula's rate, and what was measured as a share of it."""
        for name, found in rows.items():
            mode = "static" if name.endswith("static") else found["mode"]
            expected = 1 / formula(model, bands, found["hit_rate"], mode, found["resident"])
            found["formula_tokens_per_s"] = round(expected, 2)
            found["measured_over_formula"] = round(found["tokens_per_s"] / expected, 3)
        self.note(part, "rates", rows)

    def rate(self, runtime: Any, mode: str, steps: int, warm: int) -> dict[str, Any]:
        """Tokens/s of decoding (median step) and what the residency did meanwhile."""
        bands = self.bandwidths()
        if mode == "auto":
            from localmoe.model.gpu_auto import ModeChooser

            runtime.chooser = ModeChooser(splits=True)
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
        return {
            "tokens_per_s": round(1 / statistics.median(times), 2), "hit_rate": round(hits / (hits + misses), 3),
            "mode": after["mode"], "resident": round(runtime.plan.share, 3), "GPU's share": round(after["share"], 3),
            "MB_admitted": round((after["bytes_copied"] - before["bytes_copied"]) / steps / 1e6),
        }  # fmt: skip

    # ------------------------------------------------------------ profile
    def profile(self) -> None:
        """Kernels of a decoded token, microseconds in all, by torch's profiler."""
        if self.dry:
            return
        from torch.profiler import ProfilerActivity, profile

        model = self.model(self.mixtral)
        runtime = model.open(self.device, model.slots_for(1 << 60, 2048), 1, 2048)
        try:
            decoder = runtime.decoder(2048)
            for token in range(8):
                decoder.extend([token])
            with profile(activities=[ProfilerActivity.CUDA]) as seen:
                for token in range(4):
                    decoder.extend([token])
            found = sorted(seen.key_averages(), key=lambda e: -e.device_time_total)
            self.note("profile", "microseconds of a token, launches",
                      {e.key: [round(e.device_time_total / 4, 1), e.count // 4] for e in found[:24]})  # fmt: skip
        finally:
            runtime.close()

    # ------------------------------------------------------------ prefill
    def prefill(self) -> None:
        model, tokens = self.model(synthetic.TINY if self.dry else self.mixtral), 24 if self.dry else 2048
        everything = [len(c.layers) * model.size.experts for c in model.layout.classes]
        context = 256 if self.dry else 4096
        for name, slots in (("no expert", [0] * len(everything)), ("every expert", everything)):
            runtime = model.open(self.device, slots, tokens, context)
            try:
                decoder = runtime.decoder(context)
                ids = np.random.default_rng(2).integers(3, 300, tokens).tolist()
                decoder.extend(ids)  # compiles
                times, repeats, before = [], 1 if self.dry else 3, runtime.residency.copies.bytes_copied
                for _ in range(repeats):
                    decoder.rewind(0)
                    begin = time.perf_counter()
                    decoder.extend(ids)
                    times.append(time.perf_counter() - begin)
                took = statistics.median(times)
                moved = (runtime.residency.copies.bytes_copied - before) / repeats
                self.note("prefill", f"{tokens} tokens, {name} resident", {
                    "tokens_per_s": round(tokens / took, 1), "seconds": round(took, 3),
                    "expert_GB_moved": round(moved / 1e9, 2),
                    "share_of_bus": round(moved / took / 1e9 / self.bandwidths()["Bp"], 3),
                })  # fmt: skip
            finally:
                runtime.close()
                del runtime, decoder
                gc.collect()

    def large(self) -> None:
        if self.dry:
            return
        # what a machine of 128 GB can pin beside everything else
        size = replace(synthetic.MIXTRAL_8X22B, layers=16)
        model = self.model(size)
        budgets = {"a third": [int(0.33 * len(c.layers) * size.experts) for c in model.layout.classes]}
        budgets["all"] = [len(c.layers) * size.experts for c in model.layout.classes]
        self.table("large", size, budgets, 40, 60)


ALTERNATIVES = [
    Tiles(rows, {}, linear_warps=warps, gate_up_warps=warps, down_warps=warps, few_warps={})
    for rows in (4, 8) for warps in (1, 2, 4)
]
synthetic_int = np.ctypeslib.as_ctypes_type(np.int32)


def formula(model: Any, bands: dict[str, float], hit_rate: float, mode: str, share: float) -> float:
    """Seconds per token by design section 6, for two experts per layer; the GPU's memory counts as 2 TB/s at
    most."""
    bg, bp, bc, bd = (bands[k] * 1e9 for k in ("Bg", "Bp", "Bc", "Bd"))
    bg = min(bg, MOST_BG)
    layers = model.size.layers
    a = 2 * float(model.layout.expert_bytes.sum())
    d = float(sum(x.nbytes for x in model.kept)) - model.weights.embedding.nbytes
    if mode == "static":
        return d / bg + share * a / bg + (1 - share) * a / bc
    x = {"stream": bp, "cpu": bc, "split": min(bp + bc, bd)}[mode]
    e, m = a / 2 / layers, 1 - hit_rate
    odds = ((1 - m) ** 2, 2 * m * (1 - m), m * m)
    return d / bg + layers * sum(p * max((2 - k) * e / bg, k * e / x) for k, p in enumerate(odds))


def expert_shape(cols: int, ffn: int, down: str) -> ExpertShape:
    gate, last = Matrix(0, ffn, cols, "q4_k"), Matrix(0, cols, ffn, down)
    return ExpertShape(gate, gate, last, (0, gate.nbytes, 2 * gate.nbytes))


def compile_tiles(number: int) -> None:
    """Compiles the matvecs of one set of tiles by running them once."""
    launch = Launcher(False, ALTERNATIVES[number])
    for down in ("q4_k", "q6_k"):
        shape = expert_shape(*SHAPES[0], down)
        where = torch.zeros(2, dtype=torch.int64, device="cuda")
        none = torch.zeros(2, dtype=torch.int32, device="cuda")  # rows: nothing is read
        x, y = torch.zeros(shape.gate.cols, device="cuda"), torch.zeros(shape.gate.cols, device="cuda")
        inner, weights = torch.zeros(2, shape.gate.rows, device="cuda"), torch.zeros(2, device="cuda")
        launch.gate_up(x, inner, shape, where, where, none)
        launch.down(inner, y, weights, shape, where, where, none)
    for kind in ("q4_k", "q6_k"):
        for cols, rows in SHAPES:
            data = torch.from_numpy(synthetic.random_rows(rows, cols, kind, np.random.default_rng(0))).cuda()
            x, y = torch.randn(cols, device="cuda"), torch.empty(rows, device="cuda")
            launch.linear(x, y, Matrix(int(data.data_ptr()), rows, cols, kind))
    torch.cuda.synchronize()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS, help="only these (default: all)")
    parser.add_argument("--layers", type=int, help="of Mixtral 8x7B, for a quick look (budgets shrink alike)")
    parser.add_argument("--budget", type=int, action="append", help=f"GiB of GPU memory (default: {BUDGETS})")
    parser.add_argument("--compile", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--dry", action="store_true", help="tiny shapes in Triton's interpreter")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/gpu.json")
    given = parser.parse_args()
    if not given.dry and not torch.cuda.is_available():
        print("no CUDA device: use --dry with TRITON_INTERPRET=1 to try the script", file=sys.stderr)
        return 2
    if given.compile is not None:
        compile_tiles(given.compile)
        return 0
    suite, failed = Suite(given.dry, given.out, given.layers, given.budget or BUDGETS), 0
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
