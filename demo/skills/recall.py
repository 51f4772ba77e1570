"""Telling, correcting and recalling facts."""

# Phrase tables read better in long lines.
# ruff: noqa: E501, SIM905

from grammar import CLOSE, OPEN
from talk import Talk, capital
from values import NUMBERS

from skills import facts
from skills.facts import Pet, attribute

MAIN = (
    "name name name city city city colour colour number number number pet pet pet age age"
).split()

ASK = (
    "<ask>?|<ask>?|<ask>?|<ask>?|<ask>?|<remind> <clause>?|<remind> <clause>|<remind> <clause>.|<remind> <np>?|<np>?|<np> again?|what (is|was) <np> again?|"
    "what did i (say|tell you|mention|call) (|that )<np> (was|is|would be)?|what did i tell you about <np>?|what (about|of) <np>?|i told you <np>, (what is it|what was it|which one is it|do you remember|right)?|"
    "i (forgot|can't remember|don't recall|forget) <np>(,|.) (what is it|what was it|can you help|tell me|do you know it|do you)?|<np>, please|you should know <np>(, right|)?|"
    "(according to|based on|from|going by) what i (said|told you)(| earlier| before| just now), <ask>?|<ask>, (again|remind me|do you know|can you say|as i told you)?|earlier i (told you|mentioned|gave you) <np>. what (is|was) it?|"
    "(can you|could you|please|will you) (repeat|recall|say|state|give me|name|confirm) <np>(?|.|)|what do you know about <np>?|without looking it up, <ask>?|test: <ask>|(question|memory test|pop quiz): <ask>?|"
    "(and|so) <ask>?|<ask> (then|again|exactly|anyway|really)?|<np> is (what|which|...)?|do you (know|remember|have|recall|still have) <np>(| noted| in mind| written down)?|have you (noted|kept|remembered|forgotten) <np>?|"
    "one more time, <ask>?|just checking: <ask>?|let me test (you|your memory): <ask>?|tell me, <ask>?|tell me <np>(| again|, please|.)|and now, <ask>?|if you remember, <ask>?|did i (tell you|mention|give you|say) <np>?|"
    "i wonder <clause>|(any chance|any idea|no idea|not sure) <clause>?|i'd (like|love) to (hear|know) <np>|guess <np>|(fill in|complete): <np> is|(could|can) you (look up|find|check) <np> (for me|in our chat|above)?|"
    "what have you (noted|written down|got|stored|saved) (for|as|about|under) <np>?|(give|hand) me <np>(| again| back)|what was that, <np>?|(name|state|say) <np>|"
    "(scroll|look|think) back: <ask>?|you (forgot|remember|know) <np>, (didn't you|don't you|right)?|we (talked|spoke) about <np>(.|,) (what is it|what was it)?|"
    "(what|which) did i (give|put down|name|note) as <np>?|what do you have (as|for|under) <np>?|what (is|stands) written (as|for|under) <np>?|what was it again, <np>?|(go on|be honest|your turn|answer me this|in one line|in short)(,|:) <ask>?|i need <np> for (a form|a letter|my friend)(.|, please|)|"
    "(for this form i need|please fill in|read me back|look up|find me|spell out|put down|write down|write) <np>(.|, please|)|read <np> back to me|it's about <np>(.|:) what (is|was) it?|(let's|can we) talk about <np>(.|?) what (is|was) it?|somebody (asked|wants to know) <clause>(.|,) what (do i say|should i answer|is it)?|"
    "(if|when) (somebody|a friend|they) (asks|asked|wants to know) <clause>, what (do you|would you|should i) (say|answer)?|(what|which) answer would you give to: <ask>?|you know <clause>(, right|)(?|.) (tell me|say it|so)(.|)|i told you <clause>( earlier|)(.|,) (say it|which is it|so what is it|repeat it)(?|.|)|"
    "(i think|i believe|surely|you said) you know <clause>(.|)|(is it|was it) clear <clause>?|so <np> (is|was)...|<np>?! (what|which) is it?|my question is(:| simple:) <ask>?|(help|quick|hurry|hm|hmm)(,|:|!) <ask>?|i'm testing you(.|:|,) <ask>?"
)
FIX_LEAD = (
    "(actually|actually|sorry|sorry|wait|wait|no wait|no|oops|correction|scratch that|my mistake|hang on|hold on|i was wrong|i lied|i misspoke|oh no|pardon|hmm no|let me correct (that|myself)|i made a mistake|"
    "change of plan|i changed my mind|on second thought|not quite|just kidding|update|apologies|excuse me|ah no|whoops|my bad|oh wait|small correction|i need to correct that|that was wrong|that's wrong|not true|"
    "ignore that|forget that|forget what i said|i take that back|i got that wrong|well actually|come to think of it|one correction|to be honest|in fact|to correct myself|strike that|i mistyped|typo)(,|,|:|.|!| -|;)"
)
FIX_SHORT = (
    "it's <v>|it is <v>|i meant <v>|i mean <v>|make that <v>|<v>|it should be <v>|i meant to say <v>|it's really <v>|i wanted to say <v>|that's <v>|it's <v> now|should have been <v>|i should have said <v>|make it <v>|"
    "change that to <v>|<v> it is|<v> instead|rather <v>|read <v>|that should (be|read) <v>|let's say <v>|it's <v> instead|please use <v>"
)
FIX_FULL = (
    "<np> is <v>, not <old>|not <old>, <v>|it's not <old> but <v>|it's <v>, not <old>|<v>, not <old>|<v> instead of <old>|<np> (is|should be) <v>|(change|correct|update|set|switch) <np> to <v>|replace <old> with <v>|forget <old>, it's <v>|"
    "<np> (has changed to|became|is now) <v>|i said <old> but (it is|i meant|it's) <v>|<np> isn't <old>, it's <v>|<np> isn't <old> but <v>|<np> is no longer <old> but <v>|not <old> but <v>|i wrote <old> but i meant <v>|from now on <np> is <v>|"
    "please (note|remember) that <np> is <v>|<np> is <v> now|<np> is really <v>|<np> is actually <v>|use <v> instead of <old>|when i said <old> i meant <v>|<old> was wrong, it's <v>|<old> is wrong, <np> is <v>|it was <old>, now it's <v>|i no longer have <old>, now it's <v>"
)
TOGETHER = {  # two facts in one clause
    ("name", "city"): "(i'm|i am|this is|it's|my name is|call me|i'm called|i'm|i am) <a> (from|of|in|living in|and i live in|and i'm from|and i come from|, i live in|, from) <b>|<a> (from|in) <b> here|<a> here, from <b>|(it's|it is) <a> writing from <b>|"
    "<a>, (living in|resident of|born in|at home in) <b>, that's me|name: <a>, city: <b>|my (name and city|name and my city|name and my home town) are <a> and <b>|<a> is my name and <b> (is |)my city|they call me <a> from <b>",
    ("name", "age"): "(i'm|i am|my name is|this is) <a>(, | and )<b>( years old|)|(i'm|this is|i am) <a>, aged <b>|<a>, <b> years old, that's me|name: <a>, age: <b>|my name and age are <a> and <b>|i'm <a> and i'm <b>|(i'm|i am) <a>, (age|just turned|now) <b>",
    ("name", "colour"): "(i'm|i am|this is) <a> and i (like|love) <b>|my name and favourite colour are <a> and <b>|name: <a>, colour: <b>|i'm <a>, (fond|a fan) of the colour <b>",
    ("city", "age"): "i'm <b> and (i |)live in <a>|i live in <a> and am <b>|i'm a <b> year old from <a>",
}
BOTH = (
    "<np1> and <np2>?|<ask1> and <ask2>?|<ask1>, and <ask2>?|<ask1>? and <ask2>?|<remind> <clause1> and <clause2>?|(what is|what are|what's|tell me|give me|repeat|say|i need) <np1> and <np2>(?|.|, please|)|"
    "(what are|tell me|name) both <np1> and <np2>?|do you (know|remember) <clause1> and <clause2>?|<np1> and also <np2>?|<ask1> and, by the way, <ask2>?|(first|please) <np1>, then <np2>(.|)"
)
JOIN = "( and | and |, |. |, and |; | - |. also, |. and | plus |, also |. oh and )"
TELL_LEAD = "(|||||||remember (this|that): |remember: |please note: |note that |please remember that |fyi |just so you know, |so you know, |a few facts: |about me: |for the record, |keep in mind that |don't forget: |i should mention that |did you know? |i'll tell you something: |let me tell you: |for your information, |by the way, |i want you to know that |you should know: |take note: |memorise this: |hi, |hello, |hey, |hi there, |hello! |hi! |good morning, |listen, )"


