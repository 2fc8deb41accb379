"""What a study's file says: evaluations, the header, what a search remembers. Read and checked, never believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, get_args

from optuna.trial import FrozenTrial, TrialState

from autopeft.candidate import Evaluation, Status
from autopeft.doors import door, within
from autopeft.errors import AutopeftError
from autopeft.plugins import HOW, not_in_use
from autopeft.searching.identity import FORMAT
from autopeft.searching.objective import Objective
from autopeft.searching.study_checks import DAMAGED, NAME, database, open_file, sealed, unsealed
from autopeft.searching.study_file import StudyFile, read_trials

#: The file in the folder of a run.
FILE = "study.db"
#: The attribute of a trial that holds its evaluation, whole or not at all.
EVALUATION = "evaluation"
FINISHED = (TrialState.COMPLETE, TrialState.FAIL)


@dataclass(frozen=True)
class Stored:
    """The attributes and the trials of a study in the file `path`."""

    path: Path
    attributes: Mapping[str, Any]
    trials: Sequence[FrozenTrial]

    @classmethod
    def load(cls, run: Path) -> Self:
        """Of a run's folder, by reading only; `AutopeftError` when there is no study, or a damaged one."""
        path = run / FILE
        if not path.exists():
            what = f"it has no {FILE}" if run.is_dir() else "there is no such folder"
            raise AutopeftError(f"{run}: no study here ({what}); give the folder of a search that has begun")
        file = open_file(path)
        try:
            with database(path, "not a study of autopeft", DAMAGED):
                study = file.get_study_id_from_name(NAME)
                stored = cls(path, file.get_study_user_attrs(study), read_trials(file, study, path))
        finally:
            file.engine.dispose()
        stored.header()
        return stored

    def header(self) -> dict[str, Any]:
        """What the study was opened with; `AutopeftError` when that is not there, or can't be it."""
        if "header" not in self.attributes:
            raise AutopeftError(f"{self.path}: has no header, so it is no study of autopeft, or damaged; {DAMAGED}")
        header = unsealed(self.attributes["header"], self.path, "its header")
        if isinstance(known := header.get("format", 0), int) and known > FORMAT:
            raise AutopeftError(
                f"{self.path}: was begun by a newer autopeft (format {known}, here {FORMAT}); use that one for it"
            )
        with door(self.path, "its header is damaged", DAMAGED):
            for objective in header["objectives"]:
                Objective(**objective)
            if not all(map(_is_number, [header["length"], *header["budget"].values()])):
                raise ValueError("a limit is no number")
            if not isinstance(header["space"], Mapping) or not isinstance(header["fingerprint"], str):
                raise ValueError("it has no space, or no data")
        return header

    def evaluations(self, read: dict[int, Evaluation] | None = None) -> list[Evaluation]:
        """Of the finished trials, in the order of their numbers.

        `read` keeps them from call to call, without what was added later.
        """
        read = {} if read is None else read
        for trial in self.trials:
            # A trial without one is not of our making (added by hand, or ended by a dashboard).
            if trial.state in FINISHED and trial.number not in read and EVALUATION in trial.user_attrs:
                read[trial.number] = self._evaluation(trial)
        added = {n: metrics for n in read if (metrics := self.added(n))}
        return [replace(e, metrics={**e.metrics, **added[n]}) if n in added else e for n, e in sorted(read.items())]

    def added(self, number: int) -> dict[str, float]:
        """The metrics that were added to an evaluation."""
        metrics = self.remembered(note(number)) or {}
        if not all(map(_is_number, metrics.values())):
            raise AutopeftError(f"{self.path}: the test scores of trial {number} are damaged; {DAMAGED}")
        return metrics

    @property
    def span(self) -> tuple[str, str] | None:
        """When the first finished trial began and the last one ended, in this machine's time; None where none has."""
        ended = [(t.datetime_start, t.datetime_complete) for t in self.trials if t.state in FINISHED]
        known = [(start, end) for start, end in ended if start and end]
        times = [min(start for start, _ in known), max(end for _, end in known)] if known else []
        return (f"{times[0]:%Y-%m-%d %H:%M}", f"{times[1]:%Y-%m-%d %H:%M}") if times else None

    def remembered(self, name: str) -> dict[str, Any] | None:
        """What was kept with the study under that name; None when nothing was."""
        if name not in self.attributes:
            return None
        return unsealed(self.attributes[name], self.path, f"its '{name}'")

    def _evaluation(self, trial: FrozenTrial) -> Evaluation:
        what = f"the evaluation of trial {trial.number} is damaged"
        try:
            with within(f"{self.path}: {what}", DAMAGED):
                evaluation = Evaluation.from_json(trial.user_attrs[EVALUATION])
        except AutopeftError:
            if absent := not_in_use(self.header().get("plugins") or {}):
                names = ", ".join(sorted(absent))
                raise AutopeftError(
                    f"{self.path.parent}: was searched with plug-ins that are not in use here, {names}; {HOW}"
                ) from None
            raise
        with door(self.path, what, DAMAGED):
            numbers = [*evaluation.metrics.values(), *(v for epoch in evaluation.curve for v in epoch.values())]
            if not all(map(_is_number, [*numbers, evaluation.seconds, evaluation.seed])):
                raise ValueError("a metric is no number")
            if evaluation.status not in get_args(Status) or not isinstance(evaluation.error, str | None):
                raise ValueError("it has no status")
            if evaluation.number != trial.number or evaluation.key != trial.user_attrs.get("key", evaluation.key):
                raise ValueError("it is of another candidate")
        return evaluation


