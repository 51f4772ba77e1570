"""The corpus is what the model will be: it must be deterministic, right, and apart from what evaluation
asks.
"""

import itertools
import json
import random
import re

import corpus
import pytest
from grammar import CLOSE, OPEN, expand, roughen
from skills import sums
from skills.facts import ANY, THINGS
from skills.objects import NAMED
from values import COUNTRIES, Values, held_out, held_out_pair


def some(seed: int, count: int, **options: bool) -> list[dict]:
    return list(itertools.islice(corpus.dialogues(seed, **options), count))


def turns(seed: int, count: int, skill: str, **options: bool) -> list[tuple[str, str]]:
    return [
        (user, reply)
        for d in some(seed, count, **options)
        for kind, user, reply in d["turns"]
        if kind == skill
    ]


def test_the_same_seed_gives_the_same_dialogues_and_another_seed_others() -> None:
    assert some(3, 50) == some(3, 50)
    assert some(3, 50) != some(4, 50)


def test_every_skill_has_a_share_and_questions_outside_enough_of_one() -> None:
    kinds = [turn[0] for d in some(5, 3000) for turn in d["turns"]]
    share = {skill: kinds.count(skill) / len(kinds) for skill in corpus.SKILLS}
    assert min(share.values()) > 0.04
    assert share["outside"] + share["manners"] > 0.15


def test_no_guard_is_left_in_a_text() -> None:
    assert not any(
        OPEN in text or CLOSE in text for d in some(6, 2000) for turn in d["turns"] for text in turn
    )
    assert not any(
        mark in user for d in some(6, 500) for _, user, _ in d["turns"] for mark in ("<v>", "<keys>", "{np}")
    )


def test_answers_in_json_are_objects() -> None:
    replies = [reply for _, reply in turns(7, 2000, "json") if reply != "Noted."]
    assert len(replies) > 300
    for reply in replies:
        made = json.loads(reply)
        assert isinstance(made, dict)
        assert made


def test_most_keys_are_the_facts_own_names_and_the_rest_of_no_two_facts_the_same() -> None:
    own = {"name", "city", "colour", "color", "number", "pet", "age", "country", *THINGS, *ANY}
    keys = [key for _, reply in turns(7, 1000, "json") if reply != "Noted." for key in json.loads(reply)]
    assert 0.8 < sum(key in own for key in keys) / len(keys) < 1
    written = [name for names in NAMED.values() for name in names.split("|")]
    assert len({*written, *own}) == len(written) + len(own)


def test_json_values_are_in_the_conversation() -> None:
    for dialogue in some(8, 500):
        said = (dialogue["system"] or "").lower()
        for skill, user, reply in dialogue["turns"]:
            said += "\n" + user.lower()
            if skill == "json" and reply != "Noted.":
                assert all(str(value).lower() in said for value in json.loads(reply).values()), (said, reply)


def test_sums_are_right_and_their_operands_in_range() -> None:
    replies = [reply for _, reply in turns(9, 2000, "sums") if not reply.startswith("Noted")]
    assert len(replies) > 300
    for reply in replies:
        a, sign, b, result = re.fullmatch(r"(-?\d+) ([+-]) (\d+) = (-?\d+)", reply).groups()  # type: ignore[union-attr]
        assert int(result) == (int(a) + int(b) if sign == "+" else int(a) - int(b))


@pytest.mark.parametrize("number", range(100))
def test_numbers_are_spelt_apart(number: int) -> None:
    spelt = [sums.spell(n) for n in range(100)]
    assert spelt.count(spelt[number]) == 1


def test_capitals_are_those_of_the_table() -> None:
    known = {f"The capital of {c} is {k}." for c, k, _ in COUNTRIES} | {
        f"{k} is the capital of {c}." for c, k, _ in COUNTRIES
    }
    for _, reply in turns(10, 2000, "capitals"):
        plain = re.sub(", so (yes|no)[.]$", ".", reply)
        assert plain in known, reply


def test_held_out_values_never_train() -> None:
    training, fresh = Values(random.Random(1)), Values(random.Random(1), fresh=True)
    for make in ("name", "city"):
        assert not any(held_out(getattr(training, make)()) for _ in range(500))
        assert all(held_out(getattr(fresh, make)()) for _ in range(100))
    assert not any(held_out_pair(*training.pair(False)) for _ in range(2000))
    assert all(held_out_pair(*fresh.pair(False)) for _ in range(200))


def test_told_sums_leave_the_held_out_pairs_alone_when_fresh_names_do() -> None:
    """A name of the evaluation's dialogues occurs in none of the training's."""
    trained = {reply for _, reply in turns(1, 3000, "recall") if reply.startswith("Your name is ")}
    asked = {reply for _, reply in turns(1, 1000, "recall", fresh=True) if reply.startswith("Your name is ")}
    assert asked
    assert not trained & asked


def test_a_recalled_value_was_told() -> None:
    for dialogue in some(12, 800):
        said = dialogue["system"] or ""
        for skill, user, reply in dialogue["turns"]:
            said += "\n" + user
            match = re.fullmatch(r"Your name is ([^;]+?)( and your? .+)?(, so (yes|no))?\.", reply)
            if skill == "recall" and match:
                assert match[1].lower() in said.lower(), (said, reply)


def test_grammar_expands_choices_rules_and_slots() -> None:
    rng = random.Random(0)
    made = {
        roughen(expand("(a|b|)<v> (x (y|z))", rng, {"v": 5}), random.Random(1)).lower() for _ in range(200)
    }
    assert made == {f"{p}5 x {q}" for p in ("a", "b", "") for q in ("y", "z")}


def test_noise_leaves_values_alone() -> None:
    rng = random.Random(2)
    for _ in range(500):
        assert "McDunn-Ojala" in roughen(
            expand("my name is definitely <v>.", rng, {"v": "McDunn-Ojala"}), rng
        )


def test_facts_put_into_json_at_once_keep_their_order() -> None:
    seen = 0
    for user, reply in turns(15, 6000, "json"):
        made = json.loads(reply) if reply.startswith("{") else {}
        text = user.lower()
        places = [text.find(str(value).lower()) for value in made.values()]
        named = any(key.lower() in text for key in made)
        if len(made) > 1 and min(places) >= 0 and not named:
            assert places == sorted(places), (user, reply)
            seen += 1
    assert seen > 5


def test_an_apostrophe_after_a_value_stays() -> None:
    said = f"{OPEN}Ada{CLOSE}'s colour isn't {OPEN}red{CLOSE}"
    seen = {roughen(said, random.Random(n)) for n in range(300)}
    assert all(re.match("ada['’]s", text.lower()) for text in seen)
    assert any("isnt" in text.lower() for text in seen)


def test_rare_things_are_practised_in_training_only() -> None:
    def near(fresh: bool) -> float:
        values = Values(random.Random(4), fresh)
        return sum(abs(a - b) < 12 for a, b in (values.pair(True) for _ in range(3000))) / 3000

    assert near(False) > near(True) + 0.1
