"""Expected hypervolume improvement where all objectives but one score are known exactly, in closed form.

With F(t) the best score among candidates that cost no more than t, a candidate of cost c with the score f improves the
hypervolume by the integral of max(f - F(t), 0) over t from c to the reference. F is a staircase, so that the
expectation over a normal f is a sum over its cells: volume x EI(mean, sd; level). The general case, with every
objective modelled, is Emmerich et al. 2011 and Yang et al. 2019.

Shapes: N candidates, F members of the front, C costs. Costs are scaled so that the reference is 1.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy.special import ndtr

from autopeft.searching.dominance import non_dominated

#: Candidates x cells at once: with three costs a front of 30 has some ten thousand cells.
_PRODUCTS = 2**20


class Staircase:
    """The best score within each cost, from evaluated `costs` [F, C] and `scores` [F] (larger is better).

    `floor` is the level where nothing is as cheap. Costs are clipped to [0, 1]; a NaN score counts for nothing.
    """

    def __init__(self, costs: np.ndarray, scores: np.ndarray, floor: float) -> None:
        known = np.isfinite(scores)
        costs, scores = np.clip(costs[known], 0, 1), np.maximum(scores[known], floor)
        kept = non_dominated(np.column_stack([costs, -scores]))
        costs, scores = costs[kept], scores[kept]
        edges = [np.unique([0.0, *column, 1.0]) for column in costs.T]
        # Of no costs there is one cell, without sides.
        self._low = np.array(list(product(*(e[:-1] for e in edges))), dtype=float)
        self._high = np.array(list(product(*(e[1:] for e in edges))), dtype=float)
        within = (costs[None] <= self._low[:, None]).all(axis=2)
        #: The level of each cell.
        self.levels = np.where(within, scores[None], floor).max(axis=1, initial=floor)

    def best(self, costs: np.ndarray) -> np.ndarray:
        """The best score [N] among what costs no more than `costs` [N, C]."""
        cheap = (self._low[None] <= costs[:, None]).all(axis=2)
        return np.where(cheap, self.levels[None], -np.inf).max(axis=1)

    def improvement(self, costs: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
        """The expected gain of hypervolume [N] of candidates of `costs` [N, C] with scores normal(mean, sd) [N]."""
        size = max(1, _PRODUCTS // len(self.levels))
        parts = [slice(i, i + size) for i in range(0, len(costs), size)]
        return np.concatenate([self._part(costs[p], mean[p], sd[p]) for p in parts]) if parts else np.zeros(0)

    def _part(self, costs: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
        # A product over no costs is 1: with a score alone this is the expected improvement over the best one.
        volume = np.ones((len(costs), len(self.levels)))
        for at, low, high in zip(costs.T, self._low.T, self._high.T, strict=True):
            volume *= np.clip(high - np.maximum(low, at[:, None]), 0, None)
        # About half of the cells are cheaper than a candidate, and nothing to it.
        row, cell = volume.nonzero()
        volume[row, cell] *= expected_improvement(mean[row], sd[row], self.levels[cell])
        gain: np.ndarray = volume.sum(axis=1)
        return gain


def expected_improvement(mean: np.ndarray, sd: np.ndarray, level: np.ndarray) -> np.ndarray:
    """E[max(f - level, 0)] for f normal(mean, sd), broadcast. Jones et al. 1998, equation 15."""
    sd = np.maximum(sd, 1e-12)
    z = (mean - level) / sd
    density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    return np.maximum(sd * (z * ndtr(z) + density), 0.0)
