"""Names from anybody's files, as a terminal may show them."""

from __future__ import annotations

from rich.markup import escape


def one_line(text: object) -> str:
    """The text on one line, without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(str(text).split()))


def safe(text: object) -> str:
    """The same for rich's tables and lines: square brackets in it are no markup."""
    return escape(one_line(text))
