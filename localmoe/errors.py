"""The errors a user can cause or meet. Their message is one line: what is wrong, where, and what to do."""

from __future__ import annotations


class LocalMoeError(Exception):
    """Something failed while running; the command line ends with `exit_code` and this one line."""

    exit_code = 1


class UsageError(LocalMoeError):
    """The command, a setting or an input file cannot be used as given."""

    exit_code = 2


class ClosedError(UsageError):
    """A model was used after its end."""

    def __init__(self) -> None:
        super().__init__("the model is closed: take all of an answer before its end, inside `with`")
