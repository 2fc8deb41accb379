"""A document as one HTML file: no script, nothing from elsewhere; light and dark, wide and narrow."""

from __future__ import annotations

from autopeft.markup import Html, table, tag
from autopeft.reporting.document import Block, Code, Document, Figure, Items, More, Section, Table, Text
from autopeft.reporting.style import STYLE
from autopeft.secrets import hidden

#: Nothing is loaded and nothing runs, whatever the file holds.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def to_html(document: Document) -> str:
    """The whole file; secrets are taken out."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", document.title),
        # Our own text, and no element of a page: it holds no markup.
        tag("style", Html(STYLE)),
    )
    lead = tag("div", *(tag("p", line) for line in document.lead), class_="lead")
    body = tag("body", tag("h1", document.title), lead, *map(_section, document.sections))
    return hidden(f"<!doctype html>\n{tag('html', head, body, lang='en')}\n")


def _section(section: Section) -> Html:
    return tag("section", tag("h2", section.title), *map(_block, section.blocks))


def _block(block: Block) -> Html:
    match block:
        case Text():
            return tag("p", block.text, class_="note" if block.note else None)
        case Items():
            return tag("ul", *(tag("li", line) for line in block.lines))
        case Table():
            return tag("div", _table(block), class_="wide")
        case Code():
            return tag("pre", tag("code", block.text))
        case Figure():
            return tag("figure", tag("div", block.drawing, class_="wide"), tag("figcaption", block.caption))
        case More():
            # A browser opens what a link leads into.
            inside = tag("div", *map(_block, block.blocks), id=block.name or None)
            return tag("details", tag("summary", block.title), inside)


def _table(block: Table) -> Html:
    """With links to what says more of a row in its first cell."""
    rows: list[list[object]] = [list(row) for row in block.rows]
    for row, link in zip(rows, block.links, strict=False):
        row[0] = tag("a", row[0], href=f"#{link}")
    return table(block.headers, rows, block.left)
