"""A document as Markdown, as it is shown in pull requests. Pictures are left out, tables stand in their place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from autopeft.markup import markdown, markdown_table
from autopeft.reporting.document import Block, Code, Document, Figure, Items, More, Table, Text
from autopeft.secrets import hidden


def to_markdown(document: Document) -> str:
    """The whole text; secrets are taken out."""
    parts = [f"# {markdown(document.title)}", *map(_line, document.lead)]
    for section in document.sections:
        parts += [f"## {markdown(section.title)}", *_blocks(section.blocks)]
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
                yield f"<details><summary>{markdown(block.title)}</summary>\n\n{inside}\n\n</details>"


def _table(block: Table) -> str:
    return markdown_table(block.headers, block.rows, block.left).removesuffix("\n")


def _line(text: str) -> str:
    return markdown(text, begins=True)
