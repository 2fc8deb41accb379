"""Ranges that a search widens, as its best candidates sit at their ends.

A function of the study: what a range has become stands with the trials that were drawn from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from autopeft.dimensions import Continuous
from autopeft.searching.dominance import ranks
from autopeft.searching.range_ends import END
from autopeft.searching.stored import EVALUATION
from autopeft.space import SearchSpace
from autopeft.training_spec import TIMES, WIDER

#: Nothing is widened before so many whole trainings have ended; the best are this many at least.
_ENOUGH, _BEST = 8, 4
#: This share of the best must sit at the end, and two of them.
_SHARE = 1 / 3


def widened(space: SearchSpace, study: Study) -> SearchSpace:
    """The space with the ranges that the next proposal is drawn from.

    A range grows by a factor of 3 where a third of the best candidates (the front, and what is next to it where that is
    small) sit in its last 5%, and not more trainings there have failed than not. It never shrinks again. Only trainings
    from the beginning count: a short healing says nothing of the rate for others.
    """
    if not any(d.bounds for d in space.ranges):
        return space
    trials, drawn = study.get_trials(deepcopy=False), drawn_from(space, study)
    # Controls may be far outside of a range: it grows until the best are no longer at its end.
    for _ in range(TIMES):
        drawn = drawn.ranging(_wanted(drawn, trials, study.directions))
    return drawn


def in_words(before: SearchSpace, now: SearchSpace) -> list[str]:
    """What was widened, a sentence a range."""
    found = []
    for old, new in zip(before.ranges, now.ranges, strict=True):
        if (old.low, old.high) != (new.low, new.high):
            found.append(
                f"the best candidates have {new.name} at an end of {old.low:g} to {old.high:g}: it is searched from "
                f"{new.low:g} to {new.high:g} from now on (widen: false in the space keeps a range)"
            )
    return found


def figures(space: SearchSpace, study: Study) -> dict[str, float]:
    """The ends of ranges that were widened so far, for the summary."""
    found = dict[str, float]()
    for old, new in zip(space.ranges, drawn_from(space, study).ranges, strict=True):
        ends = {"low": (old.low, new.low), "high": (old.high, new.high)}
        found |= {f"widened.{old.name}.{end}": after for end, (before, after) in ends.items() if before != after}
    return found


def drawn_from(space: SearchSpace, study: Study) -> SearchSpace:
    """The space with the ranges that proposals were drawn from so far."""
    return space.ranging(_drawn(space, study.get_trials(deepcopy=False)))


def _drawn(space: SearchSpace, trials: Sequence[FrozenTrial]) -> Iterator[dict[str, float]]:
    """The ends of the ranges that trials were drawn from."""
    for name in (d.name for d in space.ranges if d.bounds):
        for trial in trials:
            distribution = trial.distributions.get(name)
            if isinstance(distribution, FloatDistribution):
                yield {name: distribution.low}
                yield {name: distribution.high}


def _wanted(
    space: SearchSpace, trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]
) -> list[dict[str, float]]:
    """Values that ranges shall hold too."""
    whole = [(t, e) for t in trials if (e := _whole(t)) is not None]
    done = [(t.values, e["candidate"]["training"]) for t, e in whole if e["status"] == "done" and t.values]
    lost = [e["candidate"]["training"] for _, e in whole if e["status"] == "failed"]
    if len(done) < _ENOUGH:
        return []
    signs = np.array([1.0 if d == StudyDirection.MINIMIZE else -1.0 for d in directions])
    best = _best(np.array([values for values, _ in done]) * signs)
    found = []
    for d in space.ranges:
        if d.bounds is None:
            continue
        known = _parts(d, [training for _, training in done])
        failed = _parts(d, lost)
        for end, further in ((known >= 1 - END, d.high * WIDER), (known <= END, d.low / WIDER)):
            there = end & best
            away = failed >= 1 - END if further > d.high else failed <= END
            if there.sum() >= max(2, _SHARE * best.sum()) and away.sum() <= end.sum():
                found.append({d.name: further})
    return found


def _whole(trial: FrozenTrial) -> Mapping[str, Any] | None:
    """The evaluation of a trial that was trained from the beginning for as long as others."""
    evaluation = trial.user_attrs.get(EVALUATION)
    whole = evaluation is not None and "origin" not in evaluation and evaluation.get("epochs") is None
    return evaluation if whole else None


def _best(losses: np.ndarray) -> np.ndarray:
    """Which rows [N, O] are the best: the front, then the front of the others, until there are enough."""
    found = ranks(losses)
    last = np.sort(found)[min(_BEST, len(losses)) - 1]
    return (found <= last) & (found < len(losses))


def _parts(dimension: Continuous, trainings: Sequence[Mapping[str, float]]) -> np.ndarray:
    """How far along the range [N] values are, on its scale; NaN where there is none."""
    return dimension.parts(np.array([t.get(dimension.name, np.nan) for t in trainings], dtype=float))
