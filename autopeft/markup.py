"""HTML and SVG in which every text is escaped: a text is one of data, unless a function here has made it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from autopeft.errors import printable

#: Elements without an end.
_VOID = {"meta", "link", "br", "hr", "img"}


class Html(str):
    """Markup. Every other text is escaped where it is put into some."""

    __slots__ = ()


def text(value: object) -> Html:
    """A text as markup; what is neither printable nor a line break is written out."""
    lines = str(value).splitlines()
    return value if isinstance(value, Html) else Html(escape("\n".join(map(printable, lines))))


def tag(name: str, *inside: object, **attributes: object) -> Html:
    """An element with what is inside it; None is left out.

    `class_` and other names with an underscore at their end lose it, others become hyphens: `stroke_width`.
    """
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    written = "".join(f' {key}="{escape(printable(_plain(value)))}"' for key, value in given.items())
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{joined(inside)}</{name}>")


def joined(parts: Iterable[object]) -> Html:
    """Markup of several parts, one after another; None is left out."""
    return Html("".join(text(part) for part in parts if part is not None))


def table(headers: Sequence[object], rows: Iterable[Sequence[object]], left: Iterable[int] = ()) -> Html:
    """A table; the columns with these numbers hold texts, the others figures."""
    words = set(left)

    def line(kind: str, cells: Sequence[object]) -> Html:
        return tag("tr", *(tag(kind, cell, class_="t" if i in words else None) for i, cell in enumerate(cells)))

    body = tag("tbody", *(line("td", row) for row in rows))
    return tag("table", tag("thead", line("th", headers)), body)


def _plain(value: object) -> str:
    """A number of a drawing has a decimal at most."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
