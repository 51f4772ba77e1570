"""How an object is asked for: thousands of wordings, and words that no grammar knows."""

# Phrase tables read better in long lines.
# ruff: noqa: E501

import re

from grammar import CLOSE, OPEN
from talk import Talk
from values import word

from skills.outside import TOPICS

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
MORE = (
    f"{NOUN} whose (keys|fields|members|properties|attributes) are (just |exactly |only |)<keys>|{NOUN} keyed by <keys>|<give> (a |an |)({NOUN}) whose (keys|fields|entries) are <keys>|(a |one |)({NOUN}) (of|with|having) (the |)<count> (keys|fields|entries|properties|attributes|members|pairs)(:|,| -| named| called|) <keys>|"
    f"<give> (a |)({NOUN}) with (the |these |exactly |)<count> (keys|fields|entries|properties)(:|,| -|) <keys>|<count> (keys|fields|entries|pairs|members)(:|, namely|, i.e.| -|,) <keys>(.|;|,) {J}( please|)|(serialise|serialize|dump|marshal|encode|export|translate|transcribe|reformat|restate|rephrase|present|capture|describe|reduce|boil down|condense) {WHERE} (to|into|as|in) (a |)({NOUN})(,|:| <with>) {KEYWORD} <keys>|"
    f"(key-value pairs|key/value pairs|keys and values|pairs of key and value|name-value pairs) in {HOW} (for|of|:|with) <keys>|(a |the |my |)(request |response |message |)(body|payload|reply|header|row|entry|item|document) (in|as) {HOW}(,|:|;| <with>) {KEYWORD} <keys>|(follow|use|stick to|match|respect|obey|copy|keep to) (this|the|that) (schema|layout|pattern|template|skeleton|structure|example|outline): <form>|(between|inside|within) curly (braces|brackets)(,|:) <keys>(, | - |. ){HOW}|"
    f"i (only |just |)(care about|am interested in|look for|asked for|want to keep|have to store|must submit|am missing) <keys>(.|;|:|,) {J}(, please|)|(restrict|limit|reduce|narrow|cut|trim) (it|that|this|yourself|the {J}) (down |)to <keys>(, as| as|, in| in) {HOW}|(the rest|everything else|all else|whatever else) (is not needed|can go|doesn't matter|is irrelevant)(:|;|,|.) {J} <with> {KEYWORD} <keys>|(an |one |a new |)(entry|card|row|line|item) for my (address book|list|table|file|catalogue|database|spreadsheet) in {HOW}(,|:| <with>) {KEYWORD} <keys>|"
    f"(one|a) (key|field|entry) (for|per|to) each( of|:|) <keys>(, as|, in|. as| in| as) {HOW}|(one key per|a key for every|a key for each) (fact|value|word|item)(:|,| -) <keys>. {J}|let <keys> be the (keys|fields|names) of (a |an |the |)({NOUN})|(a |the |)({NOUN}) (that|which|to) (tells|tell|says|say|states|state|records|describes|describe|answers) <keys>|<keys> (go|belong|should go|should be|must be|need to be|have to be|are to be put|come) (in|into|inside) (a |one |the |)({NOUN})|"
    f"(i'll|i will|we'll|we) (need|parse|store|read|send|import|paste|load) (it|that|this)(,|:|;| so| later, so| afterwards:) {J} <with> {KEYWORD} <keys>|(no|without|skip|spare me|omit|avoid) (chat|chatter|talk|comments|comment|words|markdown|code fences|explanations)(,|:|;|.| -) {J} <with> {KEYWORD} <keys>|(could|can|would) (this|that|it|everything) (be|become|be written as|be turned into|fit into) (a |)({NOUN}) <with> {KEYWORD} <keys>(?|)|(what|how) (would|does|will) (that|this|it) (be|look|look like|read) (in|as) {HOW}(,|;| <with>) {KEYWORD} <keys>(?|)|"
    f"(convert|translate|conversion|from (text|english|prose|words)) to {HOW}(,|:|;| -) {KEYWORD} <keys>|(the |)(target|desired|wanted|required|expected|final) (format|form|output|shape|structure)(:| is| =) {HOW}(,|;|.| <with>) {KEYWORD} <keys>|(required|wanted|needed|requested|necessary|expected|mandatory) (keys|fields|entries|members)(:| are| =) <keys>(.|;|,) (use |)({HOW}|{J})|(write|note|jot|put|take|get|set|lay) (it|that|this|them) down (in|as) {HOW}(,|:|;| <with>) {KEYWORD} <keys>|"
    f"(my|the|our|this) (tool|server|backend|teacher|boss|client|customer|colleague|program|website|machine|robot|system) (only |)(understands|accepts|requires|demands|asks for|likes|takes|speaks|eats) {HOW}(:|,|.|;) {KEYWORD} <keys>|(pretend you are|act as|be|play) (a |an |)(json |)(api|server|parser|formatter|converter|encoder|machine)(:|;|.|,) {KEYWORD} <keys>(, | in | as ){HOW}|{J} (with|from|for) <keys>(, in this order|, in that order| in this order| in that order| in exactly this order)|(start|begin) (with|the {J} with|your answer with) (a brace|the brace|curly braces|an opening one)(:|;|,|.) {KEYWORD} <keys>|"
    f"(all i want|all i need|what i want|what i need|what we need|the only thing i want|the task|your task|your job|the exercise|my wish|the goal)(:| is| would be) (a |an |)({NOUN}) <with> {KEYWORD} <keys>|(time|ready|up) for (some |a |)({NOUN})(:|,|;| <with>) {KEYWORD} <keys>|(as|being) a (programmer|developer|data scientist|student|tester|beginner)(,|) i (need|want|would like) (a |)({NOUN}) <with> {KEYWORD} <keys>|{J}, <count> (keys|fields): <keys>|(for|under|of|about|with) each of <keys>(,|) (give|write|put|add|fill in) (the |its |a )value(, as|, in| in) {HOW}"
)
BARE = "(as|in|to|into) (json|JSON)(, please|)|(turn|convert|put|format|write|make) (that|this|it) (as|into|in) (a |)(json|JSON)( object|)|(json|JSON)(, please| please|)|(give|show) me (that|this|it) (as|in) (json|JSON)|make (that|it) (a |)(json|JSON)( object|)"
COUNTS = {1: "one|1|a single", 2: "two|2|both", 3: "three|3", 4: "four|4", 5: "five|5", 6: "six|6", 7: "seven|7"}
KEPT = re.compile(r"json|jason|keys?|fields?|object|dict|record|map|only|exactly|just|and|for|from")
INTO = (  # what else somebody may say while asking
    "for the <w>|if that works|because of the <w>|while we talk about <w>|for tomorrow's <w>|as in the <w>|like last time|as agreed|about <w>|for <w>|before the <w> starts|so that the <w> can use it|as the <w> needs it|with <w> in mind|you <w>|oh <w>|in the <w> way|as my <w> said|after the <w>|this is for <w>|under the <w>|this time|one last time|at last|as ever"
)


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


