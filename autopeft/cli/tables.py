"""What verbs print: as wide as the terminal, or as most of them in a file or a pipe; no sentence is broken there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from autopeft.cli.shown import safe
from autopeft.errors import printable
from autopeft.searching.tables import Column

#: Columns of a file or a pipe, as most terminals have at the least, and between two columns of a table.
_FILE, _BETWEEN = 80, 2


def console() -> Console:
    """Standard output; COLUMNS says how wide a file or a pipe is, if it is set."""
    out = Console(highlight=False)
    return out if out.is_terminal or "COLUMNS" in os.environ else Console(highlight=False, width=_FILE)


def sentence(out: Console, text: str, style: str | None = None, mark: str = "") -> None:
    """A sentence: between words it breaks where a terminal ends, and elsewhere it is one line. `mark` is rich's."""
    out.print(f"{mark}{safe(text)}", style=style, soft_wrap=not out.is_terminal)


def show_facts(out: Console, rows: Iterable[tuple[str, str]]) -> None:
    """Names, and beside them what is said of each, in rich's markup; what has no room goes on below itself."""
    rows = list(rows)
    if out.is_terminal:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, said in rows:
            # What goes on below stays as far in as it began.
            table.add_row(name, Padding(said.lstrip(" "), (0, 0, 0, len(said) - len(said.lstrip(" ")))))
        out.print(table)
        return
    width = max((cell_len(Text.from_markup(name).plain) for name, _ in rows), default=0)
    for name, said in rows:
        first, *others = said.split("\n")
        room = " " * (width - cell_len(Text.from_markup(name).plain) + _BETWEEN)
        for line in (f"{name}{room}{first}", *(" " * (width + _BETWEEN) + other for other in others)):
            out.print(line.rstrip(), soft_wrap=True)


def show(out: Console, title: str, columns: Sequence[Column]) -> None:
    """Print the columns that fit, and name the others below: the least important go first, and no cell is folded."""
    kept = fitted(columns, out.width)
    _print(out, title, kept)
    if left_out := [column.header for column in columns if column not in kept]:
        sentence(out, f"not shown: {', '.join(left_out)} (COLUMNS={_needed(columns)} or --json shows all)", "dim")


def show_all(out: Console, title: str, columns: Sequence[Column]) -> None:
    """Print all columns: those that do not fit stand in further tables below, each with the first column."""
    first, *left = columns
    while True:
        kept = [first]
        while left and (len(kept) == 1 or _needed([*kept, left[0]]) <= out.width):
            kept.append(left.pop(0))
        _print(out, title, kept)
        if not left:
            return
        title = ""
        out.print()


def fitted(columns: Sequence[Column], width: int) -> list[Column]:
    """Those that fit side by side, without those of the highest ranks; what has rank 0 stays."""
    kept = list(columns)
    while _needed(kept) > width:
        last = max(kept, key=lambda column: column.rank, default=None)
        if last is None or not last.rank:
            break
        kept.remove(last)
    return kept


def _print(out: Console, title: str, columns: Sequence[Column]) -> None:
    room = out.width - _needed(columns)
    table = Table(header_style="bold", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        # What may be cut has what the others leave, the first of them first.
        more = max(0, min(room, _width(column) - _least(column)))
        table.add_column(
            safe(column.header),
            justify="left" if column.left else "right",
            no_wrap=True,
            overflow="ellipsis",
            max_width=_least(column) + more if column.least else None,
        )
        room -= more
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(safe, row))
    if title:
        sentence(out, title, "italic")
    out.print(table)


def _needed(columns: Sequence[Column]) -> int:
    """Columns of the terminal that a table has at the least."""
    return sum(_least(column) for column in columns) + _BETWEEN * (len(columns) - 1)


def _least(column: Column) -> int:
    """What a column has at the least; one that may be cut is not wider than what it holds."""
    return min(column.least or _width(column), _width(column))


def _width(column: Column) -> int:
    return max(cell_len(printable(" ".join(text.split()))) for text in (column.header, *column.cells))
