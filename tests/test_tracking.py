from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import sqlite3
import threading
import time
import urllib.request
import warnings
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_server import Server, free_port

from autopeft.candidate import Candidate, Evaluation
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.searching.highlights import Highlights
from autopeft.tracking import TRACKING, SearchInfo, Tracker, sizes_over, tracking_from
from autopeft.tracking import _mlflow_values as values
from autopeft.tracking._background import Background
from autopeft.tracking._mlflow_calls import our_calls
from autopeft.tracking._mlflow_tracker import MlflowTracker
from autopeft.tracking._mlflow_uri import place_of, resolve
from autopeft.tracking.mlflow_store import MlflowTracking, ui_command, upload_folder

# What is said must be expected: a mistake of ours shows as a warning, too.
pytestmark = pytest.mark.filterwarnings("error:tracking:UserWarning")

CURVE = ({"epoch": 1, "train_loss": 0.9, "accuracy": 0.5}, {"epoch": 2, "train_loss": 0.4, "accuracy": 0.75})


def evaluation(number: int, **changes) -> Evaluation:
    candidate = Candidate(Hybrid.uniform(2, LoRA(number + 1)), {"learning_rate": 1e-3})
    metrics = {"accuracy": 0.75, "trainable_params": 1000.0 + number}
    base = Evaluation(candidate, "done", metrics, number=number, curve=CURVE, seed=3, seconds=1.5)
    return replace(base, **changes)


def sizes(e: Evaluation) -> dict[str, int]:
    return {"lora.0": e.number + 1, "lora.1": e.number + 1}


@pytest.fixture(autouse=True)
def _no_uri_from_outside(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def info(tmp_path, mlflow_database) -> SearchInfo:
    """A search whose run folder holds a database."""
    run = tmp_path / "my runs" / "run-1"
    run.mkdir(parents=True)
    shutil.copy(mlflow_database, run / "mlflow.db")
    experiment = tmp_path / "trec.yaml"
    experiment.write_text("name: trec\n")
    params = {"model": "minilm", "trials": 20, "budget": 1e5}
    objectives = (("accuracy", "maximize"), ("trainable_params", "minimize"))
    return SearchInfo("trec", run, "id-1", experiment, params, {"team": "nlp"}, objectives)


def opened(info: SearchInfo, uri: str | None = None) -> MlflowTracker:
    """What logs, without the thread that it has in a search: its calls come back when they are done."""
    return MlflowTracking(uri=uri).open(info).tracker


def stored(tracker, kind: str = "candidate"):
    """The runs that MLflow has, read back by its own client: a search by its name, a candidate as `#1 key`."""
    from mlflow import MlflowClient

    client = MlflowClient(tracker.uri)
    runs = client.search_runs([tracker.experiment_id], f"tags.`autopeft.kind` = '{kind}'")
    return client, {_called(run): run for run in runs}


def _called(run) -> str:
    tags = run.data.tags
    number = int(tags.get("autopeft.number", -1))
    return run.info.run_name if number < 0 else f"#{number} {tags['autopeft.key']}"


def texts(run) -> dict[str, str]:
    return {p.name: p.read_text() for p in Path(_local(run.info.artifact_uri)).iterdir()}


def _local(uri: str) -> str:
    from mlflow.utils.file_utils import local_file_uri_to_path

    return local_file_uri_to_path(uri)


def test_every_kind_is_described():
    assert {"mlflow", "none"} <= set(TRACKING.names())
    assert all(kind.description for kind in TRACKING.all().values())


def test_from_configuration():
    assert tracking_from(None) == tracking_from("mlflow") == MlflowTracking()
    assert tracking_from({"name": "mlflow", "experiment": "mine"}) == MlflowTracking(experiment="mine")
    assert tracking_from({"uri": "http://host:5000"}) == MlflowTracking(uri="http://host:5000")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mlflw", "did you mean 'mlflow'"),
        ({"name": "mlflow", "url": "x"}, "tracking: url: unknown key; did you mean 'uri'"),
        ({"name": 3}, "tracking: expected a name"),
        (3, "tracking: expected a name"),
        ({"name": "mlflow", "experiment": ""}, "tracking: experiment: "),
    ],
)
def test_wrong_configuration(spec, message):
    with pytest.raises(AutopeftError, match=message):
        tracking_from(spec)


