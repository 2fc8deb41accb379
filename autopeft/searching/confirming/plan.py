"""Who is trained again with other seeds, and in which order: a function of what has ended, so it resumes by itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from autopeft.candidate import Evaluation, Job
from autopeft.searching.confirming.statistics import p_front, prior_deviation, standard_errors
from autopeft.searching.confirming.values import Run
from autopeft.searching.front import ParetoFront

#: Probability of being on the true front from which on a candidate is looked at again, and below which it is given up.
_NEAR, _LOST = 0.05, 0.02
#: Draws of the probabilities while a search runs.
_FEW = 300


def own_run(evaluation: Evaluation) -> list[Run]:
    """The search's own training, where it is one like those with other seeds: whole, and from its beginning."""
    return [Run.of(evaluation)] if evaluation.job.is_whole and evaluation.status == "done" else []


def probabilities(
    front: ParetoFront, evaluations: Sequence[Evaluation], runs: Mapping[int, Sequence[Run]], rows: int, draws: int
) -> dict[int, float]:
    """The probability of being on the true front of these evaluations, by number; `rows` are validation examples."""
    if not evaluations:
        return {}
    losses = np.zeros((len(evaluations), len(front.objectives)))
    errors = np.zeros_like(losses)
    for column, objective in enumerate(front.objectives):
        name = objective.metric
        if objective.is_cost:
            losses[:, column] = [objective.loss(e.metrics[name]) for e in evaluations]
            continue
        groups = [values_of(name, e, runs.get(e.number, ())) for e in evaluations]
        prior = float(np.median([prior_deviation(float(np.mean(group)), rows) for group in groups]))
        losses[:, column] = [objective.loss(float(np.mean(group))) for group in groups]
        errors[:, column] = standard_errors(groups, prior)
    found = p_front(losses, errors, draws)
    return {e.number: float(p) for e, p in zip(evaluations, found, strict=True)}


def values_of(name: str, evaluation: Evaluation, runs: Sequence[Run]) -> list[float]:
    """A candidate's scores by that name with each seed; the searched one where there is no other."""
    seen = [run.metrics[name] for run in (*own_run(evaluation), *runs) if run.status == "done" and name in run.metrics]
    return seen or [evaluation.metrics[name]]


def control_front(front: ParetoFront, names: Collection[str]) -> tuple[Evaluation, ...]:
    """The best controls at or below each cost, as the search has seen them; `names` are keys."""
    controls = [e for e in front.done if e.key in names]
    return ParetoFront(controls, front.objectives, front.limits).points


class Plan:
    """The members of a confirmation and the trainings that they still want.

    `front` is that of the search, `controls` the keys of controls, `seed` the search's own, `rows` the number of
    validation examples. Members are the searched front, what may be on the true one (of a number of members: so many,
    the likeliest first), and the best controls.
    """

    def __init__(
        self,
        front: ParetoFront,
        controls: Collection[str],
        members: int | Literal["auto"],
        seeds: Sequence[int],
        rows: int,
    ) -> None:
        self._front, self._rows, self.seeds = front, rows, tuple(seeds)
        self._controls = {e.number for e in control_front(front, controls)}
        self._searched = {e.number for e in front.points}
        known = probabilities(front, front.done, {}, rows, _FEW)
        near = sorted(front.done, key=lambda e: (e.number not in self._searched, -known[e.number], e.number))
        if members == "auto":
            near = [e for e in near if e.number in self._searched or known[e.number] >= _NEAR]
        chosen = near if members == "auto" else near[:members]
        self.members = {e.number: e for e in chosen}
        #: All that is trained again, by number: members, and controls to compare them with.
        self.all = self.members | {e.number: e for e in front.done if e.number in self._controls}

    def wanted(
        self, runs: Mapping[int, Sequence[Run]], running: Collection[tuple[int, int]] = ()
    ) -> list[tuple[int, Job]]:
        """The next training of each member that wants one, by its number, the most urgent first.

        First comes each member's first other seed: those of the front and controls, then the most uncertain. After
        that the place counts alone: p (1 - p) over the number of seeds, with p the probability of being on the front.
        What is surely not on it gets no more.
        """
        p = probabilities(self._front, list(self.members.values()), runs, self._rows, _FEW)
        found: list[tuple[tuple[bool, bool, float, int], int, Job]] = []
        for number, evaluation in self.all.items():
            fresh = [run.seed for run in runs.get(number, ())] + [seed for n, seed in running if n == number]
            taken = {*fresh, *(run.seed for run in own_run(evaluation))}
            left = [seed for seed in self.seeds if seed not in taken]
            control = number in self._controls
            if not left or (fresh and not control and p[number] < _LOST):
                continue
            place = max(p.get(number, 0.0) * (1 - p.get(number, 0.0)), 0.1 if control else 0.0)
            later = not (control or number in self._searched)
            urgency = (bool(fresh), later and not fresh, -place / (1 + len(taken)), number)
            found.append((urgency, number, Job(evaluation.candidate, left[0])))
        return [(number, job) for _, number, job in sorted(found, key=lambda each: each[0])]

    def seconds(self, number: int, epochs: int) -> float:
        """How long a training of it will take, by its own in the search."""
        evaluation = self.all[number]
        return evaluation.seconds * epochs / max(1, evaluation.fidelity)

    def needed(self) -> set[str]:
        """Keys of candidates whose weights are still asked for."""
        return {e.key for e in self.all.values()}


def seeds_from(seed: int, count: int) -> list[int]:
    """The search's own seed and those that follow it."""
    return [(seed + i) % 2**32 for i in range(count)]


def with_seed(evaluation: Evaluation, run: Run) -> Evaluation:
    """The evaluation with another training in its place, from the beginning: what its weights and scores then are."""
    costs = {name: v for name, v in evaluation.metrics.items() if name not in evaluation_scores(evaluation)}
    metrics = {**costs, **run.metrics}
    return replace(evaluation, seed=run.seed, metrics=metrics, curve=(), seconds=run.seconds, epochs=None, origin=None)


def evaluation_scores(evaluation: Evaluation) -> set[str]:
    """Names of the metrics that another seed changes."""
    return {*Run.of(evaluation).metrics, "train_loss"}
