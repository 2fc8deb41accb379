"""Searches that are looked at after they have ended: moved, listed, side by side, compared, registered."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tiny_project import not_measured, search
from tiny_server import free_port

from autopeft.browsing.fronts import Fronts
from autopeft.browsing.replay import gathered, id_of, show, tracking_of
from autopeft.browsing.runs import folders_in, run_of
from autopeft.cli.comparing_runs import run_compare_runs
from autopeft.cli.pages import run_ui
from autopeft.cli.runs_list import print_runs
from autopeft.errors import AutopeftError
from autopeft.exporting.predicting import Predictor
from autopeft.result import SearchResult
from autopeft.run_folder import RunFolder
from autopeft.tracking._mlflow_uri import resolve


@pytest.fixture(autouse=True)
def _no_uri_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Path:
    """Two searches in `runs`, of which one is tracked; tests work on copies of it."""
    folder = tmp_path_factory.mktemp("browsing")
    runs = folder / "runs"
    (runs / "a").mkdir(parents=True)
    shutil.copy(mlflow_database, runs / "a" / "mlflow.db")
    with not_measured(), pytest.MonkeyPatch.context() as patched:
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        search(folder, runs / "a", {"tracking": {"name": "mlflow"}})
        search(folder, runs / "b", {"sampler": {"name": "tpe", "seed": 1, "startup": 3}, "trials": 3})
    return runs


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """The searches, moved here."""
    return Path(shutil.copytree(made, tmp_path / "runs"))


def client_of(database: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{database}")


def runs_in(database: Path, kind: str) -> list[Any]:
    client = client_of(database)
    found = client.get_experiment_by_name("autopeft").experiment_id
    return list(client.search_runs([found], f"tags.`autopeft.kind` = '{kind}'", order_by=["attributes.run_name ASC"]))


def files_of(database: Path, run_id: str) -> str:
    """The folder that holds a run's files, which are there."""
    client = client_of(database)
    assert "front.json" in {file.path for file in client.list_artifacts(run_id)}
    return str(client.get_run(run_id).info.artifact_uri.partition(f"/{run_id}")[0])


def test_a_search_in_mlflow_alone(made: Path) -> None:
    front = SearchResult.open(made / "a").front
    (parent,) = runs_in(made / "a" / "mlflow.db", "search")
    best, data = front.best(), parent.data
    assert (parent.info.status, parent.info.run_name) == ("FINISHED", "a")
    assert data.metrics["best_accuracy"] == best.metrics["accuracy"]
    assert data.metrics["best_test_accuracy"] == best.metrics["test_accuracy"]
    assert data.metrics["best_trainable_params"] == best.metrics["trainable_params"]
    assert data.metrics["candidates"] == 4
    assert (data.tags["best_key"], data.tags["knee_key"]) == (best.key, front.knee().key)
    note = data.tags["mlflow.note.content"]
    assert note.replace("&emsp;", "").startswith("|  | no. | key |")
    assert f"autopeft export {made / 'a'} --pick best" in note
    task, model = parent.inputs.dataset_inputs
    assert [tag.value for tag in (*task.tags, *model.tags)] == ["training", "model"]
    assert json.loads(task.dataset.profile) == {"num_rows": 144, "train": 96, "validation": 24, "test": 24}
    assert task.dataset.digest == SearchResult.open(made / "a").header["fingerprint"]
    assert json.loads(model.dataset.profile)["backbone_params"] > 0
    children = runs_in(made / "a" / "mlflow.db", "candidate")
    scores = [child.data.metrics["accuracy"] for child in children]
    assert (len(scores), scores) == (4, sorted(scores))
    # The space's methods, whether a candidate has them or not: so all can be compared.
    methods = parent.data.params["space.methods"].split(", ")
    for child in children:
        assert {f"size.{name}" for name in methods} < child.data.params.keys()
    shown = {file.path for file in client_of(made / "a" / "mlflow.db").list_artifacts(parent.info.run_id)}
    assert {"pareto.html", "report.html", "trials.csv"} <= shown
    view = client_of(made / "a" / "mlflow.db").get_experiment_by_name("autopeft").tags
    assert view["mlflow.experimentKind"] == "custom_model_development"
    columns = json.loads(view["mlflow.sharedViewState.autopeft"])["selectedColumns"]
    assert columns[:2] == ["metrics.`best_accuracy`", "metrics.`best_test_accuracy`"]


