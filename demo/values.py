"""The values that dialogues are about: names, cities, colours, pets, numbers, countries.

Names and cities are mostly invented from syllables, so that the model has to copy and cannot memorise. A fixed tenth of all
strings and a twentieth of all pairs of numbers (chosen by checksum) never occur in training: evaluation draws only those.
"""

# Phrase tables read better in long lines.
# ruff: noqa: E501, SIM905

import random
import zlib

PEOPLE = (
    "Ada Alan Alice Amir Ana Anna Arjun Ben Bianca Carla Carlos Chen Clara Daniel David Diego Elena "
    "Emma Eva Fatima Felix Finn Grace Hana Hugo Ibrahim Ines Ivan Jack Jana Javier Joao John Jonas "
    "Julia Kai Karim Kate Kenji Lars Laura Lea Leo Lin Lisa Lucas Lucy Maja Marco Maria Mark Marta "
    "Mary Max Mei Mia Mike Mina Mohammed Nadia Nina Noah Nora Olga Oliver Omar Otto Paul Peter Priya "
    "Rosa Sam Sara Sofia Sven Tara Tim Tom Uma Vera Victor Wei Yara Yuki Zoe Zara Aisha Bob Eve"
).split()
TOWNS = (
    "Lyon Osaka Munich Turin Porto Leeds Boston Chicago Mumbai Milan Naples Hamburg Seville Bristol "
    "Dublin Toronto Seattle Austin Denver Glasgow Krakow Geneva Basel Zurich Antwerp Ghent Malmo "
    "Bergen Haifa Izmir Lagos Dakar Durban Perth Sydney Melbourne Auckland Kyoto Nagoya Busan "
    "Shanghai Shenzhen Karachi Lahore Chennai Pune Recife Rosario Cusco Valencia Bilbao Granada Nice "
    "Lille Nantes Bremen Leipzig Dresden Graz Linz Brno Gdansk Split Varna Odessa Kazan"
).split()
COLOURS = (
    "red blue green yellow orange purple pink black white grey gray brown turquoise violet cyan "
    "magenta teal maroon navy gold silver beige indigo lavender crimson scarlet olive lime coral "
    "salmon amber ivory khaki mint peach plum ruby emerald azure burgundy mustard lilac charcoal "
    "cream bronze copper fuchsia tan rose sapphire mauve ochre rust"
).split()
PETS = (
    "dog cat parrot hamster rabbit horse turtle goldfish snake lizard ferret mouse rat budgie canary "
    "tortoise gecko pony duck hen goat pig frog iguana spider chinchilla hedgehog donkey cockatoo "
    "fish bird kitten puppy guinea~pig sheep cow llama monkey raven owl pigeon gerbil bunny chicken "
    "newt crab salamander"
).split()
NUMBERS = {  # kind of number: smallest and largest value
    "lucky number": (0, 99), "favourite number": (0, 99), "house number": (1, 99), "room number": (1, 99),
    "age": (1, 99), "shoe size": (20, 50), "locker number": (1, 99), "bus number": (1, 99), "jersey number": (0, 99),
    "seat number": (1, 99), "apartment number": (1, 99), "number": (0, 99), "bus line": (1, 99), "desk number": (1, 99),
    "phone extension": (10, 999), "ticket number": (1, 999), "score": (0, 99), "secret number": (0, 999),
    "door number": (1, 99), "team number": (1, 99), "street number": (1, 99), "flat number": (1, 99), "luckiest number": (0, 99),
}
# country, capital, adjective
_TABLE = (
    "France/Paris/French Germany/Berlin/German Spain/Madrid/Spanish Italy/Rome/Italian "
    "Portugal/Lisbon/Portuguese Austria/Vienna/Austrian Switzerland/Bern/Swiss Belgium/Brussels/Belgian "
    "the~Netherlands/Amsterdam/Dutch Luxembourg/Luxembourg~City/Luxembourgish Ireland/Dublin/Irish "
    "the~United~Kingdom/London/British Iceland/Reykjavik/Icelandic Norway/Oslo/Norwegian "
    "Sweden/Stockholm/Swedish Finland/Helsinki/Finnish Denmark/Copenhagen/Danish "
    "Estonia/Tallinn/Estonian Latvia/Riga/Latvian Lithuania/Vilnius/Lithuanian Poland/Warsaw/Polish "
    "the~Czech~Republic/Prague/Czech Slovakia/Bratislava/Slovak Hungary/Budapest/Hungarian "
    "Slovenia/Ljubljana/Slovenian Croatia/Zagreb/Croatian Serbia/Belgrade/Serbian "
    "Bosnia~and~Herzegovina/Sarajevo/Bosnian Montenegro/Podgorica/Montenegrin "
    "North~Macedonia/Skopje/Macedonian Albania/Tirana/Albanian Greece/Athens/Greek "
    "Bulgaria/Sofia/Bulgarian Romania/Bucharest/Romanian Moldova/Chisinau/Moldovan "
    "Ukraine/Kyiv/Ukrainian Belarus/Minsk/Belarusian Russia/Moscow/Russian Turkey/Ankara/Turkish "
    "Cyprus/Nicosia/Cypriot Malta/Valletta/Maltese Georgia/Tbilisi/Georgian Armenia/Yerevan/Armenian "
    "Azerbaijan/Baku/Azerbaijani Israel/Jerusalem/Israeli Lebanon/Beirut/Lebanese Syria/Damascus/Syrian "
    "Jordan/Amman/Jordanian Iraq/Baghdad/Iraqi Iran/Tehran/Iranian Saudi~Arabia/Riyadh/Saudi "
    "Kuwait/Kuwait~City/Kuwaiti Qatar/Doha/Qatari the~United~Arab~Emirates/Abu~Dhabi/Emirati "
    "Oman/Muscat/Omani Yemen/Sanaa/Yemeni Egypt/Cairo/Egyptian Libya/Tripoli/Libyan "
    "Tunisia/Tunis/Tunisian Algeria/Algiers/Algerian Morocco/Rabat/Moroccan Sudan/Khartoum/Sudanese "
    "Ethiopia/Addis~Ababa/Ethiopian Kenya/Nairobi/Kenyan Uganda/Kampala/Ugandan "
    "Tanzania/Dodoma/Tanzanian Rwanda/Kigali/Rwandan Nigeria/Abuja/Nigerian Ghana/Accra/Ghanaian "
    "Senegal/Dakar/Senegalese Mali/Bamako/Malian Cameroon/Yaounde/Cameroonian Angola/Luanda/Angolan "
    "Zambia/Lusaka/Zambian Zimbabwe/Harare/Zimbabwean Mozambique/Maputo/Mozambican "
    "Namibia/Windhoek/Namibian Botswana/Gaborone/Botswanan South~Africa/Pretoria/South~African "
    "Madagascar/Antananarivo/Malagasy Somalia/Mogadishu/Somali China/Beijing/Chinese "
    "Japan/Tokyo/Japanese South~Korea/Seoul/South~Korean North~Korea/Pyongyang/North~Korean "
    "Mongolia/Ulaanbaatar/Mongolian Taiwan/Taipei/Taiwanese Vietnam/Hanoi/Vietnamese "
    "Laos/Vientiane/Laotian Cambodia/Phnom~Penh/Cambodian Thailand/Bangkok/Thai "
    "Malaysia/Kuala~Lumpur/Malaysian Singapore/Singapore/Singaporean Indonesia/Jakarta/Indonesian "
    "the~Philippines/Manila/Philippine India/New~Delhi/Indian Pakistan/Islamabad/Pakistani "
    "Bangladesh/Dhaka/Bangladeshi Nepal/Kathmandu/Nepali Sri~Lanka/Colombo/Sri~Lankan "
    "Afghanistan/Kabul/Afghan Kazakhstan/Astana/Kazakh Uzbekistan/Tashkent/Uzbek "
    "Australia/Canberra/Australian New~Zealand/Wellington/New~Zealand Canada/Ottawa/Canadian "
    "the~United~States/Washington/American Mexico/Mexico~City/Mexican Cuba/Havana/Cuban "
    "Jamaica/Kingston/Jamaican Guatemala/Guatemala~City/Guatemalan Honduras/Tegucigalpa/Honduran "
    "Costa~Rica/San~Jose/Costa~Rican Panama/Panama~City/Panamanian Colombia/Bogota/Colombian "
    "Venezuela/Caracas/Venezuelan Ecuador/Quito/Ecuadorian Peru/Lima/Peruvian Bolivia/La~Paz/Bolivian "
    "Chile/Santiago/Chilean Argentina/Buenos~Aires/Argentine Uruguay/Montevideo/Uruguayan "
    "Paraguay/Asuncion/Paraguayan Brazil/Brasilia/Brazilian Haiti/Port-au-Prince/Haitian "
    "the~Dominican~Republic/Santo~Domingo/Dominican Nicaragua/Managua/Nicaraguan "
    "El~Salvador/San~Salvador/Salvadoran Myanmar/Naypyidaw/Burmese Bhutan/Thimphu/Bhutanese "
    "Fiji/Suva/Fijian "
).split()
COUNTRIES = [tuple(row.split("/")) for row in _TABLE]
COUNTRIES = [tuple(part.replace("~", " ") for part in row) for row in COUNTRIES]
PETS = [pet.replace("~", " ") for pet in PETS]
_BARE = [country.removeprefix("the ") for country, _, _ in COUNTRIES]

