"""Learning curves from regression trees, all trees in one set of arrays: a prediction takes less than a millisecond."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

#: Components of the curves that are boosted one by one; three hold nearly all of how curves differ.
COMPONENTS = 3
#: Trees of the averaged and of each boosted ensemble.
AVERAGED, BOOSTED = 200, 150
_CHUNK = 2_000


class Curves:
    """The mean of two ensembles that err differently: extremely randomised trees (Geurts et al. 2006), whose leaves are
    mean curves, and gradient boosting (Friedman 2001) of the curves' principal components. Both predict all epochs of a
    curve at once. Shapes: features [N, F], curves [N, E].
    """

    def __init__(self, start: np.ndarray, trees: Sequence[tuple[Any, np.ndarray]]) -> None:
        """`trees`: a tree of scikit-learn and what its nodes add to the curve [nodes, E]."""
        self._start, most = start, max(tree.node_count for tree, _ in trees)
        self._feature = np.zeros((len(trees), most), dtype=np.int64)
        self._threshold = np.full((len(trees), most), np.inf)
        self._child = np.zeros((len(trees), most, 2), dtype=np.int64)
        self._value = np.zeros((len(trees), most, len(start)))
        self._depth = max(tree.max_depth for tree, _ in trees)
        for i, (tree, values) in enumerate(trees):
            n, leaf = tree.node_count, tree.children_left < 0
            self._feature[i, :n] = np.where(leaf, 0, tree.feature)
            self._threshold[i, :n] = np.where(leaf, np.inf, tree.threshold)
            # A leaf is its own child, so that all trees are walked equally far.
            own = np.arange(n)
            self._child[i, :n, 0] = np.where(leaf, own, tree.children_left)
            self._child[i, :n, 1] = np.where(leaf, own, tree.children_right)
            self._value[i, :n] = values

    @classmethod
    def fit(cls, features: np.ndarray, curves: np.ndarray, weights: np.ndarray | None = None, seed: int = 0) -> Self:
        """Fitted to curves; `weights` [N] say how often each was measured."""
        from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor

        averaged = ExtraTreesRegressor(AVERAGED, min_samples_leaf=2, max_features=0.7, random_state=seed)
        averaged.fit(features, curves, weights)
        # scikit-learn squeezes nothing here: a tree's values are [nodes, outputs, 1].
        trees = [(e.tree_, e.tree_.value[:, :, 0] / (2 * AVERAGED)) for e in averaged.estimators_]
        start = np.average(curves, axis=0, weights=weights)
        # Rows of `axes` are the directions in which curves differ most.
        axes = np.linalg.svd(curves - start, full_matrices=False)[2][:COMPONENTS]
        for axis, target in zip(axes, ((curves - start) @ axes.T).T, strict=True):
            boosted = GradientBoostingRegressor(
                n_estimators=BOOSTED, learning_rate=0.07, max_depth=4, min_samples_leaf=5, subsample=0.7,
                max_features=0.5, init="zero", random_state=seed,
            )  # fmt: skip
            boosted.fit(features, target, weights)
            trees += [(e.tree_, e.tree_.value[:, 0] * (0.07 / 2) * axis) for e in boosted.estimators_[:, 0]]
        return cls(start / 2, trees)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        # Trees were grown on numbers of single precision.
        rows = features.astype(np.float32)
        parts = [self._predict(rows[i : i + _CHUNK]) for i in range(0, len(rows), _CHUNK)]
        return np.vstack(parts)

    def _predict(self, rows: np.ndarray) -> np.ndarray:
        tree, at = np.arange(len(self._feature)), np.zeros((len(rows), len(self._feature)), dtype=np.int64)
        row = np.arange(len(rows))[:, None]
        for _ in range(self._depth):
            right = rows[row, self._feature[tree, at]] > self._threshold[tree, at]
            at = self._child[tree, at, right.astype(np.int64)]
        return self._start + self._value[tree, at].sum(1)
