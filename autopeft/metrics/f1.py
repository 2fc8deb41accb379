"""F1 of one of two classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from autopeft.metrics._base import Labels, Metric
from autopeft.metrics.f1_macro import F1Macro

if TYPE_CHECKING:
    import numpy as np


class F1(Metric):
    """The harmonic mean of precision and recall of the positive class (1 by default); of more classes their mean."""

    name: ClassVar[str] = "f1"
    description: ClassVar[str] = "F1 of the positive class of two; of more classes their mean"
    labels: ClassVar[Labels] = "classes"

    def of(self, labels: np.ndarray, outputs: np.ndarray, positive: int | None = None) -> float:
        """From 0 to 1."""
        from sklearn.metrics import f1_score

        if outputs.shape[1] > 2:
            return F1Macro().of(labels, outputs)
        own = 1 if positive is None else positive
        return float(f1_score(labels, outputs.argmax(axis=1), pos_label=own, average="binary", zero_division=0.0))
