"""Train the demo model on generated dialogues.

    python demo/train.py RUN --minutes 80             # two CPU processes; resumes from RUN
    python demo/train.py RUN --minutes 10 --device cuda --chunks 1 --readers 6
    python demo/train.py RUN --minutes 20 --start demo/model --rate 0.35 --cool 1   # from exported weights

The two processes take chunks of each step's dialogues from a common counter, add their gradients in shared
memory, and update half of the weights each. With ``--draw`` above ``--keep``, a step reads more dialogues
than it trains on and keeps those that teach most (`batches.hardest`). A run may be stopped with SIGSTOP and
go on later: a pause takes no time off it.
"""

import argparse
import os
import platform
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the workers inherit these: no spinning, and no page faults for each temporary
    os.environ.update(OMP_WAIT_POLICY="PASSIVE", MALLOC_MMAP_MAX_="0", MALLOC_TRIM_THRESHOLD_="100000000000")

import corpus
import sentencepiece
import torch
from batches import batch, chunks, encode, hardest, read_by, stream
from model import Layout, Shape, forward, orthogonal, rotary
from rounding import Rounding
from torch import Tensor
from torch import multiprocessing as mp
from torch.nn import functional
from weights import read

BALANCE, MUON_LR, ADAM_LR, DECAY = 0.02, 0.018, 0.003, 0.03
COOL, QUANTIZE_FROM, SAVE_EVERY, TEST_EVERY = 0.4, 0.8, 200, 3  # shares of the run; seconds; saves
LONGEST_STEP = 10.0  # seconds; a step that took longer was paused


@torch.no_grad()
def answer_losses(
    w: dict[str, Tensor], shape: Shape, rows: list[Any], tables: tuple[Tensor, Tensor]
) -> list[float]:
    """What each row's answers cost, in nats."""
    groups, mask, source, target = batch(rows, tables[0].device)
    x, _, _ = forward(w, shape, groups, tables, mask)
    losses = functional.cross_entropy((x[source] @ w["head"].T).float(), target, reduction="none")
    counts = torch.tensor([sum(row[1]) for row in rows], device=losses.device)
    row_of = torch.arange(len(rows), device=losses.device).repeat_interleave(counts)
    sums: list[float] = losses.new_zeros(len(rows)).index_add_(0, row_of, losses).tolist()
    return sums


