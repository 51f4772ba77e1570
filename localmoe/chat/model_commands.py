"""Slash commands about the model, its settings, and the terminal."""

from __future__ import annotations

import base64
import gc
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from localmoe import catalogue
from localmoe.chat.asked import without_effect
from localmoe.chat.attachments import read_attachment
from localmoe.chat.output import DIM, is_terminal, status_line
from localmoe.errors import UsageError
from localmoe.experts.sizes import format_size
from localmoe.settings import FIELDS, RIVALS, Settings, canonical, parse, shown, suggestion
from localmoe.text.safe import safe

if TYPE_CHECKING:
    from localmoe.chat.repl import Repl

_CLIPBOARDS = (("wl-copy", "WAYLAND_DISPLAY"), ("xclip -selection clipboard", "DISPLAY"), ("pbcopy", "HOME"))
_CLIPBOARD_SECONDS = 5.0


def _check_theme(theme: str) -> None:
    from pygments.styles import get_all_styles

    known = dict.fromkeys(sorted(get_all_styles()))
    if theme not in known:
        raise UsageError(f"no theme {theme!r}{suggestion(theme, known)}; there are {', '.join(known)}")


def change(repl: Repl, argument: str) -> None:
    now = repl.session.settings
    live = [name for name, about in FIELDS.items() if about.metadata["live"]]
    if not argument:
        repl.notices.write("\n".join(f"  {name:18} {_about(name, now)}" for name in live))
        return
    first, _, value = argument.partition(" ")
    name = canonical(first)
    if not value:
        repl.notices.write(f"{name}: {_about(name, now)}")
        return
    if name not in live:
        flag = name.replace("_", "-")
        raise UsageError(f"{name} is fixed once the model is loaded; start with: localmoe chat --{flag} …")
    chosen = parse(name, _plain(value.strip(), breaks=name != "json_schema"))
    if name == "theme":
        _check_theme(chosen)
    other = {RIVALS[name]: ""} if name in RIVALS and chosen else {}
    repl.session.set(**{name: chosen}, **other)
    repl.notices(f"{name} is now {shown(name, getattr(repl.session.settings, name))}.")
    if name in ("effort", "think"):
        _tell_without_effect(repl)


def _about(name: str, now: Settings) -> str:
    return f"{shown(name, getattr(now, name)):12} {FIELDS[name].metadata['summary']}"


