"""What a user may tell about themself, and the many ways to tell and ask it.

Each attribute has: ``tell``, first-person clauses; ``np``, noun phrases for it; ``ask``, direct questions;
``clause``, what follows "do you remember"; and how the model says it back.
"""

# Phrase tables read better in long lines.
# ruff: noqa: E501, SIM905

from collections.abc import Callable
from dataclasses import dataclass

from talk import article
from values import NUMBERS, Values


@dataclass(frozen=True)
class Attribute:
    tell: str
    np: str
    ask: str
    clause: str
    draw: Callable[[Values], object]
    said: Callable[[object], str]  # "your name is Ada", in the second person
    adverb: str = ""  # further ways to correct it
    vague_ask: str = ""  # questions and clauses that do not say which, where several of its family were told
    vague_clause: str = ""


@dataclass(frozen=True)
class Pet:
    """A pet; its kind or its name may be unknown."""

    kind: str
    name: str

    def said(self) -> str:
        if self.kind and self.name:
            return f"you have {article(self.kind)} called {self.name}"
        return f"you have {article(self.kind)}" if self.kind else f"your pet is called {self.name}"


def draw_pet(values: Values) -> Pet:
    roll = values.rng.random()
    return Pet("" if roll < 0.12 else values.pet(), "" if 0.12 <= roll < 0.3 else values.pet_name())


FAV = "(favourite|favorite|favourite|favorite|fav|preferred|best-loved|most loved|top)"
COL = "(colour|color)"
WHAT = "(what is|what's|whats|what was|what is|what's|which is)"

