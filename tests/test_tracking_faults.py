"""What happens to MLflow's store during and between searches, and what a search makes of it."""

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_project import experiment, not_measured

from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.launch import launch
from autopeft.progress import Silent
from autopeft.result import SearchResult
from autopeft.tracking import SearchInfo
from autopeft.tracking.mlflow_store import MlflowTracking


@pytest.fixture(autouse=True)
def _no_uri_from_outside(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


class _Hooked(Silent):
    """Does something when the candidate of that number is finished."""

    def __init__(self, **hooks: Callable[[], object]) -> None:
        self._hooks = {int(name[1:]): hook for name, hook in hooks.items()}

    def finished(self, evaluation) -> None:
        if evaluation.number in self._hooks:
            self._hooks[evaluation.number]()


def _search(folder: Path, uri: str | None = None, trials: int = 6, **hooks: Callable[[], object]) -> list[str]:
    """A whole search in `folder/runs/run`; returns what was said of tracking."""
    tracking = {"name": "mlflow", **({"uri": uri} if uri else {})}
    runner = {"name": "in_process", "cpus": 1, "pack": 1}
    given = Experiment.of(experiment(folder, trials=trials, tracking=tracking, runner=runner), "x")
    with not_measured(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        launch(given, folder / "runs" / "run", _Hooked(**hooks))
    said = [str(w.message) for w in caught if str(w.message).startswith("tracking: ")]
    assert not [text for text in said if "\n" in text]
    result = SearchResult.open(folder / "runs" / "run")
    assert [e.status for e in result.evaluations] == ["done"] * trials
    assert result.front.points
    return said


def _children(uri: str) -> tuple[str, list[str]]:
    """The parent's status, and the names of its children's ended runs."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    (found,) = [e.experiment_id for e in client.search_experiments() if e.name == "autopeft"]
    runs = client.search_runs([found])
    (parent,) = [run for run in runs if run.data.tags["autopeft.kind"] == "search"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    return parent.info.status, sorted(
        run.info.run_name.split()[-2] for run in children if run.info.status == "FINISHED"
    )


def _numbers(count: int) -> list[str]:
    return [f"#{i}" for i in range(count)]


@pytest.fixture
def runs(tmp_path, mlflow_database) -> Path:
    """A run folder, with MLflow's database in it."""
    folder = tmp_path / "runs" / "run"
    folder.mkdir(parents=True)
    shutil.copy(mlflow_database, folder / "mlflow.db")
    return folder


def _opening(runs: Path) -> str:
    """What is said when a search in `runs` begins."""
    with pytest.raises(AutopeftError) as caught:
        MlflowTracking().open(SearchInfo("s", runs, "id"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_is_said_when_all_is_well(tmp_path, runs):
    assert _search(tmp_path) == []
    assert _children(f"sqlite:///{runs}/mlflow.db") == ("FINISHED", _numbers(6))


def _sql(runs: Path, *statements: str) -> None:
    with closing(sqlite3.connect(runs / "mlflow.db")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


_VERSION = "UPDATE alembic_version SET version_num = "


def _flip(runs: Path) -> None:
    data, rng = bytearray((runs / "mlflow.db").read_bytes()), random.Random(0)
    for _ in range(len(data) // 50):
        data[rng.randrange(len(data))] ^= 255
    (runs / "mlflow.db").write_bytes(bytes(data))


def _another(runs: Path) -> None:
    import optuna

    (runs / "mlflow.db").unlink()
    optuna.create_study(storage=f"sqlite:///{runs}/mlflow.db")


def _a_pipe(runs: Path) -> None:
    (runs / "mlflow.db").unlink()
    os.mkfifo(runs / "mlflow.db")


def _a_folder(runs: Path) -> None:
    (runs / "mlflow.db").unlink()
    (runs / "mlflow.db").mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda runs: (runs / "mlflow.db").write_bytes(bytes(range(256)) * 40), "file is not a database"),
        (lambda runs: os.truncate(runs / "mlflow.db", 100_000), "malformed"),
        (_flip, "can't be (written|used)"),
        (_a_folder, "mlflow.db is no file"),
        (_a_pipe, "mlflow.db is no file"),
        (_another, "holds something else, not MLflow's tables"),
        (lambda runs: _sql(runs, "DROP TABLE metrics"), "was left half-made"),
        (lambda runs: _sql(runs, _VERSION + "'f00'"), "a newer one made it"),
        (lambda runs: _sql(runs, _VERSION + "'451aebb31d03'"), "an older MLflow made it"),
        (lambda runs: _sql(runs, "ALTER TABLE experiments RENAME COLUMN name TO x"), "no such column: exp"),
    ],
    ids=["garbage", "truncated", "flipped", "folder", "pipe", "optuna's", "half", "newer", "older", "changed"],
)
def test_a_database_that_is_none_is_one_line(runs, damage, message):
    damage(runs)
    before = {p.name: p.stat().st_size for p in runs.iterdir()}
    said = _opening(runs)
    assert re.search(message, said), said
    assert "mlflow.db" in said
    assert {p.name: p.stat().st_size for p in runs.iterdir() if p.name in before} == before


@pytest.mark.slow
def test_a_locked_database_is_said_as_what_it_is(runs):
    with closing(sqlite3.connect(runs / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "mlflow.db is locked by another process; end what holds it" in _opening(runs)


def test_files_in_a_folder_that_was_moved(tmp_path, runs):
    (tmp_path / "x.yaml").write_text("name: s\n")
    before = SearchInfo("s", runs, "id", tmp_path / "x.yaml")
    first = MlflowTracking().open(before).tracker
    runs.rename(tmp_path / "moved to")
    moved = MlflowTracking().open(replace(before, run_dir=tmp_path / "moved to")).tracker
    assert moved.parent_id == first.parent_id
    client, _ = _client(tmp_path / "moved to")
    assert Path(client.download_artifacts(moved.parent_id, "experiment.yaml")).read_text() == "name: s\n"
    assert not runs.exists()


def test_files_of_a_copy_are_its_own(tmp_path, runs):
    (tmp_path / "x.yaml").write_text("name: s\n")
    MlflowTracking().open(SearchInfo("s", runs, "id", tmp_path / "x.yaml"))
    shutil.copytree(runs, tmp_path / "copy")
    copied = MlflowTracking().open(SearchInfo("s", tmp_path / "copy", "id")).tracker
    client, found = _client(tmp_path / "copy")
    assert client.get_run(copied.parent_id).info.artifact_uri.startswith((tmp_path / "copy").as_uri())
    assert client.get_experiment(found).artifact_location == (tmp_path / "copy" / "mlartifacts").as_uri()
    assert _client(runs)[0].get_run(copied.parent_id).info.artifact_uri.startswith(runs.as_uri())


@pytest.mark.slow
def test_a_link_to_a_database_that_is_not_there_yet(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "mlflow.db").symlink_to(tmp_path / "elsewhere" / "x.db")
    tracking = MlflowTracking(uri=f"sqlite:///{tmp_path}/run/mlflow.db")
    tracking.open(SearchInfo("s", tmp_path / "run", "id"))
    assert (tmp_path / "run" / "mlflow.db").is_symlink()
    assert (tmp_path / "elsewhere" / "x.db").stat().st_size > 100_000


@pytest.mark.parametrize("name", ["what?", "per%20cent"])
def test_a_folder_whose_name_no_address_can_hold(tmp_path, name):
    assert "no address can be written for" in _opening(tmp_path / name)


def _client(runs: Path):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{runs}/mlflow.db")
    return client, client.get_experiment_by_name("autopeft").experiment_id


def _delete_parent(runs: Path) -> None:
    client, found = _client(runs)
    (parent,) = client.search_runs([found], "tags.`autopeft.kind` = 'search'")
    client.delete_run(parent.info.run_id)


def _delete_experiment(runs: Path) -> None:
    client, found = _client(runs)
    client.delete_experiment(found)


def _delete_database(runs: Path) -> None:
    (runs / "mlflow.db").unlink()


def _delete_tables(runs: Path) -> None:
    _sql(runs, "DROP TABLE metrics")


def _block_files(runs: Path) -> None:
    shutil.rmtree(runs / "mlartifacts")
    (runs / "mlartifacts").write_text("in the way")


def _restore_experiment(runs: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{runs}/mlflow.db")
    (found,) = [e for e in client.search_experiments(view_type=2) if e.name == "autopeft"]
    client.restore_experiment(found.experiment_id)


def _unblock_files(runs: Path) -> None:
    (runs / "mlartifacts").unlink()


def _remove_what_is_left(runs: Path) -> None:
    (runs / "mlflow.db").unlink(missing_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "reason", "remedy"),
    [
        (_delete_parent, "must be in the 'active'", lambda runs: None),
        (_delete_experiment, "must be in the 'active'|active", _restore_experiment),
        (_delete_database, "no such table|can't be written|readonly", _remove_what_is_left),
        (_delete_tables, "no such table", _remove_what_is_left),
        (_block_files, "File exists|Not a directory", _unblock_files),
    ],
    ids=["parent", "experiment", "database", "tables", "files"],
)
def test_the_search_goes_on_and_is_completed_later(tmp_path, runs, harm, reason, remedy):
    said = _search(tmp_path, _2=lambda: harm(runs))
    assert re.search(reason, said[0]), said
    assert "the same command completes it when MLflow is back" in said[-1]
    assert len(said) <= 2
    remedy(runs)
    assert _search(tmp_path) == []
    assert _children(f"sqlite:///{runs}/mlflow.db") == ("FINISHED", _numbers(6))


@contextmanager
def _small_disk(folder: Path, kilobytes: int) -> Iterator[Callable[[str], None]]:
    """A disk of its own; gives what mounts it anew with other options."""
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder], capture_output=True
    ).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield lambda options: _run("mount", "-o", f"remount,{options}", str(folder))
    finally:
        _run("umount", "-l", str(folder))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize("room", [8, 200])
def test_a_disk_that_gets_full(tmp_path, mlflow_database, room):
    """First the database can't grow, then (with more room) the artifacts can't be written."""
    small = tmp_path / "small"
    size = mlflow_database.stat().st_size // 1024
    with _small_disk(small, size + 40 + room) as remount:
        shutil.copy(mlflow_database, small / "mlflow.db")
        uri = f"sqlite:///{small}/mlflow.db"
        fill = small / "fill"
        said = _search(tmp_path, uri, _1=lambda: _fill(fill))
        assert re.search("full|No space left|disk I/O", said[0]), said
        assert len(said) <= 2
        assert "the same command completes it" in said[-1]
        fill.unlink()
        remount("size=20m")
        assert _search(tmp_path, uri) == []
        assert _children(uri) == ("FINISHED", _numbers(6))


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass


@pytest.mark.slow
def test_a_disk_that_is_full_or_read_only_at_the_start(tmp_path, mlflow_database):
    small = tmp_path / "small"
    with _small_disk(small, 300) as remount:
        assert "can't be made (No space left on device); make room" in _opening(small)
        assert not [p for p in small.iterdir() if p.name.endswith(".partial")]
        remount("size=5m")
        shutil.copy(mlflow_database, small / "mlflow.db")
        remount("ro")
        assert re.search("can't be (made|written)", _opening(small))
        remount("rw")
        MlflowTracking().open(SearchInfo("s", small, "id"))


@pytest.mark.slow
def test_a_database_locked_in_the_middle(tmp_path, runs):
    other = sqlite3.connect(runs / "mlflow.db", isolation_level=None, check_same_thread=False)
    with closing(other):
        said = _search(tmp_path, _2=lambda: other.execute("BEGIN EXCLUSIVE"))
    assert "locked" in said[0]
    assert len(said) <= 2
    assert _search(tmp_path) == []
    assert _children(f"sqlite:///{runs}/mlflow.db") == ("FINISHED", _numbers(6))


_OPEN = """
import sys, time
from pathlib import Path
from autopeft.tracking import SearchInfo
from autopeft.tracking.mlflow_store import MlflowTracking
import mlflow
name, runs = sys.argv[1], Path(sys.argv[2])
(runs / name).touch()
while len(list(runs.glob("s*"))) < 2:
    time.sleep(0.001)
MlflowTracking().open(SearchInfo(name, runs / "run", name)).finish([], [], [], [], {}, "FINISHED")
"""


@pytest.mark.slow
def test_two_searches_make_one_new_database(tmp_path):
    """Their temporary folders differ, as those of two users do: a lock that stands there would not be one."""
    runs = tmp_path / "runs"
    runs.mkdir()
    processes = []
    for name in ("s1", "s2"):
        (tmp_path / f"tmp {name}").mkdir()
        environment = {**os.environ, "TMPDIR": str(tmp_path / f"tmp {name}")}
        command = [sys.executable, "-c", _OPEN, name, str(runs)]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert said == ""
    client, found = _client(runs / "run")
    assert {run.info.run_name for run in client.search_runs([found])} == {"s1", "s2"}
    assert not list(runs.rglob(".*.partial"))


@pytest.mark.slow
def test_a_server_that_dies_and_comes_back(tmp_path, server):
    said = _search(tmp_path, server.uri, trials=12, _2=server.kill, _7=server.start)
    assert len(said) == 1
    assert "the search goes on; what is missing is logged when MLflow is back" in said[0]
    assert _children(server.uri) == ("FINISHED", _numbers(12))


@pytest.mark.slow
def test_a_server_that_stays_dead(tmp_path, server):
    start = time.monotonic()
    said = _search(tmp_path, server.uri, _2=server.kill)
    assert time.monotonic() - start < 100  # MLflow's own patience is minutes, for each call
    assert len(said) <= 2
    assert "this search is not complete there; the same command completes it when MLflow is back" in said[-1]
    server.start()
    assert _search(tmp_path, server.uri) == []
    assert _children(server.uri) == ("FINISHED", _numbers(6))
