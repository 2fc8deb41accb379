"""Recipes: what a search says of how a candidate came about, and what following it gives."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from test_cli import autopeft
from tiny_project import experiment, write_experiment
from tiny_task import save_model

from autopeft import AutopeftError, Candidate, Evaluation, Hybrid, Recipe, TrainResult, evaluate, train
from autopeft.candidate import Origin
from autopeft.engine.settings import TrainingSettings
from autopeft.following.opening import opened
from autopeft.methods import METHODS
from autopeft.searching.lineage import recipe_of
from autopeft.searching.objective import Objective

LORA, SEQUENTIAL = METHODS.get("lora"), METHODS.get("sequential")
LARGE = Hybrid.uniform(3, LORA(4, sites=("q", "v")), SEQUENTIAL(4))
SMALL = Hybrid.uniform(3, LORA(1, sites=("v",)))
SETTINGS = TrainingSettings(
    head="drawn", method_rates="shared", epochs=2, batch_size=16, max_length=16, precision="fp32", learning_rate=2e-3
)
OBJECTIVES = [Objective.of("accuracy"), Objective.of("trainable_params")]
STEPS: list[dict[str, Any]] = [
    {"train": LARGE.to_json(), "training": {"learning_rate": 0.005}, "epochs": 2, "seed": 3},
    {
        "cut": {
            "cost": "trainable_params",
            "limit": 1000,
            "length": 16,
            "importance": "first_order",
            "sizes": "chosen",
            "hybrid": SMALL.to_json(),
        }
    },
    {"heal": {"training": {"learning_rate": 0.01}, "epochs": 1}},
]
#: A metric's rounding, where the same is computed in other company.
CLOSE = 1e-5


@pytest.fixture(scope="module")
def fields(project: Path) -> dict[str, Any]:
    return experiment(project, training=SETTINGS.model_dump())


@pytest.fixture(scope="module")
def followed(fields: dict[str, Any], project: Path) -> TrainResult:
    """Two seeds from 3 on, the median of them taken home."""
    return train(Recipe.from_json(STEPS, "recipe"), seeds=2, out=project / "out", quiet=True, **fields)


# --- the value


def test_a_recipe_is_read_back() -> None:
    recipe = Recipe.from_json(STEPS, "recipe")
    assert recipe.to_json() == STEPS
    assert (recipe.seed, recipe.epochs, recipe.hybrids) == (3, 3, [LARGE, SMALL])
    assert recipe.with_seed(4).to_json()[0] == {**STEPS[0], "seed": 4}
    fixed = {"train": SMALL.to_json(), "training": {"learning_rate": 0.01}, "epochs": 3, "seed": 3}
    assert recipe.fixed.to_json() == [fixed]


def _changed(step: int, *path: str, value: Any = ...) -> list[dict[str, Any]]:
    steps = json.loads(json.dumps(STEPS))
    inside = steps[step]
    for name in path[:-1]:
        inside = inside[name]
    if value is ...:
        del inside[path[-1]]
    else:
        inside[path[-1]] = value
    return list(steps)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ({}, "expected a list of steps"),
        ([], "expected a list of steps"),
        (STEPS[:2], "step 2: a cut is followed"),
        (STEPS[1:], "step 2: a cut is followed"),
        ([STEPS[0], *STEPS[1:] * 201], "at most 200 cuts"),
        ([3], "step 1: expected a mapping, not 3"),
        (_changed(0, "seed"), "step 1: seed: missing"),
        (_changed(0, "seed", value=-1), "step 1: seed"),
        (_changed(0, "epochs", value=10**6), "step 1: epochs"),
        (_changed(0, "training", "learning_rate", value=math.inf), "step 1: training: learning_rate"),
        (_changed(0, "training", "lr", value=0.1), "unknown key 'lr'; known: learning_rate"),
        (_changed(0, "train", "layers", value=3), "step 1: hybrid: expected"),
        (_changed(1, "cut", "cost", value="trainable_parms"), "step 2: cost: unknown cost .* 'trainable_params'"),
        (_changed(1, "cut", "limit", value=-1), "step 2: cut.limit"),
        (_changed(1, "cut", "importance", value="magnitude"), "step 2: cut.importance"),
        (_changed(1, "cut", "hybrid", value={"layers": [[]]}), "different numbers of layers"),
        (_changed(2, "heal", "seeds", value=1), "step 3: heal.seeds: unknown key"),
    ],
)
def test_what_is_no_recipe_is_one_line(steps: Any, said: str) -> None:
    with pytest.raises(AutopeftError, match=f"^here.*{said}") as caught:
        Recipe.from_json(steps, "here")
    assert "\n" not in str(caught.value)


# --- where it comes from


def _ended(number: int, hybrid: Hybrid, rate: float = 0.01, **changes: Any) -> Evaluation:
    return Evaluation(Candidate(hybrid, {"learning_rate": rate}), "done", {"accuracy": 0.5}, number, **changes)


def test_a_line_of_ancestors_is_a_recipe() -> None:
    middle = Hybrid.uniform(3, LORA(2, sites=("v",)))
    first = _ended(0, LARGE)
    second = _ended(1, middle, epochs=1, origin=Origin(first.key, f"{first.key}-cut-500"))
    # The same hybrid at the same rate, which somebody has proposed beside the descent.
    other = replace(second, number=2, epochs=None, origin=None)
    third = _ended(3, SMALL, 0.02, epochs=1, origin=Origin(second.key, f"{second.key}-cut-250"))
    everybody = [first, second, other, third]
    recipe = recipe_of(third, everybody, OBJECTIVES, SETTINGS, 16)
    assert recipe is not None
    assert recipe.hybrids == [LARGE, middle, SMALL]
    assert [(cut.cost, cut.limit, heal.epochs, heal.training) for cut, heal in recipe.cuts] == [
        ("trainable_params", 500, 1, {"learning_rate": 0.01}),
        ("trainable_params", 250, 1, {"learning_rate": 0.02}),
    ]
    assert (recipe.first.epochs, recipe.seed) == (2, 0)
    alone = recipe_of(replace(other, seed=7), everybody, OBJECTIVES, SETTINGS, 16)
    assert alone is not None
    assert (alone.hybrids, alone.seed) == ([middle], 7)
    assert recipe_of(third, [third], OBJECTIVES, SETTINGS, 16) is None


# --- following it


def test_a_recipe_is_followed_step_by_step(followed: TrainResult) -> None:
    assert [training.seed for training in followed.trainings] == [3, 4]
    for training in followed.trainings:
        large, small = training.stops
        assert (large.candidate.hybrid, large.fidelity, small.fidelity) == (LARGE, 2, 1)
        assert 800 < small.metrics["trainable_params"] <= 1000
        assert small.origin is not None
        assert small.origin.parent == large.key
        # It goes on where it was cut: one epoch has a lower loss than the first of the large one.
        assert small.curve[0]["train_loss"] < large.curve[0]["train_loss"]
        assert training.recipe.hybrid == training.hybrid != SMALL
    one, two = (training.metrics for training in followed.trainings)
    for name in ("accuracy", "test_accuracy", "test_loss"):
        assert followed.scores[name].mean == pytest.approx(mean([one[name], two[name]]))
        assert followed.scores[name].sd == pytest.approx(stdev([one[name], two[name]]))
    assert one["test_loss"] != two["test_loss"]
    assert repr(followed).startswith("TrainResult(2 of 2 seeds: accuracy 0.")
    assert followed.to_frame()["seed"].to_list() == [3, 4]
    shown = followed._repr_html_()
    assert f"<td>{one['test_loss']:.4f}</td>" in shown
    assert all(f">{training.hybrid.describe()}</td>" in shown for training in followed.trainings)


def test_the_median_seed_is_taken_home(followed: TrainResult, fields: dict[str, Any]) -> None:
    median = followed.median
    assert followed.folder is not None
    record = json.loads((followed.folder / "hybrid.json").read_text())
    assert median.metrics["accuracy"] == min(t.metrics["accuracy"] for t in followed.trainings)
    assert (record["seed"], record["key"]) == (median.seed, median.last.key)
    assert record["recipe"] == median.recipe.to_json()
    measured = evaluate(followed.folder)
    assert measured["test_accuracy"] == pytest.approx(median.metrics["test_accuracy"])
    assert measured["test_loss"] == pytest.approx(median.metrics["test_loss"], rel=CLOSE)
    # What was written is a recipe in turn: of the same seed, and giving the same.
    again = train(followed.folder, quiet=True, **fields)
    (training,) = again.trainings
    assert training.recipe == median.recipe
    for name in ("accuracy", "loss", "test_loss"):
        assert training.metrics[name] == pytest.approx(median.metrics[name], rel=CLOSE)


def test_the_command_prints_json_and_tables(
    project: Path, followed: TrainResult, capsys: pytest.CaptureFixture[str]
) -> None:
    # What says what is searched is not looked at.
    unused = {"trials": None, "budget": {"trainable_params": 1}, "space": "nothing"}
    path = str(write_experiment(project, training=SETTINGS.model_dump(), **unused))
    arguments = ("train", str(followed.folder), path, "--fixed", "--seed", "8")
    status, out, _ = autopeft(capsys, *arguments, "--json")
    assert status == 0
    found = json.loads(out)
    (training,) = found["trainings"]
    (step,) = training["recipe"]
    assert (step["epochs"], step["seed"]) == (3, 8)
    assert training["same_hybrid"]
    assert step["train"] == training["hybrid"] == followed.median.hybrid.to_json()
    assert found["scores"]["test_accuracy"] == {"mean": training["metrics"]["test_accuracy"], "sd": None}
    status, out, err = autopeft(capsys, *arguments)
    assert status == 0
    assert err.count("epoch ") == 3
    assert f"{training['metrics']['test_accuracy']:.4f}" in out
    assert "as the recipe's" in out


def test_a_decoder_and_a_bare_hybrid_are_trained(fields: dict[str, Any], tmp_path: Path) -> None:
    """Seed and epochs are the experiment's."""
    save_model(tmp_path / "model", "llama")
    (tmp_path / "hybrid.json").write_text(json.dumps(SMALL.to_json()))
    training = SETTINGS.model_copy(update={"seed": 5, "epochs": 1}).model_dump()
    given = {**fields, "model": str(tmp_path / "model"), "training": training}
    result = train(tmp_path / "hybrid.json", quiet=True, **given)
    (only,) = result.trainings
    assert (only.seed, only.last.fidelity, only.hybrid) == (5, 1, SMALL)
    assert only.recipe == opened(SMALL, TrainingSettings(**training)).recipe
    assert "test_accuracy" in only.metrics


