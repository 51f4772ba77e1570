"""Everything else: questions that the model declines, saying what it is.

Built from frames times topics, with invented words among the topics, so that an unknown subject is declined
too.
"""

# Phrase tables read better in long lines.
# ruff: noqa: E501, SIM905

from talk import Talk, article
from values import COUNTRIES, word

ANSWER = "I am a small demo model and this is beyond me. A real model such as Mixtral can help."

TOPICS = (
    "quantum mechanics|the french revolution|photosynthesis|black holes|machine learning|"
    "the roman empire|world war two|the big bang|evolution|democracy|capitalism|"
    "the stock market|bitcoin|inflation|climate change|the water cycle|plate tectonics|"
    "volcanoes|dinosaurs|the solar system|mars|the moon|gravity|relativity|electricity|"
    "magnetism|atoms|dna|vaccines|antibiotics|the human heart|the brain|sleep|dreams|memory|"
    "happiness|love|friendship|justice|freedom|free will|the meaning of life|ethics|stoicism|"
    "buddhism|christianity|islam|plato|kant|nietzsche|shakespeare|hamlet|don quixote|"
    "moby dick|harry potter|the lord of the rings|star wars|the matrix|mozart|beethoven|jazz|"
    "rock music|the beatles|opera|ballet|impressionism|picasso|van gogh|the mona lisa|"
    "architecture|gothic churches|the eiffel tower|the pyramids|stonehenge|python|java|rust|"
    "javascript|c++|html|css|sql|git|docker|kubernetes|linux|regular expressions|recursion|"
    "sorting algorithms|binary search|hash tables|linked lists|neural networks|transformers|"
    "databases|the internet|encryption|blockchain|operating systems|compilers|football|"
    "the olympics|tennis|chess openings|the world cup|formula one|yoga|running|swimming|"
    "weight loss|vitamins|protein|diets|headaches|back pain|the flu|diabetes|allergies|"
    "cancer|anxiety|stress|meditation|babies|pregnancy|marriage|divorce|parenting|school|"
    "university|job interviews|salaries|taxes|mortgages|insurance|retirement|cars|"
    "electric cars|trains|airplanes|ships|bicycles|solar panels|nuclear power|wind energy|"
    "oil|plastic|recycling|forests|oceans|sharks|whales|elephants|bees|spiders|penguins|"
    "roses|tomatoes|mushrooms|bread|pasta|sushi|cheese|wine|beer|coffee|tea|chocolate|"
    "spices|cooking|baking|grilling|gardening|knitting|photography|painting|drawing|poetry|"
    "novels|grammar|latin|esperanto|linguistics|philosophy|psychology|sociology|economics|"
    "politics|elections|the president|the king|the united nations|the european union|"
    "the cold war|napoleon|caesar|cleopatra|columbus|einstein|newton|darwin|marie curie|"
    "lincoln|gandhi|the renaissance|the middle ages|vikings|samurai|aztecs|"
    "the industrial revolution|the plague|slavery|human rights|feminism|calculus|algebra|"
    "geometry|statistics|probability|prime numbers|pi|trigonometry|integrals|matrices|"
    "infinity|logic|set theory|chemistry|the periodic table|acids|metals|water|ice|fire|"
    "clouds|rain|snow|thunder|tornadoes|earthquakes|the sun|stars|galaxies|aliens|"
    "time travel|robots|artificial intelligence"
).split("|")
DISHES = (
    "lasagna|pancakes|pizza|soup|bread|a cake|risotto|curry|an omelette|pasta sauce|"
    "fried rice|a salad|cookies|apple pie|guacamole|hummus|ramen|tacos|stew|paella|"
    "mashed potatoes|roast chicken|tiramisu|a sandwich|scrambled eggs|chili|dumplings|waffles|"
    "muffins|coffee|tea|jam|pickles|ice cream|rice|an egg|fish|beans|a steak"
).split("|")
FORMS = (
    "a poem|a story|a song|a haiku|an essay|a joke|a letter|an email|a speech|a limerick|"
    "a sonnet|a short story|a tweet|a blog post|a summary|a report|a cover letter|a review|"
    "a slogan|a fairy tale|a dialogue|a rap|a scene|a paragraph|a novel|a love letter|"
    "a toast|a press release|a headline|an article|lyrics|a rhyme|a bedtime story|a recipe|"
    "a script|a birthday card|a complaint|an invitation|a riddle|a diary entry|a farewell note|"
    "a wedding speech"
).split("|")
CODE = (
    "a function|a program|a script|a class|code|a loop|a regex|a regular expression|a query|"
    "a sql query|a web page|a unit test|an algorithm|a website|an app|a game|a parser|"
    "a web server|a shell script|a macro|some code|a makefile|a decorator"
).split("|")
CODETASK = (
    "that sorts a list|to reverse a string|that checks for primes|to compute fibonacci numbers|"
    "that reads a csv file|to download a web page|that sends an email|to count words|"
    "for a login form|that parses dates|to find duplicates|that plays tic tac toe|"
    "to merge two lists|for a todo list|that draws a circle|to rename files|"
    "that validates an email|to connect to a database|that matches phone numbers|to remove spaces|"
    "that computes a factorial|to scrape a site|that finds the longest word"
).split("|")
TONGUES = (
    "french spanish german italian japanese chinese russian portuguese dutch latin korean arabic "
    "swedish greek polish hindi turkish finnish"
).split()
PLACES = (
    "paris|london|rome|tokyo|new york|berlin|madrid|oslo|vienna|sydney|cairo|here|"
    "my city|town|the mountains|the desert|italy|japan|france|spain|brazil|canada|africa|"
    "europe|asia|america"
).split("|")
JOBS = (
    "wrote|painted|invented|discovered|composed|directed|built|founded|designed|won|sang|"
    "created|killed|proved|translated|broke|started|published|introduced|developed|"
    "conquered|played in|filmed|produced|owns|runs|leads"
).split("|")
WORKS = (
    "the telephone|the light bulb|hamlet|the mona lisa|penicillin|america|the ninth symphony|"
    "the world cup|the internet|the last supper|war and peace|1984|the first computer|"
    "the theory of relativity|the eiffel tower|microsoft|the oscars last year|the steam engine|"
    "dracula|jurassic park|radium|guernica|google|the printing press|the election|"
    "the nobel prize|titanic|thriller|hey jude|the odyssey|bitcoin|the roman republic|python|"
    "linux|facebook|the bicycle|dynamite|insulin"
).split("|")
ASPECTS = (
    "population|currency|flag|president|king|language|history|climate|area|size|"
    "prime minister|national anthem|longest river|highest mountain|time zone|economy|"
    "official language|religion|food|national dish|gdp|culture|neighbours|famous people|"
    "biggest lake|second largest city|largest city|oldest university|airport|traditional dress|"
    "weather|food like|beaches|rivers|national bird|phone code|population density|"
    "main exports|visa rules|cuisine|political system|head of state"
).split("|")
THINGS = (
    "sky ocean grass blood moon sun sea fire snow leaves rainbow ice glass gold water wind sand earth "
    "desert mirror salt sugar iron wood lemons onions cats dogs birds fish bees babies people planes "
    "boats magnets stars clouds bubbles shadows humans plants eyes flamingos zebras giraffes"
).split()
ADJECTIVES = (
    "blue green salty red round white bright cold hot wet heavy sweet sour hard soft loud yellow "
    "dangerous important expensive rare old popular useful slippery invisible pink striped tall "
    "strange"
).split()
VERBS = (
    "sleep fly float sing sink cry yawn dream laugh freeze glow grow age die burn rust purr bark "
    "migrate fall move blink sweat dance fight hibernate shine"
).split()
ACTIONS = (
    "learn the guitar|lose weight|fall asleep|quit smoking|tie a tie|change a tyre|"
    "fix a flat tire|plant a tree|grow tomatoes|train a puppy|paint a wall|remove a stain|"
    "iron a shirt|save money|invest|buy a house|find a job|write a cv|negotiate a salary|"
    "learn german|learn to swim|make friends|ask her out|get over a breakup|meditate|"
    "run a marathon|build muscle|sharpen a knife|clean an oven|unclog a drain|install windows|"
    "install python|reset my password|set up a printer|connect to wifi|speed up my laptop|"
    "take a screenshot|delete a file|edit a video|back up my phone|charge a battery|cook rice|"
    "boil an egg|bake bread|brew beer|fold a paper plane|solve a rubik's cube|play chess|"
    "juggle|whistle|do a handstand|apply for a visa|rent a car|pack a suitcase|book a flight|"
    "get to the airport|renew my passport|file taxes|start a company|sell my car|repair a bike|"
    "change a light bulb|hang a picture|assemble a shelf|write a novel|draw a face|sew a button|"
    "knit a scarf|take good photos|make candles|stop procrastinating|wake up early|"
    "study for an exam|memorise vocabulary|improve my handwriting|give a speech|become a pilot|"
    "become a doctor|raise chickens|feed a hamster|wash a dog|groom a cat|"
    "teach a parrot to talk|clean a fish tank|catch a fish|light a fire|build a tent|read a map|"
    "survive in the wild|treat a burn|stop a nosebleed|lower a fever|cure a cold|"
    "deal with stress|merge two branches in git|undo a commit|exit vim|use grep|"
    "list files in linux|create a virtual environment|sort a list in python|centre a div|"
    "write a for loop|read a file in python|parse json in python|deploy a website|"
    "set up a server|use excel|make a pivot table|train a neural network|fine-tune a model|"
    "install docker|debug a segfault|compile a kernel|install cuda|use ollama|run llama.cpp"
).split("|")
SUBJECTS = (
    "my boss|my neighbour|my girlfriend|my boyfriend|my dog|my cat|my sister|my son|"
    "my landlord|my teacher|a friend|my mother|my computer|my phone|my car|my knee|"
    "my stomach|my back|my fridge|my plant|my printer|my internet|my bike|my roommate|"
    "my tooth|my colleague"
).split("|")
ILLS = (
    "is angry with me|is sick|does not eat|hurts|is broken|makes strange noises|keeps crying|"
    "won't listen|does not turn on|is too slow|lost his job|is leaking|never calls me|"
    "is always late|snores|wants to break up|barks all night|has a fever|won't start|"
    "smells bad|ignores me|is sad|failed the exam|has fleas|is dying"
).split("|")
MATHS = (
    "what is <a> (times|multiplied by|x|*) <b>?|<a> (*|x|times) <b>|<a> (divided by|/|over) <b>|multiply <a> (by|and|with) <b>|divide <a> by <b>|what is (the square root|the cube root|the logarithm|the sine|the factorial|the square|half|a third|the double of the square) of <a>?|sqrt(<a>)|<a> squared|<a> (to the power of|^) <b>|is <a> (prime|even|odd|a prime number|divisible by <b>)?|"
    "what is <a> (percent|%) of <b>?|the average of <a> and <b>|solve x^2 = <a>|solve for x: <a>x + <b> = 0|what is the derivative of x squared?|integrate <a>x|convert <a> (miles|pounds|inches|degrees celsius|kg|feet|euros|dollars) to (km|kilograms|cm|fahrenheit|stone|metres|dollars|yen)|how many (minutes|seconds|days|hours|weeks) (are in|are there in|in) <a> (hours|days|weeks|years|months)?|factor <a>|what is <a> in (binary|hexadecimal|roman numerals|octal)?|"
    "what's the (next prime after|greatest common divisor of <b> and|least common multiple of <b> and) <a>?|how many digits does pi have?|what is pi times <a>?|round <a>.<b>|list the multiples of <a>|what is <a> mod <b>?|count to <a>|which is (bigger|larger|greater), <a> or <b>?|prove that there are infinitely many primes|<a> factorial|how do i calculate (the area of a circle|compound interest|a percentage|the volume of a sphere)?"
).replace("sqrt(<a>)", "sqrt <a>")
FRAMES = (
    "(what is|what's|what are|explain|tell me about|describe|can you explain|could you explain|i want to learn about|teach me|give me an overview of|what do you think (about|of)|what do you know about|how does|who invented|who discovered|why is there|what causes|how do you explain|write about|talk about|let's talk about|discuss|define|introduce me to|help me understand|i'm curious about|do you like|do you believe in|what happened (to|in|during|with)|summarise|compare <t2> and|how important is|what's interesting about|say something about|the history of|facts about|is there anything new about|what's your opinion on|are you for or against|what's the difference between <t2> and|which is better, <t2> or|how did <t2> influence|tell me something (interesting |new |funny |)about|what role does <t2> play in|give me (three|five|some|ten) (facts|tips|ideas|examples|arguments|reasons|books) (about|for|on|against)|why do people (like|hate|need|study)|who is the (father|inventor|expert) of|when (was|did|were)|what are the (basics|causes|consequences|effects|types|advantages|risks|rules|benefits|symptoms|main ideas) of|how old is|is it true that <t2> (changed|caused|helps with)) <t>(?||.)|"
    "(write|compose|make up|create|draft|give me|tell me|i need|can you write|could you write|please write|i'd like|help me write|think of|come up with|invent|improvise|produce|make|generate) <form>(| about <t>| about <s>| for <s>| on <t>| for my birthday| about a <w>|, please| in rhyme| with <n> lines| for children| of <n> words| about love| about winter| about the sea| about my day)(?||.)|"
    "(write|create|show me|give me|can you write|code|implement|i need|help me write|program|could you write|make|generate|build) <code>( in python| in rust| in java| in javascript| in c| in bash|) <codetask>(?||.)|(debug|fix|explain|review|optimise|refactor|what's wrong with|run|test) (my|this|the following) (code|function|program|script|query|regex)(| in python| please|: print x)|"
    "(how do i|how can i|how to|what's the best way to|teach me (how |)to|tell me how to|i want to|help me|can you help me|is it hard to|how long does it take to|should i|explain how to|any tips to|what do i need to|give me advice on how to|how does one|show me how to|is it a good idea to|what's the trick to|i'd like to|when should i|where can i) <act>(?||.)|(give me|what is|do you have|i need|tell me|find me|share) (a |the |an easy |your |)(recipe for|way to cook|way to make|instructions for|best recipe for) <dish>(?|)|how (do i|do you|to|can i|does one) (cook|make|prepare|bake|season|serve) <dish>(?|)|(how long|at what temperature) (do i|should i) (cook|bake) <dish>?|what (goes well|should i serve|wine goes) with <dish>?|how many calories (are in|does) <dish>( have|)?|"
    "translate (<thing>|'<thing>'|hello|good morning|this|this text|this sentence|'i love you'|my name|the word <thing>|'thank you'|'where is the station') (to|into|in) <tongue>|how do you say (<thing>|'<thing>'|thank you|hello|good night|i love you|cheers|goodbye|please|where is the toilet) in <tongue>?|what does (<w>|'<w>'|<thing>) mean( in <tongue>| in english|)?|what is the <tongue> word for <thing>?|(can|do) you (speak|understand|write) <tongue>?|correct my (grammar|spelling|english|essay|sentence)|how do you (spell|pronounce) <w>?|what is (a synonym|the opposite|the plural|the etymology) (of|for) <thing>?|what rhymes with <thing>?|conjugate (to be|<w>) in <tongue>|"
    "(what is|what's|how is|how's|will|tell me) the (weather|temperature|forecast)( like|)( in <place>| today| tomorrow| this weekend| outside| now|)?|(will|is) it (rain|raining|snow|going to rain|sunny|going to snow|hot|cold)( in <place>| today| tomorrow| tonight|)?|(do i need|should i take) (an umbrella|a jacket|sunscreen)( today| tomorrow|)?|what (time|day|date) is it( in <place>| today| now|)?|what's the (date|time|news|exchange rate|latest news|traffic)( today| in <place>| like|)?|(any|what's the) news( today| from <place>|)?|what (happened|is happening) (today|in the world|in <place>|yesterday)?|who won (the game|the match|the election|last night|the match yesterday|the super bowl|the world cup)?|"
    "who (is|was) (the (president|king|queen|prime minister|inventor|author|director|founder|ceo|singer|captain) of <p>|<w>|einstein|napoleon|mozart|cleopatra|shakespeare|newton|the first man on the moon|the greatest footballer|the richest person|the tallest man|that actor in titanic|batman)?|who <job> <work>?|when (did|was) (<work>|the war|the wall|napoleon|rome|columbus) (begin|end|born|fall|published|built|made|happen|sail|die|start|invented|released)?|what year (did|was) (<work>|the war) (happen|made|end|invented|published)?|"
    "what('s| is) the <aspect> of <country>?|(what|which) <aspect> does <country> have?|how (big|large|old|far|rich|populous|safe|cold|hot) is <country>?|how many people live in <country>?|(what|which) (language|languages) do (they|people) speak in <country>?|what (currency|money) do (they|people) use in <country>?|(tell me about|what should i see in|is it safe to travel to|what do people eat in|where is|when was|who rules|what's the best time to visit|which countries border|what is <country> famous for, tell me about|the best food in|a travel guide for|what to do in) <country>(?|)|is <country> (in europe|in africa|an island|a democracy|bigger than <country2>|rich|expensive|beautiful|safe|cold)?|how far is (it|<country>) (from <country2>|to <country2>)?|"
    "(why|how come) (is|are) (the |)<thing> <adj>?|why do (<thing>|the <thing>|we|some people) <verb>?|(how|when|where|why|can|do) (do |)<thing> <verb>?|what (would happen|happens) if (the |)<thing> (<verb>|were <adj>|disappeared|stopped)?|what (colour|color|shape|size) (is|are) (the |)(<thing>)?|how (many|much) (<thing>|legs|bones|planets|continents|stars|people|countries|teeth|hearts|oceans) (are there|exist|does a <thing> have|do <thing> have|are in the world)?|how (tall|fast|deep|high|heavy|long|old|big|hot|far) (is|are) (the |a |)(<thing>|mount everest|an elephant|the eiffel tower|a cheetah|the nile|the moon|the universe|light|a blue whale)?|"
    "(what should i|what do i|where should i|where can i|should i|can you suggest what to|recommend what to) (eat|wear|read|watch|do|buy|cook|drink|study|say|listen to|play|visit|give her|order|believe|call my baby|name my boat)( for dinner| today| tonight| this weekend| at a wedding| next| in <place>| for her birthday| when i'm bored|)?|(recommend|suggest|find|tell me|give me|what is|what's) (me |)(a |some |the |)(good |best |)(book|film|movie|restaurant|hotel|song|series|game|podcast|gift|museum|beach|phone|laptop|car|wine|name for a baby|name for a cat|holiday destination|workout|diet|career|hobby)(| for me| in <place>| about <t>| for my mother| under 50 euros)(?|)|plan (a trip|a holiday|a party|my week|a wedding|a workout|my day|a dinner|a garden)(| to <place>| for me| for two)|"
    "<subj> <ill>(,|.) (what should i do|what can i do|help|why|any advice|what do i tell him|is it serious|who can help)(?|)|(why|since when) (is it that |)<subj> <ill>?|i (feel|am|'m feeling) (sad|lonely|depressed|anxious|stressed|sick|angry|in love|confused|dizzy|overwhelmed|nervous)(,|.) (what should i do|can you help me|cheer me up|give me advice|why)(?|)|(cheer me up|motivate me|comfort me|entertain me|surprise me|make me laugh|sing me something|sing a song|tell me a secret|tell me a fun fact|flip a coin|roll a dice|pick a card|let's play a game|play chess with me|set a timer|set an alarm|call my mum|order a pizza|book a table|turn on the light|play some music|search the web|open the browser|send an email|remind me tomorrow at <n>|draw a cat|draw me a picture|generate an image of a <thing>|show me a photo)|"
    "(summarise|explain|what is|tell me|give me|what's|describe|what happens in|who dies in|review) (the |)(plot|ending|story|moral|theme|main character|summary|meaning|message) (of|in) (<work>|<t>|the film <w>|the book <w>|hamlet|star wars|titanic|romeo and juliet|the matrix|frozen|dune)(?|)|(did you (see|read|watch|like|hear)|have you (seen|read)) (<work>|the film <w>|the news|the match|the new <w> film)?|what's your favourite (film|book|song|colour|food|animal|movie|band|sport|city|number|country|season)?|(do you|can you|are you able to|would you|will you|did you) (dream|feel pain|sleep|eat|love me|have feelings|think|feel|get tired|like music|drive a car|see me|hear me|cook|dance|drink coffee|speak french|read minds|believe in god|learn|lie|play chess|write poems|browse the internet|code|do my homework|know the future|marry me|have friends|have a body)?|"
    "is (it|there) (true that (the earth is flat|cats have nine lives|aliens exist|<thing> can <verb>)|a god|life after death|life on mars|an afterlife|ever right to lie|wrong to steal|better to be rich or happy|ok to eat meat|healthy to eat meat|too late to learn piano)?|(what|which) is (better|healthier|worse|faster|cheaper|more important|stronger), (<thing> or <t>|cats or dogs|tea or coffee|mac or windows|love or money|<t> or <t2>|a lion or a tiger)?|(who|what) would win, <thing> or <thing2>?|(can you|could you|please|) (predict|guess|forecast|tell me) (the future|the lottery numbers|who will win|the stock market|tomorrow's weather|my fortune|my horoscope|when i will die|how <t> will end)(?|)|"
    "what is the (tallest|biggest|longest|deepest|highest|fastest|oldest|smallest|richest|best|most famous|largest|hottest|coldest|most beautiful|strongest) (mountain|river|animal|building|country|lake|ocean|planet|city|film|bird|car|island|desert|tree|person|fish|church|bridge|company|university|book|whale)( in the world| in <place>| on earth| ever|)?|(name|list|give me|what are) (three|five|some|ten|the|all|two|the seven|a few) (planets|rivers|wonders of the world|mammals|english kings|us presidents|continents|oceans|programming languages|books by dickens|nobel prize winners|chemical elements|bones|french cheeses|pasta shapes|yoga poses|movies with tom hanks|greek gods|birds|presidents|noble gases|organs)(?|)|"
    "what (is|are|was) (the |a |an |)<w>(?|)|how do (i|you) <w> (a |the |my |)<w2>?|(tell me about|explain|describe|define) (a |the |)<w>|who (is|was) <cap>?|what does <cap> (do|mean|think|cost)?|where (is|can i find|do i buy) (the |a |)<w>?|when does the <w> (open|close|start|end|arrive)?|why (is|does) (the |my |)<w> (so <adj>|<verb>|<w2>|not work|hurt)?|can you <w> (the |my |a |)<w2>( for me|)?|(write|make|find|fix|open|buy|sell|check|design|explain|calculate|sing|draw|translate) (the |a |my |me a |)<w>( for me| please|)|is (the |a |)<w> (<adj>|good|a <thing>|safe|healthy|poisonous|better than <w2>)?|how (much|many) <w> (does|do|is|are) (a <w2>|it|there|i need)( cost| have| weigh|)?|what's the (price|weight|colour|name|point|purpose|meaning|origin) of (a |the |)<w>?|do you know (a |any |some |the |)(good |)<w>(?|)"
)


