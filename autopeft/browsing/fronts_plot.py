"""Several fronts in one picture: interactive, and still."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autopeft.searching.front import ParetoFront

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from autopeft.browsing.fronts import Fronts

# Of Okabe and Ito: told apart by everybody.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: Marks beside colours, for print.
_MARKS = (("circle", "o"), ("square", "s"), ("diamond", "D"), ("triangle-up", "^"), ("x", "X"), ("star", "*"))


def figure(fronts: Fronts) -> Figure:
    """Score over the first cost (over the trial's number where there is none), a staircase a search."""
    from plotly import graph_objects as go

    found, first = go.Figure(), fronts.members[0].front
    for i, (one, row) in enumerate(zip(fronts.members, fronts.rows, strict=True)):
        x, y = _points(one.front)
        found.add_scatter(
            name=f"{one.name} ({row['hypervolume']:.4f})",
            x=x,
            y=y,
            text=[f"{e.key}<br>{'<br>'.join(e.candidate.hybrid.describe().split('; '))}" for e in one.front.points],
            hovertemplate="%{text}<br>%{xaxis.title.text}: %{x:,}<br>%{yaxis.title.text}: %{y:.4f}<extra></extra>",
            mode="lines+markers",
            marker={"size": 9, "symbol": _MARKS[i % len(_MARKS)][0], "color": _COLOURS[i % len(_COLOURS)]},
            line={"shape": "hv" if first.cost else "linear", "color": _COLOURS[i % len(_COLOURS)]},
        )
    found.update_layout(
        title=_TITLE, xaxis_title=_x_name(first), yaxis_title=_words(first.score.metric), template="simple_white"
    )
    if _spans_decades(fronts):
        found.update_xaxes(type="log")
    return found


_TITLE = "Pareto fronts (hypervolume in one corner)"


def save(fronts: Fronts, path: Path) -> None:
    """The same as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Still

    # Not pyplot: it keeps figures in a global state and chooses a backend.
    still, first = Still(figsize=(7, 4.5), layout="constrained"), fronts.members[0].front
    FigureCanvasAgg(still)
    axes = still.subplots()
    for i, (one, row) in enumerate(zip(fronts.members, fronts.rows, strict=True)):
        x, y = _points(one.front)
        label, colour = f"{one.name} ({row['hypervolume']:.4f})", _COLOURS[i % len(_COLOURS)]
        axes.step(x, y, where="post", marker=_MARKS[i % len(_MARKS)][1], color=colour, label=label)
    axes.set(title=_TITLE, xlabel=_x_name(first), ylabel=_words(first.score.metric))
    if _spans_decades(fronts):
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    still.savefig(path, format="png", dpi=150)


def _points(front: ParetoFront) -> tuple[list[float], list[float]]:
    x = [e.metrics[front.cost.metric] if front.cost else float(e.number) for e in front.points]
    return x, [front.score.loss(front.loss_of(e, front.score)) for e in front.points]


def _spans_decades(fronts: Fronts) -> bool:
    """Whether a linear axis would crowd the cheap end; a cost of 0 has no place on the other one."""
    costs = [x for one in fronts.members if one.front.cost for x in _points(one.front)[0]]
    return bool(costs) and min(costs) > 0 and max(costs) > 10 * min(costs)


def _x_name(front: ParetoFront) -> str:
    return _words(front.cost.metric) if front.cost else "trial"


def _words(name: str) -> str:
    return name.replace("_", " ")
