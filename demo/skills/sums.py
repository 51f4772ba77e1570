"""Adding and subtracting, written directly: ``47 + 38 = 85``."""

# Phrase tables read better in long lines.
# ruff: noqa: E501, SIM905

from talk import Talk

from skills import recall

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
TENS = ["x", "x", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]

Q = "(what is|what's|whats|how much is|how much are|what are|what does|calculate|compute|work out|solve|find|evaluate|what do you get for|tell me|give me|can you do|can you work out|can you calculate|please calculate|what makes|the result of|result of|i need|say|)"
ADD = (
    f"{Q} <a> (+|plus|and|added to|+|plus) <b>(?|| equals?| make?| together?| =| = ?| is?|.)|<a> + <b>|<a>+<b>|<a>+<b>=|<a> + <b> =|<a> + <b> = ?|<a> plus <b>|<a> plus <b>?|"
    "(add|sum|total) <a> (and|to|with|plus) <b>|(add|put) <a> and <b> (together|up)|(what is|what's|tell me|give me|find|calculate|compute|i need|) (the |)(sum|total) of <a> (and|plus) <b>(?|)|"
    "(what do|what will|what would) (you|i|we) get (if|when) (you|i|we) (add|put together|sum|combine) <a> (and|to|with) <b>(?|)|how (many|much) (is|are|do) <a> and <b> (make|together|altogether|in total|give|add up to)?|"
    "(increase|raise) <a> by <b>|<a> (increased|raised) by <b>(?|)|what (is|number is|is the number) <b> more than <a>?|<b> more than <a>|<a> and <b> (makes|make|is|gives|are) (what|how much|...)?|"
    "if (i|you|we) add <a> (and|to) <b>, what (do i get|is it|comes out|is the result)?|what does <a> (plus|and) <b> (make|equal|give|come to|add up to)?|the sum of <a> and <b>|(count|go) <b> (on|up) from <a>|"
    "start (with|at|from) <a> and add <b>|take <a> and add <b>|take <a>, add <b>|<a> (euros|dollars|apples|points|pounds) plus <b> (euros|dollars|apples|points|pounds) (is|makes|are)?|<a>, plus <b>|add <b> to <a>|add <b> onto <a>|"
    "<a> with <b> added(?|)|what's <a> if you add <b>?|(how about|what about) <a> (+|plus) <b>?|<a> to which <b> is added"
)
SUB = (
    f"{Q} <a> (-|minus|less|take away|-|minus|subtract) <b>(?|| equals?| =| = ?| is?|.)|<a> - <b>|<a>-<b>|<a>-<b>=|<a> - <b> =|<a> - <b> = ?|<a> minus <b>|<a> minus <b>?|(subtract|take|deduct|remove) <b> from <a>|(subtract|take|deduct|take away) <b> (away |off |)from <a>|"
    "what (is|do you get when you take|remains if you take|is left if you take|'s left when you take) <b> from <a>?|(what is|what's|tell me|give me|find|calculate|compute|) (the |)difference (between|of) <a> and <b>(?|)|(from|out of) <a> (take|subtract|remove|take away) <b>|"
    "(decrease|reduce|lower) <a> by <b>|<a> (decreased|reduced|lowered|diminished) by <b>(?|)|what (is|number is|is the number) <b> (less|fewer|smaller) than <a>?|<b> less than <a>|(how much|how many|what) (is|remains|is left|'s left) (of|from|when|if) <a> (minus|less|take away) <b>?|"
    "(what do|what will|what would) (you|i|we) get (if|when) (you|i|we) (subtract|take|take away|deduct) <b> from <a>(?|)|what does <a> minus <b> (make|equal|give|come to)?|if (i|you|we) (take|subtract) <b> from <a>, what (do i get|is left|remains|is the result)?|"
    "start (with|at|from) <a> and (subtract|take away|remove) <b>|take <a> and subtract <b>|take <a>, minus <b>|(count|go) <b> (back|down) from <a>|<a> take <b>|<a> without <b>(?|)|<b> from <a>(?|)|<b> subtracted from <a>(?|)|<b> taken from <a>|"
    "<a> (euros|dollars|apples|points|pounds) minus <b> (euros|dollars|apples|points|pounds) (is|makes|are)?|<a>, minus <b>|(how about|what about) <a> (-|minus) <b>?|what's <a> if you take away <b>?|how much is left if i take <b> from <a>?|<a> less <b>"
)
ITEMS = "apples|pears|euros|dollars|books|coins|sweets|marbles|stamps|eggs|cookies|points|pencils|cards|chairs|tickets|oranges|pounds|balloons|shells|cups|fish|toys|bottles|candies|nuts|flowers|stickers|bananas|pages|sheep|cars"
STORY_ADD = (
    "(i have|<w> has|there are|we have|i had|<w> had|i own|i bought|i saw|i picked) <a> <i> and (get|gets|buy|bought|receive|find|found|got|win|someone gives me|add|won|pick) <b> (more|more <i>|others|extra)(,|.) (how many (<i> |)(are there|do i have|does <w> have|is that|are that|in total|altogether|do we have|now)|what's the total)?|"
    "<a> <i> and <b> <i>(,|:) how many (in total|together|altogether|is that|are there)?|how many <i> are <a> <i> and <b> (more|<i>)?|(i have|<w> has) <a> <i>, (my friend|<x>|my sister) has <b>(.|,) how many (together|in total|do they have together|altogether)?|"
    "i (paid|spent) <a> (dollars|euros) (yesterday|on food|for a book) and <b> (today|on drinks|for a pen)(,|.) (how much (is that|in total|altogether|did i spend)|what's the total)?|it was <a> degrees and (rose|got warmer|went up) by <b>(.|,) (how warm is it|what is it now|what's the temperature)?|"
    "the first box holds <a> <i>, the second <b>(.|,) (what is the total|how many in both|how many together)?|a (bus|train) carries <a> people and <b> (get on|board)(.|,) how many are (on it|aboard|there) now?|"
    "i am <a>(,| years old,) how old will i be in <b> years?|(in|after) <b> years, how old will somebody of <a> be?|(i read|<w> read) <a> pages (yesterday|on monday) and <b> (today|on tuesday)(.|,) how many (pages |)(in total|altogether|is that)?"
)
STORY_SUB = (
    "(i have|<w> has|there are|we have|i had|<w> had|i own) <a> <i> and (lose|lost|give away|gave away|eat|ate|spend|spent|sell|sold|loses|break|take away|gives away|use|drop) <b>( of them|)(,|.) (how many (<i> |)(are left|do i have left|remain|are there now|does <w> have left|left)|what's left|how much is left)?|"
    "<a> <i>, <b> (are taken away|are gone|get lost|are eaten|are sold)(,|:|.) how many (are left|remain|left)?|(i have|i had) <a> (dollars|euros|pounds) and (spend|spent|pay|paid) <b>(.|,) (what's left|how much (is left|remains|do i have left|do i have now|have i got left))?|"
    "it was <a> degrees and (fell|dropped|got colder|went down) by <b>(.|,) (how warm is it|what is it now|what's the temperature)?|a (bus|train) carries <a> people and <b> get off(.|,) how many (are left|stay|remain|are on it)?|"
    "(i am|i'm) <a>(,| years old,) how old was i <b> years ago?|of <a> <i>, <b> are (broken|gone|sold|eaten)(.|,) how many (are fine|are left|remain)?|(i need|we need) <a> <i> and have <b>(.|,) how many are missing?|"
    "a book has <a> pages, i (have read|read) <b>(.|,) how many (are left|remain|to go)?|if a <a> (euro|dollar) (shirt|book|ticket) gets <b> (euros|dollars) cheaper, what does it cost?"
)