HEARD = (  # how another assistant may answer what it was told: what to recall is then only in the user's words
    "(noted|okay|ok|got it|understood|thanks|thank you|nice|great|alright|sure|i see|good to know|lovely|will do|of course|certainly|wonderful|fine|very well|right|done|makes sense|roger|cool)(.|!|, i (will|'ll) remember (that|it|this).|, noted.|, thanks for telling me.|, i have (noted|saved|stored) (that|it).|! how can i help?|! what can i do for you?)|"
    "i (will|'ll) (remember|keep) (that|this|it)( in mind|)(.|!)|i have (noted|made a note of|saved) (that|it|this).|thanks for (letting me know|telling me|sharing)(.|!)|(ok|okay|got it|noted|thanks|nice|great), <v>(.|!)|<v>, (got it|noted|nice|okay).|<v>(.|!| it is.)|hello, and thanks for telling me.|how can i help you?|nice to meet you!"
)


def new_fact(talk: Talk, key: str) -> tuple[str, object]:
    """A key of :attr:`Talk.facts` and a value for it."""
    if key == "pet":
        return key, facts.draw_pet(talk.values)
    if key == "number":
        key = "number:" + talk.rng.choice([k for k in NUMBERS if k != "age"])
    elif key == "thing":
        key = "thing:" + talk.rng.choice(list(facts.THINGS))
    elif key == "any":
        key = "any:" + talk.rng.choice(facts.ANY)
    elif key == "relative":
        key = "relative:" + talk.rng.choice(facts.RELATIONS)
    return key, attribute(key).draw(talk.values)


