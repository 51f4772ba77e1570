"""JSON objects with exactly the keys asked for."""

# Phrase tables read better in long lines.
# ruff: noqa: E501

import json

from talk import Talk, article, capital

from skills import recall
from skills.facts import Pet

KEYS = ["name", "city", "colour", "number", "pet", "age", "country"]
NOUN = "(json|JSON|json object|JSON object|json|Json|json dict|json record|json document|json string)"
WITH = "(with|with|with|containing|having|that has|that contains|using|holding|including|made of|consisting of|showing|listing)"
KEYWORD = "((the |)(keys|fields|properties|attributes|entries|key names|members|items|keys|keys|columns)(|:| exactly| named)|just|only|exactly|my|the|)"
REQUEST = (
    f"<give> (a |the |)(|valid |small |short )(json|JSON) (object |)<with> {KEYWORD} <keys>|<give> (a |some |)(json|JSON)(| object)(,|:) (keys |fields |)<keys>|(as|in) (json|JSON)(,|:) <keys>|(json|JSON) <with> {KEYWORD} <keys>|(json|JSON)(:|,| of| for) (my |the |)<keys>|"
    f"(put|turn|convert|format|encode|express|represent|write|transform|render|store|summarise|wrap|pack|change|make|structure|serialise|rewrite) (this|that|it|these|my facts|the facts|the data|them|this info|the information|all this|what i told you|those facts|me) (as|in|into|to|as|into) (a |)(json|JSON)(| object) <with> {KEYWORD} <keys>|"
    f"<keys> (as|in) (json|JSON)(|, please)|(only|just|my) <keys> (as|in) (a |)(json|JSON)(| object)|<give> (my |the |me |)<keys> (as|in|in the form of) (a |)(json|JSON)(| object)|(a |one |)(json|JSON) (object|record)(,|:) (keys|fields|with) <keys>|(now |then |please |)(json|JSON) please(,|:) {KEYWORD} <keys>|"
    f"(summarise|describe|represent|encode) (me|this person|the person|us|what you know) (as|in) (a |)(json|JSON)(| object) <with> {KEYWORD} <keys>|(extract|pull out|collect|list|pick|gather|get|take) (the |my |)<keys> (as|into|in|to) (a |)(json|JSON)(| object)|the keys (should be|are|must be) <keys>, (answer in|give me|make|output) (json|JSON)|"
    f"(use|take|fill) (the |)(keys|fields) <keys> (and (make|give me|return) (a |)|in a |for a |to make )(json|JSON)( object|)|i('d like| want| need) (a |)(json|JSON) (object |)<with> {KEYWORD} <keys>(, nothing else| only|)|(could|can|would) (you|i) (make|get|have|write|build|produce|give me|format) (this |that |it |)(a |as |as a |)(json|JSON) (object |)<with> {KEYWORD} <keys>(?|)|"
    f"(return|output|answer with|reply with|respond with) (only |just |)(a |)(json|JSON)( object|)(,|:| <with>) {KEYWORD} <keys>|what (would|does) (a |the |)(json|JSON) <with> {KEYWORD} <keys> look like?|(json|JSON) (format|output)(,|:) <keys>|(fields|keys): <keys>. (format|output): (json|JSON)|{KEYWORD} <keys>, (as|in) (json|JSON)|"
    f"<form>|(fill in|complete|fill|fill out)(:| this:| this json:| the json) <form>|(json|JSON) (like|in the form|of the form|shaped like) <form>|(use|with) (this|the) (format|shape|form|template): <form>"
)
BARE = "(as|in|to|into) (json|JSON)(, please|)|(turn|convert|put|format|write|make) (that|this|it) (as|into|in) (a |)(json|JSON)( object|)|(json|JSON)(, please| please|)|(give|show) me (that|this|it) (as|in) (json|JSON)|make (that|it) (a |)(json|JSON)( object|)"