NAME = Attribute(
    tell="my (|first |full |own |given )name is <v>|my name's <v>|i'm <v>|i am <v>|im <v>|call me <v>|(you can|you may|please|just) "
    "call me <v>|(people|my friends|everyone|they|most people|folks) (call|calls) me <v>|i'm called <v>|i am called <v>|i am named <v>|"
    "<v> is my name|the name's <v>|the name is <v>|this is <v>|<v> here|it's <v>|i go by (|the name )<v>|my parents named me <v>|"
    "name: <v>|they named me <v>|i was named <v>|i answer to <v>|i am known as <v>|let me introduce myself: <v>|"
    "allow me to introduce myself, i'm <v>|my name, by the way, is <v>|<v> is what (people|they|my friends) call me|"
    "remember my name: <v>|you're talking to <v>|you are speaking with <v>|i'm <v>, nice to meet you|my name would be <v>|"
    "feel free to call me <v>|address me as <v>|i introduce myself as <v>|that's me, <v>",
    np="my (|first |own |given |full )name|the name i (gave|told) you|my name|my name",
    ask=f"{WHAT} my (|first |own |given )name|who am i|what am i called|how am i called|what do (people|my friends|they) call me|"
    "what should you call me|what do you call me|(what|which) name did i (give|tell|mention|give you|tell you|use)|"
    "what did i call myself|who are you (talking|speaking|chatting) (to|with)|who did i say i (was|am)|by what name do i go|"
    "how should you address me|what name do i go by|how did i introduce myself|who is (talking|speaking|writing) to you|"
    "(what|which) name do i (have|go by|use)|what are you supposed to call me|whom are you talking to|who's this|"
    "who do you think i am|my name is what|my name is|what do i answer to|how am i named|with whom are you chatting|"
    "who is the person you are talking to|what was i called|so who am i|what is the name of (your user|the person you talk to|the person writing this)|"
    "(under|by) (what|which) name do you know me|what name (is on my badge|belongs to me|should be on my badge)|how would you greet me by name|"
    "what do (my parents|my colleagues|others) call me|what did my parents name me|(who|what) did i introduce myself as|who is your user|"
    "(which|what) name should you use for me|how do (people|my friends) call me|to whom are you (talking|speaking)",
    clause="what my (|first )name (is|was)|who i am|what i am called|what i'm called|what you should call me|what name i gave you|"
    "how i introduced myself|who you are talking to|what to call me|my name|what i said my name was|how to address me|"
    "what name i go by|who i said i was",
    draw=Values.name,
    said=lambda v: f"your name is {v}",
)
CITY = Attribute(
    tell="i (live|reside|stay|am living|currently live|have lived for years) in <v>|i'm (from|based in|living in|at home in) <v>|"
    "i am (from|based in|a resident of|currently in|living in) <v>|my (city|home town|hometown|town|home city|home) is <v>|i come from <v>|"
    "i'm (originally |)from <v>|<v> is (my home|where i live|my city|my hometown|my home town|the city i live in|home for me|my town)|"
    "home is <v>|i was born in <v>|i grew up in <v>|we live in <v>|my flat is in <v>|my house is in <v>|i call <v> home|"
    "i moved to <v>|i just moved to <v>|i (work|study) in <v>|city: <v>|i'm writing from <v>|greetings from <v>|"
    "i've lived in <v> (for years|all my life|since last year)|i have my home in <v>|i rent a place in <v>|the city i live in is <v>|"
    "the place where i live is <v>|my family lives in <v>|i settled in <v>|i hail from <v>|you'd find me in <v>|i reside in <v>",
    np="my (city|home town|hometown|town|home city|home|location|city|place of residence)|the (city|town|place) (where i live|i live in|"
    "i come from|i'm from|i mentioned|i told you)|where i live|the place i call home",
    ask="where do i (live|reside|stay|live|come from)|where am i (from|based|living|at home|writing from|located)|(which|what) (city|town|place) "
    "(do i live in|am i from|is my home|do i call home|am i in|am i based in|did i mention|did i say i live in|did i tell you|do i come from|"
    f"is mine|is my hometown|did i name)|{WHAT} my (city|home town|hometown|town|home city|location)|where is my (home|house|flat|place)|"
    "where did i say (i live|i lived|i am from|i come from|my home is)|in (which|what) (city|town|place) (do i live|am i|is my home)|"
    "where's home for me|where is home|where's my home|where was i from|where did i move|where is it that i live|"
    "from which city am i|i live where|i'm from where|my city is what|where should you send my mail|where would you find me|"
    "what city was i from|which city was it that i live in|where do i have my home|where on earth do i live|what place am i from|"
    "what is the name of (my city|my town|the city i live in|the place i live in|my home town)|where do i (go home to|spend my nights|pay my rent|sleep)|"
    "(which|what) (city|town|place) (would i call mine|is home to me|did i move to|is it where i live)|where am i when i'm at home|"
    "where (do|did) i (settle|grow up|move to)|what do i call home|where would a letter reach me|my home is in which (city|town|place)",
    clause="where i live|where i'm from|where i am from|where my home is|(which|what) (city|town) (i live in|i am from|i come from|i mentioned|"
    "i'm from|is mine)|where i come from|what my (city|home town|hometown|town) is|where i said i live|where i am based|where home is",
    draw=Values.city,
    said=lambda v: f"you live in {v}",
    adverb="i (have |)moved to <v>|i live in <v> now|i now live in <v>|i'm in <v> now|we moved to <v>|i relocated to <v>",
)
COLOUR = Attribute(
    tell=f"my {FAV} {COL} is <v>|<v> is my {FAV} {COL}|i (like|love|prefer|adore) (|the {COL} )<v> (best|most|the most|more than any other {COL}|above all)|"
    f"i (like|love|adore|prefer) the {COL} <v>|the {COL} i (like|love|prefer) (best|most|) is <v>|my {COL} is <v>|my {FAV} one among {COL}s is <v>|"
    f"of all {COL}s, i (like|prefer|love) <v>|i'm (fond of|a fan of|into) (|the {COL} )<v>|{COL}: <v>|when it comes to {COL}s, i (like|prefer) <v>|"
    f"for me, the best {COL} is <v>|nothing beats <v> as a {COL}|<v> is the {COL} i (like|love) most|i'd pick <v> as my {COL}|"
    f"i think <v> is the (best|nicest|most beautiful) {COL}|as for {COL}s, <v> is my favourite|favourite {COL}: <v>|i love <v>|i like <v>",
    np=f"my {FAV} {COL}|my {FAV} {COL}|my {COL}|the {COL} i (like|love|prefer) (best|most|)|the {COL} i (mentioned|told you|like)",
    ask=f"{WHAT} my {FAV} {COL}|(which|what) {COL} do i (like|love|prefer|like best|like most|like the most|love most|favour|adore)|"
    f"(which|what) {COL} is my favourite|(what|which) is the {COL} (|that )i (like|love) (best|most)|(what|which) {COL} did i (say|mention|pick|choose|"
    f"tell you|name|say i like)|(what|which) {COL} would i (pick|choose|want)|what {COL} am i fond of|what's my {COL}|what is my {COL}|"
    f"which of all {COL}s do i like best|what {COL} should (i paint my room|my room be|my new bike be|you paint my door)|"
    f"my favourite {COL} is what|{COL} i like|my favourite {COL} is|(what|which) {COL} is the one i like|what {COL} was it that i like|"
    f"what is it for my favourite {COL}|in which {COL} would i like a shirt|name the {COL} i like|(what|which) {COL} do i (enjoy|fancy|favor) most|"
    f"(what|which) {COL} (should you choose for me|makes me happy|is it that i love|is best for me|pleases me most)|the {COL} i like best is|"
    f"(what|which) {COL} would i (take|buy|wear|paint my wall|want my car to be)|(what|which) of the {COL}s is my favourite|pick my favourite {COL}",
    clause=f"what my {FAV} {COL} (is|was)|(which|what) {COL} i (like|love|prefer|like best|like most|mentioned|said i like)|my {FAV} {COL}|"
    f"which {COL} is my favourite|what {COL} i told you",
    draw=Values.colour,
    said=lambda v: f"your favourite colour is {v}",
    adverb="i (now |)prefer <v>|i like <v> (better|more) now|i (now like|like) <v> best",
)
AGE = Attribute(
    tell="i'm <v>|i am <v>|i'm <v> years old|i am <v> years old|my age is <v>|<v> is my age|i'm <v> years of age|i turned <v> (|last week|yesterday|this year|recently)|"
    "i just turned <v>|age: <v>|i've reached the age of <v>|i (will be|am turning) <v> (this year|today)|i'm a <v> year old|i'm aged <v>|i celebrated my birthday and am <v>|"
    "i have lived <v> years|at <v> years old i still learn|i'm now <v>|i was born <v> years ago|i'm <v> yrs old",
    np="my age|how old i am|my age in years|my age",
    ask=f"how old am i|{WHAT} my age|what age am i|how many years old am i|how old did i say i (am|was)|what age did i (mention|say|tell you|give)|"
    "how old was i|at what age am i|my age is what|how many years have i lived|what's my current age|how many years do i have|how old do you think i am|"
    "what is my age in years|how long have i lived|how old have i become|what age have i reached|how many birthdays have i had|which age did i give|how many years am i",
    clause="how old i am|what my age is|my age|what age i am|how many years old i am|how old i said i am",
    draw=lambda values: values.number(1, 99),
    said=lambda v: f"you are {v} years old",
)
COUNTRY = Attribute(
    tell="my country is <v>|i live in the country of <v>|i come from a country called <v>|my home country is <v>|<v> is my country|country: <v>|"
    "i'm a citizen of <v>|my nationality is from <v>|the country i live in is <v>|the country i'm from is <v>|i hold a passport of <v>",
    np="my (country|home country|homeland|country of residence)|the country i (live in|come from|mentioned)",
    ask=f"{WHAT} my (country|home country|homeland)|(which|what) country (am i from|do i live in|do i come from|did i mention|is mine|is my home|did i say)|"
    "in (which|what) country do i live|from (which|what) country am i",
    clause="(which|what) country i (live in|am from|come from|mentioned)|what my (country|home country) is",
    draw=Values.country,
    said=lambda v: f"your country is {v}",
)


