"""What can go wrong with weights and model files: each message is one line that a user can act on."""

from __future__ import annotations


class QuantError(Exception):
    """The request cannot be carried out: an unknown format, a shape no block fits, a weight not finite."""


class VariableError(QuantError):
    """An environment variable holds what cannot be used."""


class ModelFileError(QuantError):
    """A model file, or a directory of them, cannot be used; the message names it and says what to do."""
