"""A search from start to end, on a tiny model: in this process, on Ray, killed and resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from tiny_project import experiment, not_measured, write_experiment

import autopeft
from autopeft.candidate import Evaluation
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.launch import launch
from autopeft.progress import Silent
from autopeft.result import SearchResult
from autopeft.run_folder import RunFolder
from autopeft.runners import _ray_session
from autopeft.searching.study import Study
from autopeft.session import Session


def run(folder: Path, out: str = "run", **changes: Any) -> SearchResult:
    return launch(Experiment.of(experiment(folder, **changes), "test"), folder / out, Silent())


def comparable(evaluations: list[Evaluation]) -> list[dict[str, Any]]:
    """Everything but how long it took."""
    return [{k: v for k, v in e.to_json().items() if k != "seconds"} for e in evaluations]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return run(tmp_path_factory.mktemp("finished"), trials=6)


def test_every_trained_candidate_is_within_the_budget(finished: SearchResult) -> None:
    limit = finished.front.limits["trainable_params"]
    assert len(finished.evaluations) == 6
    assert all(e.status == "done" and e.metrics["trainable_params"] <= limit for e in finished.evaluations)
    assert len({e.key for e in finished.evaluations}) == 6


def test_front_json_equals_the_front_of_the_table(finished: SearchResult) -> None:
    front = json.loads((finished.run_dir / "front.json").read_text())
    table = pd.read_csv(finished.run_dir / "trials.csv")
    kept = [
        row["key"]
        for _, row in table.iterrows()
        if not any(
            other.accuracy >= row.accuracy
            and other.trainable_params <= row.trainable_params
            and (other.accuracy > row.accuracy or other.trainable_params < row.trainable_params)
            for other in table.itertuples()
        )
    ]
    assert sorted(kept) == sorted(p["key"] for p in front["points"])
    assert front["objectives"][0] == {"metric": "accuracy", "direction": "max"}
    assert set(front["points"][0]) == {"number", "key", "metrics", "hybrid", "training"}


def test_only_the_front_is_measured_on_test(finished: SearchResult) -> None:
    on_front = {e.key for e in finished.front.points}
    assert {e.key for e in finished.evaluations if "test_accuracy" in e.metrics} == on_front
    assert {p.stem for p in (finished.run_dir / "weights").glob("*.safetensors")} == on_front


def test_the_run_folder_holds_its_views(finished: SearchResult) -> None:
    names = {p.name for p in finished.run_dir.iterdir()}
    assert {"experiment.yaml", "study.db", "trials.csv", "front.json"} <= names
    assert {"pareto.html", "pareto.png", "report.html"} <= names
    assert finished.experiment.resolved() == Experiment.load(finished.run_dir / "experiment.yaml").resolved()


def test_export_equals_the_fronts_own_record(finished: SearchResult, tmp_path: Path) -> None:
    for pick in ("best", "knee", finished.front.points[0].key):
        to = finished.export(pick, tmp_path / pick)
        recorded = json.loads((to / "hybrid.json").read_text())["metrics"]
        assert autopeft.evaluate(to)["test_accuracy"] == recorded["test_accuracy"]
        assert recorded["test_accuracy"] == finished.front.pick(pick).metrics["test_accuracy"]


def test_export_trains_again_what_was_not_kept(tmp_path: Path) -> None:
    # Trained again it is alone: equal to the bit is what is trained in equal company.
    result = run(tmp_path, trials=2, runner={"name": "in_process", "pack": 1})
    key = result.front.points[0].key
    before = (result.export(key, tmp_path / "a") / "adapter_model.safetensors").read_bytes()
    (result.run_dir / "weights" / f"{key}.safetensors").unlink()
    after = (result.export(key, tmp_path / "b") / "adapter_model.safetensors").read_bytes()
    assert before == after


@not_measured()
def test_resuming_goes_on_as_an_undisturbed_search(tmp_path: Path) -> None:
    # In packs of other sizes sums round otherwise: equal to the bit is what is trained in equal company.
    runner = {"name": "in_process", "pack": 1}
    whole = run(tmp_path, "whole", trials=5, runner=runner)
    run(tmp_path, "parts", trials=2, runner=runner)
    parts = run(tmp_path, "parts", trials=5, runner=runner)
    for e, f in zip(comparable(whole.evaluations), comparable(parts.evaluations), strict=True):
        # Members of the front of two trials were measured on test; otherwise all is equal.
        e["metrics"] = {k: v for k, v in e["metrics"].items() if not k.startswith("test_")}
        f["metrics"] = {k: v for k, v in f["metrics"].items() if not k.startswith("test_")}
        assert e == f


def test_another_experiment_in_the_folder_is_refused(tmp_path: Path) -> None:
    run(tmp_path, trials=1)
    with pytest.raises(AutopeftError, match=r"training\.epochs \(there: 1, now: 2\)"):
        run(tmp_path, trials=1, training={"epochs": 2, "batch_size": 16, "max_length": 16, "precision": "fp32"})


def test_changed_data_are_refused(tmp_path: Path) -> None:
    run(tmp_path, trials=1)
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"text": "w1 w8 w9", "label": "w1"}\n')
    with pytest.raises(AutopeftError, match="data are not those"):
        run(tmp_path, trials=1)


def finished_in(out: Path) -> int:
    """How many candidates the study has; the views are a moment behind it."""
    try:
        with closing(sqlite3.connect(f"file:{out / 'study.db'}?mode=ro", uri=True)) as connection:
            (count,) = connection.execute("SELECT COUNT(*) FROM trials WHERE state IN ('COMPLETE', 'FAIL')").fetchone()
            return int(count)
    except sqlite3.OperationalError:
        return 0


def start_and_signal(path: Path, out: Path, number: int) -> tuple[list[str], int]:
    """Start a search as a command, signal its process group after some candidates: the command and its status."""
    command = [sys.executable, "-m", "autopeft", "search", str(path), "--out", str(out), "--quiet"]
    # Tests that run in the background of a script have inherited that Ctrl-C is ignored.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, start_new_session=True)
    signal.signal(signal.SIGINT, inherited)
    deadline = time.monotonic() + 120
    while finished_in(out) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, number)
    return command, process.wait()


HERE, RAY = {"name": "in_process", "cpus": 1}, {"name": "ray", "workers": 2}


@pytest.mark.parametrize(
    ("number", "status", "runner"),
    [
        (signal.SIGKILL, -signal.SIGKILL, HERE),
        (signal.SIGINT, 130, HERE),
        pytest.param(signal.SIGKILL, -signal.SIGKILL, RAY, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, RAY, marks=pytest.mark.slow),
    ],
)
def test_a_search_that_is_ended_loses_and_repeats_nothing(
    number: int, status: int, runner: dict[str, Any], tmp_path: Path
) -> None:
    path, out = write_experiment(tmp_path, trials=8, runner=runner), tmp_path / "run"
    command, ended = start_and_signal(path, out, number)
    assert ended == status
    before = SearchResult.open(out).evaluations
    assert 3 <= len(before) < 8
    if number == signal.SIGKILL or runner is RAY:
        subprocess.run(command, check=True, timeout=240)
    else:
        # A process more takes seconds to start, and goes on the same.
        launch(Experiment.load(path), out, Silent())
    after = SearchResult.open(out).evaluations
    assert [e.number for e in after] == list(range(8))
    assert len({e.key for e in after}) == 8
    kept = {e.number: e for e in after}
    assert all(kept[e.number].seconds == e.seconds for e in before), "a finished candidate was trained again"


class Watching(Silent):
    """Looks at Ray's processes, and at the folder that their files are in, while the search runs."""

    def __init__(self) -> None:
        self.before = self._listening()
        self.addresses: set[str] = set()
        self.folder, self.modes = Path(), set[int]()
        self.processes: list[psutil.Process] = []
        self.names: set[str] = set()

    def finished(self, evaluation: Evaluation) -> None:
        self.addresses |= {ip for ip, _ in self._listening() - self.before}
        self.folder = _ray_session._sessions[-1].folder
        self.modes.add(stat.S_IMODE(self.folder.stat().st_mode))
        self.processes = psutil.Process().children(recursive=True)
        self.names = {p.name() for p in self.processes}

    def _listening(self) -> set[tuple[str, int]]:
        process = psutil.Process()
        own = (process, *process.children(recursive=True))
        every = [c for p in own for c in p.net_connections("inet")]
        return {(c.laddr.ip, c.laddr.port) for c in every if c.status == psutil.CONN_LISTEN} | _said_by_ss(own)


