"""Score the demo model: generated dialogues with values never trained, and hand-written ones it was never
tuned to.

    python demo/evaluate.py                           # localmoe.load("demo"), as users run it
    python demo/evaluate.py --torch demo/model        # the BF16 weights, in transformers
    python demo/evaluate.py --compare demo/model      # both, side by side, with the loss by quantization

Bars: generated recall, sums, capitals, JSON 97 %, help 95 %; hand-written recall, sums, capitals, outside 90
%, JSON, help 85 %.
"""

import argparse
import json
import math
import random
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import corpus
import numpy as np

Messages = list[dict[str, str]]
HERE = Path(__file__).parent
ANSWER_TOKENS = 256  # the longest answer, the tour of localmoe, has about 200
BARS = {
    "generated": {"recall": 97, "sums": 97, "capitals": 97, "json": 97, "help": 95},
    "heldout": {"recall": 90, "sums": 90, "capitals": 90, "json": 85, "help": 85, "outside": 90},
}


class Backend(Protocol):
    def answer(self, conversations: Sequence[Messages]) -> list[str]: ...

    def loss(self, dialogues: Sequence[dict[str, Any]]) -> tuple[float, int]: ...


class Torch:
    """The Hugging Face folder, in transformers, float32."""

    def __init__(self, folder: Path) -> None:
        import sentencepiece
        import torch
        from transformers import MixtralForCausalLM

        self.torch = torch
        self.tokens = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        self.model = MixtralForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def encode(self, messages: Messages) -> list[int]:
        from batches import encode

        system, turns = split(messages)
        padded = [*turns, ""] if len(turns) % 2 else turns
        pairs = [["", user, reply] for user, reply in zip(padded[::2], padded[1::2], strict=True)]
        ids, _, spans = encode(self.tokens, {"system": system, "turns": pairs})
        return ids[: spans[-1][1]] if len(turns) % 2 else ids

    def answer(self, conversations: Sequence[Messages]) -> list[str]:
        torch = self.torch
        prompts = [self.encode(messages) for messages in conversations]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        out = [""] * len(prompts)
        for at in range(0, len(order), 32):
            part = order[at : at + 32]
            longest = max(len(prompts[i]) for i in part)
            ids = torch.tensor([[0] * (longest - len(prompts[i])) + prompts[i] for i in part])
            mask = torch.tensor([[0] * (longest - len(prompts[i])) + [1] * len(prompts[i]) for i in part])
            made = self.model.generate(
                ids, attention_mask=mask, max_new_tokens=ANSWER_TOKENS, do_sample=False, pad_token_id=0,
                eos_token_id=2,
            )  # fmt: skip
            for i, row in zip(part, made[:, longest:].tolist(), strict=True):
                out[i] = self.tokens.decode(row[: row.index(2)] if 2 in row else [t for t in row if t > 2])
        return out

    def loss(self, dialogues: Sequence[dict[str, Any]]) -> tuple[float, int]:
        def logits(ids: list[int]) -> Any:
            with self.torch.no_grad():
                return self.model(self.torch.tensor([ids])).logits[0].numpy()

        return answer_loss(self.tokens, dialogues, logits)


class Local:
    """``localmoe.load``: the quantized model as users run it."""

    def __init__(self, name: str) -> None:
        import localmoe

        self.model = localmoe.load(name)

    def answer(self, conversations: Sequence[Messages]) -> list[str]:
        out = []
        for messages in conversations:
            prompt = self.model.encode_chat(messages)
            made = self.model.generate_ids(prompt, max_tokens=ANSWER_TOKENS, temperature=0)
            out.append(self.model.tokenizer.decode(list(made)))
        return out

    def loss(self, dialogues: Sequence[dict[str, Any]]) -> tuple[float, int]:
        import sentencepiece

        tokens = sentencepiece.SentencePieceProcessor(model_file=str(HERE / "model" / "tokenizer.model"))
        return answer_loss(tokens, dialogues, self.model.logits)


def answer_loss(tokens: Any, dialogues: Sequence[dict[str, Any]], logits: Any) -> tuple[float, int]:
    """Summed negative log-likelihood of the answers' tokens, and their number."""
    from batches import encode

    total, count = 0.0, 0
    for dialogue in dialogues:
        ids, answer, _ = encode(tokens, dialogue)
        scores = np.asarray(logits(ids), np.float64)
        for at in range(1, len(ids)):
            if answer[at]:
                row = scores[at - 1] - scores[at - 1].max()
                total -= float(row[ids[at]] - math.log(np.exp(row).sum()))
                count += 1
    return total, count


def split(messages: Messages) -> tuple[str | None, list[str]]:
    """The system prompt and the other texts."""
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    return system, [m["content"] for m in messages if m["role"] != "system"]


def generated(count: int, seed: int = 77) -> list[dict[str, Any]]:
    """``count`` items of each skill, with values and pairs never trained, in the format of
    ``heldout.jsonl``.
    """
    items = []
    for skill in corpus.SKILLS:
        for number in range(count):
            talk = corpus.dialogue(
                random.Random(f"evaluate/{seed}/{skill}/{number}"), fresh=True, skill=skill
            )
            messages = [{"role": "system", "content": talk.system}] if talk.system else []
            for _, user, reply in talk.turns:
                messages += [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]
            items.append(
                {"skill": skill, "messages": messages[:-1], "check": {"equals": messages[-1]["content"]}}
            )
    return items