def number(kind: str) -> Attribute:
    """The attribute for one kind of number, such as a house number."""
    short = kind.rsplit(" ", 1)[0]
    extra_tell, extra_ask = "", ""
    if kind == "lucky number":
        extra_tell = "|<v> (brings|always brings) me luck|<v> is lucky for me"
        extra_ask = "|(which|what) number (brings me luck|is lucky for me|is my lucky one|do i consider lucky)"
    elif kind == "house number":
        extra_tell = "|i live at number <v>|my house is number <v>|i live in house <v>"
        extra_ask = "|(which|what) number (is my house|do i live at|is on my door)|at (which|what) number do i live"
    elif kind in ("room number", "seat number", "bus number", "locker number", "desk number"):
        extra_tell = f"|i'm in {short} <v>|my {short} is <v>|my {short} is number <v>|i have {short} <v>|i (use|take|got) {short} <v>"
        extra_ask = f"|(which|what) {short} (am i in|do i have|do i take|is mine|did i get)|(which|what) is my {short}|what number is my {short}"
    elif kind == "favourite number":
        extra_tell = "|(the number i like best|my favorite number|the number i love) is <v>|i (like|love) the number <v>"
        extra_ask = "|(which|what) number do i (like|love|prefer|like best|like most)|what's my favorite number"
    return Attribute(
        tell=f"my {kind} is <v>|<v> is my {kind}|{kind}: <v>|the {kind} i have is <v>|i have <v> as my {kind}|my {kind} happens to be <v>|"
        f"my {kind} = <v>|remember my {kind}: <v>|my {kind} would be <v>|note that my {kind} is <v>|for my {kind}, note <v>|i've got <v> as {kind}"
        + extra_tell,
        np=f"my {kind}|my {kind}|the {kind} i (gave|told|mentioned to) you",
        ask=f"{WHAT} my {kind}|(what|which) {kind} (do i have|is mine|did i mention|did i tell you|did i give you|did i say)|my {kind} is what|my {kind} is|"
        f"what number is my {kind}|what did i say about my {kind}|what value has my {kind}" + extra_ask,
        clause=f"what my {kind} (is|was)|my {kind}|(which|what) {kind} i (have|mentioned|told you)",
        vague_ask="(what|which) number did i (say|mention|tell you|give you|name|pick)|what number was it|what was the number|which number was it|what's my number|what was my number",
        vague_clause="(what|which) number i (told you|said|mentioned|gave you)|the number i told you",
        draw=lambda values: values.number(*NUMBERS[kind]),
        said=lambda v: f"your {kind} is {v}",
    )