def test_a_recipe_that_cannot_be_trained_is_one_line(fields: dict[str, Any], tmp_path: Path) -> None:
    hopeless = Candidate(SMALL, {"learning_rate": 1e30})
    with pytest.raises(AutopeftError, match=r"seed 0: the (validation )?loss is .*every seed"):
        train(hopeless, seeds=2, quiet=True, **fields)
    tight = Recipe.from_json(_changed(1, "cut", "limit", value=3), "recipe")
    with pytest.raises(AutopeftError, match="seed 3: nothing is left of the hybrid at 3 parameters"):
        train(tight, quiet=True, **fields)


# --- what it is given


def _written(folder: Path, record: dict[str, Any]) -> Path:
    (folder / "hybrid.json").write_text(json.dumps(record))
    return folder


def test_an_older_export_is_a_training_from_its_beginning(followed: TrainResult, tmp_path: Path) -> None:
    assert followed.folder is not None
    record = json.loads((followed.folder / "hybrid.json").read_text())
    del record["recipe"], record["engine"], record["model"]["sizes"]
    found = opened(_written(tmp_path, record), TrainingSettings()).recipe
    median = followed.median
    step = {"train": median.hybrid.to_json(), "training": {"learning_rate": 0.01}, "epochs": 2, "seed": median.seed}
    assert found.to_json() == [step]
    record["recipe"] = [{"train": 3}]
    # It is measured all the same: nothing is measured by its recipe.
    with pytest.raises(AutopeftError, match=r"hybrid\.json: recipe, step 1: "):
        opened(_written(tmp_path, record), TrainingSettings())
    (tmp_path / "adapter_config.json").write_bytes((followed.folder / "adapter_config.json").read_bytes())
    weights = "adapter_model.safetensors"
    (tmp_path / weights).write_bytes((followed.folder / weights).read_bytes())
    assert evaluate(tmp_path)["test_accuracy"] == pytest.approx(median.metrics["test_accuracy"])


