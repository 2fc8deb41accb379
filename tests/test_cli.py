"""The command line as a user types it: what it prints, and one line for every mistake."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_project import experiment, write_experiment

from autopeft.cli import main
from autopeft.methods import METHODS
from autopeft.resources import shipped


def autopeft(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command, run in this process."""
    sys.argv = ["autopeft", *arguments]
    status = 0
    try:
        main()
    except SystemExit as exit_:
        status = int(exit_.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    experiment(folder)
    (folder / "empty.jsonl").write_text("")
    (folder / "broken.jsonl").write_text('{"text": "a", "label": "b"}\n{"text": \n')
    (folder / "unlabelled.jsonl").write_text('{"text": "a", "label": "b"}\n{"text": "c"}\n')
    (folder / "one.jsonl").write_text('{"text": "a", "label": "b"}\n' * 20)
    return folder


def _task(folder: Path, **changes: Any) -> dict[str, Any]:
    return {**experiment(folder)["task"], **changes}


MISTAKES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown key": ({"trails": 3}, ["trails", "did you mean 'trials'"]),
    "unknown nested key": ({"training": {"epoch": 1}}, ["training.epoch", "did you mean 'epochs'"]),
    "wrong type": ({"training": {"epochs": "many"}}, ["training.epochs", "'many'"]),
    "unknown model": ({"model": "minilmm"}, ["minilmm", "did you mean 'minilm'"]),
    "missing model folder": ({"model": "./nowhere/at/all"}, ["nowhere", "no such folder"]),
    "unknown task": ({"task": "docstring"}, ["docstring", "did you mean 'docstrings'"]),
    "unknown sampler": ({"sampler": "tpo"}, ["sampler", "tpo", "did you mean 'tpe'"]),
    "unknown sampler option": ({"sampler": {"name": "tpe", "startups": 1}}, ["startups", "did you mean 'startup'"]),
    "unknown runner": ({"runner": "rey"}, ["runner", "did you mean 'ray'"]),
    "unknown tracking": ({"tracking": "mlflw"}, ["tracking", "did you mean 'mlflow'"]),
    "unknown space": ({"space": "hybird"}, ["hybird", "did you mean 'hybrid'"]),
    "unknown method": (
        {"space": {"sizes": "per_layer", "blocks": {"lorra": {"rank": [0, 1]}}}},
        ["lorra", "did you mean 'lora'"],
    ),
    "unknown cost": ({"budget": {"trainable_parms": 5}}, ["budget", "did you mean 'trainable_params'"]),
    "bad budget": ({"budget": {"trainable_params": "lots"}}, ["budget.trainable_params", "lots"]),
    "budget nothing fits": ({"budget": {"trainable_params": 10}}, ["nothing in the space fits", "needs"]),
    "unknown objective": ({"objectives": ["acuracy"]}, ["objectives", "did you mean 'accuracy'"]),
    "unknown metric": ({"task": {"metric": "acuracy"}}, ["acuracy", "did you mean 'accuracy'"]),
    "no end": ({"trials": None}, ["trials", "time_limit"]),
    "bad time": ({"time_limit": "soon"}, ["time_limit", "30m"]),
    "missing file": ({"task": {"train": "nowhere.jsonl"}}, ["nowhere.jsonl"]),
    "empty file": ({"task": {"train": "empty.jsonl"}}, ["empty.jsonl", "empty"]),
    "broken file": ({"task": {"train": "broken.jsonl"}}, ["broken.jsonl", "2"]),
    "row without label": ({"task": {"train": "unlabelled.jsonl"}}, ["unlabelled.jsonl", "label", "2"]),
    "one class only": ({"task": {"train": "one.jsonl"}}, ["one class", "b"]),
    "server that is not there": (
        {"tracking": {"name": "mlflow", "uri": "http://127.0.0.1:9"}},
        ["tracking", "http://127.0.0.1:9", "does not answer"],
    ),
    "a GPU that is not there": ({"runner": {"name": "ray", "gpus_per_worker": 64}}, ["runner", "64 are asked for"]),
    "a Ray client's address": ({"runner": {"name": "ray", "address": "ray://127.0.0.1:1"}}, ["runner.address", "auto"]),
    "cluster that is not there": ({"runner": {"name": "ray", "address": "127.0.0.1:1"}}, ["runner", "127.0.0.1:1"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(
    mistake: str, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, expected = MISTAKES[mistake]
    if isinstance(changes.get("task"), dict):
        changes = {"task": _task(project, **changes["task"])}
    fields = {k: v for k, v in experiment(project, **changes).items() if v is not None}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(fields))
    monkeypatch.chdir(project)
    status, out, err = autopeft(capsys, "search", str(tmp_path / "my.yaml"), "--out", str(tmp_path / "run"), "-q")
    assert status == 2
    assert out == ""
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("autopeft: error: ")
    for part in expected:
        assert part in lines[0], lines[0]
    assert not list((tmp_path / "run" / "weights").glob("*")), "something was trained"


def test_yaml_mistakes_name_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("name: x\ntask: [unclosed\n")
    status, _, err = autopeft(capsys, "search", str(path))
    assert (status, err.count("\n")) == (2, 1)
    assert "my.yaml, line" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "quickstrt"),
        ("plan", "nowhere.yaml"),
        ("front", "nowhere"),
        ("explain", "nowhere"),
        ("export", "nowhere"),
        ("evaluate", "nowhere"),
        ("train", "nowhere", "quickstart"),
        ("train", "nowhere", "quickstrt"),
        ("ui", "nowhere"),
        ("list", "method"),
    ],
)
def test_verbs_refuse_what_is_not_there(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = autopeft(capsys, *arguments)
    assert (status, err.count("\n")) == (2, 1), err
    assert "Traceback" not in err


def test_resuming_with_a_changed_experiment_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    assert autopeft(capsys, "search", str(write_experiment(tmp_path, trials=1)), "--out", out, "-q")[0] == 0
    changed = write_experiment(tmp_path, trials=1, budget={"trainable_params": "5%"})
    status, _, err = autopeft(capsys, "search", str(changed), "--out", out, "-q")
    assert (status, err.count("\n")) == (2, 1)
    assert "budget.trainable_params (there: 2891, now: 1445)" in err


def test_a_search_and_the_verbs_after_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = str(write_experiment(tmp_path, trials=2)), str(tmp_path / "run")
    status, shown, progress = autopeft(capsys, "search", path, "--out", out)
    assert status == 0
    assert "1/2  #0 " in progress
    assert "Pareto front" in shown
    assert [f"autopeft {verb}" in shown for verb in ("export", "evaluate", "report", "ui")] == [True] * 4
    front = json.loads(autopeft(capsys, "front", out, "--json")[1])
    assert front == json.loads((tmp_path / "run" / "front.json").read_text())
    to = str(tmp_path / "best")
    assert autopeft(capsys, "export", out, "--to", to)[0] == 0
    measured = json.loads(autopeft(capsys, "evaluate", to, "--json")[1])
    best = max(front["points"], key=lambda p: p["metrics"]["accuracy"])
    assert measured["test_accuracy"] == best["metrics"]["test_accuracy"]
    status, _, err = autopeft(capsys, "export", out, "--max-params", "1", "--to", to)
    assert (status, err.count("\n")) == (2, 1)
    assert "trainable_params <= 1" in err


def test_quiet_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_experiment(tmp_path, trials=1))
    assert autopeft(capsys, "search", path, "--out", str(tmp_path / "run"), "--quiet") == (0, "", "")