def test_a_moved_run_folder_is_as_usable(made: Path, runs: Path) -> None:
    here, database, begun = runs / "a", runs / "a" / "mlflow.db", time.time()
    result = SearchResult.open(here)
    shown = show(result, tracking_of(result))
    (parent,) = runs_in(database, "search")
    assert (shown.run_id, parent.info.status) == (parent.info.run_id, "FINISHED")
    assert f"autopeft export {here} --pick best" in parent.data.tags["mlflow.note.content"]
    assert len(runs_in(database, "candidate")) == 4
    assert files_of(database, shown.run_id) == (here / "mlartifacts").as_uri()
    again = show(result, tracking_of(result))
    assert (again, runs_in(database, "search")[0].info.end_time) == (shown, parent.info.end_time)
    assert not {p for p in (made / "a").rglob("*") if p.stat().st_mtime > begun}
    written = result.export(to=here.parent / "out")
    assert (written / "adapter_model.safetensors").is_file()


def test_a_store_beside_the_run_folders_is_still_that_of_its_searches(runs: Path) -> None:
    result = SearchResult.open(runs / "a")
    for name in ("mlflow.db", "mlartifacts"):
        (runs / "a" / name).rename(runs / name)
    assert resolve(None, runs / "a", id_of(result)).file == runs / "mlflow.db"
    assert resolve(None, runs / "a", "another").file == runs / "a" / "mlflow.db"
    shown = show(result, tracking_of(result))
    assert not (runs / "a" / "mlflow.db").exists()
    assert files_of(runs / "mlflow.db", shown.run_id) == (runs / "mlartifacts").as_uri()


