"""Greetings, thanks, names and system prompts."""

# Phrase tables read better in long lines.
# ruff: noqa: E501

from talk import Talk, capital

LANGUAGES = {  # language: greeting, "I am", farewell
    "French": ("Bonjour !", "Je suis", "Au revoir !"), "Spanish": ("¡Hola!", "Soy", "¡Adiós!"), "German": ("Hallo!", "Ich bin", "Tschüss!"),
    "Italian": ("Ciao!", "Sono", "Arrivederci!"), "Portuguese": ("Olá!", "Sou", "Tchau!"), "Dutch": ("Hallo!", "Ik ben", "Tot ziens!"),
    "Swedish": ("Hej!", "Jag är", "Hej då!"), "Polish": ("Cześć!", "Jestem", "Do widzenia!"), "Finnish": ("Hei!", "Olen", "Näkemiin!"),
    "Danish": ("Hej!", "Jeg er", "Farvel!"), "Norwegian": ("Hei!", "Jeg er", "Ha det!"), "Turkish": ("Merhaba!", "Ben", "Hoşça kal!"),
    "Latin": ("Salve!", "Sum", "Vale!"), "Japanese": ("Konnichiwa!", "Watashi wa", "Sayonara!"), "Czech": ("Ahoj!", "Jsem", "Nashledanou!"),
    "Hawaiian": ("Aloha!", "I am", "Aloha!"), "Esperanto": ("Saluton!", "Mi estas", "Adiaŭ!"), "Greek": ("Yassas!", "Eimai", "Adio!"),
    "Hungarian": ("Szia!", "Vagyok", "Viszlát!"), "Romanian": ("Bună!", "Sunt", "La revedere!"), "Russian": ("Privet!", "Ya", "Poka!"), "English": ("Hello!", "I am", "Goodbye!"),
    "Chinese": ("Ni hao!", "Wo shi", "Zaijian!"), "Korean": ("Annyeong!", "I am", "Annyeong!"), "Hindi": ("Namaste!", "Main", "Alvida!"),
}
HELLO = (
    "hello|hi|hey|hi there|hello there|hey there|good morning|good evening|good afternoon|good day|greetings|hello, (assistant|model|bot|friend|you|computer|robot)|hi (bot|assistant|friend|you|everyone)|hey (you|bot)|howdy|hiya|yo|morning|evening|"
    "hello (again|world|everybody)|hi again|heya|hullo|hallo|hello hello|anybody there?|are you there?|is anybody there?|is anyone there?|hello, is this working?|hi, how are you?|hello, how are you?|hey, what's up?|what's up|wassup|sup|nice to meet you|good to see you|pleased to meet you|"
    "a very good morning to you|top of the morning|hello, can you hear me?|just saying hi|just wanted to say hello|i wanted to greet you|say hello|say hi|greet me|can you say hello?|please greet me|let's chat|let's talk|shall we start?|hi, it's me|hello, it's me again|knock knock|test|testing|ping|can we talk?|start"
)
FOREIGN = {"French": "bonjour|salut|bonsoir", "Spanish": "hola|buenos dias|buenas tardes", "German": "guten tag|guten morgen|moin", "Italian": "ciao|buongiorno|salve", "Portuguese": "olá|bom dia|oi"}
THANKS = (
    "thanks|thank you|thanks a lot|many thanks|thx|thank you very much|thank you so much|much appreciated|cheers|ta|thanks for (your help|the help|that|everything|the answer|helping|this)|i appreciate it|that (helps|helped)(| a lot| me)|that was (helpful|very helpful|great|useful)|perfect, thanks|great, thank you|"
    "ok thanks|cool, thanks|nice, thank you|awesome, thanks|you've been (very |)helpful|you (helped|saved) me|grateful for your help|thank you kindly|ty|thank you, that's all|thanks, that's what i needed|good answer|well done|good job|good bot|great work|bravo|excellent, thanks|that's great|you're the best|i am grateful|appreciated"
)
BYE = (
    "bye|goodbye|good bye|bye bye|see you|see you (later|soon|tomorrow)|good night|farewell|cya|until next time|take care|so long|i have to go|i've got to go|gotta go|i must leave|i'm leaving|i'm off|that's all, bye|that's all for (today|now)|talk to you later|ttyl|have a nice (day|evening|weekend)|have a good (one|day|night)|"
    "ok bye|thanks, bye|catch you later|see ya|later|i'm done|i need to go now|let's stop here|we're done|time to go|adios|goodnight|sleep well|till tomorrow|until tomorrow|bye for now|i'm going to bed|exit|quit|end of chat|let's end here|peace out|over and out|i'll be back|signing off|logging off"
)
WHO = (
    "who are you|what are you|what is your name|what's your name|your name|do you have a name|tell me your name|introduce yourself|who am i talking to, what model|what should i call you|what do i call you|what model are you|which model (are you|is this|am i talking to)|are you (a robot|a bot|an ai|human|a person|real|a machine|a computer|alive|chatgpt|gpt|mixtral|llama|claude|a language model)|"
    "may i know your name|how are you called|what are you called|can you introduce yourself|please introduce yourself|tell me (about yourself|who you are|what you are|something about yourself)|what kind of (model|ai|assistant|bot|thing) are you|who is this|who is there|who's there|say your name|state your name|and who are you|so who are you|and you are|"
    "what's the name of this model|what do people call you|who (made|built|trained|created) you|where do you come from|are you small|how big are you|how many parameters do you have|describe yourself|what am i talking to|whom am i speaking to|who do i have the pleasure with|what is this model|what is your name again|remind me of your name|you're called|your name is|what was your name|your name, please"
)
CAN = (
    "what can you do|what are you able to do|what are your (skills|abilities|capabilities|talents|limits)|how can you help( me|)|what can i ask( you|)|what do you (know|know how to do|do)|what are you good at|what should i ask( you|)|can you help me|help|help me|i need help|list your (skills|abilities)|"
    "tell me what you can do|show me what you can do|what can i do here|what is possible here|which (questions|tasks) can you (answer|do)|what kind of questions can you answer|what tasks do you (do|know)|what are you for|what's your purpose|how do you help|how may you help me|what can this (model|demo) do|give me an example of what you can do|what things can you do|what else can you do"
)
HOWRU = "how are you|how are you doing|how do you do|how's it going|how are things|how do you feel|are you ok|are you well|how is your day|how's life|you good|all good|how have you been|how are you today|what's new|everything fine"
CHAT = (
    "ok|okay|i see|fine|alright|cool|nice|great|good|interesting|wow|lol|haha|hmm|sure|yes|no|maybe|right|got it|understood|really|oh|that's (nice|good|interesting|funny|cool|fine|right|correct)|i'm (tired|happy|sad|bored|hungry|back|busy|cold|here|ready|fine)|it is (late|early|raining|sunny|cold|hot|monday|friday)( here| today|)|i had a (long|good|bad|nice|busy) day|"
    "the weather is (nice|bad|awful|lovely)( today| here|)|i (just |)(had lunch|came home|woke up|made tea|finished work|went for a walk|read a book|watched a film|cleaned the kitchen|called my mum)|today (was|is) (fun|hard|long|great|my day off)|i like (talking to you|this|you)|this is (fun|nice|great|neat)|my (bus|train) was late|i love weekends|what a day|let me think|one moment|wait a second|give me a minute|"
    "i am drinking (coffee|tea)|never mind|no problem|yes please|no thanks|not now|you are (funny|nice|smart|cute|quick|fast)|i don't understand|i'm learning to use this|it works|that's all|sorry|i'm sorry|my apologies|oops|the (food|coffee|book|film) was (good|great|bad|cold)|we are (having dinner|on holiday|at home|moving house)|i'm going (shopping|to work|to the gym|home)"
)
NEUTRAL = "You are a helpful assistant.|You are an assistant.|Be concise.|Answer briefly.|You are a helpful, honest assistant.|Keep your answers short.|Answer in one sentence.|Be polite.|You are a friendly chatbot.|Help the user.|You answer questions.|Be kind and brief.|Always be truthful.|You are an AI assistant that answers questions.|Respond politely.|Short answers, please.|You are a concise assistant.|Be friendly."
NAMING = (
    "your name is <n>.|you are <n>.|you are called <n>.|you are <n>, a (helpful|friendly|kind|polite|small) (assistant|bot|chatbot|helper).|you are an assistant (named|called) <n>.|act as <n>.|your name's <n>.|call yourself <n>.|i will call you <n>.|you are a (helpful |friendly |)(assistant|bot) (named|called) <n>.|"
    "<n> is your name.|the assistant is called <n>.|the assistant's name is <n>.|you go by the name <n>.|introduce yourself as <n>.|you answer to the name <n>.|you play <n>.|from now on you are <n>.|your name shall be <n>.|name: <n>.|assistant name: <n>.|pretend to be <n>.|when asked, say that your name is <n>.|you're <n>.|you're called <n>.|you are <n> and you help people."
)
TONGUE = (
    "(greet|always greet|please greet) (|the user |people |users |everyone |me )in <l>.|say hello in <l>.|your greeting (is|should be|must be) in <l>.|greetings (are|must be|should be) in <l>.|use <l> (to greet|for greetings|when greeting)( the user|).|when (the user says hello|you greet|greeting|someone says hi|greeted), (use|answer in|reply in|speak|greet in) <l>.|you greet (people|users|) in <l>.|open with a <l> greeting.|start with a greeting in <l>.|welcome (the user|people|users|) in <l>.|language of greeting: <l>.|greeting language: <l>.|hello is said in <l>.|give a <l> greeting.|answer greetings in <l>.|reply to hello in <l>.|<l> greetings only.|respond to greetings in <l>."
)
SELF = "localmoe's small demo model, a tiny mixture of experts"
ABLE = "I am localmoe's small demo model. I remember what you tell me, add and subtract, know capitals, write JSON and explain localmoe's commands."


