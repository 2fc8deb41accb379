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
from autopeft.searching.known_cost.points import Points

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

    from autopeft.candidate import Evaluation
    from autopeft.searching.objective import Objective

#: The attribute in which `autopeft.searching.study` keeps a trial's evaluation, learning curve included.
EVALUATION = "evaluation"

_Told = tuple[float, float, bool]


@dataclass(frozen=True)
class Observations:
    """`rows` [N, D] with `scores` [N] (larger is better) and their known `variances` [N]: a stopped candidate stands
    with the final score that its curve points to, and the variance of that. `done` [N] says which were trained to the
    end. `pending` rows are being trained, `known` rows are all that ever were proposed.
    """

    rows: np.ndarray
    scores: np.ndarray
    variances: np.ndarray
    done: np.ndarray
    pending: np.ndarray
    known: np.ndarray

    @classmethod
    def of(
        cls, study: Study, asking: FrozenTrial, points: Points, score: Objective, value: int, epochs: int
    ) -> Observations:
        """Of all trials but the one that is asked for; `value` is the score's place among the trial's values."""
        from optuna.trial import TrialState

        trials = [t for t in study.get_trials(deepcopy=False) if t.number != asking.number]
        trials = [t for t in trials if all(d.name in t.params for d in points.dimensions)]
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
        return cls._of(rows, told, rows[pending])

    @classmethod
    def of_evaluations(
        cls, evaluations: Iterable[Evaluation], points: Points, score: Objective, epochs: int
    ) -> Observations:
        """Of evaluations that are not failed, when nothing is being trained."""
        ended = [e for e in evaluations if e.status != "failed"]
        rows = np.array([points.row(points.space.encode(e.candidate)) for e in ended])
        curves = [_curve(e.curve, score) for e in ended]
        known = Extrapolation.fit([c for c in curves if len(c) >= epochs], epochs)
        told = [
            _told(e.status == "stopped", -score.loss(e.metrics.get(score.metric, math.nan)), curve, known)
            for e, curve in zip(ended, curves, strict=True)
        ]
        rows = rows.reshape(len(ended), len(points.dimensions))
        return cls._of(rows, told, rows[:0])

    @classmethod
    def _of(cls, rows: np.ndarray, told: Sequence[_Told | None], pending: np.ndarray) -> Observations:
        index = [i for i, seen in enumerate(told) if seen is not None]
        table = np.array([seen for seen in told if seen is not None], dtype=float).reshape(len(index), 3)
        return cls(rows[index], table[:, 0], table[:, 1], table[:, 2] > 0, pending, rows)


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
