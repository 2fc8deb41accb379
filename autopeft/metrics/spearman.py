"""The correlation of ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from autopeft.metrics._base import Labels, Metric
from autopeft.metrics.pearson import Pearson

if TYPE_CHECKING:
    import numpy as np


class Spearman(Metric):
    """Pearson's correlation of the ranks of labels and predictions."""

    name: ClassVar[str] = "spearman"
    description: ClassVar[str] = "Spearman's correlation of ranks"
    labels: ClassVar[Labels] = "values"

    def of(self, labels: np.ndarray, outputs: np.ndarray, positive: int | None = None) -> float:
        """From -1 to 1; 0 where nothing varies."""
        from scipy.stats import rankdata

        return Pearson().of(rankdata(labels), rankdata(outputs))
