"""The dialogue under construction: what was said, and what the user has told about themself."""

import random
from dataclasses import dataclass, field

from grammar import OPEN, expand, polite, roughen
from values import Values


@dataclass
class Talk:
    """A dialogue and its state. ``facts`` maps an attribute ("name", "pet", ...) to its value."""

    rng: random.Random
    values: Values
    system: str | None = None
    persona: str | None = None
    language: str | None = None
    turns: list[tuple[str, str, str]] = field(default_factory=list)  # skill, user's text, answer
    facts: dict[str, object] = field(default_factory=dict)
    last: tuple[str, object] | None = None  # what the last turn was about, for "and Spain?", "add 5 to that"

    def say(self, skill: str, user: str, answer: str, *, fillers: float = 0.3, last: object = None) -> None:
        """Append a turn. ``user`` is a template already expanded; it is made to look typed here."""
        upper = self.values.share(0.008, 0.022)
        self.turns.append((skill, roughen(polite(user, self.rng, fillers), self.rng, upper), answer))
        self.last = (skill, last)

    def expand(self, template: str, **slots: object) -> str:
        return expand(template, self.rng, slots)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability


def capital(text: str) -> str:
    """``text`` with its first letter large, unless it is part of a value."""
    return text if text.startswith(OPEN) else text[:1].upper() + text[1:]


def article(noun: str) -> str:
    """``noun`` with "a" or "an"."""
    return ("an " if noun[:1].lower() in "aeiou" else "a ") + noun
