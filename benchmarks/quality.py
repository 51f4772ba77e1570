"""What quantization costs the demo model, ours beside llama.cpp's, and what int8 activations cost.

    python benchmarks/quality.py --llama-python PEER/bin/python [--dialogues 200] [--json FILE]
                                 [--source DIR]

One source (demo/model, BF16, or another checkpoint of the demo) becomes q4_k_m twice, by `localmoe quantize`
and by llama.cpp's own function, and all are run by localmoe, with int8 activations and (`exact`) with float32
ones. Two perplexities: of the answers in generated dialogues whose values were never trained (what the model
is for), and `localmoe perplexity`'s of the same dialogues as plain text, in which questions count too.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "demo"))

import corpus  # noqa: E402 # found by the line above
import numpy as np  # noqa: E402
import sentencepiece  # noqa: E402
from evaluate import answer_loss  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

import localmoe  # noqa: E402
from localmoe.measure import measure_quality  # noqa: E402

Losses = NDArray[np.float64]  # [dialogues, 2]
SOURCE = ROOT / "demo" / "model"
SEED = 2024  # of no training run
LLAMA_QUANTIZE = """
import ctypes, sys, llama_cpp
params = llama_cpp.llama_model_quantize_default_params()
params.ftype = 15
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(params)))
"""


def ours(source: Path, out: Path, recipe: str) -> Path:
    command = [sys.executable, "-m", "localmoe", "quantize", str(source), "-o", str(out), "-t", recipe]
    subprocess.run(command, check=True, capture_output=True)
    return out


def measure(path: Path, dialogues: list[dict[str, Any]], exact: bool) -> tuple[dict[str, float], Losses]:
    """Perplexities, and each dialogue's (summed loss of the answers, tokens)."""
    tokens = sentencepiece.SentencePieceProcessor(model_file=str(SOURCE / "tokenizer.model"))
    with localmoe.load(path, exact=exact, learn=False) as model:
        losses = np.array([answer_loss(tokens, [one], model.logits) for one in dialogues])
        quality = measure_quality(model, as_text(dialogues), 512)
    total, count = losses.sum(0)
    return {"answers": math.exp(total / count), "tokens": count, "text": quality.perplexity}, losses


def difference(a: Losses, b: Losses) -> dict[str, float]:
    """How much more `a` costs than `b` per token of the same answers, and the standard error of that."""
    more, tokens = a[:, 0] - b[:, 0], a[:, 1]
    mean = more.sum() / tokens.sum()
    error = math.sqrt(((more - mean * tokens) ** 2).sum()) / tokens.sum()
    return {"mean": float(mean), "standard_error": float(error)}


def as_text(dialogues: list[dict[str, Any]]) -> str:
    return "\n".join(f"[INST] {user} [/INST] {answer}" for d in dialogues for _, user, answer in d["turns"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llama-python", required=True, help="a Python with llama_cpp")
    parser.add_argument("--dialogues", type=int, default=200)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--source", type=Path, default=SOURCE, help="as demo/export.py writes")
    arguments = parser.parse_args()
    dialogues = list(islice(corpus.dialogues(SEED, fresh=True), arguments.dialogues))
    figures: dict[str, dict[str, float]] = {}
    losses: dict[str, Losses] = {}
    with tempfile.TemporaryDirectory() as place:
        plain = ours(arguments.source, Path(place) / "bf16.gguf", "bf16")
        theirs = Path(place) / "llama.gguf"
        command = [arguments.llama_python, "-c", LLAMA_QUANTIZE, str(plain), str(theirs)]
        subprocess.run(command, check=True, capture_output=True)
        files = {"bf16": plain, "q4_k_m": ours(arguments.source, Path(place) / "ours.gguf", "q4_k_m")}
        for name, path in {**files, "llama.cpp's q4_k_m": theirs}.items():
            for exact in (False, True):
                title = name + (", exact" if exact else "")
                figures[title], losses[title] = measure(path, dialogues, exact)
    for name, row in figures.items():
        print(f"{name:26} answers {row['answers']:.4f}   text {row['text']:.3f}")

    def ratio(a: str, b: str, kind: str) -> float:
        return figures[a][kind] / figures[b][kind] - 1

    costs = {
        kind: {
            "int8 activations": ratio("q4_k_m", "q4_k_m, exact", kind),
            "q4_k_m, ours": ratio("q4_k_m", "bf16", kind),
            "q4_k_m, llama.cpp's": ratio("llama.cpp's q4_k_m", "bf16", kind),
        }
        for kind in ("answers", "text")
    }
    for kind, row in costs.items():
        print(f"cost, {kind}: " + ", ".join(f"{name} {100 * value:+.2f} %" for name, value in row.items()))
    beyond = difference(losses["q4_k_m"], losses["llama.cpp's q4_k_m"])
    error = beyond["standard_error"]
    print(f"answers, ours beyond llama.cpp's: {beyond['mean']:+.1e} ± {error:.1e} per token")
    if arguments.json:
        record: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "dialogues": arguments.dialogues}
        record |= {"seed": SEED, "perplexity": figures, "cost": costs, "beyond_llama_cpp": beyond}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
