"""The front as a picture: interactive (plotly), and still (matplotlib: plotly's PNG export needs a browser)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopeft.candidate import Evaluation

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from autopeft.searching.front import ParetoFront

_FRONT, _OTHER = "#1f4e9c", "#b0b7c3"


def front_figure(front: ParetoFront) -> Figure:
    """Score over cost (over the trial's number in a search without costs): dominated evaluations and the front."""
    from plotly import graph_objects as go

    groups = [("dominated", _others(front), _OTHER, "markers"), ("front", front.points, _FRONT, "lines+markers")]
    figure = go.Figure()
    for name, evaluations, colour, mode in groups:
        figure.add_scatter(
            name=name,
            x=[_x(front, e) for e in evaluations],
            y=_scores(front, evaluations),
            text=[_hover(e) for e in evaluations],
            hovertemplate="%{text}<br>%{xaxis.title.text}: %{x:,}<br>%{yaxis.title.text}: %{y:.4f}<extra></extra>",
            mode=mode,
            error_y=_bars(front, evaluations),
            marker={"color": colour, "size": 9 if evaluations is front.points else 6},
            line={"shape": "hv", "color": colour},
        )
    figure.update_layout(
        title=_title(front), xaxis_title=_x_name(front), yaxis_title=_words(front.score.metric), template="simple_white"
    )
    if _spans_decades(front):
        figure.update_xaxes(type="log")
    return figure


def save_front(front: ParetoFront, path: Path) -> None:
    """The same as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Still

    # Not pyplot: it keeps figures in a global state and chooses a backend.
    figure = Still(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    others = _others(front)
    axes.scatter([_x(front, e) for e in others], _scores(front, others), s=18, color=_OTHER, label="dominated")
    points = front.points
    axes.step(
        [_x(front, e) for e in points],
        _scores(front, points),
        where="post",
        marker="o",
        color=_FRONT,
        label="front",
    )
    bars = _bars(front, points)
    if bars is not None:
        axes.errorbar(
            [_x(front, e) for e in points], _scores(front, points), bars["array"], fmt="none", ecolor=_FRONT, capsize=3
        )
    axes.set(title=_title(front), xlabel=_x_name(front), ylabel=_words(front.score.metric))
    if _spans_decades(front):
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, format="png", dpi=150)


def _others(front: ParetoFront) -> list[Evaluation]:
    on_front = {id(e) for e in front.points}
    return [e for e in front.done if id(e) not in on_front]


def _scores(front: ParetoFront, evaluations: Sequence[Evaluation]) -> list[float]:
    return [front.score.loss(front.loss_of(e, front.score)) for e in evaluations]


def _bars(front: ParetoFront, evaluations: Sequence[Evaluation]) -> dict[str, Any] | None:
    """One standard deviation over seeds, where there is one."""
    known = [front.verdict.confirmed.get(e.number) for e in evaluations]
    spreads = [None if c is None else c.scores.get(front.score.metric) for c in known]
    if not any(spreads):
        return None
    return {"type": "data", "array": [0.0 if s is None or math.isnan(s.sd) else s.sd for s in spreads], "thickness": 1}


def _x(front: ParetoFront, evaluation: Evaluation) -> float:
    return evaluation.metrics[front.cost.metric] if front.cost else evaluation.number


def _spans_decades(front: ParetoFront) -> bool:
    """Whether a linear axis would crowd the cheap end; a cost of 0 has no place on the other one."""
    costs = [_x(front, e) for e in front.done] if front.cost else []
    return bool(costs) and min(costs) > 0 and max(costs) > 10 * min(costs)


def _x_name(front: ParetoFront) -> str:
    return _words(front.cost.metric) if front.cost else "trial"


def _title(front: ParetoFront) -> str:
    limits = ", ".join(f"{_words(name)} ≤ {limit:,}" for name, limit in front.limits.items())
    return f"Pareto front ({limits})" if limits else "Pareto front"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _hover(evaluation: Evaluation) -> str:
    training = ", ".join(f"{_words(k)} {v:.3g}" for k, v in evaluation.candidate.training.items())
    parts = [evaluation.key, *evaluation.candidate.hybrid.describe().split("; "), training]
    return "<br>".join(p for p in parts if p)
