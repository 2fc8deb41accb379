"""The mean squared error."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from autopeft.metrics._base import Labels, Metric

if TYPE_CHECKING:
    import numpy as np


class MeanSquaredError(Metric):
    """The mean over the rows of the squared difference."""

    name: ClassVar[str] = "mse"
    description: ClassVar[str] = "mean squared error"
    direction: ClassVar[Literal["max", "min"]] = "min"
    labels: ClassVar[Labels] = "values"

    def of(self, labels: np.ndarray, outputs: np.ndarray, positive: int | None = None) -> float:
        """From 0 up."""
        return float(((labels - outputs) ** 2).mean())
