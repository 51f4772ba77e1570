"""JSON objects with exactly the keys asked for."""

# Phrase tables read better in long lines.
# ruff: noqa: E501, SIM905

import json

from talk import Talk, article, capital

from skills import asking, recall
from skills.facts import ANY, Pet

KEYS = ["name", "city", "colour", "number", "pet", "age", "country"]


def key_of(fact: str) -> str:
    """The object's key for a fact: "number" for every kind of number, "food" for the favourite food."""
    family, _, kind = fact.partition(":")
    return {"number": "number", "thing": kind, "any": kind}.get(family, fact)


NAMED = {  # what a program may call a key
    "name": "first_name|firstname|full_name|user|username|who|person|called|customer|fullname|client|display_name",
    "city": "town|home|location|place|hometown|home_city|home_town|lives_in|residence|based_in|address|cityName|where",
    "colour": "favourite_colour|favorite_color|fav_colour|fav_color|favColour|favouriteColour|favoriteColor|best_colour|hue|colour_name",
    "number": "lucky_number|favourite_number|num|no|nr|luckyNumber|favNumber|fav_number|the_number|digits|n|number_1",
    "pet": "animal|pets|companion|pet_type|petType|has_pet|animal_kind|creature|house_pet|myPet",
    "age": "years|years_old|how_old|age_years|ageInYears|years_of_age|old|user_age|yrs",
    "country": "nation|land|homeland|home_country|country_name|origin|nationality|state|from_country|countryOfOrigin",
}


def named(talk: Talk, keys: list[str]) -> list[str]:
    """The keys as a program may call them: "first_name" or "Name"; of no two facts the same."""
    rng = talk.rng
    if talk.chance(0.35):
        change = rng.choice([str.capitalize, str.upper, lambda key: "my_" + key, lambda key: "user_" + key, lambda key: key + "_1"])
        return [change(key) for key in keys]
    out = []
    for key in keys:
        base = "colour" if key == "color" else key
        choices = NAMED[base].split("|") if base in NAMED else [f"favourite_{key}", f"fav_{key}", f"my_{key}", key.capitalize()]
        out.append(rng.choice(choices) if talk.chance(0.6) else key)
    return out


def place(text: str, value: object) -> int:
    """Where ``value`` stands in ``text``, by itself or after an article."""
    return max(text.find(f"\x01{value}\x02"), text.find(f" {value}\x02"))


def plain(value: object) -> object:
    """The value that goes into the object."""
    return (value.kind or value.name) if isinstance(value, Pet) else value


def answer(keys: list[str], names: list[str], known: dict[str, object]) -> str:
    values = [known["colour" if key == "color" else key] for key in keys]
    return json.dumps(dict(zip(names, values, strict=True)), ensure_ascii=False)


WHOM = "<n>|<n>|my (friend|sister|brother|boss|colleague|neighbour|teacher|cousin|uncle|aunt) <n>|(our|the|a) (customer|client|user|guest|student|visitor|patient|employee|member|player) <n>|mr <n>|mrs <n>|i (met|know|like|saw|work with) <n>|a (man|woman|person|friend) (called|named) <n>|someone (called|named) <n>|meet <n>|that's <n>"


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
        if key in ANY:
            verbs[key] = f"'s {key} is <v>|has the {key} <v>|has <v> as {key}|got the {key} <v>"
        elif key not in verbs:
            verbs[key] = f"'s favourite {key} is <v>|'s {key} is <v>|'s {key} of choice is <v>|has <v> as favourite {key}|picked <v> as {key}"
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


def joined(text: str, more: str) -> str:
    """``text`` and ``more``, a space between unless a comma is there."""
    return text.rstrip(",") + more if more.startswith(",") else text + " " + more


def compact(talk: Talk, known: dict[str, object]) -> str:
    """The facts in one short sentence: "Ada, 31, from Turin, owns a cat" or "I'm Ada from Turin"."""
    rng = talk.rng
    g = {key: "\x01" + str(value) + "\x02" for key, value in known.items()}
    first = talk.chance(0.3)
    who = talk.expand("(i'm|i am|my name is|this is|it's|here is|call me) <n>" if first else WHOM, n=g["name"])
    if "age" in g and not first and talk.chance(0.2):
        who = talk.expand("(the |my |)<a>(-year-old| year old) (friend |boss |student |customer |)<n>", a=g["age"], n=g["name"])
    elif "age" in g:
        aged = talk.expand("(, <a>,|, <a>|[<a>]|, aged <a>,|, <a> years old,|and <a>|, age <a>,)", a=g["age"])
        who = joined(who, aged.replace("[", "(").replace("]", ")"))
    if "city" in g and talk.chance(0.8):
        who = joined(who, talk.expand("(from|from|in|of|living in|based in|out of|, resident of|, home in) <c>", c=g["city"]))
        rest = [key for key in g if key not in ("name", "age", "city")]
    else:
        rest = [key for key in g if key not in ("name", "age")]
    rng.shuffle(rest)
    mine = {
        "city": "live in <v>|am from <v>", "colour": "like <v>|love the colour <v>|prefer <v>|go for <v>", "pet": "have a <v>|own a <v>|keep a <v>",
        "number": "chose number <v>|have number <v>|picked <v> as my number", "country": "come from <v>|hold a passport of <v>",
    }
    clauses = []
    for key in rest:
        template = mine.get(key, f"have <v> as my {key}" if key in ANY else f"like <v> as a {key}") if first else (f"{'lives in' if key == 'city' else ''} <v>|with <v> as {key}|whose {key} is <v>|{key} <v>")
        if not first and key in ("colour", "pet", "country"):
            template = {"colour": "who likes <v>|loves <v>|with a love for <v>|likes the colour <v>|favourite colour <v>", "pet": "who has a <v>|with a <v>|owns a <v>|has a <v>|pet: <v>", "country": "country <v>|whose country is <v>|citizen of <v>"}[key]
        clauses.append(talk.expand(template.strip(), v=g[key]))
    if not clauses:
        return who.rstrip(",")
    glue = " and " if first and not who.endswith(",") else rng.choice([" ", ", ", ", ", " - ", "; "])
    return (who.rstrip(",") + ("," if glue == " " and talk.chance(0.5) else "")) + glue + rng.choice([", ", " and ", ", and ", ", "]).join(clauses)


