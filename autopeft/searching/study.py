"""The study: proposals and evaluations in one SQLite file, which is all the state that a search has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autopeft.budget import Budget
from autopeft.candidate import Candidate, Evaluation, Job
from autopeft.doors import door
from autopeft.errors import AutopeftError
from autopeft.searching.budgeted import BudgetedSampler
from autopeft.searching.identity import FORMAT, refuse_another, versions
from autopeft.searching.objective import Objective
from autopeft.searching.problem import Prior, Problem
from autopeft.searching.proposed import JOB
from autopeft.searching.samplers import SamplerPlugin, sampler_from
from autopeft.searching.stored import EVALUATION, FILE, Kept, Stored
from autopeft.searching.study_checks import DAMAGED, NAME, new_file, remove, sealed
from autopeft.searching.study_file import StudyFile
from autopeft.searching.widening import drawn_from, figures, in_words
from autopeft.space import SearchSpace

#: The attribute of a trial with the number of the first candidate of its pack.
_PACK = "pack"


@dataclass(frozen=True)
class Proposal:
    """A candidate to be evaluated under the trial's number.

    `repeat`: the sampler has found nothing but what was there already, or is near it. `pack`: the number of the first
    of its pack; -1 where it was asked for in none.
    """

    number: int
    job: Job
    repaired: bool
    repeat: bool = False
    pack: int = -1

    @property
    def candidate(self) -> Candidate:
        """The job's: what a worker is given is trained as the settings say, where the job does not."""
        return self.job.candidate


