"""Hit rates of the residency policy beside LRU, LFU, static and Belady, on three kinds of routing.

    python benchmarks/residency.py [--model demo] [--conversations demo/heldout.jsonl] [--trace NAME=FILE.npz
      ...]

Stationary and drifting traces are generated with Mixtral 8x7B's shape and locality (experts/traces.py); the
  third kind is what a real router does: the embedded model's over held-out conversations, each answered by
  the model. Any other recorded trace can be added. Writes benchmarks/results/residency.json and .png.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localmoe.experts.report import draw_hit_rates, simulation_table
from localmoe.experts.simulate import POLICIES, BudgetResult, simulate
from localmoe.experts.statistics import ExpertStatistics
from localmoe.experts.traces import generate_trace, repeat_share

RIVALS = ("lru", "lfu", "static")
RESULTS = Path(__file__).parent / "results"


def conversations_trace(name: str, path: Path, count: int) -> NDArray[np.uint8]:
    """The routing of `name` over the first `count` conversations of a file, its own answers included."""
    import localmoe

    parts = []
    with localmoe.load(name) as model:
        for line in path.read_text("utf-8").splitlines()[:count]:
            ids = model.encode_chat(json.loads(line)["messages"])
            ids += list(model.generate_ids(ids, max_tokens=64, temperature=0))
            parts.append(model.routing(ids))
    return np.concatenate(parts)


def mean_of(runs: list[list[BudgetResult]]) -> list[BudgetResult]:
    """The mean over several traces of one kind, budget by budget."""
    return [
        BudgetResult(
            same[0].budget,
            same[0].slots,
            {name: float(np.mean([each.hit_rate[name] for each in same])) for name in POLICIES},
            round(float(np.mean([each.admissions for each in same]))),
        )
        for same in zip(*runs, strict=True)
    ]


def measure(traces: list[NDArray[np.uint8]], experts: int) -> dict[str, Any]:
    """Replay traces of one kind at all budgets; prints the table."""
    simulate(traces[0][:2], experts, (0.5,))  # compiled, before the clock runs
    start = time.perf_counter()
    runs = [simulate(trace, experts) for trace in traces]
    seconds = time.perf_counter() - start
    results = mean_of(runs)
    replayed = sum(trace.size for trace in traces) * len(results) * len(POLICIES)
    margins = [
        100 * min(each.hit_rate["ours"] - max(each.hit_rate[name] for name in RIVALS) for each in same)
        for same in zip(*runs, strict=True)
    ]
    learned = ExpertStatistics(traces[0].shape[1], experts, traces[0].shape[2])
    learned.observe_tokens(traces[0])
    print("\n".join(simulation_table(results)))
    print("worst margin over the best rival, points: " + " ".join(f"{margin:+.2f}" for margin in margins))
    speed = f"{replayed / seconds / 1e6:.1f} M accesses/s"
    print(f"{speed}; half-life at the end {learned.half_life:.0f} tokens\n")
    return {
        "tokens": [len(trace) for trace in traces],
        "layers": traces[0].shape[1],
        "experts": experts,
        "repeat": float(np.mean([repeat_share(trace) for trace in traces])),
        "simulation": [{**each.as_json(), "admissions": each.admissions} for each in results],
        "margin_points": margins,
        "accesses_per_s": replayed / seconds,
    }


def draw(kinds: dict[str, dict[str, Any]], path: Path) -> None:
    """One plot of hit rates per kind of trace."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(kinds), 4.6), layout="constrained")
    plots = figure.subplots(1, len(kinds), squeeze=False)[0]
    for axes, (kind, measured) in zip(plots, kinds.items(), strict=True):
        draw_hit_rates(axes, [BudgetResult(**row) for row in measured["simulation"]], kind)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="demo", help="whose routing the third kind is; '' leaves it out")
    parser.add_argument("--conversations", type=Path, default=Path("demo/heldout.jsonl"))
    parser.add_argument("--count", type=int, default=200, help="conversations to run")
    parser.add_argument("--trace", action="append", default=[], metavar="NAME=FILE", help="a recorded trace")
    parser.add_argument("--tokens", type=int, default=5000, help="length of generated traces")
    parser.add_argument("--out", type=Path, default=RESULTS / "residency.json")
    arguments = parser.parse_args()
    traces: dict[str, tuple[list[NDArray[np.uint8]], int]] = {
        "stationary": ([generate_trace(arguments.tokens, seed=seed) for seed in range(3)], 8),
        "drifting every 500 tokens": (
            [generate_trace(arguments.tokens, drift=500, seed=seed) for seed in range(3)], 8,
        ),
    }  # fmt: skip
    if arguments.model:
        trace = conversations_trace(arguments.model, arguments.conversations, arguments.count)
        traces[f"{arguments.model}, {arguments.count} conversations"] = ([trace], int(trace.max()) + 1)
    for given in arguments.trace:
        name, _, path = given.partition("=")
        with np.load(path) as archive:
            traces[name] = ([archive["routing"]], int(archive["routing"].max()) + 1)
    kinds = {}
    for kind, (same, experts) in traces.items():
        layers = same[0].shape[1]
        print(f"{kind}: {len(same)} traces of {len(same[0])} tokens, {layers} layers x {experts} experts")
        kinds[kind] = measure(same, experts)
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "command": "python benchmarks/residency.py",
        "kinds": kinds,
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    draw(kinds, arguments.out.with_suffix(".png"))
    print(f"{arguments.out} and {arguments.out.with_suffix('.png')} written")


if __name__ == "__main__":
    main()