def said(key: str, value: object) -> str:
    """The fact in the second person, without capital or full stop."""
    return value.said() if isinstance(value, Pet) else attribute(key).said(value)


def tell_clause(talk: Talk, key: str, value: object) -> str:
    """The fact in the first person."""
    if isinstance(value, Pet):
        template = facts.PET_TELL_NAME if not value.kind else facts.PET_TELL_BOTH if value.name else facts.PET_TELL_KIND
        return talk.expand(template, k=value.kind, n=value.name)
    return talk.expand(attribute(key).tell, v=value)


def acknowledge(told: list[tuple[str, object]]) -> str:
    """How the model answers what it was told."""
    if len(told) == 1 and told[0][0] == "name":
        return f"Nice to meet you, {told[0][1]}!"
    clauses = [said(key, value) for key, value in told]
    text = clauses[0] if len(clauses) == 1 else ", ".join(clauses[:-1]) + " and " + clauses[-1]
    return f"Noted: {text}."


def heard(talk: Talk, value: object) -> str:
    """How another assistant may answer what it was told."""
    name = value.name or value.kind if isinstance(value, Pet) else value
    return capital(talk.expand(HEARD, v=name)).replace(OPEN, "").replace(CLOSE, "")


def some_keys(talk: Talk, count: int) -> list[str]:
    """What to tell; in training more often two of a kind, one of which may be asked for."""
    keys = [talk.rng.choice([*MAIN, "thing", "relative", "country"]) for _ in range(count)]
    if talk.values.rare(0.05, 0.12):
        keys = list(talk.rng.choice(list(TOGETHER)))
    elif talk.values.rare(0.03, 0.15):
        kind = talk.rng.choice(["relative", "relative", "thing", "number", "any"])
        keys = [kind, kind, *keys[2:]]
    return keys


def statement(talk: Talk, count: int, keys: list[str] | None = None) -> tuple[str, list[tuple[str, object]]]:
    """A message that tells ``count`` new facts, which it adds to ``talk``."""
    told: list[tuple[str, object]] = []
    for key in keys or some_keys(talk, count):
        full, value = new_fact(talk, key)
        if full in [k for k, _ in told]:
            continue
        if full.startswith("number:") and any(k.startswith("number:") for k in talk.facts):
            talk.facts["several numbers"] = True
        talk.facts[full] = value
        told.append((full, value))
    text, rest = talk.expand(TELL_LEAD) + " ", told[1:]
    together = TOGETHER.get(tuple(key for key, _ in told[:2]))
    if together and talk.chance(0.5):
        text, rest = text + talk.expand(together, a=told[0][1], b=told[1][1]), told[2:]
    else:
        text += tell_clause(talk, *told[0])
    for key, value in rest:
        text += talk.expand(JOIN.replace(" ", "~")).replace("~", " ") + tell_clause(talk, key, value)
    return text.strip() + talk.rng.choice([".", ".", ".", "", "!"]), told


