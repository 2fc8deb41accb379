"""Tables as wide as the terminal: the least important columns go first, and no cell is folded."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from autopeft.cli.shown import safe
from autopeft.errors import printable
from autopeft.searching.tables import Column

#: Columns of a file that a wide table is written to, and between two columns.
_FILE, _BETWEEN = 140, 2


def console(width: int = _FILE) -> Console:
    """Standard output; `width` is that of a file or a pipe, where COLUMNS does not say otherwise."""
    out = Console(highlight=False)
    return out if out.is_terminal or "COLUMNS" in os.environ else Console(highlight=False, width=width)


def show(out: Console, title: str, columns: Sequence[Column]) -> None:
    """Print the columns that fit, and name the others below."""
    kept, width = fitted(columns, out.width), out.width
    fixed = sum(_width(column) + _BETWEEN for column in kept if not column.least)
    table = Table(
        title=safe(title),
        title_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in kept:
        table.add_column(
            safe(column.header),
            justify="left" if column.left else "right",
            no_wrap=True,
            overflow="ellipsis",
            max_width=max(column.least, width - fixed) if column.least else None,
        )
    for row in zip(*(column.cells for column in kept), strict=True):
        table.add_row(*map(safe, row))
    out.print(table)
    if left_out := [column.header for column in columns if column not in kept]:
        out.print(
            f"[dim]not shown: {safe(', '.join(left_out))} (COLUMNS=160 or --json shows all)[/]",
            soft_wrap=not out.is_terminal,
        )


def fitted(columns: Sequence[Column], width: int) -> list[Column]:
    """Those that fit side by side, without those of the highest ranks; what has rank 0 stays."""
    kept = list(columns)
    while sum(column.least or _width(column) for column in kept) + _BETWEEN * (len(kept) - 1) > width:
        last = max(kept, key=lambda column: column.rank, default=None)
        if last is None or not last.rank:
            break
        kept.remove(last)
    return kept


def _width(column: Column) -> int:
    return max(cell_len(printable(" ".join(text.split()))) for text in (column.header, *column.cells))
