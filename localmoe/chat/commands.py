"""The slash commands: their names, what help says about them, and where they are carried out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from localmoe.chat import conversation_commands as talk
from localmoe.chat import history_commands as past
from localmoe.chat import model_commands as engine
from localmoe.errors import UsageError

if TYPE_CHECKING:
    from localmoe.chat.repl import Repl


@dataclass(frozen=True)
class Command:
    """A slash command. `completes`: the kind of argument that Tab completes."""

    name: str
    arguments: str
    summary: str
    run: Callable[[Repl, str], None]
    completes: str = ""


KEYS = (
    ("Enter", "send"),
    ("Alt-Enter", 'new line; so does Enter in a block begun with """'),
    ("Tab", "complete commands, files, models, settings"),
    ("Up, Ctrl-R", "earlier prompts, of all conversations"),
    ("Ctrl-C", "stop the answer, keep it; twice at the prompt: leave"),
    ("Ctrl-D", "leave"),
)


def show_help(repl: Repl, argument: str) -> None:
    if argument:
        command = find_command(argument.removeprefix("/"))
        repl.notices.write(f"/{command.name} {command.arguments}".rstrip() + f": {command.summary}")
        return
    width = max(len(f"/{one.name} {one.arguments}") for one in COMMANDS.values())
    lines = [f"  {f'/{one.name} {one.arguments}':{width}}  {one.summary}" for one in COMMANDS.values()]
    lines += ["", *(f"  {key:{width}}  {what}" for key, what in KEYS)]
    repl.notices.write("\n".join(lines))


def leave(repl: Repl, _argument: str) -> None:
    repl.leaving = True


_ALL = (
    Command("help", "[COMMAND]", "show this", show_help, "command"),
    Command("system", "[TEXT]", "show or set the system prompt (none removes it)", talk.system),
    Command("set", "[NAME [VALUE]]", "show or change settings, as /set seed 1", engine.change, "setting"),
    Command("show", "", "this conversation: model, length, changed settings", engine.show),
    Command("model", "[NAME or FILE]", "list models, or switch to one", engine.model, "model"),
    Command("plan", "", "where the model's weights go", engine.plan),
    Command("stats", "", "what the last answer took", engine.stats),
    Command("regen", "", "answer the last prompt anew; the old answer is kept", talk.regenerate),
    Command("undo", "", "step back before the last prompt; it is kept", talk.undo),
    Command("branch", "[N]", "list this conversation's branches, or go to one", talk.branch),
    Command("edit", "[last]", "write a prompt in $EDITOR, or rewrite the last", talk.edit),
    Command("continue", "", "let the model go on with its last answer", talk.go_on),
    Command("thoughts", "", "what the model thought before its last answer", engine.thoughts),
    Command("copy", "[all]", "copy the last code block, or the whole answer", engine.copy),
    Command("file", "PATH", "attach a text file to the next prompt (none: take off)", engine.attach, "file"),
    Command("clear", "", "clear the screen (the conversation stays)", engine.clear),
    Command("new", "", "start a new conversation", talk.new),
    Command("save", "FILE", "save this conversation as a file, branches and all", talk.save, "file"),
    Command("load", "FILE", "take up a conversation that /save wrote", talk.load, "file"),
    Command("history", "[N]", "the last conversations", past.history),
    Command("search", "WORDS", "search all conversations", past.find),
    Command("recall", "WORDS", "add passages of earlier conversations to the prompt", past.recall),
    Command("resume", "[ID]", "go on with an earlier conversation", past.resume, "conversation"),
    Command("export", "FILE", "write this conversation as .md, .json or .jsonl", talk.export, "file"),
    Command("quit", "", "leave", leave),
)
COMMANDS = {command.name: command for command in _ALL}
_OTHER_NAMES = {"exit": "quit", "q": "quit", "bye": "quit", "?": "help", "h": "help", "regenerate": "regen"}


def find_command(name: str) -> Command:
    """The command called `name`. Raises `UsageError` with the nearest one."""
    command = COMMANDS.get(_OTHER_NAMES.get(name, name))
    if command is None:
        close = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean /{close[0]}?" if close else "/help lists the commands."
        raise UsageError(f"There is no command /{name}; {hint} (Put a space before text that begins with /.)")
    return command
