"""The front as a table, for programs and for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def cells(front: ParetoFront) -> tuple[list[str], list[list[str]]]:
    """Headers and rows for people: key, objectives, test score, training hyper-parameters, the hybrid in short."""
    names = [o.metric for o in front.objectives]
    test = f"test_{front.score.metric}"
    if any(test in e.metrics for e in front.points):
        names.insert(names.index(front.score.metric) + 1, test)
    rates = list(dict.fromkeys(name for e in front.points for name in e.candidate.training))
    rows = [
        [
            e.key,
            *(number(e.metrics.get(name)) for name in names),
            *(number(e.candidate.training.get(name)) for name in rates),
            e.candidate.hybrid.summary(),
        ]
        for e in front.points
    ]
    return ["key", *names, *rates, "hybrid (sizes, in how many layers)"], rows


def markdown(front: ParetoFront) -> str:
    """The same as a Markdown table."""
    if not front.points:
        return "No finished candidate is within the budget.\n"
    headers, rows = cells(front)
    return "".join(f"| {' | '.join(line)} |\n" for line in (headers, ["---"] * len(headers), *rows))


def number(value: float | None) -> str:
    """Whole numbers with separators, others with four digits; nothing for what was not measured."""
    if value is None or value != value:
        return ""
    if float(value).is_integer() and (abs(value) >= 1 or isinstance(value, int)):
        return f"{int(value):,}"
    return f"{value:.4f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2e}"
