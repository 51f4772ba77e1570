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

and, only where it is asked for (the file's other results stay):

    qwen      Qwen3-30B-A3B (128 experts, 8 used): a tiny one beside the CPU, tokens/s by budget and mode; all
              experts are equally popular, and 65 % of tokens share one with the token before
    gpt-oss   the same of gpt-oss-20b (32 experts, 4 used)
    gpt-oss-120b    of 24 of gpt-oss-120b's 36 layers (128 experts, 4 used), in two thirds of 24 GiB
"""

from __future__ import annotations

import argparse
import os
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
from gpu_suite_base import APART  # noqa: E402
from gpu_suite_kernels import compile_tiles  # noqa: E402
from gpu_suite_speed import Speed  # noqa: E402

PARTS = ("kernels", "speed", "prefill", "profile", "parity", "large")


# of APART: a tiny model, the tests' metadata of its family, the true shape, how many of its layers are made
# (what a machine of 128 GB can pin), and GiB of GPU memory for all of its layers
SHAPES: dict[str, tuple[synthetic.Size, str, synthetic.Size, int, list[int]]] = {
    "qwen": (synthetic.TINY_QWEN3, "QWEN3", synthetic.QWEN3_30B_A3B, 48, [12, 8, 4]),
    "gpt-oss": (synthetic.TINY_GPT_OSS, "GPT_OSS", synthetic.GPT_OSS_20B, 24, [12, 8]),
    "gpt-oss-120b": (synthetic.TINY_GPT_OSS, "GPT_OSS", synthetic.GPT_OSS_120B, 24, [24]),
}


class AllParts(Speed):
    """Every part is a method of its name."""

    def apart(self, part: str) -> None:
        """One of APART: a tiny model of the family beside the CPU, then its true shape by budget and mode."""
        import model_parity

        self.results.pop(part, None)  # an earlier run's
        self.note(part, "run", self.circumstances)
        tiny, metadata, size, layers, budgets = SHAPES[part]
        if self.dry:
            self.table(part, tiny, {"little": [tiny.experts // 5]}, 1, 1, own=True)
            return
        self.parity(part, getattr(model_parity, metadata))
        model = self.model(replace(size, layers=layers))
        slots = self.slots(model, budgets, layers / size.layers)
        self.table(part, model.size, slots, 40, 56, own=True)

    def parity(self, part: str = "parity", metadata: dict[str, Any] | None = None) -> None:
        import model_parity

        with tempfile.TemporaryDirectory() as directory:
            case = model_parity.Case(directory, **(metadata or {}))
            everything = case.config.layers * case.config.experts
            case.device = self.device
            steps = 2 if self.dry else 500
            ids = np.random.default_rng(9).integers(3, 320, steps + 2).tolist()
            wanted = case.reference(ids[:2], ids[2:12])
            resident, _ = case.run(ids[:2], ids[2:], everything, prefill=False, context=steps + 12)
            count = min(len(wanted), len(resident) - 1)
            spread = np.abs(wanted).max()
            self.note(part, "logits, greatest error beside the CPU's greatest", float(
                np.abs(resident[1 : 1 + count] - wanted[:count]).max() / spread))  # fmt: skip
            for mode in ("stream", "cpu", "split"):
                got, status = case.run(ids[:2], ids[2:], slots=everything // 4, mode=mode, prefill=False,
                                       context=steps + 12)  # fmt: skip
                self.note(part, f"{steps} tokens, {mode}", {
                    "same bits": bool(np.array_equal(got, resident)), "hit rate": status["hit_rate"],
                    "greatest error": float(np.abs(got - resident).max() / spread),
                    "median error": float(np.median(np.abs(got - resident).max(1)) / spread),
                    "same greedy choice": float((got.argmax(1) == resident.argmax(1)).mean()),
                })  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS + APART,
        help=f"only these (default: {', '.join(PARTS)})")
    parser.add_argument("--layers", type=int, help="of Mixtral 8x7B, for a quick look (budgets shrink alike)")
    parser.add_argument("--budget", type=int, action="append", help="GiB of GPU memory, of every part")
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
    parts, failed = given.part or PARTS, 0
    suite = AllParts(given.dry, given.out, given.layers, given.budget, parts)
    for part in parts:
        begin = time.perf_counter()
        try:
            suite.apart(part) if part in APART else getattr(suite, part)()
        except Exception as error:  # the other parts are worth having
            traceback.print_exc()
            suite.note(part, "error", f"{type(error).__name__}: {error}")
            failed += 1
        suite.note("seconds", part, round(time.perf_counter() - begin, 1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
