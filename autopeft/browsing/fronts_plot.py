"""Several fronts in one picture: interactive, and still."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopeft.searching.plots import HOVER, costs_of, hover, label, scores_of, spans_decades, still

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from autopeft.browsing.fronts import Fronts

# Of Okabe and Ito: told apart by everybody.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: Marks beside colours, for print.
_MARKS = (("circle", "o"), ("square", "s"), ("diamond", "D"), ("triangle-up", "^"), ("x", "X"), ("star", "*"))


_TITLE = "Pareto fronts (hypervolume in one corner)"


def figure(fronts: Fronts) -> Figure:
    """Score over the first cost (over the candidate's number where there is none), a staircase a search."""
    from plotly import graph_objects as go

    found, first = go.Figure(), fronts.members[0].front
    for i, (one, row) in enumerate(zip(fronts.members, fronts.rows, strict=True)):
        mark = _MARKS[i % len(_MARKS)][0]
        found.add_scatter(
            name=_name(row),
            x=costs_of(one.front, one.front.points),
            y=scores_of(one.front, one.front.points),
            text=[hover(e, one.front) for e in one.front.points],
            hovertemplate=HOVER,
            mode="lines+markers",
            marker={
                "size": 9,
                # What is not confirmed is empty.
                "symbol": [f"{mark}-open" if e in one.front.unconfirmed else mark for e in one.front.points],
                "color": _COLOURS[i % len(_COLOURS)],
            },
            line={"shape": "hv" if first.cost else "linear", "color": _COLOURS[i % len(_COLOURS)]},
        )
    label(found, _TITLE, first, spans_decades(_costs(fronts)))
    return found


def save(fronts: Fronts, path: Path) -> None:
    """The same as a PNG file."""
    with still(path, _TITLE, fronts.members[0].front, spans_decades(_costs(fronts))) as axes:
        for i, (one, row) in enumerate(zip(fronts.members, fronts.rows, strict=True)):
            x, y = costs_of(one.front, one.front.points), scores_of(one.front, one.front.points)
            mark, colour = _MARKS[i % len(_MARKS)][1], _COLOURS[i % len(_COLOURS)]
            axes.step(x, y, where="post", marker=mark, color=colour, label=_name(row))
            left = one.front.unconfirmed
            at, height = costs_of(one.front, left), scores_of(one.front, left)
            axes.plot(at, height, mark, markerfacecolor="white", color=colour)


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['run']} ({row['hypervolume']:.4f})"


def _costs(fronts: Fronts) -> list[float]:
    return [x for one in fronts.members if one.front.cost for x in costs_of(one.front, one.front.points)]
