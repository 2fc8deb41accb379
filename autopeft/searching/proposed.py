"""What a study has proposed already, by whomever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from optuna import Study
from optuna.trial import FrozenTrial

from autopeft.candidate import Job
from autopeft.hybrid import Hybrid
from autopeft.searching.problem import Problem
from autopeft.searching.repeats import Repeats
from autopeft.space import Point, SearchSpace

#: The attribute of a trial with the job that no sampler has proposed.
JOB = "job"


def own_number(study: Study, trial: FrozenTrial) -> int:
    """How many trials before this one the sampler was asked for, which has not proposed controls and cuts."""
    return sum(t.number < trial.number and JOB not in t.user_attrs for t in study.get_trials(deepcopy=False))


class _One(NamedTuple):
    """A candidate's key; its hybrid and the coordinates of its training, where it is a training like others."""

    key: str
    hybrid: Hybrid | None
    training: list[float] | None


class Proposed:
    """The candidates of all trials but one, running, failed and withdrawn ones included.

    What was trained from weights of another, or for other epochs, counts by its key only: the same hybrid, trained
    from the beginning at a nearby rate, is no repeat of that.
    """

    def __init__(self, study: Study, asking: FrozenTrial, problem: Problem, exact: bool = False) -> None:
        self._space = problem.space
        alone = exact or self._space.size == 1
        self._keys, self._repeats = set[str](), Repeats(self._space.dimensions, alone)
        self._names = [d.name for d in self._space.dimensions if d.kind == "training"]
        for trial in study.get_trials(deepcopy=False):
            one = None if trial.number == asking.number else self._of(trial, problem.memo)
            if one is None:
                continue
            self._keys.add(one.key)
            if one.hybrid is not None and one.training is not None:
                self._repeats.add(one.hybrid, one.training)

    def has(self, point: Point) -> bool:
        """Whether the candidate of a point was proposed, or one so near that it is a repeat."""
        candidate = self._space.decode(point)
        hybrid, training = candidate.hybrid, [point[name] for name in self._names]
        return candidate.key in self._keys or self._repeats.has(hybrid, training, hybrid.is_empty)

    def _of(self, trial: FrozenTrial, memo: dict[Any, Any]) -> _One | None:
        """What a trial is of; worked out once a candidate."""
        key, job = trial.user_attrs.get("key"), trial.user_attrs.get(JOB)
        name = ("proposed", key, job is None or ("origin" not in job and job.get("epochs") is None))
        if key is not None and name in memo:
            known: _One = memo[name]
            return known
        one = self._new(trial, job)
        if key is not None and one is not None:
            memo[name] = one
        return one

    def _new(self, trial: FrozenTrial, given: Mapping[str, Any] | None) -> _One | None:
        if given is not None:
            job = Job.from_json(given)
            candidate = job.candidate
            training = self._repeats.coordinates(candidate.training)
            return _One(candidate.key, candidate.hybrid if job.is_whole else None, training)
        point = point_in(trial.params, self._space)
        if point is None:
            key = trial.user_attrs.get("key")
            return None if key is None else _One(key, None, None)
        candidate = self._space.decode(point)
        return _One(candidate.key, candidate.hybrid, [float(point[name]) for name in self._names])


def point_in(params: Mapping[str, Any], space: SearchSpace) -> Point | None:
    """The part of a trial's parameters that is a point of the space; None when it is not whole."""
    names = [d.name for d in space.dimensions if d.name in params and d.contains(params[d.name])]
    return {name: params[name] for name in names} if len(names) == len(space.dimensions) else None
