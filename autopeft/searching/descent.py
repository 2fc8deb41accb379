"""Descent: one large hybrid is trained, cut, trained a little more, cut again, down the axis of costs.

Each stop on the way is a candidate with its own weights and evaluation, so one training gives a front. Cutting is by
first-order importance (see `autopeft.cutting`); the short training after it is a healing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from autopeft.budget import Budget
from autopeft.candidate import Candidate, Evaluation, Job, Origin
from autopeft.costs import COSTS
from autopeft.cutting import cut_hybrid, least_cost
from autopeft.dimensions import Continuous
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods import METHODS
from autopeft.searching.descent_settings import DescentSettings
from autopeft.searching.objective import Objective
from autopeft.searching.rates import LARGE_AT, Rungs, Tried, healing_range, large_rungs
from autopeft.searching.sources import UNLIMITED, Allowance
from autopeft.space import SearchSpace

if TYPE_CHECKING:
    import torch

    from autopeft.engine.settings import TrainingSettings

    #: Canonical weights and importance by bank, of a training's name.
    Units = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]

#: In the name of a cut's weights, between the parent's key and the limit.
_CUT = "-cut-"
#: Steps of the search for the largest hybrid of equal shares.
_LEVELS = 64
#: Below these shares of the largest hybrid's cost a healing takes this share of a training's epochs.
_LONGER = ((0.01, 1.0), (0.05, 2 / 3), (1.0, 1 / 3))


@dataclass(frozen=True)
class Descent:
    """A source of trainings: the large hybrid at some rates, then its cuts, from the best of each step.

    `units` gives what a finished training left for cutting, `keep` writes weights to begin at, `cost` is what falls.
    """

    space: SearchSpace
    budget: Budget
    score: Objective
    training: TrainingSettings
    settings: DescentSettings
    units: Callable[[str], Units | None]
    keep: Callable[[str, dict[str, torch.Tensor]], None]
    cost: str = "trainable_params"
    allowed: Allowance = UNLIMITED

    def next(self, ended: Sequence[Evaluation], running: Sequence[Job], most: int) -> list[Job] | None:
        """The jobs of the step that it has come to; none is begun that does not fit in what it may take."""
        trunk = {job.name for job in self._rungs.jobs}
        own = [e for e in ended if e.origin is not None or e.job.name in trunk]
        left = self.allowed.left(own, sum(job.origin is not None or job.name in trunk for job in running))
        done, begun = {e.job.name for e in ended}, {job.name for job in [*(e.job for e in ended), *running]}
        step = self._step(ended, running)
        if any(job.name not in done for job in step):
            rest = [job for job in step if job.name not in begun]
            return rest[:most] if len(rest) < len(step) or len(step) <= left else None
        best = self._best(step, ended) if left > 0 else None
        cut = None if best is None else self._cut(best)
        healings = [] if best is None or cut is None else self._healings(best, *cut)
        return healings[:most] if 0 < len(healings) <= left else None

    def needs(self, ended: Sequence[Evaluation]) -> Collection[str]:
        """The step that it has come to: one of these is cut next."""
        done = {e.job.name for e in ended}
        return {job.candidate.key for job in self._step(ended, ()) if job.name in done}

    def _step(self, ended: Sequence[Evaluation], running: Sequence[Job]) -> list[Job]:
        """The jobs of the last step that has begun."""
        jobs, proposed = self._tried_trunk(ended, running), [*(e.job for e in ended), *running]
        while jobs:
            best = self._best(jobs, ended)
            begun = [j for j in proposed if best and j.origin is not None and j.origin.parent == best.key]
            if best is None or not begun:
                break
            origin = begun[0].origin
            assert origin is not None
            jobs = self._healings(best, begun[0].candidate.hybrid, origin.start)
        return jobs

    @cached_property
    def _largest(self) -> Hybrid | None:
        # Dozens of hybrids are counted for it, and it is asked for with every pack.
        found, cost = largest(self.space, self.budget), COSTS.get(self.cost)()
        if found is None:
            return None
        first = self._below(self.cost_of(found), self.cost_of(found))
        stays = least_cost(found, self.space.shape, cost, self.budget.length)
        return None if first is None or first < stays else found

    def trunk(self) -> list[Job]:
        """The largest hybrid of the space that fits, at several rates; nothing where none fits, or it cannot be cut."""
        return list(self._rungs.usual)

    @cached_property
    def _rungs(self) -> Rungs:
        return large_rungs(self._largest, self.space, self.training.learning_rate)

    def _tried_trunk(self, ended: Sequence[Evaluation], running: Sequence[Job]) -> list[Job]:
        """The trunk at the rates that were begun, and the next while nothing is cut and a step of healings fits."""
        cut = {job.origin.parent for job in [*(e.job for e in ended), *running] if job.origin}
        tried = Tried.of(ended, running, self.score)
        fits = len(self._rungs.begun(tried)) + 1 + len(self.settings.rates) <= self.allowed.trainings
        further = fits and cut.isdisjoint(job.candidate.key for job in self._rungs.jobs)
        return self._rungs.climbed(tried, further)

    def _healings(self, parent: Evaluation, hybrid: Hybrid, start: str) -> list[Job]:
        """Trainings of the parent's cut, one at each rate of healing."""
        low, most = healing_range(self.space, self.training.learning_rate)
        rate = parent.candidate.training.get("learning_rate", self.training.learning_rate)
        rates = [min(rate * times, most) for times in self.settings.rates]
        epochs = self.healing_epochs(self.cost_of(hybrid))
        own = None if epochs == self.training.epochs else epochs
        origin = Origin(parent.key, start)
        candidates = [Candidate(hybrid, {"learning_rate": r}) for r in dict.fromkeys(max(r, low) for r in rates)]
        role = f"healed from {parent.key}"
        return [Job(candidate, None, own, origin, cuttable=True, role=role) for candidate in candidates]

    def healing_epochs(self, hybrid_cost: int) -> int:
        """Epochs of the healing of a hybrid of that cost: what is left when it is small has to learn what is gone."""
        empty, most = self._ends
        share = (hybrid_cost - empty) / max(1, most - empty)
        part = next((part for below, part in _LONGER if share < below), _LONGER[-1][1])
        # A training has as many epochs as phases.
        least = max((len(METHODS.get(name).phases) for name in self.space.methods.values()), default=1)
        return max(least, self.settings.epochs or round(self.training.epochs * part))

    @property
    def _ends(self) -> tuple[int, int]:
        """The costs of the bare model and of the largest hybrid."""
        assert self._largest is not None, "it was trained"
        return self._bare, self.cost_of(self._largest)

    @cached_property
    def _bare(self) -> int:
        return self.cost_of(Hybrid.uniform(self.space.shape.layers))

    def next_cost(self, hybrid_cost: int) -> int | None:
        """What a hybrid of that cost is cut to, at most; None where the descent ends."""
        return self._below(hybrid_cost, self._ends[1])

    def _below(self, hybrid_cost: int, most: int) -> int | None:
        empty = self._bare
        steps = (self.allowed.trainings - len(LARGE_AT)) / len(self.settings.rates)
        limit = empty + int((hybrid_cost - empty) * self.settings.factor_for(steps))
        # Of a cost that the large hybrid does not change there is nothing to cut.
        ends = most <= empty or limit >= hybrid_cost or limit - empty < self.settings.least * (most - empty)
        return None if ends else limit

    def cost_of(self, hybrid: Hybrid) -> int:
        """The cost that falls."""
        return COSTS.get(self.cost)().of(hybrid, self.space.shape, self.budget.length)

    def _cut(self, parent: Evaluation) -> tuple[Hybrid, str] | None:
        """The parent's cut and the name of its weights, which are written; None where it ends."""
        shape, length = self.space.shape, self.budget.length
        cost, hybrid = COSTS.get(self.cost)(), parent.candidate.hybrid
        limit = self.next_cost(self.cost_of(hybrid))
        if limit is None:
            return None
        kept = self.units(self.training.weights_name(parent.job))
        if kept is None:
            return None
        try:
            cut, weights = cut_hybrid(hybrid, *kept, limit, shape, cost, length)
        except AutopeftError:
            return None
        if not any(cut.methods()):
            return None
        name = start_name(parent.key, limit)
        self.keep(name, weights)
        return cut, name

    def _best(self, step: Sequence[Job], ended: Sequence[Evaluation]) -> Evaluation | None:
        """The best of a step that is over; None where it is not, or where all of it failed."""
        metric, done = self.score.metric, {e.job.name: e for e in ended}
        found = [done[job.name] for job in step if job.name in done]
        if len(found) < len(step):
            return None
        whole = [e for e in found if e.status == "done" and math.isfinite(e.metrics.get(metric, math.nan))]
        return min(whole, key=lambda e: (self.score.loss(e.metrics[metric]), e.number), default=None)


