"""Countries and their capitals."""

# Phrase tables read better in long lines.
# ruff: noqa: E501

from talk import Talk
from values import COUNTRIES

FORWARD = (
    "<whatis> the capital (|city )(of|in|for) <c>?|<whatis> <c>'s capital(| city)?|(the |)capital (|city )of <c>?|<c>'s capital(?|)|<tell> the capital (|city )of <c>(?|.)|<tell> (what|which city) (is the capital of <c>|<c>'s capital is)(?|.)|"
    "(which|what) (city|town|place) is the capital (|city )(of|in) <c>?|(which|what) is the capital (|city )of <c>?|name (the capital (|city )of <c>|<c>'s capital)|<c>(: capital|, capital|'s capital|: capital city|. capital)?|what('s| is) the <j> capital(| city)?|the <j> capital(?| is| is called?)|"
    "(do you know|can you name|could you name|please name|remember|i forgot|i need|give me|find|look up|say|guess) (the capital (|city )of <c>|<c>'s capital|the <j> capital)(?|.|)|<c> has (which|what) (city as its |)capital?|what capital (does <c> have|has <c>|city does <c> have)?|"
    "where is the (government|parliament|president|seat of government) of <c>(| located| seated)?|in (which|what) city (is|does) the <j> (government|parliament) (sit|located|based|meet)?|the capital of <c> is (what|which city|called|named|...)?|<c> capital|capital <c>|capital of <c>|"
    "(i'm|i am) (travelling|flying|going) to the capital of <c>(,|.) (which city is that|what is it called|where do i land|what city is it)?|(quiz|geography quiz|geography|test): (the |)capital of <c>(?|)|if i (go|fly|travel) to <c>, (which|what) (city )is the capital?|"
    "(my friend|somebody|my sister) (lives|works) in the capital of <c>(.|,) (which city is it|which city is that|what's it called)?|(which|what) city (serves|acts) as (the |)capital (of|for) <c>?|what is the name of the capital (|city )of <c>?|what's the capital called in <c>?|"
    "how is the capital of <c> called?|what do they call the capital of <c>?|what is the main city of <c>, its capital?|tell me about the capital of <c>|<c> - what is the capital?|(which|what) city is <c>'s capital?|i'd like to visit the capital of <c>, what is it?|"
    "the capital city of <c> please|(which|what) city do (the <j> people|people in <c>) call their capital?|(whats|what's) capital of <c>|what capital belongs to <c>?|in <c>, (what|which) (city )is the capital?|(for|about) <c>, (what|which) (city )is the capital?|"
    "(in|of) <c>, the capital is (what|which|called what)?|(which|what) city (governs|rules) <c>?|from (which|what) city is <c> (governed|ruled)?|where's the capital of <c>?|where is the capital of <c>?"
)
BACK = (
    "<k> is the capital (|city )of (which|what) (country|nation|state|land)?|(which|what) (country|nation|state|land) (has|uses|calls) <k> (as|for|) (its|the|) capital(| city)?|(which|what) (country|nation|land)('s| has its) capital is <k>?|(which|what) (country|nation|land) is <k> the capital (|city )(of|for|in)?|"
    "<k> is the capital of (what|where)?|<k>(: |, )(the |)capital of( what| which country|)?|of (which|what) (country|nation|land) is <k> the capital(| city)?|whose capital is <k>?|<tell> (which|what) (country|nation) has <k> as (its |)capital(?|.)|<tell> (which|what) country <k> is the capital of(?|.)|"
    "<tell> whose capital <k> is|to (which|what) country does the capital <k> belong?|<k> is (which|what|whose) (country's |nation's |)capital?|name the country (whose capital is|with the capital|that has the capital|of which the capital is) <k>|(which|what) country (do i get to|am i in) (if|when) (i'm|i am) in its capital(,|) <k>?|"
    "the capital (|called |named )<k> (belongs to|is in) (which|what) country?|<k> is capital (to|of|for) (which|what) (country|nation)?|if <k> is the capital, (what|which) is the country?|(the |a |)country (with|whose) capital (|is )<k>(?|)|what is <k> the capital (|city )of?|what's <k> the capital of?|"
    "(i'm in|i am in|i visited|i'm flying to) <k>, the capital of (which|what) country(| is that)?|<k> - capital of (which|what) country?|(quiz|geography|test): <k> is the capital of|(which|what) country is governed from <k>?|<k> serves as (the |)capital of (which|what) (country|nation)?|"
    "(which|what) country (is|lies) (behind|around) the capital <k>?|in (which|what) country is <k> the capital?|<k> is the (seat of government|capital city) of (which|what) (country|nation)?|i know <k> is a capital, but of (which|what) country?|<k>, (which|what|whose) capital is (that|it)?|where is <k> the capital?|"
    "(which|what) country does <k> (belong to|lead|serve)(| as (a |the |)capital)?|<k> is a capital(.|,) (of which country|of what|which country)?|(what|which) nation has its (capital|government|parliament) in <k>?"
)
NEXT = "(and|what about|how about|and for|and of|and what about|now|next:|next|same for|also|then|and the one of|ok and|also for|and in|how's about|the same for|) <c>(?|?|| please)|(and|what about|how about) (the capital of |that of |the one of )<c>?|and <c>'s(| capital)?"
NEXT_BACK = "(and|what about|how about|and for|and|now|next:|same for|also|then|ok and|) <k>(?|?|| please)|and <k> is the capital of?|and the country of <k>?"
YESNO = "is <k> the capital (|city )of <c>?|is <c>'s capital <k>?|is the capital of <c> <k>?|<k> is the capital of <c>, (right|isn't it|correct|true or false|yes or no)?|the capital of <c> is <k>, (right|isn't it|correct)?|am i right that <k> is the capital of <c>?|true or false: <k> is the capital of <c>|would you say <k> is the capital of <c>?"
VARIANTS = {
    "the United States": "the United States|the USA|the US|America|the United States of America|USA|the states|United States",
    "the United Kingdom": "the United Kingdom|the UK|Great Britain|Britain|UK|England|United Kingdom",
    "the Czech Republic": "the Czech Republic|Czechia|Czech Republic",
    "the United Arab Emirates": "the United Arab Emirates|the UAE|the Emirates|United Arab Emirates",
    "Myanmar": "Myanmar|Burma", "the Netherlands": "the Netherlands|Holland|Netherlands", "Turkey": "Turkey|Türkiye",
    "Washington": "Washington|Washington DC|Washington, D.C.|Washington D.C.", "Kyiv": "Kyiv|Kiev", "New Delhi": "New Delhi|Delhi",
    "Brasilia": "Brasilia|Brasília", "Bogota": "Bogota|Bogotá", "Washington DC": "Washington", "Astana": "Astana|Nur-Sultan",
    "San Jose": "San Jose|San José", "Asuncion": "Asuncion|Asunción", "Yaounde": "Yaounde|Yaoundé", "Chisinau": "Chisinau|Chișinău",
}


