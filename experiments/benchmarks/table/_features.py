"""Points as numbers that trees can split well."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from autopeft.dimensions import Ordinal
from autopeft.space import SearchSpace

Point = Mapping[str, int | float]


class Features:
    """Sizes by layer and method, their sums, and the learning rate; all on logarithmic scales.

    Shapes: points [N, D] in the order of the space's dimensions; features [N, F]. For spaces with a size a layer and a
    learning rate. Trainable parameters are a sum over dimensions (each method's do not depend on the others), so they
    come from a list a dimension, for many points at once.
    """

    def __init__(self, space: SearchSpace) -> None:
        if space.shared or space.dimensions[-1].name != "learning_rate":
            raise ValueError("features: for spaces with sizes per layer and a learning rate")
        self._space, self.names = space, [d.name for d in space.dimensions]
        structure = space.dimensions[:-1]
        blocks = len(structure) // space.shape.layers
        if not all(isinstance(d, Ordinal) for d in structure) or blocks * space.shape.layers != len(structure):
            raise ValueError("features: for spaces with as many sizes in every layer")
        self._shape = (space.shape.layers, blocks)
        most = max(len(d.values) for d in space.ordinal)
        self._sizes, self._params = np.zeros((len(structure), most)), np.zeros((len(structure), most))
        empty: dict[str, int | float] = {d.name: 0 for d in space.dimensions}
        for i, d in enumerate(space.structure):
            self._sizes[i, : len(d.values)] = d.values
            hybrids = [space.hybrid(empty | {d.name: level}) for level in range(len(d.values))]
            self._params[i, : len(d.values)] = [h.num_params(space.shape) for h in hybrids]
        self._row = np.arange(len(structure))

    def table(self, points: Sequence[Point]) -> np.ndarray:
        """Points as an array [N, D]."""
        return np.array([[p[n] for n in self.names] for p in points], dtype=float).reshape(-1, len(self.names))

    def point(self, row: np.ndarray) -> dict[str, int | float]:
        """The point of a row of `table`."""
        return {n: int(v) for n, v in zip(self.names[:-1], row, strict=False)} | {self.names[-1]: float(row[-1])}

    def sizes(self, table: np.ndarray) -> np.ndarray:
        """Sizes [N, layers, methods]."""
        return self._sizes[self._row, table[:, :-1].astype(int)].reshape(-1, *self._shape)

    def params(self, table: np.ndarray) -> np.ndarray:
        """Trainable parameters [N], exactly."""
        return self._params[self._row, table[:, :-1].astype(int)].sum(1)

    def __call__(self, table: np.ndarray) -> np.ndarray:
        sizes = self.sizes(table)
        logs, present = np.log2(1 + sizes), sizes > 0
        adapted, count = present.any(2), len(table)
        lowest = np.where(adapted.any(1), adapted.argmax(1), self._shape[0])
        rate, params = np.log2(table[:, -1]), np.log2(1 + self.params(table))
        return np.hstack(
            [
                logs.reshape(count, -1),
                logs.sum(1),
                logs.sum(2),
                np.log2(1 + sizes.sum(1)),
                # Of half the parameters the same is learnt at a larger rate: a direction that trees find in steps only.
                np.stack([rate, params, rate + params / 2, adapted.sum(1), lowest, present.sum((1, 2))], axis=1),
            ]
        )


def unit(space: SearchSpace, table: np.ndarray) -> np.ndarray:
    """Rows of points [N, D] with every dimension scaled to 0..1; the learning rate on its logarithmic scale."""
    rate = space.dimensions[-1]
    low, high = math.log(rate.low), math.log(rate.high)
    top = np.array([len(d.values) - 1 for d in space.structure], dtype=float)
    return np.hstack([table[:, :-1] / top, (np.log(table[:, -1:]) - low) / (high - low)])
