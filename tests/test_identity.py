"""A run folder goes on with what it began with, and with nothing else; its study is what knows."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_fingerprint import edit, flip
from tiny_project import experiment
from typer.testing import CliRunner

import autopeft
from autopeft.begin import upgraded
from autopeft.cli.app import app
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.launch import launch
from autopeft.progress import Silent
from autopeft.result import SearchResult
from autopeft.searching.study import Study

FIELDS = {"trials": 2, "runner": {"name": "in_process", "cpus": 1, "pack": 2}}
TRAINING = {"epochs": 1, "batch_size": 16, "max_length": 16, "precision": "fp32"}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, data, and the folder `run` of a finished search."""
    folder = tmp_path_factory.mktemp("original")
    search(folder)
    return folder


@pytest.fixture
def project(original: Path, tmp_path: Path) -> Path:
    """A copy of all three, so moved as well."""
    shutil.copytree(original, tmp_path / "copy")
    return tmp_path / "copy"


class Heard(Silent):
    """Keeps what is remarked."""

    def __init__(self) -> None:
        self.remarks: list[str] = []

    def remarked(self, remarks: Any) -> None:
        self.remarks += remarks


def search(folder: Path, **changes: Any) -> SearchResult:
    return launch(Experiment.of(experiment(folder, **{**FIELDS, **changes}), "test"), folder / "run", Heard())


def refused(folder: Path, named: str, **changes: Any) -> None:
    """Resuming is one line that names what differs, and leaves the folder as it was."""
    before = {p: p.read_bytes() for p in (folder / "run").rglob("*") if p.is_file()}
    with pytest.raises(AutopeftError, match=named) as error:
        search(folder, **changes)
    assert "\n" not in str(error.value)
    assert {p: p.read_bytes() for p in (folder / "run").rglob("*") if p.is_file()} == before


def test_all_of_it_moved_is_the_same_search(project: Path, original: Path) -> None:
    assert search(project).evaluations == SearchResult.open(original / "run").evaluations
    assert yaml.safe_load((project / "run/experiment.yaml").read_text())["model"] == str(project / "model")