def test_none_tracks_nothing(tmp_path):
    tracker = tracking_from("none").open(SearchInfo("s", tmp_path / "run", "id"))
    tracker.sync([evaluation(0)], sizes)
    tracker.finish([evaluation(0)], [], [], [1.0], {}, "FINISHED")
    assert (tracker.uri, tracker.url_hint, list(tmp_path.iterdir())) == ("", "", [])


def test_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    default = resolve(None, Path("runs/a"))
    assert (default.uri, default.source) == (f"sqlite:///{tmp_path}/runs/a/mlflow.db", "default")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000/")
    server = resolve(None, tmp_path / "runs/a")
    assert (server.uri, server.shown, server.source) == ("http://host:5000", "http://host:5000", "MLFLOW_TRACKING_URI")
    assert resolve("sqlite:///here.db", tmp_path / "runs/a").file == tmp_path / "here.db"


def test_a_search_as_mlflow_shows_it(info, tmp_path):
    tracker = opened(info)
    tracker.sync([evaluation(0)], sizes)
    front = tmp_path / "front.json"
    front.write_text("[]")
    done = [evaluation(0), evaluation(1, repaired=True)]
    files = [front, tmp_path / "is not there.png"]
    tracker.finish(
        done,
        [done[1].key],
        files,
        [0.1, 0.3],
        {"best": 0.75},
        "FINISHED",
        Highlights({"best_accuracy": 0.75}, {"best_key": "k"}, "| a |"),
    )

    client, parents = stored(tracker, "search")
    parent = parents["trec"]
    assert parent.info.status == "FINISHED"
    assert parent.data.params["model"] == "minilm"
    assert parent.data.params["objectives"] == "maximize accuracy, minimize trainable_params"
    assert parent.data.tags["team"] == "nlp"
    assert parent.data.tags["mlflow.note.content"] == "| a |"
    assert parent.data.tags["best_key"] == "k"
    assert parent.data.metrics == {"hypervolume": 0.3, "best": 0.75, "best_accuracy": 0.75}
    history = client.get_metric_history(parent.info.run_id, "hypervolume")
    assert [(m.step, m.value) for m in history] == [(0, 0.1), (1, 0.3)]
    assert texts(parent) == {"experiment.yaml": "name: trec\n", "front.json": "[]"}
    _, children = stored(tracker)
    assert len(children) == 2
    _check_child(client, children[f"#1 {done[1].key}"], done[1], parent.info.run_id)
    assert children[f"#0 {done[0].key}"].data.tags["autopeft.on_front"] == "false"


def _check_child(client, child, given: Evaluation, parent_id: str) -> None:
    assert child.info.status == "FINISHED"
    assert child.info.end_time - child.info.start_time == 1500
    wanted = {"autopeft.number": "1", "autopeft.key": given.key, "autopeft.status": "done"}
    wanted |= {"autopeft.repaired": "true", "autopeft.on_front": "true", "mlflow.parentRunId": parent_id}
    assert wanted.items() <= child.data.tags.items()
    # Words are tags: a page that compares runs would put them on an axis.
    assert child.data.params == {"lora.0": "2", "lora.1": "2", "learning_rate": "0.001", "seed": "3"}
    assert child.data.tags["autopeft.hybrid"] == given.candidate.hybrid.describe()
    assert f"--pick {given.key} --to out/{given.key}" in child.data.tags["mlflow.note.content"]
    assert next(iter(child.data.metrics)) == "accuracy"
    assert child.data.metrics == {**given.metrics, "train_loss": 0.4, "seconds": 1.5}
    steps = [(m.step, m.value) for m in client.get_metric_history(child.info.run_id, "accuracy")]
    assert steps == [(1, 0.5), (2, 0.75)]
    path = client.download_artifacts(child.info.run_id, "candidate.json")
    assert Candidate.from_json(json.loads(Path(path).read_text())) == given.candidate


@pytest.mark.parametrize("named", ["file://{}", "{}", "file://{}/../run-1/mlartifacts/../../../elsewhere"])
def test_a_database_says_where_files_are_but_they_stay_beside_it(info, tmp_path, named):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    _let_files_be_in(opened(info), info, named.format(elsewhere))
    with pytest.raises(AutopeftError, match="not in mlartifacts beside it, and nothing is written there"):
        opened(info)
    assert list(elsewhere.iterdir()) == []


