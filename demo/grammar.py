"""A small phrase grammar: templates that each stand for hundreds of surface forms.

``(a|b|)`` chooses one of its parts, which may nest; ``<name>`` is replaced by the slot of that name or,
where there is none, by the rule of that name in :data:`RULES`. Slot values are guarded by two control
characters until :func:`roughen` has made the text look typed (lower case, typos, missing punctuation), so
that noise never hits a value that the answer must repeat.
"""

# Phrase tables read better in long lines.
# ruff: noqa: E501

import functools
import random
import re
from collections.abc import Mapping

OPEN, CLOSE = "\x01", "\x02"  # around slot values while noise is applied

RULES: dict[str, str] = {
    "is": "(is|'s|is|was)",
    "whatis": "(what is|what's|whats|what was|what's|what is)",
    "tell": "(tell me|say|can you tell me|could you tell me|please tell me|would you tell me|i want to know|i'd like to know|"
    "i need to know|let me know|do tell me|can i ask|may i ask|i'm wondering|i was wondering|tell me again|do you know|"
    "i'd love to know|you know|just tell me|can you say|quickly tell me|help me out:|any idea)",
    "remind": "(remind me|can you remind me|could you remind me|please remind me|do you remember|do you still remember|"
    "do you recall|can you recall|do you still know|do you happen to remember|i forgot|i forget|i've forgotten|"
    "i can't remember|i cannot recall|i don't remember|tell me|tell me again|can you tell me|could you tell me|"
    "let's see if you remember|let's see if you know|do you know|i bet you forgot|have you memorised|show me you remember|"
    "would you remind me|i wonder if you know|i'd like to hear|say|repeat|repeat for me|did you note|did you catch|"
    "are you able to recall|are you still aware|you do remember|prove you know|i hope you remember|quick test:|pop quiz:)",
    "give": "(give me|show me|i need|i want|write|write me|produce|make|make me|create|build|return|print|output|generate|"
    "i'd like|can i have|could i get|can i get|please give me|let me have|can you give me|can you make|could you write|"
    "please output|please return|put together|compose|send me|respond with|reply with|answer with|form)",
    "how": "(how do i|how can i|how would i|how to|how could i|how should i|what's the way to|what is the command to|"
    "which command lets me|which command do i use to|what command do i type to|what do i type to|i want to|i'd like to|"
    "i need to|i would like to|is there a way to|can i|is it possible to|tell me how to|show me how to|"
    "help me|please help me|what's the best way to|i am trying to|i'm trying to|explain how to|how does one|"
    "what should i run to|what do i run to|what do i have to type to|which flag do i need to|which option do i use to|"
    "could you show me how to|do you know how to|can you tell me how to|any way to|command to|the command to|"
    "how do you|how might i|what must i type to|what is the option to|i wish to|could i|let me|am i able to|"
    "how exactly do i|with which command can i|is there an option to|is there a flag to|what would i type to)",
    "lead": "(hey|hi|hello|ok|okay|so|well|um|now|and|please|right|great|thanks|alright|good|hmm|oh|yo|hey there|cool|"
    "ok so|now then|by the way|btw|quick question|one question|one more thing|question|next|next question|listen|say|"
    "just wondering|sorry|sorry to bother you|excuse me|dear assistant|assistant|hello there|if you don't mind|"
    "let's see|another one|i have a question|tell me this|fine|perfect|nice|ok then|let me ask|first|also)",
    "trail": "(please|thanks|thank you|thx|pls|plz|again|now|then|for me|if you can|if possible|if you please|cheers|"
    "my friend|ok|right|by the way|btw|quickly|would you|will you|mate|buddy|if i may ask|i wonder|exactly|today|"
    "thanks a lot|many thanks|kindly|real quick|just curious|when you have a moment|if you don't mind|for a moment)",
}

Node = str | tuple["Node", ...] | list["Node"]  # literal or reference, a sequence, a choice


