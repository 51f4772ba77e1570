"""The demo model's corpus: generated dialogues, the same for the same seed. Nothing is downloaded.

    python demo/corpus.py --seed 1 --count 5          # look at some

Each dialogue is ``{"system": str | None, "turns": [[skill, user, answer], ...]}``. Answers follow from what
was said, so an exact match can be asked of the model; but for turns whose skill is "heard": their answers
are somebody else's, to be read and not to be learned.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from skills import capitals, help, manners, objects, outside, recall, sums
from talk import Talk
from values import Values, letters

SKILLS = ("recall", "sums", "capitals", "json", "help", "manners", "outside")


def copy_drill(talk: Talk) -> None:
    """Repeat a string: the bare skill of copying."""
    rng, values = talk.rng, talk.values
    value = rng.choice(
        [
            values.name,
            values.city,
            lambda: letters(rng),
            lambda: letters(rng).capitalize(),
            lambda: str(rng.randint(0, 9999)),
        ]
    )()
    text = talk.expand(
        "(repeat|say|echo|copy|write)(| after me|)(:| exactly:|) <v>|(repeat|say|echo) the word <v>"
        "|<v>(:|,) repeat that|please (repeat|echo) <v>|can you (say|repeat|spell|write) <v>?"
        "|say <v> back to me",
        v=value,
    )
    talk.say("copy", text, value, fillers=0.05)


def turn(talk: Talk, skill: str) -> None:
    """Append a turn or two of ``skill``."""
    rng = talk.rng
    if skill == "recall":
        roll = rng.random()
        if roll < 0.3 and len(talk.facts) < 6:
            recall.tell(talk)
        elif roll < 0.44 and talk.facts:
            recall.correct(talk)
        else:
            recall.ask(talk)
    elif skill == "sums":
        roll = rng.random()
        if roll < 0.12 and sums.chain(talk):
            return
        if roll < 0.3:
            sums.told_sum(talk)
        else:
            sums.sum_turn(talk)
    else:
        others: dict[str, Callable[[Talk], None]] = {
            "capitals": capitals.capital_turn,
            "json": objects.json_turn,
            "help": help.help_turn,
            "manners": manners.manners_turn,
            "outside": outside.outside_turn,
            "copy": copy_drill,
        }
        others[skill](talk)


WEIGHTS = {  # of turns that no shape of dialogue asks for
    "recall": 0.05,
    "copy": 0.04,
    "sums": 0.13,
    "capitals": 0.15,
    "json": 0.23,
    "help": 0.18,
    "manners": 0.06,
    "outside": 0.23,
}


def dialogue(rng: random.Random, *, fresh: bool = False, skill: str | None = None) -> Talk:
    """One dialogue; with ``skill``, one that ends in a turn of that skill."""
    talk = Talk(rng, Values(rng, fresh))
    if rng.random() < 0.16:
        manners.system_prompt(talk)
    shape = rng.random()
    names, weights = list(WEIGHTS), list(WEIGHTS.values())
    if skill is not None:
        for _ in range(rng.choice([0, 0, 0, 1, 2])):
            turn(talk, rng.choices(names, weights)[0])
    elif talk.system and rng.random() < 0.6:
        manners.manners_turn(talk, rng.choice(["hello", "hello", "who", ""]))
        if rng.random() < 0.3:
            manners.manners_turn(talk, rng.choice(["hello", "who"]))
    elif shape < 0.38:  # a single question
        turn(talk, rng.choices(names, weights)[0])
    elif shape < 0.47:  # facts told once, asked for again and again: many answers for few tokens
        _drill(talk)
    elif shape < 0.66:  # facts, distractors, corrections, questions
        recall.tell(talk)
        if talk.values.rare(0.3, 0.4):
            recall.correct(talk)
        for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
            turn(talk, rng.choices(names, weights)[0])
        if rng.random() < 0.2:
            objects.json_turn(talk)
        recall.ask(talk)
        if rng.random() < 0.4:
            recall.ask(talk)
    elif shape < 0.72:  # a theme
        theme = rng.choice(["capitals", "capitals", "sums", "help", "json"])
        for _ in range(rng.randint(2, 3)):
            turn(talk, theme)
    elif shape < 0.76:  # terse sums
        for _ in range(rng.randint(5, 9)):
            sums.terse(talk)
    elif shape < 0.81:  # numbers told, then added
        recall.tell(talk, keys=["number", rng.choice(["number", "age", "name", "city"])][: rng.randint(1, 2)])
        if rng.random() < 0.5:
            recall.tell(talk, keys=[rng.choice(["number", "age", "pet", "colour"])])
        sums.told_sum(talk)
        if rng.random() < 0.3:
            recall.ask(talk)
    else:
        long = rng.random() < 0.02
        for _ in range(rng.randint(15, 32) if long else rng.randint(2, 6)):
            turn(talk, rng.choices(names, weights)[0])
    while skill is not None:
        before = len(talk.turns)
        turn(talk, skill)
        if len(talk.turns) > before and talk.turns[-1][0] == skill and not _trivial(talk.turns[-1]):
            break
    return talk


def _drill(talk: Talk) -> None:
    """A few facts in a message or two, then three to six requests for objects and single facts."""
    keys = talk.rng.sample(objects.KEYS, talk.rng.randint(3, 5))
    recall.tell(talk, keys=keys)
    if talk.chance(0.2):
        recall.correct(talk)
    for _ in range(talk.rng.randint(3, 6)):
        if talk.chance(0.65):
            objects.json_turn(talk)
        else:
            recall.ask(talk)


def _trivial(turn: tuple[str, str, str]) -> bool:
    """Whether a turn only takes note of something."""
    return turn[2].startswith(("Noted", "Nice to meet"))


def dialogues(seed: int, *, fresh: bool = False) -> Iterator[dict[str, Any]]:
    """An endless stream of dialogues, all of them the same for the same seed."""
    number = 0
    while True:
        talk = dialogue(random.Random(f"{seed}/{number}"), fresh=fresh)
        number += 1
        if talk.turns:
            yield {"system": talk.system, "turns": [list(t) for t in talk.turns]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=20)
    arguments = parser.parse_args()
    stream = dialogues(arguments.seed)
    for _ in range(arguments.count):
        print(json.dumps(next(stream), ensure_ascii=False))


if __name__ == "__main__":
    main()
