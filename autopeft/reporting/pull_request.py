"""A document as Markdown, as it is shown in pull requests. Pictures are left out, tables stand in their place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from autopeft.errors import printable
from autopeft.reporting.document import Block, Code, Document, Figure, Items, More, Table, Text
from autopeft.secrets import hidden

#: What Markdown, or a site that shows it, would take for its own: mentions of people and of issues, too.
_MARKS = re.compile(r"([\\`*\[\]<>|~$])|(?<![A-Za-z0-9])(_)|(_)(?![A-Za-z0-9])")
#: These begin a list, a heading or a quotation where they begin a line.
_BEGINS = re.compile(r"^(\s*)([-+#>]|\d+(?=[.)]))")


def to_markdown(document: Document) -> str:
    """The whole text; secrets are taken out."""
    parts = [f"# {_plain(document.title)}", *map(_line, document.lead)]
    for section in document.sections:
        parts += [f"## {_plain(section.title)}", *_blocks(section.blocks)]
    return hidden("\n\n".join(parts) + "\n")


def _blocks(blocks: Sequence[Block]) -> Iterator[str]:
    for block in blocks:
        match block:
            case Text():
                yield _line(block.text)
            case Items():
                yield "\n".join(f"- {_line(each)}" for each in block.lines)
            case Table():
                yield _table(block)
            case Code():
                fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", block.text)), 3)
                yield f"{fence}{block.language}\n{block.text}\n{fence}"
            case Figure():
                if block.instead is not None:
                    yield f"{_line(block.caption)}\n\n{_table(block.instead)}"
            case More():
                inside = "\n\n".join(_blocks(block.blocks))
                yield f"<details><summary>{_plain(block.title)}</summary>\n\n{inside}\n\n</details>"


def _table(block: Table) -> str:
    rule = [":--" if i in block.left else "--:" for i in range(len(block.headers))]
    rows = [[_plain(cell) for cell in row] for row in (block.headers, *block.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))


def _line(text: str) -> str:
    """A text that begins a line."""
    return _BEGINS.sub(r"\1\\\2", _plain(text)) if not text[:1].isdigit() else _plain(text)


def _plain(text: str) -> str:
    """A text on one line, in which nothing means anything to Markdown."""
    said = printable(" ".join(str(text).split())).replace("&", "&amp;")
    return _MARKS.sub(lambda found: f"\\{found[0]}", said).replace("@", "&#64;").replace("\\<", "&lt;")