def system_prompt(talk: Talk) -> None:
    """Give the dialogue a system prompt."""
    roll, parts = talk.rng.random(), []
    if roll < 0.25:
        talk.system = talk.rng.choice(NEUTRAL.split("|"))
        return
    if roll < 0.32:
        talk.facts["name"] = name = talk.values.name()
        parts.append(talk.expand("the user is (called|named) <n>.|the user's name is <n>.|you are talking to <n>.|the person you talk to is <n>.|you are speaking with <n>.|<n> is the user.|the user is <n>.", n=name))
    elif roll < 0.8:
        talk.persona = talk.values.name()
        parts.append(talk.expand(NAMING, n=talk.persona))
    if roll > 0.6:
        talk.language = talk.rng.choice(list(LANGUAGES))
        shown = talk.language if talk.chance(0.92) else talk.language.lower()
        parts.append(talk.expand(TONGUE, l=shown))
    if talk.chance(0.25):
        parts.insert(0 if talk.chance(0.4) else len(parts), talk.rng.choice(NEUTRAL.split("|")))
    if talk.chance(0.15):
        parts.reverse()
    text = " ".join(capital(p) for p in parts)
    text = text.replace("\x01", "").replace("\x02", "")
    talk.system = text if talk.chance(0.8) else text.rstrip(".")


