"""Finished candidates that are no points of the space: controls of other sizes, cuts with sizes of a place's own.

Shapes: M candidates, D dimensions, C costs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from autopeft.candidate import Candidate
from autopeft.hybrid import Hybrid
from autopeft.searching.known_cost.near import near_row
from autopeft.searching.known_cost.points import Points
from autopeft.searching.stored import EVALUATION

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from autopeft.searching.objective import Objective

#: The standard deviation of what a candidate differs by from a training of the point that it is near to, as a share of
#: that of all scores: of one that was trained from the beginning, and of one that was healed. Healed ones have more
#: epochs behind them, or have lost what they needed: over seven pairs on TREC they were 0.3 points better than their
#: structures trained from scratch (standard deviation 1 point), and two far down were 40 worse. So there is no bias
#: worth a parameter, and a lot of noise.
_NEAR, _HEALED = 0.1, 0.25


@dataclass(frozen=True)
class Outside:
    """Their `scores` [M] (larger is better), true `costs` [M, C], and `rows` [M, D] where the space has one near (NaN
    elsewhere), which miss their structures by `shares` [M] of the spread of scores.
    """

    rows: np.ndarray
    scores: np.ndarray
    costs: np.ndarray
    shares: np.ndarray

    @classmethod
    def none(cls, points: Points) -> Self:
        """No candidates."""
        return cls(np.empty((0, len(points.dimensions))), np.empty(0), np.empty((0, len(points.names))), np.empty(0))

    @classmethod
    def of(cls, trials: Sequence[FrozenTrial], points: Points, score: Objective) -> Self:
        """Of the trials that have ended without a point, within the budget."""
        names = {d.name for d in points.dimensions}
        known = {str(t.user_attrs.get("key")): t.user_attrs[EVALUATION] for t in trials if EVALUATION in t.user_attrs}
        found = [
            _one(t, points, score, known)
            for t in trials
            if not names <= t.params.keys() and _counts(t.user_attrs.get(EVALUATION), points, score)
        ]
        if not found:
            return cls.none(points)
        rows, scores, costs, shares = zip(*found, strict=True)
        return cls(np.array(rows), np.array(scores), np.array(costs).reshape(len(found), -1), np.array(shares))

    @property
    def near(self) -> np.ndarray:
        """Which have a row: booleans [M]."""
        near: np.ndarray = ~np.isnan(self.rows).any(axis=1)
        return near


def _counts(evaluation: Mapping[str, Any] | None, points: Points, score: Objective) -> bool:
    """Whether it could be a member of the front."""
    if evaluation is None or evaluation["status"] != "done":
        return False
    metrics, limits = evaluation["metrics"], points.budget.limits
    if not {score.metric, *points.names, *limits} <= metrics.keys() or not math.isfinite(metrics[score.metric]):
        return False
    return all(metrics[name] <= limit for name, limit in limits.items())


def _one(
    trial: FrozenTrial, points: Points, score: Objective, known: Mapping[str, Mapping[str, Any]]
) -> tuple[np.ndarray, float, list[float], float]:
    evaluation, metrics = trial.user_attrs[EVALUATION], trial.user_attrs[EVALUATION]["metrics"]
    row = points.memo.get(trial.number)
    if row is None:
        hybrid = Hybrid.from_json(evaluation["candidate"]["hybrid"])
        row = near_row(points, Candidate(hybrid, _training(evaluation, known)))
        row = np.full(len(points.dimensions), np.nan) if row is None else row
        points.memo[trial.number] = row
    healed = "origin" in evaluation
    exact = not healed and (row[points.levels > 0] % 1 == 0).all()
    share = 0.0 if exact else _HEALED if healed else _NEAR
    return row, -score.loss(metrics[score.metric]), [metrics[name] for name in points.names], share


def _training(evaluation: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """What a candidate was trained with; of a healed one what the training was that it goes back to.

    A healing is short and begins at trained weights: its own rate says nothing of a training from the beginning.
    """
    first, seen = evaluation, set[str]()
    while "origin" in first and (parent := first["origin"]["parent"]) in known and parent not in seen:
        seen.add(parent)
        first = known[parent]
    training: dict[str, float] = first["candidate"]["training"]
    return training