def test_a_database_of_yours_has_its_files_where_it_says(info, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    _let_files_be_in(opened(info), info, elsewhere.as_uri())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{info.run_dir}/mlflow.db")
    opened(info)
    assert [file.name for file in elsewhere.iterdir()] == ["experiment.yaml"]


def _let_files_be_in(tracker, info, address: str) -> None:
    with closing(sqlite3.connect(info.run_dir / "mlflow.db")) as connection:
        connection.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (address, tracker.parent_id))
        connection.commit()


@pytest.mark.parametrize("name", ["mlflow.db", "mlartifacts", ".mlflow.db.lock", "mlflow.db-journal"])
def test_nothing_is_written_through_a_link_in_a_run_folder(info, tmp_path, name):
    (info.run_dir / "mlflow.db").unlink()
    (info.run_dir / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AutopeftError, match=f"{name} is a link"):
        opened(info)
    assert not (tmp_path / "elsewhere").exists()


def test_an_export_is_not_copied_through_links(info, tmp_path):
    tracker = opened(info)
    place, files = tracker.parent.place, info.run_dir / "mlartifacts" / "r"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").write_text("new")
    (files / "exports" / "k").mkdir(parents=True)
    upload_folder(place, files.as_uri(), tmp_path / "model", "exports/k")
    assert (files / "exports" / "k" / "MLmodel").read_text() == "new"
    (tmp_path / "mine").write_text("mine")
    (files / "exports" / "k" / "MLmodel").unlink()
    (files / "exports" / "k" / "MLmodel").symlink_to(tmp_path / "mine")
    with pytest.raises(AutopeftError, match="MLmodel is a link"):
        upload_folder(place, files.as_uri(), tmp_path / "model", "exports/k")
    (files / "exports" / "out").symlink_to(tmp_path)
    with pytest.raises(AutopeftError, match="nothing is written there"):
        upload_folder(place, files.as_uri(), tmp_path / "model", "exports/out")
    assert (tmp_path / "mine").read_text() == "mine"


