"""Text files as part of a prompt: each with its name and a fence that nothing inside it can close."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from localmoe.errors import UsageError
from localmoe.experts.sizes import format_size
from localmoe.paths import expanded

MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Attachment:
    """A named text."""

    name: str
    text: str

    def fenced(self) -> str:
        """As it stands in the prompt."""
        longest = max((len(ticks) for ticks in re.findall(r"`{3,}", self.text)), default=2)
        fence = "`" * (longest + 1)
        end = "" if self.text.endswith("\n") or not self.text else "\n"
        return f"{self.name}:\n{fence}\n{self.text}{end}{fence}"


def read_attachment(path: str | Path) -> Attachment:
    """The text file at `path`. Raises `UsageError` if it is missing, too large or not text, with its size."""
    file = expanded(path)
    try:
        if file.is_dir():
            raise UsageError(f"{path} is a directory; attach the files in it one by one")
        size = file.stat().st_size
        if size > MAX_BYTES:
            limit = format_size(MAX_BYTES)
            raise UsageError(f"{path} is too large to attach: {format_size(size)}, and {limit} is the limit")
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    return Attachment(file.name, decoded(data, str(path)))


def decoded(data: bytes, name: str) -> str:
    """`data` as text. Raises `UsageError` for what is not UTF-8 text."""
    try:
        if b"\0" in data:
            raise UnicodeDecodeError("utf-8", data[:1], 0, 1, "NUL")
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        size = format_size(len(data))
        raise UsageError(f"{name} is not text in UTF-8 ({size}); it cannot be used") from None
    return text.replace("\r\n", "\n")


def with_attachments(text: str, attachments: list[Attachment]) -> str:
    """The prompt: attachments first, then what was typed."""
    return "\n\n".join([*(one.fenced() for one in attachments), *([text] if text else [])])