def test_a_search_of_version_0_1_has_its_name_in_a_file(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = SearchResult.open(runs / "a")
    name = id_of(result)
    assert (runs / "a" / ".search_id").read_text() == name
    for file in ("mlflow.db", "mlartifacts"):
        (runs / "a" / file).rename(runs / file)
    monkeypatch.setattr(result, "remembered", lambda what: None)
    assert id_of(result) == name
    assert tracking_of(result).place(runs / "a", id_of(result)).file == runs / "mlflow.db"
    (runs / "a" / ".search_id").write_text("no' name")
    assert re.fullmatch("[0-9a-f]{32}", id_of(result))
    assert id_of(result) != name


def naming(run: Path, uri: str) -> SearchResult:
    """The search, whose file names that store."""
    text = (run / "experiment.yaml").read_text()
    (run / "experiment.yaml").write_text(
        re.sub(r"(?m)^tracking:.*\n( .*\n)*", "", text) + f"tracking: {{uri: '{uri}'}}\n"
    )
    return SearchResult.open(run)


def test_a_server_that_a_run_folder_names_is_not_asked(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        stranger.settimeout(0)
        server = f"http://127.0.0.1:{stranger.getsockname()[1]}"
        result = naming(runs / "a", server)
        with pytest.raises(AutopeftError, match=f"nothing is sent to {server}"):
            tracking_of(result)
        run_ui(runs / "a", 5000)
        with pytest.raises(BlockingIOError):
            stranger.accept()
    assert f"already: {server}" in capsys.readouterr().out
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{server.replace('//', '//me:open-sesame-41@')}/")
    assert tracking_of(result).place(result.run_dir).environment["MLFLOW_TRACKING_USERNAME"] == "me"
    with pytest.raises(AutopeftError, match="nothing is sent to postgresql://127"):
        tracking_of(naming(runs / "a", "postgresql://127.0.0.1:9/x"))


def test_a_database_that_a_run_folder_names_holds_the_search_or_is_not_used(runs: Path, tmp_path: Path) -> None:
    other = tmp_path / "others" / "x.db"
    result = naming(runs / "a", f"sqlite:///{other}")
    assert tracking_of(result).place(runs / "a").file == runs / "a" / "mlflow.db"
    assert not other.parent.exists()
    other.parent.mkdir()
    shutil.copy(runs / "a" / "mlflow.db", other)
    place = tracking_of(result).place(runs / "a")
    assert (place.file, place.bounded) == (other, True)


def test_searches_of_a_folder_in_one_store(runs: Path, mlflow_database: Path) -> None:
    shutil.copytree(runs / "a", runs / "copy of a")
    shutil.copytree(runs / "b", runs / "damaged")
    (runs / "damaged" / "study.db").write_bytes(b"no study")
    shutil.copy(mlflow_database, runs / "mlflow.db")
    database, shown, left_out = gathered(runs, folders_in(runs))
    assert database == runs / "mlflow.db"
    parents = runs_in(database, "search")
    assert [run.info.run_name for run in parents] == ["a", "b", "copy of a"]
    assert shown is not None
    assert shown.run_id in [run.info.run_id for run in parents]
    assert len(left_out) == 1
    assert str(runs / "damaged") in left_out[0]
    b = SearchResult.open(runs / "b").front
    assert parents[1].data.metrics["best_accuracy"] == b.best().metrics["accuracy"]
    assert parents[1].data.params["model"] == SearchResult.open(runs / "b").experiment.model
    candidates = runs_in(database, "candidate")
    assert len(candidates) == 4 + 3 + 4
    assert len({frozenset(run.data.params) for run in candidates}) == 1
    gathered(runs, folders_in(runs))
    assert [r.info.end_time for r in runs_in(database, "search")] == [r.info.end_time for r in parents]


def test_the_store_of_a_search_that_runs_is_left_to_it(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(runs / "b")
    for name in ("mlflow.db", "mlartifacts"):
        (runs / "a" / name).rename(runs / name)
    client, (parent,) = client_of(runs / "mlflow.db"), runs_in(runs / "mlflow.db", "search")
    client.update_run(parent.info.run_id, status="RUNNING")
    tags = {"autopeft.kind": "candidate", "autopeft.number": "9", "mlflow.parentRunId": parent.info.run_id}
    half = client.create_run(parent.info.experiment_id, tags=tags).info.run_id
    monkeypatch.setattr(RunFolder, "is_running", True)
    _, shown, left_out = gathered(runs, folders_in(runs))
    assert shown is not None
    assert (shown.run_id, left_out) == (parent.info.run_id, [])
    assert client.get_run(half).info.lifecycle_stage == "active"
    monkeypatch.setattr(RunFolder, "is_running", False)
    gathered(runs, folders_in(runs))
    assert client.get_run(half).info.lifecycle_stage == "deleted"
    assert runs_in(runs / "mlflow.db", "search")[0].info.status == "FINISHED"


def test_list_of_runs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(runs / "b", runs / "damaged")
    (runs / "damaged" / "study.db").write_bytes(b"no study")
    (runs / "new").mkdir()
    shutil.copy(runs / "a" / "experiment.yaml", runs / "new" / "experiment.yaml")
    (runs / "not a run").mkdir()
    print_runs(runs, as_json=True)
    found = {Path(run["folder"]).name: run for run in json.loads(capsys.readouterr().out)}
    assert {name: run["state"] for name, run in found.items()} == {
        **{"a": "finished", "b": "finished", "damaged": "unreadable", "new": "not begun"}
    }
    front = SearchResult.open(runs / "a").front
    assert (found["a"]["candidates"], found["a"]["trials"], found["a"]["metric"]) == (4, 4, "accuracy")
    assert (found["a"]["best"], found["a"]["key"]) == (front.best().metrics["accuracy"], front.best().key)
    print_runs(runs, as_json=False)
    said = capsys.readouterr().out
    assert "4 of 4" in said
    assert "study.db" in said
    assert not RunFolder(runs / "a").is_running
    code = (
        "import sys; from filelock import FileLock as F; a = F(sys.argv[1]); a.acquire(); print(1, flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(runs / "a" / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    assert run_of(runs / "a").state == "running"
    holder.communicate(b"\n")
    assert run_of(runs / "a").state == "finished"
    with pytest.raises(AutopeftError, match="there is no such folder"):
        print_runs(runs / "none", as_json=False)


def test_fronts_in_one_corner(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fronts = Fronts.of([runs / "a", runs / "b"])
    first, second = (SearchResult.open(runs / name).front for name in "ab")
    corner = fronts.corner
    assert corner["trainable_params"] == first.limits["trainable_params"]
    assert [row["hypervolume"] for row in fronts.rows] == [
        f.hypervolume(corner, relative=True) for f in (first, second)
    ]
    assert fronts.same_data
    assert fronts.levels[-1]["a"] == first.best().metrics["accuracy"]
    assert fronts.rows[1]["best"]["key"] == second.best().key
    run_compare_runs([runs / "a", runs / "b"], None, as_json=False)
    said = capsys.readouterr().out
    assert "hypervolume" in said
    out = runs / "a-vs-b"
    assert json.loads((out / "fronts.json").read_text()) == json.loads(json.dumps(fronts.to_json()))
    assert (out / "fronts.png").read_bytes().startswith(b"\x89PNG")
    assert f"a ({fronts.rows[0]['hypervolume']:.4f})" in (out / "fronts.html").read_text()
    run_compare_runs([runs / "a", runs / "b"], tmp_path / "out", as_json=True)
    assert json.loads(capsys.readouterr().out)["runs"][0]["run"] == "a"


def test_fronts_that_cannot_be_compared(runs: Path) -> None:
    with pytest.raises(AutopeftError, match="give two run folders or more"):
        Fronts.of([runs / "a"])
    with pytest.raises(AutopeftError, match="not the folder of a search"):
        Fronts.of([runs / "a", runs / "none"])


def test_the_machine_is_watched(runs: Path) -> None:
    from autopeft.tracking._mlflow_parent import Parent
    from autopeft.tracking._mlflow_system import SystemMetrics

    client = client_of(runs / "a" / "mlflow.db")
    (parent,) = runs_in(runs / "a" / "mlflow.db", "search")
    place = resolve(None, runs / "a")
    metrics = SystemMetrics(Parent(client, place, parent.info.experiment_id, parent.info.run_id), 0.02)
    taken: list[Any] = []
    waiting, deadline = threading.Event(), 600
    while not taken and deadline:
        waiting.wait(0.1)
        taken, deadline = metrics.take(), deadline - 1
    metrics.close()
    assert {m.key for m in taken} >= {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"}
    metrics.give_back(taken)
    assert metrics.take()[: len(taken)] == taken


@pytest.mark.slow
def test_a_registered_export_is_served(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from autopeft.cli.registering import run_register

    SearchResult.open(runs / "a").export(to=tmp_path / "out")
    for _ in range(2):
        run_register(SearchResult.open(runs / "a"), tmp_path / "out", "tiny model")
    said = capsys.readouterr().out
    assert "registered as version 2 of tiny model" in said
    database = runs / "a" / "mlflow.db"
    made = client_of(database).get_model_version("tiny model", "2")
    best = SearchResult.open(runs / "a").front.best()
    assert made.tags["key"] == best.key
    assert best.candidate.hybrid.describe() in made.description
    assert "mlflow models serve -m 'models:/tiny model/2'" in made.description
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/tiny model/2", "-p", str(port)]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{database}"}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--env-manager", "local"], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        body = json.dumps({"dataframe_records": [{"text": "good"}, {"text": "bad bad"}]}).encode()
        found = json.loads(answer(server, f"http://127.0.0.1:{port}", body, tmp_path / "log"))["predictions"]
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    expected = list(Predictor(tmp_path / "out")(["good", "bad bad"]))
    assert [row["label"] for row in found] == [row["label"] for row in expected]
    for row, own in zip(found, expected, strict=True):
        assert row["probabilities"] == pytest.approx(own["probabilities"], abs=1e-5)


def answer(server: subprocess.Popen[Any], address: str, body: bytes, log: Path) -> bytes:
    """What a server that begins now says, as soon as it answers."""
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{address}/ping", timeout=5):
                break
        except OSError:
            threading.Event().wait(1)
    asked = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=300) as answered:
        return bytes(answered.read())


@pytest.mark.slow
@pytest.mark.parametrize("what", ["one", "all"])
def test_ui_says_where_when_the_server_answers(what: str, runs: Path) -> None:
    port = free_port()
    folder = runs / "a" if what == "one" else runs
    command = [sys.executable, "-m", "autopeft", "ui", str(folder), "--port", str(port)]
    pages = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert pages.stdout is not None
    try:
        said = next(line for line in pages.stdout if line.startswith("MLflow on"))
        address = f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(f"{address}/health", timeout=60) as answered:
            assert answered.status == 200
        if what == "one":
            found = re.search(r"/runs/(\w+)\?workflowType=machine_learning", said)
            assert found is not None
            url = f"{address}/get-artifact?path=front.json&run_uuid={found[1]}"
            with urllib.request.urlopen(url, timeout=60) as answered:
                assert json.load(answered)["points"]
        else:
            assert "/runs?workflowType=machine_learning&viewStateShareKey=autopeft" in said
    finally:
        pages.send_signal(signal.SIGTERM)
        pages.wait(120)
