"""Where Optuna keeps the study: in memory for whoever asks, and in a SQLite file for whoever comes later."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL, Connection, func, insert, select, update

from autopeft.errors import AutopeftError


class StudyFile(InMemoryStorage):
    """A study in memory; the file is read once, and has every trial whole or not at all.

    Optuna over SQLite makes a transaction a parameter, and reads the running trials again whenever a sampler looks at
    the study. Here what is done to a running trial stays in memory until `keep`, or until the trial's end: each of the
    two is one transaction. So a kill leaves no half trial, and only one process may write at a time; `keep` notices
    when another one has added trials. The file is Optuna's own kind: any number may read it, by `open_file`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path, self._file = path, open_file(path)
        #: The file's ids of the study and of the trials (by their ids in memory).
        self._file_study, self._rows = -1, dict[int, int]()
        #: The trial that is being asked for.
        self._draft: int | None = None
        for study in self._file.get_all_studies():
            self._load(study.study_name, study._study_id)

    def _load(self, name: str, file_study: int) -> None:
        study = super().create_new_study(self._file.get_study_directions(file_study), name)
        self._file_study = file_study
        for key, value in self._file.get_study_user_attrs(file_study).items():
            super().set_study_user_attr(study, key, value)
        for key, value in self._file.get_study_system_attrs(file_study).items():
            super().set_study_system_attr(study, key, value)
        for trial in sorted(self._file.get_all_trials(file_study, deepcopy=False), key=lambda t: t.number):
            self._rows[super().create_new_trial(study, trial)] = trial._trial_id

    def keep(self) -> None:
        """Write the trial that was asked for into the file."""
        if self._draft is not None:
            self._write(self.get_trial(self._draft))
            self._draft = None

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """As Optuna has it."""
        self._file_study = self._file.create_new_study(directions, study_name)
        return super().create_new_study(directions, study_name)

    def delete_study(self, study_id: int) -> None:
        """As Optuna has it."""
        self._file.delete_study(self._file_study)
        super().delete_study(study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """As Optuna has it."""
        self._file.set_study_user_attr(self._file_study, key, value)
        super().set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """As Optuna has it."""
        self._file.set_study_system_attr(self._file_study, key, value)
        super().set_study_system_attr(study_id, key, value)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """A draft, or the one that an error left; what is enqueued or added whole is written at once."""
        if template_trial is not None:
            trial_id = super().create_new_trial(study_id, template_trial)
            self._write(self.get_trial(trial_id))
            return trial_id
        if self._draft is None:
            self._draft = super().create_new_trial(study_id)
        return self._draft

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """As Optuna has it; what was enqueued is a draft when it begins."""
        if state == TrialState.RUNNING:
            begun = super().set_trial_state_values(trial_id, state, values)
            self._draft = trial_id if begun else self._draft
            return begun
        ended = copy.copy(self.get_trial(trial_id))
        self.check_trial_is_updatable(trial_id, ended.state)
        ended.state, ended.values, ended.datetime_complete = state, values, datetime.now()
        self._write(ended)
        return super().set_trial_state_values(trial_id, state, values)

    def _write(self, trial: FrozenTrial) -> None:
        """Bring the file's trial to this state. Through Optuna's storage it would be five times as slow."""
        now = {
            "state": trial.state,
            "datetime_start": trial.datetime_start,
            "datetime_complete": trial.datetime_complete,
        }
        with self._file.engine.begin() as connection:
            row = self._rows.get(trial._trial_id)
            if row is None:
                row = self._add(connection, {**now, "study_id": self._file_study, "number": trial.number})
            else:
                connection.execute(update(models.TrialModel).where(models.TrialModel.trial_id == row).values(**now))
            for table, values in _parts(trial):
                # The parameters of a trial that was kept do not change any more.
                settled = table is models.TrialParamModel and trial._trial_id in self._rows
                if values and (not settled or trial._trial_id == self._draft):
                    rows = [{"trial_id": row, **columns} for columns in values]
                    connection.execute(insert(table).prefix_with("OR REPLACE"), rows)
        self._rows[trial._trial_id] = row

    def _add(self, connection: Connection, columns: dict[str, Any]) -> int:
        added = connection.execute(insert(models.TrialModel).values(**columns)).inserted_primary_key
        assert added is not None
        count = select(func.count()).where(models.TrialModel.study_id == self._file_study)
        if connection.execute(count).scalar_one() != columns["number"] + 1:
            raise AutopeftError(f"{self._path}: another program has added trials to this search; start it again")
        return int(added[0])


def _parts(trial: FrozenTrial) -> Iterator[tuple[type[models.BaseModel], list[dict[str, Any]]]]:
    """The rows that belong to a trial, by table."""
    yield (
        models.TrialParamModel,
        [
            {
                "param_name": name,
                "param_value": distribution.to_internal_repr(trial.params[name]),
                "distribution_json": distribution_to_json(distribution),
            }
            for name, distribution in trial.distributions.items()
        ],
    )
    yield models.TrialUserAttributeModel, _attributes(trial.user_attrs)
    yield models.TrialSystemAttributeModel, _attributes(trial.system_attrs)
    stored = [models.TrialValueModel.value_to_stored_repr(value) for value in trial.values or []]
    yield models.TrialValueModel, [{"objective": i, "value": v, "value_type": t} for i, (v, t) in enumerate(stored)]


def _attributes(given: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value_json": json.dumps(value)} for key, value in given.items()]


def open_file(path: Path) -> RDBStorage:
    """Optuna's own storage of a study's file."""
    # Optuna tells of every study and trial on the console; that is the command line's to do.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # A reader may hold the file for a moment.
    return RDBStorage(str(URL.create("sqlite", database=str(path))), engine_kwargs={"connect_args": {"timeout": 60}})
