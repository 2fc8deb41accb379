"""The Optuna sampler; see `autopeft.searching.samplers.known_cost`.

Shapes: N points, D dimensions, C costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.samplers import BaseSampler, RandomSampler

from autopeft.errors import AutopeftError
from autopeft.searching.known_cost import design
from autopeft.searching.known_cost.improvement import Staircase
from autopeft.searching.known_cost.near import rounded
from autopeft.searching.known_cost.observations import Observations
from autopeft.searching.known_cost.points import Points
from autopeft.searching.known_cost.proposal import Effort, Gain, maximise
from autopeft.searching.objective import Objective

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    from autopeft.searching.known_cost.surrogate import Data, Surrogate, Trend
    from autopeft.searching.problem import Problem

#: The attribute of a trial that keeps the hyper-parameters fitted for it, so that later asks (of this process or of
#: one that resumes the study) go on from them.
_FIT = "known_cost:fit"
#: A fit is renewed when there are so many observations more than it has seen: this many, or this share of them.
_RENEWED = (2, 0.1)
#: Where the budget's limit is on an axis that ends at 1: what costs all that is allowed shall be worth something too.
_LIMIT = 0.95
#: Fronts that are drawn for a proposal.
_FRONTS = 8


class KnownCostSampler(BaseSampler):
    """Proposes within the budget what promises the most hypervolume, given what the study knows.

    A proposal depends on the study, the seeds and nothing else. With fewer than two finished trials, and in the first
    `startup` ones, it is a point of the starting design.
    """

    def __init__(self, problem: Problem, seed: int, design_seed: int, startup: int, axis: str) -> None:
        self._problem, self._seed, self._design_seed = problem, seed, design_seed
        self._startup, self._axis = startup, axis

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole box, from the first trial on."""
        return dict(self._problem.space.distributions())

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A point of the space within the budget."""
        objectives, prior = self._objectives(study), self._problem.prior
        # The first trials are the other search's front, which `BudgetedSampler` proposes.
        number, starting = trial.number - (len(prior.front) if prior else 0), self._design()
        if 0 <= number < len(starting) - (len(prior.front) if prior else 0):
            return starting[number]
        # Torch is needed from here on.
        from autopeft.searching.known_cost.one_thread import one_thread

        with one_thread():
            return self._promising(study, trial, objectives)

    def _promising(self, study: Study, trial: FrozenTrial, objectives: Sequence[Objective]) -> dict[str, Any]:
        """The point of largest expected improvement; a random one while too little is known, or when all are known."""
        at = next((i for i, o in enumerate(objectives) if not o.is_cost), None)
        if at is None:
            raise AutopeftError(f"sampler 'known_cost': no score among {', '.join(o.metric for o in objectives)}")
        points = self._points([o.metric for o in objectives if o.is_cost])
        seen = Observations.of(study, trial, points, objectives[at], at, self._problem.epochs)
        rng = np.random.default_rng([self._seed, 3])
        if seen.done.sum() < 2:
            return self._random(trial, rng)
        surrogate = self._surrogate(study, trial, points, seen)
        gain, front = self._gain(points, seen, surrogate, rng)
        row = maximise(gain, points, seen.known, front, rng, Effort())
        return self._random(trial, rng) if row is None else points.point(row)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter of the objective that is not in the space: uniform."""
        return RandomSampler(self._seed).sample_independent(study, trial, param_name, param_distribution)

    def _random(self, trial: FrozenTrial, rng: np.random.Generator) -> dict[str, Any]:
        """A random point, at the trial's place on the cost axis."""
        return design.spread(self._problem.space, self._problem.budget, 1, rng, first=trial.number)[0]

    def _design(self) -> list[dict[str, int | float]]:
        problem = self._problem
        key = ("design", self._design_seed, self._startup)
        if key not in problem.memo:
            problem.memo[key] = design.start(problem.space, problem.budget, self._startup, self._design_seed)
        known: list[dict[str, int | float]] = problem.memo[key]
        return [dict(point) for point in known]

    def _objectives(self, study: Study) -> list[Objective]:
        """The study's values: the problem's objectives, with the study's own directions."""
        from optuna.study import StudyDirection

        known, directions = self._problem.objectives, study.directions
        if len(directions) > len(known):
            raise AutopeftError(
                f"sampler 'known_cost': the study has {len(directions)} directions, and {len(known)} objectives were "
                f"named ({', '.join(o.metric for o in known)})"
            )
        minimised = [direction == StudyDirection.MINIMIZE for direction in directions]
        return [
            Objective(metric=o.metric, direction="min" if small else "max")
            for o, small in zip(known, minimised, strict=False)
        ]

    def _points(self, costs: list[str]) -> Points:
        memo, key = self._problem.memo, ("points", *costs)
        if key not in memo:
            memo[key] = Points(self._problem.space, self._problem.budget, costs)
        points: Points = memo[key]
        return points

    def _surrogate(self, study: Study, trial: FrozenTrial, points: Points, seen: Observations) -> Surrogate:
        """Fitted to what is known, with what is being trained as if it came out at its mean."""
        from autopeft.searching.known_cost.surrogate import Data, Surrogate

        data = Data(points.features(seen.rows), seen.scores, seen.variances, points.shape)
        trend = self._trend(points, data)
        fits = [t.system_attrs[_FIT] for t in study.get_trials(deepcopy=False) if _FIT in t.system_attrs]
        last: Mapping[str, Any] | None = fits[-1] if fits else None
        count = len(seen.scores)
        if last and count < last["observations"] + max(_RENEWED[0], int(_RENEWED[1] * last["observations"])):
            surrogate = Surrogate(data, last["parameters"], steps=0, trend=trend)
        else:
            surrogate = Surrogate(data, last and last["parameters"], trend=trend)
            fit: dict[str, Any] = {"observations": count, "parameters": surrogate.fitted}
            study._storage.set_trial_system_attr(trial._trial_id, _FIT, fit)
        return surrogate.with_pending(points.features(seen.pending))

    def _trend(self, points: Points, data: Data) -> Trend | None:
        """What a search of another task says of this one's scores."""
        from autopeft.searching.known_cost.transfer import learned_elsewhere, trend_here

        prior, memo = self._problem.prior, self._problem.memo
        if prior is None or len(prior.points) < 2:
            return None
        if "elsewhere" not in memo:
            memo["elsewhere"] = learned_elsewhere(prior, points)
        return trend_here(memo["elsewhere"], data.features, data.scores)

    def _gain(
        self, points: Points, seen: Observations, surrogate: Surrogate, rng: np.random.Generator
    ) -> tuple[Gain, np.ndarray]:
        """(The expected improvement of rows, points at the front as the surrogate sees it).

        Scores are noisy, so that the front isn't known: what counts is the mean over fronts that are drawn from the
        posterior at the evaluated candidates (Letham et al. 2019; Daulton et al. 2021, who draw a proposal's own score
        together with them: here it is integrated, in closed form, as if it were independent). A front of posterior
        means holds part of what a lucky measurement has promised, and nothing near it seems worth a trial.

        Candidates that are being trained count with their means, else a pack would propose the same again and again.
        What is no point of the space (cuts, other controls) is on the front too, at its true costs.
        """
        index = np.concatenate([np.flatnonzero(seen.done), len(seen.scores) + np.arange(len(seen.pending))])
        rows, floor = np.concatenate([seen.rows[seen.done], seen.pending]), float(seen.scores.min())
        costs = _on_axis(self._axis, points, np.concatenate([seen.costs[seen.done], points.costs(seen.pending)]))
        mean, draws = surrogate.own(index), surrogate.own_draws(index, _FRONTS, rng)
        # Of what has no place in the space nothing is known but its score.
        there, beside = seen.beside[0], _on_axis(self._axis, points, seen.beside[1])
        noisy = there + surrogate.noise * rng.standard_normal((_FRONTS, len(there)))
        every = np.concatenate([costs, beside])
        fronts = [Staircase(every, np.concatenate(scores), floor) for scores in zip(draws, noisy, strict=True)]

        def gain(candidates: np.ndarray) -> np.ndarray:
            expected, sd = surrogate.posterior(points.features(candidates))
            at = _on_axis(self._axis, points, points.costs(candidates))
            return np.mean([front.improvement(at, expected, sd) for front in fronts], axis=0)

        best = Staircase(every, np.concatenate([mean, there]), floor).best(costs)
        return gain, rounded(points, rows[mean >= best])


def _on_axis(axis: str, points: Points, costs: np.ndarray) -> np.ndarray:
    """Costs [N, C] on an axis from 0 (the smallest hybrid, or in logarithms the least that is added to it)."""
    if not points.names:
        return np.zeros((len(costs), 0))
    added = costs - points.base
    least, most = points.extent.T
    if axis == "linear":
        return _LIMIT * np.clip(added / most, 0, 1)
    span = np.log(np.maximum(most / least, 1 + 1e-9))
    return _LIMIT * np.clip(np.log(np.maximum(added, least) / least) / span, 0, 1)