def passes(answer: str, check: dict[str, Any]) -> bool:
    """Whether ``answer`` satisfies ``check``."""
    text = " ".join(answer.split())

    def holds(word: str) -> bool:
        return re.search(rf"(?<!\w){re.escape(str(word))}(?!\w)", text, re.IGNORECASE) is not None

    if "equals" in check:
        return text == " ".join(check["equals"].split())
    if "number" in check:
        found = re.findall(r"-?\d+", text.replace("−", "-"))
        return bool(found) and int(found[-1]) == check["number"]
    if "json" in check:
        try:
            made = json.loads(answer)
        except ValueError:
            return False
        wanted = {key: str(value).lower() for key, value in check["json"].items()}
        return isinstance(made, dict) and {key: str(value).lower() for key, value in made.items()} == wanted
    if "command" in check:
        return all(" ".join(fragment.split()) in text for fragment in check["command"])
    if check.get("outside"):
        return "small demo model" in text and "Mixtral" in text
    return all(holds(word) for word in check.get("contains", [])) and not any(
        holds(word) for word in check.get("lacks", [])
    )


def score(backend: Backend, items: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Percentage of passed checks by skill. Prints no item: the hand-written ones stay unseen."""
    right: dict[str, list[bool]] = defaultdict(list)
    for item, answer in zip(items, backend.answer([item["messages"] for item in items]), strict=True):
        right[item["skill"]].append(passes(answer, item["check"]))
    return {skill: round(100 * sum(hits) / len(hits), 1) for skill, hits in sorted(right.items())}


def routing(folder: Path, per_skill: int = 40) -> dict[str, Any]:
    """Share of tokens per expert and layer, overall, and how far each skill's shares are from all others'."""
    import sentencepiece
    import torch
    from batches import batch, encode
    from model import Layout, Shape, forward, rotary
    from weights import read

    shape = Shape()
    views, tables = Layout(shape).views(read(folder, shape)), rotary(shape, torch.device("cpu"))
    tokens = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    by_skill = {}
    for skill in corpus.SKILLS:
        talks = [
            corpus.dialogue(random.Random(f"routing/{skill}/{n}"), fresh=True, skill=skill)
            for n in range(per_skill)
        ]
        rows = [encode(tokens, {"system": None, "turns": [t.turns[-1]]}) for t in talks]
        rows.sort(key=lambda row: -len(row[0]))
        groups, mask, *_ = batch(rows, torch.device("cpu"))
        with torch.no_grad():
            by_skill[skill] = forward(views, shape, groups, tables, mask)[2].numpy()
    mean = np.mean(list(by_skill.values()), axis=0)
    return {
        "shares": [[round(100 * float(x), 1) for x in row] for row in mean],
        "smallest": round(100 * float(mean.min()), 1),
        "largest": round(100 * float(mean.max()), 1),
        "difference_by_skill": {
            skill: round(50 * float(np.abs(s - mean).sum(1).mean()), 1) for skill, s in by_skill.items()
        },
    }


def report(backend: Backend, arguments: argparse.Namespace) -> dict[str, Any]:
    """Scores and perplexity of one backend."""
    result: dict[str, Any] = {"generated": score(backend, generated(arguments.count))}
    heldout = HERE / "heldout.jsonl"
    if heldout.exists() and not arguments.no_heldout:
        result["heldout"] = score(
            backend, [json.loads(line) for line in heldout.read_text().splitlines() if line.strip()]
        )
    dialogues = [
        d
        for d, _ in zip(corpus.dialogues(4242, fresh=True), range(arguments.dialogues), strict=False)
        if len(d["turns"]) < 12
    ]
    total, count = backend.loss(dialogues)
    result["perplexity"] = round(math.exp(total / max(count, 1)), 5)
    return result


def show(title: str, result: dict[str, Any]) -> None:
    print(title)
    for name in ("generated", "heldout"):
        if name in result:
            bars = BARS[name]
            print(
                f"  {name:10}"
                + "  ".join(
                    f"{k} {v:.1f}{'' if v >= bars.get(k, 0) else ' (below ' + str(bars[k]) + ')'}"
                    for k, v in result[name].items()
                )
            )
    print(f"  perplexity of answers {result['perplexity']}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Score the demo model.")
    parser.add_argument("--model", default="demo", help="what localmoe.load is given")
    parser.add_argument("--torch", type=Path, help="score this Hugging Face folder in transformers instead")
    parser.add_argument("--compare", type=Path, help="score both")
    parser.add_argument("--count", type=int, default=100, help="generated items per skill")
    parser.add_argument("--dialogues", type=int, default=100, help="dialogues for the perplexity")
    parser.add_argument("--no-heldout", action="store_true")
    parser.add_argument(
        "--routing", action="store_true", help="also the shares of experts (of the BF16 weights)"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    sys.path.insert(0, str(HERE.parent))
    result: dict[str, Any] = {}
    folder = arguments.torch or arguments.compare
    if folder:
        result["bf16"] = report(Torch(folder), arguments)
    if not arguments.torch:
        result["localmoe"] = report(Local(arguments.model), arguments)
    if arguments.compare:
        a, b = result["bf16"], result["localmoe"]
        result["loss"] = {
            name: {skill: round(a[name][skill] - b[name][skill], 1) for skill in a[name]}
            for name in ("generated", "heldout")
            if name in a
        } | {"perplexity_percent": round(100 * (b["perplexity"] / a["perplexity"] - 1), 2)}
    if arguments.routing:
        result["routing"] = routing(folder or HERE / "model")
    if arguments.json:
        print(json.dumps(result))
        return
    for key in ("bf16", "localmoe"):
        if key in result:
            show(key, result[key])
    for key in ("loss", "routing"):
        if key in result:
            print(key, json.dumps(result[key]))


if __name__ == "__main__":
    main()
