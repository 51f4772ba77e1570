"""What the parts of gpu_suite share: results written as soon as they are there, models, timing."""

from __future__ import annotations

import datetime
import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gpu_synthetic as synthetic
import torch

# parts that run only when asked for: a run of them alone keeps the file's other results
APART = ("qwen", "gpt-oss", "gpt-oss-120b")


class Suite:
    def __init__(
        self, dry: bool, out: Path, layers: int | None, budgets: list[int] | None, parts: Sequence[str]
    ) -> None:
        """`budgets` in GiB, where not every part's own are meant."""
        self.dry, self.out, self.device = dry, out, "cpu" if dry else "cuda"
        self.budgets, self.began = budgets, time.perf_counter()
        self.mixtral = replace(synthetic.MIXTRAL_8X7B, layers=layers or synthetic.MIXTRAL_8X7B.layers)
        self.circumstances = {
            "measured": not dry,
            "device": "interpreter" if dry else torch.cuda.get_device_name(),
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            "torch": torch.__version__, "cores": os.cpu_count(),
        }  # fmt: skip
        before = json.loads(out.read_text()) if out.exists() else {}
        self.results: dict[str, Any] = {**self.circumstances, "layers": self.mixtral.layers}
        if before and set(parts) <= set(APART):
            self.results = before
        else:
            self.results |= {part: before[part] for part in APART if part in before}
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
