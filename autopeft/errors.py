"""The one error type that a user is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from autopeft.secrets import hidden


class AutopeftError(Exception):
    """Something that the user can mend: the message names the place and the remedy, in one line.

    The command line prints it without a traceback and exits with status 2. Secrets are taken out of the message.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(hidden(str(message)))


def suggest(word: str, known: Iterable[str]) -> str:
    """A closing phrase for "unknown X": the nearest known name if one is near, and what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}known: {', '.join(names)}"
