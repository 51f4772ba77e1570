"""What a step of the training sees: dialogues as token ids, chosen, grouped and padded.

A dialogue is encoded as Mixtral's v1 format does: ``<s>``, then for each turn ``encode("[INST] " + user + "
[/INST]")`` and ``encode(answer) + </s>``, each piece encoded by itself; the system prompt stands before the
first user text, a blank line between. The loss is on answers only.
"""

import random
from collections.abc import Iterator
from typing import Any

import corpus
import torch
from torch import Tensor

ANY = 8  # one in so many of a step's dialogues is kept whatever its loss


def encode(sp: Any, dialogue: dict[str, Any]) -> tuple[list[int], list[bool], list[tuple[str, int, int]]]:
    """Token ids, which of them are answers to learn, and (skill, start, end) of each such answer."""
    ids, answer, spans = [1], [False], []
    for number, (skill, user, reply) in enumerate(dialogue["turns"]):
        if not number and dialogue["system"]:
            user = dialogue["system"] + "\n\n" + user
        prompt, text = sp.encode(f"[INST] {user} [/INST]"), [*sp.encode(reply), 2]
        if skill != "heard":
            spans.append((skill, len(ids) + len(prompt), len(ids) + len(prompt) + len(text)))
        ids += prompt + text
        answer += [False] * len(prompt) + [skill != "heard"] * len(text)
    return ids, answer, spans


def chunks(rows: list[Any], count: int) -> list[list[Any]]:
    """``rows`` sorted by length and cut into ``count`` chunks of about as many tokens, the longest first."""
    rows = sorted(rows, key=lambda row: -len(row[0]))
    target, out, size = sum(len(row[0]) for row in rows) / count, [[]], 0
    for row in rows:
        if size >= target and len(out) < count:
            out.append([])
            size = 0
        out[-1].append(row)
        size += len(row[0])
    return out


def batch(rows: list[Any], device: torch.device) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Groups of rows of similar length, the mask of real tokens, positions to predict from, and what follows
    them.
    """
    groups, mask, source, target, base, at = [], [], [], [], 0, 0
    while at < len(rows):
        longest = len(rows[at][0])
        size = 1
        while at + size < len(rows) and size < 24 and len(rows[at + size][0]) >= 0.8 * longest - 4:
            size += 1
        tokens = torch.zeros(size, longest, dtype=torch.long)
        for r, (ids, answer, *_) in enumerate(rows[at : at + size]):
            tokens[r, : len(ids)] = torch.tensor(ids)
            mask.append(torch.arange(longest) < len(ids))
            wanted = [j for j in range(1, len(ids)) if answer[j]]
            source += [base + r * longest + j - 1 for j in wanted]
            target += [ids[j] for j in wanted]
        groups.append(tokens.to(device))
        base += size * longest
        at += size
    return (
        groups,
        torch.cat(mask).to(device),
        torch.tensor(source, device=device),
        torch.tensor(target, device=device),
    )


def copying(rng: random.Random, vocabulary: int) -> Any:
    """A row of random tokens said twice: it teaches to look back and copy, long before any dialogue would."""
    first = [rng.randrange(261, vocabulary) for _ in range(rng.randint(8, 32))]
    return [1, *first, *first], [False] * (1 + len(first)) + [False, *[True] * (len(first) - 1)], []


def stream(sp: Any, seed: int, limit: int, count: int, copies: int) -> Iterator[list[Any]]:
    """Steps of ``count`` encoded dialogues, and some rows to copy; dialogues too long for the context are
    left out.
    """
    source, rng = corpus.dialogues(seed), random.Random(seed)
    while True:
        rows: list[Any] = []
        while len(rows) < count:
            row = encode(sp, next(source))
            if len(row[0]) <= limit:
                rows.append(row)
        yield rows + [copying(rng, sp.vocab_size()) for _ in range(copies)]


def hardest(rows: list[Any], losses: list[float], keep: int) -> list[Any]:
    """``keep`` of the rows: those with the most loss for their length, and a few of the others.

    Most dialogues soon have nothing left to teach: reading them forward costs a third of training on them
    (selective backpropagation: Jiang et al. 2019, 1910.00762).
    """
    order = sorted(range(len(rows)), key=lambda i: -losses[i] / (len(rows[i][0]) + 16))
    others = sorted(order[keep - keep // ANY :])  # as drawn: no better and no worse than any
    return [rows[i] for i in order[: keep - keep // ANY] + others[: keep // ANY]]
