"""A hybrid as a table: layers by methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from autopeft.markup import Html, table
from autopeft.methods import Method

#: What stands before the layers.
_BEFORE = "input"


@dataclass(frozen=True)
class Grid:
    """`columns` are methods; each of `rows` is a layer (`3`), equal ones in a row (`4-7`), or `input`, with its cells.

    A cell says size and sites, `on` where neither is a choice, and is empty where the method is absent.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def of(cls, layers: Sequence[Sequence[Method]], model: Sequence[Method] = ()) -> Grid:
        """Of the methods of each layer, lowest first, and of those before the layers."""
        columns = tuple(dict.fromkeys(m.label for methods in (model, *layers) for m in methods))
        cells = [tuple(_cell(name, methods) for name in columns) for methods in layers]
        rows = [(_BEFORE, tuple(_cell(name, model) for name in columns))] if model else []
        for own, run in groupby(range(len(cells)), key=lambda i: cells[i]):
            numbers = list(run)
            rows.append((str(numbers[0]) + (f"-{numbers[-1]}" if numbers[1:] else ""), own))
        return cls(columns, tuple(rows))

    @property
    def headers(self) -> tuple[str, ...]:
        """Of all columns."""
        return ("layer", *self.columns)

    @property
    def lines(self) -> list[list[str]]:
        """The cells of all columns."""
        return [[name, *cells] for name, cells in self.rows]

    def to_html(self) -> Html:
        """The same as a table."""
        return table(self.headers, self.lines, range(len(self.headers)))


def _cell(name: str, methods: Sequence[Method]) -> str:
    found = [m.brief.removeprefix(m.label).strip() or "on" for m in methods if m.label == name]
    return " + ".join(found)
