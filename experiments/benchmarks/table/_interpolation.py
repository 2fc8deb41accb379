"""A surface through the table's hybrids: what the benchmark of searchers searches on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np

from autopeft.budget import costs_of

from ._features import Point
from ._trees import Curves

if TYPE_CHECKING:
    from .lookup import Table

#: With fewer residuals between seeds than this, noise is taken from cross-validation, which overstates it.
ENOUGH = 60
#: Among how many residuals of similar hybrids the noise of a curve is drawn.
NEIGHBOURS = 32
FOLDS = 4


class Interpolation:
    """Learning curves for every point of the table's space.

    `mean` is the truth: trees through the measured curves, not a Gaussian process, as some searchers model scores by
    one. `curve` adds what training with another seed changes: the whole residual curve of one of the measured hybrids
    whose curves are most like this one's, so that the noise's size and its correlation over epochs are as measured.
    """

    def __init__(self, table: Table, curves: Curves, residuals: np.ndarray, at: np.ndarray) -> None:
        """`residuals` [R, E] were seen where the mean curves are `at` [R, E]."""
        self.name, self.space, self.budget = table.name, table.space, table.budget
        self.epochs, self.train, self.points = table.epochs, table.train, table.points
        self._steps, self._features, self._curves = int(table.settings["validation"]), table.features, curves
        self._residuals, self._at = residuals, at
        empty = {d.name: 0 for d in self.space.dimensions[:-1]}
        rate = self.space.dimensions[-1]
        #: The score at the end of the hybrid that adapts nothing: the classification head alone is trained.
        self.floor = float(self.mean([empty | {rate.name: (rate.low * rate.high) ** 0.5}])[0, -1])

    @classmethod
    def fit(
        cls, table: Table, points: np.ndarray, curves: np.ndarray, seeds: np.ndarray, residuals: np.ndarray
    ) -> Self:
        """Through mean curves [N, E] at points [N, D]; `residuals` as `Table.measured` has them."""
        features = table.features(points)
        fitted = Curves.fit(features, curves, seeds)
        if len(residuals) >= ENOUGH:
            return cls(table, fitted, residuals[:, 1:], fitted(features[residuals[:, 0].astype(int)]))
        predicted = cross_validated(features, curves, seeds)
        return cls(table, fitted, curves - predicted, predicted)

    def mean(self, points: Sequence[Point]) -> np.ndarray:
        """Scores by epoch without noise [N, E]."""
        return self.mean_of(self._features.table(points))

    def mean_of(self, table: np.ndarray) -> np.ndarray:
        """The same for rows [N, D] of coordinates."""
        return self._curves(self._features(table))

    def curve(self, point: Point, seed: int = 0) -> np.ndarray:
        """Scores by epoch as one training gives them [E]: the same for the same point and seed, always."""
        mean = self.mean([point])[0]
        rng = np.random.default_rng([int(self.space.decode(point).key, 16), seed])
        near = np.argsort(((self._at - mean) ** 2).sum(1), kind="stable")[:NEIGHBOURS]
        noisy = np.clip(mean + self._residuals[rng.choice(near)], 0.0, 1.0)
        # A share of so many examples, as every accuracy is.
        return np.round(noisy * self._steps) / self._steps

    def costs(self, point: Point) -> dict[str, int]:
        """The limited costs of a point, exactly."""
        return costs_of(self.space.hybrid(point), self.space.shape, self.budget.length, self.budget.limits)


def cross_validated(features: np.ndarray, curves: np.ndarray, seeds: np.ndarray, folds: int = FOLDS) -> np.ndarray:
    """Curves [N, E], each predicted by trees that have not seen its hybrid."""
    from sklearn.model_selection import KFold

    predicted = np.zeros_like(curves)
    for known, left_out in KFold(folds, shuffle=True, random_state=0).split(features):
        predicted[left_out] = Curves.fit(features[known], curves[known], seeds[known])(features[left_out])
    return predicted
