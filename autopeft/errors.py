"""The one error type that a user is meant to read."""

from __future__ import annotations

import difflib
import os
import reprlib
import traceback
from collections.abc import Iterable
from itertools import takewhile
from typing import Any

from autopeft.secrets import hidden

#: Characters of a message, of its end (where the remedy stands) and of a value shown in it.
_LENGTH, _END, _VALUE = 560, 160, 100
#: Bounds of what a message repeats from a file: names are foreign, and may be texts by the million.
_NAME, _LISTED, _COMPARED = 60, 30, 2000
_PACKAGE = os.path.join(os.path.dirname(__file__), "")


class AutopeftError(Exception):
    """Something that the user can mend: the message names the place and the remedy, in one line.

    The command line prints it without a traceback and exits with status 2. Whatever foreign names and values the
    message holds, it is one line of a few hundred characters, and secrets are taken out of it.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(one_line(hidden(arg)) if isinstance(arg, str) else arg for arg in args))

    def _render_traceback_(self) -> list[str]:
        """What IPython and notebooks show in place of a traceback: the user's line, and the message."""
        frames = traceback.extract_tb(self.__traceback__)
        own = list(takewhile(lambda frame: not frame.filename.startswith(_PACKAGE), frames))
        line = [f"line {own[-1].lineno}: {own[-1].line}"] if own and own[-1].line else []
        return [*line, f"\x1b[31m{type(self).__name__}\x1b[0m: {self}"]


def one_line(text: str) -> str:
    """The text as `printable` has it, and cut in its middle where it is long."""
    line = printable(_cut(text))
    return line if len(line) <= _LENGTH else _cut(line)


def _cut(text: str) -> str:
    return text if len(text) <= _LENGTH else f"{text[: _LENGTH - _END - 5]} ... {text[-_END:]}"


def printable(text: str) -> str:
    """The text on one line that every terminal can show: line breaks, NULs, lone surrogates and such are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: Any, size: int = _VALUE) -> str:
    """`repr(value)`, in about `size` characters however large the value is."""
    short = reprlib.Repr()
    short.maxlevel, short.maxlist, short.maxtuple, short.maxdict, short.maxset = 3, 8, 8, 8, 8
    short.maxstring = short.maxother = short.maxlong = size
    try:
        text = short.repr(value)
    except Exception:
        # Python writes no number of more than 4,300 digits, and a foreign repr may raise what it likes.
        return f"a huge {type(value).__name__}"
    return text if len(text) <= 2 * size else f"{text[: 2 * size - 3]}..."


def suggest(word: object, known: Iterable[str]) -> str:
    """A closing phrase for "unknown X": the nearest known name if one is near, and what is known (the first 30)."""
    names = sorted(known)
    short = [name if len(name) <= _NAME else name[: _NAME - 1] + "…" for name in names[:_COMPARED]]
    close = difflib.get_close_matches(word[:_NAME], short, n=1, cutoff=0.6) if isinstance(word, str) else []
    hint = f"did you mean '{close[0]}'? " if close else ""
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return f"{hint}known: {', '.join(short[:_LISTED]) or 'none'}{more}"
