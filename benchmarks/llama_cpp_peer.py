"""llama.cpp's side of the comparisons; runs in an environment that has llama-cpp-python, and only there.

    PEER/bin/python benchmarks/llama_cpp_peer.py speed FILE --prompt 512 --generate 32 --threads 2 --repack 0
    PEER/bin/python benchmarks/llama_cpp_peer.py grammar FILE RULES.gbnf --prompt 64 --threads 2 --repack 0
    PEER/bin/python benchmarks/llama_cpp_peer.py logits FILE IDS.npy OUT.npy
    PEER/bin/python benchmarks/llama_cpp_peer.py tokens FILE IDS.npy --prompt 16 --threads 2

`speed` and `grammar` answer requests on standard input, one line each, so that both sides stay loaded and
take turns: each line is answered with one JSON object. `logits` saves float32 [tokens, vocab]. `tokens`
loads a file that is mapped and not repacked, reads the first ids at once and the others one by one, and
prints one JSON object: seconds, and bytes read from the disk, as `release_residency.measure` names them.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import time
from pathlib import Path

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


def grammar(a: argparse.Namespace) -> None:
    """Texts that a grammar derives, always the likeliest token. As llama.cpp's own programs do, the grammar
    is asked about that token first, and about the whole vocabulary only if it refuses.
    """
    model = load(a.file, a.prompt + 1024, a.threads, bool(a.repack))
    vocab, c = model._model.vocab, llama_cpp.llama_cpp
    with open(a.rules, "rb") as file:
        rules = file.read()
    ids = [int(i) for i in np.random.default_rng(0).integers(300, model.n_vocab() - 1, a.prompt)]
    for _ in sys.stdin:
        model.reset()
        model.eval(ids)
        start, asked, chosen = time.perf_counter(), 0.0, list[int]()
        sampler = c.llama_sampler_init_grammar(vocab, rules, b"root")
        while True:
            scores = np.ctypeslib.as_array(c.llama_get_logits_ith(model._ctx.ctx, -1), (model.n_vocab(),))
            before = time.perf_counter()
            best = int(scores.argmax())
            if not np.isfinite(allowed(sampler, np.array([best]), scores)[0]):
                best = int(allowed(sampler, np.arange(len(scores)), scores).argmax())
            if not c.llama_vocab_is_eog(vocab, best):
                c.llama_sampler_accept(sampler, best)
            asked += time.perf_counter() - before
            if c.llama_vocab_is_eog(vocab, best):
                break
            chosen.append(best)
            model.eval([best])
        seconds = time.perf_counter() - start
        c.llama_sampler_free(sampler)
        answer = {"seconds": seconds, "choosing": asked, "tokens": len(chosen)}
        print(json.dumps({**answer, "text": model.detokenize(chosen).decode()}), flush=True)


def allowed(sampler: object, tokens: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The tokens' logits, minus infinity for those that the grammar does not allow."""
    c = llama_cpp.llama_cpp
    fields = [("id", np.intc), ("logit", np.single), ("p", np.single)]
    data = np.zeros(len(tokens), np.dtype(fields, align=True))
    data["id"], data["logit"] = tokens, scores[tokens]
    pointer = data.ctypes.data_as(ctypes.POINTER(c.llama_token_data))
    array = c.llama_token_data_array(data=pointer, size=len(tokens), selected=-1, sorted=False)
    c.llama_sampler_apply(sampler, ctypes.byref(array))
    return data["logit"]


def logits(a: argparse.Namespace) -> None:
    ids = [int(i) for i in np.load(a.ids)]
    model = load(a.file, max(64, len(ids) + 8), os.cpu_count() or 1, True, all_logits=True)
    model.eval(ids)
    np.save(a.out, np.asarray(model.scores[: len(ids)], np.float32))


def tokens(a: argparse.Namespace) -> None:
    ids = [int(i) for i in np.load(a.ids)]
    start, at_start = time.monotonic(), disk_bytes()
    model = load(a.file, len(ids) + 8, a.threads, repack=False)
    loaded, at_load = time.monotonic(), disk_bytes()
    model.eval(ids[: a.prompt])
    seconds, last, at_prompt = [], time.monotonic(), disk_bytes()
    prefill = last - loaded
    for token in ids[a.prompt :]:
        model.eval([token])
        now = time.monotonic()
        seconds.append(round(now - last, 3))
        last = now
    result = {
        "load_s": round(loaded - start, 2), "prompt_tokens": a.prompt, "prefill_s": round(prefill, 2),
        "tokens": len(seconds), "tokens_per_s": len(seconds) / sum(seconds), "seconds_per_token": seconds,
        "load_disk_bytes": at_load - at_start,
        "disk_bytes_per_token": round((disk_bytes() - at_prompt) / len(seconds)),
        "anonymous_bytes": kept("RssAnon"), "file_bytes": kept("RssFile"), "context": model.n_ctx(),
        "threads": a.threads, "version": llama_cpp.__version__,
    }  # fmt: skip
    print(json.dumps(result))


def disk_bytes() -> int:
    """Bytes that this process caused to be read from a disk: by page faults too, not from the page cache."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))


def kept(name: str) -> int:
    """Bytes of this process in memory: RssAnon its own, RssFile those of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


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
    three = commands.add_parser("grammar")
    for name in ("file", "rules"):
        three.add_argument(name)
    three.add_argument("--prompt", type=int, default=64)
    three.add_argument("--threads", type=int, default=2)
    three.add_argument("--repack", type=int, default=1)
    three.set_defaults(run=grammar)
    two = commands.add_parser("logits")
    for name in ("file", "ids", "out"):
        two.add_argument(name)
    two.set_defaults(run=logits)
    three = commands.add_parser("tokens")
    three.add_argument("file")
    three.add_argument("ids")
    three.add_argument("--prompt", type=int, required=True, help="how many of the ids are read at once")
    three.add_argument("--threads", type=int, required=True)
    three.set_defaults(run=tokens)
    arguments = p.parse_args()
    arguments.run(arguments)
    sys.stdout.flush()
    os._exit(0)  # llama-cpp-python's teardown is slow and sometimes noisy


if __name__ == "__main__":
    main()