def largest(space: SearchSpace, budget: Budget) -> Hybrid | None:
    """The largest hybrid within the budget whose sizes are all at the same share of their lists; None where none is."""
    for level in range(_LEVELS, 0, -1):
        point: dict[str, int | float] = {}
        for d in space.dimensions:
            point[d.name] = d.at(0.5) if isinstance(d, Continuous) else math.ceil(level / _LEVELS * (len(d.values) - 1))
        hybrid = space.hybrid(point)
        costs = budget.costs(hybrid, space.shape)
        if any(hybrid.methods()) and all(costs[name] <= limit for name, limit in budget.limits.items()):
            return hybrid
    return None


def descent_of(
    space: SearchSpace,
    budget: Budget,
    objectives: Sequence[Objective],
    training: TrainingSettings,
    settings: DescentSettings,
    folder: Path,
    allowed: Allowance,
) -> Descent:
    """A descent of a search whose weights lie in a run's folder of weights; it may take what is `allowed`."""
    from autopeft.engine.kept import load_units, save_start

    scores = [o for o in objectives if not o.is_cost]
    return Descent(
        space=space,
        budget=budget,
        score=(scores or list(objectives))[0],
        training=training,
        settings=settings,
        units=lambda name: load_units(folder, name),
        keep=lambda name, weights: save_start(folder, name, weights),
        cost=falling_cost(objectives),
        allowed=allowed,
    )


