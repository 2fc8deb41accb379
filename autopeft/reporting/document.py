"""A report as a value: sections of blocks, which each renderer writes in its own way. All texts are plain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autopeft.markup import Html


@dataclass(frozen=True)
class Text:
    """A paragraph; a `note` is set smaller."""

    text: str
    note: bool = False


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Table:
    """Rows of cells; the columns with numbers in `left` hold texts, the others figures."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: frozenset[int] = frozenset()
    #: For each row, the name of the block that says more.
    links: Sequence[str] = ()


@dataclass(frozen=True)
class Code:
    """Commands, or a file."""

    text: str
    language: str = "sh"


@dataclass(frozen=True)
class Figure:
    """A drawing; `instead` stands for it where there are none."""

    drawing: Html
    caption: str
    instead: Table | None = None


@dataclass(frozen=True)
class More:
    """Blocks that are folded away, under a name of letters and digits."""

    title: str
    blocks: Sequence[Block]
    name: str = ""


Block = Text | Items | Table | Code | Figure | More


@dataclass(frozen=True)
class Section:
    """Blocks under a title; a section without blocks is left out."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A title, what it comes to in a few sentences, and the sections."""

    title: str
    lead: Sequence[str]
    sections: Sequence[Section]
