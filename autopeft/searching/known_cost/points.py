"""Points of a search space as rows of numbers, with their costs: thousands at once.

Shapes: N points, D dimensions, C costs, L layers, B blocks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from itertools import product

import numpy as np

from autopeft.budget import Budget
from autopeft.dimensions import Continuous, Dimension, Ordinal
from autopeft.searching.known_cost.tables import Table
from autopeft.space import Point, SearchSpace


class Points:
    """Rows [N, D] of a space: level indices of ordinal dimensions, the numbers of continuous ones.

    `levels` [D] is the number of levels, 0 for a continuous dimension; `structure` [D] says which make the hybrid.
    """

    def __init__(self, space: SearchSpace, budget: Budget, costs: Sequence[str] = ()) -> None:
        self.space, self.budget, self.names = space, budget, tuple(costs)
        self.dimensions = space.dimensions
        self.levels = np.array([len(d.values) if isinstance(d, Ordinal) else 0 for d in self.dimensions])
        self.structure = np.array([d.kind != "training" for d in self.dimensions])
        #: Rows near candidates that are no points, by their trials' numbers: worked out once.
        self.memo: dict[int, np.ndarray] = {}
        self._limits = np.array([budget.limits[name] for name in budget.limits], dtype=float)
        self._tables = {name: Table(self, name) for name in {*costs, *budget.limits}}

    def row(self, point: Point) -> np.ndarray:
        """The row [D] of a point."""
        return np.array([point[d.name] for d in self.dimensions], dtype=float)

    def point(self, row: np.ndarray) -> dict[str, int | float]:
        """The point of a row."""
        return {
            d.name: float(v) if isinstance(d, Continuous) else int(v) for d, v in zip(self.dimensions, row, strict=True)
        }

    def costs(self, rows: np.ndarray) -> np.ndarray:
        """The named costs [N, C] of rows, exactly."""
        costs = [self._tables[name].of(rows) for name in self.names]
        return np.stack(costs, axis=1) if costs else np.empty((len(rows), 0))

    def fit(self, rows: np.ndarray, shares: np.ndarray | float = 1.0) -> np.ndarray:
        """Which rows are within these shares of the budget, counted from the empty hybrid: booleans [N]."""
        if not self.budget.limits:
            return np.ones(len(rows), dtype=bool)
        limited = np.stack([self._tables[name].of(rows) for name in self.budget.limits], axis=1)
        limits = self._floor + np.ceil(np.reshape(shares, (-1, 1)) * (self._limits - self._floor))
        within: np.ndarray = (limited <= limits).all(axis=1)
        return within

    @cached_property
    def _floor(self) -> np.ndarray:
        """What the empty hybrid costs of each limited cost."""
        empty = np.zeros((1, len(self.dimensions)))
        return np.array([self._tables[name].of(empty)[0] for name in self.budget.limits])

    @cached_property
    def extent(self) -> np.ndarray:
        """The least that a hybrid adds to the cost of the smallest one, if anything, and the most allowed: [C, 2]."""
        low = np.zeros((1, len(self.dimensions)))
        high = np.where(self.structure, self.levels - 1, 0)[None].astype(float)
        base = self.costs(low)[0]
        atoms = _atoms(self.dimensions, self.space.of_model)
        least = np.array([min((c for c in column if c > 0), default=1.0) for column in (self.costs(atoms) - base).T])
        most = np.array([self.budget.limits.get(name, np.inf) for name in self.names])
        most = np.minimum(most, self.costs(high)[0]) - base
        return np.stack([least, np.maximum(most, least)], axis=1)

    @property
    def base(self) -> np.ndarray:
        """The costs [C] of the empty hybrid."""
        return self.costs(np.zeros((1, len(self.dimensions))))[0]

    def random_training(self, rows: np.ndarray, rng: np.random.Generator) -> None:
        """Draw the training hyper-parameters of rows anew, in place."""
        for i, dimension in enumerate(self.dimensions):
            if dimension.kind == "training":
                rows[:, i] = [dimension.random(rng) for _ in range(len(rows))]

    def lowered(self, rows: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Rows [N, D] within their shares [N] of the budget: while one is over, a random level of it is halved.

        `Budget.repair` is finer, and takes milliseconds a point.
        """
        rows, structure = rows.copy(), np.flatnonzero(self.structure)
        over = np.flatnonzero(~self.fit(rows, shares))
        while len(over):
            present = rows[over][:, structure] > 0
            going = present.any(axis=1)
            over, present = over[going], present[going]
            column = structure[np.where(present, rng.random(present.shape), -1.0).argmax(axis=1)]
            rows[over, column] = rows[over, column] // 2
            over = over[~self.fit(rows[over], shares[over])]
        return rows

    def unit(self, rows: np.ndarray) -> np.ndarray:
        """Rows on unit scales [N, D]: sizes by log2(1 + size), rates on their own scale."""
        levels = np.where(self.levels > 0, rows, 0)
        low, column = levels.astype(int), np.arange(len(self.levels))
        unit = self._scales[column, low]
        if (low < levels).any():
            # Between two levels stands what is near the space, and not of it.
            high = np.minimum(low + 1, np.maximum(self.levels - 1, 0))
            unit += (levels - low) * (self._scales[column, high] - unit)
        for i, d in enumerate(self.dimensions):
            if isinstance(d, Continuous):
                unit[:, i] = d.parts(rows[:, i])
        return unit

    @cached_property
    def _scales(self) -> np.ndarray:
        """The levels of each dimension on 0..1: [D, levels], with zeros where a dimension has fewer."""
        scales = np.zeros((len(self.dimensions), max(1, self.levels.max(initial=1))))
        for row, d in zip(scales, self.dimensions, strict=True):
            if isinstance(d, Ordinal):
                row[: len(d.values)] = _ordinal_scale(d)
        return scales

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """(B, L, T): blocks with sizes to choose, layers, training hyper-parameters."""
        training = sum(d.kind == "training" for d in self.dimensions)
        return len(self._blocks), self.space.shape.layers, training

    def features(self, rows: np.ndarray) -> np.ndarray:
        """What the surrogate sees [N, B * L + T]: each block's sizes layer by layer, then the training dimensions.

        A size that layers share stands in those that are on, one of the model in all; a block of one size has its bits.
        """
        size, bit = self._columns
        # What has no dimension of its own is 1.
        unit = np.column_stack([self.unit(rows), np.ones(len(rows))])
        return unit[:, size] * unit[:, bit]

    @cached_property
    def _columns(self) -> tuple[list[int], list[int]]:
        """For each feature the dimension that is its size and the bit that it counts with; -1 for none."""
        bits = {d.layer: i for i, d in enumerate(self.dimensions) if d.kind == "bit"}
        place = {(d.layer, d.block): i for i, d in enumerate(self.dimensions) if isinstance(d, Ordinal)}
        sized = [(block, layer) for block in self._blocks for layer in range(self.space.shape.layers)]
        training = [i for i, d in enumerate(self.dimensions) if d.kind == "training"]
        size = [place.get((layer, block), place.get((None, block), -1)) for block, layer in sized]
        bit = [bits.get(layer, -1) if bits and block not in self.space.of_model else -1 for block, layer in sized]
        return size + training, bit + [-1] * len(training)

    @property
    def _blocks(self) -> list[str]:
        """Those with sizes to choose; all that stand in layers where these have bits, which choose too."""
        bits = any(d.kind == "bit" for d in self.dimensions)
        sized = {d.block for d in self.space.structure}
        return [b for b in self.space.methods if (bits and b not in self.space.of_model) or b in sized]


