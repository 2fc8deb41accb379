"""The sampler that proposes what it is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from autopeft.anatomy import ModelShape
from autopeft.budget import Budget
from autopeft.candidate import Candidate, Job
from autopeft.config import dump_yaml
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.hybrid import Hybrid
from autopeft.methods import LoRA
from autopeft.searching.budgeted import BudgetedSampler
from autopeft.searching.objective import Objective
from autopeft.searching.samplers import sampler_from
from autopeft.searching.study import Study
from autopeft.space import SearchSpace

SITES = dict.fromkeys("qkvo", (64, 64)) | {"up": (64, 256), "down": (256, 64)}
TINY = ModelShape("bert", 2, 64, 256, 2, 2, 32, SITES, 100_000)
RAW = {"blocks": {"lora": {"rank": [0, 2, 4, 8]}}, "training": {"learning_rate": {"low": 1e-4, "high": 1e-2}}}
SPACE = SearchSpace.load(RAW, TINY)
POINTS = [SPACE.random_point(np.random.default_rng(i)) for i in range(5)]


def asked(points: Any, trials: int, budget: Budget | None = None) -> list[optuna.Trial]:
    sampler = BudgetedSampler.for_space(SPACE, budget or Budget(), {"name": "given", "points": points})
    study = optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])
    trials_asked = [study.ask() for _ in range(trials)]
    for trial in trials_asked:
        SPACE.suggest(trial)
    return trials_asked


def test_the_points_come_in_their_order_and_unchanged() -> None:
    trials = asked(POINTS, 5)
    assert [t.params for t in trials] == POINTS
    assert not any(t.study.trials[t.number].user_attrs["repaired"] for t in trials)


def test_what_no_sampler_has_proposed_takes_no_point(tmp_path: Path) -> None:
    objectives, given = (Objective.of("accuracy"), Objective.of("trainable_params")), {"name": "given"}
    study = Study.open(tmp_path, SPACE, Budget(), objectives, {**given, "points": POINTS[:1]})
    study.propose(Job(Candidate(Hybrid.uniform(2, LoRA(3)), {"learning_rate": 1e-3})))
    assert study.ask().candidate == SPACE.decode(POINTS[0])


def test_a_point_over_the_budget_is_repaired() -> None:
    large = {d.name: 3 for d in SPACE.structure} | {"learning_rate": 1e-3}
    budget = Budget({"trainable_params": 1500})
    (trial,) = asked([large], 1, budget)
    assert budget.fits(SPACE.decode(trial.params).hybrid, TINY)
    assert trial.study.trials[0].user_attrs["repaired"]


def test_a_file_is_the_same_as_its_points(tmp_path: Path) -> None:
    path = tmp_path / "points.json"
    path.write_text(json.dumps(POINTS))
    read = sampler_from({"name": "given", "file": str(path)})
    assert read == sampler_from({"name": "given", "points": POINTS})
    # As the study keeps it.
    assert sampler_from({"name": "given", **read.model_dump()}) == read


def test_a_file_beside_the_experiment_is_found_and_a_run_folder_does_not_need_it(tmp_path: Path) -> None:
    points = tmp_path / "points.json"
    points.write_text(json.dumps(POINTS))
    written = tmp_path / "mine.yaml"
    sampler = {"name": "given", "file": "points.json"}
    written.write_text(
        dump_yaml({"name": "x", "model": "minilm", "task": "docstrings", "sampler": sampler, "trials": 5})
    )
    experiment = Experiment.load(written)
    points.unlink()
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(dump_yaml(experiment.resolved()))
    assert Experiment.load(resolved).sampler == experiment.sampler == sampler_from({"name": "given", "points": POINTS})


def complaint(options: dict[str, Any]) -> str:
    with pytest.raises(AutopeftError) as error:
        sampler_from({"name": "given", **options})
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_no_list_of_points_is_refused(tmp_path: Path) -> None:
    assert "sampler: give the points" in complaint({})
    assert "not both" in complaint({"file": "points.json", "points": POINTS})
    assert f"{tmp_path}/none.json: cannot be read (No such file" in complaint({"file": f"{tmp_path}/none.json"})
    path = tmp_path / "points.json"
    for text, said in (
        ("{", "not valid JSON"),
        ("[]", "expected a list"),
        ("[1]", "expected a list"),
        ("{}", "expected a list"),
    ):
        path.write_text(text)
        assert f"sampler: file: {path}: {said}" in complaint({"file": str(path)})
    path.write_text('[{"L00.lora.rank": "two"}]')
    assert "sampler: points.0.L00.lora.rank" in complaint({"file": str(path)})


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ({"L00.lora.rnk": 1}, "point 1: unknown dimension 'L00.lora.rnk'; did you mean 'L00.lora.rank'"),
        ({"learning_rate": 1e-3, "L00.lora.rank": 1}, "point 1: dimension 'L01.lora.rank' is missing"),
        ({**POINTS[0], "L00.lora.rank": 4}, "point 1: L00.lora.rank = 4 is outside its domain"),
        ({**POINTS[0], "L00.lora.rank": 1.5}, "point 1: L00.lora.rank = 1.5 is outside its domain"),
        ({**POINTS[0], "learning_rate": 1.0}, "point 1: learning_rate = 1.0 is outside its domain"),
    ],
)
def test_a_wrong_point_is_refused_at_the_first_proposal(last: dict[str, Any], message: str) -> None:
    with pytest.raises(AutopeftError) as error:
        asked([POINTS[0], last], 1)
    assert message in str(error.value)


def test_too_few_points() -> None:
    with pytest.raises(AutopeftError, match="trial 5 has no point, as there are 5; set trials to at most 5"):
        asked(POINTS, 6)