@torch.no_grad()
def exact(
    w: dict[str, Tensor], shape: Shape, rows: list[Any], tables: tuple[Tensor, Tensor]
) -> tuple[dict[str, float], Tensor]:
    """Share of answers of each skill whose every token is the model's first choice; expert shares."""
    hits, counts, shares = Counter[str](), Counter[str](), []
    for chunk in chunks(rows, max(1, len(rows) // 32)):
        groups, mask, source, target = batch(chunk, tables[0].device)
        x, _, share = forward(w, shape, groups, tables, mask)
        right = ((x[source] @ w["head"].T).argmax(-1) == target).tolist()
        shares.append(share)
        at = 0
        for _, _, spans in chunk:
            for skill, start, end in spans:
                counts[skill] += 1
                hits[skill] += all(right[at : at + end - start])
                at += end - start
    return {skill: hits[skill] / counts[skill] for skill in sorted(counts)}, torch.stack(shares).mean(0)


def number_format(device: str) -> torch.dtype:
    """bfloat16, or float32 on a CPU that has no instructions for it and would be many times slower."""
    if device != "cpu" or platform.machine() != "x86_64":
        return torch.bfloat16
    return torch.bfloat16 if torch.cpu.get_capabilities()["avx512_bf16"] else torch.float32


def worker(rank: int, world: int, shared: dict[str, Any], options: argparse.Namespace) -> None:
    """One of ``world`` processes; rank 0 also evaluates and saves."""
    torch.set_num_threads(1 if world > 1 else torch.get_num_threads())
    shape, device = Shape(), torch.device(options.device)
    layout, run = Layout(shape), Path(options.run)
    rounding = Rounding(layout, threads=1 if world > 1 else os.cpu_count() or 1)
    master, work, grads = shared["master"], shared["work"], shared["grads"]
    leaves = {name: view.detach().requires_grad_() for name, view in layout.views(work).items()}
    for name, view in layout.views(grads[rank]).items():
        leaves[name].grad = view
    sp = sentencepiece.SentencePieceProcessor(model_file=options.tokenizer)
    tables = rotary(shape, device)
    square, half = layout.squares // 65536, (layout.matrices - layout.squares) // 32768
    cut = [  # this process's parts of the flat buffer, with the shape of the matrices in it (none: AdamW)
        (_part(0, square, 65536, rank, world), (256, 256)),
        (_part(layout.squares, half, 32768, rank, world), (128, 256)),
        (_part(layout.matrices, (layout.total - layout.matrices) // 256, 256, rank, world), None),
    ]
    state = shared["state"]  # first moment (momentum) and second moment
    spent, step, costs = shared["spent"], shared["step"], shared["costs"]
    wanted = (options.seed + step * 1009, shape.context, options.draw, options.copies)
    steps = read_by(options.readers, options.tokenizer, *wanted) if options.readers else stream(sp, *wanted)
    if rank == 0:
        test = [
            encode(sp, d) for d, _ in zip(corpus.dialogues(31, fresh=True), range(options.test), strict=False)
        ]
        test = [row for row in test if len(row[0]) < 700]
    last = last_save = last_note = time.time()
    losses: list[float] = []
    tokens = saves = 0
    rounded = spent >= options.quantize_from * options.minutes * 60
    while True:
        progress = min(1.0, (spent + shared["clock"].value) / (options.minutes * 60))
        lr = options.rate * min(1.0, (step + 1) / 60) * min(1.0, max(0.02, (1 - progress) / options.cool))
        rows = next(steps)
        if options.draw > options.keep:
            at = {id(row): i for i, row in enumerate(rows)}
            for part in _taken(shared["read"], chunks(rows, 2 * options.chunks)):
                for row, cost in zip(part, answer_losses(leaves, shape, part, tables), strict=True):
                    costs[at[id(row)]] = cost
            shared["barrier"].wait()
            rows = hardest(rows, costs.tolist(), options.keep)
        parts = chunks(rows, options.chunks)
        total = sum(sum(row[1]) for row in rows)
        for part in _taken(shared["next"], parts):
            groups, mask, source, target = batch(part, device)
            x, balance, _ = forward(leaves, shape, groups, tables, mask)
            logits = (x[source] @ leaves["head"].T).float()
            loss = functional.cross_entropy(logits, target, reduction="sum") / total
            (loss + BALANCE * balance / len(parts)).backward()
            with shared["loss"].get_lock():
                shared["loss"].value += float(loss.detach())
            tokens += int(mask.sum())
        shared["barrier"].wait()
        if rank == 0:
            losses.append(shared["loss"].value)
        fake = progress >= options.quantize_from
        if fake and not rounded and rank == 0:  # what the encoders do to weights that never met them
            save(run / "before_rounding.pt", shared, step, spent + shared["clock"].value)
        rounded = fake
        with torch.no_grad():
            for (start, end), matrix in cut:
                if start == end:
                    continue
                part = slice(start, end)
                g = sum(grad[part].float() for grad in grads)
                for grad in grads:
                    grad[part].zero_()
                m = state[0][part]
                if matrix is not None:
                    m.mul_(0.95).add_(g)
                    at_once = 8 if device.type == "cpu" else end - start  # few stay in a CPU's cache
                    update = orthogonal((g + 0.95 * m).view(-1, *matrix).to(work.dtype), at_once)
                    update = update.reshape(-1).float()
                    master[part].mul_(1 - MUON_LR * lr * DECAY).sub_(update, alpha=MUON_LR * lr)
                else:
                    v = state[1][part]
                    m.mul_(0.9).add_(g, alpha=0.1)
                    v.mul_(0.98).addcmul_(g, g, value=0.02)
                    correction = (1 - 0.98 ** (step + 1)) ** 0.5 / (1 - 0.9 ** (step + 1))
                    master[part].addcdiv_(m, v.sqrt().add_(1e-9), value=-ADAM_LR * lr * correction)
                if fake:
                    rounding(master, start, end, work)
                else:
                    work[part] = master[part]
        step += 1
        if rank == 0:
            shared["next"].value, shared["read"].value, shared["loss"].value = 0, 0, 0.0
            now = time.time()
            shared["clock"].value += min(now - last, LONGEST_STEP)
            last = now
            if now - last_note > 20:
                print(
                    f"step {step} {100 * progress:.1f}% lr {lr:.3f} loss {sum(losses) / len(losses):.4f}"
                    f" {world * tokens / (now - last_note):.0f} tok/s{' q4' if fake else ''}",
                    flush=True,
                )
                last_note, losses, tokens = now, [], 0
            if now - last_save > SAVE_EVERY or progress >= 1:
                save(run / "checkpoint.pt", shared, step, spent + shared["clock"].value)
                saves += 1
            if saves == TEST_EVERY or progress >= 1:
                saves = 0
                scores, share = exact(leaves, shape, test, tables)
                print(
                    "  exact "
                    + " ".join(f"{k} {100 * v:.1f}" for k, v in scores.items())
                    + f" | experts {100 * share.min():.1f}-{100 * share.max():.1f}%",
                    flush=True,
                )
            if now - last_save > SAVE_EVERY:
                last_save = time.time()
        shared["barrier"].wait()
        if progress >= 1:
            break


def _taken(counter: Any, parts: list[Any]) -> Iterator[Any]:
    """The parts that this process is the first to take."""
    while True:
        with counter.get_lock():
            mine = counter.value
            counter.value += 1
        if mine >= len(parts):
            return
        yield parts[mine]


def _part(base: int, count: int, size: int, rank: int, world: int) -> tuple[int, int]:
    return base + count * rank // world * size, base + count * (rank + 1) // world * size


def save(path: Path, shared: dict[str, Any], step: int, spent: float) -> None:
    """Write a checkpoint, all or nothing."""
    record = {"master": shared["master"].cpu(), "state": shared["state"].cpu(), "step": step, "spent": spent}
    temporary = path.with_suffix(".tmp")
    torch.save(record, temporary)
    os.replace(temporary, path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo model; resumes from RUN/checkpoint.pt.")
    parser.add_argument("run")
    parser.add_argument(
        "--minutes", type=float, default=80, help="training time in all, earlier runs counted in"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokenizer", default=str(Path(__file__).parent / "model" / "tokenizer.model"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2, help="on the CPU; one thread each")
    parser.add_argument("--chunks", type=int, default=4, help="pieces that a step's dialogues are cut into")
    parser.add_argument("--start", help="exported weights to begin from, such as demo/model")
    parser.add_argument("--readers", type=int, default=0, help="processes that generate (0: the trainers do)")
    parser.add_argument("--copies", type=int, default=8, help="rows of random tokens to copy, per step")
    parser.add_argument("--test", type=int, default=120, help="dialogues to test on at each checkpoint")
    parser.add_argument("--keep", type=int, default=48, help="dialogues per step to train on")
    parser.add_argument("--draw", type=int, default=48, help="dialogues per step to choose them from")
    parser.add_argument("--rate", type=float, default=1.0, help="share of the full learning rate")
    parser.add_argument("--cool", type=float, default=COOL, help="share of the run in which the rate falls")
    parser.add_argument(
        "--quantize-from",
        type=float,
        default=QUANTIZE_FROM,
        help="share of the run after which weights are rounded",
    )
    options = parser.parse_args()
    world = options.processes if options.device == "cpu" else 1
    if options.readers and world > 1:
        parser.error("--readers is for --device cuda or --processes 1: two trainers generate for themselves")
    run = Path(options.run)
    run.mkdir(parents=True, exist_ok=True)
    layout = Layout(Shape())
    checkpoint = run / "checkpoint.pt"
    saved = torch.load(checkpoint, map_location="cpu") if checkpoint.exists() else None
    fresh = read(Path(options.start), Shape()) if options.start else layout.initialise(options.seed)
    master = saved["master"] if saved else fresh
    state = saved["state"] if saved else torch.zeros(2, layout.total)
    master, state = master.to(options.device), state.to(options.device)
    work = master.to(number_format(options.device), copy=True)
    context = mp.get_context("spawn")
    grads = torch.zeros(world, layout.total, dtype=work.dtype, device=options.device)
    shared: dict[str, Any] = {
        "master": master,
        "work": work,
        "state": state,
        "grads": list(grads),
        "barrier": context.Barrier(world),
        "next": context.Value("i", 0),  # counters of the chunks to train on, and to read first
        "read": context.Value("i", 0),
        "costs": torch.zeros(options.draw + options.copies),
        "loss": context.Value("d", 0.0),
        "clock": context.Value("d", 0.0),
        "step": saved["step"] if saved else 0,
        "spent": saved["spent"] if saved else 0.0,
    }
    print(f"{layout.total / 1e6:.2f} M parameters, step {shared['step']}", flush=True)
    if world == 1:
        worker(0, 1, shared, options)
        return
    for tensor in (master, work, state, shared["costs"], *shared["grads"]):
        tensor.share_memory_()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the workers end with this process
    mp.spawn(worker, args=(world, shared, options), nprocs=world, daemon=True)


if __name__ == "__main__":
    main()
