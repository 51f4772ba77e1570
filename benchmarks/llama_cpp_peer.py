"""llama.cpp's side of the comparisons; runs in an environment that has llama-cpp-python, and only there.

    PEER/bin/python benchmarks/llama_cpp_peer.py speed FILE --prompt 512 --generate 32 --threads 2 --repack 0
    PEER/bin/python benchmarks/llama_cpp_peer.py logits FILE IDS.npy OUT.npy

`speed` answers requests on standard input, one line each, so that both sides stay loaded and take turns:
each line is answered with one JSON object. `logits` saves float32 [tokens, vocab].
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

import llama_cpp
import numpy as np

_defaults = llama_cpp.llama_model_default_params


def load(path: str, context: int, threads: int, repack: bool, all_logits: bool = False) -> llama_cpp.Llama:
    def with_repack() -> object:
        params = _defaults()
        params.use_extra_bufts = repack
        return params

    llama_cpp.llama_cpp.llama_model_default_params = with_repack
    return llama_cpp.Llama(
        path, n_ctx=context, n_batch=context, n_ubatch=512, n_threads=threads, n_threads_batch=threads,
        logits_all=all_logits, verbose=False,
    )  # fmt: skip


def speed(a: argparse.Namespace) -> None:
    model = load(a.file, a.prompt + a.generate + 8, a.threads, bool(a.repack))
    ids = [int(i) for i in np.random.default_rng(0).integers(300, model.n_vocab() - 1, a.prompt + a.generate)]
    for _ in sys.stdin:
        model.reset()
        start = time.perf_counter()
        model.eval(ids[: a.prompt])
        middle = time.perf_counter()
        for token in ids[a.prompt :]:
            model.eval([token])
        end = time.perf_counter()
        rates = {"prefill": a.prompt / (middle - start), "decode": a.generate / (end - middle)}
        print(json.dumps(rates), flush=True)


def logits(a: argparse.Namespace) -> None:
    ids = [int(i) for i in np.load(a.ids)]
    model = load(a.file, max(64, len(ids) + 8), os.cpu_count() or 1, True, all_logits=True)
    model.eval(ids)
    np.save(a.out, np.asarray(model.scores[: len(ids)], np.float32))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = p.add_subparsers(required=True)
    one = commands.add_parser("speed")
    one.add_argument("file")
    one.add_argument("--prompt", type=int, default=512)
    one.add_argument("--generate", type=int, default=32)
    one.add_argument("--threads", type=int, default=2)
    one.add_argument("--repack", type=int, default=1)
    one.set_defaults(run=speed)
    two = commands.add_parser("logits")
    for name in ("file", "ids", "out"):
        two.add_argument(name)
    two.set_defaults(run=logits)
    arguments = p.parse_args()
    arguments.run(arguments)
    sys.stdout.flush()
    os._exit(0)  # llama-cpp-python's teardown is slow and sometimes noisy


if __name__ == "__main__":
    main()