def test_what_may_change_may_change(project: Path) -> None:
    changes = {"name": "other", "trials": 3, "time_limit": "1h", "runner": {"name": "in_process", "pack": 1}}
    assert len(search(project, **changes).evaluations) == 3


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"training": {**TRAINING, "epochs": 2, "seed": 5}},
            r"epochs \(there: 1, now: 2\), training\.seed \(there: 0, n",
        ),
        ({"training": {**TRAINING, "precision": "auto"}}, r"training\.precision \(there: 'fp32', now: 'auto'\)"),
        ({"sampler": {"name": "tpe", "seed": 1, "startup": 3}}, r"sampler\.seed \(there: 0, now: 1\)"),
        ({"stopping": "none"}, r"stopping\.name \(there: 'pareto', now: 'none'\)"),
        ({"objectives": ["loss", "trainable_params"]}, r"objectives \(there: \['accuracy', "),
        ({"budget": {"stored_bytes": "10%"}}, r"budget\.trainable_params \(there: 2891, now: nothing\)"),
        ({"space": "lora_ranks"}, r"space\.blocks"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_other_settings_are_refused_with_both_values(changes: dict[str, Any], named: str, project: Path) -> None:
    refused(project, named, **changes)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_an_edited_model_is_refused(file: str, project: Path) -> None:
    path = project / "model" / file
    if file == "model.safetensors":
        flip(path, -1)
    else:
        edit(path, "layer_norm_eps" if file == "config.json" else "truncation", None if "token" in file else 1e-5)
    if file == "tokenizer.json":
        path.write_text(path.read_text().replace('"w1":', '"w1 ":'))
    refused(project, rf"the model is not the one .*: {file} \(there: \w{{12}}, now: \w{{12}}\); bring it back")


def test_a_models_own_code_makes_it_another(project: Path) -> None:
    with pytest.raises(AutopeftError, match=r"trust_remote_code \(there: False, now: True\)"):
        launch(
            Experiment.of(experiment(project, **FIELDS, trust_remote_code=True), "test"),
            project / "run",
            Heard(),
            trust_remote_code=True,
        )


def test_an_edited_experiment_is_not_explained(project: Path) -> None:
    edited = yaml.safe_load((project / "run/experiment.yaml").read_text())
    edited["training"]["epochs"] = 7
    (project / "run/experiment.yaml").write_text(yaml.safe_dump(edited))
    with pytest.raises(AutopeftError, match=r"training\.epochs \(there: 1, now: 7\)"):
        SearchResult.open(project / "run").explain()


def test_edited_data_are_refused(project: Path) -> None:
    path = project / "test.jsonl"
    path.write_text(path.read_text().replace("w1", "w2", 1))
    refused(project, "the task's data are not those")


def test_an_edited_file_of_a_space_is_refused(original: Path, tmp_path: Path) -> None:
    space = {"sizes": "per_layer", "blocks": {"lora": {"rank": [0, 2, 4]}}, "training": {"learning_rate": 0.01}}
    (tmp_path / "space.yaml").write_text(json.dumps(space))
    for name in ("model", "train.jsonl", "validation.jsonl", "test.jsonl"):
        (tmp_path / name).symlink_to(original / name)
    search(tmp_path, space=str(tmp_path / "space.yaml"))
    space["training"] = {"learning_rate": 0.02}
    (tmp_path / "space.yaml").write_text(json.dumps(space))
    refused(tmp_path, r"learning_rate.* \(there: .*0\.01.*, now: .*0\.02", space=str(tmp_path / "space.yaml"))


def test_the_folders_own_edited_experiment_is_refused(project: Path) -> None:
    path = project / "run/experiment.yaml"
    fields = yaml.safe_load(path.read_text())
    fields["training"] |= {"epochs": 3, "seed": 7}
    path.write_text(yaml.safe_dump(fields))
    result = CliRunner().invoke(app, ["search", str(path), "--out", str(project / "run"), "--quiet"])
    assert isinstance(result.exception, AutopeftError)
    assert "training.epochs (there: 1, now: 3), training.seed (there: 0, now: 7)" in str(result.exception)
    with pytest.raises(AutopeftError, match=r"training\.epochs \(there: 1, now: 3\).*; export from it then"):
        SearchResult.open(project / "run").export("best", project / "best")
    assert len(SearchResult.open(project / "run").front.points) > 0


def test_an_edited_model_is_not_exported_with(project: Path) -> None:
    flip(project / "model/model.safetensors", -1)
    search_file = project / "run/experiment.yaml"
    search_file.write_text(yaml.safe_dump(yaml.safe_load(search_file.read_text()) | {"model": str(project / "model")}))
    with pytest.raises(AutopeftError, match=r"the model is not the one .*model\.safetensors"):
        SearchResult.open(project / "run").export("best", project / "best")


def test_other_libraries_are_said(project: Path) -> None:
    study = Study.open(project / "run", **opening(project))
    assert upgraded(study) == []
    study.remember("versions", {**(study.remembered("versions") or {}), "torch": "1.0"})
    (said,) = upgraded(study)
    assert said.startswith("this search began with other libraries (torch 1.0 then, ")
    heard = Heard()
    launch(Experiment.of(experiment(project, **FIELDS), "test"), project / "run", heard)
    assert said in heard.remarks


def opening(project: Path) -> dict[str, Any]:
    from autopeft.session import Session

    session = Session(Experiment.of(experiment(project, **FIELDS), "test"))
    return {
        "space": session.space,
        "budget": session.budget,
        "objectives": session.objectives,
        "sampler": {"name": "tpe", **session.experiment.sampler.model_dump()},
        "fingerprint": session.data.fingerprint,
        "settings": {**session.settings, "prior.json": None},
    }


# --- what stands beside the study ------------------------------------------------------------------------------------

VIEWS = ("experiment.yaml", "engine.json", "trials.csv", "front.json", ".search_id", "pareto.html", "pareto.png")
LOSSES: dict[str, Callable[[Path], Any]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"\xff\xfe{[" * 9),
}


@pytest.mark.parametrize("loss", ["missing", "garbage"])
def test_views_are_made_again(loss: str, project: Path) -> None:
    search(project)
    before = {name: (project / "run" / name).read_bytes() for name in VIEWS if not name.startswith("pareto")}
    for name in VIEWS:
        LOSSES[loss](project / "run" / name)
    search(project)
    assert {name: (project / "run" / name).read_bytes() for name in before} == before
    assert (project / "run/pareto.png").stat().st_size > 1000