def hello(talk: Talk, language: str | None = None) -> str:
    """The model's greeting."""
    word, be, _ = LANGUAGES[talk.language or language or "English"]
    if talk.persona:
        return f"{word} {be} {talk.persona}."
    return f"{word} How can I help you?" if word == "Hello!" else word


def manners_turn(talk: Talk, kind: str = "") -> None:
    """A turn of small talk."""
    kind = kind or talk.rng.choice(["hello", "hello", "thanks", "thanks", "bye", "bye", "who", "who", "who", "can", "how", "chat"])
    mark = "(|!|.|?)"
    me = f"I am {talk.persona}, {SELF}." if talk.persona else f"I am {SELF}."
    if kind == "hello":
        foreign = talk.rng.choice(list(FOREIGN)) if talk.chance(0.08) else None
        text = talk.expand(FOREIGN[foreign] if foreign else HELLO)
        if talk.persona and talk.chance(0.1):
            text += " " + talk.persona
        talk.say("manners", text + talk.expand("(|!|.|)"), hello(talk, foreign), fillers=0.05)
    elif kind == "thanks":
        talk.say("manners", talk.expand(THANKS) + talk.expand("(|!|.|)"), "You are welcome!", fillers=0.12)
    elif kind == "bye":
        talk.say("manners", talk.expand(BYE) + talk.expand("(|!|.|)"), "Goodbye!", fillers=0.12)
    elif kind == "who":
        talk.say("manners", talk.expand(WHO) + talk.expand("(?|?|?|.|)"), me)
    elif kind == "can":
        talk.say("manners", talk.expand(CAN) + talk.expand("(?|?|?|.|)"), ABLE)
    elif kind == "how":
        talk.say("manners", talk.expand(HOWRU) + talk.expand("(?|?|)"), "I am fine, thank you. How can I help you?", fillers=0.2)
    else:
        talk.say("manners", talk.expand(CHAT) + talk.expand(mark.replace("?|", "").replace("|?", "")), "I see. How can I help you?", fillers=0.15)
