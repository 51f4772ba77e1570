"""From the command line's options to a session, and then one answer or a conversation."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localmoe import catalogue
from localmoe.chat.asked import grammar_of, without_effect
from localmoe.chat.attachments import Attachment, decoded, read_attachment, with_attachments
from localmoe.chat.conversation import Conversation
from localmoe.chat.kv_store import KVStore
from localmoe.chat.output import Notices, Spinner, is_terminal
from localmoe.chat.paced import ChatModel
from localmoe.chat.recorder import Recorder
from localmoe.errors import UsageError
from localmoe.history.database import HistoryError
from localmoe.history.store import Summary
from localmoe.settings import FIELDS, RIVALS, Resolved, Settings, data_directory, resolve

if TYPE_CHECKING:
    from localmoe.chat.session import Session


def history_path() -> Path:
    """The history's file."""
    return data_directory() / "history" / "history.db"


def states_directory() -> Path:
    """Where KV states of conversations are kept: beside the history, as private as that."""
    return history_path().parent / "kv"


def start(model: str | None, options: Mapping[str, Any]) -> int:
    """Run `localmoe chat`; returns the exit code."""
    notices = Notices(options["quiet"])
    if options["no_history"] and (options["go_on"] or options["resume"]):
        raise UsageError("-c and --resume read the history, and --no-history forbids that; leave one out")
    if options["jsonl"] and (options["prompt"] is not None or options["files"] or options["go_on"]):
        raise UsageError("--jsonl takes its prompts from stdin, without -p, -f or -c")
    if options["prompt"] is not None and not options["prompt"].strip():
        raise UsageError("-p needs a text")
    for name in RIVALS:
        if options[name] is not None and not options[name].strip():
            raise UsageError(f"--{name.replace('_', '-')} is empty; leave it out for an answer in any form")
    attachments = [read_attachment(path) for path in options["files"]]
    prompt = None if options["jsonl"] or options["plan"] else _prompt(options["prompt"])
    elsewhere = options["jsonl"] or options["plan"] or options["dry_run"]
    if options["as_json"] and prompt is None and not elsewhere:
        raise UsageError("--json answers one prompt: give -p TEXT, or text on stdin")
    only_shown = (options["dry_run"] or options["plan"]) and not _resumes(options)
    unsaved = options["no_history"] or options["jsonl"] or only_shown
    recorder = Recorder(None, notices) if unsaved else Recorder.open(history_path(), notices)
    try:
        return _run(model, options, notices, recorder, prompt, attachments)
    finally:
        recorder.close()


def _resumes(options: Mapping[str, Any]) -> bool:
    return bool(options["go_on"] or options["resume"])


def _prompt(given: str | None) -> str | None:
    """The prompt to answer: stdin's text, if it is a pipe or file, before `given`; None: converse."""
    if sys.stdin.isatty():
        return given
    text = decoded(sys.stdin.buffer.read(), "the text on stdin").strip("\n")
    parts = [part for part in (text, given) if part]
    if not parts:
        raise UsageError("nothing to answer: stdin is empty and there is no -p TEXT")
    return "\n\n".join(parts)


def _run(
    model: str | None,
    options: Mapping[str, Any],
    notices: Notices,
    recorder: Recorder,
    prompt: str | None,
    attachments: list[Attachment],
) -> int:
    summary = _resumed(options, recorder) if _resumes(options) else None
    found, resolved = _settings(model, options, summary)
    for warning in resolved.warnings:
        notices(warning)
    settings = resolved.settings
    form = grammar_of(settings)  # before the model is loaded, which takes longer
    conversation = _conversation(summary, recorder, settings, options["system"])
    if options["dry_run"]:
        from localmoe.chat.dry_run import show_prompt

        text = with_attachments(prompt or "", attachments)
        return show_prompt(found.path, settings, conversation, text, options["as_json"])
    if options["plan"]:
        from localmoe.chat.plan import show_plan

        return show_plan(found.path, settings, options["as_json"], notices)

    from localmoe.chat.session import Session

    states = KVStore(states_directory(), settings.kv_disk)
    session = Session(  # the model has no name here: /model must be able to let go of it
        load_model(found, settings, notices, learn=not options["no_history"]),
        settings, conversation, recorder, notices, reference(found), states,
    )  # fmt: skip
    session.logprobs, session.form = options["logprobs"], form
    try:
        for line in without_effect(session.model, settings):
            notices(line)
        return _talk(session, options, notices, prompt, attachments)
    finally:
        session.close()


def _talk(
    session: Session,
    options: Mapping[str, Any],
    notices: Notices,
    prompt: str | None,
    attachments: list[Attachment],
) -> int:
    """The answers that are wanted: a batch, one, or a conversation."""
    if options["jsonl"]:
        from localmoe.chat.oneshot import answer_lines

        return answer_lines(session, sys.stdin.buffer, session.settings.system)
    if prompt is None:
        if options["stats"]:
            session.set(status=True)
        from localmoe.chat.present import orderly_end
        from localmoe.chat.repl import Repl

        with orderly_end():
            return Repl(session, notices, attachments).run()
    from localmoe.chat.oneshot import Presentation, answer_once

    show = Presentation(options["as_json"], options["quiet"], options["stats"])
    return answer_once(session, with_attachments(prompt, attachments), prompt, show, notices)


def _resumed(options: Mapping[str, Any], recorder: Recorder) -> Summary | None:
    if recorder.history is None:
        raise HistoryError("there is no conversation to continue without a history")
    if options["resume"]:
        return recorder.history.find(options["resume"])
    latest = recorder.history.latest()
    if latest is None:
        raise UsageError("there is no conversation to continue yet")
    return latest


def _settings(
    model: str | None, options: Mapping[str, Any], summary: Summary | None
) -> tuple[catalogue.Found, Resolved]:
    """The model to use and the settings for it: the one named, the resumed conversation's, or the default."""
    flags = {name: options.get(name) for name in FIELDS if name in options}
    wanted = model or (summary.model if summary is not None else "") or resolve(flags).settings.model
    found = catalogue.find(wanted)
    recommended = found.entry.settings if found.entry is not None else {}
    return found, resolve(flags, found.names, recommended)


def _conversation(
    summary: Summary | None, recorder: Recorder, settings: Settings, system: str | None
) -> Conversation:
    if summary is None or recorder.history is None:
        return Conversation(settings.system)
    conversation = Conversation.from_history(summary, recorder.history.messages(summary.id))
    if system is not None and system != conversation.system:
        conversation.system = system
        recorder.stand_on(conversation)
    return conversation


def reference(found: catalogue.Found) -> str:
    """What finds this model again in another directory: its name, or its full path."""
    return found.name if found.name in catalogue.installed() else str(found.path.absolute())


def load_model(
    found: catalogue.Found, settings: Settings, notices: Notices, *, learn: bool = True
) -> ChatModel:
    """The model that was found, placed as `settings` say. `learn`: routing statistics may be kept on disk."""
    import localmoe

    if is_terminal(sys.stderr):
        notices.hold()  # the moving line says it meanwhile
    try:
        with Spinner(f"loading {found.name}", notices.quiet) as spinner:

            def notice(text: str) -> None:
                spinner.text = text
                notices(text)

            return localmoe.load(
                reference(found),
                device=settings.device,
                threads=settings.threads,
                gpu_memory=settings.gpu_memory,
                ram=settings.ram,
                context=settings.context,
                kv_type=settings.kv_type,
                learn=learn,
                notice=notice,
            )
    finally:
        notices.release()