def falling_cost(objectives: Sequence[Objective]) -> str:
    """The cost that a descent goes down: the first that is a sum over places, else trainable parameters."""
    additive: Mapping[str, bool] = {name: cls.additive for name, cls in COSTS.all().items()}
    return next((o.metric for o in objectives if o.is_cost and additive.get(o.metric)), "trainable_params")


def start_name(parent: str, limit: int) -> str:
    """The name of the weights of a parent's cut, by its key and the limit on the cost."""
    return f"{parent}{_CUT}{limit}"


def origin_with_seed(origin: Origin, seed: int) -> Origin:
    """Where a healing with another seed begins: at its parent with that seed, cut to the same hybrid."""
    return Origin(origin.parent, f"{origin.start}-seed{seed}")


def limit_of(origin: Origin) -> tuple[int, bool] | None:
    """The limit on the cost that the weights were cut to where a training began, and whether it is `origin_with_seed`.

    None for another kind of origin.
    """
    found = re.fullmatch(rf"{re.escape(origin.parent)}{_CUT}(\d+)(-seed\d+)?", origin.start)
    return None if found is None else (int(found[1]), found[2] is not None)


def parent_of(child: Evaluation, evaluations: Sequence[Evaluation]) -> Evaluation | None:
    """The candidate that a healed one was cut from; None for others, and where it is not among the evaluations.

    Where several trainings are of that hybrid at that rate, a healed one, which only a descent has.
    """
    if child.origin is None:
        return None
    key = child.origin.parent
    found = [e for e in evaluations if e.key == key and e.status == "done" and e.number < child.number]
    return max(found, key=lambda e: (e.origin is not None, e.number), default=None)