def test_plan_counts_and_estimates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = autopeft(capsys, "plan", str(write_experiment(tmp_path)), "--json")
    facts = json.loads(out)
    assert status == 0
    assert len(facts["dimensions"]) == 3 * 4 + 1
    assert facts["costs"]["trainable_params"]["least"] <= facts["costs"]["trainable_params"]["most"]
    assert facts["smallest_non_empty"]["trainable_params"] > 0
    assert facts["seconds"] > 0


def test_plan_says_rows_and_bytes_as_people_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_experiment(tmp_path, budget={"training_memory": "64GB"})
    lines = dict(line.split("  ", 1) for line in autopeft(capsys, "plan", str(path))[1].splitlines() if "  " in line)
    said = {name: text.strip() for name, text in lines.items()}
    assert re.match(r"\d+ of train, \d+ of validation, \d+ of test \(", said["examples"])
    assert said["budget, training_memory"].startswith("<= 59.6 GiB; the smallest non-empty hybrid: ")
    assert said["budget, training_memory"].endswith("iB")
    assert re.fullmatch(r"uniform points: least \S+ .iB, median \S+ .iB, most \S+ .iB", said["training_memory"])
    assert re.match(r"\S+ .iB to \S+ .iB for one candidate at a time; ", said["memory of training"])