PET_TELL_BOTH = (
    "i have (a|an|one) <k> (called|named|by the name of) <n>|my <k> is (called|named) <n>|my <k>'s name is <n>|my <k>'s called <n>|the name of my <k> is <n>|i own a <k> (called|named) <n>|"
    "we have a <k> (called|named) <n>|i've got a <k> (called|named) <n>|i've a <k>, <n>|<n> is my <k>|<n> is the name of my <k>|my pet is a <k> (called|named) <n>|"
    "my pet <k> is (called|named) <n>|i live with a <k> (called|named) <n>|i named my <k> <n>|i call my <k> <n>|my <k> <n> is (sleeping|lovely|hungry|very cute|here with me)|"
    "i have a pet <k> (called|named) <n>|there's a <k> at home, its name is <n>|i got a <k>, his name is <n>|i adopted a <k> and called it <n>|i keep a <k>, its name is <n>|"
    "we just got a <k> and named her <n>|meet my <k>, <n>|i have a <k> and (its|his|her) name is <n>|our <k> is (called|named) <n>|our <k>'s name is <n>|i walk my <k> <n> every day|<n>, my <k>, (says hi|is asleep)|"
    "my <k> is <n>|my <k> goes by <n>|(the|our) <k>'s name is <n>|i own <n>, a <k>|a <k> (called|named) <n> lives with me|i have a <k>: <n>|my <k> answers to <n>|i look after a <k> (called|named) <n>"
)
PET_TELL_KIND = (
    "i have (a|an|one) <k>|my pet is a <k>|i own a <k>|i've got a <k>|i keep a <k> (as a pet|at home|)|i have a pet <k>|we have a <k> at home|there is a <k> living with me|"
    "a <k> lives with me|pet: <k>|my animal is a <k>|my only pet is a <k>|i adopted a <k>|i bought a <k> (last week|recently|)|as a pet i have a <k>|i share my home with a <k>"
)
PET_TELL_NAME = "my pet is (called|named) <n>|my pet's name is <n>|<n> is my pet|the name of my pet is <n>|i named my pet <n>|i call my pet <n>|my pet goes by <n>|i have a pet (called|named) <n>"
PET_ASK_NAME = (
    f"{WHAT} my (<k>|pet)'s name|{WHAT} the name of my (<k>|pet)|{WHAT} my (<k>|pet) (called|named)|what do i call my (<k>|pet)|what did i (name|call) my (<k>|pet)|how is my (<k>|pet) called|"
    "my (<k>|pet) is called what|my (<k>|pet)'s name|what name does my (<k>|pet) have|what name did i give my (<k>|pet)|who is my (<k>|pet)|the name of my (<k>|pet)|my (<k>|pet)'s name is|"
    "what does my (<k>|pet) answer to|which name has my (<k>|pet)|what was my (<k>|pet) called|what should i call out to get my (<k>|pet)|what's my (<k>|pet) called|"
    "what('s| is) the <k>'s name|what('s| is) the <k> called|and the <k>'s name|how did i name my (<k>|pet)|(which|what) name did (the <k>|my <k>|my pet) get|what do we call (the <k>|our <k>|my pet)|"
    "what('s| is) my little <k>'s name|the <k> is called what|what('s| is) our (<k>|pet) called|what do you call my (<k>|pet)|name my (<k>|pet)"
)
PET_ASK_KIND = (
    "(what|which) (kind of |sort of |type of |)(pet|animal) (do i have|do i own|do i keep|have i got|lives with me|is mine|is my pet|did i mention|did i tell you about|did i say i have)|"
    "what('s| is) my pet|do i have (a pet|any pets|pets|any animals|an animal)|what pet was it|which animal was it|my pet is what|what pets do i have|tell me about my pet|what animal lives at my (place|home)|"
    "who lives with me|what creature do i keep|what animal do i share my home with|"
    "(what|which) animal(s|) do i (look after|feed|take care of|keep at home)|is there an animal at my (home|place)|(what|which) animal is (waiting for me|there) at home|what (sort|kind) of (pet|animal) (is mine|do i have)"
)
PET_ASK_WHO = "who is <n>|what is <n>|what (kind of |sort of |type of |)(animal|pet) is <n>|who's <n>|is <n> a (dog|cat|parrot) or (a|an) (horse|hamster|rabbit)|which animal is <n>|what sort of creature is <n>|remember <n>|what do you know about <n>"
PET_CLAUSE_NAME = "what my (<k>|pet) is called|what my (<k>|pet)'s name is|my (<k>|pet)'s name|the name of my (<k>|pet)|how my (<k>|pet) is called|what i (call|named) my (<k>|pet)|what name my (<k>|pet) has"
PET_CLAUSE_KIND = "(what|which) (kind of |)(pet|animal) i (have|own|keep|mentioned)|what my pet is|my pet|about my pet|which pet i told you about"