def spell(n: int, hyphen: bool = True) -> str:
    """``n`` in words."""
    if n < 20:
        return ONES[n]
    if n > 99:
        return str(n)
    return TENS[n // 10] + (("-" if hyphen else " ") + ONES[n % 10] if n % 10 else "")


def written(a: int, b: int, minus: bool) -> str:
    """The model's answer."""
    return f"{a} - {b} = {a - b}" if minus else f"{a} + {b} = {a + b}"


def sum_turn(talk: Talk) -> None:
    """A sum in digits or words, plain or as a little story."""
    minus = talk.chance(0.5)
    a, b = talk.values.pair(minus)
    words = talk.rng.random()
    hyphen = talk.chance(0.7)
    share = talk.values.share(0.2, 0.28)
    shown = [spell(n, hyphen) if words < share or (words < share + 0.04 and i) else str(n) for i, n in enumerate((a, b))]
    story = talk.chance(0.2)
    template = (STORY_SUB if minus else STORY_ADD) if story else (SUB if minus else ADD)
    slots = {"a": shown[0], "b": shown[1]}
    if story:
        slots |= {"w": talk.values.name(), "x": talk.values.name(), "i": talk.rng.choice(ITEMS.split("|"))}
    text = talk.expand(template, **slots)
    while minus and a < b and "difference" in text:  # of two numbers in either order it is the distance
        text = talk.expand(template, **slots)
    talk.say("sums", text, written(a, b, minus), last=a - b if minus else a + b)


def terse(talk: Talk) -> None:
    """A sum in as few words as possible."""
    minus = talk.chance(0.5)
    a, b = talk.values.pair(minus)
    template = "<a> - <b>|<a> minus <b>|<a>-<b>|take <b> from <a>|subtract <b> from <a>|<a> less <b>" if minus else "<a> + <b>|<a> plus <b>|<a>+<b>|add <b> to <a>|<a> and <b>|add <a> and <b>"
    talk.say("sums", talk.expand(template, a=a, b=b), written(a, b, minus), fillers=0, last=a - b if minus else a + b)


def chain(talk: Talk) -> bool:
    """"And plus 5?" after a sum."""
    if not (talk.last and talk.last[0] == "sums" and isinstance(talk.last[1], int) and 0 <= talk.last[1] <= 99):
        return False
    a, minus = talk.last[1], talk.chance(0.5)
    b = talk.rng.randint(0, 40)
    template = (
        "(and |now |then |ok, now |)(minus <b>|subtract <b>|take away <b>|take <b> away|less <b>)(?|| from (that|it|the result)|.)|(subtract|take) <b> from (that|it|the result)|now (reduce|lower) (it|that) by <b>|(that|the result) minus <b>?"
        if minus
        else "(and |now |then |ok, now |)(plus <b>|add <b>|add <b> more|<b> more)(?|| to (that|it|the result)|.)|add <b> to (that|it|the result)|now (increase|raise) (it|that) by <b>|(that|the result) plus <b>?"
    )
    talk.say("sums", talk.expand(template, b=b), written(a, b, minus), last=a - b if minus else a + b)
    return True


def note(talk: Talk, text: str, number: int) -> None:
    """A turn that only tells ``number``."""
    if talk.chance(0.3):
        talk.say("heard", text, recall.heard(talk, number))
    else:
        talk.say("sums", text, f"Noted: {number}.")


def told_sum(talk: Talk) -> None:
    """A sum of what was said earlier."""
    numbers = [(key, value) for key, value in talk.facts.items() if (key.startswith("number:") or key == "age") and isinstance(value, int) and value <= 99]
    minus = talk.chance(0.4)
    if len(numbers) >= 2 and talk.chance(0.7):
        (ka, a), (kb, b) = sorted(talk.rng.sample(numbers, 2), key=lambda item: -item[1]) if minus else talk.rng.sample(numbers, 2)
        na, nb = ka.removeprefix("number:"), kb.removeprefix("number:")
        template = (
            "(what is|what's|how much is|calculate|) my <na> minus my <nb>(?|)|(subtract|take) my <nb> from my <na>|(what is|what's|) the difference between my <na> and my <nb>?|my <na> - my <nb>|what do you get if you (subtract|take) my <nb> from my <na>?|my <na> less my <nb>"
            if minus
            else "(what is|what's|how much is|calculate|) (my |)<na> (plus|+|and) (my |)<nb>(?|)|(add|sum) my <na> (and|to) my <nb>|(what is|what's|give me|) the (sum|total) of my <na> and (my |)<nb>?|my <na> plus my <nb>|add (up |)my <na> and my <nb>|what do my <na> and my <nb> (make|add up to|sum to|come to)(| together)?|add (the two|both) numbers: my <na> and my <nb>"
        )
        if talk.chance(0.3) and len(numbers) == 2 and not minus:
            (ka, a), (kb, b) = numbers
            template = "(add|sum|total) (the two|both|those|these|the) numbers(| i told you| i mentioned| i gave you| together)|what is (the sum of the two|the sum of both|their sum|the total of both)( numbers|)?|(what do|how much do) (they|both|the two numbers|my numbers) (make|add up to|give)(| together)?|add them(| up| together)|what's their total?"
        text = talk.expand(template, na=na, nb=nb)
    elif numbers:
        key, a = talk.rng.choice(numbers)
        noun, b = key.removeprefix("number:"), talk.rng.randint(0, 60)
        template = (
            "(what is|what's|how much is|) my <na> minus <b>(?|)|(subtract|take) <b> from my <na>|<b> less than my <na>?|(reduce|lower) my <na> by <b>|(take|what is) my <na> (and subtract|less) <b>"
            if minus
            else "(what is|what's|how much is|) my <na> (plus|+) <b>(?|)|add <b> to my <na>|what's <b> more than my <na>?|(increase|raise) my <na> by <b>|take my <na> and add <b>|(what do you get if you|can you) add <b> to my <na>?"
        )
        if key == "age" and talk.chance(0.5):
            template = "how old was i <b> years ago?|what was my age <b> years ago?|how old was i <b> years back?" if minus else "how old will i be in <b> years?|in <b> years, how old will i be?|what will my age be in <b> years?|how old am i in <b> years?|how old will i be <b> years from now?"
        text = talk.expand(template, na=noun, b=b)
    else:
        a, b = talk.values.pair(minus)
        a, b = (max(a, b), min(a, b)) if minus and talk.chance(0.7) else (a, b)
        first = talk.expand("(remember|keep in mind|note|take|think of|memorise|write down|store|save|hold) (the number |)<a>|(the |my |)first number(| is|:) <a>|<a> is the first number|i (have|own|saw) <a> (apples|books|coins)|here is a number: <a>|let x be <a>|x = <a>|x is <a>|a is <a>", a=a)
        note(talk, first, a)
        variable = "x" if "x " in first else "a" if first.startswith("a is") else ""
        if talk.chance(0.5):
            second = talk.expand("(and |now |also |)(remember|keep in mind|note|take|memorise|store) (the number |also |)<b>|(the |my |)second number(| is|:) <b>|<b> is the second( number|)|here is another (number|one): <b>|and <b>|(let y be|y =|y is) <b>", b=b)
            note(talk, second, b)
            template = (
                "(subtract|take) the second from the first|the first minus the second(?|)|what is the first (number |)minus the second( number|)?|first minus second"
                if minus
                else "(add|sum) (them|both|the two|the numbers|these|both numbers)(| together| up)|(what is|what's) (the sum|their sum|the total|the sum of both|the sum of the two)?|the first plus the second(?|)|(and |)(together|in total|altogether|summed)?|how much (is that|are they) (together|in total|altogether)?|now add them(| up| together)|what do they (make|add up to)?"
            )
            text = talk.expand(template)
        else:
            template = "(now |)(subtract|take) <b> from (it|that|the number|that number)|(it|that|the number) minus <b>(?|)|what is (it|that|the number) (minus|less) <b>?|take away <b>" if minus else "(now |)add <b>(| to it| to that| to the number| to that number)|(it|that|the number) plus <b>(?|)|what is (it|that|the number) plus <b>?|plus <b>?"
            if variable:
                template += "|<z> - <b>|what is <z> minus <b>?" if minus else "|<z> + <b>|what is <z> plus <b>?"
            text = talk.expand(template, b=b, z=variable)
    talk.say("sums", text, written(int(a), int(b), minus), last=None)