@pytest.mark.parametrize(("rule", "said"), [("pareto", True), ("none", False)])
def test_plan_says_where_it_is_an_upper_estimate(
    rule: str, said: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = autopeft(capsys, "plan", str(write_experiment(tmp_path, stopping=rule)))
    assert ("less, where candidates are stopped early" in " ".join(out.split())) == said


def test_plan_knows_a_search_that_has_begun_and_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    autopeft(capsys, "search", str(write_experiment(tmp_path, trials=1)), "--quiet")
    measured = tmp_path / "runs/tiny/engine.json"
    known = []
    for epochs in (1, 2):
        training = {"epochs": epochs, "batch_size": 16, "max_length": 16, "precision": "fp32"}
        _, out, _ = autopeft(capsys, "plan", str(write_experiment(tmp_path, training=training)), "--json")
        known.append(json.loads(out)["engine"] == json.loads(measured.read_text()))
    assert known == [True, False]


@pytest.mark.parametrize(
    "kind",
    [
        "methods",
        "tasks",
        "formats",
        "readouts",
        "samplers",
        "stopping",
        "spaces",
        "controls",
        "experiments",
        "models",
        "costs",
        "runners",
    ],
)
def test_list_says_a_line_about_each(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = autopeft(capsys, "list", kind, "--json")
    found = json.loads(out)
    assert status == 0
    assert found
    assert all(entry["name"] and entry["description"] for entry in found)


def test_list_of_methods_says_what_each_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    found = {entry["name"]: entry for entry in json.loads(autopeft(capsys, "list", "methods", "--json")[1])}
    assert {name for name, entry in found.items() if entry["kind"] == "method"} == set(METHODS.names())
    for name, cls in METHODS.all().items():
        assert {"kind": "method", "family": cls.family, "paper": cls.paper, "formula": cls.formula}.items() <= found[
            name
        ].items()
    told = ("size", "packs", "folds_to", "merges", "exports_as", "zero_init")
    assert [found["vera"][key] for key in told] == ["rank", "yes", "lora", True, "VERA", True]
    assert [found["ia3"][key] for key in told] == ["on or off", "yes", None, True, "IA3", True]
    assert [found["prefix_mlp"][key] for key in told] == ["length", "yes", "prefix", False, "PREFIX_TUNING", False]
    assert found["delta_lora"]["packs"] == "16 at most"
    lines = [line for line in autopeft(capsys, "list", "methods")[1].splitlines() if line.strip()]
    title, *lines = lines[: next((i for i, line in enumerate(lines) if line.split()[0] == "baseline"), len(lines))]
    assert title == "method"
    lines = [line for line in lines if not line.startswith("─")]
    assert [line.split()[0] for line in lines] == ["name", *METHODS.names()]
    start = lines[0].index("exports as")
    assert {line[start - 2 : start] for line in lines} == {"  "}, "columns are aligned"
    monkeypatch.setenv("COLUMNS", "80")
    narrow = autopeft(capsys, "list", "methods")[1]
    assert max(len(line) for line in narrow.splitlines() if not line.startswith("not shown: ")) <= 80
    for name, cls in METHODS.all().items():
        assert re.search(rf"^{name} +{re.escape(cls.description[:28])}", narrow, re.MULTILINE), name


def test_list_says_which_options_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    rules = {entry["name"]: entry["options"] for entry in json.loads(autopeft(capsys, "list", "stopping", "--json")[1])}
    assert rules["none"] == {}
    assert rules["pareto"]["confidence"].startswith("0.995; ")
    tasks = autopeft(capsys, "list", "tasks")[1]
    assert "train: required" in tasks
    # What all have is told once, at the end.
    assert tasks.count("train_limit: optional; at most so many examples") == 1
    assert tasks.index("all of them") < tasks.index("train_limit")


@pytest.mark.parametrize("name", shipped("experiments"))
def test_shipped_experiments_are_valid(name: str) -> None:
    from autopeft.experiment import Experiment

    assert Experiment.load(name).name == name


def test_help_of_every_verb() -> None:
    for verb in ("search", "plan", "front", "show", "report", "explain", "train", "export", "evaluate", "ui", "list"):
        command = [sys.executable, "-m", "autopeft", verb, "--help"]
        assert "Usage" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_reader_that_stops_reading_is_no_mistake(tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    with errors.open("wb") as file:
        # A pipe whose reader is gone before anything is written, as `head` may be.
        writer = subprocess.Popen(
            [sys.executable, "-m", "autopeft", "list", "samplers", "--json"], stdout=subprocess.PIPE, stderr=file
        )
        assert writer.stdout is not None
        writer.stdout.close()
        assert writer.wait() == 1
    assert errors.read_text() == ""