def tell(talk: Talk, count: int = 0, keys: list[str] | None = None) -> None:
    """A turn that tells facts."""
    text, told = statement(talk, count or talk.rng.choice([1, 1, 1, 1, 2, 2, 3]), keys)
    if talk.values.rare(0.3, 0.4):
        talk.say("heard", text, heard(talk, told[0][1]), fillers=0.15, last=told)
    else:
        talk.say("recall", text, acknowledge(told), fillers=0.15, last=told)


def correct(talk: Talk) -> None:
    """A turn that corrects a fact; briefly ("no, Max") only right after the fact."""
    keys = [key for key in talk.facts if key != "several numbers"]
    key = talk.rng.choice(keys)
    previous = talk.last[1] if talk.last and talk.last[0] in ("recall", "heard") else None
    adjacent = isinstance(previous, list) and len(previous) == 1
    if adjacent and talk.chance(0.8):
        key = previous[0][0]  # type: ignore[index]
    adjacent = adjacent and previous[0][0] == key  # type: ignore[index]
    old = talk.facts[key]
    value: object = new_fact(talk, key)[1] if key in ("pet", "name") else None
    if isinstance(old, Pet):
        rename = bool(old.name) and talk.chance(0.7)
        new = Pet(old.kind, talk.values.pet_name()) if rename else Pet(talk.values.pet(), old.name)
        value, shown, was = new, (new.name if rename else new.kind), (old.name if rename else old.kind)
        whose = f"my {old.kind or 'pet'}'s name|the name of my {old.kind or 'pet'}|my {old.kind or 'pet'}'s name" if rename else "my pet"
        again, extra = tell_clause(talk, key, new), ""
        if not was:
            adjacent, rename = False, False
    else:
        spec = attribute(key)
        value = spec.draw(talk.values)
        if value == old:
            return
        shown, was, whose, again, extra = str(value), str(old), spec.np, tell_clause(talk, key, value), spec.adverb
    template = FIX_SHORT if adjacent and talk.chance(0.6) else FIX_FULL
    lead = talk.chance(0.75)
    if template == FIX_FULL and (talk.chance(0.4) or not was):
        body = again
    elif template == FIX_FULL and extra and talk.chance(0.4):
        body = talk.expand(extra, v=shown)
    else:
        body = talk.expand(template, v=shown, old=was, np=talk.expand(whose))
        body = body.replace("\x01" + talk.expand(whose) + "\x02", talk.expand(whose))
        lead = lead or template == FIX_SHORT
    talk.facts[key] = value
    text = talk.expand(FIX_LEAD) + " " + body if lead else body
    text += talk.rng.choice([".", ".", "", "!"])
    if talk.chance(0.3):
        talk.say("heard", text, heard(talk, value), fillers=0.05, last=[(key, value)])
    else:
        talk.say("recall", text, f"Noted: {said(key, value)}.", fillers=0.05, last=[(key, value)])


def asked(talk: Talk, key: str, value: object) -> dict[str, str]:
    """How the fact may be asked for: a question ("ask"), what follows "do you know" ("clause"), a noun ("np")."""
    if isinstance(value, Pet):
        slots = {"k": value.kind or "pet", "n": value.name}
        forms = ([(facts.PET_ASK_NAME, facts.PET_CLAUSE_NAME)] * 2 if value.name else []) + [(facts.PET_ASK_KIND, facts.PET_CLAUSE_KIND)]
        ask, clause = talk.rng.choice(forms)
        np = "my (<k>|pet)'s name|the name of my (<k>|pet)|what my (<k>|pet) is called" if ask == facts.PET_ASK_NAME else "my pet|my pet|the pet i have|what pet i have"
    else:
        spec = attribute(key)
        slots, ask, clause, np = {}, spec.ask, spec.clause, spec.np
        if spec.vague_ask and not talk.facts.get("several numbers"):  # else "which number did I say?" has two answers
            ask, clause = f"{ask}|{spec.vague_ask}", f"{clause}|{spec.vague_clause}"
    return {"ask": talk.expand(ask, **slots), "clause": talk.expand(clause, **slots), "np": talk.expand(np, **slots)}


