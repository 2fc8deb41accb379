"""Where a learning curve ends, told from its beginning by the curves that have ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

#: What is known of a candidate after an epoch: its score (larger is better), or the score and what helps to predict.
Point = float | Sequence[float]

#: Curves that a fit needs beyond one for each coefficient.
_SPARE = 3


class Extrapolation:
    """The predictive distribution of a final score, given the point of an earlier epoch.

    One Bayesian ridge regression an epoch (MacKay 1992; scikit-learn's), of the final score on that epoch's point: how
    strongly it is regularised, and the noise, come from the curves themselves. A point is a score, or a vector whose
    first entry is the score: the validation loss beside an accuracy tells much more in the first epochs.
    """

    def __init__(self, curves: Sequence[np.ndarray], epochs: int) -> None:
        self._curves, self._epochs = curves, epochs
        self._models: dict[int, Any] = {}

    @classmethod
    def fit(cls, curves: Sequence[Sequence[Point]], epochs: int) -> Self:
        """From curves of a point an epoch; those that are shorter than `epochs`, or not finite, are left out."""
        tables = [_table(curve) for curve in curves if len(curve) == epochs]
        return cls([table for table in tables if np.isfinite(table).all()], epochs)

    def final(self, epoch: int, point: Point) -> tuple[float, float]:
        """Mean and standard deviation of the score after the last epoch, noise included.

        The score so far and infinity when too few curves have ended to tell.
        """
        row = _table([point])
        score = float(row[0, 0])
        if epoch >= self._epochs:
            return score, 0.0
        if len(self._curves) < row.shape[1] + 1 + _SPARE or not np.isfinite(row).all():
            return score, math.inf
        if epoch not in self._models:
            self._models[epoch] = self._model(epoch)
        mean, sd = self._models[epoch].predict(row, return_std=True)
        return float(mean[0]), float(sd[0])

    def _model(self, epoch: int) -> Any:
        from sklearn.linear_model import BayesianRidge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        points = np.stack([table[epoch - 1] for table in self._curves])
        finals = np.array([table[-1, 0] for table in self._curves])
        return make_pipeline(StandardScaler(), BayesianRidge()).fit(points, finals)


def _table(curve: Sequence[Point]) -> np.ndarray:
    """A curve as [epochs, entries of a point]."""
    return np.array([np.atleast_1d(point) for point in curve], dtype=float)
