"""The study: proposals and evaluations in one SQLite file, which is all the state that a search has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from autopeft.budget import Budget
from autopeft.candidate import Candidate, Evaluation
from autopeft.errors import AutopeftError
from autopeft.hybrid import canonical_json
from autopeft.searching.budgeted import BudgetedSampler
from autopeft.searching.objective import Objective
from autopeft.searching.problem import Prior, Problem
from autopeft.searching.samplers import sampler_from
from autopeft.searching.study_file import StudyFile, open_file
from autopeft.space import SearchSpace

#: The file in the folder of a run, and the study's name in it.
FILE, NAME = "study.db", "autopeft"
#: The attribute of a trial that holds its evaluation, whole or not at all.
_EVALUATION = "evaluation"
_FINISHED = (TrialState.COMPLETE, TrialState.FAIL)


@dataclass(frozen=True)
class Proposal:
    """A candidate to be evaluated under the trial's number."""

    number: int
    candidate: Candidate
    repaired: bool


class Study:
    """Ask and tell over an Optuna study in `<run>/study.db`.

    Invariants: a proposal is stored before it is handed out, and an evaluation before its trial is finished, so a
    killed run loses nothing: its open proposals are `pending`, under their numbers. With equal evaluations, a resumed
    study proposes what an undisturbed one would have. One process asks; any number may read.
    """

    def __init__(
        self, study: optuna.Study, file: StudyFile, space: SearchSpace, objectives: Sequence[Objective]
    ) -> None:
        self._study, self._file, self._space, self.objectives = study, file, space, tuple(objectives)
        self._asked: set[int] = set()
        self._read: dict[int, Evaluation] = {}
        for trial in self._trials(TrialState.RUNNING):
            # Killed in the middle of `tell`: the evaluation is there, and only the trial's end is missing.
            if _EVALUATION in trial.user_attrs:
                self._end(Evaluation.from_json(trial.user_attrs[_EVALUATION]))

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
    ) -> Self:
        """The study of a run's folder, made when it is not there.

        `fingerprint` stands for all other settings that evaluations depend on, `epochs` is a whole training, `prior`
        what another search found.
        `AutopeftError` when the folder holds a study of other settings, and for a budget or a sampler that can't be.
        """
        if not objectives:
            raise AutopeftError("objectives: needs at least one")
        plugin = sampler_from(sampler)
        header = {
            "objectives": [o.model_dump() for o in objectives],
            "budget": dict(budget.limits),
            "length": budget.length,
            "space": space.to_json(),
            "sampler": {"name": plugin.name, **plugin.model_dump()},
            "fingerprint": fingerprint,
        }
        wrapped = BudgetedSampler(Problem(space, budget, tuple(objectives), epochs, prior), plugin)
        run.mkdir(parents=True, exist_ok=True)
        file = StudyFile(run / FILE)
        study = _load_or_create(file, wrapped, objectives)
        _agree(study, header, run)
        return cls(study, file, space, objectives)

    def ask(self) -> Proposal:
        """The next candidate to evaluate."""
        trial = self._study.ask()
        candidate = self._space.suggest(trial)
        self._file.keep()
        self._asked.add(trial.number)
        # `trial` does not know what the sampler has written to the storage.
        return self._proposal(self._file.get_trial(trial._trial_id), candidate)

    def pending(self) -> list[Proposal]:
        """Proposals of a killed run that have no evaluation yet, to be evaluated under their numbers."""
        left = [t for t in self._trials(TrialState.RUNNING) if t.number not in self._asked]
        return [self._proposal(t, self._space.decode(t.params)) for t in left]

    def _proposal(self, trial: FrozenTrial, candidate: Candidate) -> Proposal:
        return Proposal(trial.number, candidate, bool(trial.user_attrs.get("repaired", False)))

    def tell(self, evaluation: Evaluation) -> Evaluation:
        """Store an evaluation and finish its trial; what was stored.

        An evaluation whose objective is missing or not finite is stored as failed. A stopped one is a complete trial,
        with the values of its last epoch: there is no pruned state for several objectives, and samplers shall learn
        from it. `AutopeftError` when the trial was never asked for, or is finished.
        """
        evaluation = self._checked(evaluation)
        self._file.set_trial_user_attr(self._running(evaluation.number), _EVALUATION, evaluation.to_json())
        self._end(evaluation)
        self._asked.discard(evaluation.number)
        return evaluation

    def withdraw(self, proposal: Proposal) -> None:
        """End a proposal's trial without an evaluation: it will not be trained, and counts for nothing."""
        self._running(proposal.number)
        self._study.tell(proposal.number, state=TrialState.FAIL)
        self._asked.discard(proposal.number)

    def evaluations(self) -> list[Evaluation]:
        """The finished ones, in the order of their numbers."""
        return _evaluations(self._trials(*_FINISHED), self._notes, self._read)

    @property
    def finished(self) -> int:
        """How many evaluations there are: done, stopped and failed."""
        return sum(_EVALUATION in t.user_attrs for t in self._trials(*_FINISHED))

    def annotate(self, number: int, metrics: Mapping[str, float]) -> None:
        """Add metrics (test scores) to a finished evaluation."""
        # Optuna does not change finished trials, so these stand beside them.
        known = self._notes.get(_note(number), {})
        self._study.set_user_attr(_note(number), {**known, **metrics})

    @staticmethod
    def read(run: Path) -> list[Evaluation]:
        """The evaluations of a run's folder; nothing but the file is needed."""
        study = _load(run)
        return _evaluations(study.get_trials(deepcopy=False, states=_FINISHED), study.user_attrs, {})

    @staticmethod
    def read_header(run: Path) -> dict[str, Any]:
        """What the study was opened with: `objectives`, `budget`, `length`, `space`, `sampler`, `fingerprint`."""
        return dict(_load(run).user_attrs["header"])

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states)

    @property
    def _notes(self) -> Mapping[str, Any]:
        # `optuna.Study.user_attrs` is a deep copy.
        return self._file.get_study_user_attrs(self._study._study_id)

    def _end(self, evaluation: Evaluation) -> None:
        if evaluation.status != "failed":
            self._study.tell(evaluation.number, [float(evaluation.metrics[o.metric]) for o in self.objectives])
        else:
            self._study.tell(evaluation.number, state=TrialState.FAIL)

    def _running(self, number: int) -> int:
        """The id of a running trial in the storage."""
        for trial in self._trials(TrialState.RUNNING):
            if trial.number == number:
                return trial._trial_id
        raise AutopeftError(f"study: trial {number} was not asked for, or has been told already")

    def _checked(self, evaluation: Evaluation) -> Evaluation:
        """The evaluation, as failed when an objective is missing or not finite."""
        if evaluation.status == "failed":
            return evaluation
        for objective in self.objectives:
            value = evaluation.metrics.get(objective.metric, math.nan)
            if not math.isfinite(value):
                return replace(evaluation, status="failed", error=f"{objective.metric} is {value}")
        return evaluation