RELATIONS = (
    "sister|brother|friend|best friend|boss|mother|father|wife|husband|neighbour|teacher|"
    "son|daughter|aunt|uncle|cousin|colleague|doctor|grandmother|grandfather|roommate|"
    "dentist|coach"
).split("|")
THINGS = {
    "food": "pizza pasta sushi soup curry rice cheese bread salad tacos noodles ramen lasagna paella stew dumplings",
    "drink": "tea coffee water milk juice cocoa lemonade cider soda wine beer espresso",
    "fruit": "apple banana mango cherry grape pear peach plum kiwi melon lemon papaya",
    "sport": "football tennis swimming chess running rugby hockey golf boxing rowing judo cycling",
    "season": "spring summer autumn winter", "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "month": "January February March April May June July August September October November December",
    "hobby": "reading painting cooking gardening fishing hiking knitting singing dancing sewing drawing climbing",
    "subject": "maths physics history biology chemistry music art geography latin", "instrument": "piano guitar violin drums flute cello",
    "film": "", "book": "", "song": "", "band": "", "game": "", "car": "", "language": "French Spanish German Latin Dutch Polish",
}


def thing(kind: str) -> Attribute:
    """A favourite food, film and so on."""
    options = THINGS[kind].split()
    return Attribute(
        tell=f"my {FAV} {kind} is <v>|<v> is my {FAV} {kind}|the {kind} i like (best|most) is <v>|favourite {kind}: <v>",
        np=f"my {FAV} {kind}|the {kind} i like (best|most)",
        ask=f"{WHAT} my {FAV} {kind}|(which|what) {kind} do i (like best|like most|prefer|like|love)|(which|what) {kind} is my favourite",
        clause=f"what my {FAV} {kind} is|my {FAV} {kind}|(which|what) {kind} i like best",
        draw=lambda values: values.name() if not options or values.fresh or values.rng.random() < 0.6 else values.rng.choice(options),
        said=lambda v: f"your favourite {kind} is {v}",
    )


