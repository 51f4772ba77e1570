"""gpu_suite's tokens per second: by budget and mode beside the design's formula, by kernel, and of
prefill.
"""

from __future__ import annotations

import gc
import statistics
import time
from dataclasses import replace
from functools import partial
from math import comb
from typing import Any

import gpu_synthetic as synthetic
import numpy as np
from gpu_suite_kernels import GIB, Kernels

MOST_BG = 2e12  # bytes/s: beyond any consumer card's memory; formula and roofline take no more


class Speed(Kernels):
    def speed(self) -> None:
        if self.dry:
            self.table("speed", synthetic.TINY, {"little": [1, 1]}, 2, 1)
            return
        model = self.model(self.mixtral)
        part = self.mixtral.layers / synthetic.MIXTRAL_8X7B.layers  # of the model, and so of the budgets
        self.table("speed", self.mixtral, self.slots(model, [24, 12, 16, 8], part), 40, 56)

    def slots(self, model: synthetic.Synthetic, usual: list[int], part: float = 1.0) -> dict[str, list[int]]:
        """Slots by budget: without a bound, and in as many GiB (times `part`) as usual or asked for."""
        budgets = {"unlimited": model.slots_for(1 << 60, 2048)}
        sizes = {g: int(g * part * GIB) for g in self.budgets or usual}
        return budgets | {f"{g} GiB": model.slots_for(size, 2048) for g, size in sizes.items()}

    def table(
        self, part: str, size: synthetic.Size, budgets: dict[str, list[int]], steps: int, warm: int,
        own: bool = False,
    ) -> None:  # fmt: skip
        """Tokens/s by budget and mode; then, with bandwidths measured once more, the formula beside them.
        `own`: the CPU's are measured with experts of this size.
        """
        model, rows = self.model(size), {}
        bandwidths = partial(self.bandwidths, part=part, of=size) if own else self.bandwidths
        for name, slots in budgets.items():
            share = sum(slots) / (size.layers * size.experts)
            for mode in ["stream"] if share == 1.0 else ["static", "stream", "cpu", "split", "auto"]:
                runtime = model.open(self.device, slots, 1, 2048 if not self.dry else 256,
                                     0 if mode == "static" else None, spread=mode != "static")  # fmt: skip
                try:
                    rows[f"{name}, {mode}"] = found = self.rate(runtime, mode, steps, warm, bandwidths())
                    print(f"{part}: {name}, {mode}: {found}", flush=True)
                finally:
                    runtime.close()
                    del runtime
                    gc.collect()  # its slots, before the next one's
            self.judge(part, model, rows, bandwidths())
        self.judge(part, model, rows, bandwidths(again=True))

    def judge(self, part: str, model: Any, rows: dict[str, Any], bands: dict[str, float]) -> None:
        """Adds the formula's rate, and what was measured as a share of it."""
        for name, found in rows.items():
            mode = "static" if name.endswith("static") else found["mode"]
            expected = 1 / formula(model, bands, found["hit_rate"], mode, found["resident"])
            found["formula_tokens_per_s"] = round(expected, 2)
            found["measured_over_formula"] = round(found["tokens_per_s"] / expected, 3)
        self.note(part, "rates", rows)

    def rate(
        self, runtime: Any, mode: str, steps: int, warm: int, bands: dict[str, float]
    ) -> dict[str, Any]:
        """Tokens/s of decoding (median step) and what the residency did meanwhile."""
        if mode == "auto":  # as at a model's first start: trials of at most 3 s, on another part of the trace
            runtime.residency.shift_trace(2048)
            runtime.use_mode("auto", f"suite-{time.monotonic_ns()}")
            runtime.residency.shift_trace(-2048)
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
            "tokens_per_s": round(1 / statistics.median(times), 2),
            "hit_rate": round(hits / (hits + misses), 3), "mode": after["mode"],
            "resident": round(runtime.plan.share, 3), "GPU's share": round(after["share"], 3),
            "MB_admitted": round((after["bytes_copied"] - before["bytes_copied"]) / steps / 1e6),
            **({"tried": tried(runtime.chooser)} if mode == "auto" else {}),
        }  # fmt: skip

    # ------------------------------------------------------------ profile
    def profile(self) -> None:
        """Kernels of a decoded token, microseconds in all, by torch's profiler: with all experts resident,
        and with a GPU of 24 GiB, where the kernels that wait for the CPU show what a miss costs."""
        if self.dry:
            return
        model = self.model(self.mixtral)
        part = self.mixtral.layers / synthetic.MIXTRAL_8X7B.layers
        small = model.slots_for(int(24 * part * GIB), 2048)
        for name, slots, mode in (
            ("all resident", model.slots_for(1 << 60, 2048), "stream"),
            ("24 GiB, cpu", small, "cpu"), ("24 GiB, split", small, "split"),
        ):  # fmt: skip
            runtime = model.open(self.device, slots, 1, 2048)
            try:
                runtime.residency.set_mode(mode, 0.25)
                self.note("profile", f"{name}: microseconds of a token, launches", self.kernel_times(runtime))
            finally:
                runtime.close()
                del runtime
                gc.collect()

    def kernel_times(self, runtime: Any) -> dict[str, list[float]]:
        from torch.profiler import ProfilerActivity, profile

        decoder, tokens = runtime.decoder(2048), 12
        for token in range(40):
            decoder.extend([token])
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            for token in range(tokens):
                decoder.extend([token])
        found = [e for e in seen.key_averages() if e.device_time_total]
        found.sort(key=lambda e: -e.device_time_total)
        return {e.key[:60]: [round(e.device_time_total / tokens, 1), e.count // tokens] for e in found[:20]}

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


def tried(chooser: Any) -> dict[str, list[float]]:
    """Milliseconds of a step without a miss and of each miss, by setting, as `auto` sees them at the end."""
    return {
        f"{s.mode} {s.share}" if s.mode == "split" else s.mode:
            [round(c.fixed * 1e3, 3), round(c.per_miss * 1e3, 3)] for s, c in chooser.costs.items()
    }  # fmt: skip


def formula(model: Any, bands: dict[str, float], hit_rate: float, mode: str, share: float) -> float:
    """Seconds per token by design section 6, for as many experts per layer as are used; the GPU's memory
    counts as 2 TB/s at most.
    """
    bg, bp, bc, bd = (bands[k] * 1e9 for k in ("Bg", "Bp", "Bc", "Bd"))
    bg = min(bg, MOST_BG)
    layers, n = model.size.layers, model.size.experts_used
    a = n * float(model.layout.expert_bytes.sum())
    d = float(sum(x.nbytes for x in model.kept)) - model.weights.embedding.nbytes
    if mode == "static":
        return d / bg + share * a / bg + (1 - share) * a / bc
    x = {"stream": bp, "cpu": bc, "split": min(bp + bc, bd)}[mode]
    e, m = a / n / layers, 1 - hit_rate
    odds = (comb(n, k) * m**k * (1 - m) ** (n - k) for k in range(n + 1))
    return d / bg + layers * sum(p * max((n - k) * e / bg, k * e / x) for k, p in enumerate(odds))