_ONSETS = (
    "b c d f g h j k l m n p r s t v w z " * 4 + "br ch cl cr dr fl fr gl gr kl kr pl pr qu sh sk sl sn st str th tr ts y x"
).split()
_VOWELS = (
    "a e i o u a e i o u a e i o u a e i o u ai au ea ei ia ie io oa oo ou y ee ue"
).split()
_CODAS = [""] * 40 + [*["n", "l", "r", "s", "m", "t", "k", "d", "x", "nd", "rt", "lk", "st", "ng", "ck", "th", "sh", "rk", "lm", "ns", "ll", "tt"]]
_TOWN_ENDS = (
    "ville burg ton ford ia ona ham stad grad holm by dorf heim mouth bridge field port polis pur "
    "abad sk"
).split()


def held_out(value: str) -> bool:
    """Whether ``value`` is kept for evaluation: a fixed tenth of all strings."""
    return zlib.crc32(value.lower().encode()) % 10 == 0


def held_out_pair(a: int, b: int) -> bool:
    """Whether the sum or difference of ``a`` and ``b`` is kept for evaluation: a fixed twentieth."""
    return zlib.crc32(f"{a},{b}".encode()) % 20 == 0


def word(rng: random.Random, low: int = 2, high: int = 3) -> str:
    """An invented word of ``low`` to ``high`` syllables, in lower case."""
    return "".join(
        (rng.choice(_ONSETS) if i or rng.random() < 0.8 else "") + rng.choice(_VOWELS) + rng.choice(_CODAS)
        for i in range(rng.randint(low, high))
    )