def _load_or_create(file: StudyFile, sampler: BudgetedSampler, objectives: Sequence[Objective]) -> optuna.Study:
    if any(s.study_name == NAME for s in file.get_all_studies()):
        study = optuna.load_study(study_name=NAME, storage=file, sampler=sampler)
        if study.get_trials(deepcopy=False):
            return study
        # Nothing was asked of it yet: settings may still be mended.
        optuna.delete_study(study_name=NAME, storage=file)
    directions = [StudyDirection.MAXIMIZE if o.direction == "max" else StudyDirection.MINIMIZE for o in objectives]
    return optuna.create_study(study_name=NAME, storage=file, sampler=sampler, directions=directions)


def _load(run: Path) -> optuna.Study:
    """The study of a folder, to read."""
    if not (run / FILE).is_file():
        what = f"it has no {FILE}" if run.is_dir() else "there is no such folder"
        raise AutopeftError(f"{run}: no study here ({what}); give the folder of a search that has begun")
    try:
        # Any sampler that is cheap to make: it is not asked.
        return optuna.load_study(
            study_name=NAME, storage=open_file(run / FILE), sampler=optuna.samplers.RandomSampler()
        )
    except (KeyError, SQLAlchemyError) as error:
        raise AutopeftError(f"{run / FILE}: not a study of autopeft ({type(error).__name__})") from error


def _agree(study: optuna.Study, header: Mapping[str, Any], run: Path) -> None:
    """Write the header into a new study; `AutopeftError` when it is not that of an old one."""
    known = study.user_attrs.get("header")
    if known is None:
        study.set_user_attr("header", header)
        return
    differ = [key for key, value in header.items() if canonical_json(known.get(key)) != canonical_json(value)]
    if differ == ["fingerprint"]:
        raise AutopeftError(
            f"{run}: the task's data are not those that this search began with (files were edited, or the libraries "
            "behind docstrings were upgraded); bring them back, or use a new folder"
        )
    if differ:
        raise AutopeftError(
            f"{run}: holds a search of other settings ({', '.join(differ)}); go on with those, or use a new folder"
        )


def _evaluations(
    finished: Sequence[FrozenTrial], notes: Mapping[str, Any], read: dict[int, Evaluation]
) -> list[Evaluation]:
    """The evaluations of finished trials; `read` keeps them, without what was added later, from call to call."""
    for trial in finished:
        # A trial without one is not of our making (added by hand, or ended by a dashboard).
        if trial.number not in read and _EVALUATION in trial.user_attrs:
            read[trial.number] = Evaluation.from_json(trial.user_attrs[_EVALUATION])
    return [
        replace(e, metrics={**e.metrics, **notes[_note(n)]}) if _note(n) in notes else e
        for n, e in sorted(read.items())
    ]


def _note(number: int) -> str:
    return f"metrics of trial {number}"
