"""Answers in a given form: a record in JSON by a grammar, ours beside llama.cpp, in alternating pairs.

    python benchmarks/forms.py --peer PEER/bin/python FILE.gguf [--pairs 5] [--out FILE.json]

Both read the same grammar (GBNF), whose texts are all about as long, and take the likeliest token that it
allows, after the same prompt of random tokens, which is not timed. llama.cpp's side works as its own programs
do (`llama_cpp_peer.py grammar`), with weight repacking on and off; the faster of the two is what we are
compared with. What choosing tokens takes there is reported apart: with a trained model, whose likeliest token
is mostly allowed, it is less than with random weights.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from peer_process import Peer

import localmoe
from localmoe.generate.loop import Answer, stream
from localmoe.generate.sampling import Sampling
from localmoe.kernels.cores import usable_cores
from localmoe.kernels.simd import FORM
from localmoe.measure import random_ids
from localmoe.text.grammar import Grammar

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "forms.json"
PROMPT = 64  # tokens
RULES = r'''
root ::= "{\"invoice_number\": \"" [A-Z] [A-Z] "-" [0-9]{4} "\", \"customer\": " customer ", \"paid\": " paid
  ", \"currency\": \"" currency "\", \"line_items\": [" item ", " item ", " item "]}"
customer ::= "{\"full_name\": \"" [A-Z] [a-z]{7} " " [A-Z] [a-z]{9} "\", \"country\": \"" country "\"}"
item ::= "{\"article_number\": " [1-9] [0-9]{4} ", \"quantity\": " [1-9] ", \"unit_price\": " [1-9] [0-9] "."
  [0-9]{2} "}"
country ::= "Italy" | "Spain" | "China"
currency ::= "EUR" | "USD" | "CHF"
paid ::= "true" | "false"
'''.replace("\n  ", " ").lstrip()


def measure_ours(model: localmoe.Model, grammar: Grammar | None, tokens: int | None = None) -> dict[str, Any]:
    """A record, or as many `tokens` in no form; the prompt is evaluated before."""
    decoder, ids = model.decoder(), random_ids(model, PROMPT)
    decoder.extend(ids)
    start = time.perf_counter()
    constraint = None if grammar is None else model.constraints.start(grammar, [], whole="")
    options: dict[str, Any] = {"sampling": Sampling(temperature=0), "max_tokens": tokens, "ignore_eos": True}
    pieces = list(stream(decoder, model.tokenizer, ids, constraint=constraint, continues=True, **options))
    seconds = time.perf_counter() - start
    answer = pieces[-1].answer
    if not isinstance(answer, Answer):
        raise RuntimeError("there is no answer")
    return {"seconds": seconds, "tokens": answer.completion_tokens, "text": answer.text}


def compare(python: str, file: Path, threads: int, pairs: int) -> dict[str, Any]:
    """Medians of seconds for a record, and the ratios pair by pair."""
    grammar = Grammar.from_text(RULES)
    rows: dict[str, list[dict[str, Any]]] = {"ours": [], "unconstrained": [], "repack": [], "no_repack": []}
    with tempfile.TemporaryDirectory() as folder, localmoe.load(file, threads=threads, learn=False) as model:
        rules = Path(folder) / "record.gbnf"
        rules.write_text(RULES)
        peers = {name: Peer(python, "grammar", file, rules, prompt=PROMPT, threads=threads, repack=flag)
                 for name, flag in (("repack", 1), ("no_repack", 0))}  # fmt: skip
        try:
            for turn in range(pairs + 1):
                rows["ours"].append(measure_ours(model, grammar))
                rows["unconstrained"].append(measure_ours(model, None, rows["ours"][-1]["tokens"]))
                for name, peer in peers.items():
                    rows[name].append(peer.measure())
                if not turn:  # the first was the warm-up
                    rows = {name: [] for name in rows}
        finally:
            for peer in peers.values():
                peer.close()
    texts = {name: found[0]["text"] for name, found in rows.items()}
    for name, found in rows.items():
        for row in found:
            text = row.pop("text")
            if name != "unconstrained":
                json.loads(text)  # or it is no record
    medians = {name: statistics.median(row["seconds"] for row in found) for name, found in rows.items()}
    better = min(("repack", "no_repack"), key=medians.__getitem__)
    pairs_of = zip(rows["ours"], rows[better], strict=True)
    ratios = sorted(theirs["seconds"] / mine["seconds"] for mine, theirs in pairs_of)
    choosing = statistics.median(row["choosing"] for row in rows[better])
    return {
        "file": file.stem, "threads": threads, "pairs": pairs, "seconds": medians,
        "llama_cpp_setting": better, "llama_cpp_choosing": choosing,
        "ratio": statistics.median(ratios), "ratios": ratios,
        "ratio_without_choosing": (medians[better] - choosing) / medians["ours"],
        "tokens": {name: found[0]["tokens"] for name, found in rows.items()},
        "texts": {name: texts[name] for name in ("ours", better)}, "rows": rows,
    }  # fmt: skip


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("files", nargs="+", type=Path)
    p.add_argument("--peer", required=True, help="python of an environment with llama-cpp-python")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--pairs", type=int, default=5)
    p.add_argument("--out", type=Path, default=RESULTS)
    a = p.parse_args()
    machine = {
        "cpu": platform.processor() or platform.machine(), "simd": FORM, "cores": usable_cores(),
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    report: dict[str, Any] = {"machine": machine, "grammar": RULES, "records": []}
    for file in a.files:
        row = compare(a.peer, file, a.threads, a.pairs)
        report["records"].append(row)
        s = row["seconds"]
        print(f"{row['file']}: ours {s['ours']:.2f} s ({row['tokens']['ours']} tokens; unconstrained "
              f"{s['unconstrained']:.2f} s), llama.cpp {s[row['llama_cpp_setting']]:.2f} s "
              f"({row['llama_cpp_setting']}, {row['tokens'][row['llama_cpp_setting']]} tokens, "
              f"{row['llama_cpp_choosing']:.2f} s of it choosing them): {row['ratio']:.2f} times as fast, "
              f"{row['ratio_without_choosing']:.2f} without the choosing", flush=True)  # fmt: skip
        a.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
