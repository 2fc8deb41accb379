"""Rows near a space's points: what repeats them, where other hybrids lie among them.

Shapes: N rows, D dimensions.
"""

from __future__ import annotations

import numpy as np

from autopeft.candidate import Candidate
from autopeft.dimensions import Continuous
from autopeft.searching.known_cost.points import Points
from autopeft.searching.repeats import Repeats


class Known:
    """Rows [N, D] that were proposed: `has` says which others are the same hybrids at the same or nearby rates."""

    def __init__(self, points: Points, rows: np.ndarray) -> None:
        self._points, self._repeats = points, Repeats(points.dimensions, alone=points.space.size == 1)
        self._zero_is_empty = points.space.smallest.is_empty
        for row in rows:
            self._repeats.add(self._structure(row)[0], self._training(row))

    def has(self, row: np.ndarray) -> bool:
        """Whether a row [D] repeats one of them."""
        structure, empty = self._structure(row)
        return self._repeats.has(structure, self._training(row), empty)

    def _structure(self, row: np.ndarray) -> tuple[bytes, bool]:
        """What tells its hybrid from others, and whether it adapts nothing.

        Features tell hybrids apart, where rows do not: sizes of a layer that is off count for nothing.
        """
        blocks, layers, _ = self._points.shape
        features = self._points.features(row[None])[0, : blocks * layers]
        return features.tobytes(), self._zero_is_empty and not features.any()

    def _training(self, row: np.ndarray) -> list[float]:
        training: list[float] = row[~self._points.structure].tolist()
        return training


def near_row(points: Points, candidate: Candidate) -> np.ndarray | None:
    """The row [D] that is nearest to any candidate, its levels between two sizes where the candidate's sizes are.

    A training hyper-parameter that the candidate does not name is in the middle of its range. None for a hybrid with
    methods that the space does not have (see `SearchSpace.near_point`).
    """
    near = points.space.near_point(candidate.hybrid)
    if near is None:
        return None
    for d in points.dimensions:
        if d.kind != "training":
            continue
        value = candidate.training.get(d.name)
        if isinstance(d, Continuous):
            near[d.name] = d.at(0.5) if value is None else value
        else:
            middle = (len(d.values) - 1) / 2
            near[d.name] = middle if value is None else float(np.abs(np.log(np.array(d.values) / value)).argmin())
    return np.array([near[d.name] for d in points.dimensions])


def rounded(points: Points, rows: np.ndarray) -> np.ndarray:
    """The points [N, D] next to rows that lie between points, or beyond a range."""
    rows = np.where(points.levels > 0, np.rint(rows), rows)
    for i, d in enumerate(points.dimensions):
        if isinstance(d, Continuous):
            rows[:, i] = np.clip(rows[:, i], d.low, d.high)
    return rows