def test_files_stand_in_the_run_folder_and_nowhere_else(info, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    tracker = opened(info)
    tracker.sync([evaluation(0)], sizes)
    assert list(Path.cwd().iterdir()) == []
    names = {p.name for p in info.run_dir.iterdir()} - {".mlflow.db.lock"}
    assert names == {"mlartifacts", "mlflow.db"}


def test_what_is_logged_is_not_logged_again(info):
    tracker = opened(info)
    tracker.sync([evaluation(0)], sizes)
    tracker.sync([evaluation(0), evaluation(1)], sizes)
    resumed = opened(info)
    assert resumed.parent_id == tracker.parent_id
    resumed.sync([evaluation(0), evaluation(1), evaluation(2)], sizes)
    for _ in range(2):
        resumed.finish([evaluation(i) for i in range(3)], [], [], [0.1, 0.2], {}, "FINISHED")
    client, children = stored(resumed)
    assert [c.data.tags["autopeft.number"] for c in children.values()] == ["2", "1", "0"]
    assert len(client.get_metric_history(resumed.parent_id, "hypervolume")) == 2
    other = opened(replace(info, search_id="id-2"))
    assert other.parent_id != tracker.parent_id


def test_resume_runs_again_and_tells_what_changed(info):
    opened(info).finish([], [], [], [], {}, "KILLED")
    tracker = opened(replace(info, params={**info.params, "trials": 40, "new": 1}))
    _, parents = stored(tracker, "search")
    assert parents["trec"].info.status == "RUNNING"
    assert parents["trec"].data.params["trials"] == "20"
    assert parents["trec"].data.params["new"] == "1"
    assert parents["trec"].data.tags["autopeft.changed.trials"] == "40"
    again = opened(info)
    assert stored(again, "search")[1]["trec"].data.tags["autopeft.changed.trials"] == "20"


def test_a_child_left_by_a_kill_is_replaced(info):
    tracker = opened(info)
    tracker.sync([evaluation(0)], sizes)
    client, _ = stored(tracker)
    tags = values.child_tags(evaluation(1), tracker.parent_id, False)
    client.create_run(tracker.experiment_id, tags=tags, run_name="half")
    opened(info).sync([evaluation(0), evaluation(1)], sizes)
    _, children = stored(tracker)
    assert set(children) == {f"#{i} {evaluation(i).key}" for i in (0, 1)}
    assert {c.info.status for c in children.values()} == {"FINISHED"}


def test_front_and_test_scores_follow(info):
    tracker = opened(info)
    first, second = evaluation(0), evaluation(1)
    tracker.sync([first], sizes, {first.key})
    tracker.sync([first, second], sizes, {second.key})
    flags = {name.split()[0]: run.data.tags["autopeft.on_front"] for name, run in stored(tracker)[1].items()}
    assert flags == {"#0": "false", "#1": "true"}
    scored = replace(second, metrics={**second.metrics, "test_accuracy": 0.7})
    resumed = opened(info)
    resumed.finish([first, scored], {first.key, second.key}, [], [], {}, "FINISHED")
    children = stored(tracker)[1]
    assert {run.data.tags["autopeft.on_front"] for run in children.values()} == {"true"}
    assert children[f"#1 {second.key}"].data.metrics["test_accuracy"] == 0.7


def test_means_over_seeds_follow_too(info):
    first, second = evaluation(0), evaluation(1)
    tracker = opened(info)
    for mean in (0.7, 0.72, 0.72):
        over_seeds = {0: {"mean_accuracy": mean, "seeds": 2.0}}
        tracker.sync([first, second], sizes, {first.key}, Highlights(over_seeds=over_seeds))
    client, children = stored(tracker)
    child = children[f"#0 {first.key}"]
    assert (child.data.metrics["mean_accuracy"], child.data.metrics["seeds"]) == (0.72, 2.0)
    assert [m.value for m in client.get_metric_history(child.info.run_id, "mean_accuracy")] == [0.7, 0.72]
    assert "seeds" not in children[f"#1 {second.key}"].data.metrics


def test_a_description_is_of_the_folder_that_is_here(info, tmp_path):
    opened(info).sync([evaluation(0)], sizes)
    moved = info.run_dir.rename(tmp_path / "moved")
    tracker = opened(replace(info, run_dir=moved))
    tracker.sync([evaluation(0)], sizes)
    ((_, child),) = stored(tracker)[1].items()
    assert f"autopeft export {moved} --pick {evaluation(0).key}" in child.data.tags["mlflow.note.content"]


def test_sizes_are_of_all_methods_of_a_space():
    hybrid = Hybrid.from_layers(4, {1: [LoRA(2, sites=("q",)), LoRA(3, sites=("v",))], 3: [LoRA(2)]})
    given = replace(evaluation(0), candidate=Candidate(hybrid, {}))
    assert sizes_over(["prefix", "lora", "lora"])(given) == {"layers": 2, "size.prefix": 0, "size.lora": 7}


def test_failed_candidate(info):
    tracker = opened(info)
    failed = evaluation(0, status="failed", metrics={"trainable_params": 10.0}, curve=(), error="loss is NaN")
    tracker.sync([failed], sizes, {failed.key})
    (child,) = stored(tracker)[1].values()
    assert child.info.status == "FAILED"
    assert child.data.tags["autopeft.status"] == "failed"
    assert child.data.tags["autopeft.error"] == "loss is NaN"
    assert child.data.tags["autopeft.on_front"] == "false"
    assert "loss is NaN" in child.data.tags["mlflow.note.content"]
    assert child.data.metrics == {"trainable_params": 10.0, "seconds": 1.5}


def test_stopped_candidate(info):
    tracker = opened(info)
    stopped = evaluation(0, status="stopped")
    tracker.sync([stopped], sizes, {stopped.key})
    (child,) = stored(tracker)[1].values()
    assert child.info.status == "FINISHED"
    assert child.data.tags["autopeft.status"] == "stopped"
    assert child.data.tags["autopeft.on_front"] == "false"
    assert child.data.metrics["accuracy"] == 0.75


def test_nan_and_infinity(info):
    tracker = opened(info)
    nan, inf = float("nan"), float("inf")
    curve = ({"epoch": 1, "accuracy": nan, "train_loss": inf},)
    given = evaluation(0, curve=curve, metrics={"accuracy": nan, "f1": -inf, "none": None}, seconds=nan)
    for _ in range(2):
        tracker.sync([given], sizes)
    tracker.finish([given], [], [], [nan], {"best": nan}, "FINISHED")
    (child,) = stored(tracker)[1].values()
    assert child.info.status == "FINISHED"
    assert set(child.data.metrics) == {"accuracy", "train_loss", "f1", "seconds"}


def test_long_and_odd_values(info):
    many = {f"layer {i}/lora@q": i for i in range(250)}
    odd = {"..": 1, "/a//b": 2, "x" * 300: 3}
    curve = tuple({"epoch": i + 1, "loss": 1.0 / (i + 1), "accuracy": 0.5} for i in range(600))
    error = "e" * 20_000
    tracker = opened(replace(info, params={"text": "t" * 7000, **many}, tags={"long": error}))
    tracker.sync([evaluation(0, curve=curve, error=error)], lambda e: {**many, **odd})
    client, children = stored(tracker)
    (child,) = children.values()
    assert len(child.data.params) == 250 + 3 + 2
    assert child.data.params["layer 7/lora_q"] == "7"
    assert len(client.get_metric_history(child.info.run_id, "loss")) == 600
    assert child.data.tags["autopeft.error"].endswith("e…")
    assert len(stored(tracker, "search")[1]["trec"].data.params["text"]) == 6000


class _Breaking:
    """A client whose `method` fails while `broken`; the rest is the real one's."""

    def __init__(self, real, method: str, error: Exception) -> None:
        self._real, self._method, self._error, self.broken = real, method, error, True

    def __getattr__(self, name):
        return self._fail if name == self._method and self.broken else getattr(self._real, name)

    def _fail(self, *args, **kwargs):
        raise self._error


def _sync_often(tracker, *states) -> None:
    for state in states:
        tracker.sync(state, sizes)


@pytest.mark.parametrize("method", ["create_run", "log_batch", "set_terminated"])
def test_a_failure_is_told_once_and_made_up_for(info, method):
    tracker = opened(info)
    tracker.sync([evaluation(0)], sizes)
    tracker.parent.client = breaking = _Breaking(tracker.parent.client, method, OSError("connection\nlost"))
    some, more = [evaluation(0), evaluation(1)], [evaluation(i) for i in range(3)]
    with pytest.warns(UserWarning, match=r"failed \(connection lost\); the search goes on") as caught:
        _sync_often(tracker, some, more)
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="not complete there; the same command completes it"):
        tracker.finish(more, [], [], [], {}, "FINISHED")
    breaking.broken = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker.finish(more, [], [], [], {}, "FINISHED")
    _, children = stored(tracker)
    assert sorted(name.split()[0] for name in children) == ["#0", "#1", "#2"]
    assert {c.info.status for c in children.values()} == {"FINISHED"}