def moved_training(dimension: Dimension, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A training hyper-parameter's values [N] changed a little, or (one time in four) drawn anew."""
    anew = rng.random(len(values)) < 0.25
    if isinstance(dimension, Ordinal):
        top = len(dimension.values)
        near = np.clip(values + rng.choice([-1, 1], size=len(values)), 0, top - 1)
        return np.where(anew, rng.integers(0, top, size=len(values)), near)
    parts = np.where(anew, rng.random(len(values)), dimension.parts(values) + rng.normal(0, 0.1, len(values)))
    low, high = dimension.low, dimension.high
    span = np.clip(parts, 0, 1)
    moved = low * (high / low) ** span if dimension.log else low + span * (high - low)
    return np.clip(moved, low, high)


def _atoms(dimensions: Sequence[Dimension], of_model: Collection[str]) -> np.ndarray:
    """Rows of at most one size, at its first level, in one layer, where layers have bits: nothing costs less."""
    kinds = [d.kind for d in dimensions]
    before = [i for i, d in enumerate(dimensions) if isinstance(d, Ordinal) and d.block in of_model]
    sizes: list[list[int]] = [[], *([i] for i, kind in enumerate(kinds) if kind == "size")]
    bits: list[list[int]] = [[i] for i, kind in enumerate(kinds) if kind == "bit"] or [[]]
    chosen = [[*size, *bit] for size, bit in product(sizes, bits)] + [[i] for i in before]
    rows = np.zeros((len(chosen), len(kinds)))
    for row, columns in zip(rows, chosen, strict=True):
        row[columns] = 1
    return rows


def _ordinal_scale(dimension: Ordinal) -> np.ndarray:
    """The levels of an ordinal dimension on 0..1."""
    values = np.array(dimension.values, dtype=float)
    if dimension.kind == "training":
        values = np.log(values)
        values -= values[0]
    elif (np.diff(values) < 0).any():
        # Sizes that cost less the larger they are: by their place.
        values = np.arange(len(values), dtype=float)
    else:
        values = np.log2(1 + values)
    return values / (values[-1] or 1.0)
