"""The one error type that a user is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from autopeft.secrets import hidden

#: Bounds of what a message repeats from a file: names are foreign, and may be texts by the million.
_NAME, _LISTED, _COMPARED = 60, 30, 2000


class AutopeftError(Exception):
    """Something that the user can mend: the message names the place and the remedy, in one line.

    The command line prints it without a traceback and exits with status 2. Secrets are taken out of the message.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(printable(hidden(arg)) if isinstance(arg, str) else arg for arg in args))


def printable(text: str) -> str:
    """The text on one line that every terminal can show: line breaks, NULs, lone surrogates and such are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def suggest(word: str, known: Iterable[str]) -> str:
    """A closing phrase for "unknown X": the nearest known name if one is near, and what is known (the first 30)."""
    names = sorted(known)
    short = [name if len(name) <= _NAME else name[: _NAME - 1] + "…" for name in names[:_COMPARED]]
    close = difflib.get_close_matches(word[:_NAME], short, n=1, cutoff=0.6)
    hint = f"did you mean '{close[0]}'? " if close else ""
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return f"{hint}known: {', '.join(short[:_LISTED]) or 'none'}{more}"
