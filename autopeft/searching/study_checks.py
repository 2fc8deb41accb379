"""What is asked of a study's file before it is believed, and how a new one comes to be."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from sqlalchemy import URL

from autopeft.doors import door, reason
from autopeft.errors import AutopeftError

#: The study's name in its file.
NAME = "autopeft"
#: What to do about a file that can't be believed.
DAMAGED = "restore a copy of it, or use a new folder; trials.csv and front.json beside it stay"
#: Seconds to wait for who holds the file, when it is opened: a search writes for moments only.
_PATIENCE = 2.0
#: The attribute of a trial, and the key in an attribute of the study, with a digest of the rest.
DIGEST = "digest"


def open_file(path: Path, seconds: float = _PATIENCE) -> RDBStorage:
    """Optuna's own storage of a study's file, which must be there; whoever holds it is waited for that long.

    `AutopeftError` for a file that is no study or is damaged, one of another version of Optuna, one that is locked.
    """
    # Optuna tells of every study and trial on the console; that is the command line's to do.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    _check(path)
    try:
        with database(path, "not a study of autopeft", DAMAGED):
            return _storage(path, seconds, skip_table_creation=True)
    except AutopeftError as error:
        if isinstance(error.__cause__, RuntimeError):
            raise AutopeftError(f"{path}: of another version of Optuna ({reason(error.__cause__)})") from error
        raise


@contextmanager
def database(path: Path, what: str, remedy: str) -> Iterator[None]:
    """A door to a database by Optuna, which has the same words for all that SQLite says: SQLite's own are told."""
    with door(path, what, remedy):
        try:
            yield
        except StorageInternalError as error:
            _refuse_locked(error.__cause__ or error, path)
            raise error.__cause__ or error from None


def check_writable(path: Path) -> None:
    """`AutopeftError` when the file can't be written now."""
    with door(path, "cannot be written", "mend that, and give the same command again"):
        try:
            with closing(_connect(path)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.rollback()
        except sqlite3.OperationalError as error:
            _refuse_locked(error, path)
            raise


def new_file(path: Path, directions: Sequence[StudyDirection], attributes: Mapping[str, Any]) -> None:
    """Write a study without trials: whole, or not at all."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with database(path, "cannot be written", "mend that, and give the same command again"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            remove(partial)
            storage = _storage(partial)
            study = storage.create_new_study(directions, NAME)
            for key, value in attributes.items():
                storage.set_study_user_attr(study, key, value)
            storage.engine.dispose()
            partial.replace(path)
        finally:
            remove(partial)


def remove(path: Path) -> None:
    """Delete a study's file, with what SQLite has beside it: its journal would be taken for a new file's."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping with a digest in it."""
    return {**value, DIGEST: _sha(value)}


def unsealed(value: Any, path: Path, what: str) -> dict[str, Any]:
    """The mapping that was sealed, or an old one that never was; `AutopeftError` when it has been changed."""
    if not isinstance(value, Mapping):
        raise AutopeftError(f"{path}: {what} is damaged; {DAMAGED}")
    rest = {key: inner for key, inner in value.items() if key != DIGEST}
    if DIGEST in value and value[DIGEST] != _sha(rest):
        raise AutopeftError(f"{path}: {what} is damaged; {DAMAGED}")
    return rest


def parts_of(trial: FrozenTrial) -> Iterator[tuple[type[models.BaseModel], list[dict[str, Any]]]]:
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


def digest_of(trial: FrozenTrial) -> str:
    """Changes with whatever is stored of a trial, but for its times and what a dashboard adds."""
    # Not Optuna's own JSON of a distribution, which may get more fields in a later version.
    rows = [
        sorted(
            json.dumps({**row, "distribution_json": _bounds(trial, row)}, default=str)
            for row in rows
            if not str(row.get("key", "")).startswith(("dashboard", DIGEST))
        )
        for _, rows in parts_of(trial)
    ]
    return _sha([trial.number, trial.state.name, rows])


def _bounds(trial: FrozenTrial, row: Mapping[str, Any]) -> list[Any]:
    """The kind and the bounds of the distribution in a parameter's row; none in other rows."""
    distribution = trial.distributions.get(row.get("param_name", ""))
    if distribution is None:
        return []
    bounds = (getattr(distribution, name, None) for name in ("low", "high", "log", "step", "choices"))
    return [type(distribution).__name__, *bounds]


def is_ours(trial: FrozenTrial) -> bool:
    """Whether it is of a candidate, and not one that was added by hand."""
    return "key" in trial.user_attrs or "evaluation" in trial.user_attrs


def checked(trial: FrozenTrial, path: Path, must_be_ours: bool) -> FrozenTrial:
    """The trial without its digest; `AutopeftError` when it is not what was written.

    Trials that others have added have none, nor has what was written before there were digests: `must_be_ours` is for
    a study in which every trial with a candidate has one.
    """
    known = trial.user_attrs.pop(DIGEST, None)
    with door(path, f"trial {trial.number} is damaged", DAMAGED):
        if (known is not None or (must_be_ours and is_ours(trial))) and known != digest_of(trial):
            raise ValueError("it is not what was written")
    return trial


def _check(path: Path) -> None:
    """Whether SQLite finds the file in order."""
    if path.is_dir():
        raise AutopeftError(f"{path}: a folder, where the file of a study is expected")
    with door(path, "not a study of autopeft, or a damaged one", DAMAGED):
        if not path.stat().st_size:
            raise AutopeftError(f"{path}: is empty; {DAMAGED}")
        try:
            with closing(_connect(path)) as connection:
                found = connection.execute("PRAGMA integrity_check(1)").fetchone()
                orphan = connection.execute("PRAGMA foreign_key_check").fetchone()
        except sqlite3.OperationalError as error:
            _refuse_locked(error, path)
            raise
        if found != ("ok",):
            raise ValueError(str(found[0]).replace("\n", " ") if found else "no answer of SQLite")
        if orphan is not None:
            raise ValueError(f"a row of {orphan[0]} belongs to nothing")


def _connect(path: Path) -> sqlite3.Connection:
    # By its mode SQLite makes no file where there is none.
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", timeout=_PATIENCE, uri=True)


def _storage(path: Path, seconds: float = _PATIENCE, **options: Any) -> RDBStorage:
    url = str(URL.create("sqlite", database=str(path)))
    return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": seconds}}, **options)


def _refuse_locked(error: BaseException, path: Path) -> None:
    if "locked" in str(error):
        message = f"{path}: locked by another program that writes into it; end that, and try again"
        raise AutopeftError(message) from error


def _attributes(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value_json": json.dumps(value)} for key, value in given.items()]


def _sha(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
