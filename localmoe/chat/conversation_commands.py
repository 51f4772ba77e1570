"""Slash commands that change the conversation."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from localmoe.chat.attachments import decoded
from localmoe.chat.conversation import Conversation
from localmoe.chat.present import keyboard
from localmoe.errors import UsageError
from localmoe.history.transfer import FORMATS, as_markdown, as_object, checked, write_whole
from localmoe.paths import expanded

if TYPE_CHECKING:
    from localmoe.chat.repl import Repl


def system(repl: Repl, argument: str) -> None:
    conversation = repl.session.conversation
    if not argument:
        repl.notices.write(conversation.system or "There is no system prompt.")
        return
    conversation.system = "" if argument == "none" else argument.strip('"').strip()
    repl.session.recorder.stand_on(conversation)
    repl.notices("System prompt removed." if not conversation.system else "System prompt set.")


def regenerate(repl: Repl, _argument: str) -> None:
    repl.answer(repl.session.regenerate)


def go_on(repl: Repl, _argument: str) -> None:
    repl.answer(repl.session.continue_answer)
    answer = repl.session.answer
    if answer is not None and answer.completion_tokens == 0 and answer.finish_reason == "stop":
        repl.notices("The answer was complete: the model added nothing to it.")


def undo(repl: Repl, _argument: str) -> None:
    prompt = repl.session.conversation.undo()
    repl.session.recorder.stand_on(repl.session.conversation)
    repl.draft = str(prompt.details.get("typed", prompt.content))
    repl.notices("Stepped back before your last prompt; here it is again, to change or delete.")


def branch(repl: Repl, argument: str) -> None:
    conversation = repl.session.conversation
    leaves = conversation.leaves()
    if not leaves:
        raise UsageError("There are no branches yet: nothing has been said.")
    if not argument:
        for number, leaf in enumerate(leaves, start=1):
            here = "*" if leaf in conversation.path() else " "
            path = leaf.path()
            asked = next((turn.content for turn in reversed(path) if turn.role == "user"), "")
            told = leaf.content if leaf.role == "assistant" else "(no answer)"
            repl.notices.write(f"{here} {number}  {len(path)} turns  {_line(asked)}  →  {_line(told)}")
        return
    if not argument.isdecimal() or not 1 <= int(argument) <= len(leaves):
        raise UsageError(f"There is no branch {argument}; /branch lists them.")
    conversation.head = leaves[int(argument) - 1]
    repl.session.recorder.stand_on(conversation)
    repl.show_last_exchange()


def edit(repl: Repl, argument: str) -> None:
    """Compose a prompt in the editor; an empty one is not sent."""
    conversation = repl.session.conversation
    text = argument
    last = conversation.last("user") if argument == "last" else None
    if argument == "last":
        if last is None:
            raise UsageError("There is no prompt to rewrite yet.")
        text = str(last.details.get("typed", last.content))
    written = edited(text).strip("\n")
    if not written.strip():
        repl.notices("Nothing sent: the text was empty.")
        return
    before = conversation.head
    if last is not None:
        conversation.undo()
    repl.notices.write(f">>> {written}")
    try:
        repl.ask(written)
    finally:
        if last is not None and conversation.head is last.parent:  # nothing came of it: back to where it was
            conversation.head = before
            repl.session.recorder.stand_on(conversation)


def edited(text: str) -> str:
    """`text` after the user changed it in the editor. Raises `UsageError` if that fails."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "prompt.md"
        file.write_text(text, "utf-8", errors="replace")
        open_in_editor(file)
        return decoded(file.read_bytes(), "what the editor wrote")


def open_in_editor(file: Path) -> None:
    """Let the user change `file` in $VISUAL or $EDITOR. Raises `UsageError` if that fails."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        with keyboard(echo=True):
            code = subprocess.run([*shlex.split(editor), str(file)], check=False).returncode
    except (OSError, ValueError) as error:
        raise UsageError(f"The editor {editor!r} could not be started ({error}); set $EDITOR.") from error
    if code:
        raise UsageError(f"The editor {editor!r} ended with {code}; what it wrote is not used.")


def new(repl: Repl, _argument: str) -> None:
    repl.session.take_up(Conversation(repl.session.settings.system))
    repl.attachments = []
    repl.notices("A new conversation. (/resume goes back to an earlier one.)")


def save(repl: Repl, argument: str) -> None:
    _write(repl, argument or _missing("/save FILE"), "jsonl")


def export(repl: Repl, argument: str) -> None:
    ending = Path(argument or _missing("/export FILE")).suffix.lstrip(".").lower()
    if ending not in FORMATS:
        raise UsageError("The file's ending says the form: .md, .json or .jsonl.")
    _write(repl, argument, FORMATS[ending])


def _write(repl: Repl, name: str, form: str) -> None:
    file = expanded(name)
    if file.exists() and not repl.reader.confirm(f"{file} exists. Replace it?"):
        return
    summary, stored = repl.session.conversation.snapshot(repl.session.reference)
    if form == "markdown":
        head = repl.session.conversation.path()
        rows = [stored[repl.session.conversation.turns.index(turn)] for turn in head]
        text = as_markdown(summary, rows)
    else:
        indent = 2 if form == "json" else None
        text = json.dumps(as_object(summary, stored), ensure_ascii=False, indent=indent) + "\n"
    write_whole(file, text)
    repl.notices(f"Written to {file}.")


def load(repl: Repl, argument: str) -> None:
    file = expanded(argument or _missing("/load FILE"))
    found = _conversations(decoded(file.read_bytes(), str(file)))
    if len(found) != 1:
        raise UsageError(f"{file} holds {len(found)} conversations; `localmoe history import` takes several.")
    conversation = Conversation.from_object(checked(found[0], str(file)))
    repl.session.take_up(conversation)
    repl.session.recorder.save(conversation, repl.session.reference, retry=True)
    repl.show_last_exchange()


def _conversations(text: str) -> list[str]:
    """The conversations in a file, each as JSON: the whole of it (.json), a list of them, or one a line."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return [line for line in text.split("\n") if line.strip()]
    return [json.dumps(one) for one in whole] if isinstance(whole, list) else [text]


def _missing(usage: str) -> str:
    raise UsageError(f"A file name is missing: {usage}")


def _line(text: str, limit: int = 36) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