def test_refused_values_do_not_hold_up_the_rest(info):
    from mlflow.exceptions import MlflowException

    tracker = opened(info)
    error = MlflowException.invalid_parameter_value("too long for this server")
    tracker.parent.client = _Breaking(tracker.parent.client, "log_batch", error)
    with pytest.warns(UserWarning, match="did not take some values"):
        tracker.sync([evaluation(0), evaluation(1)], sizes)
    assert len(stored(tracker)[1]) == 2


def test_whatever_goes_wrong_is_a_warning(info):
    """A view of a search is no reason to end it: not even a mistake of our own."""

    def wrong(e):
        raise KeyError("no such dimension")

    tracker = opened(info)
    with pytest.warns(UserWarning, match=r"failed \('no such dimension'\); the search goes on"):
        tracker.sync([evaluation(0)], wrong)
    tracker.sync([evaluation(0)], sizes)
    assert len(stored(tracker)[1]) == 1


def test_files_that_cannot_be_stored(info):
    tracker = opened(info)
    artifacts = info.run_dir / "mlartifacts"
    shutil.rmtree(artifacts)
    artifacts.write_text("in the way")
    with pytest.warns(UserWarning, match="the search goes on"):
        tracker.sync([evaluation(0)], sizes)
    artifacts.unlink()
    tracker.sync([evaluation(0)], sizes)
    (child,) = stored(tracker)[1].values()
    assert json.loads(texts(child)["candidate.json"]) == evaluation(0).candidate.to_json()


