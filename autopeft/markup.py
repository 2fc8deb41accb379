"""HTML, SVG and Markdown in which every text is escaped: it is one of data, unless a function here has made it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from html import escape

from autopeft.errors import printable

#: Elements without an end.
_VOID = {"meta", "link", "br", "hr", "img"}
#: What Markdown takes for its own, in text and in a table's cells; of underscores those at the ends of words.
_MARKS = re.compile(r"([\\`*\[\]>|~$])|(?<![A-Za-z0-9])(_)|(_)(?![A-Za-z0-9])")
#: These begin a list or a heading where they begin a line; a number does with the mark after it.
_BEGINS = re.compile(r"[-+#]|(\d+)[.)](?=\s|$)")


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
    """A table; the columns with these numbers hold texts, the others figures.

    Which is which is said in the cells, too: a notebook has no style for them.
    """
    text_of, words = {"class_": "t", "style": "text-align:left"}, set(left)

    def line(kind: str, cells: Sequence[object]) -> Html:
        return tag("tr", *(tag(kind, cell, **(text_of if i in words else {})) for i, cell in enumerate(cells)))

    body = tag("tbody", *(line("td", row) for row in rows))
    return tag("table", tag("thead", line("th", headers)), body)


class Markdown(str):
    """Markdown. Every other text is escaped where it is put into some."""

    __slots__ = ()


def markdown(value: object, begins: bool = False) -> Markdown:
    """A text on one line in which nothing means anything to Markdown, nor to a site that shows it (a mention).

    It is right within a line and in a table's cell; `begins`: at the beginning of a line, too.
    """
    if isinstance(value, Markdown):
        return value
    said = printable(" ".join(str(value).split())).replace("&", "&amp;").replace("<", "&lt;")
    said = _MARKS.sub(lambda found: f"\\{found[0]}", said).replace("@", "&#64;")
    first = _BEGINS.match(said) if begins else None
    at = len(first[1] or "") if first else 0
    return Markdown(f"{said[:at]}\\{said[at:]}" if first else said)


def markdown_table(
    headers: Sequence[object], rows: Iterable[Sequence[object]], left: Collection[int] | None = None
) -> Markdown:
    """A table, a line each; where `left` is given, the columns with these numbers hold texts, the others figures."""
    rule = ["---" if left is None else ":--" if i in left else "--:" for i in range(len(headers))]
    lines: list[Sequence[str]] = [[markdown(cell) for cell in headers], rule]
    lines += [[markdown(cell) for cell in row] for row in rows]
    return Markdown("".join(f"| {' | '.join(line)} |\n" for line in lines))


def _plain(value: object) -> str:
    """A number of a drawing has a decimal at most."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