def _said_by_ss(processes: Sequence[psutil.Process]) -> set[tuple[str, int]]:
    """The same as the system's own tool has it, where that is installed."""
    if shutil.which("ss") is None:
        return set()
    pids = {f"pid={p.pid}," for p in processes}
    lines = subprocess.run(["ss", "-tlnpH"], capture_output=True, text=True, check=True).stdout.splitlines()
    places = [line.split()[3].rpartition(":") for line in lines if any(pid in line for pid in pids)]
    return {(host.strip("[]"), int(port)) for host, _, port in places}


@not_measured()
def test_ray_gives_the_same_as_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an environment that is not to be heard: another Ray's address, long paths, a home that is not there."""
    here = run(tmp_path, "here", trials=3)
    monkeypatch.setenv("RAY_ADDRESS", "203.0.113.1:6379")
    monkeypatch.setenv("TMPDIR", str(tmp_path / (100 * "t")))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / (100 * "r")))
    monkeypatch.setenv("HOME", "/proc/nohome")
    handler, watching = signal.getsignal(signal.SIGTERM), Watching()
    fields = experiment(tmp_path, trials=3, runner={"name": "ray", "workers": 1})
    there = launch(Experiment.of(fields, "test"), tmp_path / "there", watching)
    assert comparable(here.evaluations) == comparable(there.evaluations)
    assert watching.addresses
    assert watching.addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert watching.modes == {0o700}
    assert not watching.folder.exists()
    assert {"gcs_server", "raylet"} <= watching.names
    assert not [p for p in watching.processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert signal.getsignal(signal.SIGTERM) is handler
    assert os.environ["RAY_ADDRESS"] == "203.0.113.1:6379"


def test_a_candidate_that_diverges_does_not_end_the_search(tmp_path: Path) -> None:
    space = {
        "description": "rates that diverge",
        "sizes": "per_layer",
        "blocks": {"lora": {"rank": [0, 2, 4]}},
        "training": {"learning_rate": {"choices": [0.01, 1e30]}},
    }
    result = run(tmp_path, trials=8, space=space, sampler={"name": "random", "seed": 1})
    status = {e.candidate.training["learning_rate"]: e for e in result.evaluations}
    assert status[1e30].status == "failed"
    assert "loss" in (status[1e30].error or "")
    assert status[0.01].status == "done"


def test_time_limit_ends_a_search(tmp_path: Path) -> None:
    fields = experiment(tmp_path, time_limit="1s")
    del fields["trials"]
    result = launch(Experiment.of(fields, "test"), tmp_path / "run", Silent())
    assert len(result.evaluations) >= 1


def test_search_from_python(tmp_path: Path) -> None:
    fields = experiment(tmp_path, trials=2)
    result = autopeft.search(out=tmp_path / "run", quiet=True, **fields)
    frame = result.front.to_frame()
    assert {"key", "accuracy", "trainable_params", "learning_rate"} <= set(frame.columns)
    assert result.front.plot().data


ONE_LAYER = {
    "description": "few candidates",
    "sizes": "shared",
    "blocks": {"lora": {"rank": [0, 1]}},
    "training": {"learning_rate": 0.01},
}


def test_an_exhausted_space_ends_the_search(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="no new candidate"):
        result = run(tmp_path, trials=40, space=ONE_LAYER, budget={"trainable_params": 200})
    assert 1 < len(result.evaluations) < 10
    assert len({e.key for e in result.evaluations}) == len(result.evaluations)


def test_a_space_in_a_file_is_kept_in_the_run_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(json.dumps(ONE_LAYER))
    for _ in range(2):
        result = run(tmp_path, trials=1, space=str(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").unlink()
    assert result.experiment.space == ONE_LAYER
    assert len(result.evaluations) == 1


def test_when_everything_fails_the_search_says_so(tmp_path: Path) -> None:
    space = ONE_LAYER | {"training": {"learning_rate": 1e30}}
    with pytest.raises(AutopeftError, match=r"all of the first 2 candidates failed.*loss"):
        run(tmp_path, trials=2, space=space)


def test_weights_that_are_not_reported_yet_stay(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.weights.mkdir()
    for key in ("finished", "just_written"):
        (folder.weights / f"{key}.safetensors").touch()
    folder.drop_weights(["finished", "never_kept"])
    assert [p.stem for p in folder.weights.iterdir()] == ["just_written"]


def test_what_lies_beside_weights_stays(tmp_path: Path) -> None:
    """The folder may be a link to one with more in it, or have been there before the search."""
    folder = RunFolder(tmp_path)
    folder.weights.mkdir()
    kept, gone = "0123456789ab", "ba9876543210"
    for stem in ("model", "adapter_model", kept, gone, f"{gone}-seed1-epochs2-from-{kept}-cut-9-units", f"{gone}.old"):
        (folder.weights / f"{stem}.safetensors").touch()
    folder.keep_weights({kept})
    stems = {p.name.removesuffix(".safetensors") for p in folder.weights.iterdir()}
    assert stems == {"model", "adapter_model", kept, f"{gone}.old"}


def test_a_folder_without_results_takes_a_mended_experiment(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        folder.claim(Experiment.of(experiment(tmp_path), "test"))
    assert len(run(tmp_path, trials=1, budget={"trainable_params": "5%"}).evaluations) == 1


def test_what_was_proposed_for_a_mistaken_experiment_goes(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    mistaken = Experiment.of({**experiment(tmp_path), "sampler": {"name": "random", "seed": 5}}, "test")
    session = Session(mistaken)
    with folder.locked():
        folder.claim(mistaken)
        study = Study.open(
            folder.path, session.space, session.budget, session.objectives, mistaken.sampler.model_dump()
        )
        asked = study.ask()
        folder.prior_file.write_text("{}", encoding="utf-8")
    (done,) = run(tmp_path, trials=1, sampler={"name": "random", "seed": 6}).evaluations
    assert (done.number, done.key == asked.candidate.key) == (0, False)
    assert not folder.prior_file.exists()


def test_results_are_not_lost_to_another_experiment(tmp_path: Path) -> None:
    run(tmp_path, trials=1)
    folder = RunFolder(tmp_path / "run")
    # Killed between the study's result and the first view of it.
    folder.trials_file.unlink()
    with pytest.raises(AutopeftError, match="holds another search: budget"):
        run(tmp_path, trials=2, budget={"trainable_params": "5%"})
    assert len(run(tmp_path, trials=1).evaluations) == 1


def test_two_searches_in_one_folder_are_refused(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run").locked(), pytest.raises(AutopeftError, match="is running in this folder already"):
        run(tmp_path, trials=1)
