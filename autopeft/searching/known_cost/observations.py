"""What a study knows, as the sampler's surrogate takes it.

Shapes: N finished or stopped trials, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autopeft.searching.extrapolation import Extrapolation
from autopeft.searching.known_cost.outside import Outside
from autopeft.searching.known_cost.points import Points
from autopeft.searching.stored import EVALUATION

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

    from autopeft.candidate import Evaluation
    from autopeft.searching.objective import Objective

_Told = tuple[float, float, bool]


@dataclass(frozen=True)
class Observations:
    """`rows` [N, D] with `scores` [N] (larger is better) and their known `variances` [N]: a stopped candidate stands
    with the final score that its curve points to, and the variance of that; a failed one with the worst finished score,
    so that what diverges or needs too much memory is left alone. `done` [N] says which were trained to the end.
    `pending` rows are being trained, `known` rows are all points that ever were proposed.

    Rows of candidates that are no points lie between points, with the variance of what they miss; `costs` [N, C] are
    true for all. What the space has no row for stands in `beside`, its scores and costs.
    """

    rows: np.ndarray
    scores: np.ndarray
    variances: np.ndarray
    done: np.ndarray
    pending: np.ndarray
    known: np.ndarray
    costs: np.ndarray
    beside: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(
        cls, study: Study, asking: FrozenTrial, points: Points, score: Objective, value: int, epochs: int
    ) -> Observations:
        """Of all trials but the one that is asked for; `value` is the score's place among the trial's values."""
        from optuna.trial import TrialState

        every = [t for t in study.get_trials(deepcopy=False) if t.number != asking.number]
        names = {d.name for d in points.dimensions}
        trials = [t for t in every if names <= t.params.keys()]
        rows = np.array([points.row(t.params) for t in trials]).reshape(len(trials), len(points.dimensions))
        seen = [t.user_attrs.get(EVALUATION) or {} for t in trials]
        curves = [_curve(e.get("curve", ()), score) for e in seen]
        known = Extrapolation.fit([c for c in curves if len(c) >= epochs], epochs)
        told = [
            _told(e.get("status") == "stopped", -score.loss(t.values[value]), curve, known)
            if t.state == TrialState.COMPLETE and t.values is not None
            else None
            for t, e, curve in zip(trials, seen, curves, strict=True)
        ]
        pending = [i for i, t in enumerate(trials) if t.state == TrialState.RUNNING]
        failed = [i for i, t in enumerate(trials) if t.state == TrialState.FAIL]
        return cls._of(points, rows, told, rows[pending], rows[failed], Outside.of(every, points, score))

    @classmethod
    def of_evaluations(
        cls, evaluations: Iterable[Evaluation], points: Points, score: Objective, epochs: int
    ) -> Observations:
        """Of evaluations of the space that are not failed, when nothing is being trained."""
        there = [(e, points.space.point_of(e.candidate)) for e in evaluations if e.status != "failed"]
        ended = [e for e, point in there if point is not None and e.job.is_whole]
        rows = np.array([points.row(point) for e, point in there if point is not None and e.job.is_whole])
        curves = [_curve(e.curve, score) for e in ended]
        known = Extrapolation.fit([c for c in curves if len(c) >= epochs], epochs)
        told = [
            _told(e.status == "stopped", -score.loss(e.metrics.get(score.metric, math.nan)), curve, known)
            for e, curve in zip(ended, curves, strict=True)
        ]
        rows = rows.reshape(len(ended), len(points.dimensions))
        return cls._of(points, rows, told, rows[:0], rows[:0], Outside.none(points))

    @classmethod
    def _of(
        cls,
        points: Points,
        rows: np.ndarray,
        told: Sequence[_Told | None],
        pending: np.ndarray,
        failed: np.ndarray,
        outside: Outside,
    ) -> Observations:
        index = [i for i, seen in enumerate(told) if seen is not None]
        table = np.array([seen for seen in told if seen is not None], dtype=float).reshape(len(index), 3)
        near = outside.near
        scores = np.concatenate([table[:, 0], outside.scores[near]])
        done = np.concatenate([table[:, 2] > 0, np.ones(near.sum(), dtype=bool)])
        if done.any():
            scores = np.clip(scores, *_range(scores[done]))
            # What has an end is no failure: a proposal that is withdrawn is one that was there before.
            ended = {row.tobytes() for row in rows[index]}
            failed = np.array([row for row in failed if row.tobytes() not in ended]).reshape(-1, rows.shape[1])
        else:
            failed = failed[:0]
        count, spread = len(failed), float(scores[done].std()) if done.any() else 0.0
        inside = np.concatenate([rows[index], failed])
        own = points.costs(inside)
        return cls(
            np.concatenate([rows[index], outside.rows[near], failed]),
            np.concatenate([scores, np.full(count, scores.min(initial=np.inf) if count else 0.0)]),
            np.concatenate([table[:, 1], (outside.shares[near] * spread) ** 2, np.zeros(count)]),
            np.concatenate([done, np.zeros(count, dtype=bool)]),
            pending,
            rows,
            np.concatenate([own[: len(index)], outside.costs[near], own[len(index) :]]),
            (outside.scores[~near], outside.costs[~near]),
        )


def _range(finished: np.ndarray) -> tuple[float, float]:
    """The least and the largest score that counts, from those of whole trainings.

    A few scores far below the others (an error without a bound) would be all that the surrogate sees: Tukey's fence. An
    extrapolated score is never better or worse than what was seen.
    """
    low, high = np.quantile(finished, [0.25, 0.75])
    fence = low - 1.5 * (high - low) if high > low else -np.inf
    return max(float(fence), float(finished.min())), float(finished.max())


def _curve(curve: Iterable[Mapping[str, float]], score: Objective) -> list[tuple[float, float]]:
    """Score (larger is better) and loss by epoch; empty where nothing is known but the value."""
    nan = math.nan
    return [(-score.loss(e.get(score.metric, nan)), e.get("loss", nan)) for e in curve]


def _told(stopped: bool, final: float, curve: Sequence[tuple[float, float]], known: Extrapolation) -> _Told | None:
    """(Score, variance, whether it is done) of a trial that ended with `final`; None where that says nothing."""
    if not stopped:
        return (final, 0.0, True) if math.isfinite(final) else None
    mean, sd = known.final(len(curve), curve[-1]) if curve else (math.nan, math.inf)
    # Too few have ended to tell where this one would have: it says nothing yet.
    return (mean, sd**2, False) if math.isfinite(mean) and math.isfinite(sd) else None
