"""The measures of quality that tasks are scored by, one a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from autopeft.errors import AutopeftError
from autopeft.metrics._base import Labels, Metric
from autopeft.registry import Registry

if TYPE_CHECKING:
    import numpy as np

#: What else stands beside scores in an evaluation.
OTHERS = ("epoch", "head_params", "loss", "train_loss")

METRICS: Registry[Metric] = Registry("autopeft.metrics", Metric, "metric", lambda: OTHERS)

__all__ = ["METRICS", "OTHERS", "Labels", "Metric", "complaint", "direction", "score", "validate_metrics"]


def score(
    metrics: Sequence[str], labels: np.ndarray, outputs: np.ndarray, positive: int | None = None
) -> dict[str, float]:
    """Each metric's value over N >= 1 rows.

    `labels` [N]: class numbers or real values. `outputs`: logits [N, C], or for regression predictions [N] or [N, 1].
    `f1` is that of class 1 (or `positive`) for C = 2 and the mean over the classes for more; a correlation with a
    constant is 0.0.
    All values are NaN when an output is not finite: the run diverged. `ValueError` for other shapes, `AutopeftError`
    for unknown metrics.
    """
    import numpy as np

    chosen = {name: METRICS.get(name) for name in metrics}
    regression = any(metric.labels == "values" for metric in chosen.values())
    outputs = np.asarray(outputs, dtype=np.float64)
    labels = np.asarray(labels, dtype=np.float64 if regression else np.int64)
    if regression and outputs.ndim == 2 and outputs.shape[1] == 1:
        outputs = outputs[:, 0]
    if labels.ndim != 1 or not len(labels) or len(outputs) != len(labels) or outputs.ndim != (1 if regression else 2):
        raise ValueError(f"labels {labels.shape} and outputs {outputs.shape} don't fit {', '.join(metrics)}")
    if not np.isfinite(outputs).all():
        return dict.fromkeys(chosen, float("nan"))
    return {name: float(metric().of(labels, outputs, positive)) for name, metric in chosen.items()}


def direction(metric: str) -> Literal["max", "min"]:
    """Whether more or less of the metric is better; `AutopeftError` for an unknown one."""
    return METRICS.get(metric).direction


def complaint(names: Sequence[str], is_regression: bool | None = None) -> str:
    """What is wrong with the names, or ""; whether they fit is left out while `is_regression` is not known."""
    known = METRICS.all()
    labels = "values" if is_regression else "classes"
    for name in names:
        if name not in known:
            return f"unknown metric '{name}'; {METRICS.hint(name)}"
        if is_regression is not None and known[name].labels != labels:
            fitting = [key for key, metric in known.items() if metric.labels == labels]
            return f"'{name}' does not fit {'regression' if is_regression else labels}; choose of {', '.join(fitting)}"
    return "" if names else f"at least one metric is needed; known: {', '.join(known)}"


def validate_metrics(names: Sequence[str], is_regression: bool, where: str) -> None:
    """`AutopeftError`, starting with `where`, when a name is unknown or not for this kind of labels."""
    if wrong := complaint(names, is_regression):
        raise AutopeftError(f"{where}: {wrong}")
