"""Names from anybody's files, and sentences, as a terminal may show them."""

from __future__ import annotations

import os
import textwrap
from contextlib import suppress
from typing import TextIO

from rich.markup import escape

from autopeft.errors import printable


def safe(text: object) -> str:
    """The text on one line, for rich's tables and lines: it holds no markup, and nothing that a terminal obeys."""
    return escape(printable(" ".join(str(text).split())))


def wrapped(text: str, stream: TextIO) -> str:
    """A line of text for this stream: between words it breaks where a terminal ends, and elsewhere it stays one."""
    width = 0
    # A stream may be closed, or none of the system's.
    with suppress(OSError, ValueError, AttributeError):
        width = os.get_terminal_size(stream.fileno()).columns if stream.isatty() else 0
    if not width:
        return text
    # Paths and names stay whole, so that they can be copied.
    return textwrap.fill(text, max(width, 20), break_long_words=False, break_on_hyphens=False)
