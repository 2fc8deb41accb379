"""Noisy expected hypervolume improvement as one would write it with BoTorch; the baselines of `known_cost`.

Daulton et al. 2021 (qNEHVI), Ament et al. 2023 (its logarithm). The cost is either a second Gaussian process or the
exact function. It is on a logarithmic scale, as in the benchmark's main figure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from _searchers_points import Points
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState
from table._features import unit

from autopeft.searching.problem import Problem
from autopeft.searching.samplers import SamplerPlugin

#: The acquisition is evaluated on random points and neighbours of the observed front; then local search goes on.
RANDOM, NEAR, STEPS, CLIMBERS, STEP = 256, 384, 3, 8, 24
SAMPLES, CHUNK = 128, 256
#: Steps of L-BFGS a fit: what comes after them changes little, and costs as much again.
_FIT = {"options": {"maxiter": 150}}


class NehviPlugin(SamplerPlugin):
    """`startup` uniform trials first, spread over costs; then the largest noisy expected hypervolume improvement."""

    name: ClassVar[str] = "qlognehvi"
    description: ClassVar[str] = "BoTorch: score and cost modelled by Gaussian processes"
    # It decides itself how much its proposals cost.
    spread: ClassVar[bool] = False

    startup: int = 10
    exact_costs: bool = False

    def make(self, seed: int, problem: Problem) -> BaseSampler:
        return NehviSampler(problem, seed, self.startup, self.exact_costs)


class NehviSampler(BaseSampler):
    """One proposal; those of a pack that is asked at once share a fit, through the problem's memo."""

    def __init__(self, problem: Problem, seed: int, startup: int, exact_costs: bool) -> None:
        self._problem, self._seed, self._startup, self._exact = problem, seed, startup, exact_costs
        if "points" not in problem.memo:
            problem.memo["points"] = Points(problem.space, problem.budget)
        self._points: Points = problem.memo["points"]
        # One for all parameters: a fresh one for each would draw the same number for all.
        self._uniform = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        return self._problem.space.distributions()

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return self._uniform.sample_independent(study, trial, param_name, param_distribution)

    def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(done) < self._startup:
            return {}
        running = [t for t in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if t.params]
        rows = self._points.features.table([t.params for t in done])
        scores = np.array([t.values[0] for t in done])
        pending = self._points.features.table([t.params for t in running if t.number != trial.number])
        gain = self._gain(rows, scores, pending, tuple(t.number for t in done))
        return self._points.features.point(self._best(gain, rows, scores, np.random.default_rng(self._seed)))

    def _best(
        self, gain: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, scores: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """The best of random points and neighbours of the front, then of neighbours of the best ones."""
        from autopeft.searching.dominance import non_dominated

        front = rows[non_dominated(np.stack([self._points.features.params(rows), -scores], axis=1))]
        near = self._points.neighbours(front, -(-NEAR // len(front)), rng)
        pool = np.vstack([self._points.random(RANDOM, rng), near])
        values = gain(pool)
        for _ in range(STEPS):
            top = np.argsort(-values, kind="stable")[:CLIMBERS]
            near = self._points.neighbours(pool[top], STEP, rng)
            pool, values = np.vstack([pool[top], near]), np.concatenate([values[top], gain(near)])
        return pool[values.argmax()]

    def _gain(
        self, rows: np.ndarray, scores: np.ndarray, pending: np.ndarray, numbers: tuple[int, ...]
    ) -> Callable[[np.ndarray], np.ndarray]:
        """The acquisition of rows [N, D] -> [N]."""
        import torch
        from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
        from botorch.sampling.get_sampler import get_sampler

        torch.manual_seed(self._seed)
        kept = self._problem.memo.get("fit")
        if kept is None or kept[0] != numbers:
            kept = (numbers, self._fit(rows, scores))
            self._problem.memo["fit"] = kept
        model, x = kept[1], self._tensor(rows)
        with torch.no_grad():
            sampler = get_sampler(model.posterior(x[:2]), torch.Size([SAMPLES]), seed=self._seed)
        # The corner: the worst score seen and the budget.
        corner = [float(scores.min()), -float(np.log(self._points.limit))]
        acquisition = qLogNoisyExpectedHypervolumeImprovement(
            model, corner, x, sampler, X_pending=self._tensor(pending) if len(pending) else None, prune_baseline=True
        )

        def gain(candidates: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                parts = self._tensor(candidates)[:, None].split(CHUNK)
                return np.concatenate([acquisition(part).numpy() for part in parts])

        return gain

    def _fit(self, rows: np.ndarray, scores: np.ndarray) -> Any:
        """BoTorch's defaults: standardised scores, its priors, inputs scaled to 0..1."""
        import torch
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import ModelListGP, SingleTaskGP
        from botorch.models.deterministic import GenericDeterministicModel
        from botorch.models.model import ModelList
        from gpytorch.mlls import ExactMarginalLogLikelihood, SumMarginalLogLikelihood

        x = self._tensor(rows)
        score = SingleTaskGP(x, torch.as_tensor(scores)[:, None])
        if self._exact:
            fit_gpytorch_mll(ExactMarginalLogLikelihood(score.likelihood, score), optimizer_kwargs=_FIT)
            return ModelList(score, GenericDeterministicModel(self._cheapness, 1))
        both = ModelListGP(score, SingleTaskGP(x, self._cheapness(x)))
        fit_gpytorch_mll(SumMarginalLogLikelihood(both.likelihood, both), optimizer_kwargs=_FIT)
        return both

    def _tensor(self, rows: np.ndarray) -> Any:
        import torch

        return torch.as_tensor(unit(self._problem.space, rows))

    def _cheapness(self, x: Any) -> Any:
        """Minus the logarithm of the cost, [..., D] -> [..., 1]: exact, from scaled coordinates."""
        import torch

        flat = x.detach().reshape(-1, x.shape[-1]).numpy()
        top = np.array([len(d.values) - 1 for d in self._problem.space.structure])
        levels = np.rint(flat[:, :-1] * top)
        params = self._points.features.params(np.hstack([levels, flat[:, -1:]]))
        return -torch.as_tensor(np.log(np.maximum(params, 1.0))).reshape(*x.shape[:-1], 1)
