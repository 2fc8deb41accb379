"""Where Optuna keeps the study: in memory for whoever asks, and in a SQLite file for whoever comes later."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from optuna.storages import InMemoryStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, func, insert, select, update

from autopeft.errors import AutopeftError
from autopeft.searching.study_checks import (
    DAMAGED,
    DIGEST,
    NAME,
    check_writable,
    checked,
    database,
    digest_of,
    is_ours,
    open_file,
    parts_of,
)

#: Seconds to wait for who holds the file in the middle of a search (a copy is made of it).
_PATIENCE = 60.0
#: When the file can't be written.
_REMEDY = "what is finished stays; mend that, and give the same command again"


class StudyFile(InMemoryStorage):
    """A study in memory; the file is read once, and has every trial whole or not at all.

    Optuna over SQLite makes a transaction a parameter, and reads the running trials again whenever a sampler looks at
    the study. Here what is done to a running trial stays in memory until `keep`, or until the trial's end: each of the
    two is one transaction, or one for many trials inside `together`. So a kill leaves no half trial, and only one
    process may write at a time; what is written is noticed when another one has added trials. The file is Optuna's own
    kind: any number may read it, by `open_file`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path, self._file = path, open_file(path, _PATIENCE)
        check_writable(path)
        self._inode = path.stat().st_ino
        #: The file's ids of the trials, by their ids in memory.
        self._rows = dict[int, int]()
        #: The trial that is being asked for, and those that have been asked for and are not in the file yet.
        self._draft: int | None = None
        self._new: list[int] = []
        #: How trials have ended that are not so in the file yet; None outside `together`.
        self._ended: dict[int, FrozenTrial] | None = None
        with database(path, "not a study of autopeft", DAMAGED):
            self._file_study = self._file.get_study_id_from_name(NAME)
            self._load()

    def _load(self) -> None:
        file_study = self._file_study
        self.study = study = super().create_new_study(self._file.get_study_directions(file_study), NAME)
        for key, value in self._file.get_study_user_attrs(file_study).items():
            super().set_study_user_attr(study, key, value)
        for key, value in self._file.get_study_system_attrs(file_study).items():
            super().set_study_system_attr(study, key, value)
        for trial in read_trials(self._file, file_study, self._path):
            row = trial._trial_id
            self._rows[super().create_new_trial(study, trial)] = row

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is kept and ended inside is written at the end: all of it, or nothing."""
        self._ended = {}
        try:
            yield
            self._write(self._ended)
        finally:
            self._ended = None

    def keep(self) -> None:
        """Write the trial that was asked for into the file."""
        if self._draft is not None:
            self._new.append(self._draft)
            self._draft = None
        if self._ended is None:
            self._write({})

    def sign(self) -> None:
        """Write all trials again, with digests: of a file that has none."""
        trials = {i: self.get_trial(i) for i in self._rows}
        self._store({i: trial for i, trial in trials.items() if is_ours(trial)}, trials)

    def close(self) -> None:
        """Let go of the file."""
        self._file.engine.dispose()

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """As Optuna has it."""
        with self._writing():
            self._file.set_study_user_attr(self._file_study, key, value)
        super().set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """As Optuna has it."""
        with self._writing():
            self._file.set_study_system_attr(self._file_study, key, value)
        super().set_study_system_attr(study_id, key, value)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """A draft, or the one that an error left; what is enqueued or added whole is written at once."""
        if template_trial is not None:
            self._new.append(super().create_new_trial(study_id, template_trial))
            self._write({})
            return self._new[-1]
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
        if self._ended is None:
            self._write({trial_id: ended})
        else:
            self._ended[trial_id] = ended
        return True

    def _write(self, ended: Mapping[int, FrozenTrial]) -> None:
        """Bring new and ended trials into the file, in one transaction, and then the ends into memory."""
        new = {i: self.get_trial(i) for i in self._new}
        self._store({**new, **ended}, new)
        self._new = []
        for i, trial in ended.items():
            super().set_trial_state_values(i, trial.state, trial.values)

    def _store(self, trials: Mapping[int, FrozenTrial], with_params: Collection[int]) -> None:
        """Write trials by their ids in memory. Through Optuna's storage it would be five times as slow.

        The parameters of one that was kept do not change any more.
        """
        if trials:
            with self._writing(), self._file.engine.begin() as connection:
                rows = {i: self._put(connection, i, trials[i], i in with_params) for i in sorted(trials)}
            self._rows |= rows

    def _put(self, connection: Connection, trial_id: int, trial: FrozenTrial, with_params: bool) -> int:
        """The row of the trial in the file."""
        now = {
            "state": trial.state,
            "datetime_start": trial.datetime_start,
            "datetime_complete": trial.datetime_complete,
        }
        row = self._rows.get(trial_id)
        if row is None:
            row = _add(connection, {**now, "study_id": self._file_study, "number": trial.number}, self._path)
        else:
            connection.execute(update(models.TrialModel).where(models.TrialModel.trial_id == row).values(**now))
        signed = copy.copy(trial)
        signed.user_attrs = {**trial.user_attrs, DIGEST: digest_of(trial)}
        for table, values in parts_of(signed):
            if values and (with_params or table is not models.TrialParamModel):
                rows = [{"trial_id": row, **columns} for columns in values]
                connection.execute(insert(table).prefix_with("OR REPLACE"), rows)
        return row

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with database(self._path, "cannot be written", _REMEDY):
            # SQLite would write on into a file that has no name any more.
            if self._path.stat().st_ino != self._inode:
                raise AutopeftError(f"{self._path}: was replaced while the search ran; give the same command again")
            yield


def _add(connection: Connection, columns: dict[str, Any], path: Path) -> int:
    """A new trial's row."""
    added = connection.execute(insert(models.TrialModel).values(**columns)).inserted_primary_key
    assert added is not None
    count = select(func.count()).where(models.TrialModel.study_id == columns["study_id"])
    if connection.execute(count).scalar_one() != columns["number"] + 1:
        raise AutopeftError(f"{path}: another program has added trials to this search; start it again")
    return int(added[0])


def read_trials(file: Any, study: int, path: Path) -> list[FrozenTrial]:
    """The trials of a study in a file, checked, in the order of their numbers."""
    # A study that was begun before there were digests has a header without a format.
    signed = "format" in (file.get_study_user_attrs(study).get("header") or {})
    trials = sorted(file.get_all_trials(study, deepcopy=False), key=lambda t: t.number)
    if [t.number for t in trials] != list(range(len(trials))):
        raise AutopeftError(f"{path}: trials are missing; {DAMAGED}")
    return [checked(trial, path, signed) for trial in trials]