def unfamiliar(talk: Talk, request: str) -> str:
    """``request`` with a word or two exchanged for others, or with something said in between.

    A person's wording always has words that no grammar foresaw: only what matters must be listened to. The
    guarded parts (keys, values) and the words that make it a request for an object stay.
    """
    rng = talk.rng
    parts = re.split(f"({OPEN}[^{CLOSE}]*{CLOSE})", request)
    spots = [
        (index, found.start(), found.end())
        for index, part in enumerate(parts)
        if not part.startswith(OPEN)
        for found in re.finditer(r"[a-z']{2,}", part)
        if not KEPT.fullmatch(found.group())
    ]
    for index, start, end in sorted(rng.sample(spots, min(len(spots), rng.choice([1, 1, 2]))), reverse=True):
        strange = rng.choice(rng.choice(TOPICS).split()) if talk.chance(0.6) else word(rng)
        old, roll = parts[index][start:end], rng.random()
        if roll < 0.5:
            new = strange
        elif roll < 0.75:
            new = ""
        else:
            new = old + " " + talk.expand(INTO, w=strange).replace(OPEN, "").replace(CLOSE, "")
        parts[index] = parts[index][:start] + new + parts[index][end:]
    return re.sub(r" {2,}", " ", "".join(parts)).strip()


def request(talk: Talk, names: list[str], text: str = "") -> str:
    """A request for an object with the keys ``names``; with ``text``, one that says the facts within it."""
    slots = {"keys": written_keys(talk, names), "form": form(talk, names), "with": talk.expand(WITH)}
    slots["count"] = talk.expand(COUNTS[len(names)])
    if text:
        return talk.expand(AROUND, text=text, **slots)
    asked = talk.expand(REQUEST + "|" + MORE, **slots)
    return unfamiliar(talk, asked) if talk.values.rare(0.0, 0.2) else asked
