"""The share of rows whose class is found."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from autopeft.metrics._base import Labels, Metric

if TYPE_CHECKING:
    import numpy as np


class Accuracy(Metric):
    """Rows whose largest logit is that of their class, as a share of all."""

    name: ClassVar[str] = "accuracy"
    description: ClassVar[str] = "share of rows whose class is found"
    labels: ClassVar[Labels] = "classes"

    def of(self, labels: np.ndarray, outputs: np.ndarray, positive: int | None = None) -> float:
        """From 0 to 1."""
        return float((outputs.argmax(axis=1) == labels).mean())
