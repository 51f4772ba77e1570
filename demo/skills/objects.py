"""JSON objects with exactly the keys asked for."""

# Phrase tables read better in long lines.
# ruff: noqa: E501, SIM905

import json

from talk import Talk, article, capital

from skills import recall
from skills.facts import ANY, Pet

KEYS = ["name", "city", "colour", "number", "pet", "age", "country"]
J = "(json|JSON)"
NOUN = "(json|JSON|json object|JSON object|JSON|Json|json dict|JSON dictionary|json record|JSON document|json string|JSON text|json blob|JSON snippet|json structure|JSON map|jason)"
HOW = "(json|JSON|JSON format|json format|JSON form|json notation|JSON syntax|JSON style|valid JSON|plain json|compact JSON|one-line json)"
WHERE = "(this|that|it|the above|what i said|the sentence|the text|the line|my message|what i wrote|these facts|the details)"
WITH = "(with|with|with|containing|having|that has|that contains|using|holding|including|made of|consisting of|showing|listing)"
KEYWORD = "((the |)(keys|fields|properties|attributes|entries|key names|members|items|keys|keys|columns)(|:| exactly| named)|just|only|exactly|my|the|)"
REQUEST = (
    f"<give> (a |the |)(|valid |small |short )(json|JSON) (object |)<with> {KEYWORD} <keys>|<give> (a |some |)(json|JSON)(| object)(,|:) (keys |fields |)<keys>|(as|in) (json|JSON)(,|:) <keys>|(json|JSON) <with> {KEYWORD} <keys>|(json|JSON)(:|,| of| for) (my |the |)<keys>|"
    f"(put|turn|convert|format|encode|express|represent|write|transform|render|store|summarise|wrap|pack|change|make|structure|serialise|rewrite) (this|that|it|these|my facts|the facts|the data|them|this info|the information|all this|what i told you|those facts|me) (as|in|into|to|as|into) (a |)(json|JSON)(| object) <with> {KEYWORD} <keys>|"
    f"<keys> (as|in) (json|JSON)(|, please)|(only|just|my) <keys> (as|in) (a |)(json|JSON)(| object)|<give> (my |the |me |)<keys> (as|in|in the form of) (a |)(json|JSON)(| object)|(a |one |)(json|JSON) (object|record)(,|:) (keys|fields|with) <keys>|(now |then |please |)(json|JSON) please(,|:) {KEYWORD} <keys>|"
    f"(summarise|describe|represent|encode) (me|this person|the person|us|what you know) (as|in) (a |)(json|JSON)(| object) <with> {KEYWORD} <keys>|(extract|pull out|collect|list|pick|gather|get|take) (the |my |)<keys> (as|into|in|to) (a |)(json|JSON)(| object)|the keys (should be|are|must be) <keys>, (answer in|give me|make|output) (json|JSON)|"
    f"(use|take|fill) (the |)(keys|fields) <keys> (and (make|give me|return) (a |)|in a |for a |to make )(json|JSON)( object|)|i('d like| want| need) (a |)(json|JSON) (object |)<with> {KEYWORD} <keys>(, nothing else| only|)|(could|can|would) (you|i) (make|get|have|write|build|produce|give me|format) (this |that |it |)(a |as |as a |)(json|JSON) (object |)<with> {KEYWORD} <keys>(?|)|"
    f"(return|output|answer with|reply with|respond with) (only |just |)(a |)(json|JSON)( object|)(,|:| <with>) {KEYWORD} <keys>|what (would|does) (a |the |)(json|JSON) <with> {KEYWORD} <keys> look like?|(json|JSON) (format|output)(,|:) <keys>|(fields|keys): <keys>. (format|output): (json|JSON)|{KEYWORD} <keys>, (as|in) (json|JSON)|"
    f"(an|one|just an|give me an|make an|return an) object <with> {KEYWORD} <keys>|(<give>|) (a |the |)(json|JSON) (for|of|about|describing) (me|him|her|this person|that|them|this)(,|:| <with>) {KEYWORD} <keys>|(which|what) (json|JSON) (do i|would i|do you) get <with> {KEYWORD} <keys>?|(as|in|into|to) (a |)(json|JSON)(| object)(: | - |, | = )<keys>|"
    f"(json|JSON) only(,|:|.) <keys>|(only|just) (json|JSON)(, | - |: )(keys|fields|with) <keys>|no (text|explanation|prose), (only|just) (json|JSON) <with> {KEYWORD} <keys>|(store|save|record|keep|log|file) (that|this|it|them) (as|in) (json|JSON) under (the keys |)<keys>|(my|our|the) (app|program|script|form|database|api|code|parser) (needs|wants|expects|reads|takes) (json|JSON) <with> {KEYWORD} <keys>|"
    f"(make|build|create) (json|JSON) out of (it|that|this)(,|:| <with>) {KEYWORD} <keys>|(answer|reply|respond) (in|as|with) (json|JSON)(,|:|;) {KEYWORD} <keys>|(we|i) need {KEYWORD} <keys> (as|in) (json|JSON)|(json|JSON)!? {KEYWORD} <keys>|(the |)(output|answer|result|reply) (is|should be|must be|shall be) (a |)(json|JSON)( object|) <with> {KEYWORD} <keys>|"
    f"<form>|(fill in|complete|fill|fill out)(:| this:| this json:| the json) <form>|(json|JSON) (like|in the form|of the form|shaped like) <form>|(use|with) (this|the) (format|shape|form|template): <form>|"
    f"<give> (a |an |the |one |)({NOUN}) <with> {KEYWORD} <keys>|(jsonify|json-ify|jsonise) {WHERE}(,|:| <with>) {KEYWORD} <keys>|<keys>(:| -|,|;) {J}(| please|, please|!)|(just |only |)the <keys>(, please,| please,|,|) (formatted|written|encoded|given|shown|laid out|expressed) (as|in) {HOW}|"
    f"(i'd like|i want|i need|give me|show me|can i see|let me see|i'm after|i only want) <keys>( only|), (in|as) {HOW}|(as|in|using|use) {HOW}(,|:|;| <with>) {KEYWORD} <keys>|(parse|analyse|read|process|scan|look at) {WHERE} (and|, then|, and) (return|give me|output|answer with|write) {NOUN} <with> {KEYWORD} <keys>|"
    f"from {WHERE}(,|) (make|build|extract|create|give me|return|derive|fill) (a |)({NOUN}) <with> {KEYWORD} <keys>|(a |one |your |)(dictionary|dict|map|record|struct|object literal|data object) in {HOW} <with> {KEYWORD} <keys>|{J} (please|pls)(.|;|:|!|,) {KEYWORD} <keys>|"
    f"(put|place|collect|gather|write|stick|drop|pack) (the |my |)<keys> (into|in|inside) (a |an |one |)({NOUN})|(can|could|would|will) (you|i) (please |)(put|have|get|give me|return|write|see) (the |my |)<keys> (as|in) (a |)({NOUN})(?|)|<keys>. (answer|output|reply|result|format) (in|as|is|should be) {HOW}( only|)|"
    f"(what is|what's|show me|i'd like|i want) {WHERE} (as|in) {HOW} <with> {KEYWORD} <keys>(?|)|(leave out|skip|ignore|drop) (everything|anything|all) else(:|;|,|.) {J} <with> {KEYWORD} <keys>|{J} <with> {KEYWORD} <keys>(, nothing else| and nothing else| and no others|, no more|, no other keys| but nothing more|, that's all|, exactly these|, not more)(.|)|"
    f"(an |a |one |)({NOUN}) (that|which) (only |just |)(has|holds|lists|shows|includes|gives|names) (the |)<keys>|how (would|do|does|could) (you|i|one) (write|say|express|put|represent) {WHERE} (as|in) {HOW} <with> {KEYWORD} <keys>(?|)|(send|pass|hand) me (the |my |)<keys> (as|in) {HOW}|(make|keep) it {J}(:|,|;| <with>) {KEYWORD} <keys>|"
    f"(i am|i'm) (building|writing|filling|testing) (a |the |my |an )(app|program|form|database|config|website|parser|test)(,|:|.) (give me|i need|return|write|make) {NOUN} <with> {KEYWORD} <keys>|(machine-readable|structured|strictly|formally|data only)(,|:) please(:|,) {J} <with> {KEYWORD} <keys>|(the |)(json|JSON) (keys|fields)( are| must be| should be|:| =) <keys>|"
    f"(keys|fields|columns)(:| are| =) <keys>(.|;|,) (values|the values|contents) (are |come |)(from|in) {WHERE}. {J}|(the |)(object|record|entry|result) (has|needs|gets|should have|must have) (the keys |the fields |)<keys>(.|;|,) (write|return|give|print) (it|the {J})|(reply|respond|answer)( only| just| strictly|) with {NOUN}(:|,|;) {KEYWORD} <keys>|"
    f"(map|turn|sort|split) {WHERE} (to|into|onto) (the |)<keys>(,|;|:) (as|in) {HOW}|{J} for (an|a|the|my) (api|form|app|script|parser|test|config)(:|,| <with>) {KEYWORD} <keys>|(nothing|no words) but {J}(:|,|;| <with>) {KEYWORD} <keys>|(as|to|into) {J} - {KEYWORD} <keys>(| please)"
)
AROUND = (  # the facts, with the request before and after them
    f"<give> (a |an |the |one |)({NOUN}) (for|of|about|describing|from|out of) (this: |)<text>(, | - |; |: | )<with> {KEYWORD} <keys>|how (would|do|could|can) (you|i|one) (write|say|put|express) <text> (as|in) {HOW} <with> {KEYWORD} <keys>(?|)|"
    f"(turn|convert|put|write|change|make|format|transform|render) <text> (into|as|in|to) (a |an |)({NOUN}) <with> {KEYWORD} <keys>|(if|given|since|suppose|say|assume|imagine|given that|as|let's say) <text>(, |; | - )(what is|give me|write|return|then what's|make|show me|i want|please write) (the |a |my |)({NOUN}) <with> {KEYWORD} <keys>(?|)|"
    f"{J} <with> {KEYWORD} <keys>(, please, | please, |, | )(where|given that|knowing that|if|for|when|given|on the basis that|of somebody:|assuming|provided) <text>|(the |my |)<keys> (from|of|in|out of) <text>(, |; | - | )(as|in|into) {HOW}|(here is|here's|take|read|use|i have|look:|consider|there is this:) <text>(; |. |, and |, now |. now |. then )<give> (a |the |)({NOUN}) <with> {KEYWORD} <keys>|"
    f"(from|out of|based on|using|with|after) <text>(, | )(make|give me|build|extract|create|return|derive|write|fill) (a |an |the |)({NOUN}) <with> {KEYWORD} <keys>|(keys|fields|the keys|json keys|wanted) <keys>(, |; |: |. )<text>(, |; |. ){J}( please|, please|)|<keys>(: |; |. )<text>(. |; |, )(as|in|to|into) {HOW}|(in|as) {HOW}(, |: )<text>(, |; |: |. )(only |just |){KEYWORD} <keys>|"
    f"(my message|the message|the sentence|the text|what i know|the data) (is|says|reads)(:|) <text>(, |; |. )(my|the|your|wanted) keys (are |: )<keys>(, |; |. )(return |give me |make |write |){J}|(somebody|someone|a friend|my colleague|a customer) (says|wrote|writes|told me)(:|) <text>(. |; |, )<give> (a |)({NOUN}) <with> {KEYWORD} <keys>"
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
        return rng.choice([" / ", "/", " + ", " | ", "; ", ",", " & ", " then "]).join(shown)
    if style < 0.35:
        text = ", ".join(shown)
    else:
        last = rng.choice([" and ", " and ", " and ", ", and ", " & ", " and the ", " plus ", " and then ", " as well as "])
        text = rng.choice([", ", ", ", ", the "]).join(shown[:-1]) + last + shown[-1]
    return f"[{text}]" if talk.chance(0.02) else f"({text})" if talk.chance(0.03) else text


def form(talk: Talk, keys: list[str]) -> str:
    """An empty object to be filled in."""
    empty = talk.rng.choice(['"..."', '""', "...", "?", "null", "<>", "_", "''", "..", "string", "value", "xxx"])
    quote, style = talk.rng.choice(['"', '"', "", "'"]), talk.rng.random()
    if style < 0.12:  # the keys alone
        return "{" + ", ".join(quote + key + quote for key in keys) + "}"
    space = " " if style < 0.2 else ""
    return "{" + space + ", ".join(f"{quote}{key}{quote}: {empty}" for key in keys) + space + "}"


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
        slots = {"keys": written_keys(talk, names), "form": form(talk, names), "with": talk.expand(WITH)}
        around = bool(text) and talk.values.rare(0.05, 0.18)
        request = talk.expand(AROUND, text=text, **slots) if around else talk.expand(REQUEST, **slots)
        text = "" if around else text
    else:
        names = order
        request = talk.expand(BARE)
    if text and talk.chance(0.7):
        user = capital(text) + rng.choice([". ", ". ", ". ", " - ", ", ", "; ", ".\n", " => ", "! "]) + request
    elif text:
        user = request.rstrip("?.") + rng.choice([": ", ": ", ". ", " for this: ", " from this: ", " from: ", " - ", "\n"]) + text
    else:
        user = request
    talk.say("json", user + rng.choice(["", "", "."]), answer(order, names, known), fillers=0.15)


