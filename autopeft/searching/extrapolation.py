"""Where a learning curve ends, told from its beginning by the curves that have ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import numpy as np

#: What is known of a candidate after an epoch: its score (larger is better), or the score and what helps to predict.
Point = float | Sequence[float]

#: Curves that a fit needs beyond one for each coefficient.
_SPARE = 3
#: Of the kernel of the noise: its width in standard deviations of the predictions, and how many curves the noise of all
#: counts as.
_WIDTH, _PRIOR = 0.25, 3.0


class Extrapolation:
    """The predictive distribution of a final score, given the point of an earlier epoch.

    One Bayesian ridge regression an epoch (MacKay 1992; scikit-learn's), of the final score on that epoch's point: how
    strongly it is regularised, and the noise, come from the curves themselves. A point is a score, or a vector whose
    first entry is the score: the validation loss beside an accuracy tells much more in the first epochs.

    The noise is not the same everywhere: what has not begun to learn mostly ends where it is, and what is rising may
    end anywhere. So its variance is a kernel estimate over the residuals of curves of like prediction (Fan & Yao 1998).
    """

    def __init__(self, curves: Sequence[np.ndarray], epochs: int) -> None:
        self._curves, self._epochs = curves, epochs
        self._fits: dict[int, _Regression] = {}

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
        if epoch not in self._fits:
            points = np.stack([table[epoch - 1] for table in self._curves])
            self._fits[epoch] = _Regression(points, np.array([table[-1, 0] for table in self._curves]))
        return self._fits[epoch].predict(row)


class _Regression:
    """Final scores [N] on points [N, P], with noise that depends on the prediction."""

    def __init__(self, points: np.ndarray, finals: np.ndarray) -> None:
        from sklearn.linear_model import BayesianRidge
        from sklearn.preprocessing import StandardScaler

        self._scaler = StandardScaler().fit(points)
        self._ridge = BayesianRidge().fit(self._scaler.transform(points), finals)
        self._means = self._ridge.predict(self._scaler.transform(points))
        self._squares = (finals - self._means) ** 2
        self._width = _WIDTH * float(self._means.std()) or 1.0

    def predict(self, row: np.ndarray) -> tuple[float, float]:
        """Mean and standard deviation at one point [1, P]."""
        means, deviations = self._ridge.predict(self._scaler.transform(row), return_std=True)
        mean, pooled = float(means[0]), 1 / float(self._ridge.alpha_)
        weights = np.exp(-0.5 * ((self._means - mean) / self._width) ** 2)
        noise = (weights @ self._squares + _PRIOR * pooled) / (weights.sum() + _PRIOR)
        return mean, math.sqrt(max(float(deviations[0]) ** 2 - pooled, 0.0) + float(noise))


def _table(curve: Sequence[Point]) -> np.ndarray:
    """A curve as [epochs, entries of a point]."""
    return np.array([np.atleast_1d(point) for point in curve], dtype=float)
