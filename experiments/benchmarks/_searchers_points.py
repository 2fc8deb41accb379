"""Many points within a budget at once; for searchers of our own making and for the best known front.

Shapes: rows of coordinates [N, D], the learning rate last.
"""

from __future__ import annotations

import math

import numpy as np
from table._features import Features

from autopeft.budget import Budget
from autopeft.space import SearchSpace


class Points:
    """Random rows and neighbours of rows, all within the limit of trainable parameters, none of them empty."""

    def __init__(self, space: SearchSpace, budget: Budget) -> None:
        if set(budget.limits) != {"trainable_params"}:
            raise ValueError("points: for a budget of trainable parameters")
        self.features, self.limit = Features(space), float(budget.limits["trainable_params"])
        self._top = np.array([len(d.values) - 1 for d in space.structure])
        self._least = math.log(min(1.0, 1.5 * budget.least_share(space)))
        rate = space.dimensions[-1]
        self._low, self._high = math.log(rate.low), math.log(rate.high)

    def random(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Uniform rows of which a random part of the sizes is kept, lowered into log-uniform parts of the budget."""
        levels = rng.integers(0, self._top + 1, size=(count, len(self._top)))
        levels = levels * (rng.random(levels.shape) < rng.uniform(0.05, 1.0, (count, 1)))
        rates = np.exp(rng.uniform(self._low, self._high, (count, 1)))
        return self._lowered(np.hstack([levels, rates]), np.exp(rng.uniform(self._least, 0.0, count)), rng)

    def neighbours(self, rows: np.ndarray, each: int, rng: np.random.Generator) -> np.ndarray:
        """For every row `each` rows with one to three changes; those over the budget are left out."""
        near = np.repeat(rows, each, axis=0)
        for step in range(3):
            changed = self._changed(near, rng)
            near = changed if step == 0 else np.where(rng.random((len(near), 1)) < 0.4, changed, near)
        params = self.features.params(near)
        return near[(params <= self.limit) & (params > 0)]

    def _changed(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One change a row: a size up or down by a level, drawn anew, dropped, or exchanged with another; the rate."""
        out, n = rows.copy(), np.arange(len(rows))
        at, other = rng.integers(len(self._top), size=(2, len(rows)))
        kind = rng.random(len(rows))
        level = rows[n, at]
        step = np.clip(level + rng.choice([-1, 1], len(rows)), 0, self._top[at])
        drawn = rng.integers(0, self._top[at] + 1)
        out[n, at] = np.select([kind < 0.4, kind < 0.55, kind < 0.65], [step, drawn, np.zeros(len(rows))], level)
        swap = n[(kind >= 0.65) & (kind < 0.8) & (self._top[at] == self._top[other])]
        out[swap, at[swap]], out[swap, other[swap]] = rows[swap, other[swap]], rows[swap, at[swap]]
        rate = np.clip(np.log(rows[:, -1]) + rng.normal(0, 0.3, len(rows)), self._low, self._high)
        out[:, -1] = np.where(kind >= 0.8, np.exp(rate), rows[:, -1])
        return self._inside(out)

    def _inside(self, rows: np.ndarray) -> np.ndarray:
        """The exponential of a bound's logarithm may lie a digit outside it."""
        rows[:, -1] = np.clip(rows[:, -1], math.exp(self._low) * (1 + 1e-12), math.exp(self._high) * (1 - 1e-12))
        return rows

    def _lowered(self, rows: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Random sizes lowered, a level at a time, until every row fits its share of the budget."""
        empty = ~(rows[:, :-1] > 0).any(1)
        rows[empty, rng.integers(len(self._top), size=int(empty.sum()))] = 1
        while len(over := np.flatnonzero(self.features.params(rows) > shares * self.limit)):
            sized = rows[over, :-1]
            at = np.where(sized > 0, rng.random(sized.shape), -1.0).argmax(1)
            rows[over, at] -= 1
        empty = ~(rows[:, :-1] > 0).any(1)
        return self._inside(rows[~empty])
