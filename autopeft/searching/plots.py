"""The front as a picture: interactive (plotly), and still (matplotlib: plotly's PNG export needs a browser)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopeft.candidate import Evaluation
from autopeft.searching.keys import named
from autopeft.wording import spaced

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from plotly.graph_objects import Figure

    from autopeft.searching.front import ParetoFront

_FRONT, _OTHER = "#1f4e9c", "#b0b7c3"
#: What plotly says of a point that one points at.
HOVER = "%{text}<br>%{xaxis.title.text}: %{x:,}<br>%{yaxis.title.text}: %{y:.4f}<extra></extra>"


def front_figure(front: ParetoFront) -> Figure:
    """Score over cost (over the candidate's number in a search without costs): dominated evaluations and the front."""
    from plotly import graph_objects as go

    groups = [("dominated", _others(front), _OTHER, "markers"), ("front", front.points, _FRONT, "lines+markers")]
    groups += [("front, not confirmed", front.unconfirmed, "white", "markers")] if front.unconfirmed else []
    figure = go.Figure()
    for name, evaluations, colour, mode in groups:
        figure.add_scatter(
            name=name,
            x=costs_of(front, evaluations),
            y=scores_of(front, evaluations),
            text=[hover(e, front) for e in evaluations],
            hovertemplate=HOVER,
            mode=mode,
            error_y=_bars(front, evaluations),
            marker={"color": colour, "size": 6 if name == "dominated" else 9} | _edge(name),
            line={"shape": "hv", "color": colour},
        )
    label(figure, _title(front), front, spans_decades(_all_costs(front)))
    return figure


def save_front(front: ParetoFront, path: Path) -> None:
    """The same as a PNG file."""
    others, points, bars = _others(front), front.points, _bars(front, front.points)
    x, y = costs_of(front, points), scores_of(front, points)
    with still(path, _title(front), front, spans_decades(_all_costs(front))) as axes:
        axes.scatter(costs_of(front, others), scores_of(front, others), s=18, color=_OTHER, label="dominated")
        axes.step(x, y, where="post", marker="o", color=_FRONT, label="front")
        if bars is not None:
            axes.errorbar(x, y, bars["array"], fmt="none", ecolor=_FRONT, capsize=3)
        if left := front.unconfirmed:
            look: dict[str, Any] = {"color": "white", "edgecolors": _FRONT, "zorder": 3}
            axes.scatter(costs_of(front, left), scores_of(front, left), label="front, not confirmed", **look)


def label(figure: Figure, title: str, front: ParetoFront, log: bool) -> None:
    """A title, and names of the axes of a front's picture."""
    below, beside = _x_name(front), spaced(front.score.metric)
    figure.update_layout(title=title, xaxis_title=below, yaxis_title=beside, template="simple_white")
    if log:
        figure.update_xaxes(type="log")


@contextmanager
def still(path: Path, title: str, front: ParetoFront, log: bool) -> Iterator[Axes]:
    """Axes of a front's picture to draw on; it is written as PNG at the end."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Still

    # Not pyplot: it keeps figures in a global state and chooses a backend.
    figure = Still(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    yield axes
    axes.set(title=title, xlabel=_x_name(front), ylabel=spaced(front.score.metric))
    if log:
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, format="png", dpi=150)


def costs_of(front: ParetoFront, evaluations: Sequence[Evaluation]) -> list[float]:
    """The first cost of each; its number in a search without costs."""
    return [e.metrics[front.cost.metric] if front.cost else float(e.number) for e in evaluations]


def scores_of(front: ParetoFront, evaluations: Sequence[Evaluation]) -> list[float]:
    """The score of each: the mean over seeds where there are several."""
    return [front.value_of(e, front.score) for e in evaluations]


def spans_decades(costs: Sequence[float]) -> bool:
    """Whether a linear axis would crowd the cheap end; a cost of 0 has no place on the other one."""
    return bool(costs) and min(costs) > 0 and max(costs) > 10 * min(costs)


def hover(evaluation: Evaluation, front: ParetoFront) -> str:
    """A candidate in the lines of HTML that are shown of it when one points at it."""
    name = named(evaluation) + (", not confirmed" if evaluation in front.unconfirmed else "")
    training = ", ".join(f"{spaced(k)} {v:.3g}" for k, v in evaluation.candidate.training.items())
    parts = [name, *evaluation.candidate.hybrid.describe().split("; "), training]
    return "<br>".join(p for p in parts if p)


def _others(front: ParetoFront) -> list[Evaluation]:
    on_front = {id(e) for e in front.points}
    return [e for e in front.done if id(e) not in on_front]


def _bars(front: ParetoFront, evaluations: Sequence[Evaluation]) -> dict[str, Any] | None:
    """One standard deviation over seeds, where there is one; of one training, where that is not confirmed."""
    spreads = [front.spread(e, front.score.metric) for e in evaluations]
    if not any(spreads):
        return None
    return {"type": "data", "array": [0.0 if s is None or math.isnan(s.sd) else s.sd for s in spreads], "thickness": 1}


def _all_costs(front: ParetoFront) -> list[float]:
    return costs_of(front, front.done) if front.cost else []


def _edge(name: str) -> dict[str, Any]:
    """What is not confirmed is an empty circle."""
    return {"line": {"color": _FRONT, "width": 2}} if "not confirmed" in name else {}


def _x_name(front: ParetoFront) -> str:
    return spaced(front.cost.metric) if front.cost else "candidate"


def _title(front: ParetoFront) -> str:
    limits = ", ".join(f"{spaced(name)} ≤ {limit:,}" for name, limit in front.limits.items())
    return f"Pareto front ({limits})" if limits else "Pareto front"
