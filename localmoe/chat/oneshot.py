"""One answer and done: for -p, pipes, --json and --jsonl. stdout carries the answer and nothing else."""

from __future__ import annotations

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
from localmoe.text.strict_json import parse_json

INTERRUPTED = 130
_KEYS = ("prompt", "messages", "system", "id")  # of a line of --jsonl


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
        "text": text,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "prefilled_tokens": answer.prefilled_tokens,
        "completion_tokens": answer.completion_tokens,
        "timings": dict(answer.timings),
        "seed": answer.seed,
        "model": session.model.name,
    }
    if session.thoughts.strip():
        data["thoughts"] = session.thoughts.strip()
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


def answer_lines(session: Session, lines: Iterable[bytes], system: str) -> int:
    """Answer each line of JSON with a line of JSON, in order; a line that fails gets an object with `error`.

    A line, in UTF-8, is a prompt (a JSON string), a list of messages, or an object with `prompt` or
    `messages`, perhaps `system`, and `id` (a text or a number), which is repeated in its answer. Returns the
    exit code: 1 if any line failed. Raises KeyboardInterrupt for Ctrl-C while a line is waited for.
    """
    failed = False
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        result: dict[str, Any] = {"line": number}
        with interruptible() as cancelled:
            try:
                request = _request(line)
                if "id" in request:
                    result["id"] = request["id"]
                conversation, prompt = _conversation(request, system)
                fresh = Session(
                    session.model, session.settings, conversation, Recorder(None, print), Notices(quiet=True),
                    decoder=session.decoder,
                )  # fmt: skip
                fresh.logprobs, fresh.form = session.logprobs, session.form
                text = "".join(fresh.ask(prompt, cancelled=cancelled))
                result |= answer_object(fresh, text)
            except LocalMoeError as error:
                failed = True
                result["error"] = str(error)
            print(to_json(result), flush=True)
            if cancelled():
                return INTERRUPTED
    return 1 if failed else 0


def _request(line: bytes) -> Mapping[str, Any]:
    try:
        data = parse_json(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"not UTF-8: byte {error.start + 1} of the line") from error
    except ValueError as error:
        raise UsageError(f"not JSON: {error}") from error
    if isinstance(data, str):
        return {"prompt": data}
    if isinstance(data, list):
        return {"messages": data}
    if not isinstance(data, dict) or ("prompt" in data) == ("messages" in data):
        raise UsageError(
            "expected a text, a list of messages, or an object with either `prompt` or `messages`"
        )
    unknown = next((key for key in data if key not in _KEYS), None)
    if unknown is not None:
        raise UsageError(
            f"unknown key {unknown!r}; a line holds {', '.join(_KEYS)}; settings are options of the command"
        )
    if not isinstance(data.get("id"), str | int | float | None):
        raise UsageError("`id` must be a text or a number")
    return data


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