def relative(kind: str) -> Attribute:
    """The name of a relative or a friend."""
    return Attribute(
        tell=f"my {kind} is (called|named) <v>|my {kind}'s name is <v>|<v> is my {kind}|i have a {kind} (called|named) <v>|the name of my {kind} is <v>|my {kind} <v> (is visiting|says hello|is nice)",
        np=f"my {kind}'s name|the name of my {kind}",
        ask=f"{WHAT} my {kind}'s name|{WHAT} my {kind} called|who is my {kind}|{WHAT} the name of my {kind}|how is my {kind} called",
        clause=f"what my {kind} is called|my {kind}'s name|who my {kind} is|what my {kind}'s name is",
        draw=Values.name,
        said=lambda v: f"your {kind} is called {v}",
    )


ANY = (  # whatever else a person or a record may have
    "job|profession|email|nickname|surname|school|street|brand|status|code|hotel|company|title|employer|"
    "floor|height|weight|salary|year|price|size|quantity|rank|points|login|department|planet|tree|village|river"
).split("|")
COUNTED = ("floor", "height", "weight", "salary", "year", "price", "size", "quantity", "rank", "points")


def anything(kind: str) -> Attribute:
    """Any other property: a job, a price."""
    return Attribute(
        tell=f"my {kind} is <v>|<v> is my {kind}|{kind}: <v>|the {kind} is <v>|the {kind} i have is <v>|my {kind} = <v>|as {kind}, note <v>",
        np=f"my {kind}|the {kind} i (gave|told|mentioned to) you",
        ask=f"{WHAT} my {kind}|(what|which) {kind} (do i have|is mine|did i mention|did i tell you)|my {kind} is what|what did i say about my {kind}",
        clause=f"what my {kind} (is|was)|my {kind}|(which|what) {kind} i (have|mentioned|told you)",
        draw=lambda values: values.number(1, 9999) if kind in COUNTED else values.name(),
        said=lambda v: f"your {kind} is {v}",
    )


def attribute(key: str) -> Attribute:
    """The attribute of a key of :attr:`Talk.facts` other than ``pet``."""
    fixed = {"name": NAME, "city": CITY, "colour": COLOUR, "age": AGE, "country": COUNTRY}
    if key in fixed:
        return fixed[key]
    family, _, kind = key.partition(":")
    return {"number": number, "thing": thing, "relative": relative, "any": anything}[family](kind)
