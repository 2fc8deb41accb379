"""F1, averaged over the classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from autopeft.metrics._base import Labels, Metric

if TYPE_CHECKING:
    import numpy as np


class F1Macro(Metric):
    """The mean over the classes of each one's F1; 0 for a class that is neither found nor there."""

    name: ClassVar[str] = "f1_macro"
    description: ClassVar[str] = "F1, the mean over the classes"
    labels: ClassVar[Labels] = "classes"

    def of(self, labels: np.ndarray, outputs: np.ndarray, positive: int | None = None) -> float:
        """From 0 to 1."""
        from sklearn.metrics import f1_score

        return float(f1_score(labels, outputs.argmax(axis=1), average="macro", zero_division=0.0))
