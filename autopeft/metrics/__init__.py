"""The measures of quality that tasks are scored by, one a file."""

from __future__ import annotations

from autopeft.metrics._base import Labels, Metric
from autopeft.registry import Registry

#: What else stands beside scores in an evaluation.
OTHERS = ("epoch", "head_params", "loss", "train_loss")

METRICS: Registry[Metric] = Registry("autopeft.metrics", Metric, "metric", lambda: OTHERS)

__all__ = ["METRICS", "OTHERS", "Labels", "Metric"]