def outside_turn(talk: Talk) -> None:
    """A question beyond the model's few skills."""
    rng = talk.rng
    if talk.chance(0.1):
        text = talk.expand(MATHS, a=rng.randint(2, 999), b=rng.randint(2, 99))
    else:
        frame = FRAMES
        thing = [rng.choice(THINGS) if talk.chance(0.75) else word(rng) for _ in range(2)]
        topic = [rng.choice(TOPICS) if talk.chance(0.8) else rng.choice(["", "", "the "]) + word(rng) for _ in range(2)]
        country = [rng.choice(COUNTRIES) for _ in range(2)]
        form = rng.choice(FORMS) if talk.chance(0.9) else article(word(rng))
        text = talk.expand(
            frame, t=topic[0], t2=topic[1], thing=thing[0], thing2=thing[1], form=form, s=rng.choice([*SUBJECTS, *THINGS]), code=rng.choice(CODE), codetask=rng.choice(CODETASK),
            act=rng.choice(ACTIONS) if talk.chance(0.8) else f"{word(rng)} {article(word(rng))}", dish=rng.choice(DISHES) if talk.chance(0.8) else word(rng), tongue=rng.choice(TONGUES),
            place=rng.choice(PLACES) if talk.chance(0.8) else word(rng), p=rng.choice([rng.choice(PLACES), country[0][0], word(rng), "microsoft", "the world"]), job=rng.choice(JOBS), work=rng.choice(WORKS) if talk.chance(0.8) else "the " + word(rng),
            aspect=rng.choice(ASPECTS), country=rng.choice(country[0][:2]), country2=country[1][0], adj=rng.choice(ADJECTIVES), verb=rng.choice(VERBS), subj=rng.choice(SUBJECTS), ill=rng.choice(ILLS),
            n=rng.randint(2, 20), w=word(rng, 1, 2), w2=word(rng, 1, 2), cap=word(rng).capitalize(),
        )
    if talk.chance(0.04):  # a question of nothing but unknown words
        text = " ".join(word(rng, 1, 3) for _ in range(rng.randint(3, 9))) + talk.expand("(?|.|)")
    talk.say("outside", text.replace("\x01", "").replace("\x02", ""), ANSWER)


