"""The correlation of classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from autopeft.metrics._base import Labels, Metric

if TYPE_CHECKING:
    import numpy as np


class Matthews(Metric):
    """Matthews' correlation of the true and the found classes."""

    name: ClassVar[str] = "matthews"
    description: ClassVar[str] = "Matthews' correlation of true and found classes"
    labels: ClassVar[Labels] = "classes"

    def of(self, labels: np.ndarray, outputs: np.ndarray, positive: int | None = None) -> float:
        """From -1 to 1; 0 where either is constant."""
        from sklearn.metrics import matthews_corrcoef

        return float(matthews_corrcoef(labels, outputs.argmax(axis=1)))
