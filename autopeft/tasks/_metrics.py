"""The measures of quality that tasks are scored by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from autopeft.errors import AutopeftError, suggest

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Metric:
    """`of(labels [N], outputs)`: outputs are logits [N, C] for classes, predictions [N] for regression."""

    of: Callable[[np.ndarray, np.ndarray], float]
    regression: bool
    direction: Literal["max", "min"] = "max"


def _accuracy(labels: np.ndarray, logits: np.ndarray) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


def _f1(labels: np.ndarray, logits: np.ndarray, positive: int = 1) -> float:
    from sklearn.metrics import f1_score

    if logits.shape[1] > 2:
        return _f1_macro(labels, logits)
    return float(f1_score(labels, logits.argmax(axis=1), pos_label=positive, average="binary", zero_division=0.0))


def _f1_macro(labels: np.ndarray, logits: np.ndarray) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, logits.argmax(axis=1), average="macro", zero_division=0.0))


def _matthews(labels: np.ndarray, logits: np.ndarray) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, logits.argmax(axis=1)))


def _pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    import numpy as np

    # Undefined where nothing varies. A model that says the same of every row knows nothing of the order, which is what
    # 0 means; NaN would look like a run that diverged.
    if len(labels) < 2 or np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return 0.0
    with np.errstate(all="ignore"):  # differences too small to be squared: constant, too
        value = float(np.corrcoef(labels, predictions)[0, 1])
    return value if np.isfinite(value) else 0.0


def _spearman(labels: np.ndarray, predictions: np.ndarray) -> float:
    from scipy.stats import rankdata

    return _pearson(rankdata(labels), rankdata(predictions))


def _mse(labels: np.ndarray, predictions: np.ndarray) -> float:
    return float(((labels - predictions) ** 2).mean())


METRICS: dict[str, Metric] = {
    "accuracy": Metric(_accuracy, regression=False),
    "f1": Metric(_f1, regression=False),
    "f1_macro": Metric(_f1_macro, regression=False),
    "matthews": Metric(_matthews, regression=False),
    "spearman": Metric(_spearman, regression=True),
    "pearson": Metric(_pearson, regression=True),
    "mse": Metric(_mse, regression=True, direction="min"),
}


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

    chosen = {name: _get(name) for name in metrics}
    regression = any(metric.regression for metric in chosen.values())
    outputs = np.asarray(outputs, dtype=np.float64)
    labels = np.asarray(labels, dtype=np.float64 if regression else np.int64)
    if regression and outputs.ndim == 2 and outputs.shape[1] == 1:
        outputs = outputs[:, 0]
    if labels.ndim != 1 or not len(labels) or len(outputs) != len(labels) or outputs.ndim != (1 if regression else 2):
        raise ValueError(f"labels {labels.shape} and outputs {outputs.shape} don't fit {', '.join(metrics)}")
    if not np.isfinite(outputs).all():
        return dict.fromkeys(chosen, float("nan"))
    of = {name: metric.of for name, metric in chosen.items()}
    if positive is not None and "f1" in of:
        of["f1"] = partial(_f1, positive=positive)
    return {name: measure(labels, outputs) for name, measure in of.items()}


def direction(metric: str) -> Literal["max", "min"]:
    """Whether more or less of the metric is better; `AutopeftError` for an unknown one."""
    return _get(metric).direction


def complaint(names: Sequence[str], is_regression: bool | None = None) -> str:
    """What is wrong with the names, or ""; whether they fit is left out while `is_regression` is not known."""
    for name in names:
        if name not in METRICS:
            return f"unknown metric '{name}'; {suggest(name, METRICS)}"
        if is_regression is not None and METRICS[name].regression != is_regression:
            kind = "regression" if is_regression else "classes"
            fitting = [key for key, metric in METRICS.items() if metric.regression == is_regression]
            return f"'{name}' does not fit {kind}; choose of {', '.join(fitting)}"
    return "" if names else f"at least one metric is needed; known: {', '.join(METRICS)}"


def validate_metrics(names: Sequence[str], is_regression: bool, where: str) -> None:
    """`AutopeftError`, starting with `where`, when a name is unknown or not for this kind of labels."""
    if wrong := complaint(names, is_regression):
        raise AutopeftError(f"{where}: {wrong}")


def _get(name: str) -> Metric:
    if wrong := complaint([name]):
        raise AutopeftError(wrong)
    return METRICS[name]
