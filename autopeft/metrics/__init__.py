"""The measures of quality that tasks and generated texts are scored by, one a file."""

from __future__ import annotations

from collections.abc import Mapping

from autopeft.errors import AutopeftError
from autopeft.metrics._base import Labels, Metric, TextMetric
from autopeft.registry import Registry

#: What else stands beside scores in an evaluation.
OTHERS = ("epoch", "head_params", "loss", "train_loss")

METRICS: Registry[Metric] = Registry("autopeft.metrics", Metric, "metric", lambda: OTHERS)

__all__ = ["METRICS", "OTHERS", "Labels", "Metric", "TextMetric", "is_of_texts", "text_metric", "without_others"]


def without_others(values: Mapping[str, float]) -> dict[str, float]:
    """Of an evaluation or an epoch, without what is no score; the loss on the split may be the only one."""
    return {name: value for name, value in values.items() if name == "loss" or name not in OTHERS}


def is_of_texts(name: str) -> bool:
    """Whether it is a metric of texts that a model has written."""
    return name in METRICS.names() and issubclass(METRICS.get(name), TextMetric)


def text_metric(name: str) -> type[TextMetric]:
    """The metric of written texts of that name; `AutopeftError` where there is none."""
    found = METRICS.get(name)
    if not issubclass(found, TextMetric):
        known = ", ".join(name for name in METRICS.names() if is_of_texts(name))
        raise AutopeftError(f"metric '{name}' is of labels, and not of texts that a model writes; choose of {known}")
    return found
