"""A trace through experts/policy.py and through the resolve kernel: identical decisions at every step, in
both modes.

Run under TRITON_INTERPRET=1 by test_gpu_resolve.py, or on a GPU: python resolve_replay.py [cpu|cuda]
[tokens].
"""

import sys
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch

from localmoe.experts import policy
from localmoe.experts.statistics import ExpertStatistics
from localmoe.experts.traces import generate_trace
from localmoe.kernels.gpu_launch import Launcher
from localmoe.kernels.gpu_resolve import MOST_WISHES

FFN, SLOT_BYTES = 512, [1000, 1700]


@dataclass(frozen=True)
class Size:
    layers: int
    experts: int
    k: int
    slots: tuple[int, int]
    file_only: tuple[tuple[int, int], ...]  # layer and expert, without a pinned copy

    @property
    def class_of(self):
        """Two sizes of expert: the first and the last layer have the one, those between the other."""
        inner = np.arange(self.layers) % (self.layers - 1) > 0
        return inner.astype(np.int32)


FEW = Size(4, 6, 2, (3, 4), ((1, 2), (3, 0)))
# more than one block of the search for a victim
MANY = Size(9, 128, 8, (12, 30), tuple((i, e) for i in range(9) for e in range(0, 128, 8)))


class Reference:
    """What the host's own functions decide."""

    def __init__(self, size, at_once):
        self.size, self.at_once = size, at_once
        self.statistics = ExpertStatistics(size.layers, size.experts, size.k)
        self.slot_of = np.full((size.layers, size.experts), -1, np.int32)
        self.filled, self.wishes = [0, 0], []

    def layer(self, layer, chosen, home):
        self.statistics.observe(layer, chosen)
        size, decisions = self.size, []
        number = int(size.class_of[layer])
        for expert in chosen.tolist():
            if self.slot_of[layer, expert] >= 0:
                decisions.append(("hit", int(self.slot_of[layer, expert])))
                continue
            victim = -1
            if self.filled[number] < size.slots[number]:
                admitted = True
            else:
                of_class = np.equal(size.class_of, number)[:, None]
                candidates = (self.slot_of >= 0) & of_class
                candidates[layer, chosen] = False
                victim = policy.victim(policy.scores(self.statistics), candidates)
                admitted = victim >= 0 and policy.admits(
                    self.statistics, layer * size.experts + expert, victim
                )
            if not admitted:
                decisions.append(("pass", None))
            elif self.at_once and home[layer, expert]:
                slot = self.filled[number] if victim < 0 else int(self.slot_of.flat[victim])
                if victim < 0:
                    self.filled[number] += 1
                else:
                    self.slot_of.flat[victim] = -1
                self.slot_of[layer, expert] = slot
                decisions.append(("into", slot))
            else:
                worth = policy.scores(self.statistics).ravel()
                newcomer = layer * size.experts + expert
                gain = worth[newcomer] - (worth[victim] if victim >= 0 else 0)
                self.wishes.append((newcomer, victim, int(gain)))
                decisions.append(("wish", None))
        if layer == size.layers - 1:
            self.statistics.end_token()
        return decisions


