"""Fields of an experiment on the command line, and what may be written in short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.given import read_given, with_given
from autopeft.methods.lora import LoRA
from autopeft.run_folder import RunFolder

FIELDS: dict[str, Any] = {"name": "x", "model": "minilm", "task": "docstrings", "trials": 3}


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1h 30m", 5400), ("1.5h", 5400), ("1d2h3m4s", 93784), ("45", 45)],
)
def test_times(written: str, seconds: float) -> None:
    assert Experiment.of({**FIELDS, "time_limit": written}, "x").time_limit == seconds


@pytest.mark.parametrize("written", ["30m1h", "1h1h", "1h30", "h", "soon", "-1h", "1h30m!"])
def test_no_times(written: str) -> None:
    with pytest.raises(AutopeftError, match="time_limit: expected seconds, or a time like '90s', '30m', '1h30m'"):
        Experiment.of({**FIELDS, "time_limit": written}, "x")


@pytest.mark.parametrize(
    ("written", "limits"),
    [
        ("1%", {"trainable_params": "1%"}),
        (5000, {"trainable_params": 5000}),
        ("none", {}),
        ({"stored_bytes": "1M"}, {"stored_bytes": "1M"}),
    ],
)
def test_a_budget_of_one_amount_is_of_trained_parameters(written: Any, limits: dict[str, Any]) -> None:
    assert Experiment.of({**FIELDS, "budget": written}, "x").budget == limits


@pytest.mark.parametrize(
    ("name", "site"),
    [("query", "q"), ("k_proj", "k"), ("out_proj", "o"), ("fc1", "up"), ("gate_proj", "gate"), ("down_proj", "down")],
)
def test_places_have_the_fields_names_too(name: str, site: str) -> None:
    assert LoRA(2, sites=(name,)) == LoRA(2, sites=(site,))


def test_all_linear_is_every_map() -> None:
    assert LoRA(2, sites="all-linear").sites == ("q", "k", "v", "o", "up", "gate", "down")
    with pytest.raises(AutopeftError, match=r"unknown site 'output'; .*known: "):
        LoRA(2, sites=("output",))


def test_paths_from_python_are_texts_at_any_depth(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    task = {"name": "files", "train": rows, "test": rows, "text": "text", "label": "label"}
    found = Experiment.of({**FIELDS, "model": tmp_path, "task": task, "warm_start": tmp_path}, "x")
    texts = {**FIELDS, "model": str(tmp_path), "task": {**task, "train": str(rows), "test": str(rows)}}
    assert found == Experiment.of({**texts, "warm_start": str(tmp_path)}, "x")


@pytest.mark.parametrize("wrong", [7, None, {"model": "minilm"}])
def test_what_is_no_experiment_and_no_run_is_one_line(wrong: Any) -> None:
    for call, what in ((Experiment.load, "a YAML file"), (RunFolder.existing, "the folder of a search")):
        with pytest.raises(AutopeftError, match=r"^expected .*, not ") as caught:
            call(wrong)
        assert what in str(caught.value)


def test_fields_are_set_at_any_depth_beside_what_is_written_in_short() -> None:
    given = read_given(
        [
            "training.epochs=5",
            "sampler.startup=4",
            "space.training.learning_rate=2e-3",
            "controls.share=0.2",
            "budget=1%",
            "runner.workers=2",
            "objectives=[accuracy, stored_bytes]",
            "descent.share=0.5",
        ]
    )
    data = {**FIELDS, "sampler": "tpe", "space": "hybrid", "controls": ["lora"], "descent": "none"}
    experiment = Experiment.of(with_given(data, given), "x")
    assert experiment.training.epochs == 5
    assert (experiment.sampler.name, experiment.sampler.model_dump()["startup"]) == ("tpe", 4)
    assert isinstance(experiment.space, dict)
    assert experiment.space["training"]["learning_rate"] == 2e-3
    assert "blocks" in experiment.space
    assert (experiment.controls.names, experiment.controls.share) == (("lora",), 0.2)
    assert experiment.budget == {"trainable_params": "1%"}
    assert (experiment.runner.name, experiment.runner.parallel) == ("ray", 2)
    assert experiment.objectives == ["accuracy", "stored_bytes"]
    assert experiment.descent
    assert experiment.descent.share == 0.5
    # What was given is left as it was.
    assert data["sampler"] == "tpe"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training.epoch=5", "--set: training.epoch: unknown key; did you mean 'epochs'?"),
        ("training.epochs=many", "--set: training.epochs: "),
        ("sampler.startups=1", "startups: unknown key; did you mean 'startup'?"),
        ("trails=5", "--set: trails: unknown key; did you mean 'trials'?"),
        ("trials.more=5", "--set trials: is 20, which has no fields to be set"),
        ("trials", "--set: expected key=value, such as training.epochs=5 (given: 'trials')"),
        ("=5", "--set: expected key=value"),
        ("trials=[1", "--set trials: not valid YAML"),
        ("tracking.uri=http://user:hidden-word@host", "--set: tracking"),
    ],
)
def test_what_cannot_be_set_is_one_line_with_the_place(text: str, said: str) -> None:
    with pytest.raises(AutopeftError) as caught:
        Experiment.load("quickstart", given=[text])
    assert said in str(caught.value)
    assert "hidden-word" not in str(caught.value)


def test_a_mistake_of_the_file_is_said_to_be_the_files(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("name: x\nmodel: minilm\ntask: docstrings\ntrails: 3\n")
    with pytest.raises(AutopeftError, match=r"own\.yaml: trails: unknown key"):
        Experiment.load(path, given=["trials=4"])
    path.write_text("name: x\nmodel: minilm\ntask: docstrings\n")
    assert Experiment.load(path, given=["trials=4"]).trials == 4
    with pytest.raises(AutopeftError, match="--set: trials twice"):
        Experiment.load(path, given=["trials=4", "trials=5"])