class Kept:
    """What is finished and what is remembered in a study that is open."""

    def __init__(self, file: StudyFile, run: Path) -> None:
        self._file, self._run = file, run
        self._read: dict[int, Evaluation] = {}

    def evaluations(self) -> list[Evaluation]:
        """The finished ones, in the order of their numbers."""
        return self._stored.evaluations(self._read)

    @property
    def finished(self) -> int:
        """How many evaluations there are: done, stopped and failed."""
        return sum(EVALUATION in t.user_attrs for t in self._trials(*FINISHED))

    def annotate(self, number: int, metrics: Mapping[str, float]) -> None:
        """Add metrics (test scores) to a finished evaluation."""
        # Optuna does not change finished trials, so these stand beside them.
        self.remember(note(number), {**self._stored.added(number), **metrics})

    def remember(self, name: str, value: Mapping[str, Any]) -> None:
        """Keep something with the study that the search shall have when it is resumed."""
        self._file.set_study_user_attr(self._file.study, name, sealed(value))

    def remembered(self, name: str) -> dict[str, Any] | None:
        """What was kept under that name; None when nothing was."""
        return self._stored.remembered(name)

    @staticmethod
    def read(run: Path) -> list[Evaluation]:
        """The evaluations of a run's folder; nothing but the file is needed. `AutopeftError` when it is damaged."""
        return Stored.load(run).evaluations()

    @staticmethod
    def read_header(run: Path) -> dict[str, Any]:
        """What the study was opened with: `objectives`, `budget`, `length`, `space`, `sampler`, `fingerprint`, ..."""
        return Stored.load(run).header()

    @property
    def _stored(self) -> Stored:
        attributes = self._file.get_study_user_attrs(self._file.study)
        return Stored(self._run / FILE, attributes, self._trials(*FINISHED))

    def _running(self, number: int) -> int:
        """The id of a running trial in the storage."""
        for trial in self._trials(TrialState.RUNNING):
            if trial.number == number:
                return trial._trial_id
        raise AutopeftError(f"study: trial {number} was not asked for, or has been told already")

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._file.get_all_trials(self._file.study, deepcopy=False, states=states)


def note(number: int) -> str:
    """The attribute of a study with metrics that were added to an evaluation."""
    return f"metrics of trial {number}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