def letters(rng: random.Random) -> str:
    """Random letters, for drills in copying."""
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 8)))


class Values:
    """A source of values for one dialogue. ``fresh`` draws only values and pairs kept from training."""

    def __init__(self, rng: random.Random, fresh: bool = False) -> None:
        self.rng, self.fresh = rng, fresh

    def share(self, usual: float, practised: float) -> float:
        """How often something happens: what is rare and hard is practised in training."""
        return usual if self.fresh else practised

    def rare(self, usual: float, practised: float) -> bool:
        """True for that share of the draws."""
        return self.rng.random() < self.share(usual, practised)

    def _copyable(self, make: object) -> str:
        while True:
            value = make()  # type: ignore[operator]  # a closure without arguments
            if held_out(value) == self.fresh:
                return str(value)

    def name(self) -> str:
        def make() -> str:
            rng, kind = self.rng, self.rng.random()
            if kind < 0.16 and not self.fresh:
                value = rng.choice(PEOPLE)
            elif kind < 0.22:
                value = letters(rng).capitalize()
            else:
                value = word(rng, 1 if rng.random() < 0.3 else 2, 3 if rng.random() < 0.2 else 2).capitalize()
            extra = rng.random()
            if extra < 0.06:
                value += " " + word(rng).capitalize()
            elif extra < 0.08:
                value += "-" + word(rng, 1, 2).capitalize()
            return value.lower() if self.rare(0.12, 0.3) else value

        return self._copyable(make)

    def city(self) -> str:
        def make() -> str:
            rng, kind = self.rng, self.rng.random()
            if kind < 0.15 and not self.fresh:
                value = rng.choice(TOWNS)
            elif kind < 0.22 and not self.fresh:
                value = rng.choice(COUNTRIES)[1]
            elif kind < 0.26:
                value = letters(rng).capitalize()
            elif kind < 0.5:
                value = (word(rng, 1, 2) + rng.choice(_TOWN_ENDS)).capitalize()
            else:
                value = word(rng, 2, 3).capitalize()
            extra = rng.random()
            if extra < 0.08:
                value = rng.choice(["New", "San", "Saint", "Port", "El", "Los", "North", "Santa", "Rio", "Fort"]) + " " + value
            elif extra < 0.1:
                value += rng.choice([" City", " Springs", " Beach", "-sur-Mer", " Falls"])
            return value.lower() if self.rare(0.12, 0.22) else value

        return self._copyable(make)

    def pet_name(self) -> str:
        return self.name().split(" ")[0]

    def pet(self) -> str:
        if self.rng.random() < 0.06:
            return self._copyable(lambda: word(self.rng))
        return self.rng.choice(PETS)

    def colour(self) -> str:
        rng, kind = self.rng, self.rng.random()
        if kind < 0.08:
            return rng.choice(["dark", "light", "pale", "bright", "deep"]) + " " + rng.choice(COLOURS)
        if kind < 0.14:
            return self._copyable(lambda: word(rng))
        return rng.choice(COLOURS)

    def country(self) -> str:
        if self.rng.random() < 0.2:
            return self._copyable(lambda: word(self.rng, 2, 3).capitalize())
        return self.rng.choice(_BARE)

    def number(self, low: int = 0, high: int = 99) -> int:
        """A number; now and then, where any would do, a long one."""
        if (low, high) == (0, 99) and self.rng.random() < 0.06:
            return self.rng.randint(100, 9999)
        return self.rng.randint(low, high)

    def pair(self, minus: bool) -> tuple[int, int]:
        """Two numbers of 0 to 99 to add, or to subtract the second from the first."""
        while True:
            a, b = self.rng.randint(0, 99), self.rng.randint(0, 99)
            if self.rng.random() < 0.2:
                a = self.rng.randint(0, 20)
            if self.rng.random() < 0.2:
                b = self.rng.randint(0, 12)
            if self.rare(0.0, 0.22):  # neighbours: small differences, of either sign
                b = min(99, max(0, a + self.rng.randint(-11, 11)))
            if minus and a < b and self.rng.random() < 0.25:
                a, b = b, a
            if held_out_pair(a, -b if minus else b) == self.fresh:
                return a, b
