"""What can go wrong while text is generated."""

from __future__ import annotations

from localmoe.errors import LocalMoeError, UsageError


class GenerationError(LocalMoeError):
    """The model's output cannot be used."""


class SettingError(UsageError, ValueError):
    """A sampling setting is outside its range."""


class ContextError(UsageError):
    """The prompt is empty or longer than the context."""