@functools.cache
def _parse(template: str) -> Node:
    parts = re.findall(r"[(|)]|<\w+>|[^(|)<]+|<", template)
    position = 0

    def sequence() -> Node:
        nonlocal position
        out: list[Node] = []
        while position < len(parts) and parts[position] not in ("|", ")"):
            part = parts[position]
            position += 1
            if part == "(":
                out.append(choice())
            else:
                out.append(part)
        return tuple(out)

    def choice() -> Node:
        nonlocal position
        options = [sequence()]
        while position < len(parts) and parts[position] == "|":
            position += 1
            options.append(sequence())
        position += 1  # the closing parenthesis
        return options

    options = [sequence()]
    while position < len(parts) and parts[position] == "|":
        position += 1
        options.append(sequence())
    return options


def guard(value: object) -> str:
    """``value`` marked so that :func:`roughen` leaves it alone."""
    return f"{OPEN}{value}{CLOSE}"


def expand(template: str, rng: random.Random, slots: Mapping[str, object] | None = None) -> str:
    """One surface form of ``template``; slots are guarded, rules are expanded in turn."""
    slots = slots or {}

    def walk(node: Node) -> str:
        if isinstance(node, list):
            return walk(rng.choice(node))
        if isinstance(node, tuple):
            return "".join(walk(part) for part in node)
        if node[0] == "<" and node[-1] == ">" and len(node) > 2:
            name = node[1:-1]
            if name in slots:
                value = str(slots[name])
                return value if OPEN in value else guard(value)
            return walk(_parse(RULES[name]))
        return node

    return re.sub(r" {2,}", " ", walk(_parse(template))).strip()


def pick(options: str, rng: random.Random) -> str:
    """One of the words of a ``a|b|c`` list."""
    return rng.choice(options.split("|"))


KEYS_NEAR = {
    "a": "s",
    "s": "a",
    "e": "r",
    "r": "e",
    "o": "p",
    "i": "o",
    "t": "y",
    "n": "m",
    "m": "n",
    "h": "j",
    "l": "k",
}


def _typo(word: str, rng: random.Random) -> str:
    at = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    if kind == 2:
        return word[:at] + word[at] + word[at:]
    return word[:at] + KEYS_NEAR.get(word[at], word[at]) + word[at + 1 :]


def polite(text: str, rng: random.Random, rate: float = 0.3) -> str:
    """``text`` with a leading or trailing filler now and then."""
    if rng.random() < rate:
        text = expand("<lead>(,|,||:|) ", rng) + " " + text
    if rng.random() < rate * 0.7:
        body, mark = (text[:-1], text[-1]) if text and text[-1] in "?.!" else (text, "")
        text = body + rng.choice([", ", " ", " ", ". "]) + expand("<trail>", rng) + mark
    return re.sub(r" +,", ",", re.sub(r" {2,}", " ", text))


def roughen(text: str, rng: random.Random, upper_share: float = 0.008) -> str:
    """``text`` as somebody may type it: sometimes neat, often not. Removes the guards.

    ``upper_share`` of the texts are all capitals. The apostrophe of "Ada's" stays: without it nobody could
    tell whose name ends in an s.
    """
    parts = re.split(f"({OPEN}[^{CLOSE}]*{CLOSE})", text)
    style = rng.random()
    typos = 1 if rng.random() < 0.13 else 0
    no_marks = rng.random() < 0.25
    no_apostrophe = rng.random() < 0.12
    no_commas = rng.random() < 0.15
    upper = rng.random() < upper_share
    for index, part in enumerate(parts):
        if part.startswith(OPEN) or not part:
            continue
        if style < 0.35:
            part = part.lower()
        else:
            part = re.sub(r"\bi\b(?!\.)", "I", part)
        if no_apostrophe:
            part = re.sub("(?<!^)'", "", part) if index else part.replace("'", "")
        elif style > 0.97:
            part = part.replace("'", "’")
        if no_commas:
            part = part.replace(",", "")
        if typos:
            words = list(re.finditer(r"[a-z]{4,}", part))
            if words:
                m = rng.choice(words)
                part = part[: m.start()] + _typo(m.group(), rng) + part[m.end() :]
                typos = 0
        parts[index] = part.upper() if upper else part
    out = "".join(parts)
    if no_marks:
        out = re.sub(r"[?.!]+$", "", out)
    elif rng.random() < 0.03 and out.endswith("?"):
        out += "?"
    if style >= 0.45:
        out = re.sub(r"^[a-z]|(?<=[.!?] )[a-z](?![^ ]*\.\w)", lambda m: m.group().upper(), out)
    return out.replace(OPEN, "").replace(CLOSE, "")
