"""A new SQLite database of MLflow's: made by one process, and there whole or not at all."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from autopeft.doors import door
from autopeft.errors import AutopeftError
from autopeft.resources import cache_folder
from autopeft.tracking._mlflow_calls import our_calls
from autopeft.tracking._mlflow_uri import Place
from autopeft.writing import replacing

#: Seconds to wait for another process that makes or migrates the same database; it takes some 10.
_PATIENCE_S = 180.0


@contextmanager
def one_at_a_time(place: Place) -> Iterator[None]:
    """One process at a time is inside, with a database that is there: MLflow would have two make the same tables."""
    from filelock import FileLock, Timeout

    if place.file is None:
        yield
        return
    # A link stays one, and its target has one lock under all its names.
    path = Path(os.path.realpath(place.file))
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    with door(f"tracking: MLflow's database {path}", "can't be made", "make room, or set tracking: none"):
        try:
            lock.acquire(timeout=_PATIENCE_S)
        except Timeout:
            raise AutopeftError(f"tracking: MLflow's database {path} is being made by another process; wait") from None
        try:
            # Never in place of anything else: a device, too, has no bytes.
            if not path.exists() or (path.is_file() and path.stat().st_size == 0):
                _make(path)
                _forget(place.uri)
        except BaseException:
            lock.release()
            raise
    try:
        yield
    finally:
        lock.release()


def _make(path: Path) -> None:
    """Made elsewhere and moved here: a kill or a full disk would leave tables that MLflow can't go on with.

    MLflow takes seconds for an empty one, and every search has its own, so one is kept in the user's cache folder.
    """
    import mlflow

    for leftover in path.parent.glob(f".{path.name}.*.partial"):
        leftover.unlink(missing_ok=True)
    kept = _kept(f"mlflow-{mlflow.__version__}.db")
    with tempfile.TemporaryDirectory() as folder:
        new = Path(folder) / path.name
        if not _copied(kept, new):
            with our_calls():
                mlflow.MlflowClient(f"sqlite:///{new.as_posix()}").search_experiments(max_results=1)
            with suppress(OSError):
                if kept is not None:
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    _put(new, kept)
        _put(new, path)


def _put(file: Path, path: Path) -> None:
    with replacing(path) as partial:
        shutil.copyfile(file, partial)


def _kept(name: str) -> Path | None:
    with suppress(RuntimeError):
        return cache_folder() / name
    return None


def _copied(kept: Path | None, new: Path) -> bool:
    """Whether the database in the cache could be copied, and is whole and empty."""
    if kept is None or not kept.is_file():
        return False
    with suppress(OSError, sqlite3.Error):
        shutil.copyfile(kept, new)
        with closing(sqlite3.connect(new)) as connection:
            whole = connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
            if whole and connection.execute("SELECT count(*) FROM runs").fetchone() == (0,):
                return True
    new.unlink(missing_ok=True)
    return False


def _forget(uri: str) -> None:
    """MLflow keeps connections while the process lives: here to a file that is no more."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    engine = getattr(SqlAlchemyStore, "_engine_map", {}).get(uri)
    if engine is not None:
        engine.dispose()
