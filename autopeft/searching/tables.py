"""The front as a table, for programs and for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from autopeft.searching.front import ParetoFront


def frame(front: ParetoFront) -> pd.DataFrame:
    """One row a point: key, metrics and costs, training hyper-parameters, the hybrid in words."""
    import pandas as pd

    rows = [
        {"key": e.key, **e.metrics, **e.candidate.training, "hybrid": e.candidate.hybrid.describe()}
        for e in front.points
    ]
    metrics = dict.fromkeys(name for e in front.points for name in e.metrics)
    training = dict.fromkeys(name for e in front.points for name in e.candidate.training)
    return pd.DataFrame(rows, columns=["key", *metrics, *training, "hybrid"])


def markdown(front: ParetoFront) -> str:
    """A Markdown table of the points: objectives, test scores, training hyper-parameters, the hybrid in words."""
    if not front.points:
        return "No finished candidate is within the budget.\n"
    table = frame(front)
    objectives = [o.metric for o in front.objectives]
    training = list(dict.fromkeys(name for e in front.points for name in e.candidate.training))
    tests = [name for name in table.columns if name.startswith("test_")]
    columns = ["key", *objectives, *tests, *training, "hybrid"]
    lines = [columns, ["---"] * len(columns), *([_cell(row[c]) for c in columns] for _, row in table.iterrows())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value != value:  # NaN: a point that was not measured
        return ""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 2 else f"{value:.4g}"
