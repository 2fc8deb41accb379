"""The linear correlation."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from autopeft.metrics._base import Labels, Metric

if TYPE_CHECKING:
    import numpy as np


class Pearson(Metric):
    """Pearson's correlation of labels and predictions."""

    name: ClassVar[str] = "pearson"
    description: ClassVar[str] = "Pearson's correlation"
    labels: ClassVar[Labels] = "values"

    def of(self, labels: np.ndarray, outputs: np.ndarray, positive: int | None = None) -> float:
        """From -1 to 1; 0 where nothing varies."""
        import numpy as np

        # Undefined where nothing varies. A model that says the same of every row knows nothing of the order, which is
        # what 0 means; NaN would look like a run that diverged.
        if len(labels) < 2 or np.ptp(labels) == 0 or np.ptp(outputs) == 0:
            return 0.0
        with np.errstate(all="ignore"):  # differences too small to be squared: constant, too
            value = float(np.corrcoef(labels, outputs)[0, 1])
        return value if np.isfinite(value) else 0.0
