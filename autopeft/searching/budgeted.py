"""Any Optuna sampler, kept within a budget and off candidates that the study already has."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from autopeft.budget import Budget
from autopeft.dimensions import Dimension
from autopeft.searching.objective import Objective
from autopeft.searching.problem import Prior, Problem
from autopeft.searching.proposed import Proposed, own_number
from autopeft.searching.samplers import SamplerPlugin, sampler_from
from autopeft.searching.widening import widened
from autopeft.space import Point, SearchSpace

#: How often a proposal that the study already has is moved before it is let through.
MOVES = 32
#: The least part of the budget that proposals are spread over (see `BudgetedSampler`).
LEAST_SHARE = 0.02


class BudgetedSampler(BaseSampler):
    """The inner sampler's proposal, repaired into the budget and moved off known candidates.

    Rejecting what breaks the budget does not work (next to no uniform sample fits), so a proposal is repaired, and the
    repaired point is the trial's own parameters: the inner sampler learns from what was trained. The trial's user
    attributes `repaired` and `key` (of the candidate) are written here.

    With several objectives, a proposal is repaired into a part of the budget, drawn anew each time on a logarithmic
    scale: `spread` for all proposals, else for uniform draws. Repaired points would otherwise all lie at the budget's
    edge, and the front would have no cheap end: on a synthetic score over the space `hybrid` with 120 trials at 0.5% of
    BERT-base, the relative hypervolume was 0.75 with it, and at most 0.3 without.

    A hybrid at another learning rate that is near one it had is known too (see `searching.repeats`): such proposals are
    moved, for whatever sampler. Where everything near and far is known, a trial's user attribute `repeat` says so.

    With a prior (another search's candidates), the first proposals are the members of its front.

    With `widens`, ranges grow where the best candidates sit at their ends (see `searching.widening`). Whoever suggests
    then asks `space_at` for the space of the next proposal.

    Nothing is kept between proposals: each asks a fresh inner sampler with the proposal's own seed, so a resumed
    study goes on with what the killed one would have proposed.
    """

    def __init__(
        self,
        problem: Problem,
        plugin: SamplerPlugin,
        widens: bool = False,
    ) -> None:
        space, budget = problem.space, problem.budget
        budget.check_feasible(space)
        plugin.check(problem)
        self.problem, self._plugin = problem, plugin
        self._space, self._budget, self._seed = space, budget, plugin.seed
        self._spread, self._least_share = plugin.spread, max(LEAST_SHARE, budget.least_share(space))
        self._widens = widens and not plugin.exact
        # Each has a memory of its own, as what samplers keep there is of a space.
        self._problems: dict[tuple[Dimension, ...], Problem] = {space.dimensions: problem}

    @classmethod
    def for_space(
        cls,
        space: SearchSpace,
        budget: Budget,
        sampler: str | Mapping[str, Any] = "known_cost",
        seed: int | None = None,
        objectives: Sequence[str] = ("score", "trainable_params"),
        prior: Prior | None = None,
    ) -> Self:
        """For one's own study: `optuna.create_study(sampler=BudgetedSampler.for_space(space, budget), directions=...)`.

        The objective starts with `candidate = space.suggest(trial)`. `objectives` name the study's values: costs by
        their names (they are known), anything else is a score. `seed` goes before the one in `sampler`.
        """
        plugin = sampler_from(sampler)
        if seed is not None:
            plugin = plugin.model_copy(update={"seed": seed})
        return cls(Problem(space, budget, tuple(Objective.of(name) for name in objectives), prior=prior), plugin)

    @property
    def first_space(self) -> SearchSpace:
        """The space of the first proposal: what another search has found at rates beyond is proposed too."""
        prior = self.problem.prior
        return self._space if prior is None or not self._plugin.takes_prior else self._space.ranging(prior.front)

    def space_at(self, study: Study) -> SearchSpace:
        """The space of the next proposal: its ranges may have been widened."""
        return self._problem_at(study).space

    def _problem_at(self, study: Study) -> Problem:
        if not self._widens:
            return self.problem
        space = widened(self.first_space, study)
        if space.dimensions not in self._problems:
            self._problems[space.dimensions] = replace(self.problem, space=space, memo={})
        return self._problems[space.dimensions]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole box, from the first trial on."""
        return self.space_at(study).distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A point of the space within the budget."""
        problem = self._problem_at(study)
        inner, rng, prior = self._inner(trial, problem), self._rng(trial), self.problem.prior
        if prior is not None and self._plugin.takes_prior and (own := own_number(study, trial)) < len(prior.front):
            drawn, spread = dict(prior.front[own]), False
        else:
            drawn = inner.sample_relative(study, trial, search_space)
            spread = len(study.directions) > 1 and (self._spread or not drawn)
        for name, distribution in search_space.items():
            # A sampler leaves out what it draws alone: all of it at the start, mutated genes of NSGA-II.
            if name not in drawn:
                drawn[name] = inner.sample_independent(study, trial, name, distribution)
        budget = self._part(rng) if spread else self._budget
        point, repaired = budget.repair(problem.space, drawn, rng)
        known = Proposed(study, trial, self.problem, self._plugin.exact)
        point, moved = _unseen(point, known, problem, rng, budget)
        self._annotate(study, trial, point, repaired or moved, known.has(point))
        return point

    def _annotate(self, study: Study, trial: FrozenTrial, point: Point, repaired: bool, repeat: bool) -> None:
        """Write the trial's key; what was enqueued by hand goes before the proposal, as Optuna has it."""
        enqueued = trial.system_attrs.get("fixed_params", {})
        chosen = {name: enqueued.get(name, value) for name, value in point.items()}
        attributes: dict[str, Any] = {
            "repaired": repaired and chosen == point,
            "key": self._space.decode(chosen).key,
            **({"repeat": True} if repeat and chosen == point else {}),
        }
        # Samplers get a frozen trial: the storage is how Optuna's own ones write to it.
        for name, value in attributes.items():
            study._storage.set_trial_user_attr(trial._trial_id, name, value)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter of the objective that is not in the space: left to the inner sampler."""
        # A seed of its own: fresh samplers of one seed would draw the same for all of them.
        inner = self._inner(trial, self._problem_at(study), zlib.crc32(param_name.encode()))
        return inner.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Nothing to do: every proposal has a seed of its own, from the trial's number."""

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Passed on."""
        self._inner(trial, self.problem).before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Passed on."""
        self._inner(trial, self.problem).after_trial(study, trial, state, values)

    def _inner(self, trial: FrozenTrial, problem: Problem, *salt: int) -> BaseSampler:
        seed = int(np.random.SeedSequence([self._seed, trial.number, *salt]).generate_state(1)[0])
        return self._plugin.make(seed, problem)

    def _rng(self, trial: FrozenTrial) -> np.random.Generator:
        # One number more than the inner sampler's seed sequence, so that the two streams differ.
        return np.random.default_rng([self._seed, trial.number, 1])

    def _part(self, rng: np.random.Generator) -> Budget:
        """A part of the budget, its share log-uniform from the least useful one to 1."""
        return self._budget.tightened(self._space, math.exp(rng.uniform(math.log(self._least_share), 0.0)))


def _unseen(
    point: dict[str, int | float], known: Proposed, problem: Problem, rng: np.random.Generator, budget: Budget
) -> tuple[dict[str, int | float], bool]:
    """(A point near `point` whose candidate is new, whether the budget changed it on the way).

    One more dimension is drawn anew every fourth move, and the last half of the moves are uniform points; when all of
    them are known, the point itself is let through.
    """
    near, changed, space = point, False, problem.space
    for move in range(MOVES):
        if not known.has(near):
            return near, changed
        fresh = space.random_point(rng)
        names = [d.name for d in space.dimensions]
        if move < MOVES // 2:
            names = [names[i] for i in rng.permutation(len(names))[: 1 + move // 4]]
        else:
            # A small part of the budget may be used up.
            budget = problem.budget
        near, changed = budget.repair(space, point | {n: fresh[n] for n in names}, rng)
    return point, False