def assigned(talk: Talk, known: dict[str, object]) -> str:
    """The facts as values to be given to keys: "set name to Ada and city to Turin"."""
    rng, order = talk.rng, list(known)
    rng.shuffle(order)
    lead, middle = rng.choice([("set ", " to "), ("let ", " be "), ("with ", " "), ("with ", " = "), ("where ", " is "), ("", " should be "), ("", " must be "), ("use ", " as "), ("put ", " under "), ("", " is the "), ("", " goes into "), ("given ", " "), ("fill ", " with ")])
    turned = middle in (" as ", " under ", " is the ", " goes into ")
    quote = rng.choice(["", "", "", '"', "'"])
    pairs = []
    for key in order:
        value = f"{quote}\x01{known[key]}\x02{quote}"
        pairs.append(value + middle + key if turned else key + middle + value)
    return lead + rng.choice([", ", ", ", " and ", "; "]).join(pairs[:-1]) + (rng.choice([" and ", ", ", ", and "]) if pairs[1:] else "") + pairs[-1]


def asked(talk: Talk, known: dict[str, object]) -> str:
    """The facts as questions and answers: "name? Ada. city? Turin"."""
    lead, mark = talk.rng.choice([("", "? "), ("my ", "? "), ("the ", " is "), ("the ", ": "), ("and the ", "? "), ("", " -> "), ("as ", ": "), ("for ", " i say "), ("as ", " write ")])
    pairs = [f"{lead if n else lead.removeprefix('and ')}{key}{mark}\x01{value}\x02" for n, (key, value) in enumerate(known.items())]
    return talk.rng.choice([". ", ". ", ", ", "; ", " and "]).join(pairs)


def presented(talk: Talk, text: str) -> str:
    """``text`` as data: behind a label or in quotation marks."""
    if talk.chance(0.4):
        mark = talk.rng.choice(['"', '"', "'", "`"])
        return mark + text + mark
    label = talk.rng.choice("facts|data|input|text|info|given|details|person|record|the facts|source|here are the facts|sentence|customer|user|note|profile|description|what i know|known|the data|about this person|entry".split("|"))
    return label + talk.rng.choice([": ", ": ", " - ", " = ", ":\n"]) + text


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
    known = {key_of(key): plain(value) for key, value in talk.facts.items() if key.split(":")[0] in (*KEYS, "thing", "any")}
    earlier = len(known) >= 2 and not talk.facts.get("several numbers") and talk.chance(0.75)
    text = ""
    if not earlier:
        keys = rng.sample(KEYS, rng.choice([1, 2, 2, 2, 3, 3, 3, 4, 5]))
        if "name" not in keys and talk.chance(0.6):
            keys[0] = "name"
        if talk.chance(0.12):
            keys[-1] = "thing"
        if talk.values.rare(0.03, 0.18):
            keys[0 if keys[0] != "name" else -1] = "any"
        if talk.values.rare(0.03, 0.1):
            keys.append(rng.choice(["any", "thing"]))
        style = rng.random()
        if style < 0.4 or len(keys) == 1:
            text, told = recall.statement(talk, 0, keys)
            known = {key_of(key): plain(value) for key, value in told}
        else:
            drawn = [recall.new_fact(talk, key) for key in keys]
            known = {key_of(key): plain(value) for key, value in drawn}
            if style < 0.64:
                text = third_person(talk, known)
            elif style < 0.68:
                text = asked(talk, known)
            elif style < 0.8 and "name" in known:
                text = compact(talk, known)
            elif style < 0.88:
                text = assigned(talk, known)
            else:
                text = labelled(talk, known)
        text = text.rstrip(".!")
        if talk.chance(0.12):
            text = presented(talk, text)
        if talk.chance(0.2):  # in a turn of its own
            if style < 0.4 or len(keys) == 1:
                talk.say("recall", text, recall.acknowledge(told), fillers=0.1)
            else:
                talk.say("json", text, "Noted.", fillers=0.1)
            text = ""
    order = sorted(known, key=lambda key: place(text, known[key])) if text else list(known)
    bare = bool(text) and talk.values.rare(0.06, 0.12)
    if not bare:
        rng.shuffle(order)
        count = min(len(order), rng.choice([1, 2, 2, 2, 2, 3, 3, 3, 4, 5, 7]))
        order = order[:count]
        if talk.chance(0.25) and "colour" in order:
            order = ["color" if key == "colour" else key for key in order]
        names = named(talk, order) if talk.values.rare(0.03, 0.12) else order
        around = bool(text) and talk.values.rare(0.05, 0.18)
        request = asking.request(talk, names, text if around else "")
        text = "" if around else text
    else:
        names = order
        request = talk.expand(asking.BARE)
    if text and talk.chance(0.7):
        user = capital(text) + rng.choice([". ", ". ", ". ", " - ", ", ", "; ", ".\n", " => ", "! "]) + request
    elif text:
        user = request.rstrip("?.") + rng.choice([": ", ": ", ". ", " for this: ", " from this: ", " from: ", " - ", "\n"]) + text
    else:
        user = request
    talk.say("json", user + rng.choice(["", "", "."]), answer(order, names, known), fillers=0.15)