class Study(Kept):
    """Ask and tell over an Optuna study in `<run>/study.db`.

    Invariants: a proposal is stored before it is handed out, and an evaluation before its trial is finished, so a
    killed run loses nothing: its open proposals are `pending`, under their numbers, in their packs. With equal
    evaluations, a resumed study proposes what an undisturbed one would have. One process asks; any number may read.
    """

    def __init__(self, file: StudyFile, sampler: BudgetedSampler, run: Path) -> None:
        super().__init__(file, run)
        self._sampler = sampler
        self._study = optuna.load_study(study_name=NAME, storage=file, sampler=sampler)
        self._space, self.objectives = sampler.problem.space, sampler.problem.objectives
        self._asked: set[int] = set()

    @classmethod
    def open(
        cls,
        run: Path,
        space: SearchSpace,
        budget: Budget,
        objectives: Sequence[Objective],
        sampler: str | Mapping[str, Any] = "known_cost",
        fingerprint: str = "",
        epochs: int = 1,
        prior: Prior | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Self:
        """The study of a run's folder, made when it is not there, or has no evaluation and is of other settings.

        `fingerprint` stands for the task's data, `settings` for all else that evaluations depend on, `epochs` is a
        whole training, `prior` what another search found.
        `AutopeftError` when the folder holds the evaluations of another search (with what differs), or a file that is
        no study any more, and for a budget or a sampler that can't be.
        """
        if not objectives:
            raise AutopeftError("objectives: needs at least one")
        plugin, problem = sampler_from(sampler), Problem(space, budget, tuple(objectives), epochs, prior)
        others = {"fingerprint": fingerprint, **(settings or {})}
        if (run / FILE).exists():
            file = StudyFile(run / FILE)
            there = Stored(run / FILE, file.get_study_user_attrs(file.study), ()).header()
            begun = replace(problem, space=space.ranges_as(there["space"]))
            study = cls(file, BudgetedSampler(begun, plugin, widens=True), run)
            if study._is_of(_header(begun, plugin) | others):
                return study
            file.close()
            remove(run / FILE)
        wrapped, header = BudgetedSampler(problem, plugin, widens=True), _header(problem, plugin) | others
        directions = [StudyDirection.MAXIMIZE if o.direction == "max" else StudyDirection.MINIMIZE for o in objectives]
        new_file(run / FILE, directions, {"header": sealed(header), "versions": sealed(versions())})
        return cls(StudyFile(run / FILE), wrapped, run)

    def widens(self) -> list[str]:
        """Which ranges the next proposal is the first to find wider, a sentence each."""
        return in_words(drawn_from(self._sampler.first_space, self._study), self._sampler.space_at(self._study))

    def widened(self) -> dict[str, float]:
        """The ends of ranges that were widened, by name: `widened.learning_rate.high`."""
        return figures(self._sampler.first_space, self._study)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is asked, told and withdrawn inside is stored at the end: all of it, or nothing."""
        with self._file.together():
            yield

    def ask(self, pack: int | None = None) -> Proposal:
        """The next candidate to evaluate; `pack` is the number of the one that begins its pack, without it its own."""
        trial = self._study.ask()
        candidate = self._sampler.space_at(self._study).suggest(trial)
        if "key" not in self._file.get_trial(trial._trial_id).user_attrs:
            # The sampler is not asked for one that was enqueued whole.
            self._file.set_trial_user_attr(trial._trial_id, "key", candidate.key)
        self._file.set_trial_user_attr(trial._trial_id, _PACK, trial.number if pack is None else pack)
        self._file.keep()
        self._asked.add(trial.number)
        # `trial` does not know what the sampler has written to the storage.
        return _proposal(self._file.get_trial(trial._trial_id), self._space)

    def propose(self, job: Job, pack: int | None = None) -> Proposal:
        """A job that no sampler has proposed, of the space or not, as a trial of its own; `pack` as for `ask`."""
        # Not through Optuna's study, whose sampler would be asked.
        trial = self._file.get_trial(self._file.create_new_trial(self._file.study))
        for name, value in ((JOB, job.to_json()), ("key", job.candidate.key)):
            self._file.set_trial_user_attr(trial._trial_id, name, value)
        self._file.set_trial_user_attr(trial._trial_id, _PACK, trial.number if pack is None else pack)
        _set_point(self._file, trial._trial_id, self._space, job)
        self._file.keep()
        self._asked.add(trial.number)
        return Proposal(trial.number, job, repaired=False, pack=trial.number if pack is None else pack)

    def pending(self) -> list[Proposal]:
        """Proposals of a killed run that have no evaluation yet, to be evaluated under their numbers."""
        return [proposal for pack in self.pending_packs() for proposal in pack]

    def pending_packs(self) -> list[list[Proposal]]:
        """The same by the packs that they were asked for in; those that were in none are together."""
        packs: dict[int, list[Proposal]] = {}
        for trial in self._trials(TrialState.RUNNING):
            # What others have begun is theirs to end.
            if trial.number not in self._asked and "key" in trial.user_attrs:
                with door(self._run / FILE, f"trial {trial.number} is damaged", DAMAGED):
                    proposal = _proposal(trial, self._space)
                packs.setdefault(int(trial.user_attrs.get(_PACK, -1)), []).append(proposal)
        return [packs[first] for first in sorted(packs)]

    def tell(self, evaluation: Evaluation) -> Evaluation:
        """Store an evaluation and finish its trial; what was stored. See `tell_all`."""
        return self.tell_all([evaluation])[0]

    def tell_all(self, evaluations: Sequence[Evaluation]) -> list[Evaluation]:
        """Store evaluations and finish their trials, all or none; what was stored.

        An evaluation whose objective is missing or not finite is stored as failed. A stopped one is a complete trial,
        with the values of its last epoch: there is no pruned state for several objectives, and samplers shall learn
        from it. `AutopeftError` when a trial was never asked for, or is finished.
        """
        stored = [_checked(evaluation, self.objectives) for evaluation in evaluations]
        with self.together():
            for evaluation in stored:
                self._file.set_trial_user_attr(self._running(evaluation.number), EVALUATION, evaluation.to_json())
                failed = evaluation.status == "failed"
                values = None if failed else [float(evaluation.metrics[o.metric]) for o in self.objectives]
                self._study.tell(evaluation.number, values, state=TrialState.FAIL if failed else None)
        self._asked -= {evaluation.number for evaluation in stored}
        return stored

    def withdraw(self, proposal: Proposal) -> None:
        """End a proposal's trial without an evaluation: it will not be trained, and counts for nothing."""
        self._running(proposal.number)
        self._study.tell(proposal.number, state=TrialState.FAIL)
        self._asked.discard(proposal.number)

    def _is_of(self, header: Mapping[str, Any]) -> bool:
        """Whether the study is of these settings; `AutopeftError` when it is not, and has evaluations."""
        known = self._stored.header()
        try:
            refuse_another(self._run, known, header)
        except AutopeftError:
            if self.finished:
                raise
            return False
        if "format" not in known:
            # Begun with version 0.1: from now on compared like all others.
            self._file.sign()
            self.remember("header", {**known, **header})
        self.evaluations()
        return True


def _set_point(file: StudyFile, trial_id: int, space: SearchSpace, job: Job) -> None:
    """Samplers learn from what is a point of their space, whoever has proposed it."""
    point = space.point_of(job.candidate) if job.is_whole else None
    distributions = space.distributions()
    if point is not None and not all(d._contains(d.to_internal_repr(point[n])) for n, d in distributions.items()):
        # A rate outside the range, where others may look: Optuna's own would take it for one of the range.
        point = None
    for name, raw in (point or {}).items():
        distribution = distributions[name]
        file.set_trial_param(trial_id, name, distribution.to_internal_repr(raw), distribution)


def _proposal(trial: FrozenTrial, space: SearchSpace) -> Proposal:
    given = trial.user_attrs.get(JOB)
    job = Job(space.decode(trial.params)) if given is None else Job.from_json(given)
    repaired, repeat = (bool(trial.user_attrs.get(name, False)) for name in ("repaired", "repeat"))
    return Proposal(trial.number, job, repaired, repeat, int(trial.user_attrs.get(_PACK, -1)))


def _checked(evaluation: Evaluation, objectives: Sequence[Objective]) -> Evaluation:
    """The evaluation, as failed when an objective is missing or not finite."""
    if evaluation.status == "failed":
        return evaluation
    for objective in objectives:
        value = evaluation.metrics.get(objective.metric, math.nan)
        if not math.isfinite(value):
            return replace(evaluation, status="failed", error=f"{objective.metric} is {value}")
    return evaluation


def _header(problem: Problem, plugin: SamplerPlugin) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "objectives": [o.model_dump() for o in problem.objectives],
        "budget": dict(problem.budget.limits),
        "length": problem.budget.length,
        "space": problem.space.to_json(),
        "sampler": {"name": plugin.name, **plugin.model_dump()},
    }
