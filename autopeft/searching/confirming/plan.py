"""Who is trained again with other seeds, and in which order: a function of what has ended, so it resumes by itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from autopeft.candidate import Evaluation, Job
from autopeft.searching.confirming.statistics import p_front, prior_deviation, standard_errors
from autopeft.searching.confirming.values import Run, Spread
from autopeft.searching.descent import origin_with_seed, parent_of
from autopeft.searching.front import ParetoFront

#: Probability of being on the true front from which on a candidate is looked at again, and below which it is given up.
_NEAR, _LOST = 0.05, 0.02
#: Draws of the probabilities while a search runs.
_FEW = 300


def own_run(evaluation: Evaluation) -> list[Run]:
    """The search's own training, where it is one like those with other seeds."""
    return [Run.of(evaluation)] if evaluation.status == "done" else []


def job_with(evaluation: Evaluation, seed: int, cuttable: bool = False) -> Job:
    """The training of a candidate with a seed.

    A healed one is healed again, from what its parent with that seed leaves when it is cut to the same hybrid.
    """
    if seed == evaluation.seed:
        return replace(evaluation.job, cuttable=cuttable)
    origin = evaluation.origin
    own = None if origin is None else origin_with_seed(origin, seed)
    return Job(evaluation.candidate, seed, evaluation.epochs, own, cuttable)