class _Held(Tracker):
    """Keeps what it is given, one call at a time, when `go` is set."""

    uri, url_hint = "somewhere", "look there"

    def __init__(self) -> None:
        self.go, self.begun = threading.Event(), threading.Event()
        self.calls: list[str] = []

    def sync(self, evaluations, sizes, on_front=None, highlights=None) -> None:
        self.begun.set()
        assert self.go.wait(60)
        self.calls.append(f"sync {len(evaluations)}")
        sizes(evaluations[0])

    def finish(self, evaluations, on_front, files, hypervolume, summary, status, highlights=None) -> None:
        self.calls.append(f"finish {len(evaluations)} {status}")


def test_the_search_does_not_wait_and_nothing_is_left_out():
    held = _Held()
    tracker = Background(held)
    assert (tracker.uri, tracker.url_hint) == ("somewhere", "look there")
    growing = [evaluation(0)]
    tracker.sync(growing, sizes)
    assert held.begun.wait(60)
    for i in range(1, 4):
        growing.append(evaluation(i))
        tracker.sync(growing, sizes)
    assert held.calls == []
    held.go.set()
    tracker.finish(growing, [], [], [], {}, "FINISHED")
    assert held.calls == ["sync 1", "sync 4", "finish 4 FINISHED"]


def test_an_error_in_the_thread_is_said_once():
    def wrong(e):
        raise AutopeftError("space: no such dimension")

    held = _Held()
    held.go.set()
    tracker = Background(held)
    with pytest.warns(UserWarning, match="goes on without it .*no such dimension"):
        _sync_and_wait(tracker, [evaluation(0)], sizes=wrong)
    _sync_and_wait(tracker, *[[evaluation(0)]] * 2, sizes=wrong)
    tracker.finish([], [], [], [], {}, "FAILED")
    assert held.calls == ["sync 1"] * 3 + ["finish 0 FAILED"]


def test_a_search_in_the_background(info):
    tracker = MlflowTracking().open(info)
    for i in range(5):
        tracker.sync([evaluation(n) for n in range(i + 1)], sizes, {evaluation(i).key})
    tracker.finish([evaluation(n) for n in range(5)], {evaluation(4).key}, [], [0.1], {}, "FINISHED")
    children = stored(tracker.tracker)[1]
    assert sorted(name.split()[0] for name in children) == [f"#{i}" for i in range(5)]
    flags = [children[name].data.tags["autopeft.on_front"] for name in sorted(children)]
    assert flags == ["false"] * 4 + ["true"]


def test_a_failure_in_the_background_is_told_once(info):
    tracker = MlflowTracking().open(info)
    tracker.tracker.parent.client = _Breaking(tracker.tracker.parent.client, "create_run", OSError("connection lost"))
    with pytest.warns(UserWarning, match="the search goes on") as caught:
        _sync_and_wait(tracker, [evaluation(0)], [evaluation(0), evaluation(1)])
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="not complete there; the same command completes it"):
        tracker.finish([evaluation(0)], [], [], [], {}, "FINISHED")


def _sync_and_wait(tracker, *states, sizes=sizes) -> None:
    for state in states:
        tracker.sync(state, sizes)
        tracker.wait()


def test_opened_in_a_thread(info, capfd):
    box = SimpleNamespace(tracker=None)
    thread = threading.Thread(target=lambda: setattr(box, "tracker", MlflowTracking().open(info)))
    thread.start()
    thread.join()
    box.tracker.sync([evaluation(0)], sizes)
    box.tracker.wait()
    assert len(stored(box.tracker.tracker)[1]) == 1
    assert capfd.readouterr() == ("", "")


def test_settings_are_as_before_outside(monkeypatch):
    import mlflow  # noqa: F401

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    levels = [logging.getLogger(name).level for name in ("mlflow", "alembic")]
    with our_calls(), our_calls():
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ
    assert [logging.getLogger(name).level for name in ("mlflow", "alembic")] == levels


def _refusal(uri: str | None, info: SearchInfo) -> str:
    start = time.monotonic()
    with pytest.raises(AutopeftError) as caught:
        MlflowTracking(uri=uri).open(info)
    assert time.monotonic() - start < 8
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_dead_server(info):
    uri = f"http://127.0.0.1:{free_port()}"
    assert _refusal(uri, info) == (
        f"tracking: MLflow server {uri} does not answer (Connection refused); "
        "start it with 'mlflow server', or set tracking: none"
    )


def test_server_that_never_answers(info):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        assert "timed out" in _refusal(f"http://127.0.0.1:{s.getsockname()[1]}", info)