@pytest.mark.parametrize("loss", [*LOSSES, "bit"])
def test_weights_that_are_lost_are_trained_again(loss: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = search(project)
    best = result.front.pick("best")
    path = project / "run/weights" / f"{best.key}.safetensors"
    LOSSES[loss](path) if loss in LOSSES else flip(path, -1)
    exported = result.export("best", project / "best")
    assert ("were not kept" if loss == "missing" else "cannot be read") in capsys.readouterr().err
    assert json.loads((exported / "hybrid.json").read_text())["metrics"]["accuracy"] == best.metrics["accuracy"]
    assert autopeft.evaluate(exported)["test_accuracy"] == pytest.approx(best.metrics["test_accuracy"])


@pytest.mark.parametrize("loss", LOSSES)
def test_results_without_their_study_are_not_begun_anew(loss: str, project: Path) -> None:
    LOSSES[loss](project / "run/study.db")
    refused(project, r"study\.db: .*; restore a copy of it, or use a new folder; trials\.csv and front\.json beside it")
    for verb in ("front", "explain", "export"):
        result = CliRunner().invoke(app, [verb, str(project / "run")])
        assert isinstance(result.exception, AutopeftError), result.output
        assert str(project / "run") in str(result.exception)


def test_an_empty_study_without_results_is_nothing(project: Path) -> None:
    shutil.rmtree(project / "run")
    (project / "run").mkdir()
    (project / "run/study.db").touch()
    (project / "run/.study.db.1.partial").touch()
    (project / "run/.study.db.1.partial-journal").touch()
    assert len(search(project).evaluations) == 2
    assert not list((project / "run").glob(".*partial*"))


def test_what_a_search_started_from_is_part_of_it(project: Path) -> None:
    shutil.copytree(project / "run", project / "other")
    shutil.rmtree(project / "run")
    start = {"warm_start": str(project / "other")}
    search(project, **start)
    kept = (project / "run/prior.json").read_text()
    refused(project, r"prior\.json \(there: '\w{12}', now: nothing\)")
    shutil.copytree(project / "other", project / "another")
    refused(project, r"warm_start \(there: .*now: ", warm_start=str(project / "another"))
    edit(project / "run/prior.json", "scores", [0.1] * len(json.loads(kept)["scores"]))
    refused(project, r"prior\.json \(there: '\w{12}', now: '\w{12}'\)", **start)
    for loss in ("empty", "garbage"):
        LOSSES[loss](project / "run/prior.json")
        refused(project, r"prior\.json: .*; restore a copy of it, or use a new folder", **start)
    for wrong in (
        {"points": [1], "scores": [1], "front": []},
        {"points": []},
        {"points": [], "scores": [1], "front": []},
    ):
        (project / "run/prior.json").write_text(json.dumps(wrong))
        refused(project, r"prior\.json: .*; restore a copy of it", **start)
    (project / "run/prior.json").unlink()
    search(project, **start)
    assert (project / "run/prior.json").read_text() == kept
    # The other search is gone, and so is what was kept of it.
    (project / "run/prior.json").unlink()
    shutil.rmtree(project / "other")
    with pytest.raises(AutopeftError, match=r"warm_start: .*no study here"):
        search(project, **start)


def as_of_version_0_1(run: Path) -> None:
    """The same folder as it would have been written before a study knew what it is of."""
    header = {k: v for k, v in Study.read_header(run).items() if k not in ("format", "model", "training", "stopping")}
    with closing(sqlite3.connect(run / "study.db")) as connection:
        connection.execute("DELETE FROM trial_user_attributes WHERE key IN ('digest', 'pack')")
        connection.execute("DELETE FROM study_user_attributes WHERE key NOT LIKE 'metrics%'")
        values = (json.dumps({k: v for k, v in header.items() if k != "prior.json"}),)
        connection.execute(
            "INSERT INTO study_user_attributes (study_id, key, value_json) VALUES (1, 'header', ?)", values
        )
        connection.commit()


def test_a_folder_of_version_0_1_goes_on(project: Path) -> None:
    as_of_version_0_1(project / "run")
    shutil.copy(project / "run/engine.json", project / "engine.json")
    # Its experiment.yaml is all that it knows of the rest, paths included.
    fields = yaml.safe_load((project / "run/experiment.yaml").read_text())
    here = experiment(project, **FIELDS)
    fields |= {"model": here["model"], "task": here["task"]}
    (project / "run/experiment.yaml").write_text(yaml.safe_dump(fields))
    refused(project, r"training\.epochs \(there: 1, now: 2\)", training={**TRAINING, "epochs": 2})
    (project / "run/engine.json").unlink()
    with pytest.raises(AutopeftError, match=r"engine\.json: is missing, .*; restore a copy of it, or use a new folder"):
        search(project)
    as_of_version_0_1(project / "run")
    shutil.copy(project / "engine.json", project / "run/engine.json")
    before = Study.read(project / "run")
    assert search(project, trials=3).evaluations[:2] == before
    assert Study.read_header(project / "run")["training"]["epochs"] == 1
    flip(project / "model/model.safetensors", -1)
    refused(project, "the model is not the one")


def test_fewer_epochs_than_phases_are_refused_before_training(project: Path) -> None:
    fields = {**FIELDS, "space": {"blocks": {"lt_sft": {"size": [0, 8]}}}, "budget": {}}
    fields["training"] = {**experiment(project)["training"], "epochs": 1}
    from autopeft.session import Session

    with pytest.raises(AutopeftError, match=r"method 'lt_sft' divides the training into 2 phases .* 2 or more"):
        Session(Experiment.of(experiment(project, **fields), "test"))
