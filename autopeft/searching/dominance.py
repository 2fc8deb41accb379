"""Non-dominated vectors, the volume that they dominate, their knee. Losses: less is better in every column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Losses = Sequence[Sequence[float]] | np.ndarray


def non_dominated(losses: Losses) -> np.ndarray:
    """Which of the rows [N, M] no other row dominates (is nowhere larger and somewhere smaller): booleans [N].

    A row with a NaN is dominated, and dominates nothing; equal rows do not dominate each other.
    """
    rows = np.asarray(losses, dtype=float)
    if not len(rows):
        return np.zeros(0, dtype=bool)
    rows = np.where(np.isnan(rows).any(axis=1, keepdims=True), np.inf, rows)
    dominated = _dominated_of_two(rows) if rows.shape[1] == 2 else _dominated(rows)
    return ~dominated & np.isfinite(rows).all(axis=1)


def ranks(losses: Losses) -> np.ndarray:
    """The non-dominated rank [N] of each row [N, M] (Deb et al. 2002): 0 on the front, 1 on that of the others, ...

    Rows that are not finite come after all: their rank is N.
    """
    rows = np.asarray(losses, dtype=float)
    found, left = np.full(len(rows), len(rows)), np.arange(len(rows))
    rank = 0
    while (front := non_dominated(rows[left])).any():
        found[left[front]] = rank
        left, rank = left[~front], rank + 1
    return found


def _dominated(rows: np.ndarray) -> np.ndarray:
    no_more = (rows[:, None] <= rows[None]).all(axis=2)
    less = (rows[:, None] < rows[None]).any(axis=2)
    return np.asarray((no_more & less).any(axis=0))


def _dominated_of_two(rows: np.ndarray) -> np.ndarray:
    """The same of two columns, by sorting: of thousands of points, or of many fronts."""
    order = np.lexsort((rows[:, 1], rows[:, 0]))
    first, second = rows[order].T
    # Where rows with this first column begin; the least of the second is there, and before it.
    group = np.searchsorted(first, first)
    before = np.concatenate([[np.inf], np.minimum.accumulate(second)])[group]
    found = np.zeros(len(rows), dtype=bool)
    found[order] = (before <= second) | (second[group] < second)
    return found


def hypervolume(losses: Losses, reference: Sequence[float]) -> float:
    """The volume between the reference [M] and the rows [N, M]; rows that are not below the reference add nothing.

    Exact, by slices along the last column (HSO; While et al. 2006): meant for fronts of tens of points.
    """
    rows, corner = np.asarray(losses, dtype=float), np.asarray(reference, dtype=float)
    return _sliced(rows[(rows < corner).all(axis=1)], corner) if len(rows) else 0.0


def _sliced(rows: np.ndarray, corner: np.ndarray) -> float:
    if not len(rows):
        return 0.0
    if len(corner) == 1:
        return float(corner[0] - rows[:, 0].min())
    rows = rows[np.argsort(rows[:, -1], kind="stable")]
    depths = np.diff(np.append(rows[:, -1], corner[-1]))
    return sum(float(depth) * _sliced(rows[: i + 1, :-1], corner[:-1]) for i, depth in enumerate(depths) if depth > 0)


def knee(costs: Sequence[float], scores: Sequence[float]) -> int:
    """Which of the points is the farthest from the chord between the ends, both axes scaled to 0..1 (Das 1999)."""
    # On unit axes the chord runs from (0, 0) to (1, 1), and the distance to it is (score - cost) / sqrt(2).
    return int(np.argmax(_unit(-np.asarray(scores, dtype=float)) - _unit(np.asarray(costs, dtype=float))))


def _unit(values: np.ndarray) -> np.ndarray:
    """Scaled to 0..1; zeros when all are equal."""
    return (values - values.min()) / (np.ptp(values) or 1.0)