def test_places_that_do_not_work(info, tmp_path, monkeypatch):
    assert "uri: MLflow can't store to 'localhost:5000'; write " in _refusal("localhost:5000", info)
    assert "uri: MLflow can't store to './mlruns'" in _refusal("./mlruns", info)
    (tmp_path / "file").write_text("This is no database, and long enough for SQLite to see that. " * 20)
    assert "can't be written" in _refusal(f"sqlite:///{tmp_path}/file/x/mlflow.db", info)
    assert "file is not a database" in _refusal(f"sqlite:///{tmp_path}/file", info)
    assert "is no file" in _refusal(f"sqlite:///{tmp_path}", info)
    assert "names no file" in _refusal("sqlite://", info)
    assert "does not answer" in _refusal(f"postgresql://127.0.0.1:{free_port()}/x", info)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mlruns")
    assert "tracking: MLFLOW_TRACKING_URI: MLflow can't store" in _refusal(None, info)


def test_deleted_experiment(info):
    tracker = opened(info)
    stored(tracker)[0].delete_experiment(tracker.experiment_id)
    assert "'autopeft' is deleted in MLflow" in _refusal(None, info)


def test_ui_command(mlflow_database, tmp_path):
    shutil.copy(mlflow_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    command, variables = ui_command(place_of(uri, "uri"), port=5001)
    assert (
        " ".join(command[1:])
        == "-m mlflow ui --host 127.0.0.1 --port 5001 --workers 1 --uvicorn-opts=--log-level=warning"
    )
    assert variables == {"MLFLOW_BACKEND_STORE_URI": uri}
    with pytest.raises(AutopeftError, match="a server already"):
        ui_command(place_of("http://127.0.0.1:5000", "uri"))
    with pytest.raises(AutopeftError, match=r"there is no database .*none\.db yet"):
        ui_command(place_of(f"sqlite:///{tmp_path}/none.db", "uri"))
    assert not (tmp_path / "none.db").exists()


@pytest.mark.slow
def test_server_that_dies_in_the_middle(info, server, capfd):
    tracker = opened(info, server.uri)
    nan = evaluation(0, metrics={"accuracy": float("nan"), "f1": float("inf")})
    tracker.sync([nan], sizes, [])
    server.kill()
    some = [nan, evaluation(1)]
    start = time.monotonic()
    with pytest.warns(UserWarning, match="the search goes on") as caught:
        _sync_often(tracker, *[some] * 5)
    assert len(caught) == 1
    assert time.monotonic() - start < 15
    with pytest.warns(UserWarning, match="the same command completes it when MLflow is back"):
        tracker.finish(some, [], [info.experiment_yaml], [0.1], {}, "FINISHED")
    server.start()
    resumed = opened(info, server.uri)
    resumed.finish(some, [some[1].key], [info.experiment_yaml], [0.1, 0.2], {"best": 0.7}, "FINISHED")
    client, parents = stored(resumed, "search")
    assert len(parents) == 1
    assert parents["trec"].info.status == "FINISHED"
    assert (
        resumed.url_hint
        == f"{server.uri}/#/experiments/{resumed.experiment_id}/runs/{resumed.parent_id}?workflowType=machine_learning"
    )
    _, children = stored(resumed)
    assert sorted(name.split()[0] for name in children) == ["#0", "#1"]
    assert client.list_artifacts(children[f"#1 {some[1].key}"].info.run_id)[0].path == "candidate.json"
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_ui_shows_what_was_logged_without_a_server(info):
    tracker = opened(info)
    tracker.finish([evaluation(0)], [], [], [], {}, "FINISHED")
    server = Server(info.run_dir / "mlflow.db")
    try:
        server.start()
        url = f"{server.uri}/get-artifact?path=experiment.yaml&run_uuid={tracker.parent_id}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            assert answer.read() == b"name: trec\n"
    finally:
        server.kill()


@pytest.mark.slow
def test_first_database_is_made_quietly(tmp_path, capfd):
    tracker = opened(SearchInfo("s", tmp_path / "runs" / "run", "id"))
    assert (tmp_path / "runs" / "run" / "mlflow.db").is_file()
    assert tracker.url_hint == f"autopeft ui {tmp_path / 'runs' / 'run'}"
    assert capfd.readouterr() == ("", "")
