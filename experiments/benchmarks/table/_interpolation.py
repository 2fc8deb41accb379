"""A surface through the table's hybrids: what the benchmark of searchers searches on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from autopeft.budget import costs_of

from ._features import Point
from ._trees import Curves

if TYPE_CHECKING:
    from .lookup import Table

#: With fewer residuals between seeds than this, noise is taken from cross-validation, which overstates it.
ENOUGH = 60
#: The part of the residuals, those of the most similar hybrids, among which the noise of a curve is drawn, and how many
#: at least. Noise differs much: seeds agree where nothing is learnt, and where all is, and least half-way.
NEAREST, LEAST = 1 / 12, 9
FOLDS = 4


@dataclass(frozen=True)
class Measured:
    """A table as arrays. Of N hybrids: points [N, D], mean figures [N, 2E] (scores by epoch, then losses by epoch) and
    how many seeds they are means of [N]. Of R trainings of hybrids with several seeds: what they are off their mean
    [R, 2E], and which hybrid that is [R].
    """

    points: np.ndarray
    figures: np.ndarray
    seeds: np.ndarray
    residuals: np.ndarray
    hybrid: np.ndarray


class Interpolation:
    """Learning curves for every point of the table's space.

    `mean` is the truth: trees through the measured curves, not a Gaussian process, as some searchers model scores by
    one. `curve` adds what training with another seed changes: all residuals of one of the measured trainings whose
    figures are most like this one's, so that the noise's size and its correlation over epochs are as measured.
    """

    #: The name of the scores.
    metric = "accuracy"

    def __init__(self, table: Table, trees: Scaled, residuals: np.ndarray, at: np.ndarray) -> None:
        """`residuals` [R, 2E] were seen where the mean figures are `at` [R, 2E]."""
        self.name, self.space, self.budget = table.name, table.space, table.budget
        self.epochs, self.train, self.points = table.epochs, table.train, table.points
        self._steps, self._features, self._trees = int(table.settings["validation"]), table.features, trees
        self._residuals, self._at = residuals, at
        empty = {d.name: 0 for d in self.space.dimensions[:-1]}
        rate = self.space.dimensions[-1]
        #: The score at the end of the hybrid that adapts nothing: the classification head alone is trained.
        self.floor = float(self.mean([empty | {rate.name: (rate.low * rate.high) ** 0.5}])[0, -1])

    @classmethod
    def fit(cls, table: Table, measured: Measured) -> Self:
        """Through the mean figures."""
        features = table.features(measured.points)
        trees = Scaled.fit(features, measured.figures, measured.seeds)
        if len(measured.residuals) >= ENOUGH:
            return cls(table, trees, measured.residuals, trees(features[measured.hybrid]))
        predicted = cross_validated(features, measured)
        return cls(table, trees, measured.figures - predicted, predicted)

    def mean(self, points: Sequence[Point]) -> np.ndarray:
        """Scores by epoch without noise [N, E]."""
        return self.mean_of(self._features.table(points))

    def mean_of(self, table: np.ndarray) -> np.ndarray:
        """The same for rows [N, D] of coordinates."""
        return np.clip(self._trees(self._features(table))[:, : self.epochs], 0.0, 1.0)

    def curve(self, point: Point, seed: int = 0) -> np.ndarray:
        """Scores by epoch as one training gives them [E]: the same for the same point and seed, always."""
        return self.course(point, seed)[0]

    def course(self, point: Point, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """(Scores, losses) by epoch of one training, [E] each."""
        mean = self._trees(self._features(self._features.table([point])))[0]
        rng = np.random.default_rng([int(self.space.decode(point).key, 16), seed])
        count = max(LEAST, int(NEAREST * len(self._at)))
        near = np.argsort((((self._at - mean) / self._trees.scale) ** 2).sum(1), kind="stable")[:count]
        scores, losses = np.split(mean + self._residuals[rng.choice(near)], 2)
        # A share of so many examples, as every accuracy is.
        return np.round(np.clip(scores, 0.0, 1.0) * self._steps) / self._steps, np.maximum(losses, 1e-3)

    def costs(self, point: Point) -> dict[str, int]:
        """The limited costs of a point, exactly."""
        return costs_of(self.space.hybrid(point), self.space.shape, self.budget.length, self.budget.limits)


class Scaled:
    """Trees for figures of two scales: scores, and losses, which would else outweigh them."""

    def __init__(self, trees: Curves, scale: np.ndarray) -> None:
        self._trees, self.scale = trees, scale

    @classmethod
    def fit(cls, features: np.ndarray, figures: np.ndarray, weights: np.ndarray) -> Self:
        halves = np.split(figures, 2, axis=1)
        scale = np.concatenate([np.full(h.shape[1], h.std(0).mean() or 1.0) for h in halves])
        return cls(Curves.fit(features, figures / scale, weights), scale)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return self._trees(features) * self.scale


def cross_validated(features: np.ndarray, measured: Measured, folds: int = FOLDS) -> np.ndarray:
    """Figures [N, 2E], each predicted by trees that have not seen its hybrid."""
    from sklearn.model_selection import KFold

    predicted = np.zeros_like(measured.figures)
    for known, left_out in KFold(folds, shuffle=True, random_state=0).split(features):
        trees = Scaled.fit(features[known], measured.figures[known], measured.seeds[known])
        predicted[left_out] = trees(features[left_out])
    return predicted