def written_keys(talk: Talk, keys: list[str]) -> str:
    """The keys as somebody may list them."""
    rng = talk.rng
    quote = '"' if talk.chance(0.12) else "'" if talk.chance(0.04) else "`" if talk.chance(0.03) else ""
    shown = [quote + key + quote for key in keys]
    if len(shown) == 1:
        return shown[0]
    style = rng.random()
    if style < 0.1:
        return rng.choice([" / ", "/", " + ", " ", "; ", ",", " & ", " then "]).join(shown)
    if style < 0.35:
        text = ", ".join(shown)
    else:
        last = rng.choice([" and ", " and ", " and ", ", and ", " & ", " and the ", " plus ", " and then ", " as well as "])
        text = rng.choice([", ", ", ", ", the "]).join(shown[:-1]) + last + shown[-1]
    return f"[{text}]" if talk.chance(0.02) else f"({text})" if talk.chance(0.03) else text


def form(talk: Talk, keys: list[str]) -> str:
    """An empty object to be filled in."""
    empty = talk.rng.choice(['"..."', '""', "...", "?", "null", "<>", "_"])
    return "{" + ", ".join(f'"{key}": {empty}' for key in keys) + "}"


def plain(value: object) -> object:
    """The value that goes into the object."""
    return (value.kind or value.name) if isinstance(value, Pet) else value


def answer(keys: list[str], known: dict[str, object]) -> str:
    return json.dumps({key: known["colour" if key == "color" else key] for key in keys}, ensure_ascii=False)


def third_person(talk: Talk, known: dict[str, object]) -> str:
    """The facts about somebody else, in one or more sentences."""
    rng = talk.rng
    g = {key: "\x01" + str(value) + "\x02" for key, value in known.items()}
    subject = rng.choice(["she", "he", "they"])
    verbs = {
        "city": "lives in <v>|is from <v>|is based in <v>|resides in <v>|comes from <v>|has a flat in <v>|works in <v>|moved to <v>|'s home is <v>|'s city is <v>|grew up in <v>|was born in <v>",
        "colour": "likes <v>|'s favourite colour is <v>|loves <v>|'s favorite color is <v>|prefers <v>|'s colour is <v>|likes the colour <v>|adores <v>|wears <v>",
        "number": "'s lucky number is <v>|'s number is <v>|has the number <v>|'s favourite number is <v>|likes the number <v>|'s house number is <v>|picked the number <v>|chose <v>|plays with number <v>",
        "pet": "has <v>|owns <v>|'s pet is <v>|keeps <v>|lives with <v>|has got <v>",
        "age": "is <v>|is <v> years old|is aged <v>|turned <v>|'s age is <v>|just turned <v>",
        "country": "is from <v>|comes from <v>|lives in <v>|'s country is <v>|is a citizen of <v>|'s home country is <v>" if "city" not in known else "'s country is <v>|is a citizen of <v>|'s home country is <v>|comes from the country of <v>|is from the country <v>",
    }
    order = [key for key in known if key != "name"]
    rng.shuffle(order)
    clauses = []
    for key in order:
        value = g[key]
        if key == "pet":
            value = "\x01" + article(str(known["pet"])) + "\x02" if not str(known["pet"])[:1].isupper() else "a pet called " + value
        clauses.append(talk.expand(verbs[key], v=value))
    who = g.get("name", subject)
    style = rng.random()
    if "name" in known and style < 0.25:
        intro = talk.expand("my (friend|sister|brother|boss|colleague|neighbour|teacher) is called <n>|there is a (man|woman|person|girl|boy) named <n>|meet <n>|this is <n>|(his|her|the) name is <n>|(my friend|the customer|the user|the client) is <n>|name: <n>|(i know|i met) (someone|somebody|a person) called <n>", n=who)
        parts = [intro] + [(subject if not c.startswith("'") else {"she": "her", "he": "his", "they": "their"}[subject]) + (" " + c if not c.startswith("'") else c[2:]) for c in clauses]
        return ". ".join(parts) if talk.chance(0.5) else ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
    possess = [c for c in clauses if c.startswith("'")]
    other = [c for c in clauses if not c.startswith("'")]
    pieces = []
    if other:
        joined = other[0] if len(other) == 1 else (rng.choice([", ", " and ", ", "]).join(other[:-1]) + rng.choice([" and ", ", and ", ", "]) + other[-1])
        pieces.append(who + " " + joined)
    for c in possess:
        pieces.append((who if not pieces else {"she": "her", "he": "his", "they": "their"}[subject] if talk.chance(0.7) else who + "'s") + c[2:] if pieces else who + c)
    if not pieces:
        pieces = ["the name is " + who]
    return rng.choice([". ", ". ", " and ", ", ", "; "]).join(pieces)


