"""Which turns the model gets to see when the conversation is longer than its context.

The prompt is always the canonical encoding of: system prompt, perhaps a summary, and the turns from some
turn on. When that no longer fits, the oldest exchanges are left out until a quarter of the room is free,
not one by one: each time the prompt's beginning changes, all of it is computed anew. What is left out is
announced, and kept on disk.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from localmoe.chat.conversation import Turn
from localmoe.errors import UsageError

Messages = list[dict[str, str]]
Encode = Callable[[Messages], list[int]]

_ROOM_AFTER_DROP = 0.75  # share of the limit that may be filled after turns were left out
_SUMMARY_TITLE = "What was said before, in short:"


@dataclass(frozen=True)
class Window:
    """The prompt's token ids, and how many of the oldest turns are not in it, before and now."""

    ids: list[int]
    left_out: int
    newly_left_out: Sequence[Turn]
    summary: str


def announcements(window: Window) -> list[str]:
    """What a user should hear of what the model no longer sees."""
    if not window.newly_left_out:
        return []
    left = [turn for turn in window.newly_left_out if turn.role == "user"]
    first, last = (_short(left[0].content), _short(left[-1].content)) if left else ("", "")
    span = f'"{first}"' if len(left) < 2 else f'"{first}" to "{last}"'
    lines = [
        f"The context is full: the model no longer sees the oldest {len(left)} "
        f"exchange{'' if len(left) == 1 else 's'} ({span}). The history keeps them."
    ]
    return [*lines, f"It sees this summary instead: {window.summary}"] if window.summary else lines


def _short(text: str, limit: int = 40) -> str:
    line = re.sub(r"\s+", " ", text).strip()
    return line if len(line) <= limit else line[: limit - 1] + "…"


class ContextFullError(UsageError):
    """The conversation does not fit the context and may not be shortened, or cannot be."""


def messages(system: str, turns: Sequence[Turn], summary: str = "") -> Messages:
    """The message list of `turns`; a summary of earlier ones goes with the system prompt."""
    head = "\n\n".join(part for part in (system, f"{_SUMMARY_TITLE}\n{summary}" if summary else "") if part)
    first = [{"role": "system", "content": head}] if head else []
    said = [_message(turn) for turn in turns]
    if said and turns[-1].thoughts:  # it goes on, so what it thought before is part of it
        said[-1] |= {"content": turns[-1].whole, "thoughts": turns[-1].thoughts}
    return first + said


def _message(turn: Turn) -> dict[str, str]:
    """What was said; an answer that a model gave here is known to hold no thoughts."""
    told_apart = {"thoughts": ""} if "identity" in turn.details or turn.thoughts else {}
    return {"role": turn.role, "content": turn.content, **told_apart}


def decided(turns: Sequence[Turn], context: int) -> tuple[int, str]:
    """How many of the oldest turns an earlier answer on this path left out, and the summary it used.

    Only what was decided for a context of the same length counts, and only if it can be meant: an imported
    conversation may hold anything there.
    """
    known = next((turn.details["window"] for turn in reversed(turns) if "window" in turn.details), None)
    if not isinstance(known, dict) or known.get("context") != context:
        return 0, ""
    left_out, summary = known.get("left_out", 0), known.get("summary", "")
    if not isinstance(left_out, int) or not 0 <= left_out < len(turns) or not isinstance(summary, str):
        return 0, ""
    return left_out, summary


def reserve(context: int, max_tokens: int | None) -> int:
    """Positions kept free for the answer: what was asked for, but at most a quarter of the context."""
    return min(max_tokens or 512, context // 4)


def fit(
    encode: Encode,
    system: str,
    turns: Sequence[Turn],
    *,
    limit: int,
    policy: str,
    left_out: int = 0,
    summary: str = "",
    summarize: Callable[[Sequence[Turn], str], str] | None = None,
) -> Window:
    """The prompt for `turns` in at most `limit` tokens.

    `left_out` and `summary` are what an earlier call decided for this path. `summarize(turns, summary)`
    tells the given turns in short; it is called for policy "summarize". Raises `ContextFullError`.
    """

    def ids_from(start: int) -> list[int]:
        return encode(messages(system, turns[start:], summary))

    ids = ids_from(left_out)
    if len(ids) <= limit:
        return Window(ids, left_out, (), summary)
    if policy == "stop":
        raise ContextFullError(
            f"the conversation takes {len(ids):,} tokens and {limit:,} are free for it; "
            "/new starts another one, /set overflow drop leaves out the oldest turns"
        )
    starts = [place for place in range(left_out + 1, len(turns)) if turns[place].role == "user"]
    wanted = int(limit * _ROOM_AFTER_DROP)
    place = bisect_left(starts, True, key=lambda start: len(ids_from(start)) <= wanted)
    if not starts or len(ids_from(starts[min(place, len(starts) - 1)])) > limit:
        alone = len(ids_from(starts[-1] if starts else left_out))
        asked = turns[-1].role == "user"
        what, shorten = ("message", "shorten it, or ") if asked else ("last exchange", "")
        raise ContextFullError(
            f"the {what} alone takes {alone:,} tokens with its system prompt, but only {limit:,} fit; "
            f"{shorten}start with a larger --context"
        )
    start = starts[min(place, len(starts) - 1)]
    newly = turns[left_out:start]
    if policy == "summarize" and summarize is not None:
        summary = summarize(newly, summary)
        while len(ids_from(start)) > limit:  # a summary longer than the room it saved
            summary = summary[: len(summary) // 2]
    return Window(ids_from(start), start, newly, summary)