def shown(talk: Talk, place: str) -> str:
    """A country or capital as somebody may write it."""
    name = talk.rng.choice(VARIANTS.get(place, place).split("|"))
    if talk.chance(0.25) and name.startswith("the "):
        name = name[4:]
    return name.lower() if talk.chance(0.22) else name


def forward(country: str, city: str) -> str:
    return f"The capital of {country} is {city}."


def backward(country: str, city: str) -> str:
    return f"{city} is the capital of {country}."


def capital_turn(talk: Talk) -> None:
    """A question about a capital, in either direction, or a short one after another."""
    country, city, adjective = talk.rng.choice(COUNTRIES)
    if talk.last and talk.last[0] == "capitals" and talk.chance(0.5):
        if talk.last[1] == "back":
            talk.say("capitals", talk.expand(NEXT_BACK, k=shown(talk, city)), backward(country, city), fillers=0.08, last="back")
        else:
            talk.say("capitals", talk.expand(NEXT, c=shown(talk, country)), forward(country, city), fillers=0.08, last="forward")
        return
    roll = talk.rng.random()
    if roll < 0.12:  # answered with the fact: comparing two names is more than the model learns
        guess = city if talk.chance(0.5) else talk.rng.choice(COUNTRIES)[1]
        talk.say("capitals", talk.expand(YESNO, c=shown(talk, country), k=shown(talk, guess)), forward(country, city), last="yes")
    elif roll < 0.57:
        adjective = adjective if talk.chance(0.8) else adjective.lower()
        talk.say("capitals", talk.expand(FORWARD, c=shown(talk, country), j=adjective), forward(country, city), last="forward")
    else:
        talk.say("capitals", talk.expand(BACK, k=shown(talk, city)), backward(country, city), last="back")