def fulfil(wish, reference, tables, rng):
    """The host moves a wish in, at times, as the background copies do."""
    newcomer, victim, _ = wish
    size = reference.size
    number = int(size.class_of[newcomer // size.experts])
    if reference.slot_of.flat[newcomer] >= 0 or rng.random() < 0.4:
        return
    if reference.filled[number] < size.slots[number]:
        slot = reference.filled[number]
        reference.filled[number] += 1
        tables.filled[number] = slot + 1
    elif victim >= 0 and reference.slot_of.flat[victim] >= 0:
        slot = int(reference.slot_of.flat[victim])
        reference.slot_of.flat[victim] = -1
        tables.slot_of.view(-1)[victim] = -1
        tables.address.view(-1)[victim] = tables.home.view(-1)[victim]
    else:
        return
    reference.slot_of.flat[newcomer] = slot
    tables.slot_of.view(-1)[newcomer] = slot
    tables.address.view(-1)[newcomer] = 10**6 * (number + 1) + slot * SLOT_BYTES[number]


def main(device, tokens, size):
    launch, k = Launcher(interpreted=device == "cpu"), size.k
    trace = generate_trace(tokens, size.layers, experts=size.experts, chosen=k, seed=8)
    for mode, shares in enumerate(([FFN] * (k + 1), [FFN, 256, *[128] * (k - 1)])):
        reference, rng = Reference(size, at_once=mode == 0), np.random.default_rng(mode)
        fresh = ExpertStatistics(size.layers, size.experts, k)
        home = 5000 + np.arange(size.layers * size.experts, dtype=np.int64).reshape(fresh.used.shape)
        for place in size.file_only:
            home[place] = 0
        on = lambda a, d=device: torch.tensor(a, device=d)  # noqa: E731
        tables = SimpleNamespace(
            **{name: on(array) for name, array in fresh.arrays().items()}, address=on(home), home=on(home),
            slot_of=on(reference.slot_of), class_of=on(size.class_of),
            slot_base=on(np.array([10**6, 2 * 10**6])), slot_bytes=on(np.array(SLOT_BYTES)),
            slots=on(np.array(size.slots, np.int32)), filled=on(np.zeros(2, np.int32)),
            staging=on(71 + np.arange(k)), mode=on(np.array([mode], np.int32)),
            share=on(np.array(shares, np.int32)),
            counters=on(np.zeros(8, np.int64)), wishes=on(np.zeros((MOST_WISHES, 3), np.int32)),
        )  # fmt: skip
        work = SimpleNamespace(
            source=on(np.zeros(k, np.int64)), target=on(np.zeros(k, np.int64)), rows=on(np.zeros(k, np.int32))
        )
        counts = dict.fromkeys(("hit", "into", "wish", "pass"), 0)
        for token in range(tokens):
            for layer in range(size.layers):
                chosen = trace[token, layer].astype(np.int32)
                missed = chosen[reference.slot_of[layer, chosen] < 0]
                share = shares[len(missed)]
                if share < FFN and not home[layer, missed].all():  # all is the CPU's, see resolve_kernel
                    share = 0
                decisions = reference.layer(layer, chosen, home)
                launch.resolve(tables, on(chosen), layer, work, FFN)
                number = int(size.class_of[layer])
                for c, (kind, slot) in enumerate(decisions):
                    counts[kind] += 1
                    in_slot = 10**6 * (number + 1) + (slot or 0) * SLOT_BYTES[number]
                    at_home = int(home[layer, chosen[c]])
                    rows = FFN if kind == "hit" else 0 if at_home == 0 else share
                    wanted = {
                        "hit": (in_slot, in_slot), "into": (at_home, in_slot), "pass": (at_home, 71 + c),
                        "wish": (at_home, 71 + c)
                    }[kind]  # fmt: skip
                    got = int(work.source[c]), int(work.target[c]), int(work.rows[c])
                    assert got == (*wanted, rows), (mode, token, layer, c, kind, got, wanted, rows)
                assert np.array_equal(tables.slot_of.cpu().numpy(), reference.slot_of), (mode, token, layer)
                if mode == 1 and layer == size.layers - 1:
                    for wish in reference.wishes[-(size.layers * k // 8) :]:
                        fulfil(wish, reference, tables, rng)
            for name, array in reference.statistics.arrays().items():
                assert np.array_equal(getattr(tables, name).cpu().numpy(), array), (mode, token, name)
        wished = int(tables.counters[3])
        assert wished == len(reference.wishes)
        for n in range(max(0, wished - MOST_WISHES), wished):
            assert tuple(tables.wishes[n % MOST_WISHES].tolist()) == reference.wishes[n]
        assert int(tables.counters[0]) == counts["hit"]
        assert int(tables.counters[1]) == tokens * size.layers * k - counts["hit"]
        assert int(tables.counters[2]) == counts["into"]
        assert min(counts["hit"], counts["pass"], counts["wish"]) > 0, counts
        assert mode == 1 or counts["into"] > 10, counts
        print(mode, counts)


if __name__ == "__main__":
    given = sys.argv[1:]
    many = int(given[1]) if len(given) > 1 else 40
    for count, which in ((many, FEW), (many // 2, MANY)):
        main(given[0] if given else "cpu", count, which)
