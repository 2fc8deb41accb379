"""Names from anybody's files, as a terminal may show them."""

from __future__ import annotations

from rich.markup import escape

from autopeft.errors import printable


def safe(text: object) -> str:
    """The text on one line, for rich's tables and lines: it holds no markup, and nothing that a terminal obeys."""
    return escape(printable(" ".join(str(text).split())))