def filled(talk: Talk, template: str, inner: dict[str, str]) -> str:
    """A form of the template whose slots are texts of their own, already expanded."""
    out = talk.expand(template, **{name: "{" + name + "}" for name in inner})
    for name, text in inner.items():
        out = out.replace("\x01{" + name + "}\x02", text)
    return out


def question(talk: Talk, key: str, value: object) -> str:
    """A question after the fact."""
    if isinstance(value, Pet) and value.name and value.kind and talk.chance(0.2):
        return talk.expand(facts.PET_ASK_WHO, k=value.kind, n=value.name) + "?"
    return filled(talk, ASK, asked(talk, key, value))


def question_of_two(talk: Talk, first: str, second: str) -> str:
    """A question after two facts."""
    inner = {}
    for number, key in (("1", first), ("2", second)):
        inner |= {form + number: text for form, text in asked(talk, key, talk.facts[key]).items()}
    return filled(talk, BOTH, inner)


def ask(talk: Talk) -> None:
    """A turn that asks for a fact told before, or in the same message, or never."""
    roll = talk.rng.random()
    known = [key for key in talk.facts if key != "several numbers"]
    if talk.facts.get("several numbers"):  # "my number" may then be any of them
        known = [key for key in known if key != "number:number"]
    if not known or roll < 0.12:
        text, told = statement(talk, talk.rng.choice([1, 1, 2, 2, 3]))
        key, value = talk.rng.choice(told)
        if talk.facts.get("several numbers") and key == "number:number":
            talk.say("recall", text, acknowledge(told), fillers=0.1, last=told)
            return
        talk.say("recall", capital(text.rstrip(".!")) + ". " + question(talk, key, value), capital(said(key, value)) + ".", fillers=0.1)
        return
    unknown = 0.12 + talk.values.share(0.04, 0.07)
    everything_told = unknown + talk.values.share(0.04, 0.13)
    if roll < unknown:
        missing = [key for key in ("name", "city", "colour", "age", "pet") if key not in talk.facts]
        if missing:
            key = talk.rng.choice(missing)
            noun = {"name": "your name", "city": "where you live", "colour": "your favourite colour", "age": "your age", "pet": "about a pet"}[key]
            value = Pet(talk.values.pet() if talk.chance(0.5) else "", "") if key == "pet" else ""
            if isinstance(value, Pet) and value.kind:
                asked = talk.expand(facts.PET_ASK_NAME, k=value.kind) + "?"
            else:
                asked = question(talk, key, value)
            talk.say("recall", asked, f"You have not told me {noun}.")
            return
    key = talk.rng.choice(known)
    value = talk.facts[key]
    if unknown <= roll < everything_told:
        everything = "; ".join(said(k, talk.facts[k]) for k in known)
        if len(known) <= 4 and not talk.facts.get("several numbers"):
            talk.say("recall", talk.expand(ALL), capital(everything) + ".")
            return
    guessed = everything_told + 0.04
    if guessed <= roll < guessed + talk.values.share(0.03, 0.08) and len(known) > 1:
        first, second = talk.rng.sample(known, 2)
        answer = f"{capital(said(first, talk.facts[first]))} and {said(second, talk.facts[second])}."
        talk.say("recall", question_of_two(talk, first, second), answer)
        return
    if everything_told <= roll < guessed and key in ("name", "city", "colour"):
        right = talk.chance(0.5)
        guess = value if right else attribute(key).draw(talk.values)
        shape = {"name": "is my name <v>|am i <v>|am i called <v>|my name is <v>, right", "city": "do i live in <v>|am i from <v>|is my city <v>|i live in <v>, right",
                 "colour": "is my favourite colour <v>|do i like <v> best|is <v> my favourite color"}[key]
        talk.say("recall", talk.expand(shape, v=guess) + "?", capital(said(key, value)) + ".")
        return
    talk.say("recall", question(talk, key, value), capital(said(key, value)) + ".")


ALL = (
    "what do you (know|remember) (about|of) me?|(tell me|say|list|repeat|show me) (everything|all|what|anything) you (know|remember) about me|what have i told you( so far| about me|)?|what did i tell you( so far| about me|)?|"
    "summarise what you know about me|(what are|list|repeat) (all |)my (facts|details|data)|what do you have on me?|do you remember (everything|all) i (said|told you)?|sum up what i told you"
)