def labelled(talk: Talk, known: dict[str, object]) -> str:
    """The facts as a list, with or without labels."""
    rng, order = talk.rng, list(known)
    rng.shuffle(order)
    g = {key: "\x01" + str(value) + "\x02" for key, value in known.items()}
    if talk.chance(0.3) and not {"number", "country", "city"} & set(known) - {"city"} and "name" in known:
        order = ["name"] + [key for key in order if key != "name"]
        values = [g[key] for key in order]
        return rng.choice([", ", " / ", "; ", " - ", " | "]).join(values)
    mark = rng.choice([": ", ": ", " = ", "=", " is ", " ", " -> ", " - "])
    return rng.choice([", ", "; ", ". ", " and ", " / ", "\n", " | "]).join(key + mark + g[key] for key in order)


def json_turn(talk: Talk) -> None:
    """An object from facts told in this message or before."""
    rng = talk.rng
    known = {("number" if key.startswith("number:") else key): plain(value) for key, value in talk.facts.items() if key.split(":")[0] in KEYS}
    earlier = len(known) >= 2 and not talk.facts.get("several numbers") and talk.chance(0.75)
    text = ""
    if not earlier:
        keys = rng.sample(KEYS, rng.choice([1, 2, 2, 2, 3, 3, 3, 4, 5]))
        if "name" not in keys and talk.chance(0.6):
            keys[0] = "name"
        style = rng.random()
        if style < 0.45 or len(keys) == 1:
            text, told = recall.statement(talk, 0, keys)
            known = {("number" if key.startswith("number:") else key): plain(value) for key, value in told}
        else:
            drawn = {key: recall.new_fact(talk, key)[1] for key in keys}
            known = {key: plain(value) for key, value in drawn.items()}
            text = third_person(talk, known) if style < 0.8 else labelled(talk, known)
        text = text.rstrip(".!")
        if talk.chance(0.2):  # in a turn of its own
            if style < 0.45 or len(keys) == 1:
                talk.say("recall", text, recall.acknowledge(told), fillers=0.1)
            else:
                talk.say("json", text, "Noted.", fillers=0.1)
            text = ""
    order = list(known)
    bare = bool(text) and talk.chance(0.06)
    if not bare:
        rng.shuffle(order)
        count = min(len(order), rng.choice([1, 2, 2, 2, 2, 3, 3, 3, 4, 5, 7]))
        order = order[:count]
        if talk.chance(0.25) and "colour" in order:
            order = ["color" if key == "colour" else key for key in order]
        form_text = form(talk, order)
        request = talk.expand(REQUEST, keys=written_keys(talk, order), form=form_text, **{"with": talk.expand(WITH)})
    else:
        request = talk.expand(BARE)
        if not all(key in text.lower() for key in order) and text.count("\x01") != len(order):
            order = list(known)
    if text and talk.chance(0.7):
        user = capital(text) + rng.choice([". ", ". ", ". ", " - ", ", ", "; ", ".\n", " => ", "! "]) + request
    elif text:
        user = request.rstrip("?.") + rng.choice([": ", ": ", ". ", " for this: ", " from this: ", " from: ", " - ", "\n"]) + text
    else:
        user = request
    if bare and known != {} and "name" not in text:
        order = list(known)
    talk.say("json", user + rng.choice(["", "", "."]), answer(order, known), fillers=0.15)


