"""One answer and done: for -p, pipes, --json and --jsonl. stdout carries the answer and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from localmoe.chat.conversation import Conversation
from localmoe.chat.output import DIM, Notices, status_line, to_json
from localmoe.chat.present import interruptible, write_answer
from localmoe.chat.recorder import Recorder
from localmoe.chat.session import Session
from localmoe.errors import LocalMoeError, UsageError

INTERRUPTED = 130


@dataclass(frozen=True)
class Presentation:
    """How an answer is shown."""

    as_json: bool = False
    quiet: bool = False
    stats: bool = False


def answer_once(
    session: Session, prompt: str, typed: str, show: Presentation, notices: Notices
) -> int:
    """Ask `prompt`, write the answer, return the exit code."""
    with (
        interruptible() as cancelled,
        closing(session.ask(prompt, typed=typed, cancelled=cancelled)) as pieces,
    ):
        if show.as_json:
            text = "".join(pieces)
            print(to_json(answer_object(session, text)), flush=True)
        else:
            write_answer(session, pieces, notices)
        stopped = cancelled()
    if session.answer is not None and (show.stats and not show.quiet):
        answer = session.answer
        line = status_line(answer, session.used, session.model.context, session.model.status())
        Notices.write(line, DIM)
    return INTERRUPTED if stopped else 0


def answer_object(session: Session, text: str) -> dict[str, Any]:
    """What `--json` prints."""
    answer = session.answer
    if answer is None:  # interrupted while the prompt was read
        return {"text": text, "finish_reason": "cancelled", "model": session.model.name}
    data: dict[str, Any] = {
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "prefilled_tokens": answer.prefilled_tokens,
        "completion_tokens": answer.completion_tokens,
        "timings": dict(answer.timings),
        "seed": answer.seed,
        "model": session.model.name,
    }
    if session.conversation.id is not None:
        data["conversation"] = session.conversation.id
    if answer.logprobs:
        data["logprobs"] = [
            {
                **_token(session, one.token, one.logprob),
                "top": [_token(session, token, logprob) for token, logprob in one.top],
            }
            for one in answer.logprobs
        ]
    return data


def _token(session: Session, token: int, logprob: float) -> dict[str, Any]:
    text = session.model.tokenizer.token_bytes(token).decode("utf-8", "replace")
    return {"token": text, "id": token, "logprob": logprob}


# --jsonl


def answer_lines(session: Session, lines: Iterable[str], system: str) -> int:
    """Answer each line of JSON with a line of JSON, in order; a line that fails gets an object with `error`.

    A line is a prompt (a JSON string), a list of messages, or an object with `prompt` or `messages`, perhaps
    `system`, and `id`, which is repeated in its answer. Returns the exit code: 1 if any line failed.
    """
    failed = False
    with interruptible() as cancelled:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            result: dict[str, Any] = {"line": number}
            try:
                request = _request(line)
                if "id" in request:
                    result["id"] = request["id"]
                conversation, prompt = _conversation(request, system)
                fresh = Session(
                    session.model, session.settings, conversation, Recorder(None, print), Notices(quiet=True)
                )
                fresh.decoder, fresh.logprobs = session.decoder, session.logprobs
                text = "".join(fresh.ask(prompt, cancelled=cancelled))
                result |= answer_object(fresh, text)
            except LocalMoeError as error:
                failed = True
                result["error"] = str(error)
            print(to_json(result), flush=True)
            if cancelled():
                return INTERRUPTED
    return 1 if failed else 0


def _request(line: str) -> Mapping[str, Any]:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise UsageError(f"not JSON: {error}") from error
    if isinstance(data, str):
        return {"prompt": data}
    if isinstance(data, list):
        return {"messages": data}
    if isinstance(data, dict) and ("prompt" in data) != ("messages" in data):
        return data
    raise UsageError("expected a text, a list of messages, or an object with either `prompt` or `messages`")


def _conversation(request: Mapping[str, Any], system: str) -> tuple[Conversation, str]:
    """The conversation before the last prompt, and that prompt."""
    system = request.get("system", system)
    messages = request.get("messages", [{"role": "user", "content": request.get("prompt")}])
    if not isinstance(messages, list) or not isinstance(system, str):
        raise UsageError("`messages` must be a list and `system` a text")
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise UsageError(f"message {place + 1}: expected an object with a text `content`")
        role = message.get("role")
        if role not in ("user", "assistant") and not (role == "system" and place == 0):
            raise UsageError(f"message {place + 1}: unknown role {role!r}")
    if messages and messages[0]["role"] == "system":
        system, messages = messages[0]["content"], messages[1:]
    if not messages or messages[-1]["role"] != "user":
        raise UsageError("the last message must be the user's")
    conversation = Conversation(system)
    for message in messages[:-1]:
        conversation.add(message["role"], message["content"])
    return conversation, messages[-1]["content"]
