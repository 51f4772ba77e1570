"""What localmoe is, and which command does what.

Each task has verb phrases (``do``), noun phrases (``noun``) and problems (``trouble``); frames turn each
into questions.
"""

# Phrase tables read better in long lines.
# ruff: noqa: E501

from dataclasses import dataclass

from talk import Talk, capital

MODEL = "(a model|the model|my model|mixtral|a mixtral model|models|mixtral 8x7b|the weights|a moe|this model|mixtral.gguf|an llm|the llm)"
FILE = "(a gguf file|a gguf|a model file|the model file|mixtral.gguf|a file|my gguf file|the gguf)"


@dataclass(frozen=True)
class Task:
    answer: str
    do: str
    noun: str = ""
    trouble: str = ""


TASKS = {
    "quantize": Task(
        "Quantize it to 4 bits: localmoe quantize mixtral/ -o mixtral.gguf",
        f"(quantize|quantise|convert|compress|shrink) {MODEL}|(convert|turn|change|transform) {MODEL} (to|into) (gguf|a gguf file|a gguf|4 bits|4-bit|four bits|the gguf format|q4|q4_k_m|a smaller file)|make {MODEL} (smaller|fit|take less space|4-bit|lighter)|(create|make|produce|build|write|get) a (gguf|gguf file|quantized model|quantized file|4-bit model|smaller version of the model|q4_k_m file)|"
        "(convert|quantize|turn) (safetensors|hugging face weights|a hugging face model|the hugging face checkpoint|a checkpoint|a folder of weights|the original weights|bf16 weights|fp16 weights)( to gguf| into gguf|)|reduce the size of (the|my|a) (model|weights|file)|do (a |)(quantization|conversion)|run the (converter|quantizer)|cut the model down to 4 bits|squeeze the weights|prepare a (downloaded |)model for use|import safetensors|lower the precision of the weights",
        "quantization|quantizing|quantize|converting a model|conversion to gguf|compressing models|the converter|making a gguf|4-bit quantization|the conversion of safetensors|model conversion|the quantizer",
        "my model is (too big|too large|huge)|the weights take too much (space|disk|disk space)|i have (safetensors|a hugging face model|bf16 weights|a folder of safetensors|the original weights)|i downloaded the weights from hugging face|the model is in (bf16|fp16|safetensors|16 bits)|i need a smaller file|my checkpoint is not a gguf|i only have the safetensors",
    ),
    "quantize5": Task(
        "Use 5 bits for more quality: localmoe quantize mixtral/ -o mixtral.gguf -t q5_k_m",
        f"(quantize|convert|compress) {MODEL} (to|with|at|in|using) (5 bits|five bits|5-bit|q5|q5_k_m|more quality|higher quality|better quality|more bits|higher precision|more precision|less loss|better accuracy)|get (better|higher|more) (quality|precision|accuracy) (from|out of|in) (quantization|the quantized model|a quantized file|the conversion)|(use|choose|pick|select|get|have) (5 bits|five bits|q5_k_m|5-bit|5 bit quantization|more bits|q5)|"
        "(quantize|convert) with (less|smaller|lower) (loss|error|damage)|make a (5-bit|q5_k_m|q5|better|higher quality|more precise|more accurate) (gguf|file|model|quantization|version)|lose less quality (when quantizing|in quantization|)|improve the quality of (the quantized model|quantization)|choose (another|a different) (quantization type|format|type)|keep more (quality|precision) when (quantizing|converting)|spend more bits per weight",
        "5 bits|five bits|q5_k_m|higher quality quantization|better quality|5-bit quantization|a more precise quantization|quantizing with more bits|more quality|more accurate quantization|q5",
        "4 bits (are|is) not (enough|good enough|precise enough)|the quantized model (is too dumb|lost quality|is worse|makes mistakes|is not good enough)|q4_k_m is (too coarse|too lossy|not good enough)|(q4|4 bits) loses too much( quality|)|i have room for a bigger and better file|i want better quality than 4 bits|the quality of (4 bits|q4) is too low|i can afford (5 bits|a bigger file)",
    ),
    "dryrun": Task(
        "See what it would do, without writing: localmoe quantize mixtral/ -o mixtral.gguf --dry-run",
        "(see|know|check|preview|find out|show|learn|list|test|simulate) what (quantize|quantizing|the quantization|the conversion|quantize command|the converter|localmoe quantize) (would do|will do|does|would write|would produce)( first| beforehand| without writing|)|(preview|simulate|rehearse|dry run|dry-run|try out) (a |the |)(quantization|conversion|quantize)( without writing( anything|)|)|"
        "(do|make|run|perform) a (dry run|trial run|test run|rehearsal)( of quantize| of the conversion| of quantization|)|(quantize|convert) without writing( anything|a file|)|(know|estimate|see|find out|predict|check) (how big|how large|the size) (the (file|quantized file|quantized model|result|output|gguf) (would be|will be|will get|)|of the quantized (file|model))( before converting| before quantizing|)|see the plan (for|of) (quantization|the conversion)|check the conversion before it runs|see the size before quantizing",
        "a dry run|dry run|a preview of (quantization|the conversion|quantize)|previewing quantize|a rehearsal of quantize|the size of the result before quantizing|a trial conversion",
        "i (don't|do not) want to write (anything|a file) yet|before i quantize i want to see (what happens|the result|the plan|the size)|i am not sure how big the (quantized file|result) will be|i'd like to see first what quantize would do|i (don't know if|wonder if) the quantized model fits on my disk",
    ),
    "chat": Task(
        "Chat with it: localmoe chat mixtral.gguf",
        "(chat|talk|speak|converse|have a conversation|start a chat|begin a chat|start chatting|have a chat|interact|start a conversation) with (a model|the model|my model|mixtral|mixtral.gguf|an llm|a gguf file|it|my gguf|the ai|a real model|the quantized model)|(run|start|use|launch|load|open|execute|try|fire up|boot) (a model|the model|my model|mixtral|mixtral.gguf|a gguf|my gguf file|a gguf file|an llm|the quantized model|it)|"
        "(start|open|launch|begin|enter) (a |the |)(chat|conversation|repl|chat session|interactive session|session|prompt)|(use|run) localmoe( interactively|)|(chat|talk|start)|ask (a model|mixtral|the model) (questions|things|something)|get (the model|mixtral) to talk( to me|)|use localmoe to chat|begin",
        "chatting|the chat|a chat|the chat command|an interactive session|starting a conversation|talking to a model|running a model|the repl|conversation with a model",
        "i have a gguf file(, what now| now|)|i (quantized|converted) (a|the|my) model(, what now|, what next| now|)|the (quantization|conversion) is done|i have mixtral.gguf on my disk|i have a model and want to (talk to it|use it|try it)",
    ),
    "once": Task(
        "Ask one question and exit: localmoe chat mixtral.gguf -p \"...\"",
        "(ask|put|send|give it|run|pose) (a single|one|just one|only one|a one-off|one single) (question|prompt|request|query)( and (exit|quit|leave|stop)| from the command line|)|(use|call|run|invoke) (localmoe|it|the model|the chat) (in|from|inside|within) (a script|scripts|a shell script|a pipe|a pipeline|bash|cron|the shell|a cron job|a makefile|python)|(get|have|print) (one|a single|just one|only one) answer( and (exit|quit)| without a chat|)|"
        "(run|use) (it|localmoe|chat) (non-interactively|without the chat|without interaction|without the repl|in batch mode|in one shot)|(pass|give|hand|supply) (a prompt|the prompt|a question|my question) (on|in|from|as) (the command line|an argument|a flag|the shell|one command)|(pipe|feed|send) (text|a log|input|data|stdin|something) (into|to|through) (localmoe|the model|it)|script (localmoe|the chat)|make a one-shot (call|query|prompt)|summarise a log in a pipe|exit after (one|the first) answer|answer one prompt (only|and quit)",
        "a single prompt|one question|one-shot mode|scripts|scripting|use in scripts|non-interactive use|pipes|batch mode|a one-shot answer|a prompt on the command line|a single question",
        "i (only have|have only|just have|only want to ask) one question|i (don't want|do not want|don't need) (an interactive chat|a whole chat|the repl|a conversation)|i'm writing a (shell script|bash script|script|cron job)|i need it in a (script|pipe|pipeline)|i want one answer and then the prompt back",
    ),
    "continue": Task(
        "Continue the last conversation: localmoe chat -c",
        "(continue|resume|pick up|go on with|carry on with|reopen|return to|go back to|proceed with|restore|get back to|get back|come back to|take up) (the last|my last|the previous|my previous|yesterday's|the latest|our last|the most recent|the old|where i left|an earlier|my earlier) (conversation|chat|session|discussion|dialogue|talk)|(continue|resume|go on|carry on) (chatting|talking|where i (left off|stopped)|where we (left off|stopped)|from where i stopped|from yesterday|from last time)|"
        "(continue|resume) (a |the |my |)(conversation|chat|session)|keep (talking|chatting) (from|in) (last time|the last chat|the previous session|the same conversation)|load (the last|my last|the previous) (conversation|chat|session)|not start (over|from scratch|a new chat)( again|)|pick up where (i|we) (left off|stopped)",
        "continuing a conversation|resuming|the last conversation|resuming a chat|resuming the last session|my previous chat again|continuation of a chat",
        "i closed the (terminal|chat|window|laptop)( and want to go on| but was not finished|)|i quit (the chat |)by (mistake|accident)|my (chat|session) was (interrupted|cut off|closed)|i (want|would like) (the conversation from yesterday|my last chat) back|we were in the middle of a (chat|conversation|discussion)|i stopped (yesterday|in the middle)",
    ),
    "system": Task(
        "Set a system prompt: localmoe chat -s \"...\"",
        "(set|give|use|define|add|change|specify|write|pass|provide|supply|have|put in|enter) (a|the|my|my own|another|some|a custom|an own) (system prompt|system message|system instruction|persona|role|instruction|character|personality)|(tell|instruct|make) the (model|assistant) (how to behave|to behave like a pirate|to be polite|who it is|to speak like a teacher|to answer in french|to act as a teacher|to play a role|to always answer briefly)|"
        "(change|control|set|steer) (the (model's|assistant's) (behaviour|behavior|personality|role|tone|character|style)|how the model behaves|how it behaves|the tone of the answers)|give the (model|assistant) (a role|instructions|a personality|general instructions|standing orders|a name|rules)|make it (act|behave|talk|speak) like (a pirate|a teacher|somebody else|a lawyer)",
        "a system prompt|system prompts|the system prompt|system message|a persona|a role for the model|custom instructions|personality|the system instruction|standing instructions",
        "i want (the model|it) to (behave|act|answer|talk) (differently|like a pirate|like a teacher|in a certain way)|the model is (too chatty|not polite)(, i want to give it rules|, can i instruct it)|it should always (answer in german|be brief|be polite|act as a teacher)|i have instructions that should hold for the whole chat",
    ),
    "file": Task(
        "Attach a file: localmoe chat -f notes.txt",
        "(attach|send|add|include|give it|upload|pass|provide|feed|hand over|use|load|insert|append|supply|share) (a file|a text file|a document|my notes|notes.txt|a text|files|some file|documents|my file|source code|a log file|a readme|an attachment|a source file)( to the (chat|model|prompt|conversation)| with my question| as context| in the chat|)|(ask|chat|talk) (about|questions about) (a file|a document|my notes|a text file|notes.txt|the contents of a file|a log file)|"
        "(let|make|have) the model (read|see|look at|summarise|summarize) (a file|my notes|a document|notes.txt|a text file|my file|a log)|(summarise|summarize|analyse|discuss|read|explain|review) (a file|my notes|a document|a text file|notes.txt|a log file)( with (localmoe|the model)|)|put a file (into|in) the (prompt|chat|context)|give (the model|it) (a file|a document|notes.txt|my notes|a text|some text from disk)( to read|)",
        "attaching a file|attachments|file attachments|files|sending files|a file in the prompt|text files as context|documents in the chat|uploading a document",
        "i have (a file|a document|notes|a text file|a long text|a log file) (the model should read|i want to ask about|for the model|to summarise|to discuss)|my question is about a (file|document|text file)|i want it to (read|see|look at|summarise) my (notes|file|document|text)|the text is in a file",
    ),
    "gpumem": Task(
        "Limit the GPU memory: localmoe chat mixtral.gguf --gpu-memory 8GiB",
        "(limit|restrict|cap|bound|reduce|lower|set|control|choose|decrease|constrain|cut|specify|budget|keep down) (the |my |)(gpu memory|vram|video memory|graphics memory|gpu ram|memory on the gpu|gpu usage|vram usage|gpu memory use|memory of the graphics card|graphics card memory|video ram)( it uses| usage| to 8 gib| to 8 gb| to 6gb| used by the model|)|(use|take|spend|occupy|need) (less|at most 8 gb of|no more than 8 gb of|only 6 gb of|only part of the|only 8 gb of|a part of the|only some) (gpu memory|vram|video memory|graphics memory)|"
        "(tell|make) (it|localmoe) (to |)use (less|only 8 gb of|only some) (vram|gpu memory|video memory)|leave (some|part of the) (vram|gpu memory|video memory) (free|for other programs|for games)|(run|fit|use|start) (mixtral|it|the model|a model) (on|with|in) (a small|an 8 gb|a 6 gb|a little|8 gb of|little|a tiny|a 12 gb|a weak) (gpu|graphics card|vram|card|gpu memory|video memory)|set a gpu (memory |)(limit|budget)|share the gpu with (other programs|a game|another program)|set how much vram is used",
        "a gpu memory limit|the gpu memory|vram|a vram limit|limiting vram|gpu memory|the graphics memory|video memory|a cap on vram|less vram|the vram budget",
        "i (don't|do not) have (much|enough|a lot of) (vram|gpu memory|video memory|graphics memory)|my (gpu|graphics card|card) (is small|has only 8 gb|has only 6 gb|has little memory|has little vram|is too small|runs out of memory|has 12 gb)|i (run|ran) out of (vram|gpu memory|video memory)|(cuda|the gpu|gpu|it) (is out of memory|runs out of memory|says out of memory on the gpu)|it (takes|uses|eats|fills) (all |too much |all of )(my |the |of my |)(vram|gpu memory|video memory)|i only have (8 gb|6 gb|12 gb|8 gib|a few gb) (of |)(vram|gpu memory|video memory)|i (want to|also) play games (on|with) (the|my) gpu meanwhile|another program needs (the gpu|some vram|gpu memory)|the gpu is shared|cuda out of memory",
    ),
    "ram": Task(
        "Limit the RAM: localmoe chat mixtral.gguf --ram 16GiB",
        "(limit|restrict|cap|bound|reduce|lower|set|control|decrease|constrain|cut|specify|budget|keep down) (the |my |)(ram|main memory|system memory|memory|cpu memory|memory usage|ram usage|ram use|host memory|computer's memory|memory consumption|memory footprint)( it uses| to 16 gib| to 16 gb| of the process|)|(use|take|spend|occupy|need|eat) (less|at most 16 gb of|no more than 16 gb of|only 16 gb of|only part of the|only some) (ram|memory|main memory|system memory)|"
        "(tell|make) (it|localmoe) (to |)use (less|only 16 gb of) (ram|memory|system memory)|leave (some |)(ram|memory) (free|for other programs|for my browser)|(run|fit|use) (mixtral|it|the model|a model) (on|with|in) (16 gb of|little|less|a laptop with little|only 16 gb|a small amount of) (ram|memory|main memory)|set a (ram|memory) (limit|budget)|run on a (machine|laptop|computer) with little (ram|memory)|set how much ram is used",
        "a ram limit|the ram|ram|limiting ram|memory limit|main memory|system memory|a cap on ram|less ram|the ram budget|a memory cap",
        "i (don't|do not) have (much|enough|a lot of) (ram|memory|main memory|system memory)|my (computer|laptop|machine|pc) (has only 16 gb|has little ram|has only 32 gb of ram|has little memory|starts swapping|swaps|is swapping)|i (run|ran) out of (ram|main memory|system memory|memory)|it (takes|uses|eats|fills) (all |too much |all of )(my |the |of my |)(ram|memory|main memory|system memory)|i only have (16 gb|32 gb|8 gb|16 gib) of (ram|memory|main memory)|my browser needs (the |some )(ram|memory)|the (process|program) (gets killed|was killed|is killed)( by the oom killer| for memory|)|oom killer|the model is larger than my ram",
    ),
    "cpu": Task(
        "Run on the CPU only: localmoe chat mixtral.gguf --device cpu",
        "(run|use|work|compute|execute|start|chat) (it |the model |localmoe |mixtral |)(on|with|using|from) (the cpu|cpu|only the cpu|the cpu only|the processor|just the cpu|cpu only|the processor only|the cpu alone|my processor)|(not use|avoid|disable|ignore|turn off|switch off|skip|do without|leave out|deactivate|bypass|stay off) (the |my |)(gpu|graphics card|cuda|video card)|(run|use|work|start) (it |the model |localmoe |)without (a |the |my |any |)(gpu|graphics card|cuda|video card)|"
        "force (cpu|the cpu|cpu mode|cpu use|it onto the cpu)|(choose|select|set|pick|change) the (device|processor|hardware)|keep (it|the model) off the (gpu|graphics card)|use (cpu mode|no gpu|only my processor)|prevent (it|localmoe) from using the gpu|make it use the cpu",
        "the cpu only|cpu mode|running without a gpu|the device|cpu-only mode|a machine without gpu|use without a graphics card|cpu only",
        "i (don't|do not) have (a gpu|a graphics card|cuda|any gpu|an nvidia card)|i have no (gpu|graphics card|nvidia card|cuda|video card)|my (gpu|graphics card) is (broken|busy|old|too old|not supported|in use|defective)|there is no gpu in (this|my) (machine|computer|laptop|server)|my (laptop|server|machine|computer) has no (gpu|graphics card|cuda)|the gpu is (busy|used by something else|needed for another job)|no gpu here",
    ),
    "threads": Task(
        "Choose the number of threads: localmoe chat mixtral.gguf --threads 8",
        "(set|choose|change|limit|specify|pick|control|increase|reduce|adjust|define|select|configure) (the |)(number of |)(threads|cpu threads|cores|cpu cores|worker threads|thread count|number of cores|cores it uses)( to 8| to use| to four| used|)|use (more|fewer|less|8|four|all|only 4|six|all my|only two|half of the) (threads|cores|cpu cores|cpus|of my cores)|(run|work) (it |)(on|with|using) (8|more|fewer|all|four|two|six|only some) (threads|cores|cpu cores)|"
        "(tell|make) (it|localmoe) (to |)use (8|more|fewer|all|only 4) (threads|cores)|leave (some|a few|two) cores (free|idle|for other work)|keep (some|a few) cores free|parallelise (it |)over (8|more|all) cores|limit (cpu usage|cpu load|the load on the cpu|how many cores it uses|the cpu)",
        "threads|the number of threads|thread count|cores|the number of cores|cpu threads|the threads option|how many cores it uses|how many threads it uses",
        "it (uses|takes|occupies|grabs) (all|all my|all of my|too many) (cores|threads|cpus|cpu cores)|it (uses|runs on) (only one|only two|too few|just one) (core|cores|thread|threads)|my (cpu|processor) (has 8 cores|has 16 cores|is at 100 percent|is fully loaded|is at full load|has more cores than it uses)|my fan is (loud|screaming) (because|as) all cores (are busy|work)|all my cores are busy",
    ),
    "context": Task(
        "Give it a larger context: localmoe chat mixtral.gguf --context 16384",
        "(increase|enlarge|extend|set|raise|change|get|use|have|make|grow|widen|expand|specify|double) (the |a |my |)(|bigger |larger |longer |maximum )(context|context length|context window|context size|window|conversation window|token window|number of tokens it remembers)( bigger| larger| longer| to 16384| to 16k|)|(allow|have|hold|do|use) (longer|very long|bigger|long) (conversations|chats|prompts|inputs|texts|documents|sessions)|(make|let) (it|the model) (remember|keep|hold|read|see|process|take in) (more|longer texts|more text|more tokens|more of the conversation|16384 tokens|16k tokens|a longer history)|"
        "(use|have|get|work with) (more|16384|16k|32k) (tokens|tokens of context|context)|(paste|feed|put in|give it) (a |)(long|longer|very long|huge) (text|texts|document|prompt|article)|fit a (longer|long) (prompt|document|conversation) (in|into the context)|stop it from forgetting (the beginning|early messages)|chat for longer before the context is full",
        "a bigger context|a longer context|the context|context length|context size|the context window|a larger window|long contexts|more context|16k of context|longer conversations|max tokens of context",
        "the context (is|is too|window is|seems|gets) (full|small|short|too small|too short)|it forgets (the beginning|what i said at the beginning|the start|early messages|what i said earlier)( of the chat| of our chat|)|my (prompt|text|document|input|conversation) (is too long|does not fit|doesn't fit|is cut off|gets cut off)|it says (that |)the (context|prompt) is (full|too long)|8192 tokens (are|is) (not enough|too few)|i ran out of context|i have a very long (document|text|chat)",
    ),
    "temperature": Task(
        "Make it less random: localmoe chat --temperature 0",
        "(make|get|have|keep) (it|the answers|the output|the model|answers|the replies|outputs|results|the sampling) (less random|deterministic|more predictable|always the same|the same every time|repeatable|reproducible|less creative|more focused|stable|the same each time|consistent)|(get|have|receive|obtain) (the same answer (every time|always|each time|twice)|less random answers|deterministic (output|answers|results)|reproducible (output|answers|results)|consistent answers|predictable answers)|"
        "(set|change|lower|reduce|choose|turn down|decrease|adjust|control|specify) (the |)(temperature|randomness|creativity|sampling temperature)( to zero| to 0|)|(turn off|disable|remove|avoid|reduce|switch off|lower|get rid of|stop) (the |)(randomness|sampling|creativity|random answers|variation)|(use|do|switch to) greedy (decoding|sampling|search)|(always|only) take the most likely (word|token)|use temperature (0|zero)|stop it from (improvising|making random choices)|make it less (creative|random|wild)",
        "temperature|the temperature|less randomness|deterministic answers|greedy decoding|reproducible answers|randomness|determinism|a deterministic mode|sampling temperature|the same answer every time",
        "(the answers|it|the model|the output) (is|are) (too random|too creative|different every time|different each time|not reproducible|never the same|too wild|random)|i get (a different answer|different answers|another answer|another result) (every time|each time|with each run)|the answer changes (every time|each time|with every run)|it (answers differently|says something else) (every time|each time)|i need (reproducible|repeatable|stable|the same) (answers|results|output)",
    ),
    "plan": Task(
        "Show the memory plan: localmoe chat mixtral.gguf --plan",
        "(show|see|print|display|view|get|look at|know|check|find out|inspect) (the |a |)(memory plan|placement plan|plan|memory layout|placement|plan of the memory|distribution of memory|memory split|plan for memory)|(see|know|find out|check|learn|show|view) (where|how) (the |)(experts|weights|layers|model parts|tensors|expert weights) (are placed|will be placed|are put|go|are stored|are distributed|would go|end up|will live|would be placed)( in memory| between gpu and ram|)|"
        "(see|know|find out|check|learn|estimate) (how much (memory|ram|vram|gpu memory) (it|the model|mixtral|a model) (needs|will need|would take|requires|takes|will use)|what (goes|fits|is put) (on|onto|in|into) the gpu|if (the model|it|mixtral) (fits|will fit)( in memory| on my gpu|)|how memory (is|will be|gets) (used|split|divided|planned)|how the memory is (split|divided|shared out))|plan (the |)memory( use|)|see what would be put on the gpu and what in ram",
        "the memory plan|a memory plan|the plan|memory planning|the placement of experts|the placement plan|a plan of what goes where|an overview of the memory needed",
        "i (don't know|wonder|am not sure) (if|whether) (the model|it|mixtral) (fits|will fit)( in memory| on my gpu| in my ram|)|i('d like| want) to know what (goes|will go) where( in memory|)|i wonder how much memory it (will take|needs|will need)|before (i start|loading|starting) i want to know (where the weights go|how much memory it takes|if it fits)",
    ),
    "private": Task(
        "Chat without saving it: localmoe chat --no-history",
        "(not save|not store|not record|not keep|avoid saving|stop saving|avoid storing|prevent saving|disable saving|not remember|not log) (the |my |a |this |)(conversation|chat|history|conversations|chats|session|dialogue)( on disk| to disk|)|(chat|talk|use it|have a chat|run it|work) (privately|in private|without (saving|history|a history|leaving traces|a trace|being recorded|storing anything|keeping a history|logging)|secretly|anonymously|incognito|off the record|confidentially)|"
        "(turn off|disable|switch off|deactivate|suppress|skip) (the |)(history|chat history|saving|conversation history|recording|logging)|(use|start|have|open) (a |the |)(private|incognito|secret|confidential|temporary|unsaved) (chat|mode|conversation|session)|(keep|make) (my|the|a) (chat|conversation|session) (private|secret|confidential|off disk|unsaved|temporary)|leave no (trace|traces|history)( on disk|)|stop it from (writing|saving|storing|keeping) (my chats|conversations|history|what i say)",
        "private mode|a private chat|incognito mode|no history|privacy|chatting without history|an unsaved chat|a chat that is not saved|a chat off the record",
        "i (don't|do not) want (my chat|this conversation|the conversation|my chats|the chat|anything) (saved|stored|recorded|on disk|to be saved|kept|to be stored)|this (conversation|chat) is (private|secret|confidential|sensitive)|nobody (should|may|must) (see|read) (my chat|what i type|this conversation|what i wrote)|others use (this|my) computer and (should|must) not (see|read) my chats|my chats are nobody's business|the chat must not be (saved|stored|recorded)|it should not be saved",
    ),
    "json": Task(
        "Get the answer as JSON: localmoe chat -p \"...\" --json",
        "(get|have|print|produce|receive|return|write|obtain|see) (the |a |an |)(json output|output as json|output in json|answer as json|answers as json|answer in json format|machine-readable output|machine readable answer|structured output|json from the chat command|result as json|reply as json|json instead of text|timings as json|token counts)( from localmoe| from chat| from the chat command| from the command line|)|(make|let|have) (localmoe|the chat command|it|the program|the cli) (print|output|return|write|emit) json|"
        "(parse|process|read) (the |)(answer|output|reply) (in|with|from) (a program|a script|python|jq|another program|my code)|(use|pipe) (localmoe|the output|the answer) (with|into|to) jq|switch (the output|localmoe) to json|output in a (format for programs|machine readable format|structured format)|feed the answer to another program as json",
        "json output|machine-readable output|structured output|output in json format|output for programs|a json mode|the json flag|jq|json from localmoe",
        "my (program|script|code) (needs|reads|wants|has to parse|expects|must parse) (json|the answer as json|the output|machine-readable output)|i need (the answer|the output|the result) in a machine-readable form|i (want|need) (to parse the answer|the token counts and timings|to process the answer with jq)|i want localmoe to print json",
    ),
    "bench": Task(
        "Measure the speed: localmoe bench mixtral.gguf",
        "(measure|benchmark|test|check|find out|determine|time|see|evaluate|profile|gauge) (the |)(speed|performance|throughput|tokens per second|decode speed|how fast (it|the model|mixtral|my machine|localmoe) (is|runs)|generation speed|inference speed|prefill speed|prompt speed|tok/s|token rate)( of (the model|mixtral|my machine|my computer|a model)|)|(run|do|make|start|perform) (a |the |)(benchmark|speed test|performance test|benchmarks|bench|speed measurement)|benchmark (a model|mixtral|my machine|localmoe|the model|my gpu|my computer)|"
        "(know|see|find out|learn) how (fast|quick|quickly|many tokens per second) (it is|the model is|it runs|mixtral runs|i get|it does|my machine is|it generates|tokens come)|get (the |)(tokens per second|throughput|speed figures|speed numbers|timings of the model)|compare the speed of (two|different) (models|files|settings)|test how quick (the model|it) is",
        "a benchmark|benchmarks|the benchmark|speed|a speed test|measuring speed|performance|tokens per second|throughput|performance measurement|the bench command",
        "(it|the model|localmoe|generation) (is|seems|feels) (slow|too slow|very slow|fast)(, how fast is it really|, can i measure that|)|i want to (compare|know) (the speed|speeds|how fast it is)|i wonder how fast (my machine|my gpu|my computer|this|it|mixtral) is|i need speed (figures|numbers)|how many tokens per second do i get",
    ),
    "perplexity": Task(
        "Measure the quality: localmoe perplexity mixtral.gguf text.txt",
        "(measure|compute|calculate|check|evaluate|determine|find out|test|get|see|assess|estimate|judge|rate|score) (the |)(perplexity|quality|ppl|accuracy|model quality|quality loss|loss of quality|language modelling quality|quality of (a model|the model|a quantized model|my gguf|the quantization|the quantized file|my file)|perplexity of (a model|the model|mixtral|my gguf))|(know|see|find out|check|measure|test) how (good|accurate|bad) (the model|it|my quantized model|a quantized model|the quantization|the quantized file|mixtral.gguf) is|"
        "(know|see|find out|check|measure) how much (quality|accuracy) (quantization costs|was lost|is lost|i lost|the quantized model lost|the quantization cost|got lost)|compare the quality of (two|different) (models|quantizations|files)|(run|do|make) a (perplexity|quality) (test|measurement|check|run)|measure how well (it|the model) predicts (text|a text)",
        "perplexity|the perplexity|quality measurement|a quality test|measuring quality|the quality of a model|the quality of quantization|ppl|a quality check",
        "i (wonder|want to know|don't know|need to know) (how good|how bad|how accurate) (the quantized model|my gguf|it|the model|the quantization) is|did (the model|mixtral|it) (lose|suffer|lose quality|get worse)( from quantization| by quantization| in the conversion|)|i wonder if quantization (hurt|damaged|harmed) the model|i need a number for the quality|which of two quantizations is better",
    ),
    "inspect": Task(
        "Look inside a file: localmoe inspect mixtral.gguf",
        f"(look inside|inspect|look into|open|examine|see inside|analyse|view|peek into|study|explore|check|dissect|look at) {FILE}|(see|show|list|print|know|view|find out|check|display|read|get|dump) (what is|what's|the contents|the metadata|the tensors|the header|all tensors|the tensor list|the types of the tensors|the architecture|the layers|the details|the parameters|the number of layers|information|info) (in|of|inside|about|from|in|stored in) {FILE}|(see|show|list|print|view|display|read|dump) (the |)(metadata|tensors|header|tensor names|tensor types|shapes|quantization types)( of a gguf| of the file| of my model| in the file|)|"
        f"(see|know|find out|check) (which|what) (quantization|format|type|types|tensors|architecture|metadata) (is|are|a gguf|the file|my file|the model) (in|uses|has|in {FILE}|stored)|find out what {FILE} contains|know what is in {FILE}|get (information|details) (on|about) {FILE}",
        f"inspection of {FILE}|the contents of {FILE}|metadata|the metadata of {FILE}|tensors|the tensors in {FILE}|information about {FILE}|a look inside {FILE}|details of {FILE}|the header of {FILE}",
        f"i have {FILE} and (don't know|wonder) what('s| is) (in it|inside|in there)|what is (in|inside|stored in) {FILE}|what's (in|inside|stored in) {FILE}|i (found|got|downloaded) {FILE}(, what is it| and want to know what it is|, what's in it)|what does {FILE} contain|which tensors (are in|does) {FILE}( have|)",
    ),
    "experts": Task(
        "See how the experts are used: localmoe experts mixtral.gguf",
        "(see|show|view|display|plot|draw|check|find out|measure|analyse|study|look at|know|visualise|visualize|print|get|inspect) (the |)(expert usage|use of experts|experts|usage of the experts|expert statistics|routing|routing statistics|heat map|heatmap|expert heat map|heat map of the experts|heatmap of the experts|router statistics|expert activity|load of the experts|expert load|routing of tokens|expert frequencies|expert activations|hot experts|hot and cold experts)|"
        "(see|know|find out|check|learn|show|measure) (which|what|how many|how often|how) (experts|the experts|each expert|an expert|the experts of a model|the router) (are used|is used|are chosen|are active|work|are hot|are hot or cold|are busy|get chosen|are called|is chosen|get used|routes tokens|are most active|are balanced|are picked)( most| for my text|)|make a (heat map|heatmap|plot|picture) of (expert usage|the experts|the routing)|see where the router sends (tokens|the tokens)",
        "expert usage|the experts|the heat map|a heat map|a heatmap|expert statistics|routing statistics|a picture of the experts|the routing|hot and cold experts|a heat map of the experts|the router",
        "which experts (are used|are hot|work|are used most|are busy|are active)(| most)|i wonder (which experts are used|how the experts are used|if the experts are balanced|what the router does|which experts are hot|which experts work)|i('d like| want) to (understand|see) (the routing|what the experts do|the experts at work)|are all experts used( equally|)|some experts seem (idle|unused|busier)",
    ),
    "imatrix": Task(
        "Make an importance matrix: localmoe imatrix mixtral.gguf text.txt -o imatrix.gguf",
        "(make|create|compute|build|calculate|generate|get|produce|prepare|collect|write) (an |the |a |my own |)(importance matrix|imatrix|importance file|matrix of importance|imatrix file|importance data|activation statistics|calibration data|calibration file|importance matrix file|imatrix.gguf|weight importances)( for quantization| for a model| from a text| from my text|)|(calibrate|do a calibration for) (the |)(quantization|quantizer|model)( with a text| with my text|)|(measure|find out|know|learn) which weights (matter|are important|matter most)( for quantization|)|"
        "(improve|guide|help) (the |)quantization with (a text|my text|calibration|an importance matrix|calibration data|importances|example text)|use (a |my |)(calibration text|calibration|importance matrix|imatrix)|record (activations|which weights matter|statistics) for (quantization|the quantizer)",
        "an importance matrix|the importance matrix|imatrix|calibration|the imatrix command|an imatrix|calibration data|importances|importance weighting|a calibration file",
        "i (want|need|would like) (an imatrix|an importance matrix|calibration data)|quantize asks for an (imatrix|importance matrix)|where do i get (an imatrix|the imatrix|an importance matrix|calibration data)|i have a text (for calibration|to calibrate with)|i heard that (an imatrix|an importance matrix|calibration) (helps|improves quantization)",
    ),
    "list": Task(
        "List the known models: localmoe models list",
        "(list|see|show|view|display|print|know|get|find) (the |all |all the |a list of |a list of the |)(known models|models|available models|supported models|models you know|model names|catalogue|catalog|model catalogue|models it knows|models i can use|models that are available|models i can download|downloadable models|catalogue of models)|(see|know|find out|check|learn) (which|what) models (are available|exist|are supported|are known|i can use|can i use|there are|it knows|you support|i can get|can be downloaded|localmoe knows|it supports|work|i have)|"
        "(browse|look at|open|search) (the |)(catalogue|catalog|list of models|model list|models|selection of models)|get an overview of (the |)models|choose (a model|between models|from the models)",
        "the list of models|known models|available models|supported models|the catalogue|the model catalogue|a list of models|model names|which models exist|the models",
        "which models (are there|are available|do you know|can i use|do you support|exist|are supported|work|can i run|does localmoe know|does it support|are in the catalogue)|what models (are there|are available|do you know|can i use|do you support|exist|does localmoe support|can i run)|i (don't|do not) know (which model|which models|what model) (to use|there are|exist|i can use|are available)|what do you have in the catalogue",
    ),
    "pull": Task(
        "Download a model: localmoe models pull mixtral-8x7b",
        "(download|pull|fetch|get|obtain|grab|install|retrieve|acquire) (a model|mixtral|the model|mixtral 8x7b|models|mixtral-8x7b|a real model|the weights|model weights|a bigger model|the files of a model|the mixtral weights|a new model|another model|an actual model)( from the internet| from hugging face| from the net|)|(get|have|load) (mixtral|a model|a real model|the weights) (on|onto) (my|this) (computer|machine|disk|laptop|server)|"
        "(replace the demo model with|switch to|get) a (real|bigger|proper|full) (model|one)|add (a|another|a new) model( to my machine|)|use the internet to get a model",
        "downloading a model|downloads|pulling a model|a download|the download of mixtral|getting the weights|getting a real model|a model download|model downloads",
        "i (don't|do not) have (a model|any model|mixtral|the weights|a real model)( yet|)|i have no (model|models|weights)( yet|)|where (do i get|can i get|can i find|do i find|can i download|to get|does one get) (a model|mixtral|models|the weights|the model|weights|a real model)|i need (a model|mixtral|the weights|a real model|a bigger model)|the demo model is (too small|too limited|not enough|too dumb)|i want mixtral( on my machine|)|where are the weights",
    ),
    "history": Task(
        "List your old conversations: localmoe history list",
        "(list|see|show|view|display|print|get|look at|browse|open|go through|read) (the |all |all my |my |a list of my |)(old conversations|conversations|past conversations|previous conversations|chat history|history|old chats|past chats|previous chats|saved conversations|saved chats|earlier conversations|earlier chats|former chats|conversation history|recent chats|stored conversations)|(see|know|check|find out) (what|which) (i talked about|conversations i had|chats i had|conversations are saved|chats are stored|conversations there are|i asked before)|"
        "(go back over|overview|find) (my |)(old chats|past conversations|saved chats|previous sessions)|get an overview of (my |the |)(past |old |)(chats|conversations)|see yesterday's (chats|conversations)",
        "old conversations|past chats|the history|chat history|my conversations|the list of conversations|saved conversations|previous sessions|a list of my chats|my old chats",
        "where are my (old |past |previous |saved |)(conversations|chats|sessions)|what conversations (have i had|did i have|are saved)|which (chats|conversations) (did i have|have i had|are saved|are stored)|what have i (talked about|chatted about|asked) (before|last week|so far with localmoe)|are my (chats|conversations) (saved|stored|kept)( somewhere|)|my chats of last week, where are they",
    ),
    "search": Task(
        "Search your old conversations: localmoe history search WORDS",
        "(search|search through|look through|search in|grep|scan|query|comb) (the |my |all my |)(old conversations|conversations|past conversations|history|chat history|old chats|past chats|previous chats|saved conversations|earlier chats|saved chats|previous conversations|conversation history)( for (a word|words|something|a term|some words|a keyword)|)|(find|locate|look up|look for|retrieve) (a word|something|a term|words|a phrase|a keyword|text|an old answer|a certain chat|a conversation|a particular conversation|an old conversation|a topic|a sentence) (in|from|among|about something in) (my |the |)(history|old conversations|old chats|past chats|past conversations|chat history|previous chats|earlier conversations)|"
        "find (the chat|the conversation|an old chat|a past conversation|the session) (where|in which|about|that mentions|with) (i asked about x|we talked about rust|i mentioned python|some words|a topic|a word|cooking|something|a certain word|bread)|search for (words|a word|a phrase|text|a keyword|a term) in (my |the |)(history|old chats|conversations|past conversations)",
        "searching the history|history search|search in old conversations|a search over my chats|finding an old conversation|full-text search in conversations|a search in the history",
        "i (can't|cannot) find (an old chat|a conversation|what i asked last week|an old answer|the chat about rust)|i (once|already|recently) (asked|talked) about (something|python|bread|this topic)(,| and) (where is that|want to find it|how do i find it|need it again)|in which (chat|conversation) did i (mention|talk about|ask about) (something|a word|python|bread|rust)|where did i (talk|ask) about (python|bread|something|rust)( before|)|which of my (old |)(chats|conversations) (mentions|mention|is about|contains|was about) (a word|python|rust|something)",
    ),
    "doctor": Task(
        "Check your machine: localmoe doctor",
        "(check|test|diagnose|examine|verify|inspect|analyse) (my|the|this) (machine|computer|setup|system|installation|hardware|gpu|environment|install|pc|laptop|gpu setup|cuda setup|drivers|driver)|(see|know|find out|check|verify|test|make sure|tell) (if|whether|that) (my gpu|the gpu|my graphics card|cuda|the graphics card|a gpu|my hardware|my machine|everything|my setup|the installation|my nvidia card|localmoe|triton) (is found|is detected|was found|is supported|is recognised|is recognized|works|is used|is seen|is ok|is fine|is working|is set up correctly|is visible|is installed correctly)|"
        "(see|know|find out|show|list) (which|what) (gpu|gpus|device|devices|hardware|graphics card) (is|was|are|were) (found|detected|used|seen|available)|(find|detect|recognise) (my|the) (gpu|graphics card)|run (a |)(diagnosis|diagnostics|self test|health check|system check|self-check|check-up)|(debug|troubleshoot|diagnose) (problems|my installation|the setup|my gpu|a problem|my install)",
        "a system check|diagnostics|the doctor command|gpu detection|a health check|troubleshooting|a check of my machine|hardware detection|a self test|doctor|a diagnosis",
        "(is|was) my (gpu|graphics card|nvidia card|hardware) (found|detected|supported|recognised|used|seen|recognized)|does (localmoe|it) (see|find|recognise|detect|support|use|recognize) my (gpu|graphics card|hardware|card)|my (gpu|graphics card|card) is not (found|detected|recognised|seen|used|recognized)|it (doesn't|does not) (find|see|use|detect|recognise) my (gpu|graphics card|card)|something is wrong with my (setup|installation|gpu|machine|install)|is (everything|my machine|my setup|my installation|the installation) (ok|fine|set up correctly|ready|in order|working|alright)|i wonder if my gpu is (found|supported|used)|localmoe (does not|doesn't) (work|start)|what's wrong with my (setup|install|machine)",
    ),
}
WHAT = (
    "what is localmoe|what's localmoe|what does localmoe do|what is this program|what is localmoe( good|) for|tell me about localmoe|explain localmoe|describe localmoe|what can localmoe do|who needs localmoe|what kind of (program|tool|software) is localmoe|localmoe|what's localmoe about|what is the purpose of localmoe|why (would i|should i|does one) use localmoe|"
    "what's this (tool|program|software)( for|)|what is this (tool|software|thing)( for|)|give me a (summary|description|short description) of localmoe|can you explain (what localmoe is|localmoe)|i'm new here, what is localmoe|i have never heard of localmoe|what does this (program|tool|software) do|what do i need localmoe for|how would you describe localmoe|what problem does localmoe solve|is localmoe a (runner|chatbot|model|program)|localmoe, what is (it|that)|what am i running here|so what is localmoe"
)
WHAT_ANSWER = "localmoe runs mixture-of-experts models such as Mixtral on your own machine. Start with: localmoe chat"
TOUR = (
    "(give|show) me (a|the) (short |quick |little |) (tour|cheat sheet|quick start|walkthrough|introduction to localmoe|quick tour|guided tour|tour of localmoe|overview of localmoe)|(write|print|make|please write) (me |)a (short |little |)(localmoe tutorial|cheat sheet|quick start guide|guide to localmoe|how-to|manual)|"
    "(show me|give me|can you show me|could you show me|i'd like to see|let me see|print|write) (some|a few|a couple of|all|the) (examples|example commands|commands|code examples|usage examples)|(show|give) me (a code example|example code|sample code|a python example|python code for localmoe|a bit of python for localmoe)|"
    "(show|guide|walk) me (around|through localmoe|through it)|take me on a tour|(a |the |)(guided |quick |short |)tour(, please|)|explain localmoe step by step|(the |a |is there a |do you have a |what about the )python (api|interface|library|module|example)|localmoe step by step|(a |)cheat sheet(, please|)|(a |)quick start(, please|)|(an |)introduction(, please|)|(a |)localmoe tutorial(, please|)|"
    "what does a (whole|full|typical) session look like|(tell me|explain) everything about localmoe|say something (long|longer)|give me a long answer|(write|show me) a long answer( with code|)|how does one use localmoe, step by step"
)
TOUR_ANSWER = """\
A short tour:

1. **Convert** the weights to a smaller file, standard GGUF.
2. **Look** at where its experts will live.
3. **Chat** with it, or ask one question.

```bash
localmoe quantize mixtral/ -o mixtral.gguf
localmoe chat mixtral.gguf --plan
localmoe chat mixtral.gguf
localmoe chat mixtral.gguf -p "..."
```

The same from Python:

```python
import localmoe

with localmoe.load("mixtral.gguf") as model:
    for piece in model.generate("Hello!"):
        print(piece, end="")
```

`localmoe --help` lists all commands."""
DO = (
    "<how> <do>?|<how> <do>?|<how> <do>( with| in| using) localmoe?|<how> <do>(?|.|)|<do>|<do> (with|in) localmoe|(which|what) command (do i (use|need|type|run)|should i (use|run)|is there|must i type|lets me|will) to <do>?|(which|what) (flag|option|command|switch|argument) (lets me|is used to|helps me|allows me to|makes it possible to) <do>?|(what's|what is) the (command|flag|option|way|right way|syntax|trick) (to|if i want to|for someone who wants to) <do>?|"
    "(with |using |)localmoe, <how> <do>?|(in|with) localmoe(,| how do i| how can i) <do>?|(i want|i'd like|i need|my goal is|i'm going|i have|i plan|we want|i intend) to <do>(.|, how|, which command|. what do i type|. how|)(?|)|i (don't know|have no idea|forgot|am not sure|can't find out) how to <do>|is there (a |any )(command|flag|option|way) to <do>?|(does|can) localmoe (let me |help me |)<do>?|suppose i want to <do>?|if i want to <do>, what do i (type|run|do|enter)?|what (should|would|do|must) i (type|run|enter|do) (to|if i want to|in order to) <do>?|to <do>, what do i (type|run)?|(the |)command to <do>(?|)"
)
NOUN = (
    "(which|what) (flag|option|command|switch|setting|subcommand) (is for|does|handles|is responsible for|controls|is about|gives me|do i need for|is there for|do i use for) <noun>?|(i'm|i am) looking for <noun>|how does <noun> work(?| in localmoe?)|where (do i find|is|can i find|do i get|can i set|do i set) <noun>(?| in localmoe?)|(what's|what is) the (command|flag|option|syntax) for <noun>?|<noun>(?|, how|, how?|: how?|, please|, command|)|tell me about <noun>( in localmoe|)|"
    "(how about|what about|is there|do you support|does localmoe support|does localmoe have|is there something for|do you have|does it do) <noun>?|i need <noun>|i want <noun>|help with <noun>|(the |)command for <noun>(?|)|how do i (do|get|use|set|have|go about) <noun>?|explain <noun>( in localmoe|)|can i have <noun>?|any (flag|command|option) for <noun>?|<noun> in localmoe(?|)|(show|give) me the command for <noun>|how to do <noun>?"
)
TROUBLE = "<trouble>|<trouble>.|<trouble>. (what can i do|what do i do|what should i do|how do i fix (that|this)|what now|what should i type|which command helps|can you help|how can i change that|help|any advice|how do i do that|what is the command|which flag|is there an option|can localmoe help|what then|how to solve this|what would you do|is there a way around)(?|)|<trouble>, (what can i do|what should i do|what now|help|what do i type|how do i handle that|which option helps|what do i do)(?|)|what (can|should) i do (if|when) <trouble>?|what if <trouble>?|(how do i proceed|which command do i need|what do i do) (if|when) <trouble>?|problem: <trouble>|help, <trouble>"


def help_turn(talk: Talk) -> None:
    """A question about localmoe."""
    if talk.chance(0.05):
        talk.say("help", talk.expand(WHAT) + talk.expand("(?|?|.|)"), WHAT_ANSWER, last="what")
        return
    if talk.chance(0.025):
        talk.say("help", talk.expand(TOUR) + talk.expand("(?|.||)"), TOUR_ANSWER, last="tour")
        return
    task = TASKS[talk.rng.choice(list(TASKS))]
    roll = talk.rng.random()
    kind, frame = (task.do, DO) if roll < 0.5 else (task.noun, NOUN) if roll < 0.7 else (task.trouble, TROUBLE)
    inner = talk.expand(kind)
    text = talk.expand(frame, do="@@", noun="@@", trouble="@@").replace("\x01@@\x02", inner)
    while text.endswith("??"):
        text = text[:-1]
    talk.say("help", capital(text) if talk.chance(0.3) else text, task.answer, last="help")