def _plain(value: str, *, breaks: bool) -> str:
    """A value without quotes around it; with `breaks`, \\n in it is a line break."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    return value.replace("\\n", "\n") if breaks else value


def show(repl: Repl, _argument: str) -> None:
    session, conversation = repl.session, repl.session.conversation
    default, now = Settings(), session.settings
    path = conversation.path()
    changed = [
        f"  {name} {shown(name, getattr(now, name))}"
        for name in FIELDS
        if getattr(now, name) != getattr(default, name)
    ]
    exchanges = sum(turn.role == "user" for turn in path)
    lines = [
        f"model         {session.model.name} ({session.reference})",
        f"conversation  {conversation.title or 'new'} ({conversation.id or 'not saved'})",
        f"exchanges     {exchanges}{_branches(len(conversation.leaves()))}",
        f"context       {session.used:,} of {session.model.context:,} tokens in use",
        f"system        {conversation.system or 'none'}",
        f"attached      {', '.join(one.name for one in repl.attachments) or 'nothing'}",
        "settings that differ from the default:" if changed else "settings      all default",
        *changed,
    ]
    repl.notices.write("\n".join(lines))


def _branches(count: int) -> str:
    return f", in {count} branches" if count > 1 else ""


def model(repl: Repl, argument: str) -> None:
    if not argument:
        here = repl.session.reference
        lines = []
        for name, one in catalogue.installed().items():
            mark = "*" if here in (name, str(one.path)) else " "
            lines.append(f"{mark} {name:24} {format_size(one.size):>10}  {one.path}")
        repl.notices.write("\n".join(lines) or "No models are installed; see `localmoe models list`.")
        return
    session, found = repl.session, catalogue.find(argument)
    before = session.reference
    try:
        # The model so far ends first: two need not fit into memory, or into a bound, that was given to one.
        # It can be opened again, as it was once before, if the other cannot.
        session.close()
        gc.collect()  # what it held, for the plan of the next to find free
        _open(repl, found)
    except BaseException:
        _open(repl, catalogue.find(before))
        raise
    session.recorder.stand_on(session.conversation, session.reference)
    repl.notices(
        f"{session.model.name} answers from here on; context of {session.model.context:,} tokens."
    )


def _open(repl: Repl, found: catalogue.Found) -> None:
    from localmoe.chat.start import load_model, reference

    learn = repl.session.recorder.history is not None
    loaded = load_model(found, repl.session.settings, repl.notices, learn=learn)
    repl.session.use(loaded, reference(found))
    _tell_without_effect(repl)


def _tell_without_effect(repl: Repl) -> None:
    for line in without_effect(repl.session.model, repl.session.settings):
        repl.notices(line)


def plan(repl: Repl, _argument: str) -> None:
    repl.notices.write("\n".join(repl.session.model.plan.lines()))


def stats(repl: Repl, _argument: str) -> None:
    session, answer = repl.session, repl.session.answer
    if answer is None:
        raise UsageError("Nothing has been answered yet.")
    status = session.model.status()
    timings = answer.timings
    reused = answer.prompt_tokens - answer.prefilled_tokens
    lines = [
        status_line(answer, session.used, session.model.context, status),
        f"prompt          {answer.prompt_tokens:,} tokens, {reused:,} of them found in the KV cache",
        f"prefill         {answer.prefilled_tokens:,} tokens in {timings['prefill_s']:.2f} s",
        f"decode          {answer.completion_tokens:,} tokens in {timings['decode_s']:.2f} s",
        f"ended by        {answer.finish_reason}; seed {answer.seed}",
        *(f"{name.replace('_', ' '):15} {_plainly(value)}" for name, value in status.items() if value),
    ]
    repl.notices.write("\n".join(lines))


def _plainly(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def attach(repl: Repl, argument: str) -> None:
    if not argument:
        raise UsageError("A file name is missing: /file PATH")
    if argument == "none":
        repl.attachments = []
        repl.notices("Nothing is attached.")
        return
    attachment, model = read_attachment(argument.strip("'\"")), repl.session.model
    tokens = len(model.tokenizer.encode(attachment.fenced(), bos=False))
    if tokens >= model.context:
        raise UsageError(
            f"{attachment.name} takes {tokens:,} tokens and the context holds {model.context:,}; "
            "start with a larger --context, or take a part of it"
        )
    repl.attachments.append(attachment)
    repl.notices(f"{attachment.name} goes with your next prompt ({tokens:,} tokens).")


def clear(_repl: Repl, _argument: str) -> None:
    if is_terminal(sys.stdout):
        sys.stdout.write("\x1b[H\x1b[2J")
        sys.stdout.flush()


def thoughts(repl: Repl, _argument: str) -> None:
    turn = repl.session.conversation.last("assistant")
    if turn is None or not turn.thoughts.strip():
        raise UsageError("The last answer came without thoughts.")
    repl.notices.write(safe(turn.thoughts.strip()), DIM)


def copy(repl: Repl, argument: str) -> None:
    turn = repl.session.conversation.last("assistant")
    if turn is None:
        raise UsageError("There is no answer to copy yet.")
    blocks = code_blocks(turn.content)
    text = turn.content if argument == "all" or not blocks else blocks[-1]
    to_clipboard(text)
    what = "Answer" if text is turn.content else "Code block"
    repl.notices(f"{what} copied ({len(text):,} characters).")


def code_blocks(text: str) -> list[str]:
    """The contents of the fenced code blocks in `text`; the last may be unfinished."""
    blocks, fence, lines = [], "", list[str]()
    for line in text.split("\n"):
        opening = re.match(r"^\s*(`{3,}|~{3,})[^`]*$", line)
        if not fence and opening:
            fence, lines = opening[1], []
        elif fence and line.strip().startswith(fence) and not line.strip().strip(fence[0]):
            blocks.append("\n".join(lines))
            fence = ""
        elif fence:
            lines.append(line)
    return [*blocks, "\n".join(lines)] if fence else blocks


def to_clipboard(text: str) -> None:
    """By the first of the desktop's tools that takes it, else by the terminal (OSC 52), also over ssh."""
    tools = [command.split() for command, variable in _CLIPBOARDS if os.environ.get(variable)]
    if any(_takes(tool, text) for tool in tools):
        return
    if not is_terminal(sys.stderr):
        raise UsageError("There is no clipboard here.")
    sys.stderr.write(f"\x1b]52;c;{base64.b64encode(text.encode()).decode()}\x07")
    sys.stderr.flush()


def _takes(tool: list[str], text: str) -> bool:
    if not shutil.which(tool[0]):
        return False
    nowhere = subprocess.DEVNULL  # no pipes: xclip goes on in the background and would keep them open
    try:
        run = subprocess.run(
            tool, input=text.encode(), stdout=nowhere, stderr=nowhere, check=False, timeout=_CLIPBOARD_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return run.returncode == 0