def probabilities(
    front: ParetoFront,
    evaluations: Sequence[Evaluation],
    runs: Mapping[int, Sequence[Run]],
    rows: int,
    draws: int,
    expected: Mapping[int, Mapping[str, Spread]] | None = None,
) -> dict[int, float]:
    """The probability of being on the true front of these evaluations, by number; `rows` are validation examples.

    Scores are those of `runs`; of what has none, those that are `expected` of it, by number and metric.
    """
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
        for row, evaluation in enumerate(evaluations):
            if (known := (expected or {}).get(evaluation.number, {}).get(name)) is not None:
                losses[row, column], errors[row, column] = objective.loss(known.mean), known.sd
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

    `front` is that of the search, `controls` the keys of controls, `seeds` the search's own and others, `rows` the
    number of validation examples. Members are the searched front, what may be on the true one (of a number of members:
    so many, the likeliest first), and the best controls. Beside them stand the ancestors of healed ones, which are
    trained again for their sake. `ready` says whether what cutting needs of an ancestor's training with a seed is
    there still; where it is not, a healed one does without that seed.
    """

    def __init__(
        self,
        front: ParetoFront,
        controls: Collection[str],
        members: int | Literal["auto"],
        seeds: Sequence[int],
        rows: int,
        ready: Callable[[Evaluation, int], bool] = lambda parent, seed: True,
    ) -> None:
        self._front, self._rows, self.seeds, self._ready = front, rows, tuple(seeds), ready
        self._controls = {e.number for e in control_front(front, controls)}
        self._searched = {e.number for e in front.points}
        known = probabilities(front, front.done, {}, rows, _FEW)
        near = sorted(front.done, key=lambda e: (e.number not in self._searched, -known[e.number], e.number))
        if members == "auto":
            near = [e for e in near if e.number in self._searched or known[e.number] >= _NEAR]
        chosen = near if members == "auto" else near[:members]
        self.members = {e.number: e for e in chosen}
        wanted = self.members | {e.number: e for e in front.done if e.number in self._controls}
        self._parents = _ancestry(wanted.values(), front.evaluations)
        parents = set(self._parents.values())
        #: All that may be trained again, by number: members, controls to compare them with, and ancestors.
        self.all = wanted | {e.number: e for e in front.evaluations if e.number in parents}
        self._wanted = wanted

    def wanted(
        self, runs: Mapping[int, Sequence[Run]], running: Collection[tuple[int, int]] = ()
    ) -> list[tuple[int, Job]]:
        """The next training of each member that wants one, by its number, the most urgent first.

        First comes each member's first other seed: those of the front and controls, then the most uncertain. After
        that the place counts alone: p (1 - p) over the number of seeds, with p the probability of being on the front.
        What is surely not on it gets no more. In the place of a healed one comes the first of its ancestors that is
        not trained with that seed. Where that one is running the next seed comes, where it has failed too.
        """
        p = probabilities(self._front, list(self.members.values()), runs, self._rows, _FEW)
        done = {(number, run.seed): run.status for number, each in runs.items() for run in each}
        found: dict[tuple[int, int], tuple[bool, bool, float, int]] = {}
        for number in self._wanted:
            fresh = [run.seed for run in runs.get(number, ())] + [seed for n, seed in running if n == number]
            taken = {*fresh, *(run.seed for run in own_run(self.all[number]))}
            left = [seed for seed in self.seeds if seed not in taken]
            nexts = enumerate(self._next(number, seed, done, running) for seed in left)
            before, first = next(((i, each) for i, each in nexts if each is not None), (0, None))
            control = number in self._controls
            if first is None or (fresh and not control and p[number] < _LOST):
                continue
            # What is trained for a later seed of it comes after the first seeds of others.
            fresh += [seed for seed in left[:before] if self._is_under_way(number, seed, running)]
            place = max(p.get(number, 0.0) * (1 - p.get(number, 0.0)), 0.1 if control else 0.0)
            later = not (control or number in self._searched)
            urgency = (bool(fresh), later and not fresh, -place / (1 + len(taken)), number)
            found[first] = min(found.get(first, urgency), urgency)
        parents = set(self._parents.values())
        ordered = sorted(found, key=lambda each: found[each])
        return [(number, job_with(self.all[number], seed, number in parents)) for number, seed in ordered]

    def _next(
        self, number: int, seed: int, done: Mapping[tuple[int, int], str], running: Collection[tuple[int, int]]
    ) -> tuple[int, int] | None:
        """The training that has to come next for a member with a seed: its own, or an ancestor's."""
        if (number, seed) in running:
            return None
        parent = self._parents.get(number)
        if parent is None or self._can_be_cut(parent, seed, done):
            return number, seed
        return None if (parent, seed) in done else self._next(parent, seed, done, running)

    def _is_under_way(self, number: int, seed: int, running: Collection[tuple[int, int]]) -> bool:
        """Whether it or one of its ancestors is being trained with that seed."""
        parent = self._parents.get(number)
        return (number, seed) in running or (parent is not None and self._is_under_way(parent, seed, running))

    def _can_be_cut(self, number: int, seed: int, done: Mapping[tuple[int, int], str]) -> bool:
        return done.get((number, seed)) == "done" and self._ready(self.all[number], seed)

    def parent(self, number: int) -> Evaluation | None:
        """The candidate that a healed one was cut from."""
        return self.all[self._parents[number]] if number in self._parents else None

    def outlook(self, runs: Mapping[int, Sequence[Run]], seconds: float) -> tuple[int, float]:
        """How many trainings there will be yet, at most, and their seconds: of what is wanted, what fits in `seconds`.

        They go round by round, as members that are surely off the front by then drop out.
        """
        p = probabilities(self._front, list(self.members.values()), runs, self._rows, _FEW)
        done = {(number, run.seed): run.status for number, each in runs.items() for run in each}
        alive = [n for n in self._wanted if n in self._controls or not runs.get(n) or p[n] >= _LOST]
        taken = {n: {run.seed for run in (*own_run(self.all[n]), *runs.get(n, ()))} for n in alive}
        left = {n: [seed for seed in self.seeds if seed not in taken[n]] for n in alive}
        found: dict[tuple[int, int], float] = {}
        for turn in range(len(self.seeds)):
            for number in (n for n in alive if turn < len(left[n])):
                for each in self._line(number, left[number][turn], done):
                    if each in found:
                        continue
                    if sum(found.values()) + self.seconds(each[0]) > seconds:
                        # Its children wait for it in vain.
                        break
                    found[each] = self.seconds(each[0])
        return len(found), sum(found.values())

    def _line(self, number: int, seed: int, done: Mapping[tuple[int, int], str]) -> list[tuple[int, int]]:
        """All trainings yet of a member with a seed, its ancestors' first; none where an ancestor's has failed."""
        line, parent = [(number, seed)], self._parents.get(number)
        while parent is not None and not self._can_be_cut(parent, seed, done):
            if (parent, seed) in done:
                return []
            line.insert(0, (parent, seed))
            parent = self._parents.get(parent)
        return line

    def seconds(self, number: int) -> float:
        """How long a training of it will take, by its own in the search."""
        return self.all[number].seconds

    def needed(self) -> set[str]:
        """Keys of candidates whose weights are still asked for."""
        return {e.key for e in self.all.values()}


def _ancestry(members: Iterable[Evaluation], evaluations: Sequence[Evaluation]) -> dict[int, int]:
    """The number of the parent by that of the child, of healed members and of their ancestors."""
    found: dict[int, int] = {}
    left = list(members)
    while left:
        child = left.pop()
        parent = None if child.number in found else parent_of(child, evaluations)
        if parent is not None:
            found[child.number] = parent.number
            left.append(parent)
    return found


def seeds_from(seed: int, count: int) -> list[int]:
    """The search's own seed and those that follow it."""
    return [(seed + i) % 2**32 for i in range(count)]


def with_seed(evaluation: Evaluation, run: Run) -> Evaluation:
    """The evaluation with another training in its place: what its weights and scores then are."""
    costs = {name: v for name, v in evaluation.metrics.items() if name not in evaluation_scores(evaluation)}
    metrics = {**costs, **run.metrics}
    origin = job_with(evaluation, run.seed).origin
    return replace(evaluation, seed=run.seed, metrics=metrics, curve=(), seconds=run.seconds, origin=origin)


def evaluation_scores(evaluation: Evaluation) -> set[str]:
    """Names of the metrics that another seed changes."""
    return {*Run.of(evaluation).metrics, "train_loss"}
