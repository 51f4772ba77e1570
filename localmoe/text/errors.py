"""What can go wrong between text and tokens."""

from __future__ import annotations

from localmoe.errors import UsageError


class TokenizerError(UsageError):
    """A model file's vocabulary cannot be used; the message says what is wrong with which metadata key."""


class PromptError(UsageError):
    """A conversation cannot be put in the model's prompt format, or the format's template is unusable."""