def test_settings_come_from_the_experiment_and_what_differs_is_said(followed: TrainResult) -> None:
    assert followed.folder is not None
    given = TrainingSettings(
        head="drawn", method_rates="shared", epochs=9, batch_size=8, max_length=16, learning_rate=0.5
    )
    found = opened(followed.folder, given)
    training = found.training(given)
    assert (training.epochs, training.learning_rate, training.batch_size) == (2, SETTINGS.learning_rate, 8)
    assert found.remark(training) == "the recipe was found with other settings: batch_size 16 there, 8 here"
    assert found.remark(SETTINGS) is None
    assert opened(SMALL, given).training(given) == given


def _of(recipe: Any) -> Callable[[dict[str, Any], Path], Any]:
    return lambda record, folder: recipe


def _other_sizes(record: dict[str, Any], folder: Path) -> Path:
    record["model"]["sizes"] |= {"hidden": 64, "ffn": 96}
    return _written(folder, record)


def _no_recipe(record: dict[str, Any], folder: Path) -> Path:
    (folder / "list.json").write_text("{}")
    return folder / "list.json"


MISTAKES: dict[str, tuple[Callable[[dict[str, Any], Path], Any], dict[str, Any], str]] = {
    "no such file": (_of("nowhere"), {}, "nowhere: no recipe here .there is no such file"),
    "no export": (lambda record, folder: folder, {}, r"it has no hybrid\.json"),
    "something else": (_no_recipe, {}, r"list\.json: neither what an export says"),
    "no path": (_of(3), {}, "expected a path, a hybrid or a recipe, not 3"),
    "other sizes": (_other_sizes, {}, "hidden 64 there, 32 here; ffn 96 there, 48 here"),
    "other layers": (_of(Hybrid.uniform(2, LORA(1))), {}, "other sizes than .*layers 2 there, 3 here"),
    "no seeds": (_of(SMALL), {"seeds": 0}, "seeds: expected a whole number from 1 to 100, not 0"),
    "no seed": (_of(SMALL), {"seed": 2**32}, "seed: expected a whole number"),
    "far too large": (_of(Hybrid.uniform(3, LORA(65_536))), {}, "parameters on a model of"),
    "phases": (_of(Hybrid.uniform(3, METHODS.get("lt_sft")(4))), {"epochs": 1}, "2 phases and 1 epoch"),
    "a rate": (_of(Candidate(SMALL, {"lr": 1.0})), {}, "unknown key 'lr'"),
    "an unknown field": (_of(SMALL), {"trails": 3}, "train: trails: unknown key"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str, followed: TrainResult, fields: dict[str, Any], tmp_path: Path) -> None:
    make, changes, said = MISTAKES[mistake]
    assert followed.folder is not None
    record = json.loads((followed.folder / "hybrid.json").read_text())
    training = {**fields["training"], "epochs": changes.pop("epochs", 2)}
    with pytest.raises(AutopeftError, match=said) as caught:
        train(make(record, tmp_path), quiet=True, **{**fields, "training": training, **changes})
    assert "\n" not in str(caught.value)


def test_a_folder_of_something_else_is_not_written_to(fields: dict[str, Any], project: Path, tmp_path: Path) -> None:
    with pytest.raises(AutopeftError, match="is the folder of a model"):
        train(SMALL, out=project / "model", quiet=True, **fields)
    (tmp_path / "file").write_text("")
    with pytest.raises(AutopeftError, match="cannot be written"):
        train(SMALL, out=tmp_path / "file", quiet=True, **fields)
