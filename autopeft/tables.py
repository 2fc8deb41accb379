"""The front as a table for people: few columns, short numbers."""

from __future__ import annotations

from collections.abc import Sequence

from autopeft.candidate import Evaluation
from autopeft.searching.front import ParetoFront


def front_table(front: ParetoFront) -> tuple[list[str], list[list[str]]]:
    """Headers and rows: key, objectives, test score, share of the budget's first limit, rates, the hybrid in words."""
    names = [o.metric for o in front.objectives]
    test = f"test_{front.score.metric}"
    if any(test in e.metrics for e in front.points):
        names.insert(names.index(front.score.metric) + 1, test)
    rates = sorted({name for e in front.points for name in e.candidate.training})
    rows = [_row(e, names, rates) for e in front.points]
    return ["key", *names, *rates, "hybrid (sizes, number of layers)"], rows


def markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same in Markdown."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _row(evaluation: Evaluation, names: Sequence[str], rates: Sequence[str]) -> list[str]:
    metrics = [number(evaluation.metrics.get(name)) for name in names]
    chosen = [number(evaluation.candidate.training.get(name)) for name in rates]
    return [evaluation.key, *metrics, *chosen, evaluation.candidate.hybrid.summary()]


def number(value: float | None) -> str:
    """Whole numbers with separators, others with four digits."""
    if value is None:
        return ""
    if float(value).is_integer() and abs(value) >= 1:
        return f"{int(value):,}"
    return f"{value:.4f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2e}"
